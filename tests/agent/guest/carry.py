"""Inside a guest: a ground server hands argv[2] bytes to a station's agent, which has three passes to bring them up to
a satellite's agent; the station's is killed in the middle of each pass and started again, and in the second pass the
satellite's too. They are the processes that a rack runs, on the mission plan in ``argv[1]/plan.json``; their controller
is heard of once, before the mission, and does nothing but listen after that.

Says how much memory the processes had and what the kernel counted at the satellite's data device.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.process import Seat, main
from testbed.mission import MissionPlan
from testbed.pki import Credentials, RunAuthority
from testbed.rack.namespaces import CONTROLLER_ADDRESS
from testbed.rack.netlink import inside
from tests.agent.guest.boards import Boards, Link, say

GROUND, STATION, SATELLITE = "ground", "svalbard", "sat-0-0"
CHUNK_BYTES = 1 << 20
LEAD_S = 10.0
PASSES_S = ((40.0, 47.0), (107.0, 114.0), (174.0, 181.0))  # two carry 165 MB at 100 Mbit/s, three 247
KILLED_S = 3.0  # after each pass's start
SATELLITE_KILLED_S = 5.0  # after the second pass's start
RESTART_S = 0.2
LAST_S = PASSES_S[-1][1] + 1.0


def payload(index: int, size_bytes: int) -> bytes:
    """What the chunk with this index holds; the host's test makes the same."""
    return random.Random(index).randbytes(min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES))


async def control(plan: bytes, addresses: dict[str, str], credentials: Credentials, zero_s: float) -> None:
    """Configure and start both agents, then listen; says what they report as failed."""
    from protos.skyrack.v1.agent_pb2 import ConfigureRequest, StartRequest
    from protos.skyrack.v1.agent_pb2_grpc import AgentServiceStub
    from protos.skyrack.v1.controller_pb2 import ReportRequest, ReportResponse
    from protos.skyrack.v1.controller_pb2_grpc import (
        ControllerServiceServicer,
        add_ControllerServiceServicer_to_server,
    )
    from testbed import rpc

    class Listener(ControllerServiceServicer):
        async def Report(self, request: ReportRequest, context: Any) -> ReportResponse:  # noqa: N802
            for event in request.events:
                if event.urgent:
                    say(what="urgent", node=event.node, kind=event.kind, data=event.data_json.decode())
            return ReportResponse()

    server = rpc.control_server()
    add_ControllerServiceServicer_to_server(Listener(), server)
    rpc.bind(server, CONTROLLER_ADDRESS, rpc.MANAGEMENT_PORT, credentials)
    await server.start()
    for name, address in addresses.items():
        channel = rpc.control_channel(address, name, credentials)
        agent: Any = AgentServiceStub(channel)
        request = ConfigureRequest(run_id="r", strategy="collaborative", mission_plan_json=plan)
        await rpc.call(name, agent.Configure, request)
        await rpc.call(name, agent.Start, StartRequest(mission_zero_monotonic_s=zero_s))
        await channel.close()
    await asyncio.sleep(zero_s + LAST_S + 5.0 - time.monotonic())
    await server.stop(grace=0)


async def hand_over(plan: MissionPlan, address: str, credentials: Credentials, zero_s: float, size: int) -> None:
    """Give the station every chunk, and be gone before the first pass."""
    from testbed.clock import KernelClock
    from testbed.transfer.chunks import Chunk, ChunkId
    from testbed.transfer.stream import StreamTransport

    clock = KernelClock()
    clock.start(zero_s)
    links = plan.link_plans[GROUND]
    transport = StreamTransport(GROUND, links, {STATION: address}, credentials, clock, lambda peer, why: None)
    await clock.sleep_until(0.1)
    count, few = -(-size // CHUNK_BYTES), asyncio.Semaphore(4)

    async def give(index: int) -> None:
        async with few:
            data = payload(index, size)
            identity = ChunkId("r", 1, "down", SATELLITE, "feature", index)
            digest = hashlib.sha256(data).hexdigest()
            chunk = Chunk(identity, count, (STATION, SATELLITE), data, digest)
            await transport.deliver(STATION, chunk, not_before_s=0.0, until_s=PASSES_S[0][0])

    await asyncio.gather(*(give(index) for index in range(count)))
    say(what="handed over", at_s=clock.now())
    await transport.close()


def child(work: Callable[[], None]) -> int:
    """A process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def resident_kib(pid: int) -> int:
    """Of a process, now."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def received_bytes(pid: int) -> int:
    """What has reached the data device of a process's namespace, all headers included, as its kernel counts it."""
    with open(f"/proc/{pid}/net/dev", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.lstrip().startswith("data:"))


if __name__ == "__main__":
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    plan = MissionPlan.from_json((folder / "plan.json").read_text())
    nodes = [GROUND, STATION, SATELLITE]
    boards = Boards(nodes)
    authority = RunAuthority("r")
    issued = {name: authority.issue(name) for name in [*nodes, "controller"]}
    link = Link(boards, {name: plan.link_plans[name].to_dict() for name in nodes})
    link.until("installed")
    zero_s = time.monotonic() + LEAD_S
    link.ask("started", command="start", mission_zero_monotonic_s=zero_s)
    owner = os.stat(folder)
    management = {name: boards.space.addresses[name].mgmt for name in nodes}

    def host(name: str) -> int:
        """The agent of a node, as a rack starts it."""
        seat = Seat(
            node=name,
            management_address=management[name],
            data_address=boards.address(name),
            controller_address=CONTROLLER_ADDRESS,
            peers={peer: boards.address(peer) for peer in nodes},
            credentials=issued[name],
            clock="kernel",
            ahead="",
            work=str(folder / name),
            uid=owner.st_uid,
            gid=owner.st_gid,
        )

        def work() -> None:
            with inside(boards.netns[name]):
                main(seat)

        return child(work)

    def restart(name: str) -> None:
        os.kill(agents[name], signal.SIGKILL)
        os.waitpid(agents[name], 0)
        time.sleep(RESTART_S)
        agents[name] = host(name)

    def give() -> None:
        with inside(boards.netns[GROUND]):
            asyncio.run(hand_over(plan, boards.address(STATION), issued[GROUND], zero_s, size))

    def look(at_s: float) -> None:
        time.sleep(zero_s + at_s - time.monotonic())
        say(what="look", at_s=at_s, **{name: resident_kib(pid) for name, pid in agents.items()})

    agents = {name: host(name) for name in (STATION, SATELLITE)}
    agents_at = {name: management[name] for name in agents}
    text = (folder / "plan.json").read_bytes()
    controller = child(lambda: asyncio.run(control(text, agents_at, issued["controller"], zero_s)))
    look(0.0)
    ground = child(give)
    _, status = os.waitpid(ground, 0)
    before = received_bytes(boards.pids[SATELLITE])
    look(PASSES_S[0][0] - 0.5)
    for start_s, end_s in PASSES_S:
        look(start_s + KILLED_S)
        restart(STATION)
        look(start_s + KILLED_S + RESTART_S + 0.5)
        if start_s == PASSES_S[1][0]:
            look(start_s + SATELLITE_KILLED_S)
            restart(SATELLITE)
        look(end_s - 0.1)
        say(what="pass", crossed=received_bytes(boards.pids[SATELLITE]) - before)
    look(LAST_S)
    for pid in agents.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    crossed = received_bytes(boards.pids[SATELLITE]) - before
    say(what="done", crossed=crossed, handed_over=status)
    os.waitpid(controller, 0)
    link.tell(command="stop")
    link.until("stopped")
