"""Two-line elements, read by column as celestrak.org/NORAD/documentation/tle-fmt.php lays them out.

Catalogue numbers beyond five digits are in Alpha-5 (A0001 is 100001; I and O are left out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from testbed.orbit.elements import EPHEMERIS_TYPE, RANGES, ElementSet, Source, check_range, element_set


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
_LINES: Mapping[str, tuple[_Columns, ...]] = {
    "1": (
        _NUMBER,
        _EPOCH,
        _Columns("MEAN_MOTION_DOT", 34, 43, r" *[+-]?[0-9]?\.[0-9]+ *", "a decimal fraction, -.00000123"),
        _Columns("MEAN_MOTION_DDOT", 45, 52, _POWER, "digits and a power of ten, 12345-3"),
        _Columns("BSTAR", 54, 61, _POWER, "digits and a power of ten, 12345-3"),
        _Columns("EPHEMERIS_TYPE", 63, 63, r"[ 0-3]", EPHEMERIS_TYPE),
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


def read_tle(source: Source) -> Iterator[ElementSet]:
    """The satellites of a text of two-line elements, each with a line for its name above it or without.

    Raises ScenarioError with line and field.
    """
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
        if columns.name in RANGES:
            text = columns.of(second[0])
            value = float(f".{text.replace(' ', '0')}" if columns.name == "ECCENTRICITY" else text)
            check_range(source, second[1], columns.name, value, text)
    record = Satrec.twoline2rv(first[0], second[0], WGS72)
    return element_set(source, name, record, epoch, line, number)
