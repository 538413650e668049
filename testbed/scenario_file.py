"""Reads a YAML file into entries that know where they stand, and entries into pydantic models.

A model's field names carry units (``up_rate_bps``); in the file the key has none (``up_rate``) and the value has one
(``8 Mbit/s``). That rule is the whole mapping: there is no second table of keys. YAML is 1.2, and every scalar is
taken as the text it is, so that neither ``05:00`` nor ``no`` ever becomes something else on the way.

Whatever is wrong is one ScenarioError with file, line, field, found and allowed.
"""

from __future__ import annotations

import difflib
import io
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from testbed.errors import ScenarioError
from testbed.units import Quantity, quantity_of

MAX_BYTES = 1_000_000
"""A scenario is a page of text; a thousand pages are a mistake."""
MAX_DEPTH = 20

_CORE_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map"})
"""What a value may be without anybody having said so with a tag."""
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_FLAGS = {"true": True, "false": False}

Model = TypeVar("Model", bound=BaseModel)


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


@dataclass(frozen=True)
class Text:
    """How a field that is neither number nor choice is written: attach it to the field with ``Annotated``.

    ``read`` may raise a ScenarioError without a place. For a tuple it reads and writes one element.
    """

    read: Callable[[Entry, str], Any]
    write: Callable[[Any], str] = str
    allowed: str = "a text"


# -- from bytes to entries --------------------------------------------------------------------------------------------


