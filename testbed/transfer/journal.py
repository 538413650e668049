"""A file of short entries that only grows, each with a checksum: what a process must still know after it was killed."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from testbed.errors import BoardError
from testbed.transfer.chunk_file import FULL, NoRoom


class Journal:
    """Entries are JSON values, one a line behind its CRC-32 in hex.

    ``entries`` are those of earlier processes up to the first bad line; ``lost_bytes`` is what was cut off there.
    An entry survives the process's death once :meth:`add` has returned.
    """

    def __init__(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        self.entries, self._end = _read(content)
        self.lost_bytes = len(content) - self._end
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, self._end)

    def add(self, entry: Any) -> None:
        """Append an entry. Raises :class:`NoRoom`, or BoardError when the disk fails otherwise; the file is then as it
        was."""
        text = json.dumps(entry).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._descriptor, line[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            kind = NoRoom if error.errno in FULL else BoardError
            raise kind(f"this board's journal {self._path} takes no more: {error.strerror}") from error
        self._end += len(line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _read(content: bytes) -> tuple[list[Any], int]:
    entries: list[Any] = []
    end = 0
    for line in content.splitlines(keepends=True):
        text = line[9:-1]
        if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(text):
            break
        entries.append(json.loads(text))
        end += len(line)
    return entries, end
