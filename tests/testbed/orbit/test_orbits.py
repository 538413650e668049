"""Orbits from codes and files: the planes that are found are those the satellites were put in."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sgp4.api import WGS72, Satrec
from sgp4.conveniences import jday_datetime
from sgp4.exporter import export_tle

from testbed.errors import ScenarioError
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contacts import find_contacts
from testbed.orbit.motion import Orbits
from testbed.orbit.orbits import find_planes, open_orbits
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import station

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
HOUR_S = 3600.0
START = datetime(1949, 12, 31, tzinfo=timezone.utc)
Planes = Sequence[Sequence[str]]


def _record(epoch: datetime, number: int = 1, **elements: float) -> Satrec:
    given = {"bstar": 0.0, "ecco": 0.0, "argpo": 0.0, "inclo": 0.9, "mo": 1.0, "no": 0.0675, "nodeo": 3.0} | elements
    record = Satrec()
    bstar, *rest = given.values()
    record.sgp4init(WGS72, "i", number, (epoch - START) / timedelta(days=1), bstar, 0.0, 0.0, *rest)
    record.classification, record.intldesg, record.elnum, record.revnum, record.ephtype = "U", "26001A", 1, 1, 0
    return record


def _moved(record: Satrec, epoch: datetime) -> Satrec:
    """The same orbit with elements of another epoch: the mean elements that SGP4 itself has then."""
    assert record.sgp4(*jday_datetime(epoch))[0] == 0
    turns = [angle % (2 * math.pi) for angle in (record.om, record.mm, record.Om)]
    moved = _record(epoch, record.satnum, inclo=record.inclo, no=record.no_kozai, ecco=record.ecco)
    moved.sgp4init(
        WGS72, "i", record.satnum, (epoch - START) / timedelta(days=1), 0.0, 0.0, 0.0,
        record.ecco, turns[0], record.inclo, turns[1], record.no_kozai, turns[2],
    )  # fmt: skip
    moved.classification, moved.intldesg, moved.elnum, moved.revnum, moved.ephtype = "U", "26001A", 1, 1, 0
    return moved


def _tle(satrecs: Sequence[Satrec], names: Sequence[str]) -> str:
    return "\n".join(line for name, one in zip(names, satrecs, strict=True) for line in (name, *export_tle(one)))


def _of_code(code: str, epochs: Callable[[int], datetime] = lambda row: EPOCH, shuffled: bool = False) -> str:
    """A code's satellites as two-line elements."""
    propagator = Propagator(parse_constellation(code), EPOCH)
    rows = list(range(len(propagator.names)))
    if shuffled:
        random.Random(8).shuffle(rows)
    satrecs = []
    for row in rows:
        one = _moved(propagator.satrecs[row], epochs(row))
        satrecs.append(one)
    return _tle(satrecs, [propagator.names[row] for row in rows])


def _open(tmp_path: Path, text: str, name: str = "sky.tle", duration_s: float = HOUR_S) -> Orbits:
    (tmp_path / name).write_text(text)
    return open_orbits(name, tmp_path, EPOCH, duration_s)


def _turned(ring: Sequence[str]) -> list[str]:
    """A ring from its least name on."""
    least = list(ring).index(min(ring))
    return [*ring[least:], *ring[:least]]


CODES = [
    "D:705:98.2:8/1/0",
    "D:705:98.2:1/1/0",
    "D:550:53:2/2/1",
    "D:550:53:2/1/0",
    "D:550:53:8/2/1",
    "S:780:86.4:66/6/1",
    "D:20180:55:24/6/1",
    "D:550:53:1584/72/17",
    "D:8000:0:5/1/0",
    "D:550:53:24/6/1+S:1200:87.9:36/6/1+D:560:53:12/3/0",
    "D:705:98.2:12/3/1:359.9",
]


@pytest.mark.parametrize("code", CODES)
def test_a_codes_planes_are_found_in_its_elements(code: str, tmp_path: Path) -> None:
    written = open_orbits(code, tmp_path, EPOCH, HOUR_S)
    constellation = parse_constellation(code)
    assert written.planes == tuple(tuple(one.name for one in plane) for plane in constellation.planes)
    found = _open(tmp_path, _of_code(code))
    assert found.motion.names == written.motion.names
    assert found.warnings == ()
    assert found.planes == written.planes
    # Four decimals of a degree are 20 m up here; GPS is four times as far.
    error_km = (found.motion.state_itrs_km(np.array([0.0]))[0] - written.motion.state_itrs_km(np.array([0.0]))[0])[:, 0]
    assert np.linalg.norm(error_km, axis=1).max() < 0.1


