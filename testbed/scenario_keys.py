"""Binds the entries of a file to pydantic models, and writes models back as a file.

A model's field names carry units (``up_rate_bps``); in the file the key has none (``up_rate``) and the value has one
(``8 Mbit/s``). That rule is the whole mapping: there is no second table of keys. Whatever is wrong is one
ScenarioError with file, line, field, found and allowed.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from testbed.errors import ScenarioError
from testbed.scenario_file import Entry
from testbed.units import Quantity, quantity_of

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_FLAGS = {"true": True, "false": False}
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Text:
    """How a field that is neither number nor choice is written: attach it to the field with ``Annotated``.

    ``read`` may raise a ScenarioError without a place. For a tuple it reads and writes one element. An element may also
    be a section: ``section`` is its model, from which ``make`` makes the value; ``write`` then gives text or model.
    """

    read: Callable[[Entry, str], Any]
    write: Callable[[Any], str | BaseModel] = str
    allowed: str = "a text"
    section: type[BaseModel] | None = None
    make: Callable[[Any], Any] = lambda model: model


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
        """The type, without the None of what may be left out; of a list the type of one element."""
        kind = _required(self.info.annotation)
        return get_args(kind)[0] if get_origin(kind) is tuple else kind

    @property
    def several(self) -> bool:
        """Whether it is a list."""
        return get_origin(_required(self.info.annotation)) is tuple

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


def _required(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        (kind,) = [argument for argument in get_args(annotation) if argument is not NoneType]
        return kind
    return annotation


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _keys(model: type[BaseModel], skip: frozenset[str] = frozenset()) -> list[_Key]:
    keys = []
    for name, info in model.model_fields.items():
        if name in skip:
            continue
        text = next((item for item in info.metadata if isinstance(item, Text)), None)
        key = _Key(name, name, info, None, text)
        split = quantity_of(name) if text is None and key.kind in (int, float) else None
        keys.append(replace(key, key=split[0], quantity=split[1]) if split else key)
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
        if _is_model(key.kind) and not key.several and key.text is None:
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
        location = tuple(str(part) for part in first["loc"])
        place = binding.locate(location)
        message = str(first["msg"]).removeprefix("Value error, ")
        if place is None:
            absent = _absent(model, binding, location)
            if absent is not None:
                key, entry, path = absent
                entry.refuse(message, path, key.allowed, found="nothing")
            assert binding.entry is not None
            path = ".".join(filter(None, (binding.path, *(str(part) for part in first["loc"]))))
            binding.entry.refuse(message, path, "a section with " + ", ".join(key.key for key in _keys(model)))
        key, entry, path = place
        message = "out of range" if any(word in first["type"] for word in ("greater", "less", "int_from")) else message
        entry.refuse(message, path, key.allowed)


def _absent(model: type[BaseModel], binding: Binding, path: tuple[str, ...]) -> tuple[_Key, Entry, str] | None:
    """The key of a model's field that was left out, the section it would stand in, and its dotted file path."""
    key = next((key for key in _keys(model) if key.name == path[0]), None) if path else None
    if key is None or binding.entry is None:
        return None
    if path[1:]:
        section = binding.sections.get(key.name)
        return _absent(key.kind, section, path[1:]) if section is not None else None
    return key, binding.entry, _join(binding.path, key.key)


def _value(key: _Key, entry: Entry, path: str) -> Any:
    if key.several:
        if not isinstance(entry.value, tuple):
            entry.refuse("a list is needed", path, f"a list, each of {key.allowed}")
        return tuple(_element(key, one, f"{path}[{index}]") for index, one in enumerate(entry.value))
    return _scalar(key, entry, path)


def _element(key: _Key, entry: Entry, path: str) -> Any:
    """One of a list: a section of its own, or a single value."""
    if _is_model(key.kind):
        return build(key.kind, bind(key.kind, entry, path=path))
    text = key.text
    if text is None or text.section is None or not isinstance(entry.value, Mapping):
        return _scalar(key, entry, path)
    model = build(text.section, bind(text.section, entry, path=path))
    try:
        return text.make(model)
    except ScenarioError as error:
        raise _placed(error, entry, f"{path}.{error.field}" if error.field else path) from None


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
    if error.where is not None:
        return error  # a file that this one names, which has lines of its own
    found = error.found if error.found is not None and len(str(error.found)) <= 80 else entry.found
    return ScenarioError(
        error.message, where=entry.where, line=entry.line, field=path, found=found, allowed=error.allowed
    )


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
    given = [(key, getattr(value, key.name)) for key in _keys(type(value), skip)]
    return {key.key: _written(key, inner) for key, inner in given if inner is not None}


def _written(key: _Key, value: Any) -> Any:
    return [_one_written(key, one) for one in value] if key.several else _one_written(key, value)


def _one_written(key: _Key, value: Any) -> Any:
    if key.text is not None:
        value = key.text.write(value)
    if isinstance(value, BaseModel):
        return _plain(value)
    return key.quantity.format(value) if key.quantity else value
