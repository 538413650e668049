"""Chunks that lie in a node's store: all that a chunk in memory is, without its bytes, and here after a kill."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from testbed.errors import IntegrityError
from testbed.transfer.chunks import Chunk, join, split
from testbed.transfer.shelf import ChunkGone, Shelf
from testbed.transfer.spool import Spool
from testbed.transfer.store import ChunkStore

SIZE_BYTES = 1 << 16


def _chunks(round: int, data: bytes) -> list[Chunk]:
    return split(data, SIZE_BYTES, run="r", round=round, phase="gather", origin="a", tensor="embedding")


def _store(folder: Path, recent_bytes: float = 0) -> ChunkStore:
    return ChunkStore("r", memory_bytes=0, folder=folder, recent_bytes=recent_bytes)


@pytest.mark.parametrize("recent_bytes", [0, SIZE_BYTES, 1e9])
def test_it_is_the_chunk_that_was_laid(tmp_path: Path, recent_bytes: float) -> None:
    chunks = _chunks(1, bytes(range(256)) * 700)
    shelf = Shelf(_store(tmp_path, recent_bytes))
    stored = [shelf.lay(chunk) for chunk in chunks]
    assert [chunk.loaded() for chunk in stored] == chunks
    assert join(stored) == join(chunks)
    for chunk, one in zip(chunks, stored, strict=True):
        assert (one.header(), one.size_bytes) == (chunk.header(), len(chunk.payload))
        changed = one.along(("b", "c"), keep=True).within("c", 9.5).urgent(3).onward()
        assert changed.loaded() == chunk.along(("b", "c"), keep=True).within("c", 9.5).urgent(3).onward()


def test_one_that_waits_has_no_bytes_in_memory(tmp_path: Path) -> None:
    (chunk,) = _chunks(1, bytes(SIZE_BYTES))
    waiting = Shelf(_store(tmp_path)).lay(chunk).along(("b",))
    held = [value for value in vars(waiting).values() if isinstance(value, (bytes, bytearray, memoryview))]
    assert held == []
    assert sys.getsizeof(waiting.payload) > SIZE_BYTES  # read when asked for


def test_memory_beside_the_folder_is_bounded(tmp_path: Path) -> None:
    store = _store(tmp_path, recent_bytes=2.5 * SIZE_BYTES)
    shelf = Shelf(store)
    stored = [shelf.lay(chunk) for chunk in _chunks(1, bytes(9 * SIZE_BYTES))]
    for path in (tmp_path / "chunks").iterdir():
        path.write_bytes(b"")  # the disk has nothing any more: what can be read is in memory
    alive = []
    for chunk in stored:
        try:
            alive.append(chunk.payload)
        except IntegrityError:
            continue
    assert len(alive) == 2


def test_the_next_process_finds_what_was_laid(tmp_path: Path) -> None:
    chunks = _chunks(1, bytes(range(200)) * 1000)
    store = _store(tmp_path)
    for chunk in chunks:
        Shelf(store).lay(chunk)
    store.close()
    last = sorted((tmp_path / "chunks").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-1])  # as a kill in the middle of a write leaves it
    found = Shelf(_store(tmp_path)).recover()
    assert len(found) == len(chunks) - 1
    assert {chunk.loaded() for chunk in found} < set(chunks)


def test_a_round_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    store = _store(tmp_path)
    shelf = Shelf(store)
    old, new = (shelf.lay(_chunks(round, b"x" * round)[0]) for round in (1, 2))
    shelf.drop(before_round=2)
    with pytest.raises(ChunkGone, match="dropped with its round"):
        _ = old.payload
    assert new.payload == b"xx"
    assert store.disk_used_bytes == 2


def test_what_the_spool_keeps_is_read_from_there_until_it_is_released(tmp_path: Path) -> None:
    (chunk,) = _chunks(1, b"0123456789")
    chunk = chunk.along(("b", "c"))
    store = _store(tmp_path)
    shelf = Shelf(store)
    here: list[Chunk] = []

    def keep(peer: str, arrived: Chunk) -> None:
        spool.keep(arrived.id)
        here.append(shelf.arrived(arrived))

    spool = Spool("r", keep, store)
    spool.offer(chunk.header())
    spool.write("a", chunk.header(), 0, chunk.payload)
    assert here[0].loaded() == chunk
    again = shelf.lay(here[0])  # to be planned anew: it stays, and may come once more by another route
    spool.forget(chunk.id)
    assert spool.offer(chunk.header()) == 0
    assert again.payload == chunk.payload
    with pytest.raises(ChunkGone):
        _ = here[0].payload
