"""The ring all-gather by the satellites themselves, over fluid links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from testbed import registry
from testbed.clock import LoopClock
from testbed.link.plan import LinkPlan, LinkState
from testbed.mission import MissionPlan
from testbed.node.orders import Report
from testbed.node.satellite import Satellite
from testbed.rack.virtual_time import VirtualTimeLoop
from testbed.scenario import load_scenario
from testbed.transfer.chunks import Chunk
from testbed.transfer.fluid import FluidNetwork
from testbed.transfer.ring import gather_arrivals, gather_routes
from testbed.transfer.spool import Spool
from testbed.transfer.transport import PAYLOAD_SHARE

RATE_BPS, DELAY_S, CHUNK_BYTES = 1e6, 0.018, 2_048


class _Control:
    """Keeps what nodes note and report."""

    def __init__(self) -> None:
        self.noted: list[Report] = []
        self.reported: list[Report] = []

    async def report(self, report: Report) -> None:
        self.reported.append(report)

    def note(self, report: Report) -> None:
        self.noted.append(report)


def _plan(count: int) -> MissionPlan:
    ring = tuple(f"sat-0-{index}" for index in range(count))
    state = LinkState(0.0, DELAY_S * 1000, RATE_BPS, 0.0, 64)
    peers = {name: sorted({ring[(index + 1) % count], ring[index - 1]} - {name}) for index, name in enumerate(ring)}
    links = {name: LinkPlan(name, dict.fromkeys(peers[name], (state,))) for name in ring}
    scenario = load_scenario("demo", {"chunk": f"{CHUNK_BYTES} B"})
    return MissionPlan(scenario, (ring,), (), (), links, 0.0, 0.0)


class _Plane:
    """One plane's satellites in one loop."""

    def __init__(self, count: int) -> None:
        self.plan, self.control, clock = _plan(count), _Control(), LoopClock()
        network = FluidNetwork(self.plan.link_plans, clock)
        self.satellites: dict[str, Satellite] = {}
        self.accepted: list[tuple[str, Chunk]] = []
        for name in self.plan.satellites:
            self.satellites[name] = Satellite(
                name,
                "r",
                self.plan,
                registry.load("strategies", "onboard"),
                clock,
                network.attach(name, Spool("r", partial(self._accept, name))),
                self.control,
            )

    def _accept(self, name: str, peer: str, chunk: Chunk) -> None:
        self.accepted.append((name, chunk))
        self.satellites[name].accept(peer, chunk)

    def gather(self, payloads: dict[str, bytes]) -> tuple[dict[str, dict[str, bytes]], float]:
        """What every satellite holds at the end, and when the last one had it."""
        loop = VirtualTimeLoop()
        sizes = {name: len(payload) for name, payload in payloads.items()}

        async def one(name: str) -> dict[str, bytes]:
            return await self.satellites[name].gather("embedding", sizes, payloads[name])

        async def everybody() -> tuple[list[dict[str, bytes]], float]:
            held = await asyncio.gather(*(one(name) for name in self.satellites))
            ended_s = loop.time()
            await asyncio.sleep(60.0)  # acknowledgements
            for satellite in self.satellites.values():
                await satellite.stop()
            return held, ended_s

        held, ended_s = loop.run_until_complete(everybody())
        loop.close()
        return dict(zip(self.satellites, held, strict=True)), ended_s


SIZES: dict[str, Callable[[int], int]] = {
    "equal": lambda index: 10 * CHUNK_BYTES,
    "all kinds": lambda index: (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7, 25_000, 5, 0)[index],
    "nothing": lambda index: 0,
}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("sizes", SIZES, ids=list(SIZES))
def test_everybody_ends_with_everybodys_bytes(count: int, sizes: str) -> None:
    plane, dice = _Plane(count), np.random.default_rng(count)
    payloads = {name: dice.bytes(SIZES[sizes](i)) for i, name in enumerate(plane.satellites)}
    held, _ = plane.gather(payloads)
    assert plane.control.reported == []
    for name in plane.satellites:
        assert held[name] == payloads
    # Nobody got a chunk twice, and nobody one of its own.
    arrived = [(name, chunk.id) for name, chunk in plane.accepted]
    assert len(arrived) == len(set(arrived))
    assert all(chunk.id.origin != name for name, chunk in plane.accepted)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_it_takes_as_long_as_predicted(count: int) -> None:
    plane = _Plane(count)
    payloads = {name: bytes([i]) * 20 * CHUNK_BYTES for i, name in enumerate(plane.satellites)}
    _, took_s = plane.gather(payloads)
    rate_Bps = RATE_BPS * PAYLOAD_SHARE / 8  # noqa: N806
    blocks = dict.fromkeys(payloads, [CHUNK_BYTES] * 20)
    routes = partial(gather_routes, plane.plan.rings[0])
    predicted_s = max(gather_arrivals(routes, blocks, dict.fromkeys(payloads, 0.0), rate_Bps, DELAY_S).values())
    share = (count - 1) / 2 if count > 2 else 1
    busy_s = share * 20 * CHUNK_BYTES / rate_Bps
    # Not sooner than the links are busy; not later than predicted by more than a chunk on each hop.
    assert busy_s + DELAY_S - 1e-9 <= took_s
    assert took_s == pytest.approx(predicted_s, abs=(count // 2) * CHUNK_BYTES / rate_Bps)


def test_every_byte_that_moved_is_noted() -> None:
    plane = _Plane(5)
    payloads = {name: bytes(3_000) for name in plane.satellites}
    plane.gather(payloads)
    moved = sum(report.data["bytes"] for report in plane.control.noted if report.kind == "transfer")
    assert moved == 5 * 4 * 3_000  # K blocks, each to K - 1 others
