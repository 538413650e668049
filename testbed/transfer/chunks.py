"""Chunks: the identified, resumable pieces that every bulk tensor travels in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from testbed.errors import IntegrityError

TENSOR_TAGS = frozenset(
    {"embedding", "feature", "feature-gradient", "head", "head-gradient", "adapter", "sample", "probe"}
)
"""The only tensors that may leave a node on its data address (DESIGN, decision 22). A ``sample`` is pixels and label,
and leaves under strategies alone that declare it."""


@dataclass(frozen=True, order=True)
class ChunkId:
    """Who made a chunk, and which piece of what it is. The content's digest is integrity only, never identity."""

    run: str
    round: int
    phase: str
    origin: str
    tensor: str
    index: int

    def __post_init__(self) -> None:
        if self.tensor not in TENSOR_TAGS:
            raise IntegrityError(f"tensor tag {self.tensor!r} may not leave a node; allowed: {sorted(TENSOR_TAGS)}")

    def __str__(self) -> str:
        return f"{self.run}/{self.round}/{self.phase}/{self.origin}/{self.tensor}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> ChunkId:
        """The inverse of ``str``."""
        run, round_, phase, origin, tensor, index = text.split("/")
        return cls(run, int(round_), phase, origin, tensor, int(index))


@dataclass(frozen=True)
class Chunk:
    """A chunk under way.

    ``count`` is the number of chunks of its tensor; ``route`` the nodes still ahead, the destination last;
    ``keep`` says that every node on the route keeps a copy (ring collectives), not only the last. A hop to
    ``contact_peer`` is planned for a contact that ends at ``contact_end_s`` (mission time) and for no later one.
    Where chunks wait for one link those of the highest ``priority`` go first, all along the route.
    """

    id: ChunkId
    count: int
    route: tuple[str, ...]
    payload: bytes = field(repr=False)
    sha256: str
    keep: bool = False
    contact_peer: str = ""
    contact_end_s: float = 0.0
    priority: int = 0

    def onward(self) -> Chunk:
        """The same chunk with the first node of its route behind it."""
        return self._but(route=self.route[1:])

    def along(self, route: Sequence[str], keep: bool = False) -> Chunk:
        """The same content on another route."""
        return self._but(route=tuple(route), keep=keep)

    def within(self, peer: str, end_s: float) -> Chunk:
        """The same chunk, its hop to ``peer`` bound to the contact that ends at ``end_s``."""
        return self._but(contact_peer=peer, contact_end_s=end_s)

    def urgent(self, priority: int) -> Chunk:
        """The same chunk with another priority; a 32-bit number."""
        return self._but(priority=priority)

    def _but(self, **changes: Any) -> Chunk:
        return replace(self, **changes)

    @property
    def size_bytes(self) -> int:
        """Of the payload."""
        return len(self.payload)

    def loaded(self) -> Chunk:
        """The same chunk with its payload in memory, for as long as it is under way."""
        return self

    def until_s(self, peer: str) -> float:
        """Until when the hop to ``peer`` makes sense (mission time); infinity where no contact was planned for it."""
        return self.contact_end_s if peer == self.contact_peer else float("inf")

    def header(self) -> dict[str, Any]:
        """Everything but the payload, as JSON-able values."""
        return {
            "id": str(self.id),
            "count": self.count,
            "route": list(self.route),
            "keep": self.keep,
            "contact_peer": self.contact_peer,
            "contact_end_s": self.contact_end_s,
            "size": self.size_bytes,
            "sha256": self.sha256,
            "priority": self.priority,
        }

    @classmethod
    def from_header(cls, header: dict[str, Any], payload: bytes) -> Chunk:
        """The inverse of ``header``; the digest is checked by the spool before."""
        return cls(
            ChunkId.parse(header["id"]),
            int(header["count"]),
            tuple(header["route"]),
            payload,
            header["sha256"],
            bool(header["keep"]),
            header["contact_peer"],
            header["contact_end_s"],
            int(header["priority"]),
        )


def chunk_sizes(size: int, chunk_bytes: int) -> tuple[int, ...]:
    """Sizes of the chunks of a tensor of ``size`` bytes; an empty tensor is one empty chunk."""
    whole, rest = divmod(size, chunk_bytes)
    return (chunk_bytes,) * whole + ((rest,) if rest or not whole else ())


def _as_it_is(payload: bytes) -> bytes:
    return payload


def _payload(chunk: Chunk) -> bytes:
    return chunk.payload


def split(
    data: bytes,
    chunk_bytes: int,
    *,
    run: str,
    round: int,
    phase: str,
    origin: str,
    tensor: str,
    shrink: Callable[[bytes], bytes] = _as_it_is,
) -> list[Chunk]:
    """Cut a tensor's bytes into chunks without a route. ``shrink`` makes of each piece what crosses links."""
    sizes = chunk_sizes(len(data), chunk_bytes)
    chunks = []
    offset = 0
    for index, size in enumerate(sizes):
        payload = shrink(data[offset : offset + size])
        offset += size
        identity = ChunkId(run, round, phase, origin, tensor, index)
        chunks.append(Chunk(identity, len(sizes), (), payload, hashlib.sha256(payload).hexdigest()))
    return chunks


def join(chunks: Iterable[Chunk], restore: Callable[[Chunk], bytes] = _payload) -> bytes:
    """Put a tensor's chunks together; every index must be there exactly once. ``restore`` undoes what ``split``'s
    ``shrink`` did."""
    ordered = sorted(chunks, key=lambda chunk: chunk.id.index)
    if not ordered or [chunk.id.index for chunk in ordered] != list(range(ordered[0].count)):
        raise IntegrityError(f"tensor incomplete: {[chunk.id.index for chunk in ordered]}")
    return b"".join(restore(chunk) for chunk in ordered)
