"""Orbital elements from files: two-line elements, and CCSDS OMM as JSON, CSV or XML.

Two-line elements are read by column, as celestrak.org/NORAD/documentation/tle-fmt.php lays them out, with Alpha-5
catalogue numbers (A0001 is 100001; I and O are left out). OMM is CCSDS 502.0-B, in the spellings of CelesTrak and
Space-Track; what a number may be is checked here, because SGP4 takes anything. Both become records of SGP4 with the
constants of WGS72, which is what the elements were fitted with (Vallado et al., AIAA 2006-6753).
"""

from __future__ import annotations

import csv
import io
import json
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from testbed.errors import ScenarioError

if TYPE_CHECKING:
    from sgp4.api import Satrec

MAX_BYTES = 512 * 2**20
"""The whole public catalogue as XML is a tenth of it."""

MAX_ALPHA5 = 339_999
"""Z9999. Higher catalogue numbers, which only OMM can write, do not fit an SGP4 record; it holds 0 for them."""

MAX_NAME_LENGTH = 63
"""Names of satellites name hosts, and this is what RFC 1123 and RFC 1035 leave them."""


@dataclass(frozen=True)
class ElementSet:
    """One satellite: the node's name, SGP4's record, the instant its elements hold for (aware, UTC), and the line in
    the file at which they begin."""

    name: str
    satrec: Satrec
    epoch: datetime
    line: int
    catalog_number: int


def read_elements(path: Path) -> tuple[ElementSet, ...]:
    """All satellites of a file, in its order, each with a name of its own. The suffix says what the file is:
    ``.tle`` or ``.txt`` for two-line elements, ``.json``, ``.csv`` or ``.xml`` for OMM.

    Raises ScenarioError with file, line and field for anything that is not exactly that.
    """
    read = _READERS.get(path.suffix.casefold())
    source = Source(str(path), read_text(path, "a file of orbital elements"))
    if read is None:
        source.refuse("unknown kind of elements", found=path.suffix, allowed=", ".join(_READERS))
    found = tuple(read(source))
    if not found:
        source.refuse("no satellite in the file", found="none", allowed="one or more")
    check_names(source, [(one.name, one.line) for one in found])
    return found


# -- what files of elements and of ephemerides share ------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file and its text. ``where`` is its path, for messages."""

    where: str
    text: str

    def refuse(
        self,
        message: str,
        line: int | None = None,
        field: str | None = None,
        found: object = None,
        allowed: str | None = None,
    ) -> NoReturn:
        """Raise the ScenarioError that points here. What was found is cut to the length of a message, and to what any
        terminal prints."""
        text = None if found is None else "".join(one if one.isprintable() else "?" for one in str(found).strip())
        if text is not None and len(text) > 100:
            text = f"{text[:97]}..."
        raise ScenarioError(
            message, where=self.where, line=line, field=field, found=text if text != "" else "nothing", allowed=allowed
        )


