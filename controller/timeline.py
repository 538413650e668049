"""The timeline below a map: every station's passes, as bars, or as a curve of how many where bars would be too many."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import numpy as np

from controller.placing import Lane
from controller.scene import COLOURS, GRID, INK, LABELS_IN, MARGIN_IN, WIDTH_IN, Scene
from controller.wording import clock_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LANE = "#f1f4f6"


def draw_timeline(axes: Axes, scene: Scene) -> dict[str, str]:
    """Every station's passes; by SVG id what a pass is."""
    scope = scene.scope
    titles: dict[str, str] = {}
    bottom, middles = 0.0, []
    for lane in reversed(scene.lanes):
        axes.axhspan(bottom + 0.03, bottom + lane.height_in - 0.03, color=_LANE, linewidth=0, zorder=0)
        middles.append(bottom + lane.height_in / 2)
        if lane.counted:
            _counted(axes, lane, bottom, scope.duration_s)
        else:
            titles |= _bars(axes, scene, lane, bottom, len(titles))
        bottom += lane.height_in
    axes.set(xlim=(0, scope.duration_s), ylim=(0, bottom), yticks=middles)
    axes.set_yticklabels([_name(lane) for lane in reversed(scene.lanes)], fontsize=9, color=INK)
    step_s = next((step_s for step_s in _STEPS_S if scope.duration_s / step_s <= 9), _STEPS_S[-1])
    ticks = np.arange(0.0, scope.duration_s + 1e-6, step_s)
    axes.set_xticks(ticks)
    axes.set_xticklabels([_tick(float(at_s), scope.epoch) for at_s in ticks], fontsize=8)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return titles


_STEPS_S = (
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    900,
    1200,
    1800,
    3600,
    7200,
    10_800,
    21_600,
    43_200,
    86_400,
    345_600,
)


def _tick(at_s: float, epoch: datetime) -> str:
    instant = epoch.astimezone(timezone.utc) + timedelta(seconds=at_s)
    return f"{clock_text(at_s)}\n{instant:%H:%M} UTC"


def _bars(axes: Axes, scene: Scene, lane: Lane, bottom: float, first: int) -> dict[str, str]:
    from matplotlib.patches import Rectangle

    duration_s = scene.scope.duration_s
    wide_pt = 72 * (WIDTH_IN - 2 * MARGIN_IN - LABELS_IN)
    height = (lane.height_in - 0.12) / lane.strips
    titles = {}
    for number, (one, strip) in enumerate(zip(lane.contacts, lane.strip, strict=True), start=first):
        low = bottom + lane.height_in - 0.06 - (strip + 1) * height
        corner, colour = (one.start_s, low + 0.07 * height), scene.colour(one.satellite)
        bar = Rectangle(corner, one.end_s - one.start_s, 0.86 * height, facecolor=colour, linewidth=0, zorder=3)
        bar.set_gid(f"pass-{number}")
        axes.add_patch(bar)
        titles[f"pass-{number}"] = (
            f"{one.satellite} over {lane.station.name}: {clock_text(round(one.start_s))} to "
            f"{clock_text(round(one.end_s))}, up to {one.max_elevation_deg:.0f} degrees"
        )
        size = min(7.0, 72 * height * 0.62)
        if wide_pt * (one.end_s - one.start_s) / duration_s > 0.58 * size * len(one.satellite):
            middle = (one.start_s + one.end_s) / 2
            axes.text(
                middle, low + height / 2, one.satellite, fontsize=size, color=_ink_on(colour),
                ha="center", va="center_baseline", zorder=4,
            )  # fmt: skip
    return titles


def _ink_on(colour: str) -> str:
    """White or dark, whichever is read more easily on a colour (relative luminance of sRGB, ITU-R BT.709)."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return "white" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.26 else INK


def _counted(axes: Axes, lane: Lane, bottom: float, duration_s: float) -> None:
    at_s, count = lane.in_view()
    height = count / count.max() * (lane.height_in - 0.12)
    axes.fill_between(
        np.append(at_s, duration_s), bottom + 0.06, bottom + 0.06 + np.append(height, 0.0),
        step="post", facecolor=COLOURS[0], alpha=0.55, linewidth=0, zorder=3,
    )  # fmt: skip


def _name(lane: Lane) -> str:
    """A lane's label; where a curve counts satellites, with what its top is."""
    return f"{lane.station.name}\n(up to {lane.strips})" if lane.counted else lane.station.name
