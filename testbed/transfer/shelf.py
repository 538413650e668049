"""A node's chunks that lie in its store: what stays, and what waits, without its bytes in memory."""

from __future__ import annotations

import logging
from typing import Any

from testbed.errors import IntegrityError, RunError
from testbed.transfer.chunks import Chunk, ChunkId
from testbed.transfer.store import RESTING, ChunkStore, incoming, resting

_FIELDS = ("id", "count", "route", "sha256", "keep", "contact_peer", "contact_end_s", "priority")
_log = logging.getLogger(__name__)


class ChunkGone(RunError):
    """A chunk's round is over, and its bytes were dropped."""


class StoredChunk(Chunk):
    """A chunk whose payload lies in a store and is read, and checked, whenever it is asked for. A thousand that wait
    take no more memory than their headers.

    ``payload`` raises :class:`ChunkGone`, and IntegrityError where the disk lost bytes.
    """

    def __init__(self, chunk: Chunk, store: ChunkStore, key: str, **changes: Any) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, changes.get(name, getattr(chunk, name)))
        object.__setattr__(self, "store", store)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "_size_bytes", chunk.size_bytes)

    store: ChunkStore
    key: str
    _size_bytes: int

    @property
    def payload(self) -> bytes:
        if not self.store.whole(self.key):
            raise ChunkGone(f"chunk {self.id} was dropped with its round")
        return self.store.chunk(self.key).payload

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def loaded(self) -> Chunk:
        return Chunk(payload=self.payload, **{name: getattr(self, name) for name in _FIELDS})

    def _but(self, **changes: Any) -> Chunk:
        return StoredChunk(self, self.store, self.key, **changes)


class Shelf:
    """Chunks of one node that were made there, or that came and must be planned anew."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    def arrived(self, chunk: Chunk) -> Chunk:
        """A chunk that the spool has, and keeps: the same without its payload in memory."""
        return StoredChunk(chunk, self._store, incoming(chunk.id))

    def lay(self, chunk: Chunk) -> Chunk:
        """Store a chunk, until its round is over; the same without its payload in memory. Raises
        :class:`~store.NoRoom`."""
        key = resting(chunk.id)
        if self._store.held_bytes(key) is None:
            self._store.hold(key, chunk)
        return StoredChunk(chunk, self._store, key)

    def recover(self) -> list[Chunk]:
        """What a former process of this node laid here; what it had not finished writing goes."""
        found: list[Chunk] = []
        for key in self._store.held(RESTING):
            try:
                found.append(StoredChunk(self._store.chunk(key), self._store, key))
            except IntegrityError as error:
                _log.warning("dropped: %s", error)
                self._store.drop(key)
        return found

    def drop(self, before_round: int) -> None:
        """Give back the room of earlier rounds' chunks."""
        for key in self._store.held(RESTING):
            if ChunkId.parse(self._store.header(key)["id"]).round < before_round:
                self._store.drop(key)
