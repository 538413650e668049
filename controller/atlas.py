"""One picture of a scenario's sky: ground tracks over coastlines, and below them every station's passes.

The picture is a PNG, or a page of HTML with an inline SVG that needs no network. matplotlib draws it without a screen.
"""

from __future__ import annotations

import colorsys
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.charts import clock_text
from controller.geography import broken, coastlines, filled, geodetic_deg, visibility_deg
from controller.placing import Labels, Lane
from testbed.errors import ScenarioError
from testbed.orbit.constellation import EARTH_RADIUS_KM
from testbed.orbit.contacts import Contact
from testbed.orbit.motion import Array
from testbed.orbit.plan_rows import Scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from testbed.orbit.sky import Sky
    from testbed.scenario import Scenario

WIDTH_IN = 13.0
DPI = 150
_MARGIN_IN, _LABELS_IN = 0.35, 1.15  # around everything; left of the timeline, for the stations' names
_HEAD_IN, _GAP_IN, _FOOT_IN = 0.85, 0.75, 0.5  # above the map, between map and timeline, below the timeline
_MAP_IN = (WIDTH_IN - 2 * _MARGIN_IN) / 2  # 360 by 180 degrees

TRACKS_REVOLUTIONS = 12.0
"""How much of ground tracks a map bears: in all of a constellation's satellites together."""

_SEA, _LAND, _COAST, _GRID, _INK, _QUIET = "#eaf1f6", "#d6dcd6", "#8d9a9d", "#c9d5dd", "#1c2530", "#5c6875"
_LANE = "#f1f4f6"
# Okabe and Ito (2008), which the colour-blind can tell apart, without the yellow that is lost on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a4c93")
_STYLE: dict[Any, object] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _QUIET,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "skyrack",  # the same picture has the same bytes
}


def draw_sky(scenario: Scenario, sky: Sky, path: Path) -> None:
    """``draw`` for a scenario and its sky."""
    draw(sky.contacts, Scope.of(scenario, sky), path)


def draw(contacts: Sequence[Contact], scope: Scope, path: Path) -> None:
    """Write the picture to ``path``, as its suffix says. ScenarioError for any other suffix, or where none can be."""
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ScenarioError(
            "a picture's format follows from its name",
            where="--plot",
            found=path.name,
            allowed=f"a file that ends in {' or '.join(_WRITERS)}",
        )
    from matplotlib import rc_context

    with rc_context(_STYLE):
        data = write(_Picture(contacts, scope))
    try:
        path.write_bytes(data)
    except (OSError, ValueError) as error:
        raise ScenarioError(
            "the picture cannot be written",
            where="--plot",
            found=f"{path}: {getattr(error, 'strerror', None) or error}",
            allowed="a file in a folder that exists",
        ) from None


# -- the picture ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    contacts: Sequence[Contact]
    scope: Scope

    @cached_property
    def plane_by_name(self) -> dict[str, int]:
        planes = self.scope.orbits.planes
        return {name: plane for plane, names in enumerate(planes) for name in names}

    @cached_property
    def state_km(self) -> tuple[Array, Array]:
        """Everybody's state at the epoch."""
        position, velocity = self.scope.orbits.motion.state_itrs_km(np.array([0.0]))
        return position[:, 0], velocity[:, 0]

    @cached_property
    def radius_km(self) -> float:
        return float(np.median(np.linalg.norm(self.state_km[0], axis=-1)))

    @property
    def altitude_text(self) -> str:
        return f"{round(self.radius_km - EARTH_RADIUS_KM, -1):,.0f} km"

    @cached_property
    def track_s(self) -> float:
        """How long the tracks are: one revolution, the horizon, or as much as the map bears."""
        revolution_s = 2 * math.pi * math.sqrt(self.radius_km**3 / 398600.4418)  # WGS84's gravitational parameter
        share = min(1.0, TRACKS_REVOLUTIONS / len(self.scope.orbits.motion.names))
        return min(self.scope.duration_s, revolution_s * share)

    def colour(self, satellite: str) -> str:
        plane, planes = self.plane_by_name.get(satellite, 0), max(len(self.scope.orbits.planes), 1)
        if planes <= len(_COLOURS):
            return _COLOURS[plane]
        parts = colorsys.hls_to_rgb(plane / planes, 0.42, 0.65)
        return "#" + "".join(f"{round(255 * part):02x}" for part in parts)

    @cached_property
    def lanes(self) -> list[Lane]:
        by_station: dict[str, list[Contact]] = {station.slug: [] for station in self.scope.stations}
        for one in self.contacts:
            by_station.setdefault(one.station, []).append(one)
        return [Lane(station, by_station[station.slug]) for station in self.scope.stations]


