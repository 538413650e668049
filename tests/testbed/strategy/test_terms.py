"""Weights and deadlines that a scenario asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.planner import make_plan
from testbed.errors import FlowError, ScenarioError
from testbed.mission import MissionPlan
from testbed.scenario import TransferSettings, load_scenario
from testbed.strategy.terms import Terms, has_deadlines, terms_of, without_deadlines

Simulate = Callable[..., dict[str, Any]]
ONE_ROUND = {"learning.rounds": "1"}


def _asking(folder: Path, transfers: str) -> Path:
    path = folder / "asking.yaml"
    path.write_text(load_scenario("demo").text + "\ntransfers:\n" + transfers)
    return path


def _plan(folder: Path, transfers: str) -> MissionPlan:
    return make_plan(load_scenario(str(_asking(folder, transfers)), ONE_ROUND))


def test_the_last_entry_that_fits_counts(tmp_path: Path) -> None:
    plan = _plan(tmp_path, "  - {way: up, deadline: 60 s}\n  - {way: up, node: sat-0-3, weight: 4}\n")
    assert terms_of(plan, "up", "sat-0-1", 100.0) == Terms(1.0, 160.0)
    assert terms_of(plan, "up", "sat-0-3", 100.0) == Terms(4.0)
    assert terms_of(plan, "down", "sat-0-3", 100.0) == Terms()
    assert has_deadlines(plan)
    assert not has_deadlines(without_deadlines(plan))
    assert terms_of(without_deadlines(plan), "up", "sat-0-3", 100.0) == Terms(4.0)


def test_a_deadline_that_nothing_can_keep_is_refused_with_what_is_in_the_way(tmp_path: Path) -> None:
    # 10.6 MB go up over two links of 5 Mbit/s: 8.9 s.
    with pytest.raises(FlowError, match="by its deadline") as caught:
        _plan(tmp_path, "  - {way: up, deadline: 5 s}\n")
    assert caught.value.field == "transfers"
    assert "sat-0-2 -> svalbard" in str(caught.value.found)
    assert "sat-0-3 -> sioux-falls" in str(caught.value.found)


def test_who_has_a_deadline_is_through_by_it_and_the_others_behind(tmp_path: Path) -> None:
    def arrived_s(plan: MissionPlan) -> float:
        every = plan.prediction["rounds"][0]["transfers"]
        return float(max(one["arrives_s"] for one in every if "/gather/sat-0-4/" in one["chunk"]))

    free = _plan(tmp_path, "  - {way: up, weight: 1}\n")
    asked = _plan(tmp_path, "  - {way: up, node: sat-0-4, deadline: 5 s}\n")
    assert arrived_s(free) > 5.0
    assert arrived_s(asked) <= 5.0


def test_a_satellite_that_there_is_not_is_refused_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such node") as caught:
        _plan(tmp_path, "  - {way: up, node: sat-9-9, weight: 2}\n")
    assert (caught.value.field, caught.value.found) == ("transfers[0].node", "sat-9-9")


def test_a_deadline_that_a_run_cannot_keep_any_more_is_noted_and_the_run_goes_on(simulate: Simulate) -> None:
    undisturbed = simulate("collaborative")

    def hurried(plan: MissionPlan) -> MissionPlan:
        transfers = (TransferSettings(way="down", deadline_s=1e-3),)
        return replace(plan, scenario=plan.scenario.model_copy(update={"transfers": transfers}))

    result = simulate("collaborative", change=hurried)
    assert [r["weights_sha256"] for r in result["rounds"]] == [r["weights_sha256"] for r in undisturbed["rounds"]]
    late = [event for event in result["events"] if event["kind"] == "late"]
    assert [event["round"] for event in late] == [1, 2]
    assert all("deadline" in event["why"] for event in late)
