"""Strategies and schedulers by name, found through entry points so that a user's own package can add one."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from testbed.errors import ScenarioError

DEFAULT_SCHEDULER = "time-expanded"


def load(group: str, name: str) -> Any:
    """A new object of the class registered as ``name`` in ``skyrack.<group>``; ScenarioError lists what there is."""
    return _find(group, name)()


def names(group: str) -> tuple[str, ...]:
    """Everything registered in ``skyrack.<group>``, a user's own included."""
    return tuple(sorted({point.name for point in entry_points(group=f"skyrack.{group}")}))


@lru_cache(maxsize=64)
def _find(group: str, name: str) -> Any:
    """The class. Found once per process, and by a fork server before it forks: it reads every package's metadata."""
    found = {point.name: point for point in entry_points(group=f"skyrack.{group}")}
    if name not in found:
        raise ScenarioError(
            f"no such name among the {group}",
            where="flags",
            field=group,
            found=name,
            allowed=", ".join(sorted(found)) or "none: install Skyrack with pip so that its entry points exist",
        )
    return found[name].load()
