"""``run``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from testbed.errors import FlowError, Interrupted, RunError, ScenarioError, SkyrackError
from testbed.registry import DEFAULT_SCHEDULER

if TYPE_CHECKING:
    from controller.experiment import Choice
    from controller.rundir import RunDirectory
    from controller.sweep import Sweep
    from testbed.mission import MissionPlan
    from testbed.scenario import Scenario


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
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", help="N runs: with the scenario's seed and the next ones.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="SWEEP", help="Go on with a folder of --seeds: run what it lacks.")
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option("--accuracy", help="With --seeds: the validation accuracy to time missions to (0.85)."),
    ] = None,
    runs_dir: RunsOption = Path("runs"),
    format_: FormatOption = Format.TABLE,
) -> None:
    """Run a scenario, and keep everything about it in a run directory; with --seeds several, and what they say."""
    from controller import console
    from controller.breakeven import with_break_even
    from controller.experiment import Choice
    from controller.planner import make_plan
    from controller.result_tables import result_table
    from controller.rundir import RunDirectory
    from controller.trackers import check_installed
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    choice = Choice(rack.value, time.value, scheduler)
    several = seeds is not None or resume is not None
    if accuracy is not None and not several:
        raise ScenarioError(
            "one run has no summary",
            where="flags",
            field="--accuracy",
            found=accuracy,
            allowed="with --seeds; skyrack compare has one of its own",
        )
    with stoppable() as stop:
        read = read_scenario(scenario, set_, mode=mode, seed=seed, rounds=rounds)
        with blaming(read):
            check_installed(read.output.report_to)
            sky = open_sky(read)
            warn(sky.orbits.warnings)

            def plan(one: Scenario) -> MissionPlan:
                return with_break_even(make_plan(one, strategy, scheduler, sky), scheduler)

            if several:
                sweep, plans = _prepare_sweep(read, plan, strategy, choice, seeds, resume, accuracy, runs_dir)
            else:
                made = plan(read)
        if several:
            _run_sweep(sweep, plans, choice, stop, format_)
            return
        directory = RunDirectory.create(runs_dir, made.scenario.name)
        result = _run_one(made, directory, choice, stop)
    if format_ is Format.JSON:
        console.emit_json(result)
    else:
        console.emit(*result_table(result))
        sys.stdout.write(f"{directory.path}\n")


def _run_one(plan: MissionPlan, directory: RunDirectory, choice: Choice, stop: threading.Event) -> dict[str, Any]:
    """Fly a plan, and report."""
    from controller import live
    from controller.experiment import run_experiment
    from controller.report import write_report

    try:
        with live.watch(plan) as observe:

            def on_event(event: dict[str, Any]) -> None:
                observe(event)
                if stop.is_set():
                    raise Interrupted("stopped")

            result = run_experiment(plan, directory, choice, on_event, stop)
    except BaseException as error:
        sys.stderr.write(f"skyrack: what was done until then is in {directory.path}\n")
        if stop.is_set() and isinstance(error, Exception):
            # Wherever in a run a stop is noticed, in a node's code too: what comes of it is that it was stopped.
            raise Interrupted("stopped") from error
        raise
    write_report(directory)
    return result


def _prepare_sweep(
    scenario: Scenario,
    plan: Callable[[Scenario], MissionPlan],
    strategy: str,
    choice: Choice,
    seeds: int | None,
    resume: str | None,
    accuracy: float | None,
    runs_dir: Path,
) -> tuple[Sweep, dict[int, MissionPlan]]:
    """The sweep, new or gone on with, and a plan for every seed that it lacks: all are known to be possible before any
    is run."""
    from controller.compare import check_accuracy
    from controller.experiment import rack_name
    from controller.sweep import DEFAULT_ACCURACY, Sweep, Terms, find_sweep, seeds_from

    if accuracy is not None:
        check_accuracy(accuracy)
    terms = Terms.of(scenario, strategy, choice.scheduler, rack_name(choice), choice.time)
    found = find_sweep(resume, runs_dir) if resume is not None else None
    wanted = seeds_from(scenario.seed, len(found.seeds) if seeds is None and found is not None else seeds or 0)
    found = found.resumed(terms, wanted, accuracy) if found is not None else None
    missing = wanted if found is None else found.missing
    plans = {seed: plan(scenario.model_copy(update={"seed": seed})) for seed in missing}
    if found is None:
        return Sweep.create(runs_dir, terms, wanted, accuracy or DEFAULT_ACCURACY), plans
    return found, plans


def _run_sweep(
    sweep: Sweep, plans: Mapping[int, MissionPlan], choice: Choice, stop: threading.Event, format_: Format
) -> None:
    """Run what a sweep lacks, one seed after the other, and say what all gave. Where a seed fails under way the others
    are run all the same; its error is raised in the end."""
    from controller import console
    from controller.report import write_report
    from controller.rundir import REPORT
    from controller.summary import summary_tables, write_summary

    failed: list[SkyrackError] = []
    with sweep.held():
        sweep.save()  # it may have been gone on with, and have more seeds
        sys.stderr.write(f"skyrack: {sweep.path}: {len(plans)} of {len(sweep.seeds)} seeds to run\n")
        for seed, plan in plans.items():
            if sweep.finished(seed):
                continue  # by another process, while this one was planning
            sys.stderr.write(f"skyrack: seed {seed}\n")
            try:
                _run_one(plan, sweep.begin(seed), choice, stop)
            except (Interrupted, KeyboardInterrupt):
                sys.stderr.write(f"skyrack: the same command with --resume {sweep.path} goes on from here\n")
                raise
            except (RunError, FlowError) as error:
                sys.stderr.write(f"skyrack: seed {seed}: {error}\n")
                failed.append(error)
        for run in (sweep.run(seed) for seed in sweep.seeds if sweep.finished(seed)):
            if not run.file(REPORT).exists():  # an earlier process ended between the two
                write_report(run)
        document = write_summary(sweep)
    if format_ is Format.JSON:
        console.emit_json(document)
    else:
        console.emit(*summary_tables(document))
        sys.stdout.write(f"{sweep.path}\n")
    if failed:
        raise failed[0]


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
