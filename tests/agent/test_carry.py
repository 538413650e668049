"""What a station's agent acknowledged reaches the satellite, whenever the agent is killed: 200 MB over three passes of
the processes a rack runs, each killed in the middle of passes and started again without a controller."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.planner import make_plan
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.mission import MissionPlan
from testbed.rack.kernel import GuestKernel
from testbed.scenario import load_scenario
from testbed.transfer.chunks import ChunkId
from testbed.transfer.store import INCOMING, ChunkStore
from tests.agent.guest.carry import CHUNK_BYTES, GROUND, PASSES_S, SATELLITE, STATION, payload

pytestmark = [pytest.mark.guest, pytest.mark.slow]

SIZE_BYTES = 200_000_000
RATE_BPS = 100e6
DELAY_MS = 10.0
INTERRUPTIONS = 2 * len(PASSES_S)  # a kill in every pass, the ends of all but the last, and the satellite's death
HEADERS = 0.008
"""Of the payload, as tests/agent/test_restart.py measured them."""
GROWTH_KIB = 48 << 10
"""What a process may grow by after its start: what the same transfer took without a node (32 MiB in
tests/agent/test_restart.py), and the 16 MiB of recent chunks that an agent keeps in memory."""


def _up(start_s: float) -> LinkState:
    return LinkState(start_s, DELAY_MS, RATE_BPS, 0.0, queue_limit_packets(RATE_BPS, DELAY_MS))


def _mission() -> MissionPlan:
    """The demo's nodes, with three passes of one satellite, and a backhaul that is always up."""
    plan = make_plan(load_scenario("demo", {"learning.rounds": "1"}), "collaborative")
    passes = [LinkState(0.0, DELAY_MS, 0.0, 0.0, 64)]
    for start_s, end_s in PASSES_S:
        passes += [_up(start_s), LinkState(end_s, DELAY_MS, 0.0, 0.0, 64)]
    links: dict[str, dict[str, tuple[LinkState, ...]]] = {
        GROUND: {STATION: (_up(0.0),)},
        STATION: {GROUND: (_up(0.0),), SATELLITE: tuple(passes)},
        SATELLITE: {STATION: tuple(passes)},
    }
    changed = {name: LinkPlan(name, peers) for name, peers in links.items()}
    return replace(plan, link_plans={**plan.link_plans, **changed})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("carry")
    yield folder
    shutil.rmtree(folder)  # 200 MB that pytest would keep


@pytest.fixture(scope="module")
def lines(
    guest_script: Callable[..., list[dict[str, Any]]], time_travel_kernel: GuestKernel, folder: Path
) -> list[dict[str, Any]]:
    (folder / "plan.json").write_text(_mission().to_json())
    return guest_script(time_travel_kernel, "carry.py", str(folder), str(SIZE_BYTES), binds=[folder], memory_mb=1024)


def _line(lines: list[dict[str, Any]], what: str) -> dict[str, Any]:
    return next(line for line in lines if line["what"] == what)


def test_it_was_all_handed_over_before_the_first_pass(lines: list[dict[str, Any]]) -> None:
    assert _line(lines, "handed over")["at_s"] < PASSES_S[0][0]
    assert _line(lines, "done")["handed_over"] == 0


def test_it_arrives_intact_in_the_third_pass(lines: list[dict[str, Any]], folder: Path) -> None:
    assert lines
    store = ChunkStore("r", memory_bytes=0, folder=folder / SATELLITE / "chunks")
    arrived, made = hashlib.sha256(), hashlib.sha256()
    keys = sorted(store.held(INCOMING), key=lambda key: ChunkId.parse(store.header(key)["id"]).index)
    for index, key in enumerate(keys):
        chunk = store.chunk(key)
        assert chunk.id == ChunkId("r", 1, "down", SATELLITE, "feature", index)
        arrived.update(chunk.payload)
    for index in range(-(-SIZE_BYTES // CHUNK_BYTES)):
        made.update(payload(index, SIZE_BYTES))
    store.close()
    assert arrived.hexdigest() == made.hexdigest()
    crossed = [line["crossed"] for line in lines if line["what"] == "pass"]
    assert crossed[1] < SIZE_BYTES  # or the third pass would have had nothing to do


def test_under_a_chunk_is_sent_again_per_interruption(lines: list[dict[str, Any]]) -> None:
    crossed = _line(lines, "done")["crossed"]
    assert SIZE_BYTES < crossed < SIZE_BYTES * (1 + HEADERS) + INTERRUPTIONS * CHUNK_BYTES


def test_the_station_keeps_nothing_of_what_it_handed_on(lines: list[dict[str, Any]], folder: Path) -> None:
    assert lines
    store = ChunkStore("r", memory_bytes=0, folder=folder / STATION / "chunks")
    assert (store.held(INCOMING), store.damaged) == ([], 0)
    store.close()


def test_nobody_asked_the_controller_for_help(lines: list[dict[str, Any]]) -> None:
    assert [line for line in lines if line["what"] == "urgent"] == []


@pytest.mark.parametrize("node", [STATION, SATELLITE])
def test_memory_does_not_grow_with_the_transfer(lines: list[dict[str, Any]], node: str) -> None:
    resident = [line[node] for line in lines if line["what"] == "look"]
    assert len(resident) == 13
    assert max(resident) - resident[0] < GROWTH_KIB
