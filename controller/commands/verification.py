"""Whether what is trained is trained right: ``verify``."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from controller.commands.base import command
from controller.commands.options import (
    Format,
    FormatOption,
    ModeOption,
    ScenarioArgument,
    SeedOption,
    SetOption,
    read_scenario,
)
from testbed.errors import ExitCode

CheckOption = Annotated[
    list[str] | None, typer.Option("--check", metavar="NAME", help="Only this check; may be repeated.")
]


@command
def verify(
    scenario: ScenarioArgument,
    check: CheckOption = None,
    mode: ModeOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Prove on a scenario's own model and data that split training, sums and averages are right."""
    from controller import console
    from controller.result_tables import verdict_table
    from controller.verification import verify as verified
    from testbed.scenario import blaming

    read = read_scenario(scenario, set_, mode=mode, seed=seed)
    verdicts = []
    with blaming(read):
        begun = time.monotonic()
        for verdict in verified(read, check or ()):
            took_s, begun = time.monotonic() - begun, time.monotonic()
            sys.stderr.write(f"skyrack: {verdict.name}: {'ok' if verdict.ok else 'NOT OK'} ({took_s:.0f} s)\n")
            verdicts.append(verdict)
    if format_ is Format.JSON:
        console.emit_json({"checks": [verdict.to_dict() for verdict in verdicts]})
    else:
        console.emit(verdict_table(verdicts))
    raise typer.Exit(int(ExitCode.DONE if all(verdict.ok for verdict in verdicts) else ExitCode.RUN))
