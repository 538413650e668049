"""What speaks against a run, and how loudly."""

from __future__ import annotations

from typing import Any

import pytest

from controller.verdict import BUSY_RATIO, HOST_WAIT_RATIO, LATE_MS, MUCH_LATE_MS, OVERLAP_S, Judge, with_host


def _verdict(*events: dict[str, Any], facts: dict[str, Any] | None = None) -> tuple[str, list[str]]:
    judge = Judge()
    for event in events:
        judge.observe(event)
    judge.weigh_host(facts or {})
    return judge.verdict()


def _change(lateness_ms: float) -> dict[str, Any]:
    return {"kind": "link_change", "node": "sat-0-1", "lateness_ms": lateness_ms}


def test_a_run_that_nothing_speaks_against_is_valid() -> None:
    overlap = {"kind": "overlap", "held_s": OVERLAP_S / 2}
    harmless = [{"kind": "transfer"}, {"kind": "cut"}, {"kind": "replan"}, _change(LATE_MS), overlap]
    assert _verdict(*harmless, facts={"busy_ratio": BUSY_RATIO}) == ("valid", [])
    assert _verdict(facts={"busy_ratio": None}) == ("valid", [])


@pytest.mark.parametrize(
    ("event", "verdict", "reason"),
    [
        ({"kind": "overrun", "charge_s": 1.0, "late_s": 0.5}, "degraded", "longer than their charge"),
        ({"kind": "stall", "late_s": 0.25}, "degraded", "250 ms"),
        ({"kind": "reconnect", "node": "sat-0-1", "peer": "svalbard"}, "degraded", "sat-0-1 -> svalbard"),
        ({"kind": "overlap", "held_s": 0.13}, "degraded", "0.13 s in all"),
        (_change(LATE_MS + 0.1), "degraded", "link changes were later"),
        (_change(MUCH_LATE_MS + 1), "invalid", f"{MUCH_LATE_MS + 1:.1f} ms"),
        ({"kind": "link_error", "message": "sat-0-1: no such device"}, "invalid", "no such device"),
    ],
)
def test_each_thing_that_distorts_timing(event: dict[str, Any], verdict: str, reason: str) -> None:
    found, reasons = _verdict(event)
    assert found == verdict
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_a_full_processor_is_no_valid_run() -> None:
    found, reasons = _verdict(facts={"busy_ratio": BUSY_RATIO + 0.05})
    assert found == "degraded"
    assert "95%" in reasons[0]


def test_the_worst_counts_and_everything_is_said() -> None:
    judge = Judge()
    judge.observe({"kind": "overrun", "charge_s": 1.0, "late_s": 0.5})
    judge.observe({"kind": "overrun", "charge_s": 1.0, "late_s": 0.5})
    judge.condemn("the satellites ended with 2 different weights")
    found, reasons = judge.verdict()
    assert found == "invalid"
    assert reasons[0] == "the satellites ended with 2 different weights"
    assert "2 computations" in reasons[1]


@pytest.mark.parametrize(
    ("clock", "ratio", "verdict", "found"),
    [
        ("real time with skip and hold", HOST_WAIT_RATIO / 2, "valid", "valid"),
        ("real time with skip and hold", None, "valid", "valid"),
        ("real time with skip and hold", 0.34, "valid", "degraded"),
        ("real time with skip and hold", 0.34, "invalid", "invalid"),
        ("the guest's own, virtual", 0.34, "valid", "valid"),
    ],
)
def test_a_rack_that_waited_for_the_host(clock: str, ratio: float | None, verdict: str, found: str) -> None:
    outcome = {"verdict": verdict, "verdict_reasons": [], "facts": {"clock": clock, "host_wait_ratio": ratio}}
    weighed = with_host(outcome)
    assert weighed["verdict"] == found
    said = [reason for reason in weighed["verdict_reasons"] if "34%" in reason]
    assert len(said) == (ratio == 0.34 and clock.startswith("real"))
