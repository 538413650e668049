"""What runs gave: ``report``, ``compare``, ``runs``."""

from __future__ import annotations

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
    """Build a run's report.html again, and show its head."""
    from controller import console
    from controller.figures import read_figures
    from controller.privacy import privacy_lines
    from controller.report import summary, write_report
    from controller.rundir import RunDirectory

    directory = RunDirectory.find(run, runs_dir)
    path = write_report(directory)
    document = {"report": str(path), **summary(read_figures(directory))}
    if format_ is Format.JSON:
        console.emit_json(document)
    else:
        console.emit(*privacy_lines(document["privacy"]), *console.report_lines(str(path), document))


@command
def compare(
    first: RunArgument,
    second: RunArgument,
    accuracy: Annotated[float, typer.Option("--accuracy", help="Validation accuracy that both must reach.")] = 0.85,
    runs_dir: RunsOption = Path("runs"),
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show two runs side by side, and the mission time each needed to an accuracy."""
    from controller import console
    from controller.compare import compare as compared
    from controller.figures import read_figures
    from controller.rundir import RunDirectory

    both = [read_figures(RunDirectory.find(name, runs_dir)) for name in (first, second)]
    comparison = compared(both[0], both[1], accuracy)
    if format_ is Format.JSON:
        console.emit_json(comparison.to_dict())
    else:
        console.emit(*console.comparison_tables(comparison))


@command
def runs(runs_dir: RunsOption = Path("runs"), format_: FormatOption = Format.TABLE) -> None:
    """List all runs, oldest first."""
    from controller import console
    from controller.figures import read_figures
    from controller.rundir import list_runs

    rows = [console.run_row(read_figures(directory)) for directory in list_runs(runs_dir)]
    if format_ is Format.JSON:
        console.emit_json(rows)
    else:
        console.emit(console.runs_table(rows) if rows else f"no runs in {runs_dir}")
