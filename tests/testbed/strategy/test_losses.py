"""Rounds that lose a node: the others begin them again, with what is left to send, and end with the right weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.errors import BoardError, LinkError
from testbed.mission import MissionPlan
from testbed.scenario import FailureSettings

Simulate = Callable[..., dict[str, Any]]


def _failing(*failures: tuple[str, float]) -> Callable[[MissionPlan], MissionPlan]:
    listed = tuple(FailureSettings(node=node, at_s=at_s) for node, at_s in failures)

    def change(plan: MissionPlan) -> MissionPlan:
        return replace(plan, scenario=plan.scenario.model_copy(update={"failures": listed}))

    return change


def _digests(result: dict[str, Any]) -> list[str]:
    return [round_["weights_sha256"] for round_ in result["rounds"]]


@pytest.fixture(scope="module")
def undisturbed(simulate: Simulate) -> dict[str, Any]:
    return simulate("collaborative")


@pytest.fixture(scope="module")
def without_one(simulate: Simulate) -> dict[str, Any]:
    """On board, where no embedding crosses any link: the oracle for what seven satellites learn."""
    return simulate("onboard", change=_failing(("sat-0-3", 0.0)))


# A round of the collaborative run: embeddings are made by 0.05 s, the ground has them by 1.1 s, features are back by
# 1.23 s, heads are averaged by 1.42 s.
@pytest.mark.parametrize("at_s", [0.0, 0.2, 0.8, 1.2, 1.35])
@pytest.mark.parametrize("intra_orbit", ["all-gather", "relay"])
def test_the_others_learn_the_same_whenever_a_satellite_dies(
    simulate: Simulate, without_one: dict[str, Any], intra_orbit: str, at_s: float
) -> None:
    result = simulate("collaborative", {"intra_orbit": intra_orbit}, change=_failing(("sat-0-3", at_s)))
    assert _digests(result) == _digests(without_one)
    assert [round_["members"] for round_ in result["rounds"]] == ["line of 7: sat-0-3 is out"] * 2
    assert [round_["attempts"] for round_ in result["rounds"]] == [2, 1]
    assert result["verdict"] == "degraded"
    assert any("sat-0-3 was lost in round 1" in reason for reason in result["verdict_reasons"])


@pytest.fixture(scope="module")
def oracle(simulate: Simulate) -> Callable[[str, int], list[str]]:
    """What each round's weights are when a satellite dies in a round: from on board, where nothing is sent up."""
    starts_s = [round_["start_s"] for round_ in simulate("onboard")["rounds"]]
    known: dict[tuple[str, int], list[str]] = {}

    def digests(node: str, round_: int) -> list[str]:
        if (node, round_) not in known:
            known[node, round_] = _digests(simulate("onboard", change=_failing((node, starts_s[round_ - 1] + 1e-6))))
        return known[node, round_]

    return digests


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    node=st.sampled_from(["sat-0-1", "sat-0-2", "sat-0-6"]),  # 2 has the contact, 1 is its neighbour, 6 is opposite
    at_s=st.floats(0.0, 3.2),
    intra_orbit=st.sampled_from(["all-gather", "relay"]),
)
def test_no_instant_is_a_bad_one_to_die(
    simulate: Simulate, oracle: Callable[[str, int], list[str]], node: str, at_s: float, intra_orbit: str
) -> None:
    result = simulate("collaborative", {"intra_orbit": intra_orbit}, change=_failing((node, at_s)))
    lost = [event for event in result["events"] if event["kind"] == "node_lost"]
    assert len(lost) == 1
    assert _digests(result) == oracle(node, lost[0]["round"])


def test_what_the_ground_has_is_not_sent_again(simulate: Simulate, undisturbed: dict[str, Any]) -> None:
    result = simulate("collaborative", change=_failing(("sat-0-3", 0.8)))
    arrived_by_s: dict[str, float] = {}
    for event in result["events"]:
        if event["kind"] == "transfer" and event["receiver"] == "ground":
            arrived_by_s.setdefault(event["chunk"], event["end_s"])
    before = {chunk for chunk, end_s in arrived_by_s.items() if end_s < 0.8}
    assert before
    again = [e for e in result["events"] if e["kind"] == "transfer" and e["chunk"] in before and e["start_s"] > 0.8]
    assert [event for event in again if not event["receiver"].startswith("sat-") and event["bytes"]] == []
    # The dead satellite's own embeddings may have gone up before; nothing else goes up twice.
    assert result["bytes"]["up"] <= undisturbed["bytes"]["up"]


