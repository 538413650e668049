"""Ephemerides from files: CCSDS OEM, key-value notation (502.0-B).

A file has segments, each a table of one object's states; several segments of one object follow one another in time and
nothing is interpolated across their bounds. Positions are interpolated in the file's own frame, where they are
smoothest, and turned to the Earth-fixed frame afterwards. Polar motion is left out, as in ``testbed.orbit.propagate``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from testbed.errors import ScenarioError
from testbed.orbit.elements import INSTANT, Source, check_names, parse_instant, read_text, slug
from testbed.orbit.motion import Array

EARTH_RATE_RAD_S = 7.292115146706979e-5
"""The Earth's rotation (IERS Conventions 2010, table 1.1: 7.292115e-5), to the digits of Aoki et al. 1982."""

DEFAULT_DEGREE = 7
"""For files that name no interpolation: Hermite on four states. With states 240 s apart, as the space station's are
published, its remainder in a low orbit is millimetres."""

MAX_DEGREE = 27
"""Higher polynomials swing between equidistant states."""

LOWEST_KM, HIGHEST_KM = 6371.0 + 80.0, 500_000.0
"""Distances from the Earth's centre between which a state is believed; metres for kilometres fall outside."""

_SLACK_S = 1e-6
"""A horizon may begin with the very first state: instants are compared this finely."""
_BLOCK = 4096
"""Instants whose nutation is computed at a time: its series takes 11 kB an instant."""
_DAY_S = 86_400.0

_FRAMES = "ITRF (any year), TEME, EME2000, ICRF or GCRF"
_ICRS = ("ICRF", "GCRF", "ICRS", "GCRS")
_J2000 = ("EME2000", "J2000")


class EphemerisMotion:
    """States of a file's objects by mission time; a ``testbed.orbit.motion.Motion``. Made by ``read_oem``."""

    def __init__(self, where: str, objects: Mapping[str, tuple[_Segment, ...]], clock: _Clock) -> None:
        self.where = where
        self.names = tuple(objects)
        self._row_by_name = {name: row for row, name in enumerate(self.names)}
        self._objects = tuple(objects.values())
        self._clock = clock

    def row(self, name: str) -> int:
        """The place of a satellite in the first axis of every result."""
        return self._row_by_name[name]

    def check_span(self, duration_s: float) -> None:
        """Refuse a file that leaves any instant of ``[0, duration_s]`` without a state. Raises ScenarioError."""
        for name, segments in zip(self.names, self._objects, strict=True):
            reached_s = 0.0
            for segment in segments:
                if segment.start_s > reached_s + _SLACK_S:
                    break
                reached_s = max(reached_s, segment.stop_s)
            if reached_s < duration_s - _SLACK_S or segments[0].start_s > _SLACK_S:
                self._outside(name, f"a horizon from {self._utc(0.0)} to {self._utc(duration_s)}")

    def state_itrs_km(self, at_s: Array) -> tuple[Array, Array]:
        """Earth-fixed positions in km and velocities in km/s (relative to the turning Earth).

        Each has shape (satellites, times, 3). Raises ScenarioError that names the satellite and the span of its
        states where ``at_s`` is outside of it.
        """
        at_s = np.asarray(at_s, dtype=np.float64)
        position_km = np.empty((len(self.names), len(at_s), 3))
        velocity_km_s = np.empty_like(position_km)
        turns: dict[str, Array] = {}
        for row, segments in enumerate(self._objects):
            starts = np.array([one.start_s for one in segments]) - _SLACK_S
            chosen = np.searchsorted(starts, at_s, side="right") - 1
            stops = np.array([one.stop_s for one in segments]) + _SLACK_S
            outside = (chosen < 0) | (at_s > stops[chosen])
            if outside.any():
                self._outside(self.names[row], f"an instant of {self._utc(float(at_s[outside][0]))}")
            for number in np.unique(chosen):
                segment, columns = segments[number], np.nonzero(chosen == number)[0]
                position, velocity = segment.interpolated(at_s[columns])
                if segment.frame != "ITRF":
                    if segment.frame not in turns:
                        turns[segment.frame] = self._clock.turns(segment.frame, at_s)
                    turn = turns[segment.frame][columns]
                    position = np.einsum("tij,tj->ti", turn, position)
                    velocity = np.einsum("tij,tj->ti", turn, velocity)
                    velocity[:, 0] += EARTH_RATE_RAD_S * position[:, 1]
                    velocity[:, 1] -= EARTH_RATE_RAD_S * position[:, 0]
                position_km[row, columns] = position
                velocity_km_s[row, columns] = velocity
        return position_km, velocity_km_s

    def _outside(self, name: str, found: str) -> NoReturn:
        segments = self._objects[self._row_by_name[name]]
        spans = [f"{self._utc(one.start_s)} to {self._utc(one.stop_s)}" for one in segments]
        raise ScenarioError(
            f"the ephemeris of {name} has no states for this time",
            where=self.where,
            line=segments[0].line,
            field="epoch and duration",
            found=found,
            allowed=", ".join(spans[:3]) + (f" and {len(spans) - 3} more spans" if len(spans) > 3 else ""),
        )

    def _utc(self, at_s: float) -> str:
        instant = self._clock.epoch.astimezone(timezone.utc) + timedelta(seconds=at_s)
        return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_oem(path: Path, epoch: datetime) -> EphemerisMotion:
    """The objects of a file, in the order they appear; ``epoch`` (aware) is mission time 0.

    Raises ScenarioError with file, line and field for anything that is not an OEM in key-value notation.
    """
    source = Source(str(path), read_text(path, "a CCSDS OEM in key-value notation"))
    clock = _Clock(epoch)
    by_name: dict[str, list[_Segment]] = {}
    for table in _tables(source):
        segment = _segment(source, table, clock)
        by_name.setdefault(segment.name, []).append(segment)
    if not by_name:
        source.refuse("no segment in the file", None, "META_START", "none", "one or more")
    check_names(source, [(one.name, one.line) for segments in by_name.values() for one in _objects(segments)])
    objects = {}
    for name, segments in by_name.items():
        segments.sort(key=lambda one: one.start_s)
        for before, after in zip(segments, segments[1:], strict=False):
            if after.start_s < before.stop_s - _SLACK_S:
                allowed = f"spans that at most touch; that of line {before.line} ends later (USEABLE_STOP_TIME)"
                source.refuse(f"two segments of {name} overlap", after.line, "USEABLE_START_TIME", None, allowed)
        objects[name] = tuple(segments)
    return EphemerisMotion(source.where, objects, clock)


