"""Ephemerides from files: CCSDS OEM, key-value notation (502.0-B).

A file has segments, each a table of one object's states; several segments of one object follow one another in time.
What happens between states is ``testbed.orbit.ephemeris``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from testbed.orbit.elements import INSTANT, Source, check_names, parse_instant, slug
from testbed.orbit.ephemeris import METHODS, SLACK_S, TIME_SYSTEMS, EphemerisMotion, FileClock, Segment
from testbed.text_file import TextKind, read_filled_text

MAX_BYTES = 512 * 2**20
"""Some five million states of a hundred characters: 3,600 objects for a day at 60 s."""

DEFAULT_DEGREE = 7
"""For files that name no interpolation: Hermite on four states. With states 240 s apart, as the space station's are
published, its remainder in a low orbit is millimetres."""

MAX_DEGREE = 27
"""Higher polynomials swing between equidistant states."""

LOWEST_KM, HIGHEST_KM = 6371.0 + 80.0, 500_000.0
"""Distances from the Earth's centre between which a state is believed; metres for kilometres fall outside."""

_EPHEMERIS = TextKind("an ephemeris", "CCSDS OEM in key-value notation, in UTF-8", MAX_BYTES)
_FRAMES = "ITRF (any year), TEME, EME2000, ICRF or GCRF"
_ICRS = ("ICRF", "GCRF", "ICRS", "GCRS")
_J2000 = ("EME2000", "J2000")


def read_oem(path: Path, epoch: datetime) -> EphemerisMotion:
    """The objects of a file, in the order they appear; ``epoch`` (aware) is mission time 0.

    Raises ScenarioError with file, line and field for anything that is not an OEM in key-value notation.
    """
    source = Source(str(path), read_filled_text(path, _EPHEMERIS))
    clock = FileClock(epoch)
    by_name: dict[str, list[Segment]] = {}
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
            if after.start_s < before.stop_s - SLACK_S:
                allowed = f"spans that at most touch; that of line {before.line} ends later (USEABLE_STOP_TIME)"
                source.refuse(f"two segments of {name} overlap", after.line, "USEABLE_START_TIME", None, allowed)
        objects[name] = tuple(segments)
    return EphemerisMotion(source.where, objects, clock)


def _objects(segments: list[Segment]) -> list[Segment]:
    """The first segment of each object, among those whose objects would be nodes of one name."""
    return list({(one.title, one.object_id): one for one in reversed(segments)}.values())[::-1]


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


def _segment(source: Source, table: _Table, clock: FileClock) -> Segment:
    def get(key: str, absent: str = "") -> str:
        return table.keys.get(key, (absent, 0))[0]

    def refuse(message: str, key: str, allowed: str, found: str | None = None) -> NoReturn:
        value, line = table.keys.get(key, ("", table.line))
        source.refuse(message, line, key, value if found is None else found, allowed)

    if get("CENTER_NAME").upper() != "EARTH":
        refuse("not in orbit about the Earth", "CENTER_NAME", "EARTH")
    system = get("TIME_SYSTEM").upper()
    if system not in TIME_SYSTEMS:
        refuse("unknown time system", "TIME_SYSTEM", _words(TIME_SYSTEMS))
    frame = _frame(get("REF_FRAME").upper())
    if frame is None:
        refuse("unknown frame", "REF_FRAME", _FRAMES)
    method = get("INTERPOLATION", "HERMITE").upper()
    if method not in METHODS:
        refuse("unknown interpolation", "INTERPOLATION", _words(METHODS))
    degree = get("INTERPOLATION_DEGREE", str(DEFAULT_DEGREE))
    if re.fullmatch("[0-9]{1,3}", degree) is None or not 1 <= int(degree) <= MAX_DEGREE:
        refuse("out of range", "INTERPOLATION_DEGREE", f"1 to {MAX_DEGREE}")
    interpolate, points_for = METHODS[method]
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
    return Segment(
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
