"""One picture of a scenario's sky: ground tracks over coastlines, and below them every station's passes.

The picture is a PNG, or a page of HTML with an inline SVG that needs no network. matplotlib draws it without a screen.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timezone
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.geography import broken, coastlines, filled, geodetic_deg, visibility_deg
from controller.placing import Labels
from controller.scene import GRID, INK, LABELS_IN, MARGIN_IN, QUIET, WIDTH_IN, Scene
from controller.timeline import draw_timeline
from controller.wording import clock_text
from testbed.errors import ScenarioError
from testbed.orbit.contacts import Contact
from testbed.orbit.plan_rows import Scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from testbed.orbit.sky import Sky
    from testbed.scenario import Scenario

DPI = 150
_HEAD_IN, _GAP_IN, _FOOT_IN = 0.85, 0.75, 0.5  # above the map, between map and timeline, below the timeline
_MAP_IN = (WIDTH_IN - 2 * MARGIN_IN) / 2  # 360 by 180 degrees

_SEA, _LAND, _COAST = "#eaf1f6", "#d6dcd6", "#8d9a9d"
_STYLE: dict[Any, object] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
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
        data = write(Scene(contacts, scope))
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


def _drawn(scene: Scene) -> tuple[Figure, dict[str, str]]:
    """The figure, and by SVG id what its passes are."""
    from matplotlib.figure import Figure

    lanes_in = sum(lane.height_in for lane in scene.lanes)
    height_in = MARGIN_IN + _HEAD_IN + _MAP_IN + _GAP_IN + lanes_in + _FOOT_IN
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")

    def box(left_in: float, top_in: float, width_in: float, tall_in: float) -> Axes:
        place = (left_in / WIDTH_IN, 1 - (top_in + tall_in) / height_in, width_in / WIDTH_IN, tall_in / height_in)
        axes: Axes = figure.add_axes(place)
        return axes

    wide_in = WIDTH_IN - 2 * MARGIN_IN
    top_in = MARGIN_IN + _HEAD_IN
    _head(box(MARGIN_IN, MARGIN_IN, wide_in, _HEAD_IN), scene)
    _map(box(MARGIN_IN, top_in, wide_in, _MAP_IN), scene)
    _key(box(MARGIN_IN, top_in + _MAP_IN, wide_in, _GAP_IN), scene)
    top_in += _MAP_IN + _GAP_IN
    return figure, draw_timeline(box(MARGIN_IN + LABELS_IN, top_in, wide_in - LABELS_IN, lanes_in), scene)


def _head(axes: Axes, scene: Scene) -> None:
    scope = scene.scope
    axes.set_axis_off()
    axes.text(0, 0.98, scope.title, fontsize=17, fontweight="bold", va="top", transform=axes.transAxes)
    start = scope.epoch.astimezone(timezone.utc)
    facts = (
        _count(len(scope.orbits.motion.names), "satellite"),
        _count(len(scope.orbits.planes), "plane"),
        _count(len(scope.stations), "ground station"),
        _count(len(scene.contacts), "pass", "passes"),
        f"from {start:%Y-%m-%d %H:%M:%S} UTC for {clock_text(scope.duration_s)}",
    )
    axes.text(0, 0.5, "  ·  ".join(facts), fontsize=10, color=QUIET, va="top", transform=axes.transAxes)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _map(axes: Axes, scene: Scene) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    scope = scene.scope
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xticks=range(-150, 180, 30), yticks=range(-60, 90, 30), facecolor=_SEA)
    axes.tick_params(length=0, labelsize=7, pad=-11)
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_edgecolor(_COAST)
    land = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in coastlines()))
    axes.add_patch(PathPatch(land, facecolor=_LAND, edgecolor=_COAST, linewidth=0.5, zorder=1))
    axes.grid(color=GRID, linewidth=0.5, zorder=1.5)
    for station in scope.stations:
        ring = visibility_deg(station, scene.radius_km)
        for shape in filled(*ring):
            axes.fill(*shape.T, facecolor=INK, alpha=0.06, linewidth=0, zorder=2)
        axes.add_collection(LineCollection(broken(*ring), colors=INK, linewidths=0.8, alpha=0.55, zorder=2.5))
    at_s = np.linspace(0.0, scene.track_s, max(2, math.ceil(scene.track_s / 15.0)) + 1)
    tracks = scope.orbits.motion.state_itrs_km(at_s)[0]
    few = len(tracks) <= 24
    lines, colours = [], []
    for name, track in zip(scope.orbits.motion.names, tracks, strict=True):
        pieces = broken(*geodetic_deg(track))
        lines += pieces
        colours += [scene.colour(name)] * len(pieces)
    widths = 1.3 if few else 0.9 if len(tracks) <= 200 else 0.5
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=widths, alpha=0.7, zorder=3))
    _marks(axes, scene, few)
    axes.set(xlim=(-180, 180), ylim=(-90, 90))


def _marks(axes: Axes, scene: Scene, few: bool) -> None:
    """Satellites at the epoch and stations, with their names."""
    from matplotlib.patheffects import withStroke

    scope, names = scene.scope, scene.scope.orbits.motion.names
    scale_pt = 72 * _MAP_IN / 180.0
    labels = Labels(360 * scale_pt, 180 * scale_pt)
    longitude, latitude = geodetic_deg(scene.state_km[0])
    size = 42.0 if few else max(6.0, 1600.0 / len(names))
    edge = 0.7 if len(names) <= 200 else 0.0  # around a small dot it would be all there is
    colours = [scene.colour(name) for name in names]
    axes.scatter(longitude, latitude, s=size, c=colours, edgecolors="white", linewidths=edge, zorder=5)
    wanted = [(one.name, one.longitude_deg, one.latitude_deg, 8.5) for one in scope.stations]
    places = [(one.longitude_deg, one.latitude_deg) for one in scope.stations]
    across, up = zip(*places, strict=True)
    axes.scatter(across, up, s=34, c=INK, marker="^", edgecolors="white", linewidths=0.8, zorder=6)
    if few:
        wanted += [(name, float(x), float(y), 7.0) for name, x, y in zip(names, longitude, latitude, strict=True)]
    for _, x, y, _ in wanted:
        labels.keep_clear((x + 180) * scale_pt, (y + 90) * scale_pt, 4.0)
    halo = [withStroke(linewidth=2.4, foreground="white", alpha=0.85)]
    for text, x, y, points in wanted:
        dx, dy, side = labels.place(text, points, (x + 180) * scale_pt, (y + 90) * scale_pt)
        axes.annotate(
            text, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center_baseline", fontsize=points,
            color=INK, fontweight="bold" if points > 8 else "normal", path_effects=halo, zorder=7,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
            if max(abs(dx), abs(dy)) > 12 else None,
        )  # fmt: skip


def _key(axes: Axes, scene: Scene) -> None:
    """What colours and lines on the map are."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    planes = len(scene.scope.orbits.planes)
    colours = ", one colour a plane" if planes > 1 else ""
    text = (
        f"Dots: satellites at mission time 0:00{colours}. Lines: where they go in the next "
        f"{clock_text(scene.track_s)}. Rings: from where a station sees a satellite {scene.altitude_text} up."
    )
    axes.text(0, 0.86, text, fontsize=8, color=QUIET, va="top")
    axes.text(0, 0.16, "Passes by station", fontsize=11, fontweight="bold", va="bottom")
    if 1 < planes <= 12:
        first = 1.0 - 0.066 * planes
        for plane, names in enumerate(scene.scope.orbits.planes):
            axes.scatter(first + 0.066 * plane, 0.3, s=26, c=scene.colour(names[0]), clip_on=False)
            axes.text(first + 0.066 * plane + 0.009, 0.3, f"plane {plane}", fontsize=8, va="center_baseline")


# -- files ------------------------------------------------------------------------------------------------------------


def _png(scene: Scene) -> bytes:
    figure, _ = _drawn(scene)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Title": scene.scope.title})
    return file.getvalue()


def _html(scene: Scene) -> bytes:
    """A page with the picture as SVG; each pass says on hover what it is."""
    figure, titles = _drawn(scene)
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
    title = escape(scene.scope.title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · Skyrack</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>'
        "body{margin:0;background:#fff}svg{display:block;max-width:1400px;width:100%;height:auto;margin:0 auto}"
        f"</style></head><body>{svg}</body></html>\n"
    ).encode()


_WRITERS: Mapping[str, Callable[[Scene], bytes]] = {".html": _html, ".png": _png}