def _drawn(picture: _Picture) -> tuple[Figure, dict[str, str]]:
    """The figure, and by SVG id what its passes are."""
    from matplotlib.figure import Figure

    lanes_in = sum(lane.height_in for lane in picture.lanes)
    height_in = _MARGIN_IN + _HEAD_IN + _MAP_IN + _GAP_IN + lanes_in + _FOOT_IN
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")

    def box(left_in: float, top_in: float, width_in: float, tall_in: float) -> Axes:
        place = (left_in / WIDTH_IN, 1 - (top_in + tall_in) / height_in, width_in / WIDTH_IN, tall_in / height_in)
        axes: Axes = figure.add_axes(place)
        return axes

    wide_in = WIDTH_IN - 2 * _MARGIN_IN
    top_in = _MARGIN_IN + _HEAD_IN
    _head(box(_MARGIN_IN, _MARGIN_IN, wide_in, _HEAD_IN), picture)
    _map(box(_MARGIN_IN, top_in, wide_in, _MAP_IN), picture)
    _key(box(_MARGIN_IN, top_in + _MAP_IN, wide_in, _GAP_IN), picture)
    top_in += _MAP_IN + _GAP_IN
    return figure, _timeline(box(_MARGIN_IN + _LABELS_IN, top_in, wide_in - _LABELS_IN, lanes_in), picture)


def _head(axes: Axes, picture: _Picture) -> None:
    scope = picture.scope
    axes.set_axis_off()
    axes.text(0, 0.98, scope.title, fontsize=17, fontweight="bold", va="top", transform=axes.transAxes)
    start = scope.epoch.astimezone(timezone.utc)
    facts = (
        _count(len(scope.orbits.motion.names), "satellite"),
        _count(len(scope.orbits.planes), "plane"),
        _count(len(scope.stations), "ground station"),
        _count(len(picture.contacts), "pass", "passes"),
        f"from {start:%Y-%m-%d %H:%M:%S} UTC for {clock_text(scope.duration_s)}",
    )
    axes.text(0, 0.5, "  ·  ".join(facts), fontsize=10, color=_QUIET, va="top", transform=axes.transAxes)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _map(axes: Axes, picture: _Picture) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    scope = picture.scope
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xticks=range(-150, 180, 30), yticks=range(-60, 90, 30), facecolor=_SEA)
    axes.tick_params(length=0, labelsize=7, pad=-11)
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_edgecolor(_COAST)
    land = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in coastlines()))
    axes.add_patch(PathPatch(land, facecolor=_LAND, edgecolor=_COAST, linewidth=0.5, zorder=1))
    axes.grid(color=_GRID, linewidth=0.5, zorder=1.5)
    for station in scope.stations:
        ring = visibility_deg(station, picture.radius_km)
        for shape in filled(*ring):
            axes.fill(*shape.T, facecolor=_INK, alpha=0.06, linewidth=0, zorder=2)
        axes.add_collection(LineCollection(broken(*ring), colors=_INK, linewidths=0.8, alpha=0.55, zorder=2.5))
    at_s = np.linspace(0.0, picture.track_s, max(2, math.ceil(picture.track_s / 15.0)) + 1)
    tracks = scope.orbits.motion.state_itrs_km(at_s)[0]
    few = len(tracks) <= 24
    lines, colours = [], []
    for name, track in zip(scope.orbits.motion.names, tracks, strict=True):
        pieces = broken(*geodetic_deg(track))
        lines += pieces
        colours += [picture.colour(name)] * len(pieces)
    widths = 1.3 if few else 0.9 if len(tracks) <= 200 else 0.5
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=widths, alpha=0.7, zorder=3))
    _marks(axes, picture, few)
    axes.set(xlim=(-180, 180), ylim=(-90, 90))


