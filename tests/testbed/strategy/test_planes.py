"""Several planes on the simulated rack: averaged inside, then over the ground."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.planner import make_plan
from testbed.errors import ScenarioError
from testbed.learning.aggregate import mean_of_packed, weighted_mean
from testbed.learning.checkpoint import pack_state, unpack_state
from testbed.learning.model import Head
from testbed.learning.placement import round_indices
from testbed.scenario import load_scenario

Simulate = Callable[..., dict[str, Any]]
TWO = {"constellation": "D:1400:98.2:12/2/1", "duration": "6 h", "rack.capacity": "300 Mbit/s"}
HEAD_BYTES = 4 * (384 * 6 + 6)


@pytest.fixture(scope="module")
def onboard(simulate: Simulate) -> dict[str, Any]:
    return simulate("onboard", TWO)


def test_where_the_backbone_runs_changes_no_bit_over_planes_either(simulate: Simulate, onboard: dict[str, Any]) -> None:
    collaborative = simulate("collaborative", TWO)
    assert collaborative["weights"] == onboard["weights"]
    assert collaborative["verdict"] == "valid"
    assert collaborative["rounds"][0]["members"] == "ring of 6; ring of 6"


def test_the_mean_over_planes_is_that_of_their_means(simulate: Simulate, onboard: dict[str, Any]) -> None:
    """Oracle: what each satellite learns by itself, averaged by hand in each plane, then over both."""
    one = {**TWO, "learning.rounds": "1"}
    alone = simulate("local-only", one)
    scenario, rings = alone["plan"].scenario, alone["plan"].rings
    like = dict(Head(6, scenario.seed).state_dict())
    counts = {node: len(rows) for node, rows in round_indices(scenario, alone["plan"].satellites, 1).items()}
    planes = {}
    for ring in rings:
        heads = {n: (float(counts[n]), unpack_state(alone["weights"][n], like)) for n in ring if counts[n]}
        planes[ring[0]] = (float(sum(counts[n] for n in ring)), pack_state(weighted_mean(heads)))
    expected = mean_of_packed(planes)
    assert simulate("onboard", one)["weights"]["all"] == expected
    # The mean of means, each cast once, is the mean over all to the last places of float32.
    everybody = {n: (float(c), unpack_state(alone["weights"][n], like)) for n, c in counts.items() if c}
    flat = weighted_mean(everybody)
    found = unpack_state(expected, like)
    assert max(float((flat[name] - found[name]).abs().max()) for name in flat) < 1e-7


def test_a_plane_sends_its_weights_once_and_gets_the_mean_once(onboard: dict[str, Any]) -> None:
    rounds, planes = 2, 2
    assert onboard["bytes"]["up"] == onboard["bytes"]["down"] == rounds * planes * HEAD_BYTES
    assert onboard["bytes"]["backhaul"] == 2 * rounds * planes * HEAD_BYTES
    assert onboard["mission_time_s"] == pytest.approx(onboard["plan"].prediction["mission_time_s"], rel=0.05)


def test_relayed_over_links_between_planes_the_weights_are_the_same(
    simulate: Simulate, onboard: dict[str, Any]
) -> None:
    grid = {**TWO, "intra_orbit": "relay", "isl.topology": "plus-grid", "rack.capacity": "500 Mbit/s"}
    relayed = simulate("collaborative", grid)
    assert relayed["weights"] == onboard["weights"]


def test_adapters_meet_on_the_ground_too(simulate: Simulate) -> None:
    split = {
        **TWO,
        "learning.mode": "u-shaped",
        "learning.split_order": "per-satellite",
        "learning.learning_rate": "0.001",
        "learning.rounds": "1",
        "learning.local_epochs": "1",
    }
    assert simulate("collaborative", split)["verdict"] == "valid"
    onboard = simulate("onboard", split)
    assert onboard["verdict"] == "valid"
    assert onboard["bytes"]["up"] == 2 * (HEAD_BYTES + 4 * 6 * 2 * 8 * 768)


def test_one_head_for_all_needs_one_ring() -> None:
    pooled = load_scenario("demo", {**TWO, "learning.mode": "u-shaped"})
    with pytest.raises(ScenarioError) as refused:
        make_plan(pooled, "collaborative")
    assert refused.value.field == "learning.split_order"


def test_losing_a_plane_s_speaker_begins_the_round_again(simulate: Simulate, onboard: dict[str, Any]) -> None:
    """Its name is on the plane's weights; another one speaks then."""
    from dataclasses import replace

    from testbed.scenario import FailureSettings

    def change(plan: Any) -> Any:
        failures = (FailureSettings(node="sat-1-0", at_s=0.7),)
        return replace(plan, scenario=plan.scenario.model_copy(update={"failures": failures}))

    result = simulate("onboard", TWO, change=change)
    assert result["rounds"][-1]["members"] == "ring of 6; line of 5: sat-1-0 is out"
    assert result["verdict"] == "degraded"  # by the loss, which equality of runs does not survive
