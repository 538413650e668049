"""Text from files that somebody else wrote: whatever is not such a file is one ScenarioError that says what it is.

Three readers, each stricter than the one before: ``read_utf8`` (any characters), ``read_text`` (none of them a zero
byte, which no text has and every binary file does) and ``read_filled_text`` (more than white space).
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from testbed.errors import ScenarioError


@dataclass(frozen=True)
class TextKind:
    """What a file is to be, for reading it and for the messages about one that is something else.

    ``noun`` has its article ("a trace"), ``allowed`` is what such a file holds ("CSV in UTF-8"), ``missing`` is the
    message where there is no file. A file of more than ``max_bytes`` is refused without being read to its end.
    """

    noun: str
    allowed: str
    max_bytes: int
    missing: str = "no such file"


def read_utf8(path: Path, kind: TextKind) -> str:
    """The text of a regular file of UTF-8, without the byte order mark it may begin with.

    Raises ScenarioError with the path as ``where``, also where the file is too large or cannot be read.
    """
    return _decoded(path, kind, _data(path, kind))


def read_text(path: Path, kind: TextKind) -> str:
    """The same without zero bytes. Raises ScenarioError with the offset of the first one."""
    data = _data(path, kind)
    if b"\0" in data:
        _refuse_byte(path, kind, data, data.index(0))
    return _decoded(path, kind, data)


def read_filled_text(path: Path, kind: TextKind) -> str:
    """The same with something in it. Raises ScenarioError for white space alone."""
    text = read_text(path, kind)
    if not text.strip():
        _refuse(path, "the file is empty", "nothing", kind.allowed)
    return text


def _data(path: Path, kind: TextKind) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # to open a pipe is to wait for its writer
            found = "a directory" if stat.S_ISDIR(mode) else "something that is not a regular file"
            _refuse(path, f"{kind.noun} is a file", found, kind.allowed)
        with path.open("rb") as file:
            data = file.read(kind.max_bytes + 1)
    except FileNotFoundError:
        _refuse(path, kind.missing, str(path), kind.allowed)
    except (OSError, ValueError) as error:  # ValueError: no path has a zero byte
        _refuse(path, "the file cannot be read", getattr(error, "strerror", None) or str(error), kind.allowed)
    if len(data) > kind.max_bytes:
        limit = f"{kind.max_bytes} bytes"
        _refuse(path, f"the file is too large for {kind.noun}", f"more than {limit}", f"at most {limit}")
    return data


def _decoded(path: Path, kind: TextKind, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Its own object and not ours: behind a byte order mark the decoder counts from there on.
        _refuse_byte(path, kind, data, error.start + len(data) - len(error.object))


def _refuse_byte(path: Path, kind: TextKind, data: bytes, offset: int) -> NoReturn:
    _refuse(path, "the file is not text", f"byte 0x{data[offset]:02x} at offset {offset}", kind.allowed)


def _refuse(path: Path, message: str, found: str, allowed: str) -> NoReturn:
    raise ScenarioError(message, where=str(path), found=found, allowed=allowed)
