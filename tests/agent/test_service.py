"""One node's process as its controller meets it: mutual TLS, commands, reports in order."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from agent.process import Seat, plan_digest
from agent.service import AgentServicer
from controller.planner import make_plan
from protos.skyrack.v1.agent_pb2 import (
    ConfigureRequest,
    ObeyRequest,
    PrepareRequest,
    SettleRequest,
    ShutdownRequest,
    StartRequest,
)
from protos.skyrack.v1.agent_pb2_grpc import AgentServiceStub, add_AgentServiceServicer_to_server
from protos.skyrack.v1.controller_pb2 import Event, ReportRequest, ReportResponse
from protos.skyrack.v1.controller_pb2_grpc import ControllerServiceServicer, add_ControllerServiceServicer_to_server
from testbed import rpc
from testbed.clock import KernelClock, monotonic_s
from testbed.mission import MissionPlan
from testbed.node.orders import Order
from testbed.node.wire import request_of
from testbed.pki import RunAuthority
from testbed.scenario import load_scenario
from testbed.transfer.chunks import split
from testbed.transfer.stream import StreamTransport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8")

CONTROLLER, STATION, GROUND = "127.0.0.1", "127.0.0.2", "127.0.0.3"
NODE = "svalbard"


@lru_cache(maxsize=1)
def _plan() -> MissionPlan:
    small = {"learning.rounds": "1", "learning.samples_per_round": "32"}
    return make_plan(load_scenario("demo", small), "collaborative")


@pytest.fixture(autouse=True)
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports that are free on every address, instead of the usual ones."""
    names = ("MANAGEMENT_PORT", "DATA_PORT", "METRICS_PORT")
    probes = [socket.create_server(("", 0)) for _ in names]
    for name, probe in zip(names, probes, strict=True):
        monkeypatch.setattr(rpc, name, probe.getsockname()[1])
        probe.close()


class _Desk(ControllerServiceServicer):
    """The controller's end of the management plane."""

    def __init__(self) -> None:
        self.urgent: asyncio.Queue[Event] = asyncio.Queue()

    async def Report(self, request: ReportRequest, context: Any) -> ReportResponse:  # noqa: N802
        for event in request.events:
            if event.urgent:
                self.urgent.put_nowait(event)
        return ReportResponse()


def _stub(channel: aio.Channel) -> Any:
    """The generated types of a stub are those of the other, blocking kind of channel."""
    return AgentServiceStub(channel)


class _Hosted:
    def __init__(self, authority: RunAuthority, stub: Any, desk: _Desk, agent: AgentServicer) -> None:
        self.authority, self.stub, self.desk, self.agent = authority, stub, desk, agent

    async def configure(self, run: str = "r") -> Any:
        plan = _plan().to_json().encode()
        return await self.stub.Configure(
            ConfigureRequest(run_id=run, strategy="collaborative", mission_plan_json=plan), timeout=30
        )


@asynccontextmanager
async def _hosted(work: str = "") -> AsyncIterator[_Hosted]:
    """A ground station's agent and a controller, on two addresses of the loopback."""
    authority, desk = RunAuthority("r"), _Desk()
    reports = rpc.control_server()
    add_ControllerServiceServicer_to_server(desk, reports)
    rpc.bind(reports, CONTROLLER, rpc.MANAGEMENT_PORT, authority.issue("controller"))
    await reports.start()
    peers = {name: GROUND if name == "ground" else "127.0.0.99" for name in _plan().nodes}
    seat = Seat(
        node=NODE,
        management_address=STATION,
        data_address=STATION,
        controller_address=CONTROLLER,
        peers=peers,
        credentials=authority.issue(NODE),
        clock="kernel",
        uid=0,
        gid=0,
        ahead="",
        work=work,
    )
    agent = AgentServicer(seat)
    await agent.resume()
    server = rpc.control_server()
    add_AgentServiceServicer_to_server(agent, server)
    rpc.bind(server, STATION, rpc.MANAGEMENT_PORT, seat.credentials)
    await server.start()
    channel = rpc.control_channel(STATION, NODE, authority.issue("controller"))
    stub = _stub(channel)
    try:
        yield _Hosted(authority, stub, desk, agent)
    finally:
        if not agent.ended.is_set():
            await stub.Shutdown(ShutdownRequest(), timeout=30)
        await channel.close()
        await server.stop(grace=0)
        await reports.stop(grace=0)


def _fly(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 120.0))


def test_it_says_which_plan_it_read() -> None:
    async def work() -> None:
        async with _hosted() as hosted:
            answer = await hosted.configure()
            assert answer.mission_plan_sha256 == hashlib.sha256(_plan().to_json().encode()).hexdigest()
            assert answer.mission_plan_sha256 == plan_digest(_plan().to_json().encode())

    _fly(work())


def test_an_order_before_its_time_is_refused() -> None:
    async def work() -> None:
        async with _hosted() as hosted:
            with pytest.raises(aio.AioRpcError, match="before it was configured"):
                await hosted.stub.Prepare(PrepareRequest(), timeout=30)
            with pytest.raises(aio.AioRpcError):
                await hosted.stub.Obey(ObeyRequest(kind="begin_round", round=1), timeout=30)

    _fly(work())


