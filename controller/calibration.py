"""``skyrack calibrate``: measurements of this host, as a device profile that scenarios can name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from rich.table import Table
from rich.text import Text

from controller.console import make_table
from testbed.devices import (
    PER_STEP,
    DeviceProfile,
    MeasuredSettings,
    OverheadSettings,
    OverheadsSettings,
    Precision,
    SpeedSettings,
)
from testbed.errors import RackError, ScenarioError
from testbed.processor import power_mode
from testbed.profile_file import SUFFIXES, write_profile
from testbed.scenario import Scenario
from testbed.stage_work import StageWork
from testbed.strategy import charges

BATCHES = "2,8,32,64,128"
LOCAL = "local"
NOISY = 0.2
"""A spread above this is flagged: the median of such rows may be a fifth off."""
AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """What to measure, and how, as the flags have it. ``batches`` and ``precisions`` are lists with commas."""

    batches: str = BATCHES
    precisions: str = AUTO
    device: str = AUTO
    threads: int = 1
    repetitions: int = 9
    name: str | None = None
    out: Path | None = None
    force: bool = False
    command: str = "skyrack calibrate"


@dataclass(frozen=True)
class Calibration:
    """A profile, the file that it is in, and the operations by which its speeds are worked out."""

    profile: DeviceProfile
    path: Path
    work: StageWork

    @property
    def noisy(self) -> tuple[MeasuredSettings, ...]:
        """The measurements that spread too much to be quoted."""
        return tuple(row for row in self.profile.measured if row.spread > NOISY)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        document = self.profile.model_dump(mode="json", exclude={"file"})
        return {"path": str(self.path), **document, "noisy": len(self.noisy)}


def calibrate(scenario: Scenario, board: str, choice: Choice) -> Calibration:
    """Measure every stage of the scenario's model here, and write a profile.

    ScenarioError for flags that make no sense, RackError for a board or device that is not there.
    """
    if board != LOCAL:
        raise RackError(
            f"board {board!r} cannot be reached: there is no inventory of boards yet, which comes later. "
            f"Run skyrack calibrate on the board itself, and name the file it writes in a scenario"
        )
    batches = _batches(choice.batches)
    if choice.name is not None and slug(choice.name) != choice.name:
        raise ScenarioError(
            "not a name", where="--name", found=choice.name, allowed="up to 63 small letters, digits and hyphens"
        )
    if choice.out is not None:
        _check_path(choice.out, choice.force)
    from testbed.learning.calibration import find_target, measure

    target = find_target(choice.device, choice.threads)
    name = choice.name or slug(f"{target.name} {target.device.type}")
    path = choice.out or Path(f"{name}.yaml")
    _check_path(path, choice.force)
    mode = power_mode()
    rows = tuple(
        measure(
            scenario,
            target,
            batches=batches,
            precisions=_precisions(choice.precisions, target.bf16),
            power_mode=mode,
            repetitions=choice.repetitions,
        )
    )
    now = datetime.now(timezone.utc)
    clock = "processor time" if target.device.type == "cpu" and choice.threads == 1 else "wall time"
    source = (
        f"measured on {target.name} ({target.device.type}, {choice.threads} of {os.cpu_count()} processors, power mode "
        f"{mode}) with torch {version('torch')} on {now:%Y-%m-%d} by: {choice.command}. Medians of the {clock} of "
        f"calls on made-up samples; sustained speeds are the best of the encoder's forward passes"
    )
    work = charges.work(scenario.learning)
    made = assemble(name, source, rows, work)
    _write(path, write_profile(made))
    return Calibration(made, path, work)


def assemble(name: str, source: str, rows: Sequence[MeasuredSettings], work: StageWork) -> DeviceProfile:
    """The profile of these measurements. What other models fall back on: the best speed of the encoder by precision,
    the embedding's seconds a sample at its best, and those of the smallest step of the head, which is mere overhead."""
    speeds: dict[str, float] = {}
    for row in rows:
        if row.stage == "encode":
            flops = work.flop["encode"] * row.batch / row.call_s
            speeds[row.precision] = max(flops, speeds.get(row.precision, 0.0))
    exact = [row for row in rows if row.precision == "fp32"]
    embed_s = min(row.call_s / row.batch for row in exact if row.stage == "embed")
    step_s = min(row.call_s for row in exact if row.stage == "head")
    return DeviceProfile(
        name=name,
        source=source,
        sustained=SpeedSettings(**{f"{precision}_flops": _rounded(flops) for precision, flops in speeds.items()}),
        overheads=OverheadsSettings(
            embed=OverheadSettings(item_s=_rounded(embed_s)), head=OverheadSettings(item_s=_rounded(step_s))
        ),
        measured=tuple(
            row.model_copy(update={"call_s": _rounded(row.call_s), "spread": round(row.spread, 3)}) for row in rows
        ),
    )


