"""The command line: ``skyrack plan | contacts | links | run | report | compare | runs | doctor``.

Standard output carries the answer (a table, or one JSON document with ``--format json``), standard error everything
else. Nothing heavy is imported before a command needs it: ``--help`` answers at once.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from testbed.errors import ExitCode, Interrupted, ScenarioError, SkyrackError
from testbed.registry import DEFAULT_SCHEDULER

if TYPE_CHECKING:
    from testbed.scenario import Scenario

Command = TypeVar("Command", bound=Callable[..., Any])


class Format(str, Enum):
    """How the answer is written."""

    TABLE = "table"
    JSON = "json"


class ContactFormat(str, Enum):
    """How a contact plan is written."""

    TABLE = "table"
    CSV = "csv"
    ION = "ion"
    JSON = "json"
    CZML = "czml"


class Rack(str, Enum):
    """Where nodes run."""

    AUTO = "auto"
    LOCAL = "local"
    SIMULATED = "simulated"


class Time(str, Enum):
    """Which clock a local rack has."""

    AUTO = "auto"
    REAL = "real"


app = typer.Typer(
    name="skyrack",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A hardware-in-the-loop rack that trains like a constellation.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False


def main() -> int:
    """The entry point of ``skyrack``."""
    app()
    return ExitCode.DONE


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """A hardware-in-the-loop rack that trains like a constellation."""
    global _debug
    _debug = debug
    if version:
        from importlib.metadata import version as installed

        sys.stdout.write(f"skyrack {installed('skyrack')}\n")
        raise typer.Exit


def command(function: Command) -> Command:
    """Register a command; its errors become a message on standard error and an exit code here and nowhere else."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except typer.Exit:
            raise
        except SkyrackError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("stopped", ExitCode.INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has seen enough (skyrack plan demo | head). Not ours to complain about, and the
            # interpreter must not try to flush again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            # Anything else is a bug: say so, whatever it is.
            hint = "" if _debug else " (skyrack --debug ... shows where)"
            _fail(f"this is a bug in Skyrack: {type(error).__name__}: {error}{hint}", ExitCode.RUN)

    app.command()(guarded)
    return function


def _fail(message: str, code: ExitCode) -> None:
    if _debug:
        traceback.print_exc()
    sys.stderr.write(f"skyrack: {message}\n")
    raise typer.Exit(int(code))


ScenarioArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A scenario file, or the name of one that comes with Skyrack: demo.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, name or id, or: latest.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the answer.")]
RunsOption = Annotated[Path, typer.Option("--runs-dir", help="Where runs are kept.")]
StrategyOption = Annotated[str, typer.Option("--strategy", help="Who computes what: collaborative, onboard.")]
SchedulerOption = Annotated[
    str, typer.Option("--scheduler", help="Which bytes use which pass: greedy, static, time-expanded.")
]
ALL = "all"
"""The word for every scheduler, in ``plan``."""
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the scenario; may be repeated."),
]
ModeOption = Annotated[str | None, typer.Option("--mode", help="Short for --set learning.mode=...")]
SeedOption = Annotated[str | None, typer.Option("--seed", metavar="N", help="Short for --set seed=...")]
RoundsOption = Annotated[str | None, typer.Option("--rounds", metavar="N", help="Short for --set learning.rounds=...")]