def test_a_strategy_that_is_not_there_is_the_callers_fault() -> None:
    async def work() -> None:
        async with _hosted() as hosted:
            request = ConfigureRequest(run_id="r", strategy="none", mission_plan_json=_plan().to_json().encode())
            with pytest.raises(aio.AioRpcError, match="no such") as refusal:
                await hosted.stub.Configure(request, timeout=30)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    _fly(work())


def test_a_stranger_gets_no_answer() -> None:
    async def work() -> None:
        async with _hosted() as hosted:
            stranger = rpc.control_channel(STATION, NODE, RunAuthority("r").issue("controller"))
            with pytest.raises(aio.AioRpcError) as refusal:
                await _stub(stranger).Shutdown(ShutdownRequest(), timeout=5)
            assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
            await stranger.close()
            bare = aio.insecure_channel(f"{STATION}:{rpc.MANAGEMENT_PORT}")
            with pytest.raises(aio.AioRpcError):
                await _stub(bare).Shutdown(ShutdownRequest(), timeout=5)
            await bare.close()
            assert not hosted.agent.ended.is_set()

    _fly(work())


def test_a_station_keeps_a_chunk_that_no_contact_takes_and_says_so() -> None:
    async def work() -> None:
        async with _hosted() as hosted:
            await hosted.configure()
            await hosted.stub.Prepare(PrepareRequest(), timeout=30)
            zero_s = monotonic_s()
            await hosted.stub.Start(StartRequest(mission_zero_monotonic_s=zero_s), timeout=30)
            await hosted.stub.Obey(request_of(Order("begin_round", 1)), timeout=30)
            clock = KernelClock()
            clock.start(zero_s)
            ground = StreamTransport(
                "ground",
                _plan().link_plans["ground"],
                {NODE: STATION},
                hosted.authority.issue("ground"),
                clock,
                lambda peer, why: None,
            )
            (chunk,) = split(bytes(5_000), 5_000, run="r", round=1, phase="down", origin="sat-0-1", tensor="feature")
            # A contact that was over before the mission began, with a satellite that this station meets.
            satellite = next(c.satellite for c in _plan().contacts if c.station == NODE)
            late = chunk.along((NODE, satellite)).within(satellite, -1.0)
            for _ in range(2):  # planned anew, it may come this way again
                delivery = await ground.deliver(NODE, late, not_before_s=0.0, until_s=1e9)
                assert delivery.resumed_from == 0
                event = await hosted.desk.urgent.get()
                assert (event.kind, event.node, event.round) == ("undelivered", NODE, 1)
                assert str(chunk.id) in event.data_json.decode()
            await ground.close()
            await hosted.stub.Settle(SettleRequest(), timeout=30)
            answer = await hosted.stub.Shutdown(ShutdownRequest(), timeout=30)
            assert hosted.agent.ended.is_set()
            assert answer.data_sent_bytes >= 0

    _fly(work())


def test_the_next_process_goes_on_with_what_a_former_one_was_told_and_had_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    # One that is not above the station before long, however slow this test is.
    starts_s = {c.satellite: c.start_s for c in reversed(_plan().contacts) if c.station == NODE}
    satellite = max(starts_s, key=lambda name: starts_s[name])
    assert starts_s[satellite] > 600
    waiting, late = split(bytes(9_000), 5_000, run="r", round=2, phase="down", origin="sat-0-1", tensor="feature")
    waiting = waiting.along((NODE, satellite)).within(satellite, 1e9)
    late = late.along((NODE, satellite)).within(satellite, -1.0)

    async def give(hosted: _Hosted, zero_s: float, *chunks: Any) -> None:
        clock = KernelClock()
        clock.start(zero_s)
        links, credentials = _plan().link_plans["ground"], hosted.authority.issue("ground")
        ground = StreamTransport("ground", links, {NODE: STATION}, credentials, clock, lambda peer, why: None)
        for chunk in chunks:
            await ground.deliver(NODE, chunk, not_before_s=0.0, until_s=1e9)
        await ground.close()

    async def work() -> None:
        zero_s = monotonic_s()
        async with _hosted(str(first)) as hosted:
            await hosted.configure()
            await hosted.stub.Start(StartRequest(mission_zero_monotonic_s=zero_s), timeout=30)
            await hosted.stub.Obey(request_of(Order("begin_round", 2)), timeout=30)
            await give(hosted, zero_s, waiting, late)
            assert (await hosted.desk.urgent.get()).kind == "undelivered"
            shutil.copytree(first, second)  # what kill -9 would leave at this moment
        assert list(first.iterdir()) == []  # and what an ordered end leaves
        with socket.create_server(("", 0)) as probe:  # one process hosts both here, and the first one's metrics stay
            monkeypatch.setattr(rpc, "METRICS_PORT", probe.getsockname()[1])
        async with _hosted(str(second)) as hosted:
            lying = set((second / "chunks" / "chunks").iterdir())
            assert len(lying) == 2
            await give(hosted, zero_s, waiting, late)
            event = await hosted.desk.urgent.get()
            assert (event.kind, event.round) == ("undelivered", 2)  # what was told before is not told again
            assert str(late.id) in event.data_json.decode()
            assert hosted.desk.urgent.empty()
            assert set((second / "chunks" / "chunks").iterdir()) == lying  # one copy of each, as before
            await hosted.stub.Obey(request_of(Order("begin_round", 3)), timeout=30)
            assert [path.stat().st_size for path in (second / "chunks" / "chunks").iterdir()] == []

    _fly(work())
