"""Inside a guest: a sender keeps a link busy through contacts with gaps of argv[1] seconds between them (argv[2] of
them), every one with another delay and all of them cut while bytes were under way.

Argument 3 is ``demo`` or ``fast``: the link's rate. Says, by contact, when the receiver took its first byte; how many
bytes came in all; and how many frames came that were made for an earlier contact.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from typing import Any

from testbed.clock import KernelClock
from testbed.errors import LinkClosed
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.pki import Credentials, RunAuthority
from testbed.rack.netlink import inside
from tests.agent.guest.boards import Boards, Link, say

RATES_BPS = {"demo": 3.5e6, "fast": 100e6}
DELAYS_MS = (5.0, 10.0, 15.0, 20.0)
CONTACT_S = 3.0
FIRST_S = 5.0
CHUNK_BYTES = 256 << 10
WORKERS = 3
"""Chunks that wait for the link at any time: it is never idle by the sender's fault."""


def windows(gap_s: float, contacts: int) -> list[tuple[float, float]]:
    """Mission seconds."""
    return [(FIRST_S + i * (gap_s + CONTACT_S), FIRST_S + i * (gap_s + CONTACT_S) + CONTACT_S) for i in range(contacts)]


def states(when: list[tuple[float, float]], rate_bps: float) -> tuple[LinkState, ...]:
    """The same both ways."""
    found = [LinkState(0.0, DELAYS_MS[0], 0.0, 0.0, 64)]
    for number, (start_s, end_s) in enumerate(when):
        delay_ms = DELAYS_MS[number % len(DELAYS_MS)]
        found.append(LinkState(start_s, delay_ms, rate_bps, 0.0, queue_limit_packets(rate_bps, delay_ms)))
        found.append(LinkState(end_s, delay_ms, 0.0, 0.0, 64))
    return tuple(found)


async def receive(address: str, credentials: Credentials, zero_s: float, when: list[tuple[float, float]]) -> None:
    """Serve until the last contact has ended, then say what came."""
    from testbed import rpc
    from testbed.transfer.chunks import Chunk
    from testbed.transfer.spool import Spool
    from testbed.transfer.stream import ExchangeServer

    first: dict[int, float] = {}
    heard: dict[int, float] = {}
    stale, got, chunks = 0, 0, 0

    def accepted(peer: str, chunk: Chunk) -> None:
        nonlocal chunks
        chunks += 1

    class Noting(Spool):
        def offer(self, header: dict[str, Any]) -> int:
            self._note(heard)
            return super().offer(header)

        def write(self, peer: str, header: dict[str, Any], offset: int, data: Any) -> bool:
            nonlocal stale, got
            contact = self._note(first)
            got += len(data)
            stale += header["contact_end_s"] != when[contact][1]
            return super().write(peer, header, offset, data)

        def _note(self, times: dict[int, float]) -> int:
            now_s = time.monotonic() - zero_s
            contact = max(i for i, (start_s, _) in enumerate(when) if start_s <= now_s)
            times.setdefault(contact, now_s - when[contact][0])
            return contact

    server = rpc.data_server()
    server.add_generic_rpc_handlers((ExchangeServer("b", Noting("r", accepted)).handler(),))
    rpc.bind(server, address, rpc.DATA_PORT, credentials)
    await server.start()
    await asyncio.sleep(zero_s + when[-1][1] + 1.0 - time.monotonic())
    say(
        what="received",
        contacts=[
            {
                "rtt_ms": 2 * DELAYS_MS[i % len(DELAYS_MS)],
                "first_ms": None if i not in first else first[i] * 1e3,
                "heard_ms": None if i not in heard else heard[i] * 1e3,
            }
            for i in range(len(when))
        ],
        stale=stale,
        bytes=got,
        chunks=chunks,
    )
    await server.stop(grace=0)


async def send(plan: LinkPlan, address: str, credentials: Credentials, zero_s: float) -> None:
    """Chunks without end, each again in the next contact where one cut it."""
    from testbed.transfer.chunks import split
    from testbed.transfer.stream import StreamTransport

    clock = KernelClock()
    clock.start(zero_s)
    breaks: list[str] = []
    transport = StreamTransport("a", plan, {"b": address}, credentials, clock, lambda peer, why: breaks.append(why))
    await transport.open()
    numbers = iter(range(1 << 30))
    payload = os.urandom(CHUNK_BYTES)

    async def work() -> None:
        for number in numbers:
            (chunk,) = split(payload, CHUNK_BYTES, run="r", round=number, phase="up", origin="a", tensor="embedding")
            while True:
                start_s, end_s = next((w for w in plan.windows("b") if w[1] > clock.now()), (0.0, 0.0))
                if end_s == 0.0:
                    return
                with suppress(LinkClosed):
                    await clock.sleep_until(start_s)
                    await transport.deliver(
                        "b", chunk.along(("b",)).within("b", end_s), not_before_s=start_s, until_s=end_s
                    )
                    break

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    say(what="sent", breaks=breaks, counts=dict(getattr(transport, "counts", {})))
    await transport.close()


def child(boards: Boards, node: str) -> int:
    """Fork into the node's namespace; 0 in the child, which stays there."""
    pid = os.fork()
    if pid == 0:
        inside(boards.netns[node]).__enter__()
    return pid


if __name__ == "__main__":
    gap_s, contacts, rate_bps = float(sys.argv[1]), int(sys.argv[2]), RATES_BPS[sys.argv[3]]
    boards = Boards(["a", "b"])
    when = windows(gap_s, contacts)
    plans = {node: LinkPlan(node, {peer: states(when, rate_bps)}) for node, peer in (("a", "b"), ("b", "a"))}
    authority = RunAuthority("r")
    link = Link(boards, {node: plan.to_dict() for node, plan in plans.items()})
    link.until("installed")
    begun_s = time.monotonic()
    zero_s = begun_s + 20.0
    link.ask("started", command="start", mission_zero_monotonic_s=zero_s)
    address, ours, theirs = boards.address("b"), authority.issue("a"), authority.issue("b")
    pids = [child(boards, "b")]
    if pids[0] == 0:
        asyncio.run(receive(address, theirs, zero_s, when))
        os._exit(0)
    pids.append(child(boards, "a"))
    if pids[1] == 0:
        asyncio.run(send(plans["a"], address, ours, zero_s))
        os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    link.tell(command="stop")
    link.until("stopped")