def _marks(axes: Axes, picture: _Picture, few: bool) -> None:
    """Satellites at the epoch and stations, with their names."""
    from matplotlib.patheffects import withStroke

    scope, names = picture.scope, picture.scope.orbits.motion.names
    scale_pt = 72 * _MAP_IN / 180.0
    labels = Labels(360 * scale_pt, 180 * scale_pt)
    longitude, latitude = geodetic_deg(picture.state_km[0])
    size = 42.0 if few else max(6.0, 1600.0 / len(names))
    edge = 0.7 if len(names) <= 200 else 0.0  # around a small dot it would be all there is
    colours = [picture.colour(name) for name in names]
    axes.scatter(longitude, latitude, s=size, c=colours, edgecolors="white", linewidths=edge, zorder=5)
    wanted = [(one.name, one.longitude_deg, one.latitude_deg, 8.5) for one in scope.stations]
    places = [(one.longitude_deg, one.latitude_deg) for one in scope.stations]
    across, up = zip(*places, strict=True)
    axes.scatter(across, up, s=34, c=_INK, marker="^", edgecolors="white", linewidths=0.8, zorder=6)
    if few:
        wanted += [(name, float(x), float(y), 7.0) for name, x, y in zip(names, longitude, latitude, strict=True)]
    for _, x, y, _ in wanted:
        labels.keep_clear((x + 180) * scale_pt, (y + 90) * scale_pt, 4.0)
    halo = [withStroke(linewidth=2.4, foreground="white", alpha=0.85)]
    for text, x, y, points in wanted:
        dx, dy, side = labels.place(text, points, (x + 180) * scale_pt, (y + 90) * scale_pt)
        axes.annotate(
            text, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center_baseline", fontsize=points,
            color=_INK, fontweight="bold" if points > 8 else "normal", path_effects=halo, zorder=7,
            arrowprops={"arrowstyle": "-", "color": _INK, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
            if max(abs(dx), abs(dy)) > 12 else None,
        )  # fmt: skip


def _key(axes: Axes, picture: _Picture) -> None:
    """What colours and lines on the map are."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    planes = len(picture.scope.orbits.planes)
    colours = ", one colour a plane" if planes > 1 else ""
    text = (
        f"Dots: satellites at mission time 0:00{colours}. Lines: where they go in the next "
        f"{clock_text(picture.track_s)}. Rings: from where a station sees a satellite {picture.altitude_text} up."
    )
    axes.text(0, 0.86, text, fontsize=8, color=_QUIET, va="top")
    axes.text(0, 0.16, "Passes by station", fontsize=11, fontweight="bold", va="bottom")
    if 1 < planes <= 12:
        first = 1.0 - 0.066 * planes
        for plane, names in enumerate(picture.scope.orbits.planes):
            axes.scatter(first + 0.066 * plane, 0.3, s=26, c=picture.colour(names[0]), clip_on=False)
            axes.text(first + 0.066 * plane + 0.009, 0.3, f"plane {plane}", fontsize=8, va="center_baseline")


def _timeline(axes: Axes, picture: _Picture) -> dict[str, str]:
    """Every station's passes; by SVG id what a pass is."""
    scope = picture.scope
    titles: dict[str, str] = {}
    bottom, middles = 0.0, []
    for lane in reversed(picture.lanes):
        axes.axhspan(bottom + 0.03, bottom + lane.height_in - 0.03, color=_LANE, linewidth=0, zorder=0)
        middles.append(bottom + lane.height_in / 2)
        if lane.counted:
            _counted(axes, lane, bottom, scope.duration_s)
        else:
            titles |= _bars(axes, picture, lane, bottom, len(titles))
        bottom += lane.height_in
    axes.set(xlim=(0, scope.duration_s), ylim=(0, bottom), yticks=middles)
    axes.set_yticklabels([_name(lane) for lane in reversed(picture.lanes)], fontsize=9, color=_INK)
    step_s = next((step_s for step_s in _STEPS_S if scope.duration_s / step_s <= 9), _STEPS_S[-1])
    ticks = np.arange(0.0, scope.duration_s + 1e-6, step_s)
    axes.set_xticks(ticks)
    axes.set_xticklabels([_tick(float(at_s), scope.epoch) for at_s in ticks], fontsize=8)
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
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


def _bars(axes: Axes, picture: _Picture, lane: Lane, bottom: float, first: int) -> dict[str, str]:
    from matplotlib.patches import Rectangle

    duration_s = picture.scope.duration_s
    wide_pt = 72 * (WIDTH_IN - 2 * _MARGIN_IN - _LABELS_IN)
    height = (lane.height_in - 0.12) / lane.strips
    titles = {}
    for number, (one, strip) in enumerate(zip(lane.contacts, lane.strip, strict=True), start=first):
        low = bottom + lane.height_in - 0.06 - (strip + 1) * height
        corner, colour = (one.start_s, low + 0.07 * height), picture.colour(one.satellite)
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
    return "white" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.26 else _INK


def _counted(axes: Axes, lane: Lane, bottom: float, duration_s: float) -> None:
    at_s, count = lane.in_view()
    height = count / count.max() * (lane.height_in - 0.12)
    axes.fill_between(
        np.append(at_s, duration_s), bottom + 0.06, bottom + 0.06 + np.append(height, 0.0),
        step="post", facecolor=_COLOURS[0], alpha=0.55, linewidth=0, zorder=3,
    )  # fmt: skip


def _name(lane: Lane) -> str:
    """A lane's label; where a curve counts satellites, with what its top is."""
    return f"{lane.station.name}\n(up to {lane.strips})" if lane.counted else lane.station.name


# -- files ------------------------------------------------------------------------------------------------------------


def _png(picture: _Picture) -> bytes:
    figure, _ = _drawn(picture)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Title": picture.scope.title})
    return file.getvalue()


def _html(picture: _Picture) -> bytes:
    """A page with the picture as SVG; each pass says on hover what it is."""
    figure, titles = _drawn(picture)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r' xmlns(:\w+)?="[^"]*"', "", svg
    )  # inside HTML they are known, and this way the page names no address
    svg = re.sub(
        r'<g id="(pass-\d+)">', lambda match: f"{match[0]}<title>{escape(titles.get(match[1], ''))}</title>", svg
    )
    svg = re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img" aria-label="ground tracks and passes"', svg, count=1
    )
    title = escape(picture.scope.title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · Skyrack</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>'
        "body{margin:0;background:#fff}svg{display:block;max-width:1400px;width:100%;height:auto;margin:0 auto}"
        f"</style></head><body>{svg}</body></html>\n"
    ).encode()


_WRITERS: Mapping[str, Callable[[_Picture], bytes]] = {".html": _html, ".png": _png}
