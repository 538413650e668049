"""All-reduce: every node of a collective ends with the same sum, or weighted mean, of everybody's tensors.

Exact as far as it can be, and the same whatever the network does (DESIGN, decision 13). Floating point is added in
float64 and cast once. What travels before the sum is whole is therefore 8 bytes an element, but for the first hop,
which carries a tensor as it is: round a ring of 8 an all-reduce of float32 moves 1.43 times (both ways: 1.36 times)
the bytes of one that rounds at every hop. Integers are added in their own type, and wrap as numpy's do. The order of
additions follows from the membership and the ways alone: not from who is first, nor from the size of sub-chunks.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.collective.gather import all_gather, spans
from testbed.collective.journeys import BOTH_WAYS, Journey, Ways
from testbed.collective.membership import Membership
from testbed.collective.neighbours import SUB_CHUNK_BYTES, Errands, Neighbours
from testbed.errors import BugError, IntegrityError

Tensor = NDArray[Any]

SMALL_BYTES = 64 * 1024
"""Tensors below this are gathered and added in node order (DESIGN, decision 13): half as many hops, and no rounding
that depends on the shape of the ring."""

SEAL_BYTES = 4
"""Before each message, and between neighbours alone: a checksum of what the sender takes the tensor and the collective
to be."""

_ALLOWED = "signed and unsigned integers and float16, float32, float64"


@dataclass(frozen=True)
class Arithmetic:
    """How tensors of one dtype are added: ``item`` is the dtype itself, ``partial`` that of sums under way; both as
    they are on the wire (little-endian)."""

    item: np.dtype[Any]
    partial: np.dtype[Any]


def arithmetic(dtype: np.dtype[Any]) -> Arithmetic:
    """Raises IntegrityError for what cannot be added exactly here."""
    item = dtype.newbyteorder("<")
    wide = {"f": np.dtype("<f8"), "i": item, "u": item}.get(dtype.kind)
    if wide is None or dtype.itemsize > wide.itemsize:
        hint = "; bfloat16 is bits to numpy: cast it to float32 first" if dtype.kind == "V" else ""
        raise IntegrityError(f"a tensor cannot be reduced\n  found:   {dtype}\n  allowed: {_ALLOWED}{hint}")
    return Arithmetic(item, wide)


async def all_reduce(
    neighbours: Neighbours,
    membership: Membership,
    tag: str,
    tensor: Tensor,
    *,
    ways: Ways = BOTH_WAYS,
    sub_chunk_bytes: int = SUB_CHUNK_BYTES,
) -> Tensor:
    """The sum of everybody's tensors, as a new array of the same shape and dtype; identical bytes at every member.

    Every member calls this with the same membership, tag, shape, dtype, ways and sub-chunk size. It returns when the
    sum is here and all that was passed on is durable at the neighbours. A tensor below :data:`SMALL_BYTES` is gathered.
    Raises IntegrityError for a dtype that is not supported, for values that are not finite (in the tensor or in the
    sum), and when a neighbour takes part with another shape, dtype or membership.
    """
    sums = Sum(membership, tensor)
    return await _reduced(neighbours, sums, tag, tensor, ways, sub_chunk_bytes)


async def weighted_mean(
    neighbours: Neighbours,
    membership: Membership,
    tag: str,
    tensor: Tensor,
    weights: Mapping[str, float],
    *,
    ways: Ways = BOTH_WAYS,
    sub_chunk_bytes: int = SUB_CHUNK_BYTES,
) -> Tensor:
    """The mean of everybody's tensors by weight (such as samples trained on), cast once; otherwise as
    :func:`all_reduce`.

    Every member knows all ``weights``, each above 0 and finite. Below :data:`SMALL_BYTES` the result is, bit for bit,
    that of ``testbed.learning.aggregate.weighted_mean``. Raises IntegrityError for integers: a mean of them is none.
    """
    mean = WeightedMean(membership, tensor, weights)
    return await _reduced(neighbours, mean, tag, tensor, ways, sub_chunk_bytes)


async def _reduced(
    neighbours: Neighbours, total: Sum, tag: str, tensor: Tensor, ways: Ways, sub_chunk_bytes: int
) -> Tensor:
    total.check(neighbours.name, tensor, "its tensor")
    if neighbours.name not in total.membership.members:
        raise BugError(f"{neighbours.name} is not in the {total.membership}")
    by = _by_gathering if tensor.nbytes < SMALL_BYTES else round_the_ring
    results: list[Tensor] = []

    async def reduce() -> None:
        results.append(await by(neighbours, total, tag, tensor, ways, sub_chunk_bytes))

    async with Errands() as errands:
        # Who gathers and who goes round the ring wait for different messages: without this, for ever.
        for peer in total.membership.beside(neighbours.name):
            errands.start(neighbours.send(peer, f"{tag}.seal", 0, total.seal))
            errands.start(_agree(neighbours, total, peer, tag))
        errands.start(reduce())
    (result,) = results
    total.check(neighbours.name, result, "the result")
    return result


async def _agree(neighbours: Neighbours, total: Sum, peer: str, tag: str) -> None:
    """A neighbour's word on what it takes the tensor and the collective to be."""
    _unseal(total.seal, peer, tag, await neighbours.receive(peer, f"{tag}.seal", 0))


