"""Figures read back from a run directory, against what the hand-written events add up to."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.figures import merged, read_figures
from controller.rundir import RunDirectory

MakeRun = Callable[..., RunDirectory]


def test_reads_what_the_events_say(make_run: MakeRun) -> None:
    figures = read_figures(make_run())
    assert [(point.round, point.end_s, point.validation_accuracy) for point in figures.rounds] == [
        (1, 10.0, 0.5),
        (2, 20.0, 0.8),
        (3, 30.0, 0.9),
    ]
    assert figures.end_s == 30.0
    assert figures.bytes_by_direction == {"up": 3000, "down": 0, "isl": 0, "backhaul": 0}
    seconds = {
        state: sum(span.end_s - span.start_s for span in figures.spans if span.state == state)
        for state in ("compute", "wait", "transfer")
    }
    assert seconds == {"compute": 6.0, "wait": 9.0, "transfer": 12.0}


def test_contacts_are_in_mission_seconds(make_run: MakeRun) -> None:
    (contact,) = read_figures(make_run()).contacts
    assert (contact.start_s, contact.end_s, contact.max_elevation_deg) == (0.5, 10.0, 45.0)


def test_residuals_pair_prediction_and_measurement(make_run: MakeRun) -> None:
    residuals = read_figures(make_run()).residuals
    assert len(residuals) == 3
    # Predicted 2 to 5, measured 2.5 to 6.5: a second longer, a second and a half later.
    assert {residual.stretch_s for residual in residuals} == {1.0}
    assert {residual.late_s for residual in residuals} == {1.5}


def test_time_to_accuracy_is_the_end_of_the_first_round_that_has_it(make_run: MakeRun) -> None:
    figures = read_figures(make_run(accuracies=(0.5, 0.9, 0.7, 0.95)))
    assert figures.reached_s(0.5) == 10.0
    assert figures.reached_s(0.6) == 20.0
    assert figures.reached_s(0.95) == 40.0
    assert figures.reached_s(0.96) is None


def test_a_stopped_run_has_what_it_had(make_run: MakeRun) -> None:
    figures = read_figures(make_run(finished=False))
    assert figures.verdict == "unfinished"
    assert len(figures.rounds) == 3
    assert figures.certificate == ()


def test_an_empty_directory_has_nothing(tmp_path: Path) -> None:
    figures = read_figures(RunDirectory.create(tmp_path, "demo"))
    assert (figures.rounds, figures.spans, figures.contacts, figures.end_s) == ((), (), (), 0.0)


INTERVALS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)).map(lambda t: (t[0], t[0] + t[1])), max_size=20)


@given(INTERVALS, st.randoms(use_true_random=False))
def test_merging_covers_the_same_seconds(spans: list[tuple[int, int]], rng: random.Random) -> None:
    # Oracle: the set of unit seconds covered.
    covered = {second for start, end in spans for second in range(start, end)}
    rng.shuffle(spans)
    joined = merged([(float(start), float(end)) for start, end in spans])
    assert {second for start, end in joined for second in range(int(start), int(end))} == covered
    assert all(later[0] > earlier[1] for earlier, later in zip(joined, joined[1:], strict=False))


def test_merging_closes_gaps_up_to_a_width() -> None:
    assert merged([(0.0, 1.0), (1.5, 2.0), (4.0, 5.0)], gap_s=0.5) == [(0.0, 2.0), (4.0, 5.0)]


@pytest.mark.parametrize("resumed_from", [1, 500])
def test_resumed_transfers_are_no_pairs(make_run: MakeRun, resumed_from: int) -> None:
    def resume(events: list[dict[str, Any]]) -> None:
        next(event for event in events if event["kind"] == "transfer")["resumed_from"] = resumed_from

    figures = read_figures(make_run(accuracies=(0.5,), edit=resume))
    assert figures.residuals == ()
    assert figures.resumed == 1
