"""What one adds to Skyrack oneself: ``new``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from controller.commands.base import command


class Kind(str, Enum):
    """What a new package adds."""

    STRATEGY = "strategy"


@command
def new(
    kind: Annotated[Kind, typer.Argument(help="What to add.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called by: --strategy NAME.")],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where the package's folder goes.")] = Path(),
) -> None:
    """Write a package of one's own that works as it stands, with the tests it must keep passing."""
    from controller import console
    from controller.scaffold import write_package

    folder = write_package(kind.value, name, into)
    console.emit(
        str(folder),
        f"next: pip install --no-deps -e {folder}",
        f"      skyrack run demo --rack simulated --rounds 1 --strategy {name}",
        f"      pytest {folder}",
    )
