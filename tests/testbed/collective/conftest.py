"""Planes to run collectives on: one whose messages are late and out of order, and one of fluid links."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from testbed.clock import LoopClock
from testbed.collective.membership import Membership
from testbed.collective.neighbours import ChunkNeighbours, Neighbours
from testbed.link.plan import LinkPlan, LinkState
from testbed.node.base import Mailbox
from testbed.rack.virtual_time import VirtualTimeLoop
from testbed.transfer.chunks import Chunk
from testbed.transfer.fluid import FluidNetwork
from testbed.transfer.spool import Spool
from testbed.transfer.transport import Transport

Work = Callable[[Neighbours], Awaitable[Any]]
Everybody = Callable[..., tuple[dict[str, Any], float]]


def _fly(membership: Membership, ends: dict[str, Neighbours], work: Work) -> tuple[dict[str, Any], float]:
    """Everybody's result by name, and when the last one was through (loop time, from 0)."""

    async def all_of_them() -> tuple[list[Any], float]:
        nodes = [asyncio.ensure_future(work(ends[name])) for name in membership.members]
        try:
            results = await asyncio.gather(*nodes)
        finally:
            for node in nodes:
                node.cancel()
            await asyncio.gather(*nodes, return_exceptions=True)
            left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"
        return results, asyncio.get_running_loop().time()

    loop = VirtualTimeLoop()
    try:
        results, took_s = loop.run_until_complete(all_of_them())
    finally:
        loop.close()
    return dict(zip(membership.members, results, strict=True)), took_s


class _Post:
    """Messages between all nodes, delivered after random times; only between nodes that are linked."""

    def __init__(self, membership: Membership, seed: int) -> None:
        self._dice = random.Random(seed)
        self._boxes: dict[tuple[str, str, str, int], asyncio.Future[bytes]] = {}
        members = membership.members
        pairs = list(zip(members, members[1:], strict=False))
        pairs += [(members[-1], members[0])] if membership.closed else []
        self._linked = {frozenset(pair) for pair in pairs}

    def box(self, sender: str, receiver: str, tag: str, index: int) -> asyncio.Future[bytes]:
        assert frozenset((sender, receiver)) in self._linked
        assert "/" not in tag
        key = (sender, receiver, tag, index)
        return self._boxes.setdefault(key, asyncio.get_running_loop().create_future())

    async def late(self) -> None:
        await asyncio.sleep(self._dice.expovariate(1.0))


class _Shuffled:
    def __init__(self, name: str, post: _Post) -> None:
        self.name = name
        self._post = post

    async def send(self, peer: str, tag: str, index: int, payload: bytes) -> None:
        await self._post.late()
        self._post.box(self.name, peer, tag, index).set_result(payload)  # fails if sent twice
        await self._post.late()

    async def receive(self, peer: str, tag: str, index: int) -> bytes:
        return await asyncio.shield(self._post.box(peer, self.name, tag, index))


@pytest.fixture(scope="session")
def shuffled() -> Everybody:
    """``shuffled(membership, work, seed)``: what ``work(neighbours)`` gives every member, and the time it took."""

    def run(membership: Membership, work: Work, seed: int) -> tuple[dict[str, Any], float]:
        post = _Post(membership, seed)
        return _fly(membership, {name: _Shuffled(name, post) for name in membership.members}, work)

    return run


def _keep(mail: Mailbox, peer: str, chunk: Chunk) -> None:
    mail.put(chunk)


def _deliver(transport: Transport, chunk: Chunk) -> Awaitable[Any]:
    return transport.deliver(chunk.route[0], chunk, not_before_s=0.0, until_s=math.inf)


@pytest.fixture(scope="session")
def fluid() -> Everybody:
    """``fluid(membership, work, rate_bps, delay_s)``: the same over the rack's fluid links, as chunks."""

    def run(membership: Membership, work: Work, rate_bps: float, delay_s: float) -> tuple[dict[str, Any], float]:
        state = LinkState(0.0, delay_s * 1000, rate_bps, 0.0, 64)
        names = membership.members
        plans = {name: LinkPlan(name, {peer: (state,) for peer in names if peer != name}) for name in names}
        network = FluidNetwork(plans, LoopClock())
        ends: dict[str, Neighbours] = {}
        for name in names:
            mail = Mailbox()
            transport = network.attach(name, Spool("r", partial(_keep, mail)))
            ends[name] = ChunkNeighbours(
                name, run="r", round=1, tensor="head", forward=partial(_deliver, transport), mail=mail
            )
        return _fly(membership, ends, work)

    return run
