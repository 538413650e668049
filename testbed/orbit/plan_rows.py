"""What every format of contact plans has in common: instants, and rows that are checked as they are read.

Every mistake is one ScenarioError with file, line, field, found and allowed.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from testbed.errors import ScenarioError
from testbed.orbit.contacts import Contact
from testbed.orbit.motion import Orbits
from testbed.orbit.propagate import geodetic_itrs_km
from testbed.orbit.stations import Station
from testbed.text_file import TextKind

if TYPE_CHECKING:
    from testbed.orbit.sky import Sky
    from testbed.scenario import Scenario

MAX_BYTES = 256_000_000
"""Some two million contacts: 24 h of 5992 satellites over a dozen stations are a third of that."""

CONTACT_PLAN = TextKind("a contact plan", "a contact plan in UTF-8", MAX_BYTES, missing="no such contact plan")
"""Its file, in any format."""

_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,12}))?(?:([Zz])|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_INSTANT_EXAMPLE = "ISO 8601 with a time zone, for example 2026-06-01T12:00:00.250000Z"
_NUMBER = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_MICROSECOND = timedelta(microseconds=1)

Rates = Callable[[Contact], "tuple[float, float]"]
"""What a contact carries up to the satellite and down from it, in bit/s."""


@dataclass(frozen=True)
class Scope:
    """What a contact plan is about: whose contacts, and what mission time 0 is. Satellites go by the motion's names.

    ``rates_bps`` is needed where a format names rates (ION's).
    """

    title: str
    epoch: datetime
    duration_s: float
    orbits: Orbits
    stations: Sequence[Station]
    rates_bps: Rates | None = None

    @classmethod
    def of(cls, scenario: Scenario, sky: Sky, rates_bps: Rates | None = None) -> Scope:
        """The scope of a scenario's contacts."""
        return cls(scenario.name, scenario.epoch, scenario.duration_s, sky.orbits, scenario.stations, rates_bps)

    @cached_property
    def satellites(self) -> dict[str, str]:
        """Every satellite's name by itself."""
        return {name: name for name in self.orbits.motion.names}

    @cached_property
    def slugs(self) -> dict[str, str]:
        """Every station's slug by its slug and by its name."""
        return {key: one.slug for one in self.stations for key in (one.name, one.slug)}


def utc_text(epoch: datetime, at_s: float) -> str:
    """The instant of a mission time: ISO 8601 in UTC with microseconds, ``2026-06-01T02:24:00.000000Z``."""
    return iso_text(instant_at(epoch, at_s))


def iso_text(instant: datetime) -> str:
    """An aware instant in the same form."""
    return instant.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def instant_at(epoch: datetime, at_s: float) -> datetime:
    """The instant (UTC, to the nearest microsecond) of a mission time."""
    return epoch.astimezone(timezone.utc) + timedelta(seconds=at_s)


def window(contact: Contact, epoch: datetime) -> tuple[datetime, datetime]:
    """A contact's start and end as instants; the end is at least a microsecond after the start."""
    start = instant_at(epoch, contact.start_s)
    return start, max(instant_at(epoch, contact.end_s), start + _MICROSECOND)


@dataclass(frozen=True)
class Place:
    """A line of a file, to blame."""

    where: str
    line: int

    def refuse(self, message: str, field: str | None, found: object, allowed: str) -> NoReturn:
        """Raise the ScenarioError."""
        shown = str(found)
        shown = (shown if len(shown) <= 80 else shown[:77] + "...") or "nothing"
        raise ScenarioError(message, where=self.where, line=self.line, field=field, found=shown, allowed=allowed)


@dataclass(frozen=True)
class Row:
    """A contact as a file has it. NaN stands for an elevation that the file does not give."""

    place: Place
    contact: Contact


def row_of(place: Place, record: Mapping[str, object], scope: Scope) -> Row:
    """A checked row from a record with text under satellite, station, start, end."""
    satellite = _known(place, "satellite", record["satellite"], scope.satellites)
    station = _known(place, "station", record["station"], scope.slugs)
    start_s, end_s = (_mission_s(place, field, record[field], scope.epoch) for field in ("start", "end"))
    if end_s <= start_s:
        found = f"{record['start']} to {record['end']}"
        place.refuse("a contact ends after it starts", "end", found, "an end after the start")
    elevation_deg = _elevation_deg(place, record.get("max_elevation_deg"))
    return Row(place, Contact(satellite, station, start_s, end_s, elevation_deg))


def _known(place: Place, field: str, name: object, known: Mapping[str, str]) -> str:
    if isinstance(name, str) and name.strip() in known:
        return known[name.strip()]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    names = list(dict.fromkeys(known.values()))
    allowed = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    place.refuse(f"the scenario has no such {field}{hint}", field, name, allowed or "none")


def _mission_s(place: Place, field: str, text: object, epoch: datetime) -> float:
    match = _INSTANT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        place.refuse("not an instant", field, text, _INSTANT_EXAMPLE)
    day, clock, fraction, zulu, sign, hours, minutes = match.groups()
    if zulu is None and sign is None:
        place.refuse("the instant names no time zone", field, text, _INSTANT_EXAMPLE)
    zone = "+00:00" if zulu else f"{sign}{hours}:{minutes}"
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{zone}")
        since_us = (whole - epoch) // _MICROSECOND
    except (ValueError, OverflowError):
        place.refuse("no such instant", field, text, _INSTANT_EXAMPLE)
    return (since_us + round(float(f"0.{fraction or 0}") * 1e6)) / 1e6


def _elevation_deg(place: Place, value: object) -> float:
    if value is None or value == "":
        return math.nan
    sound = isinstance(value, str) and _NUMBER.fullmatch(value) or isinstance(value, int | float)
    if isinstance(value, bool) or not sound or not -90 <= float(value) <= 90:  # type: ignore[arg-type]
        place.refuse("not an elevation", "max_elevation_deg", value, "a number of degrees from -90 to 90")
    return float(value)  # type: ignore[arg-type]


def checked(rows: Iterable[Row], where: str, scope: Scope) -> tuple[Contact, ...]:
    """What the rows say within the horizon, sorted by start, satellite, station.

    ScenarioError where windows of one pair overlap, and where there are some but none within the horizon.
    """
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row.contact.satellite, row.contact.station), []).append(row)
    for (satellite, station), ours in by_pair.items():
        ours.sort(key=lambda row: row.contact.start_s)
        for earlier, later in zip(ours, ours[1:], strict=False):
            if later.contact.start_s < earlier.contact.end_s:
                first, second = sorted((earlier, later), key=lambda row: row.place.line)
                second.place.refuse(
                    f"this contact overlaps the one of line {first.place.line} of the same satellite and station",
                    "start",
                    f"{satellite} over {station}, {' to '.join(map(iso_text, window(second.contact, scope.epoch)))}",
                    f"none of {' to '.join(map(iso_text, window(first.contact, scope.epoch)))}",
                )
    every = [row.contact for ours in by_pair.values() for row in ours]
    found = [cut for cut in (_cut(one, scope.duration_s) for one in every) if cut is not None]
    if every and not found:
        first_s, last_s = min(one.start_s for one in every), max(one.end_s for one in every)
        raise ScenarioError(
            "no contact lies within the scenario's horizon",
            where=where,
            field="contacts",
            found=f"{utc_text(scope.epoch, first_s)} to {utc_text(scope.epoch, last_s)}",
            allowed=f"{utc_text(scope.epoch, 0.0)} to {utc_text(scope.epoch, scope.duration_s)}",
        )
    complete = [
        replace(one, max_elevation_deg=_peak_deg(one, scope)) if math.isnan(one.max_elevation_deg) else one
        for one in found
    ]
    return tuple(sorted(complete, key=lambda one: (one.start_s, one.satellite, one.station)))


def _cut(contact: Contact, duration_s: float) -> Contact | None:
    start_s, end_s = max(contact.start_s, 0.0), min(contact.end_s, duration_s)
    return replace(contact, start_s=start_s, end_s=end_s) if end_s > start_s else None


def _peak_deg(contact: Contact, scope: Scope) -> float:
    """The highest elevation in a contact: 61 samples, three times, each time around the best so far."""
    station = next(one for one in scope.stations if one.slug == contact.station)
    place_km, zenith = geodetic_itrs_km(station.latitude_deg, station.longitude_deg, station.altitude_m)
    motion, low_s, high_s = scope.orbits.motion, contact.start_s, contact.end_s
    for _ in range(3):
        at_s = np.linspace(low_s, high_s, 61)
        sight_km = motion.state_itrs_km(at_s)[0][motion.row(contact.satellite)] - place_km
        sine = sight_km @ zenith / np.linalg.norm(sight_km, axis=-1)
        best = int(np.argmax(sine))
        low_s, high_s = float(at_s[max(best - 1, 0)]), float(at_s[min(best + 1, 60)])
    return math.degrees(math.asin(float(np.clip(sine[best], -1.0, 1.0))))
