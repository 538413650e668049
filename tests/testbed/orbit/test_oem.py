"""Ephemeris files against the SGP4 they are written from, skyfield's frames, and polynomials they must reproduce."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyfield.api import EarthSatellite, load

from testbed.errors import ScenarioError
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contacts import find_contacts
from testbed.orbit.oem import EphemerisMotion, read_oem
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import station

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
METRE_KM = 1e-3
Read = Callable[..., EphemerisMotion]


def _written(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%f")


def _segment(
    node_s: Any,
    states: Any,
    name: str = "SAT 1",
    frame: str = "TEME",
    system: str = "UTC",
    ahead_s: float = 0.0,
    extra: Sequence[str] = (),
    epoch: datetime = EPOCH,
    identity: str = "2026-001A",
) -> str:
    """One segment; ``ahead_s`` is what the clock of the file reads more than UTC."""
    instants = [_written(epoch + timedelta(seconds=float(at_s) + ahead_s)) for at_s in node_s]
    rows = [
        f"{instant} {' '.join(f'{one:.9f}' for one in state)}" for instant, state in zip(instants, states, strict=True)
    ]
    keys = [
        f"OBJECT_NAME = {name}",
        f"OBJECT_ID = {identity}",
        "CENTER_NAME = EARTH",
        f"REF_FRAME = {frame}",
        f"TIME_SYSTEM = {system}",
        f"START_TIME = {instants[0]}",
        f"STOP_TIME = {instants[-1]}",
        *extra,
    ]
    return "\n".join(["META_START", *keys, "META_STOP", *rows, ""])


HEADER = "CCSDS_OEM_VERS = 2.0\nCREATION_DATE = 2026-05-31T00:00:00\nORIGINATOR = TEST\n"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(*segments: str, header: str = HEADER, epoch: datetime = EPOCH) -> EphemerisMotion:
        path = tmp_path / "sky.oem"
        path.write_text(header + "\n".join(segments))
        return read_oem(path, epoch)

    return read


@pytest.fixture(scope="module")
def truth() -> Propagator:
    return Propagator(parse_constellation("D:420:51.6:2/2/1"), EPOCH)


def _teme(truth: Propagator, row: int, node_s: Any) -> Any:
    _, position, velocity = truth.satrecs[row].sgp4_array(*_julian(node_s))
    return np.hstack([position, velocity])


def _julian(at_s: Any) -> tuple[Any, Any]:
    # 2026-06-01 02:24 is exactly a tenth of a day after midnight.
    return np.full(len(at_s), 2461192.5), 0.1 + np.asarray(at_s) / 86400


def _gcrs(truth: Propagator, row: int, node_s: Any) -> Any:
    timescale = load.timescale(builtin=True)
    epoch = timescale.from_datetime(EPOCH)
    time = timescale.tt_jd(np.full(len(node_s), epoch.whole), epoch.tt_fraction + np.asarray(node_s) / 86400)
    there = EarthSatellite.from_satrec(truth.satrecs[row], timescale).at(time)
    return np.vstack([there.xyz.km, there.velocity.km_per_s]).T


# SOFA's worked example of the frame bias (t_sofa.c, iauBp00): EME2000 from the celestial frame.
_BIAS = np.array(
    [
        [0.9999999999999942498, -0.7078279744199196626e-7, 0.8056217146976134152e-7],
        [0.7078279477857337206e-7, 0.9999999999999969484, 0.3306041454222136517e-7],
        [-0.8056217380986972157e-7, -0.3306040883980552500e-7, 0.9999999999999962084],
    ]
)


def _eme2000(truth: Propagator, row: int, node_s: Any) -> Any:
    return np.hstack([half @ _BIAS.T for half in np.hsplit(_gcrs(truth, row, node_s), 2)])


def _itrf(truth: Propagator, row: int, node_s: Any) -> Any:
    return np.hstack([half[row] for half in truth.state_itrs_km(np.asarray(node_s))])


FRAMES = {"TEME": _teme, "ICRF": _gcrs, "EME2000": _eme2000, "ITRF2014": _itrf}
METHODS = [
    (),
    ("INTERPOLATION = HERMITE", "INTERPOLATION_DEGREE = 3"),
    ("INTERPOLATION = HERMITE", "INTERPOLATION_DEGREE = 7"),
    ("INTERPOLATION = LAGRANGE", "INTERPOLATION_DEGREE = 7"),
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("method", METHODS, ids=["default", "hermite3", "hermite7", "lagrange7"])
def test_a_table_of_minutes_is_sgp4_within_ten_metres(
    frame: str, method: Sequence[str], read: Read, truth: Propagator
) -> None:
    node_s = np.arange(-120, 7320, 60.0)
    motion = read(
        *(_segment(node_s, FRAMES[frame](truth, row, node_s), f"SAT {row}", frame, extra=method) for row in (0, 1))
    )
    assert motion.names == ("sat-0", "sat-1")
    assert motion.row("sat-1") == 1
    at_s = np.random.default_rng(3).uniform(0, 7200, 300)
    ours, theirs = motion.state_itrs_km(at_s), truth.state_itrs_km(at_s)
    assert ours[0].shape == ours[1].shape == (2, 300, 3)
    assert np.linalg.norm(ours[0] - theirs[0], axis=-1).max() < 10 * METRE_KM
    assert np.abs(ours[1] - theirs[1]).max() < 1e-3
    # On the nodes nothing is interpolated: what is left is the frame (SOFA's bias is given to picoradians).
    error_km = motion.state_itrs_km(node_s)[0] - truth.state_itrs_km(node_s)[0]
    assert np.linalg.norm(error_km, axis=-1).max() < 0.01 * METRE_KM


def test_contacts_are_those_of_the_elements_it_was_made_from(read: Read, truth: Propagator) -> None:
    node_s = np.arange(0, 6 * 3600 + 1, 60.0)
    motion = read(*(_segment(node_s, _teme(truth, row, node_s), truth.names[row]) for row in (0, 1)))
    stations = [station("Wallops"), station("Matera")]
    ours, theirs = (find_contacts(one, stations, 6 * 3600.0) for one in (motion, truth))
    assert len(ours) == len(theirs) > 3
    for one, other in zip(ours, theirs, strict=True):
        assert (one.satellite, one.station) == (other.satellite, other.station)
        assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=0.01)


@pytest.mark.parametrize(("system", "ahead_s"), [("UTC", 0.0), ("TAI", 37.0), ("TT", 69.184), ("GPS", 18.0)])
def test_time_systems_differ_by_their_published_offsets(
    system: str, ahead_s: float, read: Read, truth: Propagator
) -> None:
    node_s = np.arange(0, 901, 60.0)
    motion = read(_segment(node_s, _teme(truth, 0, node_s), system=system, ahead_s=ahead_s))
    error_km = motion.state_itrs_km(node_s)[0] - truth.state_itrs_km(node_s)[0][:1]
    assert np.linalg.norm(error_km, axis=-1).max() < 0.1 * METRE_KM  # a second is 7.6 km, a microsecond 8 mm


def test_a_leap_second_is_a_second(read: Read) -> None:
    # The last one so far. A body that moves by 1 km/s along x: in the ten seconds from 55 to 04 it makes 10 km.
    rows = [("2016-12-31T23:59:55", 0), ("2016-12-31T23:59:60", 5), ("2017-01-01T00:00:04", 10)]
    table = _segment([0.0, 1.0], [[7000, 0, 0, 1, 0, 0]] * 2, frame="ITRF").split("META_STOP")[0]
    for old in [one for one in table.splitlines() if "_TIME =" in one]:
        table = table.replace(old, old.split("=")[0] + "= " + rows[0 if "START" in old else 2][0])
    states = "\n".join(f"{instant} {7000 + moved} 0 0 1 0 0" for instant, moved in rows)
    motion = read(f"{table}META_STOP\n{states}\n", epoch=datetime(2016, 12, 31, 23, 59, 55, tzinfo=timezone.utc))
    x_km = motion.state_itrs_km(np.arange(11.0))[0][0, :, 0]
    assert x_km == pytest.approx(7000 + np.arange(11), abs=1e-6)


@given(
    kind=st.sampled_from(["HERMITE", "LAGRANGE"]),
    degree=st.integers(1, 9),
    steps=st.lists(st.integers(10, 90), min_size=10, max_size=20),
    seed=st.integers(0, 99),
)
def test_a_polynomial_of_the_degree_is_reproduced(
    kind: str, degree: int, steps: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # On uneven nodes, with slopes of its own: whatever the interpolation does between nodes, this is its definition.
    node_s = np.cumsum([0, *steps]).astype(float)
    generator = np.random.default_rng(seed)
    highest = 2 * max(2, degree // 2 + 1) - 1 if kind == "HERMITE" else degree
    curves = [np.polynomial.Polynomial(generator.uniform(-9, 9, highest + 1), [0, node_s[-1]]) for _ in range(3)]
    positions = np.array([curve(node_s) + 7000 for curve in curves])
    velocities = np.array([curve.deriv()(node_s) for curve in curves])
    path = tmp_path_factory.getbasetemp() / "polynomial.oem"
    extra = (f"INTERPOLATION = {kind}", f"INTERPOLATION_DEGREE = {degree}")
    path.write_text(HEADER + _segment(node_s, np.vstack([positions, velocities]).T, frame="ITRF-97", extra=extra))
    at_s = np.linspace(0, node_s[-1], 57)
    position_km, velocity_km_s = (one[0] for one in read_oem(path, EPOCH).state_itrs_km(at_s))
    assert position_km == pytest.approx(np.array([curve(at_s) + 7000 for curve in curves]).T, abs=1e-4)
    assert velocity_km_s == pytest.approx(np.array([curve.deriv()(at_s) for curve in curves]).T, abs=1e-4)


def _straight(node_s: Any, from_km: float, km_s: float) -> list[list[float]]:
    return [[from_km + km_s * at_s, 0, 0, km_s, 0, 0] for at_s in node_s]


def test_nothing_is_interpolated_across_segments(read: Read) -> None:
    # A burn at 600 s turns it round; a polynomial across the corner would round it off.
    before, after = np.arange(0, 601, 60.0), np.arange(600, 1201, 60.0)
    motion = read(
        _segment(after, _straight(after, 8200, -1), frame="ITRF"),
        _segment(before, _straight(before, 7000, 1), frame="ITRF"),
    )
    assert motion.names == ("sat-1",)
    motion.check_span(1200.0)
    x_km = motion.state_itrs_km(np.array([0, 570, 599, 600, 601, 1200.0]))[0][0, :, 0]
    assert x_km == pytest.approx([7000, 7570, 7599, 7600, 7599, 7000], abs=1e-6)


@pytest.mark.parametrize(("first_s", "last_s"), [(60.0, 1200.0), (0.0, 1140.0)])
def test_a_time_outside_names_satellite_and_span(first_s: float, last_s: float, read: Read) -> None:
    node_s = np.arange(first_s, last_s + 1, 60.0)
    whole_s = np.arange(0, 1201, 60.0)
    motion = read(
        _segment(whole_s, _straight(whole_s, 7000, 1), "WHOLE", "ITRF"),
        _segment(node_s, _straight(node_s, 7000, 1), "PART", "ITRF"),
    )
    span = (
        f"{_written(EPOCH + timedelta(seconds=first_s))[:-3]}Z to {_written(EPOCH + timedelta(seconds=last_s))[:-3]}Z"
    )
    for look in (lambda: motion.check_span(1200.0), lambda: motion.state_itrs_km(whole_s)):
        with pytest.raises(ScenarioError) as refusal:
            look()
        assert "ephemeris of part " in str(refusal.value)
        assert refusal.value.allowed == span
        assert refusal.value.line == 4 + 8 + 1 + len(whole_s) + 1  # header, keys, states, a blank line


def test_a_gap_between_segments_is_outside(read: Read) -> None:
    first, second = np.arange(0, 601, 60.0), np.arange(660, 1201, 60.0)
    motion = read(*(_segment(one, _straight(one, 7000, 1), frame="ITRF") for one in (first, second)))
    motion.check_span(600.0)
    for look in (lambda: motion.check_span(700.0), lambda: motion.state_itrs_km(np.array([630.0]))):
        with pytest.raises(ScenarioError, match="(?s)sat-1.*02:34:00.000Z, 2026-06-01T02:35:00"):
            look()


def test_only_what_is_useable_is_used(read: Read) -> None:
    node_s = np.arange(-600, 1801, 60.0)
    useable = [
        f"USEABLE_{key}_TIME = {_written(EPOCH + timedelta(seconds=at))}" for key, at in (("START", 0), ("STOP", 900))
    ]
    motion = read(_segment(node_s, _straight(node_s, 8000, 1), frame="ITRF", extra=useable))
    motion.state_itrs_km(np.array([0.0, 900.0]))
    for at_s in (-1.0, 901.0):
        with pytest.raises(ScenarioError, match="no states for this time"):
            motion.state_itrs_km(np.array([at_s]))


def test_what_a_file_may_carry_besides(read: Read) -> None:
    node_s = np.arange(0, 301, 60.0)
    plain = _segment(node_s, _straight(node_s, 7000, 1), frame="ITRF")
    rows = plain.split("META_STOP\n")[1].replace("2026-06-01T", "2026-152T").replace(" 0.000000000\n", " 0 0 0 0\n")
    dressed = plain.split("META_STOP\n")[0].replace("META_START\n", "META_START\nCOMMENT a remark = with a sign\n")
    covariance = "COVARIANCE_START\nEPOCH = 2026-06-01T02:24:00\n1.0\n0.0 1.0\nCOVARIANCE_STOP\n"
    text = f"{dressed}META_STOP\nCOMMENT\n\n{rows}\n{covariance}".replace("\n", "\r\n")
    motion = read(text, header=HEADER + "COMMENT of the file\n")
    at_s = np.linspace(0, 300, 7)
    assert motion.state_itrs_km(at_s)[0] == pytest.approx(read(plain).state_itrs_km(at_s)[0], abs=1e-9)


def test_two_states_are_enough_and_many_are_no_burden(read: Read) -> None:
    motion = read(_segment([0, 60.0], _straight([0, 60.0], 7000, 1), frame="ITRF"))
    assert motion.state_itrs_km(np.array([30.0]))[0][0, 0] == pytest.approx([7030, 0, 0])


# -- what is wrong ----------------------------------------------------------------------------------------------------

_NODES = np.arange(0, 301, 60.0)
_GOOD = _segment(_NODES, _straight(_NODES, 7000, 1), frame="ITRF")
_ROW = _GOOD.splitlines()[9]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("CENTER_NAME = EARTH", "CENTER_NAME = MARS", 7, ["CENTER_NAME", "MARS", "EARTH"]),
        ("REF_FRAME = ITRF", "REF_FRAME = TOD", 8, ["REF_FRAME", "TOD", "EME2000"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM = MRT", 9, ["TIME_SYSTEM", "MRT", "TAI"]),
        ("TIME_SYSTEM = UTC\n", "", 4, ["a key is missing", "TIME_SYSTEM"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM =", 4, ["a key is missing", "TIME_SYSTEM"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM = UTC\nTIME_SYSTEM = TAI", 10, ["twice", "TIME_SYSTEM", "line 9"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM = UTC\nNONSENSE = 1", 10, ["not a key", "NONSENSE"]),
        ("META_STOP", "INTERPOLATION = PROPAGATE\nMETA_STOP", 12, ["PROPAGATE", "HERMITE, LAGRANGE, LINEAR"]),
        ("META_STOP", "INTERPOLATION_DEGREE = 99\nMETA_STOP", 12, ["INTERPOLATION_DEGREE", "99", "1 to 27"]),
        ("META_STOP", "INTERPOLATION_DEGREE = 13\nMETA_STOP", 12, ["too few states", "6 states", "7 states or more"]),
        ("META_STOP\n", "", 12, ["not a key of a segment", "META_STOP"]),
        ("META_START\n", "", 11, ["states before any META_START"]),
        (_ROW, _ROW.replace("06-01", "06-31"), 13, ["not an instant", "2026-06-31T02:24:00"]),
        (_ROW, _ROW.replace("T02:24", "T02:25"), 14, ["out of order", "later than that of line 13"]),
        (_ROW, _ROW.rsplit(" ", 1)[0], 13, ["not a state", "x, y, z in km"]),
        (_ROW, _ROW.replace(" 1.0", " one"), 13, ["not a number", "one"]),
        (_ROW, _ROW.replace(" 1.0", " nan"), 13, ["not a number", "nan"]),
        (" 7060.0", " 7060000.0", 14, ["not where a satellite can be", "7060000.0 km", "6451 to"]),
        (" 7060.0", " 6440.0", 14, ["not where a satellite can be", "6440.0 km"]),
        ("CCSDS_OEM_VERS = 2.0", "CCSDS_OMM_VERS = 2.0", 1, ["not an OEM", "CCSDS_OMM_VERS"]),
        ("CCSDS_OEM_VERS = 2.0", "CCSDS_OEM_VERS = 4.0", 1, ["unknown version", "4.0"]),
        ("STOP_TIME = 2026-06-01T", "STOP_TIME = 2020-06-01T", 10, ["spans no time", "START_TIME"]),
        ("STOP_TIME = 2026-06-01T", "STOP_TIME = soon", 11, ["not an instant", "STOP_TIME"]),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_field(
    old: str, new: str, line: int, words: list[str], read: Read
) -> None:
    assert old in HEADER + _GOOD
    with pytest.raises(ScenarioError) as refusal:
        read((HEADER + _GOOD).replace(old, new, 1), header="")
    assert refusal.value.line == line
    for word in (*words, "sky.oem:"):
        assert word in str(refusal.value)


def test_segments_that_contradict_one_another_are_refused(read: Read) -> None:
    with pytest.raises(ScenarioError, match="(?s)two segments of sat-1 overlap.*line 4"):
        read(_GOOD, _GOOD)
    with pytest.raises(ScenarioError, match="(?s)same name.*sat-1.*line 4"):
        read(_GOOD, _segment(_NODES, _straight(_NODES, 7000, 1), "Sat_1", "ITRF"))
    with pytest.raises(ScenarioError, match="(?s)same name.*sat-1.*line 4"):
        read(_GOOD, _segment(_NODES + 600, _straight(_NODES, 7000, 1), frame="ITRF", identity="2026-002A"))


def test_a_file_of_nothing_is_refused(read: Read) -> None:
    with pytest.raises(ScenarioError, match="no segment"):
        read("")
    with pytest.raises(ScenarioError, match="covariance without end"):
        read(_GOOD, "COVARIANCE_START\n")
    with pytest.raises(ScenarioError, match="metadata without end"):
        read("META_START\nOBJECT_NAME = A")
    with pytest.raises(ScenarioError, match="too few states"):
        read(_GOOD.split("META_STOP")[0] + "META_STOP\n")
    with pytest.raises(ScenarioError, match="empty"):
        read("", header="")


@given(data=st.data())
def test_any_damage_is_read_or_refused_and_never_a_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = HEADER + _GOOD
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.sampled_from([start, start + 1, start + 30, len(text)]))
    noise = data.draw(st.text(max_size=3) | st.sampled_from(["=", "nan", "-1", "1e999", "\n", "META_START\n", "\x85"]))
    path = tmp_path_factory.getbasetemp() / "damaged.oem"
    path.write_text(text[:start] + noise + text[end:], errors="replace")
    try:
        motion = read_oem(path, EPOCH)
    except ScenarioError as error:
        assert str(path) in str(error)
    else:
        assert len(motion.names) == 1
