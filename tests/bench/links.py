"""Link plans of a mega-constellation: how their cost grows, and what they weigh."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from testbed.link.budget import ConstantBudget
from testbed.link.compile import Budgets, Tolerance, compile_link_plans
from testbed.orbit.orbits import open_orbits
from testbed.orbit.topology import PlusGrid
from tests.bench.row import Row

EPOCH = datetime(2026, 6, 1, tzinfo=timezone.utc)
HORIZON_S = 3600.0
SHELLS = ("D:550:53.0:396/18/4", "D:550:53.0:792/36/8", "D:550:53.0:1584/72/17")
LINEAR = 1.3
"""How much more a link of the largest grid may cost than one of the smallest."""


def rows() -> Iterator[Row]:
    """CPU seconds and bytes a link for +grids of 396, 792 and 1584 satellites, one hour, 0.1 ms."""
    costs_ms: list[float] = []
    for code in SHELLS:
        begun_s = time.process_time()
        orbits = open_orbits(code, Path(), EPOCH, HORIZON_S)
        links = PlusGrid().links(orbits, HORIZON_S)
        plans = compile_link_plans(
            motion=orbits.motion,
            stations=(),
            contacts=(),
            isl_links=links,
            budgets=Budgets(ConstantBudget(100e6), {}, {}, ConstantBudget(1e9)),
            ground_name="ground",
            backhaul_delay_ms=10.0,
            tolerance=Tolerance(0.1, 0.01),
            duration_s=HORIZON_S,
        )
        took_s = time.process_time() - begun_s
        directed = sum(len(plan.links) for plan in plans.values())
        size = sum(len(json.dumps(plan.to_dict(), separators=(",", ":"))) for plan in plans.values())
        states = sum(len(states) for plan in plans.values() for states in plan.links.values())
        costs_ms.append(took_s / directed * 1e3)
        name = f"link plans, {len(orbits.motion.names)} satellites, {directed} directed links, 1 h"
        yield Row(name, took_s, "CPU s", None, None)
        yield Row(f"{name}: bytes a link", size / directed, f"B ({states / directed:.0f} states)", None, None)
    growth = costs_ms[-1] / costs_ms[0]
    yield Row("link plans: cost of a link, 1584 satellites against 396", growth, "ratio", LINEAR, growth <= LINEAR)
