"""Comparisons: a ratio only where like was compared with like and both got there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controller.compare import compare
from controller.figures import read_figures
from controller.rundir import RunDirectory
from testbed.errors import ScenarioError

MakeRun = Callable[..., RunDirectory]


def test_ratio_of_mission_times_to_the_accuracy(make_run: MakeRun) -> None:
    fast = read_figures(make_run(accuracies=(0.5, 0.86), round_s=10.0))
    slow = read_figures(make_run(accuracies=(0.5, 0.7, 0.9, 0.9), round_s=15.0, strategy="onboard", rounds=2))
    result = compare(fast, slow, 0.85)
    assert result.times_s == (20.0, 45.0)
    assert result.ratio == 45.0 / 20.0
    assert result.differences == ()  # the strategy may differ: it is what is compared
    assert result.same_weights is True
    assert any("no interval" in note for note in result.notes)


def test_no_ratio_when_either_misses_it(make_run: MakeRun) -> None:
    one, other = read_figures(make_run(accuracies=(0.9,))), read_figures(make_run(accuracies=(0.84,)))
    for result in (compare(one, other, 0.85), compare(other, one, 0.85)):
        assert result.ratio is None
        assert any("never reached 0.85: the best was 0.8400" in note for note in result.notes)


@pytest.mark.parametrize("verdict", ["invalid", "unfinished"])
def test_no_ratio_from_runs_that_prove_nothing(make_run: MakeRun, verdict: str) -> None:
    good = read_figures(make_run())
    bad = read_figures(make_run(finished=False) if verdict == "unfinished" else make_run(verdict=verdict))
    result = compare(good, bad, 0.8)
    assert result.times_s == (20.0, 20.0)
    assert result.ratio is None
    assert any("not to be believed" in note for note in result.notes)


def test_a_degraded_run_still_compares(make_run: MakeRun) -> None:
    assert compare(read_figures(make_run()), read_figures(make_run(verdict="degraded")), 0.8).ratio == 1.0


def test_differences_are_named(make_run: MakeRun) -> None:
    result = compare(read_figures(make_run()), read_figures(make_run(seed=2, rack="local", weights_sha256="cd")), 0.8)
    assert result.differences == ("rack: simulated and local", "seed: 1 and 2")
    assert result.same_weights is False
    document = result.to_dict()
    assert document["ratio"] == 1.0
    assert [run["seed"] for run in document["runs"]] == [1, 2]


@pytest.mark.parametrize("accuracy", [0.0, -0.1, 1.01, 85.0])
def test_accuracy_is_a_ratio(make_run: MakeRun, accuracy: float) -> None:
    figures = read_figures(make_run())
    with pytest.raises(ScenarioError, match="at most 1"):
        compare(figures, figures, accuracy)