@command
def plan(
    scenario: ScenarioArgument,
    strategy: StrategyOption = "collaborative",
    scheduler: SchedulerOption = DEFAULT_SCHEDULER,
    mode: ModeOption = None,
    seed: SeedOption = None,
    rounds: RoundsOption = None,
    set_: SetOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw ground tracks and passes: .html or .png.")
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show passes, links, transfers and predicted time; with --scheduler all, what each makes of them. Runs nothing."""
    from controller import console
    from controller.flow.comparison import compare_schedulers
    from controller.planner import make_plan
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    read = _scenario(scenario, set_, mode=mode, seed=seed, rounds=rounds)
    with blaming(read):
        sky = open_sky(read)
        _warn(sky.orbits.warnings)
        if plot is not None:
            from controller.atlas import draw_sky

            draw_sky(read, sky, plot)
        every = scheduler == ALL
        made = make_plan(read, strategy, DEFAULT_SCHEDULER if every else scheduler, sky)
        compared = compare_schedulers(made) if every else []
    if format_ is Format.JSON:
        console.emit_json(console.plan_document(made) | ({"flow": console.flow_rows(compared)} if every else {}))
    else:
        console.emit(*console.plan_tables(made), *([console.flow_table(compared)] if every else []))


@command
def contacts(
    scenario: ScenarioArgument,
    set_: SetOption = None,
    format_: Annotated[ContactFormat, typer.Option("--format", help="How to write the plan.")] = ContactFormat.TABLE,
) -> None:
    """Show every pass of the horizon, or write the contact plan for another tool. Any constellation."""
    from controller import console
    from testbed.link.network import contact_rates_bps
    from testbed.orbit.contact_plan import Scope, contacts_document
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    read = _scenario(scenario, set_)
    with blaming(read):
        sky = open_sky(read)
        _warn(sky.orbits.warnings)
        rates_bps = contact_rates_bps(read, sky) if format_ is ContactFormat.ION else None
    if format_ is ContactFormat.TABLE:
        console.emit(console.contact_plan_table(read, sky.contacts))
    else:
        sys.stdout.write(contacts_document(format_.value, sky.contacts, Scope.of(read, sky, rates_bps)))


@command
def links(
    scenario: ScenarioArgument,
    node: Annotated[str, typer.Option("--node", metavar="NAME", help="Whose links: sat-0-0, svalbard, ground, ...")],
    set_: SetOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show one node's link plan: what each link out of it is, from when on. Any constellation."""
    from controller import console
    from testbed.link.network import compile_network
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    read = _scenario(scenario, set_)
    with blaming(read):
        sky = open_sky(read)
        _warn(sky.orbits.warnings)
        network = compile_network(read, sky, node)
    rows = console.link_rows(network.link_plans[node], read.epoch)
    if format_ is Format.JSON:
        console.emit_json(rows)
    else:
        console.emit(console.link_plan_table(node, rows))


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
    from controller.experiment import Choice, run_experiment
    from controller.planner import make_plan
    from controller.report import write_report
    from controller.rundir import RunDirectory
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    with _stoppable() as stop:
        read = _scenario(scenario, set_, mode=mode, seed=seed, rounds=rounds)
        with blaming(read):
            sky = open_sky(read)
            _warn(sky.orbits.warnings)
            made = make_plan(read, strategy, scheduler, sky)
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


@command
def report(run: RunArgument, runs_dir: RunsOption = Path("runs"), format_: FormatOption = Format.TABLE) -> None:
    """Build a run's report.html again, and show its head."""
    from controller import console
    from controller.figures import read_figures
    from controller.report import summary, write_report
    from controller.rundir import RunDirectory

    directory = RunDirectory.find(run, runs_dir)
    path = write_report(directory)
    document = {"report": str(path), **summary(read_figures(directory))}
    if format_ is Format.JSON:
        console.emit_json(document)
    else:
        console.emit(*console.report_lines(str(path), document))


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


@command
def doctor(runs_dir: RunsOption = Path("runs"), format_: FormatOption = Format.TABLE) -> None:
    """Say whether this host is fit, and what to do where it is not."""
    from controller import console
    from controller.doctor import diagnose, exit_code

    checks = diagnose(runs_dir)
    if format_ is Format.JSON:
        console.emit_json([check.to_dict() for check in checks])
    else:
        console.emit(console.doctor_table(checks))
    raise typer.Exit(int(exit_code(checks)))


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"skyrack: {warning}\n")


def _scenario(
    path_or_name: str,
    assignments: list[str] | None,
    *,
    mode: str | None = None,
    seed: str | None = None,
    rounds: str | None = None,
) -> Scenario:
    from testbed.scenario import load_scenario

    overrides = {}
    for assignment in assignments or ():
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ScenarioError(
                "not an assignment", where="--set", found=assignment, allowed="KEY=VALUE, for example learning.rounds=3"
            )
        overrides[key.strip()] = value
    short = {"learning.mode": mode, "seed": seed, "learning.rounds": rounds}
    overrides |= {key: value for key, value in short.items() if value is not None}
    return load_scenario(path_or_name, overrides)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
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


if __name__ == "__main__":
    sys.exit(main())
