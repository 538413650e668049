"""Contact plans in files: CSV, JSON and ION's commands, written and read; instants are UTC to the microsecond."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from testbed.errors import ScenarioError
from testbed.orbit.contacts import Contact
from testbed.orbit.czml import write_czml
from testbed.orbit.ion import read_ion, write_ion
from testbed.orbit.motion import Motion, Orbits
from testbed.orbit.plan_rows import CONTACT_PLAN, Place, Row, Scope, checked, iso_text, row_of, utc_text, window
from testbed.orbit.stations import Station
from testbed.text_file import read_filled_text

__all__ = [
    "COLUMNS",
    "FORMATS",
    "TABLE_COLUMNS",
    "PlanFormat",
    "Scope",
    "contacts_document",
    "json_rows",
    "read_contacts",
    "read_csv",
    "read_ion",
    "read_json",
    "table_rows",
    "utc_text",
    "write_csv",
    "write_czml",
    "write_ion",
    "write_json",
]

COLUMNS = ("satellite", "station", "start", "end", "duration_s", "max_elevation_deg")
"""Of the CSV file. ``duration_s`` is for people and not read back."""

_NEEDED = ("satellite", "station", "start", "end")


# -- writing ----------------------------------------------------------------------------------------------------------


def contacts_document(name: str, contacts: Sequence[Contact], scope: Scope) -> str:
    """The plan as text in the format of this name: csv, ion, json or czml. ScenarioError lists the names."""
    if name not in FORMATS:
        raise ScenarioError("no such format of contact plans", where="--format", found=name, allowed=", ".join(FORMATS))
    return FORMATS[name].write(contacts, scope)


def write_csv(contacts: Sequence[Contact], epoch: datetime) -> str:
    """CSV with a header (``COLUMNS``): durations in s and angles in degrees, both to three decimals."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in contacts:
        start, end = window(one, epoch)
        written = (f"{one.duration_s:.3f}", f"{one.max_elevation_deg:.3f}")
        writer.writerow((one.satellite, one.station, iso_text(start), iso_text(end), *written))
    return file.getvalue()


def write_json(contacts: Sequence[Contact], epoch: datetime) -> str:
    """A JSON array with one object a line: satellite, station, start, end, max_elevation_deg."""
    rows = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in json_rows(contacts, epoch)]
    return "[\n  " + ",\n  ".join(rows) + "\n]\n" if rows else "[]\n"


def json_rows(contacts: Sequence[Contact], epoch: datetime) -> list[dict[str, Any]]:
    """The objects of that array."""
    rows = []
    for one in contacts:
        start, end = window(one, epoch)
        rows.append(
            {
                "satellite": one.satellite,
                "station": one.station,
                "start": iso_text(start),
                "end": iso_text(end),
                "max_elevation_deg": round(one.max_elevation_deg, 6),
            }
        )
    return rows


def table_rows(contacts: Sequence[Contact], epoch: datetime) -> list[tuple[str, ...]]:
    """For people: start (UTC), end (UTC), length, satellite, station, highest elevation; seconds to a tenth."""
    rows: list[tuple[str, ...]] = []
    for one in contacts:
        start, end = window(one, epoch)
        minutes, seconds = divmod(round(one.duration_s * 10), 600)
        rows.append(
            (
                f"{start:%Y-%m-%d %H:%M:%S}.{start.microsecond // 100_000}",
                f"{end:%H:%M:%S}.{end.microsecond // 100_000}",
                f"{minutes}:{seconds / 10:04.1f}",
                one.satellite,
                one.station,
                f"{one.max_elevation_deg:.1f} deg",
            )
        )
    return rows


TABLE_COLUMNS = ("from (UTC)", "to", "for", "satellite", "station", "highest")
"""Of ``table_rows``."""


# -- reading ----------------------------------------------------------------------------------------------------------


def read_contacts(
    path: Path, epoch: datetime, *, motion: Motion, stations: Sequence[Station], duration_s: float
) -> tuple[Contact, ...]:
    """The contacts of a file, by its suffix (.csv, .json, .ion or .ionrc), in ``find_contacts``'s order.

    Windows are cut at the horizon ``[0, duration_s]``. Where the file does not say how high a satellite climbs, its
    orbit does. Raises ScenarioError, also when no window lies within the horizon.
    """
    readers = {suffix: one.read for one in FORMATS.values() if one.read is not None for suffix in one.suffixes}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ScenarioError(
            "the format of a contact plan follows from its name",
            where=str(path),
            found=path.suffix or "no suffix",
            allowed=", ".join(readers),
        )
    return read(path, Scope("", epoch, duration_s, Orbits(motion, ()), stations))


