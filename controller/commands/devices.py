"""What computation costs on a device: ``calibrate``."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from controller.commands.base import command
from controller.commands.options import Format, FormatOption, SetOption, read_scenario


class Processor(str, Enum):
    """What of a host computes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@command
def calibrate(
    board: Annotated[str, typer.Argument(metavar="[BOARD]", help="The board to measure: local, this host.")] = "local",
    scenario: Annotated[str, typer.Option("--scenario", help="Whose model to measure: a file or a name.")] = "demo",
    batches: Annotated[str, typer.Option("--batches", help="Batch sizes, with commas.")] = "2,8,32,64,128",
    precisions: Annotated[
        str, typer.Option("--precisions", help="fp32, or fp32,bf16; auto: bf16 where the device multiplies in it.")
    ] = "auto",
    device: Annotated[Processor, typer.Option("--device", help="auto: a GPU where there is one.")] = Processor.AUTO,
    threads: Annotated[int, typer.Option("--threads", min=1, max=1024, help="Threads of a processor.")] = 1,
    repetitions: Annotated[int, typer.Option("--repetitions", min=3, max=10_000, help="Timed calls, at least.")] = 9,
    name: Annotated[str | None, typer.Option("--name", help="The profile's name; the device's unless given.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to; NAME.yaml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    set_: SetOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Measure each stage of a model on this host, by batch size and precision, into a device profile."""
    from controller import console
    from controller.calibration import Choice, calibrate, calibration_lines, calibration_table
    from testbed.scenario import blaming

    read = read_scenario(scenario, set_)
    how = shlex.join(["skyrack", *sys.argv[1:]])
    choice = Choice(batches, precisions, device.value, threads, repetitions, name, out, force, how)
    with blaming(read):
        made = calibrate(read, board, choice)
    if format_ is Format.JSON:
        console.emit_json(made.to_dict())
    else:
        console.emit(calibration_table(made), "", *calibration_lines(made))