def _objects(segments: list[_Segment]) -> list[_Segment]:
    """The first segment of each object, among those whose objects would be nodes of one name."""
    return list({(one.title, one.object_id): one for one in reversed(segments)}.values())[::-1]


# -- one segment ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segment:
    name: str
    title: str
    object_id: str
    line: int
    frame: str
    interpolate: Callable[[_Segment, Array], tuple[Array, Array]]
    points: int
    start_s: float
    stop_s: float
    node_s: Array
    position_km: Array
    velocity_km_s: Array

    def interpolated(self, at_s: Array) -> tuple[Array, Array]:
        """Positions and velocities in the segment's frame, each of shape (times, 3)."""
        return self.interpolate(self, np.clip(at_s, self.node_s[0], self.node_s[-1]))

    def window(self, at_s: Array) -> NDArray[np.intp]:
        """The nodes around each instant, shape (times, points): as many before as after, but at the ends."""
        left = np.searchsorted(self.node_s, at_s, side="right") - 1 - (self.points - 1) // 2
        left = np.clip(left, 0, len(self.node_s) - self.points)
        return np.asarray(left[:, None] + np.arange(self.points))


def _hermite(segment: _Segment, at_s: Array) -> tuple[Array, Array]:
    """The polynomial through positions with the velocities as its slopes, and its derivative."""
    rows = np.repeat(segment.window(at_s), 2, axis=1)
    nodes = segment.node_s[rows]
    table = segment.position_km[rows]
    slopes = segment.velocity_km_s[rows]
    for order in range(1, rows.shape[1]):
        width = (nodes[:, order:] - nodes[:, :-order])[..., None]
        difference = table[:, order:] - table[:, order - 1 : -1]
        if order == 1:  # every other pair is the same node twice: the slope stands there
            table[:, 2::2] = difference[:, 1::2] / width[:, 1::2]
            table[:, 1::2] = slopes[:, 1::2]
        else:
            table[:, order:] = difference / width
    return _newton(table, nodes, at_s)


