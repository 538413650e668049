"""The agent's gRPC service: a thin servicer over one node."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from agent.control import ReportingControl
from agent.process import Seat, data_counters, plan_digest
from agent.stock import configuration, make_stock, order, packed
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
from testbed.transfer.stream import ExchangeServer, StreamTransport

_log = logging.getLogger(__name__)


class AgentServicer(AgentServiceServicer):
    """Configure, Prepare, Start, Obey, Shutdown; ``ended`` is set by the last.

    With a work folder :meth:`resume` goes on where a former process of the node was killed: with its mission plan,
    mission time, chunks and the round's orders to send. What it was computing is lost.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._control = ReportingControl(seat)
        self._stock = make_stock(seat.work)
        self._clock, self._keeping = make_clock(seat, self._control.note)
        self._node: Node | None = None
        self._data: Any = None
        self._counted = (0, 0)
        self.ended = asyncio.Event()

    async def resume(self) -> None:
        """Go on as the node's former process was told, if there was one. To be called before commands are served."""
        told = self._stock.told()
        configured = [facts for kind, facts in told if kind == "configure"]
        if not configured:
            return
        self._build(configuration(configured[-1]["request"]))
        started = [facts for kind, facts in told if kind == "start"]
        for facts in started[-1:]:
            self._clock.start(facts["mission_zero_monotonic_s"])
            self._counted = tuple(facts["counted"])
        orders = [order_from_request(order(facts["request"])) for kind, facts in told if kind == "obey"]
        node = self._running()
        for each in orders:
            node.enter(each)
        recovered = self._stock.recover(node)
        self._stock.drop(node.round)
        _log.warning("%s goes on at %.3f s with %d chunks", node.name, self._clock.now(), recovered)
        await self._serve()
        if started:
            await node.transport.open()
        for each in orders:
            if (each.round, each.attempt) == (node.round, node.attempt) and each.kind == "send":
                node.spawn(node.obey(each))

    async def Configure(self, request: pb.ConfigureRequest, context: Any) -> pb.ConfigureResponse:  # noqa: N802
        try:
            self._build(request)
            await self._serve()
            self._stock.note("configure", request=packed(request))
        except SkyrackError as error:
            await rpc.refuse(context, error)
        return pb.ConfigureResponse(mission_plan_sha256=plan_digest(request.mission_plan_json))

    def _build(self, request: pb.ConfigureRequest) -> None:
        """Make the node that a request describes."""
        seat = self._seat
        plan = MissionPlan.from_json(request.mission_plan_json.decode())
        strategy = registry.load("strategies", request.strategy)
        self._spool = self._stock.open(
            request.run_id,
            plan.nodes,
            lambda peer, chunk: self._running().accept(peer, chunk),
            lambda header: self._running().accept_again(header),
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
        self._stock.equip(self._node)
        self._node.ahead = Path(seat.ahead) if seat.ahead else None

    async def _serve(self) -> None:
        """Take chunks, keep time, show metrics."""
        seat = self._seat
        self._data = rpc.data_server()
        self._data.add_generic_rpc_handlers((ExchangeServer(seat.node, self._spool).handler(),))
        rpc.bind(self._data, seat.data_address, rpc.DATA_PORT, seat.credentials)
        await self._data.start()
        self._keeping.begin()
        self._control.serve_metrics(seat.management_address)

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
        zero_s = request.mission_zero_monotonic_s
        self._stock.note("start", mission_zero_monotonic_s=zero_s, counted=self._counted)
        return pb.StartResponse()

    async def Obey(self, request: pb.ObeyRequest, context: Any) -> pb.ObeyResponse:  # noqa: N802
        ordered = order_from_request(request)
        self._stock.note("obey", request=packed(request))
        self._stock.drop(ordered.round)
        self._running().take(ordered)
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
        self._stock.clear()
        self.ended.set()
        return pb.ShutdownResponse(data_sent_bytes=sent, data_received_bytes=received)

    def _running(self) -> Node:
        if self._node is None:
            raise BugError(f"{self._seat.node} was given an order before it was configured")
        return self._node

    def _on_break(self, peer: str, why: str) -> None:
        report = Report(self._seat.node, "reconnect", self._clock.now(), 0, {"peer": peer, "why": why})
        self._control.note(report)
