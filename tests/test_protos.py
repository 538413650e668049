"""The wire contract as Python sees it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from protos import generate
from protos.skyrack.v1 import agent_pb2, assignment_pb2, clock_pb2, clock_pb2_grpc


def test_generated_code_imports_from_anywhere(tmp_path: Path) -> None:
    modules = [
        f"protos.skyrack.v1.{Path(source).stem}_{kind}" for source in generate.sources() for kind in ("pb2", "pb2_grpc")
    ]
    assert len(modules) >= 6
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    subprocess.run([sys.executable, "-W", "error", "-c", program, *modules], cwd=tmp_path, check=True)


def test_staleness_is_seen(tmp_path: Path) -> None:
    generate.compile_into(tmp_path)
    fresh = generate.generated(tmp_path)
    assert set(fresh) == {
        f"{source.removesuffix('.proto')}_{kind}"
        for source in generate.sources()
        for kind in ("pb2.py", "pb2.pyi", "pb2_grpc.py", "pb2_grpc.pyi")
    }
    name = "protos/skyrack/v1/agent_pb2.py"
    others = {key: value for key, value in fresh.items() if key != name}
    assert generate.differences(fresh, fresh) == []
    assert generate.differences(fresh, others) == [f"missing: {name}"]
    assert generate.differences(others, fresh) == [f"left over: {name}"]
    assert generate.differences({**fresh, name: b""}, fresh) == [f"out of date: {name}"]


def test_sizes_and_times_keep_all_their_bits() -> None:
    size_bytes, start_s = 2**53 + 1, 86_400.000_000_1  # what a double cannot count, what a float cannot tell from a day
    assignment = assignment_pb2.Assignment(chunk="r/1/up/sat-0-1/embedding/2", size_bytes=size_bytes, start_s=start_s)
    request = agent_pb2.ObeyRequest(kind="send", round=1, assignments=[assignment])
    read = agent_pb2.ObeyRequest.FromString(request.SerializeToString())
    assert (read.assignments[0].size_bytes, read.assignments[0].start_s) == (size_bytes, start_s)


def test_a_vote_for_epoch_zero_is_a_vote() -> None:
    assert not clock_pb2.NodeActivity().HasField("vote_epoch")
    sent = clock_pb2.NodeActivity(vote_epoch=0, wake_mission_s=0.0)
    read = clock_pb2.NodeActivity.FromString(sent.SerializeToString())
    assert read.HasField("vote_epoch")
    assert read.HasField("wake_mission_s")


class Clock(clock_pb2_grpc.ClockServiceServicer):
    """A keeper that prepares the epoch after each activity's."""

    async def Attend(  # noqa: N802 - the name is gRPC's
        self, request_iterator: AsyncIterator[clock_pb2.AttendRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[clock_pb2.AttendResponse]:
        async for request in request_iterator:
            prepare = clock_pb2.PrepareEpoch(epoch=request.activity.epoch + 1)
            yield clock_pb2.AttendResponse(command=clock_pb2.ClockCommand(prepare=prepare))


def test_clocks_and_keeper_talk_over_a_socket() -> None:
    async def talk() -> list[int]:
        server = grpc.aio.server()
        clock_pb2_grpc.add_ClockServiceServicer_to_server(Clock(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                requests = [clock_pb2.AttendRequest(activity=clock_pb2.NodeActivity(epoch=epoch)) for epoch in (0, 7)]
                answers = clock_pb2_grpc.ClockServiceStub(channel).Attend(iter(requests), timeout=30)
                return [answer.command.prepare.epoch async for answer in answers]
        finally:
            await server.stop(None)

    assert asyncio.run(talk()) == [1, 8]
