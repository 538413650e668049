"""A rack: something that hosts an experiment's nodes. One scenario runs on any of them."""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from testbed.clock import Clock
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report

Record = Callable[[dict[str, Any]], None]
"""Takes one JSON-able event as it happens."""


@dataclass(frozen=True)
class Job:
    """What a rack is asked to run.

    ``mission`` names the coroutine function that flies it as ``module:function``: the rack calls it where the nodes
    are (another process, another kernel), with (fleet, job, record), and returns what it returns.
    """

    run: str
    plan: MissionPlan
    directory: Path
    strategy: str
    scheduler: str
    mission: str
    ahead: Path | None = None
    """Where features computed ahead are found, on a rack whose nodes share a core."""


class Fleet(ABC):
    """Nodes that are up; the controller's side of the management plane. ``lost`` says of nodes that died why they did:
    they get no orders any more."""

    clock: Clock
    reports: asyncio.Queue[Report]
    lost: dict[str, str]

    def lose(self, node: str, why: str) -> None:
        """A node died under way: whoever decides hears of it as a report of kind ``lost``."""
        self.lost[node] = why
        self.reports.put_nowait(Report(node, "lost", self.clock.now(), 0, {"why": why}))

    @abstractmethod
    async def is_lost(self, node: str) -> bool:
        """Whether a node that does not answer is dead; returns once that is known."""

    @abstractmethod
    def kill(self, node: str) -> None:
        """Let a node die at once, as by a failure."""

    @abstractmethod
    def observe(self, observer: Record) -> None:
        """Send every event of every node to ``observer``."""

    @abstractmethod
    async def prepare(self) -> list[dict[str, Any]]:
        """Let every node load its data and weights, prove the links, and return the certificate's rows."""

    @abstractmethod
    async def start(self) -> None:
        """Mission time 0: link plans begin to play."""

    @abstractmethod
    async def order(self, node: str, order: Order) -> None:
        """Send one node an order; returns when the node has taken it."""

    @abstractmethod
    async def settle(self) -> None:
        """Return once no transfer is under way and everything that nodes noted has been observed."""

    @abstractmethod
    async def stop(self) -> None:
        """Tear down; safe to call twice."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Kernel, clock and network settings for the manifest."""


class Rack(ABC):
    """One implementation hosts nodes in this process, the other as processes on a shaped network."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, job: Job, record: Record) -> dict[str, Any]:
        """Run a job to its end and return the mission's result; tears everything down in every case."""


def resolve(reference: str) -> Callable[..., Awaitable[dict[str, Any]]]:
    """The function named by ``module:function``."""
    module, _, function = reference.partition(":")
    found: Callable[..., Awaitable[dict[str, Any]]] = getattr(importlib.import_module(module), function)
    return found
