"""The receiving end: whatever is repeated, cut or mixed up, a chunk is accepted once and whole, or never."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import IntegrityError
from testbed.transfer.chunks import Chunk, split
from testbed.transfer.spool import Spool


class _Inbox:
    def __init__(self, run: str = "r") -> None:
        self.accepted: list[tuple[str, Chunk]] = []
        self.spool = Spool(run, lambda peer, chunk: self.accepted.append((peer, chunk)))


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
