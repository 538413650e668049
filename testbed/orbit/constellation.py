"""Constellations: the IETF constellation code and the satellites it stands for.

The code is that of draft-piraux-space-constellation-code (IRTF SPACE research group)::

    constellation = shell *( "+" shell )
    shell         = ( "D" / "S" ) ":" altitude ":" inclination ":" T "/" P "/" F [ ":" mean-anomaly ]

``D`` spreads the ascending nodes of the P planes over 360 degrees (Walker delta), ``S`` over 180 (Walker star). T is
the number of satellites in all planes together, F the phasing factor: neighbouring planes are shifted by 360 F / T
degrees of mean anomaly (Walker, J. Br. Interplanet. Soc. 37, 1984). The mean anomaly, in degrees, is that of the first
satellite of the first plane. The draft leaves epoch and Earth radius open; here the epoch is the scenario's, and
altitude is counted from the equatorial radius of WGS84 (``EARTH_RADIUS_KM``).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from testbed.errors import ScenarioError

EARTH_RADIUS_KM = 6378.137
"""Equatorial radius of WGS84. With the mean radius, 6371, the period of a 705 km orbit would be 9 s shorter."""

WGS72_MU_KM3_S2 = 398600.8
"""Gravitational parameter of WGS72, the constants that SGP4 is defined with (Spacetrack Report No. 3)."""

MIN_ALTITUDE_KM = 80.0
"""Below this nothing completes an orbit (an ellipse's lowest perigee: McDowell, Acta Astronautica 151, 2018)."""

MAX_ALTITUDE_KM = 100_000.0
"""Beyond this an Earth satellite is no longer what SGP4 models (its lunar and solar terms are first order)."""

MAX_SATELLITES = 100_000
"""A bound against slips of the keyboard; all satellites ever planned in one shell are fewer."""

GRAMMAR = "D|S:altitude_km:inclination_deg:T/P/F[:mean-anomaly_deg], shells joined by +, e.g. D:705:98.2:8/1/0"

_NUMBER = r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?"
_COUNT = r"[0-9]{1,9}"
_SHELL = re.compile(
    rf"(?P<walker>[DS]):(?P<altitude>{_NUMBER}):(?P<inclination>{_NUMBER})"
    rf":(?P<total>{_COUNT})/(?P<planes>{_COUNT})/(?P<phasing>{_COUNT})(?::(?P<anomaly>{_NUMBER}))?"
)
_NODE_SPREAD_DEG = {"D": 360.0, "S": 180.0}


@dataclass(frozen=True)
class Satellite:
    """One satellite and its mean elements at the scenario's epoch, as SGP4 takes them (frame TEME, Kozai mean motion).

    ``plane`` counts over all shells of the constellation, ``index`` within the plane in order of mean anomaly.
    """

    name: str
    plane: int
    index: int
    mean_motion_rad_s: float
    inclination_deg: float
    node_deg: float
    mean_anomaly_deg: float
    eccentricity: float = 0.0
    perigee_deg: float = 0.0


@dataclass(frozen=True)
class Constellation:
    """Satellites in order of plane, then index. ``code`` is the text it was made from."""

    code: str
    satellites: tuple[Satellite, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The satellites' names, in order."""
        return tuple(satellite.name for satellite in self.satellites)

    @cached_property
    def planes(self) -> tuple[tuple[Satellite, ...], ...]:
        """The satellites of each plane, in order of index; neighbours in a tuple are neighbours in space."""
        by_plane: dict[int, list[Satellite]] = defaultdict(list)
        for satellite in self.satellites:
            by_plane[satellite.plane].append(satellite)
        return tuple(tuple(sorted(by_plane[plane], key=lambda one: one.index)) for plane in sorted(by_plane))


def parse_constellation(code: str) -> Constellation:
    """Read an IETF constellation code. Raises ScenarioError where the code breaks the grammar or its bounds."""
    satellites: list[Satellite] = []
    first_plane = 0
    for number, text in enumerate(code.strip().split("+"), start=1):
        shell = _shell(text.strip(), number)
        if len(satellites) + shell.total > MAX_SATELLITES:
            _refuse("too many satellites", len(satellites) + shell.total, f"at most {MAX_SATELLITES} in all shells")
        satellites += _satellites(shell, first_plane)
        first_plane += shell.planes
    return Constellation(code.strip(), tuple(satellites))


def mean_motion_rad_s(altitude_km: float) -> float:
    """Kepler's third law for a circular orbit at ``altitude_km`` above the equatorial radius."""
    return math.sqrt(WGS72_MU_KM3_S2 / (EARTH_RADIUS_KM + altitude_km) ** 3)


@dataclass(frozen=True)
class _Shell:
    walker: str
    altitude_km: float
    inclination_deg: float
    total: int
    planes: int
    phasing: int
    mean_anomaly_deg: float


def _shell(text: str, number: int) -> _Shell:
    match = _SHELL.fullmatch(text)
    if match is None:
        _refuse(f"shell {number} does not follow the constellation code", text or "(nothing)", GRAMMAR)
    shell = _Shell(
        walker=match["walker"],
        altitude_km=float(match["altitude"]),
        inclination_deg=float(match["inclination"]),
        total=int(match["total"]),
        planes=int(match["planes"]),
        phasing=int(match["phasing"]),
        mean_anomaly_deg=float(match["anomaly"] or 0.0),
    )
    at = f"in shell {number} ({text}):"
    if not MIN_ALTITUDE_KM <= shell.altitude_km <= MAX_ALTITUDE_KM:
        allowed = f"{MIN_ALTITUDE_KM:g} to {MAX_ALTITUDE_KM:.0f} km"
        _refuse(f"{at} altitude out of range", match["altitude"], allowed)
    if not 0.0 <= shell.inclination_deg <= 180.0:
        _refuse(f"{at} inclination out of range", match["inclination"], "0 to 180 degrees")
    if shell.total < 1:
        _refuse(f"{at} no satellites", f"T = {shell.total}", "T of 1 or more")
    if shell.planes < 1:
        _refuse(f"{at} no planes", f"P = {shell.planes}", "P of 1 or more")
    if shell.total % shell.planes:
        allowed = "T divisible by P (every plane holds equally many satellites)"
        _refuse(f"{at} satellites do not divide among the planes", f"T/P = {shell.total}/{shell.planes}", allowed)
    if shell.phasing >= shell.planes:
        _refuse(f"{at} phasing factor out of range", f"F = {shell.phasing}", f"0 to P - 1 = {shell.planes - 1}")
    if not 0.0 <= shell.mean_anomaly_deg <= 360.0:
        _refuse(f"{at} mean anomaly out of range", match["anomaly"], "0 to 360 degrees")
    return shell


def _satellites(shell: _Shell, first_plane: int) -> list[Satellite]:
    per_plane = shell.total // shell.planes
    return [
        Satellite(
            name=f"sat-{first_plane + plane}-{index}",
            plane=first_plane + plane,
            index=index,
            mean_motion_rad_s=mean_motion_rad_s(shell.altitude_km),
            inclination_deg=shell.inclination_deg,
            node_deg=_NODE_SPREAD_DEG[shell.walker] * plane / shell.planes,
            mean_anomaly_deg=(
                shell.mean_anomaly_deg + 360.0 * index / per_plane + 360.0 * shell.phasing * plane / shell.total
            )
            % 360.0,
        )
        for plane in range(shell.planes)
        for index in range(per_plane)
    ]


def _refuse(message: str, found: object, allowed: str) -> NoReturn:
    raise ScenarioError(message, field="constellation", found=found, allowed=allowed)
