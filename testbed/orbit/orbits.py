"""A scenario's orbits, from a constellation code or from a file: how satellites move, and which share a plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from testbed.errors import ScenarioError
from testbed.orbit.catalogue import MAX_BYTES, read_elements
from testbed.orbit.constellation import EARTH_RADIUS_KM, GRAMMAR, WGS72_MU_KM3_S2, parse_constellation
from testbed.orbit.elements import ElementSet
from testbed.orbit.ephemeris import EARTH_RATE_RAD_S
from testbed.orbit.motion import Array, Motion, Orbits
from testbed.orbit.oem import read_oem
from testbed.orbit.propagate import Propagator
from testbed.text_file import TextKind, read_filled_text

if TYPE_CHECKING:
    from sgp4.api import Satrec

SUFFIXES = frozenset({".tle", ".txt", ".json", ".csv", ".xml", ".oem"})
"""What a file of orbits ends in; anything else is a constellation code."""

WARN_AGE_DAYS = 14.0
"""SGP4 with public elements is commonly a kilometre off at their epoch, and one to three more with every day."""

MAX_AGE_DAYS = 365.0
"""After a year the place along the orbit, and with it every contact, is arbitrary."""

MIN_PERIGEE_KM = 80.0
"""No satellite is known to have gone round much below it (McDowell, Acta Astronautica 151, 2018, on the edge of space).
Counted from the equatorial radius."""

PLANE_TOLERANCE_DEG = 2.0
"""Satellites whose orbits' normals are this near, one to the next, share a plane. Planes of the densest constellation
that flies are 4 degrees apart (72 at 53 degrees); satellites of one are within tenths, of an old one within degrees."""

AXIS_TOLERANCE_KM = 5.0
"""The same for semi-major axes. Neighbouring shells are 10 km apart; 5 km drift by 5 degrees a day in a low orbit."""

_TABLE = TextKind("a table of orbits", "two-line elements or CCSDS OEM, in UTF-8", MAX_BYTES)
"""What a .txt is."""

_CHECKS = 9
"""Instants of the horizon at which every orbit is looked at; decay is one-way, so the last would nearly do."""

_J2, _SGP4_RADIUS_KM = 1.082616e-3, 6378.135
"""The Earth's oblateness and equatorial radius in WGS72."""


def open_orbits(text: str, folder: Path, epoch: datetime, duration_s: float) -> Orbits:
    """The satellites that ``text`` stands for, checked for the horizon from ``epoch`` (aware) to ``duration_s`` on.

    ``text`` is a constellation code or the path of a file, absolute or in ``folder``. A code's planes are as written;
    those of a file are found (``find_planes``). Raises ScenarioError, with file and line where there is a file.
    """
    path = Path(text.strip())
    if path.suffix.casefold() not in SUFFIXES:
        return _of_code(text, epoch, duration_s)
    path = folder / path
    if _is_oem(path):
        ephemerides = read_oem(path, epoch)
        ephemerides.check_span(duration_s)
        return Orbits(ephemerides, find_planes(ephemerides))
    return _of_elements(path, epoch, duration_s)


def _is_oem(path: Path) -> bool:
    suffix = path.suffix.casefold()  # the space station's OEM is published as .txt
    return suffix == ".oem" or (
        suffix == ".txt" and read_filled_text(path, _TABLE).lstrip().startswith("CCSDS_OEM_VERS")
    )


def _of_code(text: str, epoch: datetime, duration_s: float) -> Orbits:
    try:
        constellation = parse_constellation(text)
    except ScenarioError as error:
        if error.allowed != GRAMMAR:
            raise
        allowed = f"{GRAMMAR}, or a file that ends in {', '.join(sorted(SUFFIXES))}"
        raise ScenarioError(error.message, field=error.field, found=error.found, allowed=allowed) from None
    propagator = Propagator(constellation, epoch)
    blames = [_Blame(name) for name in propagator.names]
    _check_flight(blames, propagator.satrecs, epoch, duration_s)
    planes = tuple(tuple(one.name for one in plane) for plane in constellation.planes)
    return Orbits(propagator, planes, _swapped_shells(constellation.code))


def _swapped_shells(code: str) -> tuple[str, ...]:
    """A warning for each shell that means Starlink's first, as published drafts of the code do, and writes another."""
    warnings = []
    for shell in (one.strip() for one in code.split("+")):
        walker, altitude, inclination, numbers = shell.split(":")[:4]
        total, planes, _ = map(int, numbers.split("/"))
        meant = total == 1584 and abs(float(altitude) - 550) <= 10 and abs(float(inclination) - 53) <= 1
        if meant and (walker, planes) != ("D", 72):
            kind = "delta" if walker == "D" else "star"
            warnings.append(
                f"{shell} is a Walker {kind} of {planes} planes of {total // planes}; Starlink's first shell is a "
                "Walker delta of 72 planes of 22, D:550:53:1584/72/17. Published examples of the code have it wrong."
            )
    return tuple(warnings)


