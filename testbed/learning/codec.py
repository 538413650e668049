"""How tensors are rounded and laid out for the link.

A codec is part of the experiment, not of the transport: whatever a codec loses, both the satellites and the ground
compute with what is left, on board as over the link (``round_trip``).

Everything is little-endian and row-major. ``int8`` rounds each token (a row of the last axis) by a scale of its own:
first all scales, fp32, in the order of the tokens, then all values, int8. The scale is the largest magnitude of the
token over 127, rounded up to 16 significant bits, so that every product of a scale and a value is exact in fp32:
what was decoded is encoded to the same bytes again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from testbed.errors import IntegrityError, ScenarioError
from testbed.learning.codec_sizes import CODEC_SIZES, FIELD, encoded_bytes

__all__ = ["CODECS", "CodecError", "decode", "encode", "encoded_bytes", "find_codec", "round_trip"]

_LEVELS = np.float32(127)
_LOW_BITS = 0xFF
"""Cleared in a scale, whose 16 significant bits times the 7 of the largest value are exact in 24."""
_LEAST_SCALE = np.float32((_LOW_BITS + 1) * 2.0**-149)
"""The smallest scale above 0: those bits are the lowest of a subnormal fp32."""
_BLOCK_VALUES = 131_072
"""Rounded at a time: 0.5 MiB, which stays in a core's cache. Against the whole at once, a quarter less time for
ViT-B/16's 8 x 197 x 768 values."""


@dataclass(frozen=True)
class Codec:
    """One way to write float32 values: ``pack`` and ``unpack`` are each other's inverse but for rounding. ``unpack``
    is told the shape, of at least one value, for which the length is right."""

    pack: Callable[[Tensor], bytes]
    unpack: Callable[[bytes, Sequence[int]], Tensor]


def _pack_bf16(values: Tensor) -> bytes:
    # torch rounds to nearest, ties to even (IEEE 754's default, the rule of bfloat16 hardware).
    return values.to(torch.bfloat16).contiguous().view(torch.int16).numpy().astype("<i2", copy=False).tobytes()


def _unpack_bf16(data: bytes, shape: Sequence[int]) -> Tensor:
    # bfloat16 is the upper half of a float32.
    return torch.from_numpy((np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32))


def _pack_fp16(values: Tensor) -> bytes:
    halves = values.to(torch.float16)
    _check_finite(halves, values, "fp16", "finite values below 65520, the largest that fp16 rounds to; bf16 has more")
    return halves.contiguous().numpy().astype("<f2", copy=False).tobytes()


def _unpack_fp16(data: bytes, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype="<f2").astype(np.float32))


def _pack_fp32(values: Tensor) -> bytes:
    return values.contiguous().numpy().astype("<f4", copy=False).tobytes()


def _unpack_fp32(data: bytes, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))


