"""Compression of chunks: what is planned is an upper bound, and everything comes back."""

from __future__ import annotations

import hashlib
import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import IntegrityError, RackError
from testbed.transfer.chunks import chunk_sizes, join, split
from testbed.transfer.compression import COMPRESSIONS, Compression, open_compression

zstandard = pytest.importorskip("zstandard", reason="the extra zstd is not installed")

# Runs of one byte, which shrink, between bytes that do not.
_PIECES = st.one_of(
    st.binary(max_size=60), st.builds(lambda byte, n: bytes([byte]) * n, st.integers(0, 255), st.integers(0, 400))
)
_DATA = st.lists(_PIECES, max_size=6).map(b"".join)


@pytest.mark.parametrize("name", sorted(COMPRESSIONS))
@given(data=_DATA, chunk_bytes=st.integers(1, 200), dice=st.randoms(use_true_random=False))
def test_what_is_cut_and_shrunk_comes_back(name: str, data: bytes, chunk_bytes: int, dice: random.Random) -> None:
    compression = open_compression(name)
    sizes = chunk_sizes(len(data), chunk_bytes)
    chunks = split(
        data, chunk_bytes, run="r", round=1, phase="up", origin="a", tensor="embedding", shrink=compression.shrink
    )
    assert len(chunks) == len(sizes)
    assert all(chunk.size_bytes <= size for chunk, size in zip(chunks, sizes, strict=True))
    assert all(hashlib.sha256(chunk.payload).hexdigest() == chunk.sha256 for chunk in chunks)
    dice.shuffle(chunks)
    assert join(chunks, lambda chunk: compression.restore(chunk.payload, sizes[chunk.id.index])) == data


def test_zstd_shrinks_what_repeats_and_leaves_noise() -> None:
    zstd = open_compression("zstd")
    noise = np.random.default_rng(1).bytes(100_000)
    assert zstd.shrink(noise) == noise
    assert zstd.shrink(b"") == b""
    assert len(zstd.shrink(bytes(100_000))) < 100
    # Values that occur unevenly: no coding of single bytes does better than their entropy (Shannon 1948), and zstd's
    # comes near it.
    values = np.random.default_rng(2).normal(0, 8, 256 * 1024).round().astype(np.int8)
    counts = np.bincount(values.view(np.uint8), minlength=256)
    shares = counts[counts > 0] / values.size
    entropy_bytes = -(shares * np.log2(shares)).sum() * values.size / 8
    assert entropy_bytes <= len(zstd.shrink(values.tobytes())) <= 1.05 * entropy_bytes


def test_frames_are_zstd_of_every_fourth_byte_in_turn() -> None:
    data = b"abcdABCD1234" * 50 + b"xyz"
    planes = b"".join(data[start:600:4] for start in range(4)) + b"xyz"
    frame = open_compression("zstd").shrink(data)
    assert zstandard.ZstdDecompressor().decompress(frame) == planes
    other = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(planes)
    assert open_compression("zstd").restore(other, len(data)) == data


def _frame(data: bytes) -> bytes:
    return bytes(zstandard.ZstdCompressor().compress(data))


@pytest.mark.parametrize(
    "payload",
    [
        b"no frame at all",
        _frame(bytes(1_001)),  # another size than planned
        _frame(bytes(1 << 30)),  # a bomb
        _frame(bytes(1_000))[:-1],
        _frame(bytes(1_000)) + b"more",
        b"",
        bytes(1_001),
    ],
    ids=["no frame", "longer", "bomb", "cut", "extra", "empty", "too long"],
)
def test_what_cannot_be_the_planned_chunk_is_refused(payload: bytes) -> None:
    with pytest.raises(IntegrityError, match="a chunk of 1000 bytes"):
        open_compression("zstd").restore(payload, 1_000)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(RackError, match="pip install zstandard"):
        open_compression("zstd")
    assert isinstance(open_compression("none"), Compression)