# -- elements ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Blame:
    """Whom an error names: the satellite, and where it is written."""

    name: str
    where: str | None = None
    line: int | None = None

    def refuse(self, message: str, field: str, found: str, allowed: str) -> NoReturn:
        raise ScenarioError(message, where=self.where, line=self.line, field=field, found=found, allowed=allowed)


def _of_elements(path: Path, epoch: datetime, duration_s: float) -> Orbits:
    sets = read_elements(path)
    names, satrecs = [one.name for one in sets], [one.satrec for one in sets]
    propagator = Propagator.of_satrecs(names, satrecs, epoch)
    blames = [_Blame(one.name, str(path), one.line) for one in sets]
    warnings = _check_ages(sets, blames, epoch, duration_s)
    _check_flight(blames, satrecs, epoch, duration_s)
    return Orbits(propagator, find_planes(propagator), warnings)


def _check_ages(
    sets: Sequence[ElementSet], blames: Sequence[_Blame], epoch: datetime, duration_s: float
) -> tuple[str, ...]:
    """Refuse elements of another year; one warning for those of another fortnight."""
    end = epoch + timedelta(seconds=duration_s)
    ages = [max(abs(one.epoch - epoch), abs(one.epoch - end)) / timedelta(days=1) for one in sets]
    worst = max(range(len(sets)), key=ages.__getitem__)
    name, written = sets[worst].name, f"{sets[worst].epoch:%Y-%m-%dT%H:%M:%SZ}"
    if ages[worst] > MAX_AGE_DAYS:
        blames[worst].refuse(
            f"the elements of {name} are {ages[worst]:.0f} days away from the horizon's far end",
            "EPOCH",
            written,
            f"at most {MAX_AGE_DAYS:.0f} days from {epoch:%Y-%m-%dT%H:%M:%SZ} and from {end:%Y-%m-%dT%H:%M:%SZ}",
        )
    old = sum(age > WARN_AGE_DAYS for age in ages)
    if not old:
        return ()
    return (
        f"{blames[worst].where}: {old} of {len(sets)} sets of elements are more than {WARN_AGE_DAYS:.0f} days away "
        f"from the horizon's far end, at worst those of {name} (line {sets[worst].line}) by {ages[worst]:.1f} days, "
        f"from {written}; SGP4 gains one to three kilometres of error a day",
    )


def _check_flight(blames: Sequence[_Blame], satrecs: Sequence[Satrec], epoch: datetime, duration_s: float) -> None:
    """Refuse orbits that are too low at first, or become so before the horizon ends."""
    from sgp4.api import SGP4_ERRORS
    from sgp4.conveniences import jday_datetime

    instants = [epoch + timedelta(seconds=float(at_s)) for at_s in np.linspace(0.0, duration_s, _CHECKS)]
    dates = [(instant, *jday_datetime(instant)) for instant in instants]
    allowed = f"a perigee of {MIN_PERIGEE_KM:g} km or more throughout the horizon"
    for blame, record in zip(blames, satrecs, strict=True):
        if record.altp * _SGP4_RADIUS_KM < MIN_PERIGEE_KM:
            found = f"a perigee of {record.altp * _SGP4_RADIUS_KM:.1f} km"
            blame.refuse(f"the orbit of {blame.name} is sub-orbital", "elements", found, allowed)
        for instant, whole, fraction in dates:
            error, _, _ = record.sgp4(whole, fraction)
            perigee_km = (record.am * (1 - record.em) - 1) * _SGP4_RADIUS_KM
            if error or not perigee_km >= MIN_PERIGEE_KM:
                found = SGP4_ERRORS[error] if error else f"a perigee of {perigee_km:.1f} km"
                message = f"the orbit of {blame.name} decays before {instant:%Y-%m-%dT%H:%M:%SZ}"
                blame.refuse(message, "elements", found, allowed)


# -- planes -----------------------------------------------------------------------------------------------------------


