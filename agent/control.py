"""The management plane as a node's process sees it: reports to the controller, in order, some at once."""

from __future__ import annotations

import asyncio

from prometheus_client import start_http_server

from agent.process import Seat
from protos.skyrack.v1.controller_pb2 import ReportRequest
from protos.skyrack.v1.controller_pb2_grpc import ControllerServiceStub
from testbed import rpc
from testbed.metrics import Metrics
from testbed.node.orders import Report
from testbed.node.wire import event_of

CONTROLLER = "controller"
GATHER_S = 1.0
"""Events that nobody must act on wait this long for company: one call a second and node is enough for a live view."""


class ReportingControl:
    """Sends reports to the controller's service; what must be acted on takes everything noted before along."""

    def __init__(self, seat: Seat) -> None:
        self._channel = rpc.control_channel(seat.controller_address, CONTROLLER, seat.credentials)
        self._stub = ControllerServiceStub(self._channel)
        self._metrics = Metrics()
        self._waiting: list[Report] = []
        self._turn = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None

    def serve_metrics(self, address: str) -> None:
        """Prometheus metrics of this node, on its management address."""
        start_http_server(rpc.METRICS_PORT, addr=address, registry=self._metrics.registry)

    async def report(self, report: Report) -> None:
        await self._send([(report, True)])

    def note(self, report: Report) -> None:
        self._metrics.observe(report.to_event())
        self._waiting.append(report)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush_soon())

    async def _flush_soon(self) -> None:
        await asyncio.sleep(GATHER_S)
        await self._send([])

    async def _send(self, urgent: list[tuple[Report, bool]]) -> None:
        async with self._turn:
            noted, self._waiting = self._waiting, []
            events = [event_of(report, at_once) for report, at_once in [*((r, False) for r in noted), *urgent]]
            if events:
                await rpc.call("controller", self._stub.Report, ReportRequest(events=events))

    async def settle(self) -> None:
        """Hand over what was noted; returns when the controller has it."""
        await self._send([])

    async def close(self) -> None:
        """Send what is left and hang up."""
        if self._flusher is not None:
            self._flusher.cancel()
        await self.settle()
        await self._channel.close()
