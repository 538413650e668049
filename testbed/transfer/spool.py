"""The receiving end of transfers: partial chunks that outlive a contact, and at most one accepted copy of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from testbed.errors import IntegrityError
from testbed.transfer.chunks import Chunk, ChunkId


class Spool:
    """Holds what has arrived of each chunk; shared by all links of one node.

    ``on_chunk`` is called once per accepted chunk, before the sender gets its acknowledgement, so that a chunk is
    never nobody's. Chunks of another run are refused.
    """

    def __init__(self, run: str, on_chunk: Callable[[str, Chunk], None]) -> None:
        self._run = run
        self._on_chunk = on_chunk
        self._accepted: set[ChunkId] = set()
        self._partial: dict[ChunkId, tuple[str, bytearray]] = {}

    def offer(self, header: dict[str, Any]) -> int:
        """The byte to go on from: 0 for a new chunk, the size for one already accepted."""
        identity = ChunkId.parse(header["id"])
        if identity.run != self._run:
            raise IntegrityError(f"chunk {identity} belongs to another run than {self._run}")
        if identity in self._accepted:
            return int(header["size"])
        digest, data = self._partial.setdefault(identity, (header["sha256"], bytearray()))
        if digest != header["sha256"]:
            raise IntegrityError(f"chunk {identity} offered with two different contents")
        return len(data)

    def write(self, peer: str, header: dict[str, Any], offset: int, data: bytes) -> bool:
        """Append bytes that continue what is held; True when the chunk is complete and accepted."""
        identity = ChunkId.parse(header["id"])
        if identity in self._accepted:
            return True
        _, held = self._partial[identity]
        if offset > len(held):
            raise IntegrityError(f"chunk {identity}: bytes from {offset} but only {len(held)} are held")
        held += data[len(held) - offset :]
        if len(held) < header["size"]:
            return False
        del self._partial[identity]
        payload = bytes(held)
        if len(payload) != header["size"] or hashlib.sha256(payload).hexdigest() != header["sha256"]:
            raise IntegrityError(f"chunk {identity} arrived damaged and was dropped")
        self._accepted.add(identity)
        self._on_chunk(peer, Chunk.from_header(header, payload))
        return True

    def forget(self, identity: ChunkId) -> None:
        """Take a chunk that was accepted once more: its node could not send it on and gave it back."""
        self._accepted.discard(identity)
