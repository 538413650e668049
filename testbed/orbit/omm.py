"""Orbit mean-elements messages (CCSDS 502.0-B) as JSON, CSV and XML, in the spellings of CelesTrak and Space-Track."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from testbed.orbit.elements import (
    EPHEMERIS_TYPE,
    INSTANT,
    RANGES,
    ElementSet,
    Source,
    check_range,
    element_set,
    parse_instant,
)

MAX_ALPHA5 = 339_999
"""Z9999. Higher catalogue numbers, which only OMM can write, do not fit an SGP4 record; it holds 0 for them."""

_LABELS: Mapping[str, tuple[str, str, str]] = {
    # What SGP4's record takes along and does not need: what stands for it when it is absent, pattern, allowed.
    "NORAD_CAT_ID": ("0", r"[0-9]{1,9}", "a catalogue number of at most nine digits"),
    "EPHEMERIS_TYPE": ("0", r"[0-3]", EPHEMERIS_TYPE),
    "ELEMENT_SET_NO": ("0", r"[0-9]{1,9}", "a whole number"),
    "REV_AT_EPOCH": ("0", r"[0-9]{1,9}", "a whole number"),
    "CLASSIFICATION_TYPE": ("U", r".", "one letter, such as U"),
    "OBJECT_ID": ("", r".{0,80}", "an international designator such as 1998-067A"),
}

_RATES = ("MEAN_MOTION_DOT", "MEAN_MOTION_DDOT")
"""Derivatives of mean motion, which SGP4 carries along and leaves out of account."""

_MEANT: Mapping[str, tuple[str, ...]] = {
    "CENTER_NAME": ("EARTH",),
    "REF_FRAME": ("TEME",),
    "TIME_SYSTEM": ("UTC",),
    "MEAN_ELEMENT_THEORY": ("SGP4", "SGP/SGP4"),
}
"""What may be left out, but must not say anything else: SGP4 means just this."""

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class _Message:
    """One OMM: its fields as text, the line it begins at, and the line of each field."""

    fields: Mapping[str, str]
    line: int
    line_of: Callable[[str], int]


def _of_message(source: Source, message: _Message) -> ElementSet:
    from sgp4 import omm
    from sgp4.api import Satrec

    fields = {key: value.strip() for key, value in message.fields.items() if value.strip()}

    def refuse(text: str, field: str, allowed: str) -> NoReturn:
        found = fields.get(field, "no such field")
        source.refuse(text, message.line_of(field) if field in fields else message.line, field, found, allowed)

    for field, meant in _MEANT.items():
        if fields.get(field, meant[0]).upper() not in meant:
            refuse("SGP4 elements are of another kind", field, " or ".join(meant))
    if "EPOCH" not in fields:
        refuse("an OMM needs an epoch", "EPOCH", INSTANT)
    try:
        minute, second = parse_instant(fields["EPOCH"])
    except ValueError:
        refuse("not an instant", "EPOCH", INSTANT)
    epoch = minute + timedelta(seconds=second)
    values: dict[str, str] = {"EPOCH": epoch.strftime("%Y-%m-%dT%H:%M:%S.%f")}
    for field in (*RANGES, *_RATES):
        allowed = RANGES[field][2] if field in RANGES else "a number"
        if field not in fields and field in RANGES:
            refuse("an element is missing", field, allowed)
        values[field] = fields.get(field, "0")
        if _DECIMAL.fullmatch(values[field]) is None:
            refuse("not a number", field, allowed)
        if field in RANGES:
            check_range(source, message.line_of(field), field, float(values[field]), fields[field])
    for field, (absent, pattern, allowed) in _LABELS.items():
        values[field] = fields.get(field, absent)
        if re.fullmatch(pattern, values[field]) is None:
            refuse("not what stands in this field", field, allowed)
    number = int(values["NORAD_CAT_ID"])
    values["NORAD_CAT_ID"] = str(number if number <= MAX_ALPHA5 else 0)
    record = Satrec()
    omm.initialize(record, values)
    return element_set(source, fields.get("OBJECT_NAME", ""), record, epoch, message.line, number)


def read_omm_json(source: Source) -> Iterator[ElementSet]:
    """The satellites of an OMM as JSON, or of a list of them. Raises ScenarioError with line and field."""
    # Numbers stay text: what is wrong with one is then shown as it stands in the file.
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
    try:
        tree = decoder.decode(source.text)
    except json.JSONDecodeError as error:
        source.refuse(f"not JSON: {error.msg}", error.lineno, allowed="an OMM as JSON, or a list of them")
    except RecursionError:
        source.refuse("nested too deeply", allowed="an OMM as JSON, or a list of them")
    position, line = 0, 1
    for index, item in enumerate(tree if isinstance(tree, list) else [tree]):
        if not isinstance(item, dict):
            allowed = "an object with the fields of an OMM"
            source.refuse("not an OMM", line, f"[{index}]", json.dumps(item), allowed)
        start = source.text.index("{", position)
        _, end = decoder.raw_decode(source.text, start)
        line += source.text.count("\n", position, start)
        fields = {str(key): _scalar(value) for key, value in item.items() if value is not None}
        yield _of_message(source, _Message(fields, line, _finder(source.text, line, start, end)))
        line += source.text.count("\n", start, end)
        position = end


def _finder(text: str, line: int, start: int, end: int) -> Callable[[str], int]:
    def line_of(field: str) -> int:
        place = text.find(json.dumps(field), start, end)
        return line + text.count("\n", start, max(place, start))

    return line_of


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_omm_csv(source: Source) -> Iterator[ElementSet]:
    """The satellites of OMM as CSV, a header and a row for each. Raises ScenarioError with line and field."""
    rows = csv.reader(io.StringIO(source.text, newline=""), strict=True)
    header: list[str] = []
    try:
        for row in rows:
            if not any(one.strip() for one in row):
                continue
            if not header:
                header = [one.strip() for one in row]
                _check_header(source, rows.line_num, header)
                continue
            if len(row) != len(header):
                found = f"{len(row)} values"
                source.refuse("a row of another length than the header", rows.line_num, None, found, f"{len(header)}")
            fields = dict(zip(header, row, strict=True))
            yield _of_message(source, _Message(fields, rows.line_num, _always(rows.line_num)))
    except csv.Error as error:
        source.refuse(f"not CSV: {error}", rows.line_num, allowed="OMM as CSV, a header and a row for each satellite")


def _always(line: int) -> Callable[[str], int]:
    return lambda field: line


def _check_header(source: Source, line: int, header: list[str]) -> None:
    missing = [field for field in ("EPOCH", *RANGES) if field not in header]
    if missing:
        found, allowed = ",".join(header), "a header with the fields of an OMM"
        source.refuse("a column is missing", line, missing[0], found, allowed)
    twice = [field for field in header if header.count(field) > 1]
    if twice:
        source.refuse("a column stands here twice", line, twice[0], twice[0], "each column once")


class _XmlOmm:
    """Fields of every ``omm`` element, by the events of a parser that knows its line."""

    def __init__(self, source: Source) -> None:
        from xml.parsers import expat

        self.source = source
        self.found: list[_Message] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._depth = 0
        self._fields: dict[str, str] | None = None
        self._lines: dict[str, int] = {}
        self._begin = 0
        self._text = ""
        try:
            self.parser.Parse(source.text, True)
        except expat.ExpatError as error:
            message = expat.ErrorString(error.code)
            source.refuse(f"not XML: {message}", error.lineno, allowed="an ndm or omm element")

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        tag, line = tag.rpartition(":")[2], self.parser.CurrentLineNumber
        if self._depth == 0 and tag not in ("ndm", "omm"):
            self.source.refuse("not an OMM in XML", line, found=f"<{tag}>", allowed="<ndm> or <omm>")
        if tag == "omm":
            self._fields, self._lines, self._begin = {}, {}, line
        self._lines[tag] = line
        self._depth += 1
        self._text = ""

    def _end(self, tag: str) -> None:
        tag = tag.rpartition(":")[2]
        self._depth -= 1
        if self._fields is None:
            return
        if tag == "omm":
            lines, begin = self._lines, self._begin
            self.found.append(_Message(self._fields, begin, lambda field: lines.get(field, begin)))
            self._fields = None
        elif tag in self._fields and tag in _XML_ONCE:
            line = self._lines[tag]
            self.source.refuse("this field stands here twice", line, tag, self._text, "each field once in an omm")
        else:
            self._fields[tag] = self._text
        self._text = ""

    def _data(self, text: str) -> None:
        self._text += text

    def _doctype(self, *_: object) -> None:
        # An OMM has none, and entities can blow a small file up to gigabytes.
        self.source.refuse("a document type means nothing here", self.parser.CurrentLineNumber, found="<!DOCTYPE")


_XML_ONCE = frozenset({"OBJECT_NAME", "EPOCH", *RANGES, *_LABELS, *_RATES, *_MEANT})


def read_omm_xml(source: Source) -> Iterator[ElementSet]:
    """The satellites of an ``omm`` element, or of those in an ``ndm``. Raises ScenarioError with line and field."""
    return (_of_message(source, message) for message in _XmlOmm(source).found)