def _lagrange(segment: _Segment, at_s: Array) -> tuple[Array, Array]:
    """The polynomial through positions, and another through velocities."""
    rows = segment.window(at_s)
    nodes = segment.node_s[rows]

    def through(values: Array) -> Array:
        table = values[rows]
        for order in range(1, rows.shape[1]):
            width = (nodes[:, order:] - nodes[:, :-order])[..., None]
            table[:, order:] = (table[:, order:] - table[:, order - 1 : -1]) / width
        return _newton(table, nodes, at_s)[0]

    return through(segment.position_km), through(segment.velocity_km_s)


def _newton(coefficients: Array, nodes: Array, at_s: Array) -> tuple[Array, Array]:
    """Newton's form and its derivative by Horner's rule; coefficients (times, orders, 3), nodes (times, orders)."""
    value = coefficients[:, -1].copy()
    slope = np.zeros_like(value)
    for order in range(coefficients.shape[1] - 2, -1, -1):
        step = (at_s - nodes[:, order])[:, None]
        slope = slope * step + value
        value = value * step + coefficients[:, order]
    return value, slope


_METHODS: Mapping[str, tuple[Callable[[_Segment, Array], tuple[Array, Array]], Callable[[int], int]]] = {
    # The function, and how many states a polynomial of this degree takes.
    "HERMITE": (_hermite, lambda degree: max(2, degree // 2 + 1)),
    "LAGRANGE": (_lagrange, lambda degree: degree + 1),
    "LINEAR": (_lagrange, lambda degree: 2),
}


# -- the file ---------------------------------------------------------------------------------------------------------


@dataclass
class _Table:
    """A segment as it stands in the file: keys with their lines, and the rows of states with theirs."""

    line: int
    keys: dict[str, tuple[str, int]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    instants: list[tuple[datetime, float]] = field(default_factory=list)
    states: list[list[float]] = field(default_factory=list)


_KEY = re.compile(r"([A-Z][A-Z0-9_]*)\s*=\s*(.*)")
_NEEDED = ("OBJECT_NAME", "OBJECT_ID", "CENTER_NAME", "REF_FRAME", "TIME_SYSTEM", "START_TIME", "STOP_TIME")
_KNOWN = frozenset({*_NEEDED, "REF_FRAME_EPOCH", "USEABLE_START_TIME", "USEABLE_STOP_TIME"}) | {
    "INTERPOLATION",
    "INTERPOLATION_DEGREE",
}


def _tables(source: Source) -> Iterator[_Table]:
    lines = _lines(source.text)
    _header(source, lines)
    table = _Table(0)
    for at, line in lines:
        if line == "META_START":
            if table.line:
                yield table
            table = _Table(at)
            _metadata(source, lines, table)
        elif line == "COVARIANCE_START":
            if not any(other == "COVARIANCE_STOP" for _, other in lines):
                source.refuse("a covariance without end", at, "COVARIANCE_STOP", "the file's end")
        elif not table.line:
            if _KEY.fullmatch(line) is None:
                source.refuse("states before any META_START", at, found=line, allowed="META_START")
        else:
            _state(source, table, at, line)
    if table.line:
        yield table


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that say something, and their numbers."""
    for at, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line and line.split(maxsplit=1)[0] != "COMMENT":
            yield at, line


def _header(source: Source, lines: Iterator[tuple[int, str]]) -> None:
    at, line = next(lines, (1, ""))
    match = _KEY.fullmatch(line)
    if match is None or match[1] != "CCSDS_OEM_VERS":
        source.refuse("not an OEM in key-value notation", at, "CCSDS_OEM_VERS", line, "CCSDS_OEM_VERS = 2.0 first")
    if match[2] not in ("1.0", "2.0", "3.0"):
        source.refuse("unknown version", at, "CCSDS_OEM_VERS", match[2], "1.0, 2.0 or 3.0")


def _metadata(source: Source, lines: Iterator[tuple[int, str]], table: _Table) -> None:
    for at, line in lines:
        if line == "META_STOP":
            break
        match = _KEY.fullmatch(line)
        if match is None or match[1] not in _KNOWN:
            source.refuse("not a key of a segment", at, found=line, allowed=f"META_STOP, or one of {_words(_KNOWN)}")
        if match[1] in table.keys:
            found = f"again after line {table.keys[match[1]][1]}"
            source.refuse("this key stands here twice", at, match[1], found, "each key once in a segment")
        table.keys[match[1]] = (match[2].strip(), at)
    else:
        source.refuse("a segment's metadata without end", table.line, "META_STOP", "the file's end")
    for key in _NEEDED:
        if not table.keys.get(key, ("", 0))[0]:
            source.refuse("a key is missing", table.line, key, "no such key", f"{_words(_NEEDED)}")


def _words(keys: Any) -> str:
    return ", ".join(sorted(keys))


def _state(source: Source, table: _Table, at: int, line: str) -> None:
    parts = line.split()
    allowed = "instant, x, y, z in km and their rates in km/s (and accelerations, which are not used)"
    if len(parts) not in (7, 10):
        source.refuse("not a state", at, found=line, allowed=allowed)
    try:
        instant = parse_instant(parts[0])
    except ValueError:
        source.refuse("not an instant", at, "epoch of the state", parts[0], INSTANT)
    try:
        numbers = [float(one) for one in parts[1:7]]
    except ValueError:
        source.refuse("not a number", at, "state", line, allowed)
    if not all(map(math.isfinite, numbers)):
        source.refuse("not a number", at, "state", line, allowed)
    radius_km = math.hypot(*numbers[:3])
    if not LOWEST_KM <= radius_km <= HIGHEST_KM:
        found = f"{radius_km:.1f} km from the Earth's centre"
        source.refuse("not where a satellite can be", at, "x, y, z", found, f"{LOWEST_KM:.0f} to {HIGHEST_KM:.0f} km")
    table.lines.append(at)
    table.instants.append(instant)
    table.states.append(numbers)


def _segment(source: Source, table: _Table, clock: _Clock) -> _Segment:
    def get(key: str, absent: str = "") -> str:
        return table.keys.get(key, (absent, 0))[0]

    def refuse(message: str, key: str, allowed: str, found: str | None = None) -> NoReturn:
        value, line = table.keys.get(key, ("", table.line))
        source.refuse(message, line, key, value if found is None else found, allowed)

    if get("CENTER_NAME").upper() != "EARTH":
        refuse("not in orbit about the Earth", "CENTER_NAME", "EARTH")
    system = get("TIME_SYSTEM").upper()
    if system not in _TIME_SYSTEMS:
        refuse("unknown time system", "TIME_SYSTEM", _words(_TIME_SYSTEMS))
    frame = _frame(get("REF_FRAME").upper())
    if frame is None:
        refuse("unknown frame", "REF_FRAME", _FRAMES)
    method = get("INTERPOLATION", "HERMITE").upper()
    if method not in _METHODS:
        refuse("unknown interpolation", "INTERPOLATION", _words(_METHODS))
    degree = get("INTERPOLATION_DEGREE", str(DEFAULT_DEGREE))
    if re.fullmatch("[0-9]{1,3}", degree) is None or not 1 <= int(degree) <= MAX_DEGREE:
        refuse("out of range", "INTERPOLATION_DEGREE", f"1 to {MAX_DEGREE}")
    interpolate, points_for = _METHODS[method]
    count, points = len(table.states), points_for(int(degree))
    if "INTERPOLATION_DEGREE" not in table.keys:
        points = min(points, max(count, 2))
    if count < points:
        refuse("too few states to interpolate", "INTERPOLATION_DEGREE", f"{points} states or more", f"{count} states")
    node_s = clock.mission_s(system, table.instants)
    late = np.nonzero(np.diff(node_s) <= 0)[0]
    if late.size:
        allowed = f"later than that of line {table.lines[late[0]]}"
        source.refuse("states out of order", table.lines[late[0] + 1], "epoch of the state", None, allowed)

    def instant_s(key: str, absent_s: float) -> float:
        if key not in table.keys:
            return absent_s
        try:
            return float(clock.mission_s(system, [parse_instant(get(key))])[0])
        except ValueError:
            refuse("not an instant", key, INSTANT)

    start_s = instant_s("USEABLE_START_TIME", max(node_s[0], instant_s("START_TIME", node_s[0])))
    stop_s = instant_s("USEABLE_STOP_TIME", min(node_s[-1], instant_s("STOP_TIME", node_s[-1])))
    start_s, stop_s = max(start_s, float(node_s[0])), min(stop_s, float(node_s[-1]))
    if start_s >= stop_s:
        refuse("the segment spans no time", "START_TIME", "before STOP_TIME, and states between the two")
    title, states = get("OBJECT_NAME"), np.array(table.states)
    return _Segment(
        name=slug(title) or slug(get("OBJECT_ID")),
        title=title,
        object_id=get("OBJECT_ID"),
        line=table.line,
        frame=frame,
        interpolate=interpolate,
        points=points,
        start_s=start_s,
        stop_s=stop_s,
        node_s=node_s,
        position_km=states[:, :3].copy(),
        velocity_km_s=states[:, 3:].copy(),
    )


def _frame(name: str) -> str | None:
    if re.fullmatch(r"ITR[FS][-_]?[0-9]{0,4}", name):  # its realisations differ by centimetres
        return "ITRF"
    if name in _ICRS:
        return "ICRF"
    if name in _J2000:
        return "EME2000"
    return name if name == "TEME" else None


# -- time and frames --------------------------------------------------------------------------------------------------

_TIME_SYSTEMS: Mapping[str, tuple[str, float]] = {
    # skyfield's name for the scale, and what it reads more than the file's clock does.
    "UTC": ("utc", 0.0),
    "TAI": ("tai", 0.0),
    "TT": ("tt", 0.0),
    "GPS": ("tai", 19.0),
}


class _Clock:
    """Instants of a file to mission seconds, and mission seconds to the Earth's attitude."""

    def __init__(self, epoch: datetime) -> None:
        from skyfield.api import load

        self.epoch = epoch
        self._timescale = load.timescale(builtin=True)
        self._epoch = self._timescale.from_datetime(epoch)

    def mission_s(self, system: str, instants: list[tuple[datetime, float]]) -> Array:
        scale, ahead_s = _TIME_SYSTEMS[system]
        minutes = np.array([(one.year, one.month, one.day, one.hour, one.minute) for one, _ in instants]).T
        seconds = np.array([second for _, second in instants]) + ahead_s
        time = getattr(self._timescale, scale)(*minutes, seconds)
        days = (time.whole - self._epoch.whole) + (time.tt_fraction - self._epoch.tt_fraction)
        return np.asarray(days * _DAY_S)

    def turns(self, frame: str, at_s: Array) -> Array:
        """Rotations from a frame to the Earth-fixed one, shape (times, 3, 3)."""
        turns = np.empty((len(at_s), 3, 3))
        for first in range(0, len(at_s), _BLOCK):
            block = slice(first, first + _BLOCK)
            whole = np.full(at_s[block].shape, self._epoch.whole)
            time = self._timescale.tt_jd(whole, self._epoch.tt_fraction + at_s[block] / _DAY_S)
            turns[block] = _TURNS[frame](time)
        return turns


def _from_teme(time: Any) -> Array:
    from skyfield.sgp4lib import theta_GMST1982

    angle, _ = theta_GMST1982(time.whole, time.ut1_fraction)
    turn = np.zeros((len(angle), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 0, 1] = np.sin(angle)
    turn[:, 1, 0] = -turn[:, 0, 1]
    turn[:, 2, 2] = 1.0
    return turn


def _from_icrf(time: Any) -> Array:
    from skyfield.framelib import itrs

    return np.asarray(np.moveaxis(itrs.rotation_at(time), 2, 0))


def _from_eme2000(time: Any) -> Array:
    from skyfield.framelib import ICRS_to_J2000

    return np.asarray(_from_icrf(time) @ ICRS_to_J2000.T)


_TURNS: Mapping[str, Callable[[Any], Array]] = {
    "TEME": _from_teme,
    "ICRF": _from_icrf,
    "EME2000": _from_eme2000,
}
