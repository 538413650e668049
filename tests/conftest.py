"""What all tests share."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.lone_passes import LONE_PASSES

ROOT = Path(__file__).resolve().parents[1]

# The same examples on every run, and no verdict on how long one takes: hosts are busy.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where User-Mode Linux cannot exist its tests are skipped. Where it is merely missing they fail: `make test`
    installs it."""
    if item.get_closest_marker("guest") and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("User-Mode Linux needs an x86-64 Linux host")


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of this repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published reference data. It is optional: it lies beside the repository, not in it."""
    folder = ROOT.parent / "shared"
    if not (folder / "oracles").is_dir():
        pytest.skip(f"no published reference data in {folder}")
    return folder


Simulate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def small_landsat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 900 training and 60 test samples of Landsat: real data, and few to encode."""
    import numpy as np

    from testbed.learning.tasks import load_dataset

    data = load_dataset("landsat")
    path = tmp_path_factory.mktemp("data") / "small-landsat.npz"
    np.savez(
        path,
        train_x=data.train_x[:900],
        train_y=data.train_y[:900],
        test_x=data.test_x[:60],
        test_y=data.test_y[:60],
        classes=np.array(data.classes),
    )
    return path


@pytest.fixture(scope="session")
def simulate(small_landsat: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulate:
    """``simulate("collaborative", {"seed": "2"}, change=..., recorder=...)``: the demo on the simulated rack.

    Two rounds of 64 samples of the small data unless overridden. ``change`` takes the mission plan and returns the one
    to fly. The result holds the mission's figures and, beside them, all ``events``.
    """
    from controller.planner import make_plan
    from testbed.rack.base import Job
    from testbed.rack.simulated import SimulatedRack
    from testbed.registry import DEFAULT_SCHEDULER
    from testbed.scenario import load_scenario

    folder = tmp_path_factory.mktemp("runs")

    def run(
        strategy: str,
        overrides: dict[str, str] | None = None,
        *,
        change: Callable[[Any], Any] = lambda plan: plan,
        recorder: Any = None,
    ) -> dict[str, Any]:
        small = {
            **LONE_PASSES,
            "learning.dataset": str(small_landsat),
            "learning.samples_per_round": "64",
            "learning.rounds": "2",
            "learning.local_epochs": "3",
            **(overrides or {}),
        }
        plan = change(make_plan(load_scenario("demo", small), strategy))
        events: list[dict[str, Any]] = []
        job = Job("r", plan, folder, strategy, DEFAULT_SCHEDULER, "controller.runner:fly")
        result = SimulatedRack(recorder).run(job, events.append)
        return {**result, "events": events, "plan": plan}

    return run