class Sum:
    """What is done with the tensors of a membership: added up."""

    def __init__(self, membership: Membership, tensor: Tensor) -> None:
        self.membership = membership
        self.arithmetic = arithmetic(tensor.dtype)
        self.seal = self._seal(tensor)

    def _seal(self, tensor: Tensor, *more: object) -> bytes:
        what = (self.arithmetic.item.str, tensor.shape, self.membership.members, self.membership.closed, *more)
        return zlib.crc32(repr(what).encode()).to_bytes(SEAL_BYTES, "little")

    @property
    def first(self) -> np.dtype[Any]:
        """What a first contribution travels as."""
        return self.arithmetic.item

    def opening(self, name: str, own: Tensor) -> Tensor:
        """A first contribution, of dtype ``first``."""
        return own.astype(self.first)

    def contribution(self, name: str, own: Tensor) -> Tensor:
        """A member's share of the sum, of dtype ``partial``."""
        return own.astype(self.arithmetic.partial)

    def add(self, partial: Tensor, contribution: Tensor) -> Tensor:
        """Both of dtype ``partial``."""
        with np.errstate(over="ignore"):  # infinity is refused at the end, by everybody alike
            return np.asarray(partial + contribution)

    def finish(self, total: Tensor) -> Tensor:
        """The result of a whole sum, of dtype ``item``: the one rounding."""
        with np.errstate(over="ignore"):  # what the dtype cannot hold is infinity, and refused as such
            return total.astype(self.arithmetic.item)

    def check(self, name: str, tensor: Tensor, what: str) -> None:
        """Refuse what is not finite."""
        if tensor.dtype.kind == "f" and not bool(np.isfinite(tensor).all()):
            raise IntegrityError(f"{name}: {what} ({tensor.dtype} {tensor.shape}) holds values that are not finite")


class WeightedMean(Sum):
    """Multiplied by weight, added up, divided by the sum of weights."""

    def __init__(self, membership: Membership, tensor: Tensor, weights: Mapping[str, float]) -> None:
        if tensor.dtype.kind != "f":
            raise IntegrityError(f"a tensor cannot be averaged\n  found:   {tensor.dtype}\n  allowed: floating point")
        for name in membership.members:
            if not (name in weights and math.isfinite(weights[name]) and weights[name] > 0):
                raise IntegrityError(f"{name}: weight {weights.get(name)}, must be above 0 and finite")
        self._weights = {name: float(weights[name]) for name in membership.members}
        self._total = math.fsum(self._weights.values())
        super().__init__(membership, tensor)

    def _seal(self, tensor: Tensor, *more: object) -> bytes:
        return super()._seal(tensor, *self._weights.values(), *more)

    @property
    def first(self) -> np.dtype[Any]:
        return self.arithmetic.partial  # a product has more digits than the tensor

    def opening(self, name: str, own: Tensor) -> Tensor:
        return self.contribution(name, own)

    def contribution(self, name: str, own: Tensor) -> Tensor:
        with np.errstate(over="ignore"):
            return np.asarray(super().contribution(name, own) * self._weights[name])

    def finish(self, total: Tensor) -> Tensor:
        return super().finish(total / self._total)


async def _by_gathering(
    neighbours: Neighbours, total: Sum, tag: str, tensor: Tensor, ways: Ways, sub_chunk_bytes: int
) -> Tensor:
    """Everybody's tensor to everybody, and then the sum in the order of names."""
    item = total.arithmetic.item
    block = total.seal + tensor.astype(item).tobytes()
    sizes = dict.fromkeys(total.membership.members, len(block))
    blocks = await all_gather(
        neighbours, total.membership, tag, block, sizes, ways=ways, sub_chunk_bytes=sub_chunk_bytes
    )
    result = np.zeros(tensor.size, total.arithmetic.partial)
    for name in sorted(blocks):
        _unseal(total.seal, name, tag, blocks[name])
        result = total.add(result, total.contribution(name, np.frombuffer(blocks[name], item, offset=SEAL_BYTES)))
    return total.finish(result).astype(tensor.dtype, copy=False).reshape(tensor.shape)


