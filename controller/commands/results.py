"""What runs gave: ``report``, ``compare``, ``runs``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from controller.commands.base import command
from controller.commands.options import (
    Format,
    FormatOption,
    RunArgument,
    RunsOption,
)


@command
def report(run: RunArgument, runs_dir: RunsOption = Path("runs"), format_: FormatOption = Format.TABLE) -> None:
    """Build a run's report.html again, and show its head; of a run with --seeds what all seeds gave."""
    from controller import console
    from controller.figures import read_figures
    from controller.privacy import privacy_lines
    from controller.report import summary, write_report
    from controller.result_tables import report_lines
    from controller.rundir import RunDirectory
    from controller.summary import summary_tables, write_summary
    from controller.sweep import Sweep

    sweep = Sweep.find(run, runs_dir)
    if sweep is not None:
        document = write_summary(sweep)
        tables = summary_tables(document)
    else:
        directory = RunDirectory.find(run, runs_dir)
        path = write_report(directory)
        document = {"report": str(path), **summary(read_figures(directory))}
        tables = chain(privacy_lines(document["privacy"]), report_lines(str(path), document))
    if format_ is Format.JSON:
        console.emit_json(document)
    else:
        console.emit(*tables)


@command
def compare(
    first: RunArgument,
    second: RunArgument,
    accuracy: Annotated[float, typer.Option("--accuracy", help="Validation accuracy that both must reach.")] = 0.85,
    runs_dir: RunsOption = Path("runs"),
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show two runs side by side, and the mission time each needed to an accuracy; of runs with --seeds by seed."""
    from controller import console
    from controller.compare import compare as compared
    from controller.figures import read_figures
    from controller.pairs import Side, compare_sides, paired_tables
    from controller.result_tables import comparison_tables
    from controller.rundir import RunDirectory
    from controller.sweep import Sweep

    if any(Sweep.find(name, runs_dir) for name in (first, second)):
        sides = [Side.find(name, runs_dir) for name in (first, second)]
        paired = compare_sides(sides[0], sides[1], accuracy)
        document, tables = paired.to_dict(), paired_tables(paired)
    else:
        both = [read_figures(RunDirectory.find(name, runs_dir)) for name in (first, second)]
        comparison = compared(both[0], both[1], accuracy)
        document, tables = comparison.to_dict(), comparison_tables(comparison)
    if format_ is Format.JSON:
        console.emit_json(document)
    else:
        console.emit(*tables)


@command
def runs(runs_dir: RunsOption = Path("runs"), format_: FormatOption = Format.TABLE) -> None:
    """List all runs, oldest first."""
    from controller import console
    from controller.figures import read_figures
    from controller.result_tables import run_row, runs_table
    from controller.rundir import list_runs

    rows = [run_row(read_figures(directory)) for directory in list_runs(runs_dir)]
    if format_ is Format.JSON:
        console.emit_json(rows)
    else:
        console.emit(runs_table(rows) if rows else f"no runs in {runs_dir}")
