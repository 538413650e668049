"""The constellation code: published examples, Walker's geometry, and what must be refused."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.orbit.constellation import parse_constellation


def test_demo_ring_is_one_plane_of_eight_evenly_spaced() -> None:
    constellation = parse_constellation("D:705:98.2:8/1/0")
    assert constellation.names == tuple(f"sat-0-{index}" for index in range(8))
    assert [one.mean_anomaly_deg for one in constellation.satellites] == [45.0 * index for index in range(8)]
    # Landsat flies at 705 km with a published nodal period of 98.8 minutes; J2 changes Kepler's by less than 0.2 min.
    period_min = 2 * math.pi / constellation.satellites[0].mean_motion_rad_s / 60
    assert period_min == pytest.approx(98.8, abs=0.2)


def test_gps_has_half_a_sidereal_day() -> None:
    gps = parse_constellation("D:20180:55:24/6/1")
    assert len(gps.planes) == 6
    assert {len(plane) for plane in gps.planes} == {4}
    assert 2 * math.pi / gps.satellites[0].mean_motion_rad_s == pytest.approx(86164.1 / 2, rel=1e-3)
    assert [plane[0].node_deg for plane in gps.planes] == pytest.approx([0, 60, 120, 180, 240, 300])
    # Phasing: each plane is ahead of the one before by 360 F / T.
    assert [plane[0].mean_anomaly_deg for plane in gps.planes] == pytest.approx([0, 15, 30, 45, 60, 75])


def test_star_spreads_its_nodes_over_half_a_turn() -> None:
    iridium = parse_constellation("S:780:86.4:66/6/1")
    assert [plane[0].node_deg for plane in iridium.planes] == pytest.approx([0, 30, 60, 90, 120, 150])


def test_planes_are_counted_over_all_shells() -> None:
    both = parse_constellation("D:550:53:4/2/1+S:780:86.4:2/2/0")
    assert both.names == ("sat-0-0", "sat-0-1", "sat-1-0", "sat-1-1", "sat-2-0", "sat-3-0")
    assert [one.inclination_deg for one in both.satellites] == [53] * 4 + [86.4] * 2


def test_mean_anomaly_suffix_turns_the_whole_shell() -> None:
    plain, turned = parse_constellation("D:705:98.2:8/2/1"), parse_constellation("D:705:98.2:8/2/1:350.5")
    for one, other in zip(plain.satellites, turned.satellites, strict=True):
        assert (other.mean_anomaly_deg - one.mean_anomaly_deg) % 360 == pytest.approx(350.5)


@pytest.mark.parametrize(("code", "planes"), [("D:705:98.2:1/1/0", [1]), ("D:705:98.2:2/2/1", [1, 1])])
def test_small_racks_are_constellations_too(code: str, planes: list[int]) -> None:
    assert [len(plane) for plane in parse_constellation(code).planes] == planes


@given(
    walker=st.sampled_from("DS"),
    planes=st.integers(1, 9),
    per_plane=st.integers(1, 9),
    phasing=st.integers(0, 8),
    anomaly=st.none() | st.integers(0, 360),
)
def test_every_well_formed_code_gives_distinct_satellites(
    walker: str, planes: int, per_plane: int, phasing: int, anomaly: int | None
) -> None:
    suffix = "" if anomaly is None else f":{anomaly}"
    code = f"{walker}:550:53:{planes * per_plane}/{planes}/{phasing % planes}{suffix}"
    satellites = parse_constellation(code).satellites
    assert len({one.name for one in satellites}) == planes * per_plane
    for one, other in itertools.combinations(satellites, 2):
        assert (one.node_deg, round(one.mean_anomaly_deg, 6)) != (other.node_deg, round(other.mean_anomaly_deg, 6))


@pytest.mark.parametrize(
    ("code", "found", "allowed"),
    [
        ("", "(nothing)", "D|S:altitude"),
        ("X:550:53:4/1/0", "X:550:53:4/1/0", "D|S:altitude"),
        ("D:550:53:4/1", "D:550:53:4/1", "D|S:altitude"),
        ("D:550:53:4/1/0:", "D:550:53:4/1/0:", "D|S:altitude"),
        ("D:550:53:4/1/0+", "(nothing)", "D|S:altitude"),
        ("D:1e3:53:4/1/0", "D:1e3:53:4/1/0", "D|S:altitude"),
        ("D:550:53:٤/1/0", "D:550:53:٤/1/0", "D|S:altitude"),
        ("D:550:53:57/7/1", "T/P = 57/7", "divisible"),  # the example in the README of the code's ancestor
        ("D:550:53:8/2/2", "F = 2", "0 to P - 1 = 1"),
        ("D:550:180.5:4/1/0", "180.5", "0 to 180"),
        ("D:550:-1:4/1/0", "-1", "0 to 180"),
        ("D:0:53:4/1/0", "0", "80 to"),
        ("D:-550:53:4/1/0", "-550", "80 to"),
        ("D:550:53:0/1/0", "T = 0", "1 or more"),
        ("D:550:53:4/0/0", "P = 0", "1 or more"),
        ("D:550:53:4/1/0:361", "361", "0 to 360"),
        ("D:550:53:999999999/1/0", "999999999", "at most"),
    ],
)
def test_a_bad_code_is_refused_with_what_is_allowed(code: str, found: str, allowed: str) -> None:
    with pytest.raises(ScenarioError) as refusal:
        parse_constellation(code)
    assert refusal.value.field == "constellation"
    assert refusal.value.found == found or str(refusal.value.found) == found
    assert allowed in str(refusal.value.allowed)
