"""The controller's side of nodes that are processes: commands over gRPC, reports back, links by the player."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from controller.keeping import Keeper
from controller.links import LinkPlayer
from protos.skyrack.v1.agent_pb2 import (
    ConfigureRequest,
    PrepareRequest,
    SettleRequest,
    ShutdownRequest,
    StartRequest,
)
from protos.skyrack.v1.agent_pb2_grpc import AgentServiceStub
from protos.skyrack.v1.controller_pb2 import ReportRequest, ReportResponse
from protos.skyrack.v1.controller_pb2_grpc import (
    ControllerServiceServicer,
    add_ControllerServiceServicer_to_server,
)
from testbed import rpc
from testbed.clock import monotonic_s
from testbed.errors import BoardError
from testbed.node.orders import Order, Report
from testbed.node.wire import report_from_event, request_of
from testbed.pki import Credentials
from testbed.rack.base import Fleet, Job, Record

DEATH_S = 1.0
"""A node that does not answer and whose process has not ended within this is not dead: the kernel says so at once."""
LEAD_S = 6.0
"""Mission time zero is this far ahead when it is announced, so that everybody has heard, and has connected the links
that are always up, before it comes."""


class _Reports(ControllerServiceServicer):
    """Takes what nodes report: everything is observed, what is urgent is queued for a decision."""

    def __init__(self, queue: asyncio.Queue[Report]) -> None:
        self._queue = queue
        self.observer: Record = lambda event: None

    async def Report(self, request: ReportRequest, context: Any) -> ReportResponse:  # noqa: N802
        for event in request.events:
            report = report_from_event(event)
            self.observer(report.to_event())
            if event.urgent:
                self._queue.put_nowait(report)
        return ReportResponse()


class ProcessFleet(Fleet):
    """Nodes as processes behind management addresses."""

    def __init__(
        self,
        job: Job,
        address: str,
        nodes: Mapping[str, str],
        pids: Mapping[str, int],
        credentials: Credentials,
        player: LinkPlayer,
        keeper: Keeper,
    ) -> None:
        self._job = job
        self._address = address
        self._pids = pids
        self._credentials = credentials
        self._player = player
        self._keeper = keeper
        self.clock = self._clock = keeper.clock
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.lost: dict[str, str] = {}
        self._flying = False
        self._loss = asyncio.Event()
        self._servicer = _Reports(self.reports)
        self._server = rpc.control_server()
        self._channels = {name: rpc.control_channel(nodes[name], name, credentials) for name in job.plan.nodes}
        self._agents = {name: AgentServiceStub(channel) for name, channel in self._channels.items()}
        self._wire = {"sent_bytes": 0, "received_bytes": 0}
        self._stopped = False

    def observe(self, observer: Record) -> None:
        self._servicer.observer = observer
        self._keeper.observe(observer)
        self._player.observer = observer

    async def prepare(self) -> list[dict[str, Any]]:
        add_ControllerServiceServicer_to_server(self._servicer, self._server)
        self._keeper.serve(self._server, self._player.follow, self.reports.qsize)
        rpc.bind(self._server, self._address, rpc.MANAGEMENT_PORT, self._credentials)
        await self._server.start()
        request = ConfigureRequest(
            run_id=self._job.run, strategy=self._job.strategy, mission_plan_json=self._job.plan.to_json().encode()
        )
        answers = await self._all("Configure", request)
        if len({answer.mission_plan_sha256 for answer in answers.values()}) != 1:
            raise BoardError(f"the nodes read different mission plans: {answers}")
        await self._all("Prepare", PrepareRequest())
        await self._player.install()
        return await self._player.certify()

    async def start(self) -> None:
        zero_s = monotonic_s() + LEAD_S
        await self._player.start(zero_s)
        self._clock.start(zero_s)
        await self._all("Start", StartRequest(mission_zero_monotonic_s=zero_s))
        self._keeper.begin(zero_s)
        self._flying = True
        await self.clock.sleep_until(0.0)

    async def order(self, node: str, order: Order) -> None:
        with self.clock.busy():
            try:
                if node not in self.lost:
                    await rpc.call(node, self._agents[node].Obey, request_of(order))
            except BoardError:
                if not await self.is_lost(node):
                    raise

    def lose(self, node: str, why: str) -> None:
        """Also raises BoardError where the run cannot do without it: the ground server, or anybody before the start."""
        if not self._flying or node not in (*self._job.plan.satellites, *self._job.plan.stations):
            raise BoardError(f"{node}: its process ended during the run ({why})")
        self._keeper.lose(node)
        super().lose(node, why)
        self._loss.set()
        self._loss.clear()

    async def is_lost(self, node: str) -> bool:
        until_s = monotonic_s() + DEATH_S
        while node not in self.lost and monotonic_s() < until_s:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._loss.wait(), until_s - monotonic_s())
        return node in self.lost

    def kill(self, node: str) -> None:
        os.kill(self._pids[node], signal.SIGKILL)

    async def settle(self) -> None:
        await self._all("Settle", SettleRequest())

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        answers = await self._all("Shutdown", ShutdownRequest())
        self._wire["sent_bytes"] = sum(answer.data_sent_bytes for answer in answers.values())
        self._wire["received_bytes"] = sum(answer.data_received_bytes for answer in answers.values())
        await self._player.stop()
        for channel in self._channels.values():
            await channel.close()
        await self._server.stop(grace=0.5)

    def facts(self) -> dict[str, Any]:
        return {"wire": dict(self._wire), **self._player.facts(), **self._keeper.facts()}

    async def _all(self, method: str, request: Any) -> dict[str, Any]:
        """The same call to every node that is not lost at once; the first refusal ends it."""
        agents = {name: agent for name, agent in self._agents.items() if name not in self.lost}
        answers = await asyncio.gather(
            *(
                rpc.call(f"{name}: {method}", getattr(agent, method), request, rpc.PREPARE_DEADLINE_S)
                for name, agent in agents.items()
            )
        )
        return dict(zip(agents, answers, strict=True))
