"""What becomes of a chunk's bytes before they cross links: nothing, or zstd, chunk by chunk.

Chunks are compressed one at a time, after a tensor was cut: so their number follows from the tensor's shape, whatever
they hold, and each is at most as long as it was planned. Whether one is compressed needs no mark: both ends know the
planned size, and what did not become shorter goes as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from testbed.errors import IntegrityError, RackError

LEVEL = 3
"""zstd's own default. Level 9 makes cut tensors 0 to 5 % smaller and costs up to four times the work: their redundancy
is in how often values occur, which all levels code alike, not in sequences that repeat."""
PLANES = 4
"""Bytes are laid out in planes first, every fourth together (the shuffle filter of HDF5 and Blosc): exponents of fp32,
bf16 and fp16 come to lie beside each other. In chunks of 128 KiB MiniLM's cut tensors in bf16 come to 0.71 of their
size; without planes to 0.78."""


class Compression(ABC):
    """Both directions; any number of threads may use it at a time."""

    @abstractmethod
    def shrink(self, data: bytes) -> bytes:
        """What crosses links for ``data``: never longer."""

    @abstractmethod
    def restore(self, payload: bytes, size_bytes: int) -> bytes:
        """The inverse; ``size_bytes`` is how long the data was. IntegrityError where that cannot be."""


class Plain(Compression):
    """Nothing is done."""

    def shrink(self, data: bytes) -> bytes:
        return data

    def restore(self, payload: bytes, size_bytes: int) -> bytes:
        return payload


class Zstd(Compression):
    """Zstandard (RFC 8878) of the chunk's bytes in planes: one frame a chunk, without a checksum of its own, for chunks
    have digests. The last bytes, where they are no multiple of ``PLANES``, come behind the planes."""

    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise RackError("compression zstd needs a package that is not installed: pip install zstandard") from error
        self._zstd = zstandard

    def shrink(self, data: bytes) -> bytes:
        # A compressor a call: one may serve no two threads at a time.
        frame: bytes = self._zstd.ZstdCompressor(level=LEVEL).compress(_apart(data))
        return frame if len(frame) < len(data) else data

    def restore(self, payload: bytes, size_bytes: int) -> bytes:
        if len(payload) == size_bytes:
            return payload
        try:
            # Looked at before anything is made: a frame may promise any size.
            promised = self._zstd.frame_content_size(payload)
            if len(payload) < size_bytes == promised:
                data: bytes = self._zstd.ZstdDecompressor().decompress(payload, allow_extra_data=False)
                return _together(data)
        except self._zstd.ZstdError as error:
            raise IntegrityError(
                f"a chunk of {size_bytes} bytes came as {len(payload)} that are no zstd: {error}"
            ) from error
        raise IntegrityError(f"a chunk of {size_bytes} bytes came as {len(payload)}, which promise {promised}")


def _apart(data: bytes) -> bytes:
    whole = len(data) - len(data) % PLANES
    return _transposed(data[:whole], PLANES) + data[whole:]


def _together(data: bytes) -> bytes:
    whole = len(data) - len(data) % PLANES
    return _transposed(data[:whole], whole // PLANES) + data[whole:]


def _transposed(data: bytes, columns: int) -> bytes:
    """Bytes of a matrix of so many columns, column by column."""
    matrix: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8).reshape(-1, max(columns, 1))
    return bytes(matrix.T.tobytes())


COMPRESSIONS: Mapping[str, Callable[[], Compression]] = {"none": Plain, "zstd": Zstd}
"""By the name a scenario gives it."""


def open_compression(name: str) -> Compression:
    """The compression of that name; RackError where its package is not installed."""
    return COMPRESSIONS[name]()
