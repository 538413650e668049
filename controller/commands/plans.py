"""What is known before a run: ``plan``, ``contacts``, ``links``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from controller.commands.base import command
from controller.commands.options import (
    ALL,
    ContactFormat,
    Format,
    FormatOption,
    ModeOption,
    RoundsOption,
    ScenarioArgument,
    SchedulerOption,
    SeedOption,
    SetOption,
    StrategyOption,
    read_scenario,
    warn,
)
from testbed.registry import DEFAULT_SCHEDULER


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
    break_even: Annotated[
        int | None,
        typer.Option("--break-even", metavar="N", min=1, help="Where the other strategy takes as long, over N rounds."),
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Show passes, links, transfers and predicted time; with --scheduler all, what each makes of them. Runs nothing."""
    from controller import console
    from controller.balances import break_even_lines
    from controller.breakeven import balances
    from controller.flow.comparison import compare_schedulers
    from controller.plan_tables import flow_rows, flow_table, plan_document, plan_tables
    from controller.planner import make_plan
    from controller.shares import shares_table
    from testbed.learning.placement import histogram
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    read = read_scenario(scenario, set_, mode=mode, seed=seed, rounds=rounds)
    with blaming(read):
        sky = open_sky(read)
        warn(sky.orbits.warnings)
        if plot is not None:
            from controller.atlas import draw_sky

            draw_sky(read, sky, plot)
        every = scheduler == ALL
        made = make_plan(read, strategy, DEFAULT_SCHEDULER if every else scheduler, sky)
        compared = compare_schedulers(made) if every else []
        balanced = {} if break_even is None else balances(made, DEFAULT_SCHEDULER if every else scheduler, break_even)
        shares = histogram(made.scenario, made.satellites)
    if format_ is Format.JSON:
        flow = {"flow": flow_rows(compared)} if every else {}
        found = {"break_even": balanced} if balanced else {}
        console.emit_json(plan_document(made) | {"partition": shares} | flow | found)
    else:
        head, *tables = plan_tables(made)
        flow_tables = [flow_table(compared)] if every else []
        console.emit(head, shares_table(shares), "", *tables, *flow_tables)
        console.emit(*(break_even_lines(balanced) if balanced else ()))


@command
def contacts(
    scenario: ScenarioArgument,
    set_: SetOption = None,
    format_: Annotated[ContactFormat, typer.Option("--format", help="How to write the plan.")] = ContactFormat.TABLE,
) -> None:
    """Show every pass of the horizon, or write the contact plan for another tool. Any constellation."""
    from controller import console
    from controller.plan_tables import contact_plan_table
    from testbed.link.network import contact_rates_bps
    from testbed.orbit.contact_plan import Scope, contacts_document
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    read = read_scenario(scenario, set_)
    with blaming(read):
        sky = open_sky(read)
        warn(sky.orbits.warnings)
        rates_bps = contact_rates_bps(read, sky) if format_ is ContactFormat.ION else None
    if format_ is ContactFormat.TABLE:
        console.emit(contact_plan_table(read, sky.contacts))
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
    from controller.plan_tables import link_plan_table, link_rows
    from testbed.link.network import compile_network
    from testbed.orbit.sky import open_sky
    from testbed.scenario import blaming

    read = read_scenario(scenario, set_)
    with blaming(read):
        sky = open_sky(read)
        warn(sky.orbits.warnings)
        network = compile_network(read, sky, node)
    rows = link_rows(network.link_plans[node], read.epoch)
    if format_ is Format.JSON:
        console.emit_json(rows)
    else:
        console.emit(link_plan_table(node, rows))
