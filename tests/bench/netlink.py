"""Link changes on a real kernel: what one tick of 64 links costs, and how late its changes are.

One boot of the stock guest kernel in real time; inside it this file is the script that measures.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from testbed.errors import RackError
from testbed.link.plan import LinkPlan, LinkState
from testbed.rack.kernel import find_guest_kernel
from testbed.rack.uml import run_in_guest
from tests.bench.row import Row

ROOT = Path(__file__).resolve().parents[2]
LINKS = 64
ROUNDS = 30
FASTER = 20.0
"""How many times faster than one call of a general library per change a prebuilt batch is to be."""
TURNS, TICKS, TICK_S = 2, 200, 0.02
START_S = 2.0
"""Beside a busy loop a player that is about to get its priority takes its time about it."""
CAPABILITIES = 41  # of Linux 6.1


def rows() -> Iterator[Row]:
    """Microseconds a change, prebuilt and by pyroute2, and their ratio; lateness with and without real-time priority
    beside a busy loop on the guest's one processor, with the host's load."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        code = run_in_guest(
            find_guest_kernel("real"),
            [sys.executable, str(Path(__file__).resolve())],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            binds=[ROOT],
            memory_mb=256,
            on_line=lines.append,
            log_path=log,
        )
        if code != 0:
            raise RackError(f"the guest's measurements ended with {code}:\n{log.read_text()}")
    for line in lines:
        yield Row(**json.loads(line))
    yield Row("host load while links changed, 1 min average", os.getloadavg()[0], "processes", None, None)


def _main() -> None:
    """Inside the guest."""
    from tests.agent.guest.boards import CAP_SYS_NICE, Boards, keep_capabilities

    boards = Boards(["a", "b"])
    for row in _cost(boards):
        _say(row)
    everything_else = set(range(CAPABILITIES)) - {CAP_SYS_NICE}
    prepare = {True: _nothing, False: lambda: keep_capabilities(*everything_else)}
    late_ms: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(TURNS):  # in turns: what the host does meanwhile falls on both
        for priority in late_ms:
            late_ms[priority] += _lateness(boards, priority, prepare[priority])
    for priority, values in late_ms.items():
        how = "SCHED_FIFO" if priority else "no real-time priority"
        for percent in (50, 99):
            value = sorted(values)[len(values) * percent // 100]
            _say(Row(f"lateness p{percent} beside a busy loop, {how} (guest)", value, "ms", None, None))


def _say(row: Row) -> None:
    print(json.dumps(vars(row)), flush=True)  # noqa: T201


def _nothing() -> None:
    return


def _cost(boards: Any) -> Iterator[Row]:
    from pyroute2 import IPRoute

    from agent.netem import FIRST_PEER_MINOR, NETEM_MAJOR, ROOT_HANDLE, Shaper
    from testbed.rack.netlink import inside

    names = [f"peer-{number:02}" for number in range(LINKS)]
    addresses = {name: f"10.78.0.{number}" for number, name in enumerate(names, start=100)}
    shaper = Shaper("data", addresses, boards.netns["a"])
    with inside(boards.netns["a"]):
        library = IPRoute()
    (index,) = library.link_lookup(ifname="data")
    shaper.install()

    def state(round_number: int, number: int) -> LinkState:
        # Whole microseconds and bytes: all that the library can say. Never twice the same.
        return LinkState(0.0, 5.0 + round_number / 100 + number / 1000, 8e6 + 8 * round_number, 0.0, 100 + number)

    def by_library(round_number: int) -> None:
        for number in range(LINKS):
            each = state(round_number, number)
            minor = FIRST_PEER_MINOR + number
            library.tc(
                "change",
                "netem",
                index,
                (NETEM_MAJOR + minor) << 16,
                parent=ROOT_HANDLE | minor,
                delay=round(each.delay_ms * 1e3),
                rate=round(each.rate_bps / 8),
                loss=0,
                limit=each.limit_packets,
            )

    def prove(round_number: int) -> None:
        found = shaper.read_back()
        for number, name in enumerate(names):
            wanted = state(round_number, number)
            have = found[name]
            # The library's delay goes in ticks of 64 ns.
            if abs(have.delay_ms - wanted.delay_ms) > 1e-4 or have.rate_bps != wanted.rate_bps:
                raise RackError(f"round {round_number}, {name}: {have} instead of {wanted}")

    batches = [
        shaper.encode([(name, state(number, place)) for place, name in enumerate(names)])
        for number in range(2 * ROUNDS + 1)
    ]
    shaper.send(batches[0])
    by_library(1)  # both ways once before they are timed
    took_us: dict[str, list[float]] = {"prebuilt": [], "library": []}
    for number in range(1, 2 * ROUNDS, 2):
        begun_s = time.perf_counter()
        shaper.send(batches[number])
        took_us["prebuilt"].append((time.perf_counter() - begun_s) * 1e6 / LINKS)
        prove(number)
        begun_s = time.perf_counter()
        by_library(number + 1)
        took_us["library"].append((time.perf_counter() - begun_s) * 1e6 / LINKS)
        prove(number + 1)
    library.close()
    shaper.clear()
    shaper.close()
    ours_us, theirs_us = (statistics.median(took_us[name]) for name in ("prebuilt", "library"))
    yield Row(f"link change, prebuilt batch of {LINKS} (netem, guest)", ours_us, "us", None, None)
    yield Row("link change, one pyroute2 call each (netem, guest)", theirs_us, "us", None, None)
    ratio = theirs_us / ours_us
    yield Row(f"link changes of one tick, {LINKS} links: batch against calls", ratio, "x", FASTER, ratio >= FASTER)


def _lateness(boards: Any, priority: bool, prepare: Callable[[], None]) -> list[float]:
    """Milliseconds, of every change of a plan of one change a tick that the player itself plays."""
    from tests.agent.guest.boards import Link

    states = tuple(LinkState(tick * TICK_S, 5.0 + tick % 7, 8e6, 0.0, 100) for tick in range(TICKS + 1))
    link = Link(boards, {"a": LinkPlan("a", {"b": states}).to_dict()}, prepare)
    link.until("installed")
    busy = os.fork()
    if busy == 0:
        while True:
            pass
    try:
        started = link.ask("started", command="start", mission_zero_monotonic_s=time.monotonic() + START_S)
        link.until("finished")
    finally:
        os.kill(busy, signal.SIGKILL)
        os.waitpid(busy, 0)
    if started["real_time_priority"] is not priority:
        raise RackError(f"real-time priority is {started['real_time_priority']}, wanted {priority}")
    link.tell(command="stop")
    link.until("stopped")
    os.waitpid(link.pid, 0)
    # The first state is applied before mission time 0.
    return [event["lateness_ms"] for event in link.seen if event["event"] == "change" and event["at_s"] > 0]


if __name__ == "__main__":
    _main()