@pytest.mark.parametrize("code", ["D:550:53:24/6/1", "S:780:86.4:66/6/1", "D:705:98.2:12/3/1", "D:20180:55:24/6/1"])
def test_planes_do_not_hang_on_the_files_order_nor_on_the_elements_epochs(code: str, tmp_path: Path) -> None:
    # Nodes at 550 km go west by 4.5 degrees a day: compared as they stand in the file they would scatter by 45.
    text = _of_code(code, lambda row: EPOCH - timedelta(days=row * 7 % 10), shuffled=True)
    assert not text.startswith("sat-0-")
    found = _open(tmp_path, text).planes
    expected = [[one.name for one in plane] for plane in parse_constellation(code).planes]
    assert sorted(_turned(ring) for ring in found) == sorted(expected)
    order = [expected.index(_turned(ring)) for ring in found]
    # Neighbours stay neighbours, eastwards; where a star has its seam it begins.
    assert order == [(order[0] + step) % len(order) for step in range(len(order))]
    if code.startswith("S"):
        assert order[0] == 0


def test_nodes_on_both_sides_of_zero_are_one_plane(tmp_path: Path) -> None:
    nodes_deg = [359.9, 0.1, 359.95, 0.05]
    satrecs = [_record(EPOCH, row + 1, nodeo=math.radians(node), mo=row * 1.5) for row, node in enumerate(nodes_deg)]
    assert _open(tmp_path, _tle(satrecs, "abcd")).planes == (("a", "b", "c", "d"),)


def test_orbits_that_differ_in_any_way_are_different_planes(tmp_path: Path) -> None:
    changes = [
        {},
        {"nodeo": 3.1},
        {"inclo": 1.0},
        {"no": 0.0674},
        {"inclo": math.pi - 0.9, "nodeo": 3 - math.pi + 6.2831},
    ]
    satrecs = [_record(EPOCH, row + 1, **one) for row, one in enumerate(changes)]
    assert sorted(_open(tmp_path, _tle(satrecs, "abcde")).planes) == [("a",), ("b",), ("c",), ("d",), ("e",)]


def test_a_ring_is_ordered_by_argument_of_latitude_not_by_anomaly(tmp_path: Path) -> None:
    # Perigees anywhere: argument of perigee and anomaly mean nothing alone.
    pairs = [(0.0, 0.0), (300.0, 150.0), (100.0, 80.0), (200.0, 70.0)]  # latitudes 0, 90, 180, 270
    satrecs = [
        _record(EPOCH, row + 1, argpo=math.radians(perigee), mo=math.radians(anomaly), ecco=0.001)
        for row, (perigee, anomaly) in enumerate(pairs)
    ]
    order = [0, 2, 3, 1]
    assert _open(tmp_path, _tle([satrecs[row] for row in order], "acdb")).planes == (("a", "b", "c", "d"),)


def test_planes_of_an_ephemeris_are_those_of_its_elements(tmp_path: Path) -> None:
    code = "D:550:53:6/2/1"
    propagator = Propagator(parse_constellation(code), EPOCH)
    node_s = np.arange(0, HOUR_S + 1, 60.0)
    position_km, velocity_km_s = propagator.state_itrs_km(node_s)
    lines = ["CCSDS_OEM_VERS = 2.0"]
    for row, name in enumerate(propagator.names):
        span = [(EPOCH + timedelta(seconds=at_s)).strftime("%Y-%m-%dT%H:%M:%S") for at_s in (0, HOUR_S)]
        lines += ["META_START", f"OBJECT_NAME = {name}", f"OBJECT_ID = {row}", "CENTER_NAME = EARTH"]
        lines += [
            "REF_FRAME = ITRF",
            "TIME_SYSTEM = UTC",
            f"START_TIME = {span[0]}",
            f"STOP_TIME = {span[1]}",
            "META_STOP",
        ]
        for at_s, *state in zip(node_s, position_km[row], velocity_km_s[row], strict=True):
            instant = (EPOCH + timedelta(seconds=float(at_s))).strftime("%Y-%m-%dT%H:%M:%S")
            lines.append(f"{instant} {' '.join(f'{one:.9f}' for one in np.concatenate(state))}")
    for name in ("sky.oem", "sky.txt"):
        orbits = _open(tmp_path, "\n".join(lines), name)
        assert orbits.planes == open_orbits(code, tmp_path, EPOCH, HOUR_S).planes
        with pytest.raises(ScenarioError, match="(?s)sky.*no states for this time.*03:24:00.000Z"):
            open_orbits(name, tmp_path, EPOCH, HOUR_S + 60)


