"""The receiving end: whatever is repeated, cut or mixed up, a chunk is accepted once and whole, or never."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import IntegrityError
from testbed.transfer.chunks import Chunk, split
from testbed.transfer.spool import Spool
from testbed.transfer.store import ChunkStore, NoRoom


class _Inbox:
    """A spool and what it accepted; ``keep`` says that the node still needs every chunk's copy."""

    def __init__(
        self,
        run: str = "r",
        store: ChunkStore | None = None,
        nodes: frozenset[str] | None = None,
        keep: bool = False,
    ) -> None:
        self.accepted: list[tuple[str, Chunk]] = []
        self._keep = keep
        self.spool = Spool(run, self._on_chunk, store, nodes)

    def _on_chunk(self, peer: str, chunk: Chunk) -> None:
        self.accepted.append((peer, chunk))
        if self._keep:
            self.spool.keep(chunk.id)


def _chunks(data: bytes, run: str = "r", chunk_bytes: int = 16) -> list[Chunk]:
    chunks = split(data, chunk_bytes, run=run, round=1, phase="gather", origin="a", tensor="embedding")
    return [chunk.along(("b", "c")) for chunk in chunks]


@given(st.binary(min_size=1, max_size=120), st.data())
def test_at_most_one_copy_whatever_is_repeated_cut_and_reordered(payload: bytes, data: st.DataObject) -> None:
    inbox, chunks = _Inbox(), _chunks(payload)
    for _ in range(data.draw(st.integers(0, 60))):
        chunk = data.draw(st.sampled_from(chunks))
        offset = inbox.spool.offer(chunk.header())
        length = data.draw(st.integers(0, len(chunk.payload) - offset))
        # A sender may also repeat bytes that are already held.
        again = data.draw(st.integers(0, offset))
        piece = chunk.payload[offset - again : offset + length]
        done = inbox.spool.write("peer", chunk.header(), offset - again, piece)
        assert done == (offset + length == len(chunk.payload))
        if not done:
            assert inbox.spool.offer(chunk.header()) == offset + length  # the next one goes on from this byte
    for chunk in chunks:  # and in the end everything is sent once more
        offset = inbox.spool.offer(chunk.header())
        assert inbox.spool.write("peer", chunk.header(), offset, chunk.payload[offset:])
    assert sorted((chunk for _, chunk in inbox.accepted), key=lambda chunk: chunk.id) == chunks
    assert all(peer == "peer" for peer, _ in inbox.accepted)


def test_an_empty_chunk_is_accepted() -> None:
    inbox, (chunk,) = _Inbox(), _chunks(b"")
    assert inbox.spool.offer(chunk.header()) == 0
    assert inbox.spool.write("a", chunk.header(), 0, b"")
    assert [chunk for _, chunk in inbox.accepted] == [chunk]


def test_a_chunk_of_another_run_is_refused() -> None:
    inbox = _Inbox()
    with pytest.raises(IntegrityError, match="another run"):
        inbox.spool.offer(_chunks(b"data", run="other")[0].header())
    assert inbox.accepted == []


def _changed(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**header, **changes}


def test_a_wrong_digest_is_refused_and_the_right_content_still_gets_through() -> None:
    inbox, (chunk,) = _Inbox(), _chunks(b"right")
    inbox.spool.offer(chunk.header())
    with pytest.raises(IntegrityError, match="damaged"):
        inbox.spool.write("a", chunk.header(), 0, b"wrong")
    assert inbox.accepted == []
    assert inbox.spool.offer(chunk.header()) == 0  # nothing of the damaged bytes is kept
    assert inbox.spool.write("a", chunk.header(), 0, b"right")
    assert len(inbox.accepted) == 1


def test_two_contents_under_one_name_are_refused() -> None:
    inbox, (one,), (other,) = _Inbox(), _chunks(b"first"), _chunks(b"other")
    inbox.spool.offer(one.header())
    inbox.spool.write("a", one.header(), 0, b"fi")
    with pytest.raises(IntegrityError, match="two different contents"):
        inbox.spool.offer(other.header())
    assert inbox.accepted == []