def read_text(path: Path, kind: str) -> str:
    """The text of a regular file of UTF-8. Raises ScenarioError for anything else, and for a file with nothing in it.

    ``kind`` says what the file should have been, for the message.
    """

    def refuse(message: str, found: str) -> NoReturn:
        raise ScenarioError(message, where=str(path), found=found, allowed=kind)

    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            refuse("this is not a file", "a directory")
        if not stat.S_ISREG(mode):
            refuse("this is not a file", "something that is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        refuse("no such file", str(path))
    except (OSError, ValueError) as error:
        refuse("the file cannot be read", getattr(error, "strerror", None) or str(error))
    if len(data) > MAX_BYTES:
        refuse("the file is too large", f"more than {MAX_BYTES} bytes")
    if b"\0" in data:
        refuse("the file is not text", f"a zero byte at offset {data.index(0)}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse("the file is not text in UTF-8", f"byte 0x{data[error.start]:02x} at offset {error.start}")
    if not text.strip():
        refuse("the file is empty", "nothing")
    return text


def slug(name: str) -> str:
    """A name in small letters, digits and hyphens, as hosts have them: ``ISS (ZARYA)`` is ``iss-zarya``.

    Empty where nothing of the name is left.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def check_names(source: Source, names: Sequence[tuple[str, int]]) -> None:
    """Refuse a name that is too long or that stands in the file twice. ``names`` are names and their lines."""
    first_line: dict[str, int] = {}
    for name, line in names:
        if len(name) > MAX_NAME_LENGTH:
            source.refuse("the name is too long", line, "OBJECT_NAME", name, f"at most {MAX_NAME_LENGTH} characters")
        if name in first_line:
            allowed = f"each name once: line {first_line[name]} has it too (in small letters, digits and hyphens)"
            source.refuse("two satellites have the same name", line, "OBJECT_NAME", name, allowed)
        first_line[name] = line


_INSTANT = re.compile(
    r"([0-9]{4})-(?:([0-9]{2})-([0-9]{2})|([0-9]{3}))T([0-9]{2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]*)?)Z?"
)
INSTANT = "an instant such as 2026-06-01T12:00:00.000, or by day of the year, 2026-152T12:00:00.000"


def parse_instant(text: str) -> tuple[datetime, float]:
    """The minute and the second of an instant as CCSDS writes it (301.0-B, ASCII code A or B).

    The minute is aware but of no particular time scale; the second may be 60 and more. Raises ValueError.
    """
    match = _INSTANT.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    year, month, day, day_of_year, hour, minute = (int(one) if one else 0 for one in match.groups()[:6])
    start = datetime(year, month or 1, day or 1, hour, minute, tzinfo=timezone.utc)
    if day_of_year or not month:
        start += timedelta(days=day_of_year - 1)
    second = float(match[7])
    if start.year != year or second >= 61:
        raise ValueError(text)
    return start, second


# -- two-line elements ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """A field of two-line elements: columns ``first`` to ``last``, counted from 1, and what may stand there."""

    name: str
    first: int
    last: int
    pattern: str
    allowed: str

    def of(self, line: str) -> str:
        return line[self.first - 1 : self.last]


_ALPHA5 = r" *[0-9]+|[A-HJ-NP-Z][0-9]{4}"
_POWER = r"[ +-][0-9 ]{4}[0-9][+-][0-9]"
_NUMBER = _Columns("NORAD_CAT_ID", 3, 7, _ALPHA5, "a catalogue number: 25544, or in Alpha-5 A0001 for 100001")
_EPOCH = _Columns("EPOCH", 19, 32, r"[0-9]{2}[0-9 ]{2}[0-9]\.[0-9]{8}", "year and day of the year, YYDDD.DDDDDDDD")
_EPHEMERIS = _Columns("EPHEMERIS_TYPE", 63, 63, r"[ 0-3]", "0, for SGP4 (4 is SGP4-XP, another theory)")
_LINES: Mapping[str, tuple[_Columns, ...]] = {
    "1": (
        _NUMBER,
        _EPOCH,
        _Columns("MEAN_MOTION_DOT", 34, 43, r" *[+-]?[0-9]?\.[0-9]+ *", "a decimal fraction, -.00000123"),
        _Columns("MEAN_MOTION_DDOT", 45, 52, _POWER, "digits and a power of ten, 12345-3"),
        _Columns("BSTAR", 54, 61, _POWER, "digits and a power of ten, 12345-3"),
        _EPHEMERIS,
    ),
    "2": (
        _NUMBER,
        _Columns("INCLINATION", 9, 16, r" *[0-9]+\.[0-9]{4}", "degrees, 98.1234"),
        _Columns("RA_OF_ASC_NODE", 18, 25, r" *[0-9]+\.[0-9]{4}", "degrees, 359.1234"),
        _Columns("ECCENTRICITY", 27, 33, r"[0-9 ]{6}[0-9]", "seven digits behind an unwritten point, 0001234"),
        _Columns("ARG_OF_PERICENTER", 35, 42, r" *[0-9]+\.[0-9]{4}", "degrees, 359.1234"),
        _Columns("MEAN_ANOMALY", 44, 51, r" *[0-9]+\.[0-9]{4}", "degrees, 359.1234"),
        _Columns("MEAN_MOTION", 53, 63, r" *[0-9]+\.[0-9]{8}", "revolutions a day, 15.12345678"),
    ),
}
_BLANK = {"1": (2, 9, 18, 33, 44, 53, 62, 64), "2": (2, 8, 17, 26, 34, 43, 52)}
_LENGTH = 69
_ELEMENT_LINE = re.compile(r"[12] (?: *[0-9]+|[A-Z][0-9]{1,4})(?:[A-Z ]|$)")
"""Tells a line of elements, even a truncated one, from a satellite's name."""


def _read_tle(source: Source) -> Iterator[ElementSet]:
    name, first, first_at = "", "", 0
    name_at = 0
    for at, raw in enumerate(source.text.splitlines(), start=1):
        line = raw.rstrip()
        if not line or line.startswith("#"):
            continue
        kind = line[0] if _ELEMENT_LINE.match(line) else "name"
        expected = "2" if first else "1"
        if kind == expected == "1":
            first, first_at = _checked_line(source, at, line), at
        elif kind == expected == "2":
            yield _of_lines(source, name, name_at or first_at, (first, first_at), (_checked_line(source, at, line), at))
            name, first, name_at = "", "", 0
        elif kind == "name" and not first and not name_at:
            name, name_at = line.removeprefix("0 ").strip(), at
        else:
            source.refuse(f"line {expected} of two-line elements expected", at, found=line, allowed=_expected(expected))
    if first or name_at:
        last = "2" if first else "1"
        source.refuse(f"the file ends before line {last} of {name or 'the last satellite'}", first_at or name_at)


def _expected(number: str) -> str:
    return f"{_LENGTH} characters that begin with {number} and a catalogue number"


def _checked_line(source: Source, at: int, line: str) -> str:
    if len(line) != _LENGTH:
        message = "the line is truncated" if len(line) < _LENGTH else "the line is too long"
        source.refuse(message, at, found=f"{len(line)} characters", allowed=f"{_LENGTH} characters")
    total = str(sum(int(one) if one in "0123456789" else one == "-" for one in line[:-1]) % 10)
    if line[-1] != total:
        source.refuse("wrong checksum", at, f"checksum, column {_LENGTH}", line[-1], f"{total} for this line")
    for column in _BLANK[line[0]]:
        if line[column - 1] != " ":
            source.refuse("fields run into one another", at, f"column {column}", line[column - 1], "a space")
    for columns in _LINES[line[0]]:
        text = columns.of(line)
        if re.fullmatch(columns.pattern, text) is None:
            field = f"{columns.name}, columns {columns.first}-{columns.last}"
            source.refuse("not what stands in this field", at, field, text, columns.allowed)
    return line


def _of_lines(source: Source, name: str, line: int, first: tuple[str, int], second: tuple[str, int]) -> ElementSet:
    from sgp4.alpha5 import from_alpha5
    from sgp4.api import WGS72, Satrec

    number, other = (int(from_alpha5(_NUMBER.of(text).strip())) for text, _ in (first, second))
    if number != other:
        allowed = f"{number}, as on line {first[1]}"
        source.refuse("the two lines are of different satellites", second[1], "NORAD_CAT_ID", other, allowed)
    written = _EPOCH.of(first[0])
    day = float(written[2:])
    if not 1 <= day < 367:
        source.refuse("no such day", first[1], "EPOCH", written, "a day of the year, 1 to 366")
    year = int(written[:2])  # Two digits, from the launch of Sputnik on.
    epoch = datetime(year + (1900 if year >= 57 else 2000), 1, 1, tzinfo=timezone.utc) + timedelta(days=day - 1)
    for columns in _LINES["2"]:
        if columns.name in _RANGES:
            text = columns.of(second[0])
            value = float(f".{text.replace(' ', '0')}" if columns.name == "ECCENTRICITY" else text)
            _check_range(source, second[1], columns.name, value, text)
    record = Satrec.twoline2rv(first[0], second[0], WGS72)
    return _element_set(source, name, record, epoch, line, number)


# -- OMM --------------------------------------------------------------------------------------------------------------

_RANGES: Mapping[str, tuple[float, float, str]] = {
    # Lower than 0.05 is beyond 300,000 km; more than 18 is inside the Earth.
    "MEAN_MOTION": (0.05, 18.0, "0.05 to 18 revolutions a day"),
    "ECCENTRICITY": (0.0, 0.9999999, "0 up to, and without, 1"),
    "INCLINATION": (0.0, 180.0, "0 to 180 degrees"),
    "RA_OF_ASC_NODE": (0.0, 360.0, "0 to 360 degrees"),
    "ARG_OF_PERICENTER": (0.0, 360.0, "0 to 360 degrees"),
    "MEAN_ANOMALY": (0.0, 360.0, "0 to 360 degrees"),
    "BSTAR": (-10.0, 10.0, "a drag term, -10 to 10 per Earth radius"),
}
"""The elements that decide where the satellite is, and what they may be."""

_LABELS: Mapping[str, tuple[str, str, str]] = {
    # What SGP4's record takes along and does not need: what stands for it when it is absent, pattern, allowed.
    "NORAD_CAT_ID": ("0", r"[0-9]{1,9}", "a catalogue number of at most nine digits"),
    "EPHEMERIS_TYPE": ("0", r"[0-3]", _EPHEMERIS.allowed),
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
    for field in (*_RANGES, *_RATES):
        allowed = _RANGES[field][2] if field in _RANGES else "a number"
        if field not in fields and field in _RANGES:
            refuse("an element is missing", field, allowed)
        values[field] = fields.get(field, "0")
        if _DECIMAL.fullmatch(values[field]) is None:
            refuse("not a number", field, allowed)
        if field in _RANGES:
            _check_range(source, message.line_of(field), field, float(values[field]), fields[field])
    for field, (absent, pattern, allowed) in _LABELS.items():
        values[field] = fields.get(field, absent)
        if re.fullmatch(pattern, values[field]) is None:
            refuse("not what stands in this field", field, allowed)
    number = int(values["NORAD_CAT_ID"])
    values["NORAD_CAT_ID"] = str(number if number <= MAX_ALPHA5 else 0)
    record = Satrec()
    omm.initialize(record, values)
    return _element_set(source, fields.get("OBJECT_NAME", ""), record, epoch, message.line, number)


def _read_json(source: Source) -> Iterator[ElementSet]:
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


def _read_csv(source: Source) -> Iterator[ElementSet]:
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
    missing = [field for field in ("EPOCH", *_RANGES) if field not in header]
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


_XML_ONCE = frozenset({"OBJECT_NAME", "EPOCH", *_RANGES, *_LABELS, *_RATES, *_MEANT})


def _read_xml(source: Source) -> Iterator[ElementSet]:
    return (_of_message(source, message) for message in _XmlOmm(source).found)


# -- both -------------------------------------------------------------------------------------------------------------


def _check_range(source: Source, line: int, field: str, value: float, text: str) -> None:
    low, high, allowed = _RANGES[field]
    if not low <= value <= high:
        source.refuse("out of range", line, field, text, allowed)


def _element_set(source: Source, name: str, record: Satrec, epoch: datetime, line: int, number: int) -> ElementSet:
    from sgp4.api import SGP4_ERRORS

    node = slug(name) or f"sat-{number}"
    if record.error:
        found = f"{SGP4_ERRORS[record.error]}, at the epoch of the elements"
        source.refuse(f"{node} has no orbit", line, "elements", found, "an orbit that stays above the Earth")
    return ElementSet(node, record, epoch, line, number)


_READERS: Mapping[str, Callable[[Source], Iterator[ElementSet]]] = {
    ".tle": _read_tle,
    ".txt": _read_tle,
    ".json": _read_json,
    ".csv": _read_csv,
    ".xml": _read_xml,
}
