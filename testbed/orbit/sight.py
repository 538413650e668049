"""Lines of sight between satellites: when a ray passes high enough over the Earth and is short enough.

Margins are sampled, and every edge or extreme between samples is searched for, for all pairs at once and in blocks, so
that memory stays bounded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.errors import ScenarioError
from testbed.orbit.motion import Array, Motion
from testbed.orbit.propagate import Ephemeris

MEAN_EARTH_RADIUS_KM = 6371.0
"""IUGG mean radius R1. Whether a chord grazes is judged on a sphere: over the poles the ellipsoid lies 14 km lower, at
the equator 7 km higher, either of them small against the 80 km of air that a laser stays out of."""

DEFAULT_MIN_ALTITUDE_KM = 80.0
"""Below the mesopause the air's refraction and clouds disturb an optical link."""

EDGE_S = 0.01
"""How well edges of windows are placed. What would be open, or blocked, for less is left out."""

STEP_S = 30.0
"""Between samples. Two satellites that meet head on at 15 km/s are 450 km further by the next one, so that nothing but
one rise and one fall can hide between two; those are searched for wherever they could reach the limit."""

BLOCK_SAMPLES = 1 << 18
"""How many samples are worked on at once: some 100 MB with all that is made of them."""

Pair = tuple[str, str]
Window = tuple[float, float]
Index = NDArray[np.intp]
Measure = Callable[[Index, Array], Array]
"""Something of numbered pairs at instants, which broadcast together."""

ALWAYS: tuple[Window, ...] = ((0.0, math.inf),)
"""The windows of a link that is up throughout."""


@dataclass(frozen=True)
class IslLink:
    """A link, up both ways in ``windows``: (start, end) in mission seconds, in order.

    A link that is up throughout has :data:`ALWAYS`. A window that the horizon cuts ends with it.
    """

    first: str
    second: str
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Limits:
    """A ray stays above ``min_altitude_km`` over the mean sphere, and is no longer than ``max_range_km``."""

    min_altitude_km: float = DEFAULT_MIN_ALTITUDE_KM
    max_range_km: float = math.inf

    def margin_km(self, first_km: Array, second_km: Array) -> Array:
        """How far the ray is from breaking a limit (negative: it does), for positions of shape (..., 3)."""
        spare_km = self.max_range_km - np.linalg.norm(second_km - first_km, axis=-1)
        margin_km: Array = np.minimum(_altitude_km(first_km, second_km) - self.min_altitude_km, spare_km)
        return margin_km


def lowest_altitudes_km(motion: Motion, pairs: Sequence[Pair], duration_s: float) -> tuple[float, ...]:
    """For each pair the lowest altitude (km over the mean sphere) of its ray, at any time of ``[0, duration_s]``."""
    rays = Rays.of(motion, pairs, duration_s)
    return tuple(rays.least(rays.altitude_km).tolist())


class Span(NamedTuple):
    """Two satellites' rows, and a time in which they are looked at."""

    first: int
    second: int
    start_s: float
    end_s: float


