"""Motion along tables against the SGP4 they are written from, skyfield's frames, and polynomials to be reproduced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyfield.api import EarthSatellite, load

from testbed.errors import ScenarioError
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contacts import find_contacts
from testbed.orbit.oem import read_oem
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import station
from tests.testbed.orbit.oem_text import EPOCH, HEADER, Read, segment_text, straight, written

METRE_KM = 1e-3


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
    frame: str, method: Sequence[str], read_motion: Read, truth: Propagator
) -> None:
    node_s = np.arange(-120, 7320, 60.0)
    motion = read_motion(
        *(segment_text(node_s, FRAMES[frame](truth, row, node_s), f"SAT {row}", frame, extra=method) for row in (0, 1))
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


def test_contacts_are_those_of_the_elements_it_was_made_from(read_motion: Read, truth: Propagator) -> None:
    node_s = np.arange(0, 6 * 3600 + 1, 60.0)
    motion = read_motion(*(segment_text(node_s, _teme(truth, row, node_s), truth.names[row]) for row in (0, 1)))
    stations = [station("Wallops"), station("Matera")]
    ours, theirs = (find_contacts(one, stations, 6 * 3600.0) for one in (motion, truth))
    assert len(ours) == len(theirs) > 3
    for one, other in zip(ours, theirs, strict=True):
        assert (one.satellite, one.station) == (other.satellite, other.station)
        assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=0.01)


@pytest.mark.parametrize(("system", "ahead_s"), [("UTC", 0.0), ("TAI", 37.0), ("TT", 69.184), ("GPS", 18.0)])
def test_time_systems_differ_by_their_published_offsets(
    system: str, ahead_s: float, read_motion: Read, truth: Propagator
) -> None:
    node_s = np.arange(0, 901, 60.0)
    motion = read_motion(segment_text(node_s, _teme(truth, 0, node_s), system=system, ahead_s=ahead_s))
    error_km = motion.state_itrs_km(node_s)[0] - truth.state_itrs_km(node_s)[0][:1]
    assert np.linalg.norm(error_km, axis=-1).max() < 0.1 * METRE_KM  # a second is 7.6 km, a microsecond 8 mm


def test_a_leap_second_is_a_second(read_motion: Read) -> None:
    # The last one so far. A body that moves by 1 km/s along x: in the ten seconds from 55 to 04 it makes 10 km.
    rows = [("2016-12-31T23:59:55", 0), ("2016-12-31T23:59:60", 5), ("2017-01-01T00:00:04", 10)]
    table = segment_text([0.0, 1.0], [[7000, 0, 0, 1, 0, 0]] * 2, frame="ITRF").split("META_STOP")[0]
    for old in [one for one in table.splitlines() if "_TIME =" in one]:
        table = table.replace(old, old.split("=")[0] + "= " + rows[0 if "START" in old else 2][0])
    states = "\n".join(f"{instant} {7000 + moved} 0 0 1 0 0" for instant, moved in rows)
    motion = read_motion(f"{table}META_STOP\n{states}\n", epoch=datetime(2016, 12, 31, 23, 59, 55, tzinfo=timezone.utc))
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
    path.write_text(HEADER + segment_text(node_s, np.vstack([positions, velocities]).T, frame="ITRF-97", extra=extra))
    at_s = np.linspace(0, node_s[-1], 57)
    position_km, velocity_km_s = (one[0] for one in read_oem(path, EPOCH).state_itrs_km(at_s))
    assert position_km == pytest.approx(np.array([curve(at_s) + 7000 for curve in curves]).T, abs=1e-4)
    assert velocity_km_s == pytest.approx(np.array([curve.deriv()(at_s) for curve in curves]).T, abs=1e-4)


def test_nothing_is_interpolated_across_segments(read_motion: Read) -> None:
    # A burn at 600 s turns it round; a polynomial across the corner would round it off.
    before, after = np.arange(0, 601, 60.0), np.arange(600, 1201, 60.0)
    motion = read_motion(
        segment_text(after, straight(after, 8200, -1), frame="ITRF"),
        segment_text(before, straight(before, 7000, 1), frame="ITRF"),
    )
    assert motion.names == ("sat-1",)
    motion.check_span(1200.0)
    x_km = motion.state_itrs_km(np.array([0, 570, 599, 600, 601, 1200.0]))[0][0, :, 0]
    assert x_km == pytest.approx([7000, 7570, 7599, 7600, 7599, 7000], abs=1e-6)


@pytest.mark.parametrize(("first_s", "last_s"), [(60.0, 1200.0), (0.0, 1140.0)])
def test_a_time_outside_names_satellite_and_span(first_s: float, last_s: float, read_motion: Read) -> None:
    node_s = np.arange(first_s, last_s + 1, 60.0)
    whole_s = np.arange(0, 1201, 60.0)
    motion = read_motion(
        segment_text(whole_s, straight(whole_s, 7000, 1), "WHOLE", "ITRF"),
        segment_text(node_s, straight(node_s, 7000, 1), "PART", "ITRF"),
    )
    span = f"{written(EPOCH + timedelta(seconds=first_s))[:-3]}Z to {written(EPOCH + timedelta(seconds=last_s))[:-3]}Z"
    for look in (lambda: motion.check_span(1200.0), lambda: motion.state_itrs_km(whole_s)):
        with pytest.raises(ScenarioError) as refusal:
            look()
        assert "ephemeris of part " in str(refusal.value)
        assert refusal.value.allowed == span
        assert refusal.value.line == 4 + 8 + 1 + len(whole_s) + 1  # header, keys, states, a blank line


def test_a_gap_between_segments_is_outside(read_motion: Read) -> None:
    first, second = np.arange(0, 601, 60.0), np.arange(660, 1201, 60.0)
    motion = read_motion(*(segment_text(one, straight(one, 7000, 1), frame="ITRF") for one in (first, second)))
    motion.check_span(600.0)
    for look in (lambda: motion.check_span(700.0), lambda: motion.state_itrs_km(np.array([630.0]))):
        with pytest.raises(ScenarioError, match="(?s)sat-1.*02:34:00.000Z, 2026-06-01T02:35:00"):
            look()