@pytest.mark.parametrize(("size", "data"), [(4, b"right"), (3, b"right")])
def test_more_bytes_than_announced_are_refused(size: int, data: bytes) -> None:
    inbox, (chunk,) = _Inbox(), _chunks(b"right")
    header = _changed(chunk.header(), size=size)
    inbox.spool.offer(header)
    with pytest.raises(IntegrityError, match="damaged"):
        inbox.spool.write("a", header, 0, data)
    assert inbox.accepted == []


def test_a_gap_is_refused() -> None:
    inbox, (chunk,) = _Inbox(), _chunks(b"right")
    inbox.spool.offer(chunk.header())
    inbox.spool.write("a", chunk.header(), 0, b"ri")
    with pytest.raises(IntegrityError, match="only 2 are held"):
        inbox.spool.write("a", chunk.header(), 3, b"ht")
    assert inbox.accepted == []


def test_truncated_bytes_are_never_accepted() -> None:
    inbox, (chunk,) = _Inbox(), _chunks(b"right")
    inbox.spool.offer(chunk.header())
    assert not inbox.spool.write("a", chunk.header(), 0, b"righ")
    assert inbox.accepted == []
    assert inbox.spool.offer(chunk.header()) == 4


# -- refusals -----------------------------------------------------------------------------------------------------


def test_refusals_are_counted_by_reason_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    inbox = _Inbox(store=ChunkStore("r", memory_bytes=5), nodes=frozenset({"a", "b", "c"}))
    (chunk,), (other,), (foreign,) = _chunks(b"right"), _chunks(b"other"), _chunks(b"data", run="x")
    stranger = {**chunk.header(), "id": str(chunk.id).replace("/a/", "/mallory/")}
    second = {**chunk.header(), "id": str(chunk.id).replace("/1/", "/2/")}

    def refused(reason: str, what: type[Exception], *attempt: Any) -> None:
        before = inbox.spool.refused.copy()
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="testbed.transfer.spool"), pytest.raises(what):
            (inbox.spool.offer if len(attempt) == 1 else inbox.spool.write)(*attempt)
        assert inbox.spool.refused - before == {reason: 1}
        assert len(caplog.records) == 1
        assert "/embedding/0" in caplog.text  # names the chunk

    refused("run", IntegrityError, foreign.header())
    refused("node", IntegrityError, stranger)
    refused("gap", IntegrityError, "a", chunk.header(), 0, b"right")  # never offered
    assert inbox.spool.offer(chunk.header()) == 0
    refused("node", IntegrityError, "mallory", chunk.header(), 0, b"right")
    refused("content", IntegrityError, other.header())
    refused("content", IntegrityError, "a", other.header(), 0, b"other")
    refused("gap", IntegrityError, "a", chunk.header(), 1, b"ight")
    refused("room", NoRoom, second)
    refused("damage", IntegrityError, "a", chunk.header(), 0, b"wrong")
    assert inbox.spool.offer(second) == 0  # what was damaged gave its room back
    refused("room", NoRoom, chunk.header())
    assert inbox.spool.write("a", second, 0, b"right")
    assert inbox.spool.offer(chunk.header()) == 0
    assert inbox.spool.write("a", chunk.header(), 0, b"right")
    refused("content", IntegrityError, other.header())  # also of a chunk that is through
    assert [str(chunk.id) for _, chunk in inbox.accepted] == [second["id"], str(chunk.id)]


# -- a new process over the same folder ---------------------------------------------------------------------------


def _disk(folder: Path) -> ChunkStore:
    return ChunkStore("r", memory_bytes=0, folder=folder)


def test_partials_resume_at_the_byte_and_accepted_stay_accepted(tmp_path: Path) -> None:
    one, two = _chunks(b"0123456789abcdef" + b"0123456789")
    store = _disk(tmp_path)
    first = _Inbox(store=store)
    for chunk, size in ((one, 16), (two, 7)):
        first.spool.offer(chunk.header())
        first.spool.write("p", chunk.header(), 0, chunk.payload[:size])
    store.close()
    store = _disk(tmp_path)
    second = _Inbox(store=store)
    assert second.spool.recover() == 0  # the first was through, the second is not whole
    assert second.spool.offer(one.header()) == 16
    assert second.spool.offer(two.header()) == 7
    assert second.spool.write("p", two.header(), 7, two.payload[7:])
    assert (first.accepted, second.accepted) == ([("p", one)], [("p", two)])
    store.close()