def test_a_lost_station_costs_time_and_no_bit(simulate: Simulate, undisturbed: dict[str, Any]) -> None:
    result = simulate("collaborative", change=_failing(("svalbard", 0.5)))
    assert _digests(result) == _digests(undisturbed)
    assert result["mission_time_s"] > undisturbed["mission_time_s"]
    assert {round_["members"] for round_ in result["rounds"]} == {"ring of 8"}
    after = [e for e in result["events"] if e["kind"] == "transfer" and e["start_s"] > 0.5]
    assert after
    assert "svalbard" not in {event[end] for event in after for end in ("sender", "receiver")}


def test_a_later_round_goes_on_from_where_it_began(simulate: Simulate, undisturbed: dict[str, Any]) -> None:
    at_s = undisturbed["rounds"][1]["end_s"] - 0.2
    result = simulate("collaborative", change=_failing(("sat-0-3", at_s)))
    onboard = simulate("onboard", {"learning.rounds": "1"})
    assert result["rounds"][0]["weights_sha256"] == undisturbed["rounds"][0]["weights_sha256"]
    assert result["rounds"][0]["weights_sha256"] == onboard["rounds"][0]["weights_sha256"]
    assert result["rounds"][1]["weights_sha256"] != undisturbed["rounds"][1]["weights_sha256"]
    assert [round_["attempts"] for round_ in result["rounds"]] == [1, 2]


def test_neighbours_may_both_die(simulate: Simulate) -> None:
    result = simulate("collaborative", change=_failing(("sat-0-3", 0.2), ("sat-0-4", 0.9)))
    together = simulate("onboard", change=_failing(("sat-0-3", 0.0), ("sat-0-4", 0.0)))
    assert _digests(result) == _digests(together)
    assert result["rounds"][0]["members"] == "line of 6: sat-0-3 is out, sat-0-4 is out"
    assert result["rounds"][0]["attempts"] == 3


def test_a_plane_in_two_pieces_ends_the_run(simulate: Simulate) -> None:
    with pytest.raises(LinkError, match=r"no link sat-0-2 - sat-0-4, sat-0-6 - sat-0-0"):
        simulate("collaborative", change=_failing(("sat-0-3", 0.2), ("sat-0-7", 0.4)))


def test_what_no_station_is_left_for_is_blamed_on_the_losses(simulate: Simulate) -> None:
    names = ("svalbard", "sioux-falls", "alice-springs")  # Neustrelitz has no pass within the horizon
    with pytest.raises(LinkError, match=r"without alice-springs, sioux-falls, svalbard: .*cannot be at ground"):
        simulate("collaborative", change=_failing(*((name, 0.1 * (1 + i)) for i, name in enumerate(names))))


def test_the_last_satellite_cannot_be_done_without(simulate: Simulate) -> None:
    everybody = [(f"sat-0-{index}", 0.0001 * (1 + index)) for index in range(8)]
    with pytest.raises(BoardError, match="sat-0-7 is lost: killed; it was the last satellite"):
        simulate("onboard", change=_failing(*everybody))


def _averaged_s(result: dict[str, Any], round_: int) -> list[float]:
    """When satellites had everybody's weights in a round, whatever became of it."""
    waits = [e for e in result["events"] if e["kind"] == "activity" and e["what"] == "the plane's weights"]
    return sorted(event["end_s"] for event in waits if event["round"] == round_)


def test_what_fedadam_remembers_is_of_rounds_that_ended(simulate: Simulate) -> None:
    # A satellite dies when some of the others have averaged already, and stepped: they step again from where they were.
    # Oracle: the same satellite dies before the round has begun to learn anything.
    fedadam = {"learning.aggregation": "fedadam", "learning.server_learning_rate": "0.01"}
    whole = simulate("onboard", fedadam)
    ends_s = _averaged_s(whole, 2)
    assert ends_s[0] < ends_s[-1]
    early = simulate("onboard", fedadam, change=_failing(("sat-0-3", whole["rounds"][1]["start_s"] + 1e-6)))
    late = simulate("onboard", fedadam, change=_failing(("sat-0-3", (ends_s[0] + ends_s[-1]) / 2)))
    assert _averaged_s(late, 2)[0] == ends_s[0]  # it was too late for this one
    assert [[round_["attempts"] for round_ in run["rounds"]] for run in (early, late)] == [[1, 2], [1, 2]]
    assert _digests(late) == _digests(early) != _digests(whole)
    assert _digests(late)[0] == _digests(whole)[0]