def _pack_int8(values: Tensor) -> bytes:
    if not values.numel():
        return b""
    tokens = values.reshape(math.prod(values.shape[:-1]), -1)
    count, width = tokens.shape
    per_block = max(1, _BLOCK_VALUES // width)
    # numpy's arrays: torch fills what it allocates where its algorithms are deterministic, and takes three times as
    # long for what is as small as the scales of a block.
    work = torch.from_numpy(np.empty((min(per_block, count), width), np.float32))
    largest = np.empty((count, 1), np.float32)
    levels = np.empty((count, width), np.int8)
    for first in range(0, count, per_block):
        part = slice(first, first + per_block)
        block = tokens[part]
        rounded = work[: len(block)]
        torch.amax(torch.abs(block, out=rounded), dim=1, keepdim=True, out=torch.from_numpy(largest[part]))
        # A token with scale 0 keeps its zeros: nothing in it is above half of the least scale.
        divisors = torch.from_numpy(np.maximum(_scales(largest[part]), _LEAST_SCALE))
        # To nearest, ties to even.
        torch.from_numpy(levels[part]).copy_(torch.div(block, divisors, out=rounded).round_())
    largests = torch.from_numpy(largest)  # a NaN of a token is its largest
    _check_finite(largests, largests, "int8", "finite values")
    return b"".join((_scales(largest).astype("<f4", copy=False).data, levels.data))


def _scales(largest: np.ndarray) -> np.ndarray:
    """Of tokens by their largest magnitudes, fp32."""
    scales: np.ndarray = largest / _LEVELS
    bits = scales.view(np.int32)
    bits += _LOW_BITS
    bits &= ~_LOW_BITS
    return scales


def _unpack_int8(data: bytes, shape: Sequence[int]) -> Tensor:
    count = math.prod(shape[:-1])
    scales = torch.from_numpy(np.frombuffer(data, dtype="<f4", count=count).astype(np.float32))
    values = np.frombuffer(data, dtype=np.int8, offset=scales.nbytes).astype(np.float32)
    return torch.from_numpy(values).reshape(count, -1).mul_(scales.unsqueeze(1))


def _check_finite(made: Tensor, values: Tensor, codec: str, allowed: str) -> None:
    if bool(torch.isfinite(made).all()):
        return
    worst = values.abs().amax().item()  # infinity or NaN where one is among them
    raise ScenarioError(
        f"{codec} cannot hold the tensor", field=FIELD, found=f"a magnitude of {worst:g}", allowed=allowed
    )


CODECS: Mapping[str, Codec] = {
    "bf16": Codec(_pack_bf16, _unpack_bf16),
    "fp16": Codec(_pack_fp16, _unpack_fp16),
    "fp32": Codec(_pack_fp32, _unpack_fp32),
    "int8": Codec(_pack_int8, _unpack_int8),
}
"""Every codec by the name a scenario gives it. fp32 and bf16 carry infinities and NaN; fp16, whose range ends at 65504,
and int8, which has no such values, refuse them, and fp16 what it would round to infinity."""


def find_codec(name: str) -> Codec:
    """The codec called ``name``; ScenarioError (field learning.codec) if there is none."""
    try:
        return CODECS[name]
    except KeyError:
        raise ScenarioError("unknown codec", field=FIELD, found=name, allowed=", ".join(sorted(CODEC_SIZES))) from None


def encode(tensor: Tensor, codec: str) -> bytes:
    """``tensor`` (any shape, float32) as bytes. TypeError for another dtype: rounding twice must not go unseen.
    ScenarioError (field learning.codec) for values that the codec refuses."""
    if tensor.dtype != torch.float32:
        raise TypeError(f"codecs take float32, not {tensor.dtype}")
    return find_codec(codec).pack(tensor.detach())


def decode(data: bytes | bytearray | memoryview, shape: Sequence[int], codec: str) -> Tensor:
    """A new float32 tensor of ``shape``; IntegrityError if ``data`` is not as long as the shape says."""
    expected = encoded_bytes(shape, codec)
    if len(data) != expected:
        raise IntegrityError(f"{codec} tensor of shape {tuple(shape)} takes {expected} bytes, {len(data)} arrived")
    if not expected:
        return torch.zeros(tuple(shape))
    return find_codec(codec).unpack(bytes(data), shape).reshape(tuple(shape))


def round_trip(tensor: Tensor, codec: str) -> Tensor:
    """What the other end of the link would hold of ``tensor``."""
    return decode(encode(tensor, codec), tensor.shape, codec)


@dataclass(frozen=True)
class CodecError:
    """By how much decoded tensors were off: sums, so that those of several tensors add up."""

    values: int = 0
    max_abs: float = 0.0
    squared_error: float = 0.0
    squared_value: float = 0.0

    @classmethod
    def between(cls, exact: Tensor, decoded: Tensor) -> CodecError:
        """Of one float32 tensor. Tokens are summed in fp32, their sums in fp64: a third of the time of all in fp64,
        which a satellite would spend in every round, and off by 1e-8."""
        if not exact.numel():
            return cls()
        error = exact.detach() - decoded
        squares = [one.square().sum(dim=-1).sum(dtype=torch.float64).item() for one in (error, exact.detach())]
        return cls(exact.numel(), error.abs().amax().item(), *squares)

    @classmethod
    def total(cls, parts: Iterable[CodecError]) -> CodecError:
        """Of several, in their order."""
        listed = list(parts)
        return cls(
            sum(part.values for part in listed),
            max((part.max_abs for part in listed), default=0.0),
            math.fsum(part.squared_error for part in listed),
            math.fsum(part.squared_value for part in listed),
        )

    @property
    def relative_rms(self) -> float:
        """Root mean square of the error over that of the values; 0 where there is nothing."""
        return math.sqrt(self.squared_error / self.squared_value) if self.squared_value else 0.0

    def to_dict(self) -> dict[str, float]:
        """For a report: the fields."""
        return asdict(self)
