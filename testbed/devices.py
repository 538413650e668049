"""Device profiles: what a stage of the computation costs on the device that a node stands for (DESIGN, decision 8).

On shared hosts a computation is not timed but charged, from a profile. A profile says where its figures come from, and
every result repeats that. What was measured of a model is charged as measured; anything else by its operations,
over the operations per second that the device sustains, and overheads. ``testbed.profile_file`` has the files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from testbed.errors import BugError, ScenarioError
from testbed.scenario_links import Name, Settings
from testbed.stage_work import STAGES, Stage, StageWork

Precision = Literal["fp32", "bf16"]
PER_STEP = frozenset({"head"})
"""Stages whose item is a call on a batch (an optimiser step); of the others it is a sample, and a call has many."""


class SpeedSettings(Settings):
    """Floating-point operations per second that a device sustains on matrix products, by precision."""

    fp32_flops: float = Field(gt=0)
    bf16_flops: float | None = Field(default=None, gt=0)

    def flops(self, precision: Precision) -> float | None:
        """None where the profile does not say."""
        return {"fp32": self.fp32_flops, "bf16": self.bf16_flops}[precision]


class OverheadSettings(Settings):
    """What a stage costs however few operations it is: at least ``item_s`` an item, and ``call_s`` once for all."""

    item_s: float = Field(default=0.0, ge=0)
    call_s: float = Field(default=0.0, ge=0)


class OverheadsSettings(Settings):
    """The overheads of every stage."""

    embed: OverheadSettings = OverheadSettings()
    encode: OverheadSettings = OverheadSettings()
    encode_backward: OverheadSettings = OverheadSettings()
    encode_train: OverheadSettings = OverheadSettings()
    head: OverheadSettings = OverheadSettings()

    def of(self, stage: str) -> OverheadSettings:
        """Those of one stage. BugError for a name that is none."""
        if stage not in STAGES:
            raise BugError(f"{stage!r} is not a stage that a device can be charged for")
        found: OverheadSettings = getattr(self, stage)
        return found


class MeasuredSettings(Settings):
    """One measurement: the median over ``repetitions`` of a call of a stage on ``batch`` samples.

    ``spread`` is the interquartile range over the median.
    """

    model: str = Field(min_length=1, max_length=120)
    stage: Stage
    precision: Precision
    power_mode: str = Field(default="unknown", min_length=1, max_length=60)
    batch: int = Field(ge=1, le=10_000_000)
    call_s: float = Field(gt=0)
    repetitions: int = Field(default=1, ge=1)
    spread: float = Field(default=0.0, ge=0)

    @property
    def key(self) -> tuple[object, ...]:
        """What was measured, apart from how long it took."""
        return self.model, self.stage, self.precision, self.power_mode, self.batch


class DeviceProfile(Settings):
    """Seconds charged per stage on one kind of device, and where the figures come from. ``file`` is where it was read
    from; empty for one that comes with Skyrack."""

    name: Name
    source: str = Field(min_length=1, max_length=4_000)
    sustained: SpeedSettings
    overheads: OverheadsSettings = OverheadsSettings()
    measured: tuple[MeasuredSettings, ...] = ()
    file: str = ""

    @field_validator("measured")
    @classmethod
    def _once(cls, rows: tuple[MeasuredSettings, ...]) -> tuple[MeasuredSettings, ...]:
        seen = set()
        for row in rows:
            if row.key in seen:
                raise ValueError("measured twice: " + ", ".join(str(part) for part in row.key))
            seen.add(row.key)
        return rows

    def __hash__(self) -> int:
        return hash((self.name, self.source))  # scenarios are keys of caches, and a profile may have many rows

    def faster(self, factor: float) -> DeviceProfile:
        """The same device if everything on it took a ``factor``-th of the time."""
        speeds = {name: speed and speed * factor for name, speed in self.sustained}
        overheads = {
            stage: OverheadSettings(item_s=cost.item_s / factor, call_s=cost.call_s / factor)
            for stage, cost in self.overheads
        }
        rows = tuple(row.model_copy(update={"call_s": row.call_s / factor}) for row in self.measured)
        # Made anew, not copied: a copy would keep the curves.
        return DeviceProfile(
            name=self.name,
            source=self.source,
            sustained=SpeedSettings(**speeds),
            overheads=OverheadsSettings(**overheads),
            measured=rows,
            file=self.file,
        )

    @cached_property
    def _curves(self) -> dict[tuple[str, str, str], dict[str, Curve]]:
        """By model, stage and precision, and by power mode within."""
        points: dict[tuple[str, str, str], dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
        for row in self.measured:
            points[row.model, row.stage, row.precision][row.power_mode].append((row.batch, row.call_s))
        return {key: {mode: Curve(sorted(of)) for mode, of in modes.items()} for key, modes in points.items()}

    def curve(self, model: str, stage: str, precision: Precision, power_mode: str | None) -> Curve | None:
        """What was measured of a stage; None for nothing. ScenarioError where it was measured in other power modes
        only, or in several of which none is chosen."""
        modes = self._curves.get((model, stage, precision), {})
        if power_mode is None and len(modes) <= 1:
            return next(iter(modes.values()), None)
        if modes and power_mode not in modes:
            raise ScenarioError(
                f"device profile {self.name!r} was measured in "
                f"{'other power modes' if power_mode else 'several power modes: say which'}",
                field="devices",
                found=power_mode or "no power mode",
                allowed=", ".join(sorted(modes)),
            )
        return modes.get(power_mode or "")


class Curve:
    """Seconds of a call by its batch size, through measured points.

    Exact on them and linear between them. A smaller batch than any measured costs what the smallest does (launches and
    copies do not shrink); a larger one in proportion to the largest. Never negative, since no point is.
    """

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        """``points``: batch size and seconds, in order of size, each size once, at least one."""
        self._batches = [batch for batch, _ in points]
        self._seconds = [seconds for _, seconds in points]

    def call_s(self, batch: int) -> float:
        """Seconds of one call on ``batch`` samples."""
        batches, seconds = self._batches, self._seconds
        above = bisect_left(batches, batch)
        if above == len(batches):
            return seconds[-1] * batch / batches[-1]
        if above == 0 or batches[above] == batch:
            return seconds[above]
        share = (batch - batches[above - 1]) / (batches[above] - batches[above - 1])
        return (1 - share) * seconds[above - 1] + share * seconds[above]


@dataclass(frozen=True)
class Device:
    """A profile, and how the device is run. ``power_mode`` None: the only one that was measured."""

    profile: DeviceProfile
    precision: Precision = "fp32"
    power_mode: str | None = None

    def charge_s(self, work: StageWork, stage: str, count: int, batch: int) -> float:
        """Mission seconds that ``count`` items of a stage cost in calls of ``batch`` samples; nothing for no items.

        By what was measured of this model where there is anything: full calls, and one of the rest. Else by its
        operations. ScenarioError where the profile knows neither.
        """
        if count <= 0:
            return 0.0
        overhead = self.profile.overheads.of(stage)
        curve = self.profile.curve(work.model, stage, self.precision, self.power_mode)
        if curve is None:
            return overhead.call_s + count * max(overhead.item_s, work.flop[stage] / self._flops())
        calls, rest = divmod(count, 1 if stage in PER_STEP else batch)
        return calls * curve.call_s(batch) + (curve.call_s(rest) if rest else 0.0)

    def _flops(self) -> float:
        flops = self.profile.sustained.flops(self.precision)
        if flops is None:
            raise ScenarioError(
                f"device profile {self.profile.name!r} does not say what the device sustains in this precision",
                field="devices.precision",
                found=self.precision,
                allowed="fp32, or a profile that does",
            )
        return flops