def find_planes(motion: Motion) -> tuple[tuple[str, ...], ...]:
    """Who flies in one plane at mission time 0, in ring order: by argument of latitude, from the file's first on.

    A plane is a chain of satellites whose orbits' normals are within ``PLANE_TOLERANCE_DEG`` of a neighbour's, which
    says inclination and node at once, on the sphere, so that neither 360 degrees nor the equator is special, and whose
    semi-major axes are within ``AXIS_TOLERANCE_KM`` of it. Planes of like inclination and axis form a shell; shells
    come in the file's order, planes of a shell by node, eastwards from its widest gap, or from the file's first plane
    where the gaps are even.
    """
    position_km, velocity_km_s = (state[:, 0] for state in motion.state_itrs_km(np.array([0.0])))
    normals, axes_km = _orbits(position_km, velocity_km_s)
    members = _chained(normals, axes_km)
    means = [_unit(normals[one].sum(axis=0)) for one in members]
    rings = [_ring(one, mean, position_km) for one, mean in zip(members, means, strict=True)]
    inclinations = np.array([math.degrees(math.acos(min(1.0, max(-1.0, mean[2])))) for mean in means])
    nodes_deg = np.array([math.degrees(math.atan2(mean[0], -mean[1])) % 360 for mean in means])
    mean_axes_km = np.array([float(np.mean(axes_km[one])) for one in members])
    order: list[int] = []
    for first in range(len(members)):  # in the file's order of their first satellites
        if first in order:
            continue
        alike = (abs(inclinations - inclinations[first]) <= PLANE_TOLERANCE_DEG) & (
            abs(mean_axes_km - mean_axes_km[first]) <= AXIS_TOLERANCE_KM
        )
        order += _eastwards([one for one in np.nonzero(alike)[0].tolist() if one not in order], nodes_deg)
    return tuple(tuple(motion.names[row] for row in rings[one]) for one in order)


def _orbits(position_km: Array, velocity_km_s: Array) -> tuple[Array, Array]:
    """Unit normals (in the Earth-fixed frame of the instant) and semi-major axes, from Earth-fixed states.

    The axis is that of the energy with J2's part of it: the plain one swings by 10 km along a low orbit.
    """
    inertial = velocity_km_s + np.cross([0.0, 0.0, EARTH_RATE_RAD_S], position_km)
    normals = _unit(np.cross(position_km, inertial))
    radius = np.linalg.norm(position_km, axis=1)
    bulge = _J2 * (EARTH_RADIUS_KM / radius) ** 2 * (3 * (position_km[:, 2] / radius) ** 2 - 1) / 2
    energy = np.einsum("ij,ij->i", inertial, inertial) / 2 - WGS72_MU_KM3_S2 / radius * (1 - bulge)
    return normals, -WGS72_MU_KM3_S2 / (2 * energy)


def _chained(normals: Array, axes_km: Array) -> list[NDArray[np.intp]]:
    """Single linkage: rows of each plane, planes in the order of their first rows."""
    free = np.ones(len(normals), dtype=bool)
    near = math.cos(math.radians(PLANE_TOLERANCE_DEG))
    found = []
    for row in range(len(normals)):
        if not free[row]:
            continue
        plane = [row]
        free[row] = False
        for member in plane:  # it grows while we go through it
            like = free & (normals @ normals[member] >= near) & (abs(axes_km - axes_km[member]) <= AXIS_TOLERANCE_KM)
            plane += np.nonzero(like)[0].tolist()
            free &= ~like
        found.append(np.array(sorted(plane)))
    return found


def _ring(rows: NDArray[np.intp], normal: Array, position_km: Array) -> list[int]:
    """Rows by argument of latitude, the lowest row first."""
    node = np.array([-normal[1], normal[0], 0.0])
    # On the equator there is no node, and any direction serves.
    node = _unit(node) if np.linalg.norm(node) > 1e-6 else np.array([1.0, 0.0, 0.0])
    along = np.arctan2(position_km[rows] @ np.cross(normal, node), position_km[rows] @ node)
    order = rows[np.argsort((along - along[0]) % (2 * math.pi), kind="stable")]
    return [int(row) for row in order]


def _eastwards(planes: list[int], nodes_deg: Array) -> list[int]:
    start_deg = nodes_deg[planes[0]]
    ordered = sorted(planes, key=lambda one: nodes_deg[one])
    gaps_deg = [(nodes_deg[one] - nodes_deg[ordered[index - 1]]) % 360 for index, one in enumerate(ordered)]
    widest = int(np.argmax(gaps_deg))
    if len(planes) > 2 and gaps_deg[widest] > 1.5 * float(np.median(gaps_deg)):
        start_deg = nodes_deg[ordered[widest]]
    return sorted(planes, key=lambda one: (nodes_deg[one] - start_deg) % 360)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