def calibration_table(made: Calibration) -> Table:
    """What was measured, for people."""
    rows = []
    for row in made.profile.measured:
        items = 1 if row.stage in PER_STEP else row.batch
        flops = made.work.flop[row.stage] * items / row.call_s
        rows.append(
            (
                row.stage,
                row.precision,
                row.power_mode,
                str(row.batch),
                f"{row.call_s * 1e3:.3f} ms",
                f"{row.call_s / items * 1e3:.4f} ms",
                # Of a head's step the operations depend on the batch, and the work at hand is for the scenario's alone.
                "-" if row.stage in PER_STEP else f"{flops / 1e9:.1f} GFLOP/s",
                f"{row.spread:.1%}" + (" noisy" if row.spread > NOISY else ""),
            )
        )
    columns = ("stage", "precision", "power mode", "batch", "call", "an item", "speed", "spread")
    return make_table(f"{made.profile.name}: a call by stage, precision and batch", columns, rows, right=columns[3:])


def calibration_lines(made: Calibration) -> list[Text]:
    """What to know beside the table."""
    lines = [f"source: {made.profile.source}"]
    if made.noisy:
        lines.append(
            f"{len(made.noisy)} of {len(made.profile.measured)} measurements spread by more than {NOISY:.0%}: others "
            f"use this host; measure again when it is idle before quoting them"
        )
    lines.append(f"written to {made.path}; a scenario names it under devices")
    return [Text(line) for line in lines]


def slug(text: str) -> str:
    """A profile's name from a device's: small letters, digits and hyphens."""
    plain = re.sub(r"\((r|tm)\)", " ", text.casefold())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-") or "device"


def _batches(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 2 <= int(part) <= 65_536 for part in parts):
        raise ScenarioError(
            "not batch sizes", where="--batches", found=text, allowed=f"2 to 65536, with commas: {BATCHES}"
        )
    return sorted({int(part) for part in parts})


def _precisions(text: str, bf16: bool) -> list[Precision]:
    if text == AUTO:
        return ["fp32", "bf16"] if bf16 else ["fp32"]
    asked = {part.strip() for part in text.split(",")}
    known = get_args(Precision)
    if not asked <= set(known) or "fp32" not in asked:
        raise ScenarioError(
            "not precisions", where="--precisions", found=text, allowed="auto, fp32, or fp32,bf16 (fp32 always)"
        )
    if "bf16" in asked and not bf16:
        raise RackError("this device emulates bfloat16: measure with --precisions fp32")
    return [precision for precision in known if precision in asked]


def _check_path(path: Path, force: bool) -> None:
    """Before anything is measured: that takes minutes."""
    if path.suffix.casefold() not in SUFFIXES:
        raise ScenarioError(
            "not a profile's path", where="--out", found=str(path), allowed=f"a name in {', '.join(sorted(SUFFIXES))}"
        )
    if path.exists() and not (force and path.is_file()):
        raise ScenarioError(
            "the file is there already", where="--out", found=str(path), allowed="another path, or --force"
        )
    if not path.absolute().parent.is_dir():
        raise ScenarioError("no such folder", where="--out", found=str(path.absolute().parent), allowed="one there is")


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        raise RackError(f"{path} cannot be written: {error.strerror or error}") from None


def _rounded(value: float) -> float:
    """Six digits: more than any measurement has."""
    return float(f"{value:.6g}")
