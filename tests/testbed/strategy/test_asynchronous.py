"""Planes that do not wait for each other, on the simulated rack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from testbed.errors import BoardError, ScenarioError
from testbed.scenario import FailureSettings, load_scenario
from testbed.strategy import sizes

Simulate = Callable[..., dict[str, Any]]

# One plane has its first pass after 400 s, the other after 2,200 s.
APART = {
    "constellation": "D:705:98.2:16/2/1",
    "stations": "[Alice Springs]",
    "rack.capacity": "400 Mbit/s",
    "learning.rounds": "1",
}


def _mixes(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in result["events"] if event["kind"] == "mixed"]


@pytest.fixture(scope="module")
def apart(simulate: Simulate) -> dict[str, Any]:
    return simulate("async", {**APART, "learning.turns": "3"})


def test_a_plane_with_passes_goes_on_while_the_other_waits_for_one(apart: dict[str, Any], simulate: Simulate) -> None:
    mixes = _mixes(apart)
    planes = [mix["plane"] for mix in mixes]
    # The plane that has a pass is heard three times, which is all that it may, before the other is heard once.
    assert planes == ["sat-0-0", "sat-0-0", "sat-0-0", "sat-1-0"]
    assert [mix["staleness"] for mix in mixes] == [0, 0, 0, 3]
    assert mixes[3]["weight"] == pytest.approx(0.6 * 4**-0.5)  # the default's mixing rate and exponent
    # Averaging over both planes at once, there is no model of anybody's before the second plane is heard, and the
    # first one gets it only on a later pass.
    together = simulate("onboard", APART)
    assert mixes[2]["mission_s"] < together["mission_time_s"] / 5
    assert apart["mission_time_s"] < together["mission_time_s"]


def test_time_and_bytes_are_as_predicted(apart: dict[str, Any]) -> None:
    prediction = apart["plan"].prediction
    assert apart["mission_time_s"] == pytest.approx(prediction["mission_time_s"], rel=0.05)
    crossing = [one for point in prediction["rounds"] for one in point["transfers"]]
    assert sum(one["size"] for one in crossing) == apart["bytes"]["up"] + apart["bytes"]["down"]


def test_the_same_twice(apart: dict[str, Any], simulate: Simulate) -> None:
    again = simulate("async", {**APART, "learning.turns": "3"})
    assert again["weights_sha256"] == apart["weights_sha256"]
    assert _mixes(again) == _mixes(apart)


def test_one_turn_each_at_full_rate_is_what_the_last_plane_sent(simulate: Simulate) -> None:
    """With a mixing rate of 1 and no exponent the model is the latest contribution, whole: that of the plane that was
    heard last, which is what it learns without the other."""
    settings = {**APART, "learning.turns": "1", "learning.mixing_rate": "1", "learning.staleness_exponent": "0"}
    result = simulate("async", settings)
    last = _mixes(result)[-1]["plane"]
    alone = simulate("local-only", APART)
    plane = result["plan"].plane_of(last)
    counts = sizes.sample_counts(alone["plan"], 1)
    total = sum(counts[name] for name in plane)
    mean = sum(np.frombuffer(alone["weights"][name], "<f4").astype(np.float64) * counts[name] for name in plane) / total
    assert np.frombuffer(result["weights"]["all"], "<f4") == pytest.approx(mean, abs=1e-7)


@pytest.mark.slow
def test_adapters_are_mixed_too(simulate: Simulate) -> None:
    settings = {"learning.mode": "u-shaped", "learning.local_epochs": "1", "learning.learning_rate": "0.001"}
    result = simulate("async", settings)
    assert result["verdict"] == "valid"
    assert [mix["staleness"] for mix in _mixes(result)] == [0, 0]  # one plane is never stale
    assert len({point["weights_sha256"] for point in result["rounds"]}) == 2


def test_a_lost_satellite_ends_the_run_by_name(simulate: Simulate) -> None:
    failures = (FailureSettings(node="sat-0-3", at_s=0.1),)
    with pytest.raises(BoardError, match="sat-0-3 was lost: planes that do not wait"):
        simulate(
            "async",
            change=lambda plan: replace(plan, scenario=plan.scenario.model_copy(update={"failures": failures})),
        )


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"learning.feature_cache": "true"}, "learning.feature_cache"),
        ({"learning.mode": "u-shaped", "learning.lora_average": "svd"}, "learning.lora_average"),
    ],
)
def test_what_it_cannot_do_is_refused(settings: dict[str, str], field: str) -> None:
    from controller.planner import make_plan

    with pytest.raises(ScenarioError) as refusal:
        make_plan(load_scenario("demo", settings), "async")
    assert refusal.value.field == field
