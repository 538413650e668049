"""One chunk in one file: what is known about it and its bytes so far, in records that each carry a checksum.

A file begins with eight bytes of magic and one of state; then come records: kind (1 byte), length (4), CRC-32 of both
and of the data (4), data; all numbers big-endian. The last description counts, the data records follow one another.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from testbed.errors import BoardError, IntegrityError

MAGIC = b"SKYCHNK1"
LIVE, DONE = b"L", b"D"
DESCRIPTION, DATA = 1, 2
_HEAD = struct.Struct("!BI")
_CRC = struct.Struct("!I")
_START = len(MAGIC) + 1
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a file system says that has no room: full, over the user's quota, over the process's or its own size limit."""


class NoRoom(BoardError):
    """A board has no room for a chunk now. Nothing is lost: who has the chunk keeps it and offers it again later."""


class ChunkFile:
    """A chunk on disk. A write that returns has reached the kernel: it survives the process's death, and, after
    :meth:`sync`, the machine's.

    Every method may raise :class:`NoRoom` or, when the disk fails otherwise, BoardError: the file is then as it was.
    """

    def __init__(self, path: Path, description: dict[str, Any], size_bytes: int, end: int) -> None:
        self.path = path
        self.description = description
        self.size_bytes = size_bytes
        self._end = end

    @classmethod
    def create(cls, path: Path, description: dict[str, Any]) -> ChunkFile:
        """A new file without data."""
        made = cls(path, description, 0, _START)
        start = MAGIC + LIVE + _record(DESCRIPTION, json.dumps(description).encode())
        try:
            _write(path, 0, start, os.O_CREAT | os.O_TRUNC)
        except BoardError:
            path.unlink(missing_ok=True)
            raise
        made._end = len(start)
        return made

    @classmethod
    def recover(cls, path: Path) -> tuple[ChunkFile | None, int]:
        """What a file of an earlier process holds, cut back to its last good record, and how many bytes that cost.

        None for a file that does not even say what it is; it is gone then.
        """
        content = path.read_bytes()
        description, pieces, end = _parse(content)
        lost = len(content) - end
        if description is None:
            path.unlink()
            return None, lost
        if lost:
            os.truncate(path, end)
        return cls(path, description, sum(map(len, pieces)), end), lost

    @property
    def done(self) -> bool:
        """Whether :meth:`finish` was called, by this process or another."""
        with self.path.open("rb") as stream:
            return stream.read(_START)[-1:] == DONE

    def describe(self, description: dict[str, Any]) -> None:
        """Replace the description (JSON values)."""
        self._append(DESCRIPTION, json.dumps(description).encode())
        self.description = description

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add data at the end."""
        self._append(DATA, data)
        self.size_bytes += len(data)

    def read(self) -> bytes:
        """All data. IntegrityError when the disk does not give back what was written."""
        try:
            _, pieces, end = _parse(self.path.read_bytes())
        except OSError as error:
            raise _failure(self.path, error) from error
        if end != self._end:
            raise IntegrityError(f"{self.path} was damaged on disk after byte {end}")
        return b"".join(pieces)

    def sync(self) -> None:
        """Have the disk itself take everything, and the file's name with it (as ext4, xfs and btrfs do)."""
        try:
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())
        except OSError as error:
            raise _failure(self.path, error) from error

    def finish(self) -> None:
        """Mark the file done and give its data's room back. Works on a full disk: the mark takes a byte's place."""
        try:
            with self.path.open("r+b", buffering=0) as stream:
                os.pwrite(stream.fileno(), DONE, len(MAGIC))
                _, length = _HEAD.unpack(os.pread(stream.fileno(), _HEAD.size, _START))
                self._end = _START + _HEAD.size + _CRC.size + length  # the first record is a description
                stream.truncate(self._end)
        except OSError as error:
            raise _failure(self.path, error) from error
        self.size_bytes = 0

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def _append(self, kind: int, data: bytes | bytearray | memoryview) -> None:
        record = _record(kind, data)
        _write(self.path, self._end, record)
        self._end += len(record)


def _record(kind: int, data: bytes | bytearray | memoryview) -> bytes:
    head = _HEAD.pack(kind, len(data))
    return b"".join((head, _CRC.pack(zlib.crc32(data, zlib.crc32(head))), data))


def _parse(content: bytes) -> tuple[dict[str, Any] | None, list[memoryview], int]:
    """(description, data, end of the last good record); no description when there is none or the magic is wrong."""
    description: dict[str, Any] | None = None
    pieces: list[memoryview] = []
    if len(content) < _START or content[: len(MAGIC)] != MAGIC:
        return None, [], 0
    view, end = memoryview(content), _START
    while True:
        start = end + _HEAD.size + _CRC.size
        if start > len(content):
            return description, pieces, end
        kind, length = _HEAD.unpack_from(content, end)
        (crc,) = _CRC.unpack_from(content, end + _HEAD.size)
        data = view[start : start + length]
        if len(data) < length or zlib.crc32(data, zlib.crc32(view[end : end + _HEAD.size])) != crc:
            return description, pieces, end
        if kind == DATA:
            pieces.append(data)
        else:
            description = json.loads(bytes(data))
        end = start + length


def _write(path: Path, offset: int, data: bytes, flags: int = 0) -> None:
    """Write all of ``data`` at ``offset``, the file's end, or leave the file as it was."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    except OSError as error:
        raise _failure(path, error) from error
    try:
        written = 0
        while written < len(data):
            # A disk that fills up, or a size limit, takes a part first and says why at the second attempt.
            written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)
    except OSError as error:
        os.ftruncate(descriptor, offset)
        raise _failure(path, error) from error
    finally:
        os.close(descriptor)


def _failure(path: Path, error: OSError) -> BoardError:
    kind = NoRoom if error.errno in FULL else BoardError
    return kind(f"this board's folder {path.parent} takes no more: {error.strerror} ({path.name})")
