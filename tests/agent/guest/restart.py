"""Inside a guest: argv[3] bytes from ``a`` to ``b`` over three passes of a shaped link, through the real transport and
stores in the folder argv[1]; the sending process is killed in the middle of each pass and started again, and in the
second pass the receiving one too.

Argument 2 is the link's rate in bit/s. What arrives is written to ``argv[1]/arrived``. Says how much memory the
processes had, what the receiver's application was given, and what the kernel counted at the receiver.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from testbed.clock import KernelClock
from testbed.errors import LinkClosed
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.pki import Credentials, RunAuthority
from testbed.rack.netlink import inside
from tests.agent.guest.boards import Boards, Link, say

DELAY_MS = 10.0
CHUNK_BYTES = 1 << 20
PASSES_S = ((5.0, 12.0), (72.0, 79.0), (139.0, 146.0))  # two carry 165 MB at 100 Mbit/s, three 247
KILLED_S = 3.0  # after each pass's start
RECEIVER_KILLED_S = 5.0  # after the second pass's start
RESTART_S = 0.2
LAST_S = PASSES_S[-1][1] + 1.0
ROOM_CHUNKS = 8
_COUNTS = struct.Struct("=QQ")  # payload bytes given to the receiver's application, of which accepted


def payload(index: int, size_bytes: int) -> bytes:
    """What the chunk with this index holds; the host's test makes the same."""
    return random.Random(index).randbytes(min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES))


def plan_of(node: str, peer: str, rate_bps: float) -> LinkPlan:
    """Up in the passes, down between them."""
    down = LinkState(0.0, DELAY_MS, 0.0, 0.0, 64)
    states = [down]
    for start_s, end_s in PASSES_S:
        states.append(LinkState(start_s, DELAY_MS, rate_bps, 0.0, queue_limit_packets(rate_bps, DELAY_MS)))
        states.append(LinkState(end_s, DELAY_MS, 0.0, 0.0, 64))
    return LinkPlan(node, {peer: tuple(states)})


async def receive(folder: Path, address: str, credentials: Credentials, counts: mmap.mmap, end_s: float) -> None:
    """Take chunks and write each where it belongs, until the end."""
    from testbed import rpc
    from testbed.transfer.chunks import Chunk
    from testbed.transfer.spool import Spool
    from testbed.transfer.store import ChunkStore
    from testbed.transfer.stream import ExchangeServer

    given, accepted = _COUNTS.unpack_from(counts)
    arrived = os.open(folder / "arrived", os.O_WRONLY | os.O_CREAT, 0o600)

    def on_chunk(peer: str, chunk: Chunk) -> None:
        nonlocal accepted
        accepted += len(chunk.payload)
        os.pwrite(arrived, chunk.payload, chunk.id.index * CHUNK_BYTES)

    class Counting(Spool):
        def write(self, peer: str, header: dict[str, Any], offset: int, data: bytes | memoryview) -> bool:
            nonlocal given
            given += len(data)
            whole = super().write(peer, header, offset, data)
            _COUNTS.pack_into(counts, 0, given, accepted)
            return whole

    store = ChunkStore("r", memory_bytes=0, folder=folder / "b")
    spool = Counting("r", on_chunk, store, nodes=("a", "b"))
    spool.recover()
    server = rpc.data_server()
    server.add_generic_rpc_handlers((ExchangeServer("b", spool).handler(),))
    rpc.bind(server, address, rpc.DATA_PORT, credentials)
    await server.start()
    await asyncio.sleep(end_s - time.monotonic())
    say(what="receiver", refused=dict(spool.refused), damaged=store.damaged, left=store.disk_used_bytes)
    await server.stop(grace=0)
    store.close()