class Rays:
    """What lies between pairs of satellites. Numbers of pairs and instants broadcast together."""

    def __init__(self, ephemeris: Ephemeris, rows: Iterable[tuple[int, int]]) -> None:
        self._ephemeris = ephemeris
        self._rows = np.array(list(rows), dtype=np.intp).reshape(-1, 2)
        self.count = len(self._rows)

    @classmethod
    def of(cls, motion: Motion, pairs: Iterable[Pair], duration_s: float) -> Rays:
        rows = [(motion.row(first), motion.row(second)) for first, second in pairs]
        return cls(Ephemeris(motion, duration_s), rows)

    def ends_km(self, pair: Index, at_s: Array) -> tuple[Array, Array]:
        """Where the rays begin and end, each of shape (..., 3)."""
        first, second = self._rows[pair, 0], self._rows[pair, 1]
        return self._ephemeris.position_at_km(first, at_s), self._ephemeris.position_at_km(second, at_s)

    def altitude_km(self, pair: Index, at_s: Array) -> Array:
        """Lowest altitudes."""
        return _altitude_km(*self.ends_km(pair, at_s))

    def shortness_km(self, pair: Index, at_s: Array) -> Array:
        """Lengths, negative: the least of them is the longest ray."""
        first_km, second_km = self.ends_km(pair, at_s)
        return -np.asarray(np.linalg.norm(second_km - first_km, axis=-1))

    def least(self, measure: Measure) -> Array:
        """The least that each pair's measure ever is, shape (pairs,)."""
        grid_s = np.linspace(0.0, self._ephemeris.duration_s, _samples(self._ephemeris.duration_s))
        height = max(1, BLOCK_SAMPLES // len(grid_s))
        least = [np.empty(0)]
        for top in range(0, self.count, height):
            pairs = np.arange(top, min(top + height, self.count))
            values = measure(pairs[:, None], grid_s[None, :])
            lowest = values.argmin(axis=1)
            left_s, right_s = grid_s[np.maximum(lowest - 1, 0)], grid_s[np.minimum(lowest + 1, len(grid_s) - 1)]
            at_s = _bottom(partial(measure, pairs), left_s, right_s)
            least.append(np.minimum(values.min(axis=1), measure(pairs, at_s)))
        return np.concatenate(least)


def _altitude_km(first_km: Array, second_km: Array) -> Array:
    """The lowest altitude of a ray over the mean sphere; positions of shape (..., 3)."""
    chord_km = second_km - first_km
    # Where along the chord it is nearest to the Earth's centre: 0 is one end, 1 the other.
    square_km2 = np.maximum(np.einsum("...i,...i", chord_km, chord_km), 1e-12)
    share = np.clip(-np.einsum("...i,...i", first_km, chord_km) / square_km2, 0.0, 1.0)
    nearest_km: Array = np.linalg.norm(first_km + share[..., None] * chord_km, axis=-1)
    return nearest_km - MEAN_EARTH_RADIUS_KM


def always_clear(
    motion: Motion, pairs: Sequence[Pair], duration_s: float, limits: Limits, field: str, advice: str
) -> tuple[IslLink, ...]:
    """Links that are always up. Raises ScenarioError where a ray is ever lower or longer than the limits allow."""
    rays = Rays.of(motion, pairs, duration_s)
    lowest_km, longest_km = rays.least(rays.altitude_km), -rays.least(rays.shortness_km)
    low, long = lowest_km < limits.min_altitude_km, longest_km > limits.max_range_km
    if low.any():
        worst, altitude_km = int(lowest_km.argmin()), float(lowest_km.min())
        where = f"passes {altitude_km:.0f} km above the Earth" if altitude_km >= 0 else "looks through the Earth"
        raise ScenarioError(
            f"the link between {pairs[worst][0]} and {pairs[worst][1]} {where}{_among(low)}",
            field=field,
            found=f"{altitude_km:.1f} km at its lowest (0 is the ground)",
            allowed=f"{limits.min_altitude_km:g} km or more: {advice}",
        )
    if long.any():
        worst, range_km = int(longest_km.argmax()), float(longest_km.max())
        raise ScenarioError(
            f"the link between {pairs[worst][0]} and {pairs[worst][1]} is too long{_among(long)}",
            field=field,
            found=f"{range_km:.1f} km at its longest",
            allowed=f"{limits.max_range_km:g} km or less (isl.max_range)",
        )
    return tuple(IslLink(first, second, ALWAYS) for first, second in pairs)


def _among(bad: NDArray[np.bool_]) -> str:
    return f" ({bad.sum()} of {len(bad)} links do)" if bad.sum() > 1 else ""


def when_clear(motion: Motion, pairs: Sequence[Pair], duration_s: float, limits: Limits) -> tuple[IslLink, ...]:
    """Links that are up whenever the limits allow it, without those that they never allow."""
    if not pairs:
        return ()
    ephemeris = Ephemeris(motion, duration_s)
    spans = [Span(motion.row(first), motion.row(second), 0.0, duration_s) for first, second in pairs]
    windows = clear_windows(ephemeris, spans, limits)
    return tuple(
        IslLink(*pair, endless(clear, duration_s)) for pair, clear in zip(pairs, windows, strict=True) if clear
    )


def endless(windows: Sequence[Window], duration_s: float) -> tuple[Window, ...]:
    return ALWAYS if list(windows) == [(0.0, duration_s)] else tuple(windows)


def clear_windows(ephemeris: Ephemeris, spans: Sequence[Span], limits: Limits) -> list[list[Window]]:
    """For each span the windows in it in which the ray keeps within the limits."""
    rays = Rays(ephemeris, ((span.first, span.second) for span in spans))

    def margin_km(span: Index, at_s: Array) -> Array:
        return limits.margin_km(*rays.ends_km(span, at_s))

    windows: list[list[Window]] = []
    counts = np.array([_samples(span.end_s - span.start_s) for span in spans], dtype=np.intp)
    block = (np.cumsum(counts) - counts) // BLOCK_SAMPLES
    for number in np.unique(block).tolist():
        within = np.flatnonzero(block == number)
        samples = _Samples.of([spans[one] for one in within.tolist()], within, counts[within])
        clear = margin_km(samples.span, samples.at_s) >= 0
        edges_s: dict[int, list[float]] = defaultdict(list)
        for span, edge_s in zip(*(each.tolist() for each in _edges(margin_km, samples)), strict=True):
            edges_s[span].append(edge_s)
        for span, clear_at_first in zip(within.tolist(), clear[samples.begins].tolist(), strict=True):
            windows.append(_windows(sorted(edges_s.get(span, ())), clear_at_first, spans[span]))
    return windows


@dataclass(frozen=True)
class _Samples:
    """Evenly spaced instants of several spans, all in one row: which span, when, and whether it is first or last."""

    span: Index
    at_s: Array
    begins: NDArray[np.bool_]
    ends: NDArray[np.bool_]

    @classmethod
    def of(cls, spans: Sequence[Span], numbers: Index, counts: Index) -> _Samples:
        start_s, end_s = (np.repeat([span[end] for span in spans], counts) for end in (2, 3))
        last = np.repeat(counts - 1, counts)
        place = np.arange(len(last)) - np.repeat(np.cumsum(counts) - counts, counts)
        at_s = np.where(place == last, end_s, start_s + (end_s - start_s) * (place / last))
        return cls(np.repeat(numbers, counts), at_s, place == 0, place == last)


def _edges(margin_km: Measure, samples: _Samples) -> tuple[Index, Array]:
    """All instants at which a margin changes its sign, and of which span it is."""
    at_s, margins_km = samples.at_s, margin_km(samples.span, samples.at_s)
    clear = margins_km >= 0
    crossed = np.flatnonzero((clear[1:] != clear[:-1]) & ~samples.ends[:-1])
    dips = _dips(margins_km, samples)
    owner, sign = samples.span[dips], np.where(clear[dips], 1.0, -1.0)
    left_s, right_s = at_s[dips - ~samples.begins[dips]], at_s[dips + ~samples.ends[dips]]
    bottom_s = _bottom(lambda instants_s: sign * margin_km(owner, instants_s), left_s, right_s)
    deep = (margin_km(owner, bottom_s) >= 0) != clear[dips]
    span = np.concatenate([samples.span[crossed], owner[deep], owner[deep]])
    low_s = np.concatenate([at_s[crossed], left_s[deep], bottom_s[deep]])
    high_s = np.concatenate([at_s[crossed + 1], bottom_s[deep], right_s[deep]])
    return span, _crossings(partial(margin_km, span), low_s, high_s)


def _windows(edges_s: Sequence[float], clear: bool, span: Span) -> list[Window]:
    """From the instants at which a ray becomes clear and blocked by turns."""
    instants_s = [*([span.start_s] if clear else []), *edges_s]
    instants_s += [span.end_s] * (len(instants_s) % 2)
    windows: list[Window] = []
    for start_s, end_s in zip(instants_s[::2], instants_s[1::2], strict=True):
        if windows and start_s - windows[-1][1] < EDGE_S:
            start_s = windows.pop()[0]
        windows.append((start_s, end_s))
    return [(start_s, end_s) for start_s, end_s in windows if end_s - start_s >= EDGE_S]


def _samples(length_s: float) -> int:
    return max(2, math.ceil(length_s / STEP_S)) + 1


def _dips(margins_km: Array, samples: _Samples) -> Index:
    """Samples beside which the margin may change its sign and change back: local extremes near to 0.

    How much further an extreme goes than the sample next to it is at most the second difference there (an eighth of it
    for a parabola, all of it for a kink, where range takes over from altitude).
    """
    sign = np.where(margins_km >= 0, 1.0, -1.0)
    before, after = np.roll(margins_km, 1), np.roll(margins_km, -1)
    bend = np.abs(before - 2 * margins_km + after)
    bend = np.where(samples.begins, np.roll(bend, -1), np.where(samples.ends, np.roll(bend, 1), bend))
    least = samples.begins | (sign * margins_km <= sign * before)
    least &= samples.ends | (sign * margins_km < sign * after)
    return np.flatnonzero(least & (np.abs(margins_km) <= bend))


def _bottom(measure: Callable[[Array], Array], left_s: Array, right_s: Array) -> Array:
    """Where each measure is least between two instants, by golden section (Kiefer, Proc. AMS 4, 1953)."""
    share = (math.sqrt(5) - 1) / 2
    for _ in range(40):  # 60 s times 0.618^40 is 0.3 microseconds
        inner_s = right_s - share * (right_s - left_s)
        outer_s = left_s + share * (right_s - left_s)
        falls = measure(inner_s) > measure(outer_s)
        left_s, right_s = np.where(falls, inner_s, left_s), np.where(falls, right_s, outer_s)
    return (left_s + right_s) / 2


def _crossings(margin_km: Callable[[Array], Array], low_s: Array, high_s: Array) -> Array:
    """Where each margin changes its sign between two instants, by bisection."""
    clear = margin_km(low_s) >= 0
    for _ in range(24):  # 60 s / 2^24 is 4 microseconds
        middle_s = (low_s + high_s) / 2
        same = (margin_km(middle_s) >= 0) == clear
        low_s, high_s = np.where(same, middle_s, low_s), np.where(same, high_s, middle_s)
    return (low_s + high_s) / 2
