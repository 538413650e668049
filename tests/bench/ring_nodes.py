"""What one node of a ring's benchmark runs: our all-reduce over the product's data plane, or gloo's.

A node says "ready", and is then told, one line each, which case begins when; it answers with when it began and ended
by its kernel's clock, and whether the sum is right.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from testbed.link.plan import LinkPlan
from testbed.pki import Credentials

PERIOD = 13
SETTLE_S = 1.0
"""Nobody's server goes before everybody has hung up."""


@dataclass(frozen=True)
class Case:
    """One all-reduce, by ``side`` (a key of :data:`SIDES`), ``ways`` round the ring (gloo knows one)."""

    side: str
    ways: int
    dtype: str
    size_bytes: int
    sub_chunk_bytes: int

    def tensor(self, number: int) -> NDArray[Any]:
        """A node's own: small whole numbers, whose sum every dtype has exactly."""
        return self._filled((np.arange(PERIOD) + number) % PERIOD)

    def right(self, total: NDArray[Any], nodes: int) -> bool:
        """Whether ``total`` is everybody's sum."""
        expected = self._filled(np.sum([(np.arange(PERIOD) + number) % PERIOD for number in range(nodes)], axis=0))
        return total.dtype == expected.dtype and bool(np.array_equal(total, expected))

    def _filled(self, pattern: NDArray[Any]) -> NDArray[Any]:
        """The pattern again and again. A guest has little memory: no wider copy is made."""
        return np.resize(pattern.astype(self.dtype), self.size_bytes // np.dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class Plane:
    """What every node knows. ``device`` has the node's address in ``addresses``, in the order of the ring."""

    addresses: Mapping[str, str]
    device: str
    plans: Mapping[str, LinkPlan]
    credentials: Mapping[str, Credentials]
    folder: str

    @property
    def names(self) -> list[str]:
        """In the order of the ring."""
        return list(self.addresses)


def ours(plane: Plane, name: str, told: IO[bytes], say: Callable[[Any], None]) -> None:
    """Takes part until nothing more is told."""
    asyncio.run(_ours(plane, name, told, say))


async def _ours(plane: Plane, name: str, told: IO[bytes], say: Callable[[Any], None]) -> None:
    # gRPC's threads do not survive a fork: nothing of it is imported before.
    from testbed import rpc
    from testbed.clock import LoopClock
    from testbed.collective.journeys import BOTH_WAYS, ONE_WAY
    from testbed.collective.membership import form
    from testbed.collective.neighbours import ChunkNeighbours
    from testbed.collective.reduce import all_reduce
    from testbed.node.base import Mailbox
    from testbed.transfer.chunks import Chunk
    from testbed.transfer.spool import Spool
    from testbed.transfer.stream import ExchangeServer, StreamTransport

    credentials, mail = plane.credentials[name], Mailbox()
    server = rpc.data_server()
    exchange = ExchangeServer(name, Spool("bench", lambda peer, chunk: mail.put(chunk)))
    server.add_generic_rpc_handlers((exchange.handler(),))
    rpc.bind(server, plane.addresses[name], rpc.DATA_PORT, credentials)
    await server.start()
    say("listening")
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), told)
    await lines.readline()  # everybody listens
    transport = StreamTransport(
        name, plane.plans[name], plane.addresses, credentials, LoopClock(), lambda peer, why: None
    )
    await transport.open()
    say("ready")

    async def forward(chunk: Chunk) -> None:
        await transport.deliver(chunk.route[0], chunk, not_before_s=0.0, until_s=math.inf)

    membership = form(plane.names, lambda one, other: other in plane.plans[one].links)
    number = plane.names.index(name)
    round_number = 0
    while line := await lines.readline():
        begin_s, case = _parse(line)
        round_number += 1
        mail.drop(before_round=round_number)  # else everything that ever came would stay
        near = ChunkNeighbours(name, run="bench", round=round_number, tensor="adapter", forward=forward, mail=mail)
        own = case.tensor(number)
        await asyncio.sleep(begin_s - time.monotonic())
        begun_s = time.monotonic()
        total = await all_reduce(
            near, membership, "t", own, ways={1: ONE_WAY, 2: BOTH_WAYS}[case.ways], sub_chunk_bytes=case.sub_chunk_bytes
        )
        ended_s = time.monotonic()
        say((begun_s, ended_s, case.right(total, len(plane.names))))
    await transport.close()
    await asyncio.sleep(SETTLE_S)
    await server.stop(grace=0)


def gloo(plane: Plane, name: str, told: IO[bytes], say: Callable[[Any], None]) -> None:
    """The same by torch.distributed."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = plane.device
    number, count = plane.names.index(name), len(plane.names)
    say("listening")
    told.readline()
    dist.init_process_group("gloo", init_method=f"file://{plane.folder}/store", rank=number, world_size=count)
    dist.barrier()  # every rank is connected with every other
    say("ready")
    while line := told.readline():
        begin_s, case = _parse(line)
        total = torch.from_numpy(case.tensor(number))
        time.sleep(max(0.0, begin_s - time.monotonic()))
        begun_s = time.monotonic()
        dist.all_reduce(total)
        ended_s = time.monotonic()
        say((begun_s, ended_s, case.right(total.numpy(), count)))
    os._exit(0)  # gloo's destructors abort when a peer has gone first


def _parse(line: bytes) -> tuple[float, Case]:
    begin_s, case = json.loads(line)
    return begin_s, Case(**case)


SIDES: dict[str, Callable[[Plane, str, IO[bytes], Callable[[Any], None]], None]] = {"ours": ours, "gloo": gloo}