async def round_the_ring(
    neighbours: Neighbours, total: Sum, tag: str, tensor: Tensor, ways: Ways, sub_chunk_bytes: int
) -> Tensor:
    """Reduce-scatter and all-gather, of a tensor of any size: also of one shorter than the ring."""
    if neighbours.name not in total.membership.members:
        raise BugError(f"{neighbours.name} is not in the {total.membership}")
    own = tensor.reshape(-1)
    result = np.empty(tensor.size, total.arithmetic.item)
    async with Errands() as errands:
        cut = parts(total.membership, total.arithmetic, own.size, ways, sub_chunk_bytes)
        for index, (journey, start, end) in enumerate(cut):
            work = _Part(neighbours, errands, total, tag, index, journey)
            errands.start(work.done(own[start:end], result[start:end]))
    return result.astype(tensor.dtype, copy=False).reshape(tensor.shape)


def parts(
    membership: Membership, how: Arithmetic, count: int, ways: Ways, sub_chunk_bytes: int
) -> list[tuple[Journey, int, int]]:
    """What a tensor of ``count`` elements is cut into: journeys, and which elements [start, end) travel on each.

    A sub-chunk has at most ``sub_chunk_bytes`` while it is a partial sum.
    """
    step = max(1, sub_chunk_bytes // how.partial.itemsize)
    journeys = ways.reduce(membership)
    edges = [count * i // len(journeys) for i in range(len(journeys) + 1)]
    return [
        (journey, start + a, start + b)
        for journey, start, end in zip(journeys, edges, edges[1:], strict=False)
        for a, b in spans(end - start, step)
    ]


class _Part:
    """One sub-chunk's journey, as one node does its share of it."""

    def __init__(
        self, neighbours: Neighbours, errands: Errands, total: Sum, tag: str, index: int, journey: Journey
    ) -> None:
        self._neighbours = neighbours
        self._errands = errands
        self._total = total
        self._tag = tag
        self._index = index
        self._journey = journey

    async def done(self, own: Tensor, result: Tensor) -> None:
        """Take part; ``result`` is written to."""
        me, journey = self._neighbours.name, self._journey
        if me == journey.root:
            total = self._total.contribution(me, own)
            for path in journey.inward:
                total = self._total.add(await self._partial(path, len(path) - 1, own.size), total)
            result[:] = self._total.finish(total)
        else:
            await self._inwards(next(path for path in journey.inward if me in path), own)
            path = next(path for path in journey.outward if me in path)
            before = path[path.index(me) - 1]
            result[:] = await self._receive(before, "whole", self._total.arithmetic.item, own.size)
        for path in journey.outward:
            here = path.index(me) if me in path else len(path)
            if here + 1 < len(path):
                self._send(path[here + 1], "whole", result)

    async def _inwards(self, path: tuple[str, ...], own: Tensor) -> None:
        """Add the own share to what comes from the nodes before, and pass the sum on."""
        me, here = self._neighbours.name, path.index(self._neighbours.name)
        if here:
            total = self._total.add(await self._partial(path, here, own.size), self._total.contribution(me, own))
        else:
            total = self._total.opening(me, own)
        self._send(path[here + 1], "part", total)

    async def _partial(self, path: tuple[str, ...], here: int, count: int) -> Tensor:
        """What the nodes of a path before the ``here``-th add up to."""
        dtype = self._total.first if here == 1 else self._total.arithmetic.partial
        partial = await self._receive(path[here - 1], "part", dtype, count)
        return partial.astype(self._total.arithmetic.partial)

    def _send(self, peer: str, phase: str, values: Tensor) -> None:
        payload = self._total.seal + values.tobytes()
        self._errands.start(self._neighbours.send(peer, f"{self._tag}.{phase}", self._index, payload))

    async def _receive(self, peer: str, phase: str, dtype: np.dtype[Any], count: int) -> Tensor:
        payload = await self._neighbours.receive(peer, f"{self._tag}.{phase}", self._index)
        _unseal(self._total.seal, peer, self._tag, payload)
        if len(payload) != SEAL_BYTES + count * dtype.itemsize:
            raise IntegrityError(f"{peer} sent {len(payload)} bytes of {self._tag!r}, not {count} of {dtype}")
        return np.frombuffer(payload, dtype, offset=SEAL_BYTES)


def _unseal(seal: bytes, peer: str, tag: str, payload: bytes) -> None:
    if payload[:SEAL_BYTES] != seal:
        raise IntegrityError(f"{peer} reduces {tag!r} with another dtype, shape, weight or membership")
