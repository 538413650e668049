"""All-reduce round a ring of eight nodes over links of 25 Mbit/s: the product's, against its own bound and gloo.

Each node is a process in a network namespace of its own. The product's side is its data plane: gRPC with mutual TLS,
chunks with their digests, acknowledgements. gloo's is plain TCP, on the same links, tensor and dtype.

Two kernels. In a time-travel guest links are those of a rack (netem: rate and delay, cubic), and processor time does
not count; loops that spin would keep it for ever, and are made to yield, on both sides (ring_yield.c). On this host's
kernel (root) namespaces are joined to a ring by veth pairs with tbf (a rate, no delay, reno), and processor time
counts: sixteen streams on what cores there are.

The bound is the forecast's closed form without delay: 2(K-1) M/(K B), halved both ways, M in bytes as they travel (a
float32 sum under way is float64) and B what TCP can carry: 1448 of the 1514 octets of each frame. It counts nothing of
TLS, gRPC, chunk headers or acknowledgements, nor a delay.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testbed.collective.forecast import Links, reduce_s
from testbed.collective.journeys import BOTH_WAYS, ONE_WAY
from testbed.collective.membership import Membership
from testbed.collective.neighbours import SUB_CHUNK_BYTES
from testbed.collective.reduce import Sum
from testbed.errors import RackError
from testbed.rack.kernel import find_guest_kernel
from testbed.rack.uml import GUEST_ENVIRONMENT, run_in_guest
from tests.bench.ring_nodes import Case
from tests.bench.row import Row

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("ring_plane.py")
YIELD = Path(__file__).with_name("ring_yield.c")
NODES, RATE_BPS, SIZE_BYTES = 8, 25e6, 8_000_000
GOODPUT_SHARE = 1448 / 1514
DTYPES = ("int32", "float64", "float32")
WAYS = {1: ONE_WAY, 2: BOTH_WAYS}
WORDS = {1: "one way", 2: "both ways"}
SHARE_GOALS = {1: 0.93, 2: 0.88}
GLOO_GOAL = 1.7
"""Of sums that travel as they are. A float32's travel as float64: 1.36 times gloo's bytes, so that twice the links give
1.47 at best."""
MEMORY_MB = 2400


@dataclass(frozen=True)
class Kernel:
    """Where it is measured: what ring_plane calls it, what rows call it, its links' delay, and rounds of each case."""

    key: str
    name: str
    delay_ms: float
    rounds: int

    def arguments(self, cases: Sequence[Case]) -> list[str]:
        """The command that prints the cases' seconds."""
        numbers = (RATE_BPS, self.delay_ms, NODES, self.rounds)
        listed = json.dumps([vars(case) for case in cases])
        return [sys.executable, str(PROGRAM), self.key, *map(str, numbers), listed]


GUEST = Kernel("guest", "time-travel UML", 10.0, 3)
HOST = Kernel("host", "host namespaces", 0.0, 3)


def rows() -> Iterator[Row]:
    """Shares of the bound one way and both ways, gloo's too, and how much faster than gloo both ways are."""
    if os.geteuid() == 0:
        yield from _on(HOST)
    else:
        yield Row("ring all-reduce, host namespaces: left out, it needs root", 0, "", None, None)
    if find_guest_kernel("auto").time_travel:
        yield from _on(GUEST)
    else:
        yield Row("ring all-reduce, time-travel UML: left out, there is no such kernel", 0, "", None, None)


def bound_s(dtype: str, ways: int) -> float:
    """Least seconds of :data:`SIZE_BYTES`."""
    membership = Membership(tuple(f"sat-0-{number}" for number in range(NODES)), True)
    total = Sum(membership, np.zeros(1, dtype))
    links = Links(RATE_BPS / 8 * GOODPUT_SHARE, 0.0)
    return reduce_s(total, SIZE_BYTES // np.dtype(dtype).itemsize, links, WAYS[ways])


def _on(kernel: Kernel) -> Iterator[Row]:
    delay = f", {kernel.delay_ms:g} ms" if kernel.delay_ms else ""
    where = f"{kernel.name}, {NODES} x {RATE_BPS / 1e6:g} Mbit/s{delay}, {SIZE_BYTES / 1e6:g} MB"
    kinds = [(dtype, ways) for ways in WAYS for dtype in DTYPES]
    mine_s = dict(zip(kinds, _measured(kernel, [_case("ours", *kind) for kind in kinds]), strict=True))
    gloos_s = dict(zip(DTYPES, _measured(kernel, [_case("gloo", dtype, 1) for dtype in DTYPES]), strict=True))
    for (dtype, ways), took_s in mine_s.items():
        name = f"ring all-reduce {dtype} {WORDS[ways]}: share of its bound, {where}"
        yield _row(name, [bound_s(dtype, ways) / each for each in took_s], "ratio", SHARE_GOALS[ways])
    for dtype, took_s in gloos_s.items():
        # gloo sends every dtype as it is: the bound of one that the product sends so too.
        shares = [bound_s("int32", 1) / each for each in took_s]
        yield _row(f"gloo's all-reduce {dtype}: share of its bound, {where}", shares, "ratio", None)
    for ways in (2, 1):
        for dtype in DTYPES:
            gloo_s = statistics.median(gloos_s[dtype])
            ratios = [gloo_s / each for each in mine_s[dtype, ways]]
            goal = GLOO_GOAL if ways == 2 and dtype != "float32" else None
            like = " (its sums travel as float64, gloo's do not)" if dtype == "float32" else ""
            yield _row(f"ring all-reduce {dtype} {WORDS[ways]} against gloo{like}: speed, {where}", ratios, "x", goal)


def _row(name: str, values: Sequence[float], unit: str, goal: float | None) -> Row:
    """The median; the name says how far the rounds lie apart."""
    value = statistics.median(values)
    spread = f"{len(values)} rounds, {min(values):.3f} to {max(values):.3f}"
    return Row(f"{name} ({spread})", value, unit, goal, None if goal is None else value >= goal)


def _case(side: str, dtype: str, ways: int) -> Case:
    return Case(side, ways, dtype, SIZE_BYTES, SUB_CHUNK_BYTES)


def _measured(kernel: Kernel, cases: Sequence[Case]) -> list[list[float]]:
    """Seconds of every round, by case."""
    environment = {**os.environ, **GUEST_ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = kernel.arguments(cases)
    if kernel is GUEST:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "ring_yield.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(YIELD), "-ldl"], check=True)
            lines = _in_guest(command, {**environment, "LD_PRELOAD": str(library)}, Path(folder))
    else:
        # Whatever becomes of the one that tells them, nodes end with their process namespace.
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
        done = subprocess.run(apart, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        lines = done.stdout.splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [each["took_s"] for each in found]


def _in_guest(command: Sequence[str], environment: dict[str, str], folder: Path) -> list[str]:
    lines: list[str] = []
    log = folder / "log"
    code = run_in_guest(
        find_guest_kernel("auto"),
        command,
        cwd=ROOT,
        env=environment,
        binds=[ROOT, folder],
        memory_mb=MEMORY_MB,
        on_line=lines.append,
        log_path=log,
    )
    if code != 0:
        raise RackError(f"the guest's measurements ended with {code}:\n{log.read_text()}")
    return lines
