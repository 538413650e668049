"""Whether a host is fit: ``doctor``."""

from __future__ import annotations

from pathlib import Path

import typer

from controller.commands.base import command
from controller.commands.options import (
    Format,
    FormatOption,
    RunsOption,
)


@command
def doctor(runs_dir: RunsOption = Path("runs"), format_: FormatOption = Format.TABLE) -> None:
    """Say whether this host is fit, and what to do where it is not."""
    from controller import console
    from controller.doctor import diagnose, exit_code
    from controller.result_tables import doctor_table

    checks = diagnose(runs_dir)
    if format_ is Format.JSON:
        console.emit_json([check.to_dict() for check in checks])
    else:
        console.emit(doctor_table(checks))
    raise typer.Exit(int(exit_code(checks)))
