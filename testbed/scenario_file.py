"""Reads a YAML file into entries that know where they stand.

YAML is 1.2, and every scalar is taken as the text it is, so that neither ``05:00`` nor ``no`` ever becomes something
else on the way. Whatever is wrong is one ScenarioError with file and line.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from testbed.errors import ScenarioError
from testbed.text_file import TextKind, read_utf8

MAX_BYTES = 1_000_000
"""A scenario is a page of text; a thousand pages are a mistake."""
MAX_DEPTH = 20

_SCENARIO = TextKind("a scenario", "YAML in UTF-8", MAX_BYTES)

_CORE_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map"})
"""What a value may be without anybody having said so with a tag."""


@dataclass(frozen=True)
class Entry:
    """A scalar's text, a list or a section, and where it stands. Relative paths in it start from ``folder``."""

    value: str | tuple[Entry, ...] | Mapping[str, Entry]
    where: str
    line: int | None
    folder: Path
    quoted: bool = False

    @property
    def found(self) -> str:
        """What stands there, short enough for a message."""
        if isinstance(self.value, str):
            text = self.value if len(self.value) <= 80 else self.value[:77] + "..."
            return f'"{text}"' if self.quoted else text or "nothing"
        return f"a list of {len(self.value)}" if isinstance(self.value, tuple) else "a section"

    def refuse(self, message: str, path: str, allowed: str, found: str | None = None) -> NoReturn:
        """Raise the error that this entry is."""
        raise ScenarioError(
            message, where=self.where, line=self.line, field=path or None, found=found or self.found, allowed=allowed
        )


# -- from bytes to entries --------------------------------------------------------------------------------------------


def read_file(path: Path) -> str:
    """The file's text. ScenarioError unless it is a regular file of UTF-8 and of a sane size.

    What a zero byte is doing in it is for the YAML parser to say, which knows the line.
    """
    return read_utf8(path, _SCENARIO)


def parse(text: str, where: str, folder: Path, *, line: bool = True) -> Entry:
    """The entries of one YAML document. ``line=False`` leaves lines out (a flag has none)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # YAML 1.2 lets an anchor be set again (7.1)
    try:
        node = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ScenarioError(
            f"not YAML: {error.problem or error.context}",
            where=where,
            line=mark.line + 1 if mark and line else None,
            found=_line_at(text, mark),
            allowed="YAML 1.2",
        ) from None
    except RecursionError:
        raise ScenarioError("nested too deeply", where=where, allowed=f"at most {MAX_DEPTH} levels") from None
    except (YAMLError, ValueError) as error:
        found = str(error).splitlines()[0]
        raise ScenarioError("not YAML", where=where, found=found, allowed="YAML 1.2") from None
    if node is None:
        raise ScenarioError("the file is empty", where=where, found="nothing", allowed="a scenario")
    return _Reader(where, folder, line).entry(node, "", 0)


def _line_at(text: str, mark: Any) -> str | None:
    lines = text.splitlines()
    return lines[mark.line].strip()[:80] or None if mark is not None and mark.line < len(lines) else None


@dataclass(frozen=True)
class _Reader:
    where: str
    folder: Path
    lines: bool

    def _line(self, node: Any) -> int | None:
        return node.start_mark.line + 1 if self.lines else None

    def entry(self, node: Any, path: str, depth: int) -> Entry:
        if depth > MAX_DEPTH:
            raise ScenarioError(
                "nested too deeply",
                where=self.where,
                line=self._line(node),
                field=path,
                allowed=f"at most {MAX_DEPTH} levels",
            )
        tag = str(node.tag)
        if tag.removeprefix("tag:yaml.org,2002:") not in _CORE_TAGS:
            self._refuse(node, "tags mean nothing here", path, tag, "a plain value")
        value: str | tuple[Entry, ...] | Mapping[str, Entry]
        if node.id == "mapping":
            value = self._section(node, path, depth)
        elif node.id == "sequence":
            value = tuple(self.entry(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value))
        else:
            value = str(node.value)
        return Entry(
            value, self.where, self._line(node), self.folder, quoted=getattr(node, "style", None) in ('"', "'")
        )

    def _section(self, node: Any, path: str, depth: int) -> dict[str, Entry]:
        section: dict[str, Entry] = {}
        for key, value in node.value:
            if key.id != "scalar":
                self._refuse(key, "a key must be a word", path, f"a {key.id}", "a word")
            name = str(key.value)
            inner = f"{path}.{name}" if path else name
            if name in section:
                first = section[name].line
                self._refuse(key, "this key stands here twice", inner, f"again after line {first}", "each key once")
            # The key's line: the value of a key without one starts wherever the next word is.
            section[name] = replace(self.entry(value, inner, depth + 1), line=self._line(key))
        return section

    def _refuse(self, node: Any, message: str, path: str, found: str, allowed: str) -> NoReturn:
        raise ScenarioError(
            message, where=self.where, line=self._line(node), field=path or None, found=found, allowed=allowed
        )


def override(tree: Entry, path: str, text: str) -> Entry:
    """The tree with what stands at a dotted path replaced; ``text`` is read as the file would be."""
    where = f"--set {path}={text}"
    keys = path.split(".")
    if not all(keys):
        raise ScenarioError("not a dotted path", where=where, found=path, allowed="for example learning.rounds=3")
    new = Entry("", where, None, Path()) if not text.strip() else parse(text, where, Path(), line=False)
    return _replaced(tree, keys, new)


def _replaced(tree: Entry, keys: list[str], new: Entry) -> Entry:
    if not keys:
        return new
    if not isinstance(tree.value, Mapping):
        new.refuse(
            f"there is no key {keys[0]!r} in a value", ".".join(keys), "a path to a key of a section", tree.found
        )
    inside = tree.value.get(keys[0], Entry({}, new.where, None, new.folder) if keys[1:] else new)
    value = {**tree.value, keys[0]: _replaced(inside, keys[1:], new)}
    return Entry(value, tree.where, tree.line, tree.folder)


def read_instant(entry: Entry, text: str) -> datetime:
    """An ISO 8601 instant with a zone, in UTC. Years 1980 to 2099: what SGP4's two-digit epochs were meant for."""
    from datetime import timezone

    allowed = "an instant with its zone, years 1980 to 2099, for example 2026-03-20T05:00:00Z"
    try:
        instant = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
    except ValueError:
        raise ScenarioError("not an instant", found=text, allowed=allowed) from None
    if instant.tzinfo is None:
        raise ScenarioError("an instant needs a zone", found=text, allowed=allowed)
    if not 1980 <= instant.year <= 2099:
        raise ScenarioError("out of range", found=text, allowed=allowed)
    return instant.astimezone(timezone.utc)


def write_instant(instant: datetime) -> str:
    """ISO 8601 in UTC with a Z."""
    return instant.isoformat().replace("+00:00", "Z")
