"""What every source of orbital elements has in common: the set, the place it is blamed on, names, instants and ranges.

What a number may be is checked here, because SGP4 takes anything. The formats are rooms of their own:
``testbed.orbit.tle`` and ``testbed.orbit.omm``; ``testbed.orbit.catalogue`` opens whichever a file is. Both become
records of SGP4 with the constants of WGS72, which is what elements are fitted with (Vallado et al., AIAA 2006-6753).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NoReturn

from testbed.errors import ScenarioError

if TYPE_CHECKING:
    from sgp4.api import Satrec

MAX_NAME_LENGTH = 63
"""Names of satellites name hosts, and this is what RFC 1123 and RFC 1035 leave them."""

EPHEMERIS_TYPE = "0, for SGP4 (4 is SGP4-XP, another theory)"
"""What both formats may say of the theory that elements were fitted with."""

RANGES: Mapping[str, tuple[float, float, str]] = {
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


@dataclass(frozen=True)
class ElementSet:
    """One satellite: the node's name, SGP4's record, the instant its elements hold for (aware, UTC), and the line in
    the file at which they begin."""

    name: str
    satrec: Satrec
    epoch: datetime
    line: int
    catalog_number: int


# -- where it stands ---------------------------------------------------------------------------------------------------


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


# -- names and instants ------------------------------------------------------------------------------------------------


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


# -- the set -----------------------------------------------------------------------------------------------------------


def check_range(source: Source, line: int, field: str, value: float, text: str) -> None:
    """Refuse an element (a key of ``RANGES``, in its units) out of its range; ``text`` is how it is written."""
    low, high, allowed = RANGES[field]
    if not low <= value <= high:
        source.refuse("out of range", line, field, text, allowed)


def element_set(source: Source, name: str, record: Satrec, epoch: datetime, line: int, number: int) -> ElementSet:
    """The set of an initialised record, under the slug of its name, or by its catalogue number where none is left.

    Raises ScenarioError where SGP4 finds no orbit in it.
    """
    from sgp4.api import SGP4_ERRORS

    node = slug(name) or f"sat-{number}"
    if record.error:
        found = f"{SGP4_ERRORS[record.error]}, at the epoch of the elements"
        source.refuse(f"{node} has no orbit", line, "elements", found, "an orbit that stays above the Earth")
    return ElementSet(node, record, epoch, line, number)
