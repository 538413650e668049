"""When the mission clock skips, holds and runs."""

from __future__ import annotations

import pytest

from controller.timekeeper import EARLY_S, LEAST_SKIP_S, LINGER_S, Seen, Wish, decide
from testbed.clock import ClockCommit

RUNNING = ClockCommit(1, 0.0, 0.0, running=True)
HELD = ClockCommit(2, 90.0, 100.0, running=False)
EDGES = (0.0, 137.0, 250.0)
NOW_S = 100.0
LONG_S = 10 * LINGER_S


def _idle(wake_s: float | None = None) -> Seen:
    return Seen(in_flight=0, moving=0, computing=False, busy=0, wake_mission_s=wake_s, vote_epoch=None)


def _flying(wake_s: float | None = None) -> Seen:
    return Seen(in_flight=1, moving=1, computing=False, busy=0, wake_mission_s=wake_s, vote_epoch=None)


COMPUTING = Seen(in_flight=0, moving=0, computing=True, busy=0, wake_mission_s=None, vote_epoch=None)
WAITING = Seen(in_flight=1, moving=0, computing=False, busy=0, wake_mission_s=None, vote_epoch=None)
BUSY = Seen(in_flight=0, moving=0, computing=False, busy=1, wake_mission_s=None, vote_epoch=None)


@pytest.mark.parametrize("others", [[], [_idle(500.0)], [COMPUTING], [BUSY], [_idle(101.0), COMPUTING]])
def test_nothing_that_transmits_is_ever_sped_up_or_stopped(others: list[Seen]) -> None:
    assert decide([_flying(), *others], RUNNING, NOW_S, EDGES, LONG_S) is None
    assert decide([*others, _flying(700.0)], RUNNING, NOW_S, EDGES, LONG_S) is None


@pytest.mark.parametrize("occupied", [COMPUTING, BUSY])
@pytest.mark.parametrize("others", [[], [_idle(500.0)], [_idle()], [BUSY]])
def test_it_holds_while_somebody_is_occupied_and_nothing_is_in_flight(occupied: Seen, others: list[Seen]) -> None:
    assert decide([occupied, *others], RUNNING, NOW_S, EDGES, LONG_S) == Wish(NOW_S, running=False)


@pytest.mark.parametrize("occupied", [COMPUTING, BUSY])
def test_a_held_clock_stays_held_while_somebody_is_occupied(occupied: Seen) -> None:
    assert decide([occupied, _idle(500.0)], HELD, NOW_S, EDGES, LONG_S) is None


@pytest.mark.parametrize("nodes", [[_idle(500.0)], [_idle()], [WAITING], [COMPUTING, WAITING]])
def test_a_held_clock_runs_when_computing_has_ended_or_bytes_wait_for_it(nodes: list[Seen]) -> None:
    # From where it stood, and without a vote: a run can do no harm.
    assert decide(nodes, HELD, NOW_S, EDGES, LONG_S) == Wish(HELD.mission_s, running=True)


def test_a_hold_lingers_unless_bytes_wait_for_its_end() -> None:
    assert decide([_idle(500.0)], HELD, NOW_S, EDGES, LINGER_S / 2) is None
    assert decide([_idle(500.0), WAITING], HELD, NOW_S, EDGES, 0.0) == Wish(HELD.mission_s, running=True)


@pytest.mark.parametrize("others", [[], [COMPUTING], [WAITING]])
def test_a_hold_that_came_while_bytes_moved_is_undone(others: list[Seen]) -> None:
    assert decide([_flying(), *others], HELD, NOW_S, EDGES, 0.0) == Wish(HELD.mission_s, running=True, undo=True)


@pytest.mark.parametrize(
    ("wakes_s", "lands_s"),
    [
        ([500.0], 137.0),  # a link changes first
        ([120.0, 500.0], 120.0),
        ([500.0, 120.0, 110.0], 110.0),
        ([136.99], 136.99),
        ([1e9], 137.0),
    ],
)
def test_idle_nodes_skip_to_whatever_comes_first(wakes_s: list[float], lands_s: float) -> None:
    wish = decide([_idle(wake_s) for wake_s in wakes_s] + [_idle()], RUNNING, NOW_S, EDGES, LONG_S)
    assert wish is not None
    assert (wish.running, wish.votes) == (True, True)
    # Just before the event, so that its timers fire at it.
    assert lands_s - 2 * EARLY_S <= wish.mission_s < lands_s


def test_a_skip_never_passes_an_edge_and_the_last_edge_is_no_end() -> None:
    assert decide([_idle(400.0)], RUNNING, 260.0, EDGES, LONG_S) == Wish(400.0 - EARLY_S, running=True, votes=True)
    for now_s in (0.0, 86.0, 136.0, 138.0, 249.0):
        wish = decide([_idle(1e6)], RUNNING, now_s, EDGES, LONG_S)
        following = next(edge for edge in EDGES if edge > now_s)
        assert wish is None or now_s < wish.mission_s < following


@pytest.mark.parametrize("wake_s", [NOW_S - 1.0, NOW_S, NOW_S + LEAST_SKIP_S / 2])
def test_a_skip_that_saves_nothing_is_not_made(wake_s: float) -> None:
    assert decide([_idle(wake_s)], RUNNING, NOW_S, EDGES, LONG_S) is None


def test_where_nobody_waits_for_a_time_there_is_nowhere_to_skip_to() -> None:
    assert decide([_idle(), _idle()], RUNNING, NOW_S, EDGES, LONG_S) is None
