"""Ground tracks: distances against a track walked in small steps, and what a satellite flies over is what it has."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from controller.ground_track import EARTH_MEAN_RADIUS_KM, least_distances_km
from controller.planner import make_plan
from testbed.errors import ScenarioError
from testbed.learning import placement
from testbed.learning.tasks import Dataset, load_dataset
from testbed.mission import MissionPlan
from testbed.orbit.orbits import open_orbits
from testbed.scenario import Scenario, blaming, load_scenario
from tests.lone_passes import LONE_PASSES

EPOCH = datetime(2026, 6, 1, 3, 34, tzinfo=timezone.utc)


def test_distances_are_those_of_skyfields_subpoints_a_second_apart() -> None:
    """The oracle is another ellipsoid's arithmetic: skyfield's ``subpoint`` of every second, the haversine formula."""
    from skyfield.api import wgs84
    from skyfield.framelib import itrs
    from skyfield.positionlib import Geocentric
    from skyfield.units import Distance

    duration_s, generator = 1_200.0, np.random.default_rng(3)
    motion = open_orbits("D:705:98.2:3/1/0", Path(), EPOCH, duration_s).motion
    places_deg = np.column_stack([generator.uniform(-90, 90, 40), generator.uniform(-180, 180, 40)])
    position_km, _ = motion.state_itrs_km(np.arange(0.0, duration_s + 1))
    expected = np.empty((3, 40))
    from skyfield.api import load

    time = load.timescale(builtin=True).from_datetime(EPOCH)
    for row in range(3):
        # In the frame of one instant, where the Earth stands: positions are Earth-fixed already.
        turned = np.einsum("ij,jt->it", itrs.rotation_at(time).T, position_km[row].T)
        below = wgs84.subpoint_of(Geocentric(Distance(km=turned).au, t=time, center=399))
        latitude, longitude = below.latitude.radians[:, None], below.longitude.radians[:, None]
        to_latitude, to_longitude = np.radians(places_deg).T
        haversine = (
            np.sin((to_latitude - latitude) / 2) ** 2
            + np.cos(latitude) * np.cos(to_latitude) * np.sin((to_longitude - longitude) / 2) ** 2
        )
        expected[row] = (2 * EARTH_MEAN_RADIUS_KM * np.arcsin(np.sqrt(haversine))).min(axis=0)
    found = least_distances_km(motion, motion.names, places_deg, duration_s)
    # The oracle's points are 6.8 km apart, so it is never nearer, and at most half of that further.
    assert np.all(found <= expected + 0.1)
    assert np.all(found >= expected - 3.5)
    far = expected > 100
    assert np.abs(found - expected)[far].max() < 0.2


def test_a_satellite_that_stands_still_has_a_track_of_one_point() -> None:
    from controller.ground_track import _normals, _to_track

    track = _normals(np.zeros(5), np.full(5, 19.2))
    places = _normals(np.array([0.0, 0.0, 10.0]), np.array([19.2, 20.2, 19.2]))
    assert np.degrees(_to_track(track, places)) == pytest.approx([0.0, 1.0, 10.0], abs=1e-6)


def test_blocks_of_places_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    motion = open_orbits("D:705:98.2:2/1/0", Path(), EPOCH, 600.0).motion
    generator = np.random.default_rng(5)
    places_deg = np.column_stack([generator.uniform(-90, 90, 50), generator.uniform(-180, 180, 50)])
    whole = least_distances_km(motion, motion.names, places_deg, 600.0)
    monkeypatch.setattr("controller.ground_track._BLOCK_ANGLES", 100)
    assert np.allclose(least_distances_km(motion, motion.names, places_deg, 600.0), whole, rtol=0, atol=1e-6)


@pytest.fixture
def placed(small_landsat: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The small data with places all over the world."""
    data, generator = load_dataset(str(small_landsat)), np.random.default_rng(1)
    places = np.column_stack([generator.uniform(-80, 80, 900), generator.uniform(-180, 180, 900)])
    made = replace(data, train_places=places)
    monkeypatch.setattr(placement, "dataset", lambda learning: made)
    return made


def _small(small_landsat: Path, partition: str) -> Scenario:
    return load_scenario(
        "demo",
        {
            **LONE_PASSES,
            "learning.dataset": str(small_landsat),
            "learning.samples_per_round": "64",
            "learning.rounds": "1",
            "learning.partition": partition,
        },
    )


def test_what_a_satellite_flies_over_is_what_it_has(placed: Dataset, small_landsat: Path) -> None:
    plan = make_plan(_small(small_landsat, "ground-track"))
    # Another process knows who holds what from the plan alone: it has no orbits.
    plan = MissionPlan.from_json(plan.to_json())
    shards = placement.shard_indices(plan.scenario, plan.satellites)
    assert sum(map(len, shards.values())) == 810  # a tenth of 900 is held out
    motion = open_orbits(plan.scenario.constellation, Path(), plan.scenario.epoch, plan.scenario.duration_s).motion
    names = sorted(plan.satellites)
    assert placed.train_places is not None
    nearest = least_distances_km(motion, names, placed.train_places, plan.scenario.duration_s).argmin(axis=0)
    for index, name in enumerate(names):
        assert len(shards[name]) >= 16
        assert np.all(nearest[shards[name]] == index)


def test_a_data_set_without_places_is_refused_by_name(small_landsat: Path) -> None:
    scenario = _small(small_landsat, "ground-track")
    with pytest.raises(ScenarioError, match="does not say where its samples were taken") as caught, blaming(scenario):
        make_plan(scenario)
    assert caught.value.field == "learning.partition"
    assert caught.value.found == "ground-track"


@pytest.mark.parametrize("partition", ["dirichlet", "iid", "by-class"])
def test_histograms_count_every_sample(small_landsat: Path, partition: str) -> None:
    scenario = _small(small_landsat, partition)
    names = [f"sat-0-{index}" for index in range(8)]
    document = placement.histogram(scenario, names)
    data = load_dataset(str(small_landsat))
    total = np.sum([*document["satellites"].values(), document["validation"]], axis=0)
    assert total.tolist() == np.bincount(data.train_y, minlength=len(data.classes)).tolist()
    assert document["partition"] == partition and sum(document["validation"]) == 90
    for name, counts in document["satellites"].items():
        rows = placement.shard_indices(scenario, names)[name]
        assert counts == [int((data.train_y[rows] == label).sum()) for label in range(len(data.classes))]


def test_dirichlet_needs_its_parameter_and_nothing_else_does(small_landsat: Path) -> None:
    scenario = _small(small_landsat, "dirichlet")
    without = scenario.model_copy(update={"learning": scenario.learning.model_copy(update={"dirichlet_alpha": None})})
    with pytest.raises(ScenarioError, match="needs its parameter") as caught:
        placement.shard_indices(without, ["sat-0-0"])
    assert caught.value.field == "learning.dirichlet_alpha"
    iid = without.model_copy(update={"learning": without.learning.model_copy(update={"partition": "iid"})})
    assert len(placement.shard_indices(iid, ["sat-0-0"])["sat-0-0"]) == 810
