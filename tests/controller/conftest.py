"""A run directory with events written by hand, so that every figure can be worked out on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from controller.rundir import RunDirectory
from testbed.scenario import dump_scenario, load_scenario

MakeRun = Callable[..., RunDirectory]
CHUNK = "abc/1/gather/sat-0-1/embedding/0"


def hand_written_events(accuracies: Sequence[float], round_s: float) -> list[dict[str, Any]]:
    """Rounds of ``round_s`` seconds; in each, sat-0-1 computes 2 s, waits 3 s, and sends 1000 bytes up in 4 s."""
    events: list[dict[str, Any]] = []
    for number, accuracy in enumerate(accuracies, start=1):
        begun_s = (number - 1) * round_s
        chunk = CHUNK.replace("/1/", f"/{number}/", 1)
        hop = {"sender": "sat-0-1", "receiver": "svalbard", "tensor": "embedding", "chunk": chunk}
        plan = {
            "chunk": chunk,
            "size": 1000,
            "route": ["sat-0-1", "svalbard", "ground"],
            "contact_start_s": 0.0,
            "contact_end_s": 500.0,
            "start_s": begun_s + 2.0,
            "end_s": begun_s + 5.0,
        }
        state = {"node": "sat-0-1", "round": number}
        events += [
            {"kind": "round_started", "node": "controller", "mission_s": begun_s, "round": number},
            {"kind": "flow_plan", "mission_s": begun_s, "round": number, "direction": "up", "assignments": [plan]},
            {
                "kind": "activity",
                "state": "compute",
                "what": "embed",
                "start_s": begun_s,
                "end_s": begun_s + 2,
                **state,
            },
            {
                "kind": "activity",
                "state": "wait",
                "what": "features",
                "start_s": begun_s + 6,
                "end_s": begun_s + 9,
                **state,
            },
            {
                "kind": "transfer",
                "start_s": begun_s + 2.5,
                "end_s": begun_s + 6.5,
                "bytes": 1000,
                "resumed_from": 0,
                **hop,
            },
            {
                "kind": "round_finished",
                "mission_s": begun_s + round_s,
                "round": number,
                "end_s": begun_s + round_s,
                "validation_accuracy": accuracy,
                "loss": 1.0 / number,
            },
        ]
    return events


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run(accuracies=, round_s=, edit=, finished=, **result)``: a run under ``tmp_path``."""

    def make(
        accuracies: Sequence[float] = (0.5, 0.8, 0.9),
        round_s: float = 10.0,
        edit: Callable[[list[dict[str, Any]]], None] = lambda events: None,
        finished: bool = True,
        **result: Any,
    ) -> RunDirectory:
        run = RunDirectory.create(tmp_path, "demo")
        scenario = load_scenario("demo")
        run.write_text("scenario.yaml", scenario.text)
        run.write_text("resolved.yaml", dump_scenario(scenario))
        epoch = f"{scenario.epoch:%Y-%m-%dT%H:%M}"
        assert scenario.epoch.second <= 49
        second = scenario.epoch.second
        run.write_text(
            "contact_plan.csv",
            "satellite,station,start,end,duration_s,max_elevation_deg\n"
            f"sat-0-1,svalbard,{epoch}:{second:02d}.500000Z,{epoch}:{second + 10:02d}.000000Z,9.500,45.000\n",
        )
        events = hand_written_events(accuracies, round_s)
        edit(events)
        for event in events:
            run.append_event(event)
        if finished:
            run.write_json("certificate.json", [{"sender": "sat-0-1", "receiver": "svalbard", "ok": True, "why": ""}])
            run.write_json(
                "manifest.json",
                {
                    "scenario": "demo",
                    "commit": "0" * 40,
                    "devices": {"satellite": scenario.devices.satellite.model_dump(mode="json")},
                },
            )
            run.write_json(
                "result.json",
                {
                    "run_dir": str(run.path),
                    "rack": "simulated",
                    "kernel": "none",
                    "strategy": "collaborative",
                    "mode": "head",
                    "seed": 1,
                    "rounds": len(accuracies),
                    "verdict": "valid",
                    "verdict_reasons": [],
                    "accuracy": {"before": 0.1, "after": 0.88, "validation": accuracies[-1] if accuracies else None},
                    "mission_time_s": round_s * len(accuracies),
                    "real_time_s": 3.0,
                    "bytes": {"up": 3000, "down": 0, "isl": 0, "raw_equivalent": 300},
                    "links": {"max_delay_error_ms": 0.02, "max_rate_error_ratio": 0.01},
                    "weights_sha256": "ab" * 32,
                    **result,
                },
            )
        return run

    return make
