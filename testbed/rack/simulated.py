"""The simulated rack: the same node code in one process, under virtual time, over fluid links. Any OS, no root."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from testbed import registry
from testbed.clock import LoopClock
from testbed.node.base import Node
from testbed.node.factory import build_node
from testbed.node.orders import Order, Report
from testbed.rack.base import Fleet, Job, Rack, Record, resolve
from testbed.rack.virtual_time import VirtualTimeLoop
from testbed.transfer.chunks import Chunk
from testbed.transfer.fluid import FluidNetwork
from testbed.transfer.spool import Spool
from testbed.transfer.transport import Recorder


class _LocalControl:
    """The management plane inside one process."""

    def __init__(self, reports: asyncio.Queue[Report]) -> None:
        self._reports = reports
        self.observer: Record = lambda event: None

    async def report(self, report: Report) -> None:
        self._reports.put_nowait(report)

    def note(self, report: Report) -> None:
        self.observer(report.to_event())


class SimulatedFleet(Fleet):
    """All nodes as coroutines of one loop."""

    def __init__(self, job: Job, recorder: Recorder | None = None) -> None:
        self.clock = LoopClock()
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.lost: dict[str, str] = {}
        self._control = _LocalControl(self.reports)
        strategy = registry.load("strategies", job.strategy)
        self._network = network = FluidNetwork(job.plan.link_plans, self.clock, recorder)
        self.nodes: dict[str, Node] = {}
        for name in job.plan.nodes:
            spool = Spool(job.run, partial(self._accept, name), on_again=partial(self._accept_again, name))
            self.nodes[name] = build_node(
                job.plan,
                name,
                run=job.run,
                strategy=strategy,
                clock=self.clock,
                transport=network.attach(name, spool),
                control=self._control,
            )
            self.nodes[name].release = spool.forget
            self.nodes[name].received = spool.counts

    def _accept(self, name: str, peer: str, chunk: Chunk) -> None:
        self.nodes[name].accept(peer, chunk)

    def _accept_again(self, name: str, header: dict[str, Any]) -> None:
        self.nodes[name].accept_again(header)

    def observe(self, observer: Record) -> None:
        self._control.observer = observer

    async def prepare(self) -> list[dict[str, Any]]:
        for node in self.nodes.values():
            await node.prepare()
        return []

    async def start(self) -> None:
        """Virtual time has stood at 0 so far: loading costs none."""

    async def order(self, node: str, order: Order) -> None:
        if node not in self.lost:
            self.nodes[node].take(order)

    async def is_lost(self, node: str) -> bool:
        return node in self.lost

    def kill(self, node: str) -> None:
        self.nodes[node].halt()
        self._network.detach(node)
        self.lose(node, "killed")

    async def settle(self) -> None:
        for name, node in self.nodes.items():
            if name not in self.lost:
                await node.settle()

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()

    def facts(self) -> dict[str, Any]:
        return {"kernel": "none", "clock": "virtual, in one process", "network": "fluid model of the link plan"}


class SimulatedRack(Rack):
    """Hosts a job in this process."""

    name: ClassVar[str] = "simulated"

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder

    def run(self, job: Job, record: Record) -> dict[str, Any]:
        from testbed.learning.runtime import make_deterministic

        make_deterministic()  # the bits must be those of the other racks, whatever this process did before
        loop = VirtualTimeLoop()
        try:
            return loop.run_until_complete(self._fly(job, record))
        finally:
            # None, unless the loop itself gave up on a deadlock.
            loop.run_until_complete(_cancel(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _fly(self, job: Job, record: Record) -> dict[str, Any]:
        fleet = SimulatedFleet(job, self._recorder)
        try:
            return await resolve(job.mission)(fleet, job, record)
        finally:
            await fleet.stop()


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
