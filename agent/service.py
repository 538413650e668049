"""The agent's gRPC service: a thin servicer over one node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agent.control import ReportingControl
from agent.process import Seat, data_counters, plan_digest
from agent.timing import make_clock
from protos.skyrack.v1 import agent_pb2 as pb
from protos.skyrack.v1.agent_pb2_grpc import AgentServiceServicer
from testbed import registry, rpc
from testbed.errors import BugError, SkyrackError
from testbed.mission import MissionPlan
from testbed.node.base import Node
from testbed.node.factory import build_node
from testbed.node.orders import Report
from testbed.node.wire import order_from_request
from testbed.transfer.spool import Spool
from testbed.transfer.stream import ExchangeServer, StreamTransport


class AgentServicer(AgentServiceServicer):
    """Configure, Prepare, Start, Obey, Shutdown; ``ended`` is set by the last."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._control = ReportingControl(seat)
        self._clock, self._keeping = make_clock(seat, self._control.note)
        self._node: Node | None = None
        self._data: Any = None
        self._counted = (0, 0)
        self.ended = asyncio.Event()

    async def Configure(self, request: pb.ConfigureRequest, context: Any) -> pb.ConfigureResponse:  # noqa: N802
        seat = self._seat
        try:
            plan = MissionPlan.from_json(request.mission_plan_json.decode())
            strategy = registry.load("strategies", request.strategy)
            spool = Spool(
                request.run_id,
                lambda peer, chunk: self._running().accept(peer, chunk),
                on_again=lambda header: self._running().accept_again(header),
            )
            transport = StreamTransport(
                seat.node, plan.link_plans[seat.node], seat.peers, seat.credentials, self._clock, self._on_break
            )
            self._node = build_node(
                plan,
                seat.node,
                run=request.run_id,
                strategy=strategy,
                clock=self._clock,
                transport=transport,
                control=self._control,
            )
            self._node.release = spool.forget
            self._node.ahead = Path(seat.ahead) if seat.ahead else None
            self._data = rpc.data_server()
            self._data.add_generic_rpc_handlers((ExchangeServer(seat.node, spool).handler(),))
            rpc.bind(self._data, seat.data_address, rpc.DATA_PORT, seat.credentials)
            await self._data.start()
            self._keeping.begin()
            self._control.serve_metrics(seat.management_address)
        except SkyrackError as error:
            await rpc.refuse(context, error)
        return pb.ConfigureResponse(mission_plan_sha256=plan_digest(request.mission_plan_json))

    async def Prepare(self, request: pb.PrepareRequest, context: Any) -> pb.PrepareResponse:  # noqa: N802
        try:
            await self._running().prepare()
        except SkyrackError as error:
            await rpc.refuse(context, error)
        return pb.PrepareResponse()

    async def Start(self, request: pb.StartRequest, context: Any) -> pb.StartResponse:  # noqa: N802
        self._clock.start(request.mission_zero_monotonic_s)
        await self._running().transport.open()
        self._counted = data_counters()  # what came before, the probes', is not the mission's
        return pb.StartResponse()

    async def Obey(self, request: pb.ObeyRequest, context: Any) -> pb.ObeyResponse:  # noqa: N802
        self._running().take(order_from_request(request))
        return pb.ObeyResponse()

    async def Settle(self, request: pb.SettleRequest, context: Any) -> pb.SettleResponse:  # noqa: N802
        await self._running().settle()
        await self._control.settle()
        return pb.SettleResponse()

    async def Shutdown(self, request: pb.ShutdownRequest, context: Any) -> pb.ShutdownResponse:  # noqa: N802
        sent, received = (now - then for now, then in zip(data_counters(), self._counted, strict=True))
        if self._node is not None:
            await self._node.stop()
        if self._data is not None:
            await self._data.stop(grace=0)
        await self._keeping.close()
        await self._control.close()
        self.ended.set()
        return pb.ShutdownResponse(data_sent_bytes=sent, data_received_bytes=received)

    def _running(self) -> Node:
        if self._node is None:
            raise BugError(f"{self._seat.node} was given an order before it was configured")
        return self._node

    def _on_break(self, peer: str, why: str) -> None:
        report = Report(self._seat.node, "reconnect", self._clock.now(), 0, {"peer": peer, "why": why})
        self._control.note(report)
