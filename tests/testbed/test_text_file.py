"""Text files against Python's own codec, and against everything that a path can be instead of one."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.text_file import TextKind, read_filled_text, read_text, read_utf8

KIND = TextKind("a poem", "verse in UTF-8", max_bytes=1000)
Read = Callable[[Path, TextKind], str]
READERS = (read_utf8, read_text, read_filled_text)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)


def _refusal(read: Read, path: Path, kind: TextKind = KIND) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        read(path, kind)
    error = caught.value
    assert (error.where, error.line, error.field) == (str(path), None, None)
    assert error.found and error.allowed
    return error


@pytest.mark.parametrize("read", READERS)
@given(text=TEXT)
def test_what_was_written_is_read(read: Read, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    for mark in (b"", codecs.BOM_UTF8):
        path.write_bytes(mark + f"|{text}".encode())
        assert read(path, KIND) == f"|{text}"  # ends of lines, too, are as they stand there


@pytest.mark.parametrize("read", READERS)
@given(text=TEXT, wrong=st.sampled_from([b"\xff", b"\x80\n", b"\xc3(", b"\xed\xa0\x80", b"\xf0\x9f"]))
def test_what_is_not_utf8_is_refused_with_its_first_wrong_byte(
    read: Read, text: str, wrong: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # By RFC 3629: no such byte, a continuation alone, a lead alone, half a surrogate, and a character cut off.
    path = tmp_path_factory.getbasetemp() / "any.bin"
    for mark in (b"", codecs.BOM_UTF8):
        before = mark + f"|{text}".encode()
        path.write_bytes(before + wrong)
        error = _refusal(read, path)
        assert error.message == "the file is not text"
        assert error.found == f"byte 0x{wrong[0]:02x} at offset {len(before)}"


def test_only_a_zero_byte_tells_the_first_two_apart(tmp_path: Path) -> None:
    path = tmp_path / "zero.txt"
    path.write_bytes("\ufeffä\0b".encode())
    assert read_utf8(path, KIND) == "ä\0b"
    for read in (read_text, read_filled_text):
        assert _refusal(read, path).found == "byte 0x00 at offset 5"


@pytest.mark.parametrize("data", [b"", b" \r\n\t\n", codecs.BOM_UTF8])
def test_only_emptiness_tells_the_last_two_apart(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(data)
    assert read_utf8(path, KIND) == read_text(path, KIND) == data.removeprefix(codecs.BOM_UTF8).decode()
    error = _refusal(read_filled_text, path)
    assert (error.message, error.found, error.allowed) == ("the file is empty", "nothing", "verse in UTF-8")


@pytest.mark.parametrize("read", READERS)
def test_a_file_may_be_as_large_as_its_kind_allows(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("x" * 1000)
    assert read(path, KIND) == "x" * 1000
    path.write_text("x" * 1001)
    error = _refusal(read, path)
    assert error.message == "the file is too large for a poem"
    assert (error.found, error.allowed) == ("more than 1000 bytes", "at most 1000 bytes")


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_is_refused_for_what_it_is(read: Read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message, found in (
        (tmp_path, "a poem is a file", "a directory"),
        (tmp_path / "pipe", "a poem is a file", "something that is not a regular file"),
        (Path(os.devnull), "a poem is a file", "something that is not a regular file"),
        (tmp_path / "none", "no such file", str(tmp_path / "none")),
        (tmp_path / "pipe" / "none", "the file cannot be read", "Not a directory"),
        (tmp_path / ("x" * 5000), "the file cannot be read", "File name too long"),
        (tmp_path / "a\0b", "the file cannot be read", "embedded null byte"),
    ):
        error = _refusal(read, path)
        assert (error.message, error.found, error.allowed) == (message, found, "verse in UTF-8")
    named = TextKind("a poem", "verse in UTF-8", 1000, missing="no such poem")
    assert _refusal(read, tmp_path / "none", named).message == "no such poem"
    (tmp_path / "loop").symlink_to("loop")
    assert _refusal(read, tmp_path / "loop").message == "the file cannot be read"


@pytest.mark.parametrize("read", READERS)
def test_a_locked_file_cannot_be_read(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "locked.txt"
    path.write_text("verse")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    error = _refusal(read, path)
    assert (error.message, error.found) == ("the file cannot be read", "Permission denied")