def read_csv(path: Path, scope: Scope) -> tuple[Contact, ...]:
    """Contacts from CSV; columns in any order, unknown ones are passed over, max_elevation_deg is optional."""
    return checked(_csv_rows(read_filled_text(path, CONTACT_PLAN), str(path), scope), str(path), scope)


def read_json(path: Path, scope: Scope) -> tuple[Contact, ...]:
    """Contacts from a JSON array of objects; max_elevation_deg is optional."""
    return checked(_json_rows(read_filled_text(path, CONTACT_PLAN), str(path), scope), str(path), scope)


def _csv_rows(text: str, where: str, scope: Scope) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(text), strict=True, skipinitialspace=True)
    place = Place(where, 1)
    try:
        header = [name.strip() for name in next(filter(any, lines))]
        place = Place(where, lines.line_num)
        for name in _NEEDED:
            if header.count(name) != 1:
                message = "a column stands there twice" if name in header else "a column is missing"
                place.refuse(message, name, ", ".join(header), ", ".join(COLUMNS))
        for cells in lines:
            place = Place(where, lines.line_num)
            if not any(cells):
                continue
            if len(cells) != len(header):
                found = f"{len(cells)} values"
                place.refuse("the line is not as long as the header", None, found, f"{len(header)} values")
            yield row_of(place, dict(zip(header, (cell.strip() for cell in cells), strict=True)), scope)
    except csv.Error as error:
        Place(where, lines.line_num).refuse("not CSV", None, error, "CSV as in RFC 4180")


def _json_rows(text: str, where: str, scope: Scope) -> Iterator[Row]:
    """One by one, since Python's parser forgets on which line an object began."""
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)
    at, line = _skipped(text, 0, 1)
    if not text.startswith("[", at):
        found = text[at : at + 20]
        Place(where, line).refuse("a contact plan in JSON is an array", None, found, '[{"satellite": ...}, ...]')
    at, line = _skipped(text, at + 1, line)
    more = not text.startswith("]", at)
    while more:
        place = Place(where, line)
        try:
            pairs, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            Place(where, error.lineno).refuse("not JSON", None, error.msg, "JSON as in RFC 8259")
        except (RecursionError, ValueError):
            place.refuse("not a contact", None, text[at : at + 60], "an object of text and numbers")
        yield row_of(place, _record(place, pairs), scope)
        at, line = _skipped(text, end, line + text.count("\n", at, end))
        more = text.startswith(",", at)
        if more:
            at, line = _skipped(text, at + 1, line)
    if not text.startswith("]", at) or text[at + 1 :].strip():
        found = text[at : at + 20] or "the end of the file"
        Place(where, line).refuse("not JSON", None, found, "a comma, or ] and the end of the file")


_BLANKS = re.compile(r"[ \t\r\n]*")


def _skipped(text: str, at: int, line: int) -> tuple[int, int]:
    match = _BLANKS.match(text, at)
    end = match.end() if match else at
    return end, line + text.count("\n", at, end)


def _record(place: Place, pairs: object) -> dict[str, object]:
    """An object's fields, which the decoder leaves as a list of pairs."""
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        place.refuse("not a contact", None, pairs, 'an object such as {"satellite": "sat-0-0", ...}')
    record = dict(pairs)
    for name in _NEEDED:
        if name not in record:
            place.refuse("a field is missing", name, ", ".join(record), ", ".join(_NEEDED))
    if len(record) != len(pairs):
        place.refuse("a field stands there twice", None, ", ".join(name for name, _ in pairs), "each field once")
    return record


# -- formats ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanFormat:
    """One way to write a contact plan, and to read it back where that is possible."""

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[Sequence[Contact], Scope], str]
    read: Callable[[Path, Scope], tuple[Contact, ...]] | None = None


FORMATS: dict[str, PlanFormat] = {
    one.name: one
    for one in (
        PlanFormat("csv", (".csv",), lambda contacts, scope: write_csv(contacts, scope.epoch), read_csv),
        PlanFormat("ion", (".ion", ".ionrc"), write_ion, read_ion),
        PlanFormat("json", (".json",), lambda contacts, scope: write_json(contacts, scope.epoch), read_json),
        PlanFormat("czml", (".czml",), write_czml),
    )
}
"""All formats, by name."""
