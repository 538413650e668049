"""One experiment from a mission plan to a finished run directory: choose the rack, run, keep what it gave."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from controller.checkpoints import Checkpoints
from controller.journal import Journal
from controller.rundir import METRICS, RunDirectory
from controller.trackers import FAILED, Trackers, figures_of, settings_of
from controller.verdict import with_host
from testbed import manifest, registry
from testbed.errors import ScenarioError, SkyrackError
from testbed.metrics import Metrics
from testbed.mission import MissionPlan
from testbed.rack.base import Job, Rack
from testbed.registry import DEFAULT_SCHEDULER

MISSION = "controller.runner:fly"
INSIDE = ("-m", "controller.inside")
Event = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What the flags chose."""

    rack: str = "auto"
    time: Literal["auto", "real"] = "auto"
    scheduler: str = DEFAULT_SCHEDULER


def choose_rack(choice: Choice, stop: threading.Event | None = None) -> Rack:
    """The rack by name."""
    return _RACKS[rack_name(choice)](choice, stop)


def rack_name(choice: Choice) -> str:
    """Which rack it is; ``auto`` is the local one on x86-64 Linux, which has a guest kernel, else the simulated one."""
    name = choice.rack
    if name == "auto":
        name = "local" if sys.platform == "linux" and platform.machine() == "x86_64" else "simulated"
    if name not in _RACKS:
        raise ScenarioError("no such rack", where="flags", field="--rack", found=name, allowed=", ".join(_RACKS))
    return name


def _simulated(choice: Choice, stop: threading.Event | None) -> Rack:
    from testbed.rack.simulated import SimulatedRack

    return SimulatedRack()


def _local(choice: Choice, stop: threading.Event | None) -> Rack:
    from testbed.rack.local import LocalRack

    return LocalRack(INSIDE, choice.time, stop)


_RACKS: dict[str, Callable[[Choice, threading.Event | None], Rack]] = {"local": _local, "simulated": _simulated}


def run_experiment(
    plan: MissionPlan,
    directory: RunDirectory,
    choice: Choice,
    on_event: Callable[[Event], None],
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Run a plan and fill its run directory; the result is what ``skyrack run --format json`` prints.

    The journal, the events and whatever was learned until then stay in the directory when the run fails.
    """
    registry.load("schedulers", choice.scheduler)
    rack = choose_rack(choice, stop)
    begun = time.monotonic()
    directory.write_plan(plan)
    metrics = Metrics()
    about = {"strategy": plan.strategy, "scheduler": choice.scheduler, "rack": rack.name, "run": directory.name}
    checkpoints = Checkpoints(directory, plan, about)
    job = Job(directory.run_id, plan, directory.path, plan.strategy, choice.scheduler, MISSION)
    with Journal(directory.path / "journal.sqlite", directory.run_id) as journal:

        def record(event: Event) -> None:
            if event["kind"] == "weights":
                event = checkpoints.keep(event)
            event = {**event, "real_s": round(time.monotonic() - begun, 4)}
            if event["kind"] == "certificate":
                directory.write_json("certificate.json", event["rows"])
            metrics.observe(event)
            if event["kind"] == "round_finished":
                directory.append_event({"mission_s": event["mission_s"], **metrics.sample()}, METRICS)
            journal.append(event)
            directory.append_event(event)
            on_event(event)
            if event["kind"] == "round_finished":
                trackers.round_finished(event)

        trackers = Trackers(plan, directory.name, directory.path, record)
        trackers.start(settings_of(plan, about))
        try:
            outcome = rack.run(job, record)
        except BaseException as error:
            if isinstance(error, SkyrackError):
                record({"kind": "failed", "node": "controller", "mission_s": 0.0, "error": str(error)})
            trackers.finish({"verdict": FAILED, "error": str(error)})
            raise
        outcome = with_host(outcome)
        outcome["real_time_s"] = time.monotonic() - begun
        outcome["checkpoints"] = checkpoints.finish(outcome["accuracy"]["after"])
        result = _keep(directory, plan, rack, choice, outcome)
        trackers.finish(figures_of(result))
    return result


def _keep(
    directory: RunDirectory, plan: MissionPlan, rack: Rack, choice: Choice, outcome: dict[str, Any]
) -> dict[str, Any]:
    from testbed.learning.exposure import measure_exposure

    scenario = plan.scenario
    del outcome["weights"]  # the last checkpoint has them
    facts = outcome.pop("facts")
    certificate = directory.read_json("certificate.json")
    directory.write_json("manifest.json", manifest.collect(scenario, facts=facts, run=directory.run_id))
    rounds = outcome.pop("rounds")
    result = {
        "run_dir": str(directory.path),
        "rack": rack.name,
        "kernel": facts["kernel"],
        "clock": facts["clock"],
        "strategy": plan.strategy,
        "scheduler": choice.scheduler,
        "mode": scenario.learning.mode,
        "codec": scenario.learning.codec,
        "aggregation": scenario.learning.aggregation,
        "lora_average": scenario.learning.lora_average,
        "seed": scenario.seed,
        "rounds": len(rounds),
        "links": _link_errors(certificate),
        "predicted_mission_time_s": plan.prediction["mission_time_s"],
        "devices": {name: device.profile.source for name, device in scenario.devices.by_node.items()},
        "history": rounds,
        "privacy": measure_exposure(scenario, plan.satellites),
        **outcome,
    }
    directory.write_json("result.json", result)
    return result


def _link_errors(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The certificate's worst figures; None on a rack without links to probe."""
    up = [row for row in rows if row["target_rate_bps"] > 0]
    delays = [row["measured_delay_ms"] - row["target_delay_ms"] for row in up if row["measured_delay_ms"] is not None]
    rates = [row["measured_rate_bps"] / row["target_rate_bps"] - 1 for row in up if row["measured_rate_bps"]]
    return {
        "max_delay_error_ms": max((abs(error) for error in delays), default=None),
        "max_rate_error_ratio": max((abs(error) for error in rates), default=None),
    }
