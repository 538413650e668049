"""The link player in a guest: the plan's instants against datagrams that cross the link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testbed.rack.kernel import GuestKernel

pytestmark = pytest.mark.guest
Steps = dict[str, dict[str, Any]]

SEND_STEP_S = 0.01
# Real time from mission time 0 -> what the link out of "a" is, under the commits that playing.py sends: mission time
# is held from 4 to 8, is 49.5 at 8 (50 comes at 8.5) and 70 at 9.
PHASES = [(0.0, 2.0, 5.0), (2.0, 3.0, None), (3.0, 8.5, 20.0), (8.5, 9.0, 30.0), (9.0, 10.0, 40.0)]


@pytest.fixture(scope="module")
def virtual(guest_script: Callable[..., list[dict[str, Any]]], time_travel_kernel: GuestKernel) -> Steps:
    return {line["what"]: line for line in guest_script(time_travel_kernel, "playing.py")}


@pytest.fixture(scope="module")
def real(guest_script: Callable[..., list[dict[str, Any]]], stock_kernel: GuestKernel) -> Steps:
    return {line["what"]: line for line in guest_script(stock_kernel, "playing.py")}


def test_commands_that_cannot_be_obeyed_say_why(virtual: Steps) -> None:
    assert "before the mission has started" in virtual["early commit"]["message"]
    assert "no command 'dance'" in virtual["unknown"]["message"]
    assert "mission_zero_monotonic_s" in virtual["malformed"]["message"]
    assert "does not follow" in virtual["late"]["message"]


def test_links_change_at_their_instants_in_virtual_time(virtual: Steps) -> None:
    arrived = virtual["played"]["arrived"]
    for start_s, end_s, delay_ms in PHASES:
        within = [each for sent_s, each in arrived if start_s + SEND_STEP_S < sent_s < end_s - 0.05]
        if delay_ms is None:
            assert within == []
        else:
            assert len(within) >= (end_s - start_s - 0.05) / SEND_STEP_S - 3
            assert within == pytest.approx([delay_ms] * len(within), abs=0.01)


def test_changes_are_reported_in_order_with_their_clock_epoch(virtual: Steps) -> None:
    changes = [
        (each["node"], each["peer"], each["at_s"], each["epoch"], each["delay_ms"], each["rate_bps"])
        for each in virtual["played"]["changes"]
    ]
    assert changes == [
        ("a", "b", 0.0, 0, 5.0, 1e9),
        ("b", "a", 0.0, 0, 7.0, 1e9),
        ("a", "b", 2.0, 0, 5.0, 0.0),
        ("a", "b", 3.0, 0, 20.0, 1e9),
        ("b", "a", 3.0, 0, 8.0, 1e9),
        ("a", "b", 50.0, 2, 30.0, 1e9),
        ("a", "b", 60.0, 3, 40.0, 1e9),
    ]


def test_nothing_is_late_in_virtual_time(virtual: Steps) -> None:
    for change in virtual["played"]["changes"]:
        assert change["lateness_ms"] == pytest.approx(0.0, abs=0.01)


def test_no_datagram_is_faster_than_the_plan_in_real_time(real: Steps) -> None:
    # How late a busy host makes a change is recorded, not asserted. From then to the phase's end its delay holds.
    changes = [each for each in real["played"]["changes"] if each["node"] == "a"]
    assert [each["at_s"] for each in changes] == [0.0, 2.0, 3.0, 50.0, 60.0]
    for (start_s, end_s, delay_ms), change in zip(PHASES, changes, strict=True):
        from_s = start_s + change["lateness_ms"] / 1e3
        within = [each for sent_s, each in real["played"]["arrived"] if from_s < sent_s < end_s]
        assert delay_ms is not None or within == []
        assert all(each > (delay_ms or 0.0) - 0.01 for each in within)


@pytest.mark.parametrize("kernel", ["virtual", "real"])
def test_stop_clears_the_nodes_that_are_left(request: pytest.FixtureRequest, kernel: str) -> None:
    steps: Steps = request.getfixturevalue(kernel)
    assert steps["stopped"]["event"] == "stopped"
    assert [each["kind"] for each in steps["cleared"]["qdiscs"]] == ["noqueue"]
