"""Rounds whose plane is not a whole ring by plan: it is a line, or the round waits until it is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from controller.planner import make_plan
from testbed.errors import ScenarioError
from testbed.mission import MissionPlan
from testbed.scenario import load_scenario

Simulate = Callable[..., dict[str, Any]]
Change = Callable[[MissionPlan], MissionPlan]


def _down(*pairs: tuple[str, str], from_s: float = 0.0, until_s: float | None = None) -> Change:
    """The links between these satellites are down from one mission time to another, or for good."""

    def change(plan: MissionPlan) -> MissionPlan:
        plans = dict(plan.link_plans)
        for sender, receiver in [*pairs, *((b, a) for a, b in pairs)]:
            (up,) = plans[sender].links[receiver]
            states = [up] if from_s > 0 else []
            states.append(replace(up, start_s=from_s, rate_bps=0.0))
            states += [] if until_s is None else [replace(up, start_s=until_s)]
            plans[sender] = replace(plans[sender], links={**plans[sender].links, receiver: tuple(states)})
        return replace(plan, link_plans=plans)

    return change


def _digests(result: dict[str, Any]) -> list[str]:
    return [round_["weights_sha256"] for round_ in result["rounds"]]


@pytest.fixture(scope="module")
def whole(simulate: Simulate) -> dict[str, Any]:
    return simulate("collaborative")


@pytest.mark.parametrize("intra_orbit", ["all-gather", "relay"])
@pytest.mark.parametrize("from_s", [0.0, 0.5])  # never there; or gone for good in the first round, and so never used
def test_a_ring_that_lacks_a_link_is_a_line(
    simulate: Simulate, whole: dict[str, Any], intra_orbit: str, from_s: float
) -> None:
    change = _down(("sat-0-5", "sat-0-6"), from_s=from_s)
    result = simulate("collaborative", {"intra_orbit": intra_orbit}, change=change)
    assert _digests(result) == _digests(whole)
    assert {round_["members"] for round_ in result["rounds"]} == {"line of 8: sat-0-5 - sat-0-6 is down"}
    assert {round_["attempts"] for round_ in result["rounds"]} == {1}
    assert result["verdict"] == "valid"
    crossed = [e for e in result["events"] if {e.get("sender"), e.get("receiver")} == {"sat-0-5", "sat-0-6"}]
    assert [e for e in crossed if e["kind"] == "transfer" and e["kept"]] == []


def test_a_plane_in_two_pieces_waits_until_it_is_one(simulate: Simulate, whole: dict[str, Any]) -> None:
    change = _down(("sat-0-5", "sat-0-6"), ("sat-0-0", "sat-0-1"), until_s=2.0)
    result = simulate("collaborative", change=change)
    assert _digests(result) == _digests(whole)
    assert [e["until_s"] for e in result["events"] if e["kind"] == "apart"] == [2.0]
    assert {round_["members"] for round_ in result["rounds"]} == {"ring of 8"}
    assert min(e["start_s"] for e in result["events"] if e["kind"] == "transfer") >= 2.0


def test_a_link_that_comes_back_delays_what_is_on_it(simulate: Simulate, whole: dict[str, Any]) -> None:
    result = simulate("collaborative", change=_down(("sat-0-5", "sat-0-6"), from_s=0.1, until_s=5.0))
    assert _digests(result) == _digests(whole)
    assert result["rounds"][0]["members"] == "ring of 8"
    assert result["rounds"][0]["end_s"] >= 5.0


def test_a_plane_that_is_never_one_is_refused() -> None:
    ring = [f"sat-0-{index}" for index in range(8)]
    pairs = ", ".join(f"{a} - {b}" for a, b in zip(ring, ring[1:], strict=False) if a != "sat-0-4")
    explicit = {"isl.topology": "explicit", "isl.pairs": f"[{pairs}]"}
    with pytest.raises(ScenarioError, match="one piece") as caught:
        make_plan(load_scenario("demo", explicit))
    assert caught.value.field == "isl"
    assert "sat-0-4 - sat-0-5, sat-0-7 - sat-0-0" in str(caught.value.found)


def test_the_prediction_knows_a_line() -> None:
    ring = [f"sat-0-{index}" for index in range(8)]
    pairs = ", ".join(f"{a} - {b}" for a, b in zip(ring, ring[1:], strict=False))
    line = {"isl.topology": "explicit", "isl.pairs": f"[{pairs}]", "learning.rounds": "1"}
    closed, opened = (make_plan(load_scenario("demo", one), "onboard") for one in ({"learning.rounds": "1"}, line))
    took_s = [plan.prediction["rounds"][0]["phases"][-1] for plan in (closed, opened)]
    ring_s, line_s = (phase["end_s"] - phase["start_s"] for phase in took_s)
    assert line_s == pytest.approx(7 / 4 * ring_s)  # heads go 4 hops round a ring of 8, and 7 along a line
