"""Chunks: what is cut comes together again, and only tensors that may leave have a name."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import IntegrityError
from testbed.transfer.chunks import TENSOR_TAGS, Chunk, ChunkId, chunk_sizes, join, split


def _split(data: bytes, chunk_bytes: int) -> list[Chunk]:
    return split(data, chunk_bytes, run="r", round=3, phase="gather", origin="sat-0-1", tensor="embedding")


@given(st.binary(max_size=300), st.integers(1, 70), st.randoms(use_true_random=False))
def test_what_is_cut_comes_together_in_any_order(data: bytes, chunk_bytes: int, dice: random.Random) -> None:
    chunks = _split(data, chunk_bytes)
    assert [len(chunk.payload) for chunk in chunks] == list(chunk_sizes(len(data), chunk_bytes))
    assert all(len(chunk.payload) == chunk_bytes for chunk in chunks[:-1])
    assert all(hashlib.sha256(chunk.payload).hexdigest() == chunk.sha256 for chunk in chunks)
    dice.shuffle(chunks)
    assert join(chunks) == data


@given(st.integers(0, 10**7), st.integers(1, 10**5))
def test_sizes_add_up(size: int, chunk_bytes: int) -> None:
    sizes = chunk_sizes(size, chunk_bytes)
    assert sum(sizes) == size
    assert len(sizes) == max(1, -(-size // chunk_bytes))
    assert max(sizes) <= chunk_bytes


@pytest.mark.parametrize("wrong", [[], [0], [0, 1, 1], [0, 2], [0, 1, 2, 2]])
def test_a_tensor_with_a_piece_missing_or_twice_is_none(wrong: list[int]) -> None:
    chunks = _split(b"abcdefgh", 3)
    with pytest.raises(IntegrityError, match="incomplete"):
        join([chunks[index] for index in wrong])


@pytest.mark.parametrize("tensor", ["labels", "label", "pixels", "image", "", "Embedding"])
def test_what_may_not_leave_has_no_name(tensor: str) -> None:
    with pytest.raises(IntegrityError, match="may not leave"):
        ChunkId("r", 1, "gather", "sat-0-1", tensor, 0)
    with pytest.raises(IntegrityError, match="may not leave"):
        ChunkId.parse(f"r/1/gather/sat-0-1/{tensor}/0")
    with pytest.raises(IntegrityError, match="may not leave"):
        split(b"x", 1, run="r", round=1, phase="up", origin="sat-0-1", tensor=tensor)


@given(st.sampled_from(sorted(TENSOR_TAGS)), st.integers(1, 10_000), st.integers(0, 10_000))
def test_a_name_is_read_back(tensor: str, round_: int, index: int) -> None:
    identity = ChunkId("20260601T033000Z-demo-a1b2c3", round_, "gather", "sat-0-1", tensor, index)
    assert ChunkId.parse(str(identity)) == identity


def test_a_header_says_everything_but_the_payload() -> None:
    chunk = _split(b"payload", 100)[0].along(("a", "b", "c"), keep=True).within("b", 12.5)
    assert Chunk.from_header(chunk.header(), chunk.payload) == chunk
    onward = chunk.onward()
    assert onward.route == ("b", "c")
    assert (onward.until_s("b"), onward.until_s("c")) == (12.5, float("inf"))


def test_a_priority_stays_on_a_chunks_way() -> None:
    chunk = _split(b"payload", 100)[0].along(("a", "b"))
    assert chunk.priority == 0
    urgent = chunk.urgent(-3)
    assert Chunk.from_header(urgent.header(), urgent.payload).onward().priority == -3
    assert urgent.id == chunk.id  # a priority is no part of what a chunk is
