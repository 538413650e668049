"""Mission time against real time, as arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.clock import ClockCommit, ClockMap, LoopClock
from testbed.rack.virtual_time import VirtualTimeLoop


@st.composite
def _histories(draw: st.DrawFn) -> list[ClockCommit]:
    """Runs, skips and holds of a real second or more each; mission time never goes back."""
    commits = [ClockCommit(0, draw(st.floats(0, 1e4)), 0.0, running=True)]
    for epoch in range(1, draw(st.integers(1, 6))):
        last = commits[-1]
        real_s = last.real_s + draw(st.floats(1, 100))
        reached_s = last.mission_s + (real_s - last.real_s if last.running else 0.0)
        skipped_s = draw(st.floats(0, 1e5))
        commits.append(ClockCommit(epoch, real_s, reached_s + skipped_s, draw(st.booleans())))
    return commits


def _map(commits: list[ClockCommit]) -> ClockMap:
    clock = ClockMap(commits[0])
    for commit in commits[1:]:
        clock.commit(commit)
    return clock


@given(_histories(), st.floats(0, 1000))
def test_where_time_runs_real_and_mission_time_are_inverse(commits: list[ClockCommit], later_s: float) -> None:
    clock, last = _map(commits), commits[-1]
    mission_s = clock.mission_at(last.real_s + later_s)
    if last.running:
        assert mission_s == pytest.approx(last.mission_s + later_s, abs=1e-6)
        real_s = clock.real_at(mission_s)
        assert real_s == pytest.approx(last.real_s + later_s, abs=1e-6)
    else:
        assert mission_s == last.mission_s
        assert clock.real_at(mission_s + 1.0) is None


@given(_histories(), st.floats(0, 1e4), st.floats(0, 1e4))
def test_mission_time_never_goes_back_nor_faster_than_real_time_but_by_a_skip(
    commits: list[ClockCommit], first_s: float, second_s: float
) -> None:
    clock, begin_s = _map(commits), commits[0].real_s
    early_s, late_s = sorted((begin_s + first_s, begin_s + second_s))
    passed_s = clock.mission_at(late_s) - clock.mission_at(early_s)
    assert passed_s >= -1e-6
    if clock.at(early_s) is clock.at(late_s):
        assert passed_s <= late_s - early_s + 1e-6


def test_before_it_starts_mission_time_is_negative() -> None:
    clock = ClockMap(ClockCommit(0, 100.0, 0.0, running=True))
    assert clock.mission_at(94.0) == -6.0


def test_a_skip_and_a_hold() -> None:
    clock = _map(
        [
            ClockCommit(0, 100.0, 0.0, running=True),
            ClockCommit(1, 110.0, 60.0, running=True),
            ClockCommit(2, 120.0, 70.0, running=False),
            ClockCommit(3, 150.0, 70.0, running=True),
        ]
    )
    assert [clock.mission_at(real_s) for real_s in (109.0, 110.0, 119.0, 121.0, 149.0, 151.0)] == [
        9.0, 60.0, 69.0, 70.0, 70.0, 71.0
    ]  # fmt: skip
    assert clock.real_at(75.0) == 155.0
    assert clock.real_at(30.0) == 150.0  # what was skipped is over: now


@pytest.mark.parametrize("commit", [ClockCommit(1, 200.0, 0.0, True), ClockCommit(2, 99.0, 0.0, True)])
def test_commits_are_taken_in_order(commit: ClockCommit) -> None:
    clock = ClockMap(ClockCommit(1, 100.0, 0.0, running=True))
    with pytest.raises(ValueError, match="does not follow"):
        clock.commit(commit)


@given(st.floats(0, 1e4), st.floats(0, 1e3), st.floats(0, 1e3))
def test_a_computation_costs_its_charge(zero_s: float, begin_s: float, charge_s: float) -> None:
    loop, clock = VirtualTimeLoop(), LoopClock(zero_s)

    async def compute() -> tuple[float, str]:
        await clock.sleep_until(begin_s)
        begun_s = clock.now()
        result = await clock.compute(charge_s, lambda: "done")
        return clock.now() - begun_s, result

    took_s, result = loop.run_until_complete(compute())
    loop.close()
    assert result == "done"
    assert took_s == pytest.approx(charge_s, abs=1e-6)


@given(st.floats(-1e6, 1e6), st.lists(st.floats(1e-10, 1e5), min_size=1, max_size=5))
def test_nobody_wakes_before_the_time(zero_s: float, naps_s: list[float]) -> None:
    """Loops run timers that are due within a nanosecond, and sums are rounded: both woke sleepers early, who then found
    a contact not quite over."""

    async def sleep() -> None:
        clock = LoopClock(zero_s)
        for nap_s in naps_s:
            until_s = clock.now() + nap_s
            await clock.sleep_until(until_s)
            assert until_s <= clock.now() <= until_s + 1e-9

    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(sleep())
    finally:
        loop.close()