def read_file(path: Path) -> str:
    """The file's text. ScenarioError unless it is a regular file of UTF-8 and of a sane size."""
    where = str(path)

    def refuse(message: str, found: str, allowed: str = "a YAML file") -> NoReturn:
        raise ScenarioError(message, where=where, found=found, allowed=allowed)

    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            refuse("a scenario is a file", "a directory")
        if not stat.S_ISREG(mode):
            refuse("a scenario is a file", "something that is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        refuse("no such file", where)
    except (OSError, ValueError) as error:
        refuse("the file cannot be read", getattr(error, "strerror", None) or str(error))
    if len(data) > MAX_BYTES:
        refuse("the file is too large for a scenario", f"more than {MAX_BYTES} bytes", f"at most {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse("the file is not text", f"byte 0x{data[error.start]:02x} at offset {error.start}", "YAML in UTF-8")


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


# -- from entries to models -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """One field of a model as the file has it."""

    name: str
    key: str
    info: FieldInfo
    quantity: Quantity | None
    text: Text | None

    @property
    def kind(self) -> Any:
        return self.info.annotation

    @property
    def allowed(self) -> str:
        """What may stand there."""
        if self.text is not None:
            return self.text.allowed
        if get_origin(self.kind) is Literal:
            return " or ".join(get_args(self.kind)) if len(get_args(self.kind)) < 3 else ", ".join(get_args(self.kind))
        if _is_model(self.kind):
            return "a section with " + ", ".join(key.key for key in _keys(self.kind))
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        words = [self.quantity.allowed if self.quantity else kinds[self.kind]]
        for limit in self.info.metadata:
            for sort, word in ((Gt, "more than"), (Ge, "at least"), (Lt, "less than"), (Le, "at most")):
                if isinstance(limit, sort):
                    bound = getattr(limit, sort.__name__.lower())
                    words.append(f"{word} {self.quantity.format(bound) if self.quantity else format(bound, 'g')}")
        return "; ".join(words)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _keys(model: type[BaseModel], skip: frozenset[str] = frozenset()) -> list[_Key]:
    keys = []
    for name, info in model.model_fields.items():
        if name in skip:
            continue
        text = next((item for item in info.metadata if isinstance(item, Text)), None)
        split = quantity_of(name) if text is None and info.annotation in (int, float) else None
        keys.append(_Key(name, split[0] if split else name, info, split[1] if split else None, text))
    return keys


@dataclass
class Binding:
    """The values of a model as read, and which entry each came from."""

    values: dict[str, Any]
    entries: dict[str, tuple[_Key, Entry]] = field(default_factory=dict)
    sections: dict[str, Binding] = field(default_factory=dict)
    path: str = ""
    entry: Entry | None = None

    def locate(self, path: tuple[str, ...]) -> tuple[_Key, Entry, str] | None:
        """The key, entry and dotted file path of a model's field, if it was given."""
        if not path:
            return None
        if path[0] in self.sections and path[1:]:
            return self.sections[path[0]].locate(path[1:])
        if path[0] not in self.entries:
            return None
        key, entry = self.entries[path[0]]
        return key, entry, _join(self.path, key.key)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def bind(model: type[BaseModel], entry: Entry, given: frozenset[str] = frozenset(), path: str = "") -> Binding:
    """Read a section's keys as a model's fields, but for those in ``given``. Ranges are the model's to check."""
    keys = {key.key: key for key in _keys(model, given)}
    if not isinstance(entry.value, Mapping):
        entry.refuse("a section is needed" if path else "not a scenario", path, "a section with " + ", ".join(keys))
    binding = Binding({}, path=path, entry=entry)
    for name, inner in entry.value.items():
        key = keys.get(name)
        inside = _join(path, name)
        if key is None:
            close = difflib.get_close_matches(name, keys, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            inner.refuse(f"unknown key{hint}", inside, ", ".join(keys), found=name[:80])
        binding.entries[key.name] = (key, inner)
        if _is_model(key.kind):
            section = bind(key.kind, inner, path=inside)
            binding.sections[key.name] = section
            binding.values[key.name] = section.values
        else:
            binding.values[key.name] = _value(key, inner, inside)
    for name, key in keys.items():
        if (
            key.name not in binding.values
            and key.info.default is PydanticUndefined
            and key.info.default_factory is None
        ):
            entry.refuse("a key is missing", _join(path, name), key.allowed, found="nothing")
    return binding


def build(model: type[Model], binding: Binding) -> Model:
    """The model, or one ScenarioError for the first thing out of range."""
    try:
        return model.model_validate(binding.values)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        place = binding.locate(tuple(str(part) for part in first["loc"]))
        message = str(first["msg"]).removeprefix("Value error, ")
        if place is None:
            assert binding.entry is not None
            binding.entry.refuse(message, ".".join(str(part) for part in first["loc"]), "see docs/architecture.md")
        key, entry, path = place
        message = "out of range" if any(word in first["type"] for word in ("greater", "less", "int_from")) else message
        entry.refuse(message, path, key.allowed)


def _value(key: _Key, entry: Entry, path: str) -> Any:
    if get_origin(key.kind) is tuple:
        if not isinstance(entry.value, tuple):
            entry.refuse("a list is needed", path, f"a list, each of {key.allowed}")
        return tuple(_scalar(key, one, f"{path}[{index}]") for index, one in enumerate(entry.value))
    return _scalar(key, entry, path)


def _scalar(key: _Key, entry: Entry, path: str) -> Any:
    if not isinstance(entry.value, str):
        entry.refuse("a single value is needed", path, key.allowed)
    if not entry.quoted and entry.value in _NULLS:
        entry.refuse("there is no value", path, key.allowed, found="nothing")
    if key.text is not None:
        try:
            return key.text.read(entry, entry.value)
        except ScenarioError as error:
            raise _placed(error, entry, path) from None
    if key.quantity is not None:
        try:
            return key.quantity.parse(entry.value)
        except ScenarioError as error:
            raise _placed(error, entry, path) from None
    if key.kind in _PLAIN:
        value = None if entry.quoted and key.kind is not str else _PLAIN[key.kind](entry.value)
        if value is None:
            entry.refuse("wrong type of value", path, key.allowed)
        return value
    if entry.value not in get_args(key.kind):
        close = difflib.get_close_matches(entry.value, get_args(key.kind), n=1)
        entry.refuse(f"not one of the choices{f'; did you mean {close[0]}?' if close else ''}", path, key.allowed)
    return entry.value


_PLAIN: dict[Any, Callable[[str], Any]] = {
    int: lambda text: int(text) if _WHOLE.fullmatch(text) else None,
    float: lambda text: float(text) if _NUMBER.fullmatch(text) else None,
    bool: lambda text: _FLAGS.get(text.lower()),
    str: lambda text: text,
}


def _placed(error: ScenarioError, entry: Entry, path: str) -> ScenarioError:
    found = error.found if error.found is not None and len(str(error.found)) <= 80 else entry.found
    return ScenarioError(
        error.message, where=entry.where, line=entry.line, field=path, found=found, allowed=error.allowed
    )


# -- from models back to text -----------------------------------------------------------------------------------------


def dump(value: BaseModel, skip: frozenset[str] = frozenset()) -> str:
    """A model as YAML that reads back to the same values."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = io.StringIO()
    yaml.dump(_plain(value, skip), out)
    return out.getvalue()


def _plain(value: BaseModel, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    return {key.key: _written(key, getattr(value, key.name)) for key in _keys(type(value), skip)}


def _written(key: _Key, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value)
    if key.text is not None:
        return [key.text.write(one) for one in value] if isinstance(value, tuple) else key.text.write(value)
    return key.quantity.format(value) if key.quantity else value


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