def test_kept_chunks_are_handed_over_again_until_they_are_done_with(tmp_path: Path) -> None:
    chunks = _chunks(bytes(range(40)))
    store = _disk(tmp_path)
    first = _Inbox(store=store, keep=True)
    for chunk in reversed(chunks):
        first.spool.offer(chunk.header())
        first.spool.write("p", chunk.header(), 0, chunk.payload)
    first.spool.done(chunks[0].id)
    store.close()
    store = _disk(tmp_path)
    second = _Inbox(store=store, keep=True)
    assert second.spool.recover() == 2
    assert second.accepted == [("p", chunk) for chunk in chunks[1:]]
    assert [second.spool.offer(chunk.header()) for chunk in chunks] == [16, 16, 8]
    assert second.spool.write("p", chunks[2].header(), 8, b"")  # accepted it is, and not once more
    assert len(second.accepted) == 2
    second.spool.forget(chunks[1].id)
    assert second.spool.offer(chunks[1].header()) == 0
    second.spool.done(chunks[2].id)
    second.spool.drop(before_round=2)
    assert store.disk_used_bytes == 0
    store.close()


def test_what_comes_of_a_round_that_is_over_is_through() -> None:
    inbox, (half, late) = _Inbox(), _chunks(b"0123456789abcdefghijklmn")
    inbox.spool.offer(half.header())
    assert not inbox.spool.write("p", half.header(), 0, half.payload[:7])
    inbox.spool.drop(before_round=2)
    assert inbox.spool.write("p", half.header(), 7, half.payload[7:])  # its sender had not heard of the next round
    assert inbox.spool.offer(late.header()) == len(late.payload)
    assert inbox.accepted == []
    assert not inbox.spool.refused


def test_a_route_that_changed_between_two_contacts_is_the_later_one(tmp_path: Path) -> None:
    (chunk,) = _chunks(b"0123456789")
    replanned = chunk.along(("b", "d")).within("b", 99.5)
    store = _disk(tmp_path)
    first = _Inbox(store=store, keep=True)
    first.spool.offer(chunk.header())
    first.spool.write("p", chunk.header(), 0, b"01234")
    assert first.spool.offer(replanned.header()) == 5
    first.spool.write("q", replanned.header(), 5, b"56789")
    store.close()
    store = _disk(tmp_path)
    second = _Inbox(store=store)
    assert second.spool.recover() == 1
    assert first.accepted == second.accepted == [("q", replanned)]
    store.close()


def test_an_accepted_chunk_that_the_disk_damaged_is_dropped_and_comes_again(tmp_path: Path) -> None:
    (chunk,) = _chunks(b"0123456789")
    store = _disk(tmp_path)
    first = _Inbox(store=store, keep=True)
    first.spool.offer(chunk.header())
    for at in range(0, 10, 5):
        first.spool.write("p", chunk.header(), at, chunk.payload[at : at + 5])
    store.close()
    (path,) = (tmp_path / "chunks").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store = _disk(tmp_path)
    second = _Inbox(store=store, keep=True)
    assert (second.spool.recover(), store.damaged) == (0, 1)
    assert second.spool.offer(chunk.header()) == 5  # its last good byte
    assert second.spool.write("p", chunk.header(), 5, b"56789")
    assert second.accepted == [("p", chunk)]
    store.close()


@given(st.integers(0, 2**32), st.integers(1, 300))
def test_a_chunk_that_is_through_gives_its_room_back(seed: int, room: int) -> None:
    store = ChunkStore("r", memory_bytes=room)
    inbox, chance = _Inbox(store=store), random.Random(seed)
    for chunk in _chunks(chance.randbytes(400)):
        try:
            inbox.spool.offer(chunk.header())
        except NoRoom:
            assert room < 16
        else:
            inbox.spool.write("a", chunk.header(), 0, chunk.payload)
        assert store.memory_used_bytes == 0  # each is through at once
    assert len(inbox.accepted) == (25 if room >= 16 else 0)
