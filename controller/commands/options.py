"""Arguments and options that several commands take, and how they make a scenario of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.errors import ScenarioError

if TYPE_CHECKING:
    from testbed.scenario import Scenario


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


ScenarioArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A scenario file, or the name of one that comes with Skyrack: demo.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, name or id, or: latest.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the answer.")]
RunsOption = Annotated[Path, typer.Option("--runs-dir", help="Where runs are kept.")]
StrategyOption = Annotated[
    str, typer.Option("--strategy", help="Who computes what: collaborative, local-only, onboard, raw-downlink.")
]
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


def warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"skyrack: {warning}\n")


def read_scenario(
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