@pytest.mark.parametrize("code", ["D:705:98.2:1/1/0", "D:705:98.2:3/1/0", "D:705:98.2:6/2/1", "S:705:98.2:2/2/0"])
def test_contacts_do_not_hang_on_the_form_of_the_orbits(code: str, tmp_path: Path) -> None:
    written = open_orbits(code, tmp_path, EPOCH, 6 * HOUR_S)
    found = _open(tmp_path, _of_code(code), duration_s=6 * HOUR_S)
    ours, theirs = (find_contacts(one.motion, [station("Svalbard")], 6 * HOUR_S) for one in (found, written))
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.satellite == other.satellite
        # Four decimals of a degree are 20 m or so: milliseconds.
        assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=0.1)


def test_a_file_may_be_named_by_its_whole_path_and_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "SKY.TLE").write_text(_of_code("D:705:98.2:2/1/0"))
    assert len(open_orbits(str(tmp_path / "SKY.TLE"), Path("elsewhere"), EPOCH, HOUR_S).planes[0]) == 2


# -- what is old, low or odd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "duration_s", "warned"),
    [(0, HOUR_S, False), (-13.9, HOUR_S, False), (-14.1, HOUR_S, True), (15, HOUR_S, True), (-10, 5 * 86400, True)],
)
def test_old_elements_are_warned_of(days: float, duration_s: float, warned: bool, tmp_path: Path) -> None:
    fresh, old = _record(EPOCH), _moved(_record(EPOCH, 2), EPOCH + timedelta(days=days))
    warnings = _open(tmp_path, _tle([fresh, old], ["FRESH", "OLD"]), duration_s=duration_s).warnings
    assert bool(warnings) == warned
    if warned and days:
        assert "1 of 2" in warnings[0] and "old (line 4)" in warnings[0] and "sky.tle" in warnings[0]


@pytest.mark.parametrize("days", [-366, 366, -7000])
def test_elements_of_another_year_are_refused(days: int, tmp_path: Path) -> None:
    text = _tle([_record(EPOCH), _moved(_record(EPOCH, 2), EPOCH + timedelta(days=days))], ["FRESH", "OLD"])
    with pytest.raises(ScenarioError) as refusal:
        _open(tmp_path, text)
    assert (refusal.value.line, refusal.value.field) == (4, "EPOCH")
    assert "elements of old are" in str(refusal.value)
    assert "at most 365 days from 2026-06-01T02:24:00Z" in str(refusal.value)


def _mean_motion(semi_major_axis_km: float) -> float:
    return math.sqrt(398600.8 / semi_major_axis_km**3) * 60


@pytest.mark.parametrize(
    ("perigee_km", "ecco", "refused"), [(60, 0.0, True), (60, 0.1, True), (100, 0.1, False), (200, 0.0, False)]
)
def test_an_orbit_below_eighty_kilometres_is_refused(
    perigee_km: float, ecco: float, refused: bool, tmp_path: Path
) -> None:
    low = _record(EPOCH, 2, no=_mean_motion((6378.135 + perigee_km) / (1 - ecco)), ecco=ecco)
    text = _tle([_record(EPOCH), low], ["FINE", "LOW"])
    if not refused:
        assert len(_open(tmp_path, text).planes) == 2
        return
    with pytest.raises(ScenarioError, match="(?s)sky.tle:4: the orbit of low is sub-orbital.*80 km"):
        _open(tmp_path, text)


@pytest.mark.parametrize("days", [0.0, -3.0])
def test_an_orbit_that_decays_before_the_horizon_ends_is_refused(days: float, tmp_path: Path) -> None:
    # 200 km and a drag that takes it down within hours: fine at its epoch, gone at the end.
    doomed = _record(EPOCH + timedelta(days=days), 2, no=_mean_motion(6578), bstar=0.05, ecco=0.001)
    text = _tle([_record(EPOCH), doomed], ["FINE", "DOOMED"])
    if not days:
        _open(tmp_path, text, duration_s=60.0)
    with pytest.raises(ScenarioError, match="(?s)sky.tle:4: the orbit of doomed decays before 2026-06-0"):
        _open(tmp_path, text, duration_s=5 * 86400)


def test_a_code_below_eighty_kilometres_is_refused(tmp_path: Path) -> None:
    for code in ("D:60:53:4/1/0", "D:0.001:0:2/1/0"):
        with pytest.raises(ScenarioError, match="sub-orbital|altitude"):
            open_orbits(code, tmp_path, EPOCH, HOUR_S)
    assert open_orbits("D:120:53:4/1/0", tmp_path, EPOCH, HOUR_S).planes