async def send(folder: Path, plan: LinkPlan, address: str, credentials: Credentials, zero_s: float, size: int) -> None:
    """Put every chunk, from the first one on: what a former process has put or sent is not taken again."""
    from testbed.transfer.chunks import Chunk, ChunkId
    from testbed.transfer.outbox import Outbox
    from testbed.transfer.store import ChunkStore, outgoing
    from testbed.transfer.stream import StreamTransport

    clock = KernelClock()
    clock.start(zero_s)
    transport = StreamTransport("a", plan, {"b": address}, credentials, clock, lambda peer, why: None)
    await transport.open()

    async def deliver(chunk: Chunk) -> bool:
        while True:
            start_s, end_s = next(window for window in plan.windows("b") if window[1] > clock.now())
            try:
                await transport.deliver("b", chunk, not_before_s=start_s, until_s=end_s)
                return True
            except LinkClosed:
                continue

    store = ChunkStore("r", memory_bytes=0, folder=folder / "a")
    outbox = Outbox(store, deliver, room_chunks=ROOM_CHUNKS)
    recovered = outbox.recover()
    count, made = -(-size // CHUNK_BYTES), 0
    for index in range(count):
        identity = ChunkId("r", 1, "up", "a", "embedding", index)
        if store.done(outgoing(identity, "b")) is None:
            made += 1
            data = payload(index, size)
            await outbox.put(Chunk(identity, count, ("b",), data, hashlib.sha256(data).hexdigest()))
    await outbox.drain()
    say(what="sent", at_s=clock.now(), recovered=recovered, made=made, left=store.disk_used_bytes)
    await transport.close()
    store.close()


def child(boards: Boards, node: str, work: Any) -> int:
    """A process in the node's namespace."""
    pid = os.fork()
    if pid == 0:
        with inside(boards.netns[node]):
            asyncio.run(work())
        os._exit(0)
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
    folder, rate_bps, size = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    boards = Boards(["a", "b"])
    plans = {node: plan_of(node, peer, rate_bps) for node, peer in (("a", "b"), ("b", "a"))}
    authority = RunAuthority("r")
    ours, theirs = authority.issue("a"), authority.issue("b")
    link = Link(boards, {node: plan.to_dict() for node, plan in plans.items()})
    link.until("installed")
    zero_s = time.monotonic() + 5.0
    link.ask("started", command="start", mission_zero_monotonic_s=zero_s)
    counts = mmap.mmap(-1, mmap.PAGESIZE)
    address = boards.address("b")
    before = received_bytes(boards.pids["b"])

    def receiving() -> int:
        return child(boards, "b", lambda: receive(folder, address, theirs, counts, zero_s + LAST_S))

    def sending() -> int:
        return child(boards, "a", lambda: send(folder, plans["a"], address, ours, zero_s, size))

    def look(at_s: float, sender: int) -> None:
        time.sleep(zero_s + at_s - time.monotonic())
        given, accepted = _COUNTS.unpack_from(counts)
        resident = {"sender_kib": resident_kib(sender), "receiver_kib": resident_kib(receiver)}
        say(what="look", at_s=at_s, given=given, accepted=accepted, **resident)

    receiver, sender = receiving(), sending()
    for start_s, end_s in PASSES_S:
        look(start_s + 0.5, sender)
        look(start_s + KILLED_S, sender)
        os.kill(sender, signal.SIGKILL)
        os.waitpid(sender, 0)
        time.sleep(RESTART_S)
        sender = sending()
        look(start_s + KILLED_S + RESTART_S + 0.5, sender)
        if start_s == PASSES_S[1][0]:
            time.sleep(zero_s + start_s + RECEIVER_KILLED_S - time.monotonic())
            os.kill(receiver, signal.SIGKILL)
            os.waitpid(receiver, 0)
            time.sleep(RESTART_S)
            receiver = receiving()
        if end_s != PASSES_S[-1][1]:
            look(end_s - 0.1, sender)
    _, status = os.waitpid(sender, 0)
    os.waitpid(receiver, 0)
    given, accepted = _COUNTS.unpack_from(counts)
    crossed = received_bytes(boards.pids["b"]) - before
    say(what="done", given=given, accepted=accepted, crossed=crossed, status=status)
    link.tell(command="stop")
    link.until("stopped")
