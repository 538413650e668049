"""The simulated rack as a rack: what it returns, and that it ends whatever happens inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from controller import runner
from testbed.errors import BoardError, BugError, Interrupted

Simulate = Callable[..., dict[str, Any]]
ONE = {"learning.rounds": "1"}


def test_a_deadlock_ends_the_run_and_says_so(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_nobody(fleet: Any, job: Any, record: Any) -> dict[str, Any]:
        await fleet.prepare()
        await asyncio.get_running_loop().create_future()
        return {}

    monkeypatch.setattr(runner, "fly", wait_for_nobody)
    with pytest.raises(BugError, match="nobody will send"):
        simulate("collaborative", ONE)


def test_a_node_that_fails_is_named(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed.learning.shard import Shard

    def fail(self: Shard, round_: int, part: int) -> bytes:
        raise ZeroDivisionError("a cosmic ray")

    monkeypatch.setattr(Shard, "embed", fail)
    with pytest.raises(BoardError, match="sat-0-[0-7]: ZeroDivisionError: a cosmic ray"):
        simulate("collaborative", ONE)


def test_an_observer_can_stop_it(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    fly = runner.fly

    async def stopped(fleet: Any, job: Any, record: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        def until_an_uplink(event: dict[str, Any]) -> None:
            record(event)
            if event["kind"] == "round_finished":
                raise Interrupted("stopped")

        return await fly(fleet, job, until_an_uplink)

    monkeypatch.setattr(runner, "fly", stopped)
    with pytest.raises(Interrupted):
        simulate("collaborative", ONE)


def test_the_bits_do_not_depend_on_what_the_process_did_before(simulate: Simulate) -> None:
    first = simulate("collaborative", ONE)
    torch.set_num_threads(2)
    torch.manual_seed(99)
    torch.rand(17)
    assert simulate("collaborative", ONE)["weights"] == first["weights"]
    assert torch.get_num_threads() == 1


def test_events_are_in_order_of_mission_time_and_rounds_follow_each_other(simulate: Simulate) -> None:
    result = simulate("collaborative")
    times_s = [event["mission_s"] for event in result["events"]]
    assert times_s == sorted(times_s)
    kinds = [event["kind"] for event in result["events"] if event["kind"].startswith("round_")]
    assert kinds == ["round_started", "round_finished"] * 2
    first, second = result["rounds"]
    assert first["end_s"] == second["start_s"]
    assert result["mission_time_s"] == second["end_s"]


def test_links_carry_no_more_than_their_plan_lets_them(simulate: Simulate) -> None:
    result = simulate("collaborative")
    plans = result["plan"].link_plans
    transfers = [event for event in result["events"] if event["kind"] == "transfer"]
    assert len(transfers) > 100
    for event in transfers:
        sender, receiver = event["sender"], event["receiver"]
        window = next(w for w in plans[sender].windows(receiver) if w[0] <= event["start_s"] < w[1])
        out = plans[sender].state(receiver, event["start_s"])
        back = plans[receiver].state(sender, event["end_s"])
        took_s = event["end_s"] - event["start_s"]
        # There and back again at the speed of light, and in between the bytes at the planned rate.
        least_s = event["bytes"] * 8 / out.rate_bps + (out.delay_ms + back.delay_ms) / 1000 - 0.001
        assert took_s >= least_s
        assert event["end_s"] <= window[1] + back.delay_ms / 1000
