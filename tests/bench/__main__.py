"""Measure speeds: ``python -m tests.bench [NAME...]`` prints a table and writes build/bench.json.

Never collected by pytest, and no run fails because a figure misses its mark: a busy host is not a defect.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.row import Row

MODULES = ("orbit", "links", "netlink", "flow", "transfer", "ring", "learning")
"""Modules beside this one with a function ``rows() -> Iterator[Row]``."""

RESULT = Path(__file__).parents[2] / "build" / "bench.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure speeds against named peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure (all of: {', '.join(MODULES)})")
    chosen = parser.parse_args(arguments).names or list(MODULES)
    unknown = sorted(set(chosen) - set(MODULES))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(MODULES)}")

    console = Console()
    found: list[Row] = []
    with console.status("") as status:
        for name in chosen:
            status.update(f"{name} ...")
            for row in importlib.import_module(f"tests.bench.{name}").rows():
                found.append(row)
                status.update(f"{name}: {row.name}")
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    console.print(_table(found))


def _table(found: Sequence[Row]) -> Table:
    table = Table("measured", "value", "unit", "goal", "")
    for column in (1, 3):
        table.columns[column].justify = "right"
    verdicts = {True: "[green]reached", False: "[red]missed", None: ""}
    for row in found:
        value = f"{row.value:.4g}" if abs(row.value) < 1e4 else f"{row.value:,.0f}"
        table.add_row(row.name, value, row.unit, "" if row.goal is None else f"{row.goal:g}", verdicts[row.ok])
    return table


if __name__ == "__main__":
    main()
