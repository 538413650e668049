"""What all tests share."""

from __future__ import annotations

import platform
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# The same examples on every run, and no verdict on how long one takes: hosts are busy.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
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
