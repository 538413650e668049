"""Break-even: the search against roots that are known, the demo against a closed form, and answers plugged back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.balances import break_even_lines
from controller.breakeven import (
    FURTHEST,
    QUANTITIES,
    TOLERANCE,
    Balance,
    Pair,
    Scaled,
    balance,
    break_even,
    crossing,
    pair_of,
    scaled_plan,
    with_break_even,
)
from controller.figures import read_figures
from controller.flow.chunks import ChunkPlanner
from controller.planner import make_plan, predict
from controller.report import page
from controller.rundir import RunDirectory
from testbed import registry
from testbed.errors import ScenarioError
from testbed.link.plan import LinkPlan
from testbed.metrics import direction
from testbed.mission import MissionPlan
from testbed.profile_file import profile, write_profile
from testbed.registry import DEFAULT_SCHEDULER
from testbed.scenario import load_scenario
from testbed.strategy import charges, sizes

SLOWER, FASTER, RATES = QUANTITIES
SMALL = {"learning.rounds": "1", "learning.samples_per_round": "256"}
MakePair = Callable[..., Pair]


@pytest.fixture(scope="module")
def flows() -> ChunkPlanner:
    return ChunkPlanner(registry.load("schedulers", DEFAULT_SCHEDULER))


@pytest.fixture(scope="module")
def plan() -> MissionPlan:
    return make_plan(load_scenario("demo", SMALL))


# -- the search -------------------------------------------------------------------------------------------------------


@given(st.floats(-6.8, 6.8).map(math.exp), st.floats(0.1, 10.0))
def test_a_smooth_crossing_is_found(root: float, power: float) -> None:
    def gain(factor: float) -> float:
        return float((factor / root) ** power - 1)

    factor, _ = crossing(gain, lambda factor: abs(gain(factor)) <= TOLERANCE)
    if 1 / FURTHEST < root < FURTHEST:
        assert factor is not None
        assert abs(gain(factor)) <= TOLERANCE


@given(st.floats(-6.8, 6.8).map(math.exp))
def test_a_jump_is_found_from_its_better_side(root: float) -> None:
    factor, other = crossing(lambda factor: 1.0 if factor >= root else -1.0, lambda factor: False)
    assert factor is not None
    assert other < root <= factor < other * (1 + TOLERANCE)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_crossing_is_said_after_the_furthest_was_tried(sign: float) -> None:
    factor, last = crossing(lambda factor: sign, lambda factor: False)
    assert factor is None
    assert last == pytest.approx(FURTHEST**-sign)


# -- the demo ---------------------------------------------------------------------------------------------------------


def without_links(plan: MissionPlan) -> MissionPlan:
    """The plan with links that take no time: what is left is computation."""
    links = {
        name: LinkPlan(
            name,
            {
                peer: tuple(replace(s, delay_ms=0.0, rate_bps=1e13 if s.up else 0.0) for s in states)
                for peer, states in one.links.items()
            },
        )
        for name, one in plan.link_plans.items()
    }
    return replace(plan, link_plans=links)


def test_without_links_the_balance_is_the_closed_form_of_the_computation(
    plan: MissionPlan, flows: ChunkPlanner
) -> None:
    counts = sizes.encoded_counts(plan, 1)
    encoder_flop = charges.work(plan.scenario.learning).flop["encode"]
    # Both sides embed and train alike. One ground encodes everybody's samples, 0.05 s a call on a satellite and 1 ms on
    # the ground; satellites encode their own, side by side, and the one with most is last.
    ground_s = 1e-3 + sum(counts.values()) * encoder_flop / 10e12
    board_s = 0.05 + max(counts.values()) * encoder_flop / 0.5e12
    pair = pair_of(without_links(plan), flows)
    found = balance(pair, FASTER)
    assert found.equal
    assert found.factor == pytest.approx(ground_s / board_s, rel=0.005)
    # Slower satellites give the same ratio of speeds: what else they slow down they slow down on both sides.
    slower = balance(pair, SLOWER)
    assert slower.factor == pytest.approx(found.factor, rel=0.005)
    assert pair.speed_ratio(Scaled(slower_satellites=slower.factor or 0)) == pytest.approx(
        pair.speed_ratio(Scaled(faster_ground=found.factor or 0)), rel=0.01
    )


def test_a_balance_of_satellites_plugged_back_as_a_scenario_gives_equal_times(
    plan: MissionPlan, flows: ChunkPlanner, tmp_path: Path
) -> None:
    found = balance(pair_of(plan, flows), SLOWER)
    assert found.equal
    assert found.factor is not None and found.factor > 10  # the demo's cut tensors are 192 times its pixels
    board = tmp_path / "slow.yaml"
    board.write_text(write_profile(profile("jetson-orin-nano-assumed").faster(1 / found.factor)), encoding="utf-8")
    scenario = load_scenario("demo", {**SMALL, "devices.satellite": str(board)})
    times_s = [make_plan(scenario, name).prediction["mission_time_s"] for name in ("collaborative", "onboard")]
    assert times_s == pytest.approx([found.ground_s, found.board_s], rel=1e-9)
    assert times_s[0] == pytest.approx(times_s[1], rel=TOLERANCE)


def test_a_balance_of_link_rates_plugged_back_as_a_scenario_gives_equal_times(
    flows: ChunkPlanner, tmp_path: Path
) -> None:
    # Satellites so slow that the ground's side wins until links are slow as well.
    board = tmp_path / "slow.yaml"
    board.write_text(write_profile(profile("jetson-orin-nano-assumed").faster(1 / 150)), encoding="utf-8")
    slow = {**SMALL, "devices.satellite": str(board)}
    pair = pair_of(make_plan(load_scenario("demo", slow)), flows)
    assert pair.ground_s(Scaled()) < pair.board_s(Scaled())
    found = balance(pair, RATES)
    assert found.equal
    assert found.factor is not None and found.factor < 1
    up, down = (f"{rate * found.factor:.6f} bit/s" for rate in (5e6, 2e6))
    again = load_scenario("demo", {**slow, "space_ground.up.rate": up, "space_ground.down.rate": down})
    times_s = [make_plan(again, name).prediction["mission_time_s"] for name in ("collaborative", "onboard")]
    assert times_s[0] == pytest.approx(times_s[1], rel=2 * TOLERANCE)


def test_the_grounds_side_only_gains_from_a_faster_ground_and_faster_links(
    plan: MissionPlan, flows: ChunkPlanner
) -> None:
    pair = pair_of(plan, flows)
    factors = (0.25, 0.5, 1.0, 2.0, 8.0, 64.0)
    for quantity in (FASTER, RATES):
        times_s = [pair.ground_s(quantity.scaled(factor)) for factor in factors]
        # Whole chunks are placed anew for each: a hundredth is what that may cost.
        assert all(later <= 1.01 * earlier for earlier, later in zip(times_s, times_s[1:], strict=False))
        assert times_s[-1] < times_s[0]
        assert len({pair.board_s(quantity.scaled(factor)) for factor in factors}) == 1
    boards_s = [pair.board_s(SLOWER.scaled(factor)) for factor in factors]
    assert boards_s == sorted(boards_s)


def test_never_names_what_holds_the_grounds_side_up(plan: MissionPlan, flows: ChunkPlanner) -> None:
    pair = pair_of(plan, flows)
    ground, rates = balance(pair, FASTER), balance(pair, RATES)
    assert ground.factor is None and "however fast the ground computes" in ground.why
    # The ring carries 4 Mbit/s and the backhaul 11: with both out of the way the ground's side would be quicker.
    assert rates.factor is None and rates.why == "the links between satellites hold it up"
    unlimited = frozenset({"up", "down", "isl", "backhaul"})
    assert pair.ground_s(Scaled(), unlimited - {"isl"}) > pair.board_s(Scaled()) >= pair.ground_s(Scaled(), unlimited)


def test_too_slow_links_are_an_infinite_time_and_not_an_error(plan: MissionPlan, flows: ChunkPlanner) -> None:
    assert pair_of(plan, flows).ground_s(Scaled(link_rates=1e-4)) == math.inf


def test_both_strategies_have_the_same_pair(plan: MissionPlan, flows: ChunkPlanner) -> None:
    other = make_plan(plan.scenario, "onboard")
    assert [pair_of(one, flows).ground.name for one in (plan, other)] == ["collaborative"] * 2
    assert [pair_of(one, flows).board.name for one in (plan, other)] == ["onboard"] * 2
    # As it is, it is what was planned.
    pair = pair_of(plan, flows)
    assert pair.ground_s(Scaled()) == plan.prediction["mission_time_s"]
    assert pair.board_s(Scaled()) == other.prediction["mission_time_s"]


def test_scaling_leaves_passes_and_other_links_alone(plan: MissionPlan, flows: ChunkPlanner) -> None:
    scaled = scaled_plan(plan, Scaled(link_rates=3.0))
    assert scaled.contacts == plan.contacts
    for name, one in plan.link_plans.items():
        for peer, states in one.links.items():
            factor = 3.0 if direction(name, peer) in ("up", "down") else 1.0
            assert [s.rate_bps for s in scaled.link_plans[name].links[peer]] == [s.rate_bps * factor for s in states]
    board = registry.load("strategies", "onboard")
    assert predict(scaled, board, flows) == predict(plan, board, flows)


def test_what_a_plan_keeps_is_what_people_read(plan: MissionPlan, flows: ChunkPlanner) -> None:
    found = with_break_even(plan, DEFAULT_SCHEDULER).prediction["break_even"]
    assert found == break_even(pair_of(plan, flows)).to_dict()
    first, slower, ground, rates = break_even_lines(found)
    assert first.startswith("collaborative takes ") and "5 Mbit/s up, 2 Mbit/s down" in first
    assert f"times {found['balances'][0]['factor']:.4g}" in slower
    assert "never" in ground and "never" in rates


def test_a_mode_that_the_counterpart_does_not_run_has_no_break_even(
    plan: MissionPlan, flows: ChunkPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(registry.load("strategies", "onboard")), "modes", frozenset({"another"}))
    with pytest.raises(ScenarioError, match="'onboard' does not run this mode"):
        pair_of(plan, flows)
    assert with_break_even(plan, DEFAULT_SCHEDULER) == plan


def test_reports_say_it_and_escape_it(make_run: Callable[..., RunDirectory]) -> None:
    run = make_run()
    assert "would take as long" not in page(read_figures(run))
    row = {
        "quantity": "faster ground",
        "factor": None,
        "ground_s": None,
        "board_s": 0.5,
        "why": "a < b",
        "equal": False,
    }
    row |= {"speed_ratio": None, "link_rates_bps": None}
    found = {"strategies": ["collaborative", "onboard"], "rounds": 1, "ground_s": None, "board_s": 0.5}
    found |= {"speed_ratio": 20.0, "link_rates_bps": {"up": 5e6, "down": 2e6}, "balances": [row]}
    run.write_json("prediction.json", {"break_even": found})
    text = page(read_figures(run))
    assert "would take as long" in text
    assert "By faster ground: never. A &lt; b (longer than the horizon against 0.50 s)." in text


def test_a_jump_is_not_called_equal() -> None:
    assert not Balance("links", 2.0, 90.0, 100.0).equal
    assert Balance("links", 2.0, 100.05, 100.0).equal
