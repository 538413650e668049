"""Charts as inline SVG: no script, no font, no file beside the page. Colours are the page's CSS variables, so that one
chart serves light, dark and paper. Every mark has a ``<title>``, which browsers show on hover and readers speak."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from controller.wording import clock_text

WIDTH = 960
_LEFT, _RIGHT, _TOP, _BOTTOM = 118, 18, 14, 34
_ROW = 22


@dataclass(frozen=True)
class Bar:
    """One stretch of a timeline's row. ``style`` is a CSS class."""

    row: str
    start: float
    end: float
    style: str
    title: str


@dataclass(frozen=True)
class Point:
    """One mark of a line or scatter chart."""

    x: float
    y: float
    title: str
    style: str = "mark"


class _Axis:
    """Linear map of values to pixels."""

    def __init__(self, low: float, high: float, at_low: float, at_high: float) -> None:
        self.low, self.high = low, high if high > low else low + 1.0
        self._at_low, self._scale = at_low, (at_high - at_low) / (self.high - self.low)

    def __call__(self, value: float) -> float:
        return self._at_low + (value - self.low) * self._scale

    def ticks(self, count: int, steps: Sequence[float] = (1, 2, 5)) -> list[float]:
        """Round values inside the range, about ``count`` of them."""
        rough = (self.high - self.low) / count
        decade = 10.0 ** math.floor(math.log10(rough))
        step = next((decade * size for size in steps if decade * size >= rough), decade * 10)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]

    def time_ticks(self, count: int) -> list[float]:
        """The same for seconds, in the steps that clocks have."""
        rough = (self.high - self.low) / count
        step = next((size for size in _TIME_STEPS_S if size >= rough), _TIME_STEPS_S[-1])
        if rough < 1:
            return self.ticks(count)
        return [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


_TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 864_000)


def timeline(rows: Sequence[str], bars: Sequence[Bar], end: float, label: str) -> str:
    """One row per name, bars over mission time."""
    height = _TOP + _ROW * len(rows) + _BOTTOM
    x = _Axis(0.0, end, _LEFT, WIDTH - _RIGHT)
    place = {name: _TOP + index * _ROW for index, name in enumerate(rows)}
    parts = _time_grid(x, height)
    for name, y in place.items():
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect class="lane" x="{_LEFT}" y="{y + 2}" width="{WIDTH - _RIGHT - _LEFT}" height="{_ROW - 4}"/>'
        )
    for bar in bars:
        y, left = place[bar.row], x(bar.start)
        width = max(x(min(bar.end, end)) - left, 0.6)  # thinner than this nothing is seen
        parts.append(
            f'<rect class="{bar.style}" x="{left:.2f}" y="{y + 2}" width="{width:.2f}" height="{_ROW - 4}">'
            f"<title>{escape(bar.title)}</title></rect>"
        )
    return _svg(height, parts, label)


def line(points: Sequence[Point], label: str, *, y_low: float, y_high: float, y_text: Callable[[float], str]) -> str:
    """Points joined in order, over mission time."""
    height = 260
    end = max((point.x for point in points), default=1.0)
    x, y = _Axis(0.0, end, _LEFT, WIDTH - _RIGHT), _Axis(y_low, y_high, height - _BOTTOM, _TOP)
    parts = [*_time_grid(x, height), *_value_grid(y, y_text)]
    if points:
        path = " ".join(f"{'M' if i == 0 else 'L'}{x(p.x):.1f} {y(p.y):.1f}" for i, p in enumerate(points))
        parts.append(f'<path class="curve" d="{path}"/>')
        parts += [_dot(x, y, point, 4) for point in points]
    return _svg(height, parts, label)


def scatter(points: Sequence[Point], label: str) -> str:
    """Predicted (across) against measured (up), with the diagonal on which both are equal."""
    height, side = 340, 290
    low, high = 0.0, max((max(point.x, point.y) for point in points), default=1.0) * 1.05
    x, y = _Axis(low, high, _LEFT, _LEFT + side), _Axis(low, high, _TOP + side, _TOP)
    parts = _value_grid(y, lambda value: f"{value:g} s", right=_LEFT + side)
    for tick in x.ticks(4):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{_TOP + side}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{_TOP + side + 16}" text-anchor="middle">{tick:g} s</text>'
        )
    parts.append(f'<line class="diagonal" x1="{x(low):.1f}" y1="{y(low):.1f}" x2="{x(high):.1f}" y2="{y(high):.1f}"/>')
    parts += [_dot(x, y, point, 3) for point in points]
    parts.append(
        f'<text class="tick" x="{_LEFT + side}" y="{_TOP + side + 30}" text-anchor="end">predicted duration</text>'
    )
    parts.append(f'<text class="tick" x="{_LEFT + 6}" y="{_TOP + 14}">measured duration</text>')
    return _svg(height, parts, label, width=_LEFT + side + 60)


def bars(rows: Sequence[tuple[str, float, str, str]], label: str) -> str:
    """Horizontal bars: (name, value, text, CSS class)."""
    height = _TOP + _ROW * len(rows) + 6
    left = 190
    x = _Axis(0.0, max((value for _, value, _, _ in rows), default=1.0), left, WIDTH - 110)
    parts = []
    for index, (name, value, text, style) in enumerate(rows):
        y = _TOP + index * _ROW
        width = max(x(value) - left, 1.0)
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect class="{style}" x="{left}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" rx="2">'
            f"<title>{escape(f'{name}: {text}')}</title></rect>"
        )
        parts.append(f'<text class="value" x="{left + width + 6:.1f}" y="{y + 14}">{escape(text)}</text>')
    return _svg(height, parts, label)


def _dot(x: _Axis, y: _Axis, point: Point, radius: int) -> str:
    return (
        f'<circle class="{point.style}" cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="{radius}">'
        f"<title>{escape(point.title)}</title></circle>"
    )


def _time_grid(x: _Axis, height: int) -> list[str]:
    parts = []
    for tick in x.time_ticks(8):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">'
            f"{clock_text(tick)}</text>"
        )
    return parts


def _value_grid(y: _Axis, text: Callable[[float], str], right: float = WIDTH - _RIGHT) -> list[str]:
    parts = []
    for tick in y.ticks(5):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(text(tick))}</text>'
        )
    return parts


def _svg(height: float, parts: Sequence[str], label: str, width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escape(label)}">' + "".join(parts) + "</svg>"
    )
