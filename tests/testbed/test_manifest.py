"""The manifest, against what the system itself says."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import numpy
import pytest

from testbed import manifest
from testbed.scenario import load_scenario


def test_says_with_what_the_run_was_made() -> None:
    scenario = load_scenario("demo")
    now = datetime(2026, 6, 1, 12, 0, 0, tzinfo=timezone.utc)
    made = manifest.collect(scenario, run="abc123", facts={"kernel": "6.1.0", "clock": "virtual"}, now=now)
    assert json.loads(json.dumps(made)) == made
    assert made["created"] == "2026-06-01T12:00:00Z"
    assert made["seed"] == scenario.seed
    assert made["versions"]["numpy"] == numpy.__version__
    assert made["versions"]["python"] == platform.python_version()
    assert made["rack"] == {"kernel": "6.1.0", "clock": "virtual"}
    assert made["devices"]["satellite"]["source"] == scenario.devices.satellite.source
    assert made["host"]["kernel"] == platform.release()


def test_the_commit_is_git_s_own(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()

    def run(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        command = [git, "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "-q")
    (folder / "file").write_text("1")
    run("add", "file")
    run("commit", "-q", "-m", "one")
    assert manifest.git_commit(folder) == run("rev-parse", "HEAD")
    (folder / "file").write_text("2")
    assert manifest.git_commit(folder) == run("rev-parse", "HEAD") + "-dirty"


def test_a_folder_inside_someone_elses_checkout_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert manifest.git_commit(inside) == "unknown"
    assert manifest.git_commit(tmp_path) == "unknown"  # an empty .git is no repository