@pytest.mark.parametrize(
    ("code", "warned"),
    [
        ("S:550:53:1584/72/22", True),
        ("D:550:53.0:1584/22/17", True),
        ("D:550:53:1584/72/17", False),
        ("D:550:53:1584/72/22+D:540:53.2:1584/22/1", True),
        ("D:1200:53:1584/22/17", False),
        ("S:550:97.6:1584/22/17", False),
    ],
)
def test_the_published_starlink_examples_are_warned_of(code: str, warned: bool, tmp_path: Path) -> None:
    warnings = open_orbits(code, tmp_path, EPOCH, 60.0).warnings
    assert len(warnings) == warned
    assert all("D:550:53:1584/72/17" in one for one in warnings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["constellation code", "(nothing)", ".tle"]),
        ("elements.tle.gz", ["constellation code", "elements.tle.gz", ".oem"]),
        ("D:550:53:4/3/0", ["divisible"]),
        ("absent.tle", ["absent.tle", "no such file"]),
        ("absent.txt", ["absent.txt", "no such file"]),
        (".", ["constellation code"]),
        ("a\0.tle", ["cannot be read"]),
    ],
)
def test_what_is_neither_code_nor_file_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as refusal:
        open_orbits(text, tmp_path, EPOCH, HOUR_S)
    for word in words:
        assert word in str(refusal.value)


# -- the grammar of codes ---------------------------------------------------------------------------------------------

_SHELLS = st.builds(
    lambda walker, altitude, inclination, planes, per_plane, phasing, anomaly: (
        f"{walker}:{altitude}:{inclination}:{planes * per_plane}/{planes}/{phasing % planes}{anomaly}",
        planes,
        per_plane,
    ),
    st.sampled_from("DS"),
    st.integers(200, 36000) | st.decimals(200, 2000, places=2).map(str),
    st.integers(0, 180) | st.decimals(0, 180, places=1).map(str),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 5),
    st.just("") | st.integers(0, 360).map(lambda one: f":{one}"),
)


@given(shells=st.lists(_SHELLS, min_size=1, max_size=3))
def test_any_valid_code_is_its_satellites_in_its_planes(shells: list[tuple[str, int, int]]) -> None:
    constellation = parse_constellation("+".join(code for code, _, _ in shells))
    assert len(constellation.satellites) == sum(planes * per_plane for _, planes, per_plane in shells)
    assert [len(plane) for plane in constellation.planes] == [
        per_plane for _, planes, per_plane in shells for _ in range(planes)
    ]
    assert len(set(constellation.names)) == len(constellation.names)


def _valid(code: str) -> bool:
    """The grammar once more, told by splitting instead of by a pattern."""

    def number(text: str, low: float, high: float) -> bool:
        whole, point, fraction = text.removeprefix("-").partition(".")
        digits = whole + fraction
        return bool(whole and digits.isascii() and digits.isdigit() and bool(point) == bool(fraction)) and (
            len(whole) <= 12 and len(fraction) <= 12 and low <= float(text) <= high
        )

    satellites = 0
    for shell in code.strip().split("+"):
        parts = shell.strip().split(":")
        if len(parts) not in (4, 5) or parts[0] not in ("D", "S"):
            return False
        counts = parts[3].split("/")
        if len(counts) != 3 or not all(re.fullmatch("[0-9]{1,9}", one) for one in counts):
            return False
        total, planes, phasing = map(int, counts)
        if not (number(parts[1], 1e-9, 1e5) and number(parts[2], 0, 180) and number((*parts, "0")[4], 0, 360)):
            return False
        if total < 1 or planes < 1 or total % planes or phasing >= planes:
            return False
        satellites += total
    return satellites <= 100_000


@given(shells=st.lists(_SHELLS, min_size=1, max_size=2), data=st.data())
def test_a_damaged_code_is_valid_by_the_grammar_or_refused(
    shells: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    code = "+".join(one for one, _, _ in shells)
    place = data.draw(st.integers(0, len(code) - 1))
    what = data.draw(
        st.sampled_from(["", code[place] * 2]) | st.sampled_from("0123456789:/+.-DS eE_٤ \n") | st.characters()
    )
    damaged = code[:place] + what + code[place + 1 :]
    try:
        satellites = parse_constellation(damaged).satellites
    except ScenarioError as error:
        # Too low to stay up is no matter of the grammar.
        assert not _valid(damaged) or "altitude" in error.message
    else:
        assert _valid(damaged)
        assert satellites


def test_no_satellite_is_lost_in_a_sky_without_order() -> None:
    generator = np.random.default_rng(11)
    satrecs = [
        _record(
            EPOCH, row + 1, inclo=generator.uniform(0, 3.1), nodeo=generator.uniform(0, 6.2), mo=generator.uniform(0, 6)
        )
        for row in range(60)
    ]
    names = [f"s{row}" for row in range(60)]
    planes = find_planes(Propagator.of_satrecs(names, satrecs, EPOCH))
    assert sorted(name for plane in planes for name in plane) == sorted(names)
