"""``run``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.commands.base import command
from controller.commands.options import (
    Format,
    FormatOption,
    ModeOption,
    Rack,
    RoundsOption,
    RunsOption,
    ScenarioArgument,
    SchedulerOption,
    SeedOption,
    SetOption,
    StrategyOption,
    Time,
    read_scenario,
    warn,
)
from testbed.errors import Interrupted
from testbed.registry import DEFAULT_SCHEDULER


@command
def run(
    scenario: ScenarioArgument,
    rack: Annotated[Rack, typer.Option("--rack", help="Where nodes run.")] = Rack.AUTO,
    time: Annotated[
        Time, typer.Option("--time", help="real: no time-travel kernel, even where there is one.")
    ] = Time.AUTO,
    strategy: StrategyOption = "collaborative",
    scheduler: SchedulerOption = DEFAULT_SCHEDULER,
    mode: ModeOption = None,
    seed: SeedOption = None,
    rounds: RoundsOption = None,
    set_: SetOption = None,
    runs_dir: RunsOption = Path("runs"),
    format_: FormatOption = Format.TABLE,
) -> None:
    """Run a scenario, and keep everything about it in a run directory."""
    from controller import console, live
    from controller.breakeven import with_break_even
    from controller.experiment import Choice, run_experiment
    from controller.planner import make_plan
    from controller.report import write_report
    from controller.rundir import RunDirectory
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    with stoppable() as stop:
        read = read_scenario(scenario, set_, mode=mode, seed=seed, rounds=rounds)
        with blaming(read):
            sky = open_sky(read)
            warn(sky.orbits.warnings)
            made = with_break_even(make_plan(read, strategy, scheduler, sky), scheduler)
        directory = RunDirectory.create(runs_dir, made.scenario.name)
        choice = Choice(rack.value, time.value, scheduler)
        try:
            with live.watch(made) as observe:

                def on_event(event: dict[str, Any]) -> None:
                    observe(event)
                    if stop.is_set():
                        raise Interrupted("stopped")

                result = run_experiment(made, directory, choice, on_event, stop)
        except BaseException:
            sys.stderr.write(f"skyrack: what was done until then is in {directory.path}\n")
            raise
        write_report(directory)
    if format_ is Format.JSON:
        console.emit_json(result)
    else:
        console.emit(*console.result_table(result))
        sys.stdout.write(f"{directory.path}\n")


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, for orderly teardown; a second signal does not wait for that.

    Set explicitly: a shell starts background jobs with SIGINT ignored, and Python leaves that so.
    """
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        sys.stderr.write("skyrack: stopping, once more stops at once\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
