"""Passes: when a place on the ground sees a satellite above an elevation, for many of both at once.

Three steps, each over whole arrays, in blocks of satellites so that memory stays bounded:

1. The steps of the ephemeris in which a satellite can come near enough to a place, by the angle between them at the
   centre of the Earth. In a low orbit this leaves some 2 % of all (place, satellite, step).
2. In such a step the satellite's way is a polynomial in time. Where the elevation's derivative changes sign between
   the ends of the step, its extremum is solved for. So from each of those instants to the next the elevation is
   monotonic.
3. Where it is above the mask at one of two such neighbours and not at the other there is one edge: solved for.

That a step holds one extremum at most follows from its length: seen from a place, a satellite in straight flight has
exactly one (``_Sight.rising`` is then linear in time), and in one step a satellite turns by a third of a radian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.errors import BugError
from testbed.orbit.motion import Array
from testbed.orbit.propagate import EARTH_RATE_RAD_S, Ephemeris, quintic

COARSE_TURN_RAD = 0.36
"""Step of an ephemeris for passes: some 5 minutes in a low orbit, which is then within 1.3 m, and within 2.7 m at any
eccentricity. That moves an edge by half a millisecond."""

EDGE_TOLERANCE_S = 1e-6
"""How well edges are solved for, on the ephemeris."""

_SLACK_RAD = 1e-3
"""What the first step leaves out: J2's bend of the ground track in a step (1e-4) and single precision (3e-4)."""

_SMALL_TURN = 1e-3
"""Squared sine of an angle (2 degrees) too small to tell the plane in which a satellite turns."""

_BLOCK_CELLS = 1 << 20
"""How many (place or component of a state, satellite, node) are worked on at once: some 100 MB."""

_MOST_ROUNDS = 200
"""Newton's method needs 3 to 6. Bisections, which step in where it would leave its bracket, exhaust a double in 60."""

Index = NDArray[np.intp]
Flags = NDArray[np.bool_]


class Sites(NamedTuple):
    """Places on the ground, and the elevation above which each sees a satellite."""

    position_km: Array
    """Earth-fixed, shape (places, 3)."""
    zenith: Array
    """Unit vectors, shape (places, 3)."""
    mask_deg: Array
    """Shape (places,)."""


class Passes(NamedTuple):
    """Columns of one length. Those of one satellite over one site are in order of time."""

    satellite: Index
    site: Index
    start_s: Array
    end_s: Array
    highest_deg: Array

    def chosen(self, which: Flags) -> Passes:
        """Some of them."""
        times_and_angle = (column[which] for column in (self.start_s, self.end_s, self.highest_deg))
        return Passes(self.satellite[which], self.site[which], *times_and_angle)


def find_passes(ephemeris: Ephemeris, sites: Sites) -> Passes:
    """All passes in ``[0, duration_s]``; those under way at its ends are cut there."""
    count, nodes, axes = ephemeris.position_km.shape
    block = max(1, _BLOCK_CELLS // (nodes * (len(sites.mask_deg) + 3 * axes)))
    found = [_passes(ephemeris, sites, slice(first, first + block)) for first in range(0, count, block)]
    return Passes(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


# -- where to look ----------------------------------------------------------------------------------------------------


class _Steps(NamedTuple):
    """Steps of the ephemeris: columns of one length, in order of site, row (satellite of the block) and number."""

    site: Index
    row: Index
    number: Index

    def chosen(self, which: Flags | Index) -> _Steps:
        return _Steps(*(column[which] for column in self))


def _near_steps(position_km: Array, sites: Sites, step_s: float) -> _Steps:
    """Steps in which a satellite can rise above a mask, and few others. ``position_km``: (3, satellites, nodes)."""
    radius_km = np.sqrt(_dot(position_km, position_km))
    unit = (position_km / radius_km).astype(np.float32)
    middle = unit[..., 1:] + unit[..., :-1]
    middle_length = np.sqrt(_dot(middle, middle))
    half_turn = np.arccos(np.minimum(1.0, middle_length.min(axis=-1) / 2))
    bend_km = np.abs(np.diff(radius_km, 2, axis=-1)).max(axis=-1)
    reach = _reach(sites, radius_km.max(axis=-1) + bend_km / 4)  # between nodes the highest point is bend / 8 higher
    # The Earth's turn bends a ground track away from the great circle through its ends, by half of this in the middle.
    quarter_day = EARTH_RATE_RAD_S * step_s / 2
    reach = reach + quarter_day * (half_turn + quarter_day) + _SLACK_RAD

    towards = (sites.position_km / np.linalg.norm(sites.position_km, axis=1, keepdims=True)).astype(np.float32)
    # The middle of a step is no further from any of its points than half a turn. (Sums and not a matrix product: BLAS
    # would start threads for it, which cost more than they bring.)
    furthest = np.cos(np.minimum(reach + half_turn, np.pi)).astype(np.float32)[..., None]
    near_by_site = [_dot(one, middle) >= limit * middle_length for one, limit in zip(towards, furthest, strict=True)]
    steps = _Steps(*np.nonzero(np.stack(near_by_site)))

    # The great circle itself passes the site at this distance, if the turn is large enough to tell it.
    cell = steps.row * radius_km.shape[1] + steps.number
    start, end = (unit.reshape(3, -1).take(at, axis=1) for at in (cell, cell + 1))
    normal = np.stack([start[one] * end[two] - start[two] * end[one] for one, two in ((1, 2), (2, 0), (0, 1))])
    turn_square = _dot(normal, normal)
    beside_square = _dot(normal, towards.T.take(steps.site, axis=1)) ** 2
    widest = np.where(reach < np.pi / 2, np.sin(reach) ** 2, np.inf).astype(np.float32)
    near = beside_square <= widest[steps.site, steps.row] * turn_square
    return steps.chosen(near | (turn_square < _SMALL_TURN))


def _reach(sites: Sites, radius_km: Array) -> Array:
    """Greatest angle at the Earth's centre between a site and a satellite above its mask; (sites, satellites), rad."""
    site_km = np.linalg.norm(sites.position_km, axis=1)
    tilt = np.arccos(np.clip(_dot(sites.position_km.T, sites.zenith.T) / site_km, -1.0, 1.0))
    mask = (np.radians(sites.mask_deg) - tilt)[:, None]  # above the plane normal to the radius, at the least
    reach: Array = np.arccos(np.clip(site_km[:, None] * np.cos(mask) / radius_km, -1.0, 1.0)) - mask
    return np.maximum(0.0, reach)


# -- one block of satellites ------------------------------------------------------------------------------------------


class _Sight(NamedTuple):
    """A satellite seen from a site, at one instant in each step. Derivatives are by the share of the step."""

    height: Array
    """Above the site's horizontal plane, in km."""
    climb: Array
    """Derivative of the height."""
    square: Array
    """Squared distance, in km2."""
    parting: Array
    """Half the derivative of the squared distance."""

    @property
    def rising(self) -> Array:
        """Of the sign of the elevation's derivative."""
        return self.climb * self.square - self.height * self.parting

    def above(self, mask_sine: Array) -> Array:
        """How far above the mask, in km: positive while the satellite is up."""
        return self.height - mask_sine * np.sqrt(self.square)

    @property
    def elevation_deg(self) -> Array:
        degrees: Array = np.degrees(np.arcsin(np.clip(self.height / np.sqrt(self.square), -1.0, 1.0)))
        return degrees


class _Arcs(NamedTuple):
    """Way of a satellite over each step, seen from the site, as polynomials in the share of the step that has gone.

    (The squared distance would be one too, but of the Earth's radius over the distance less precision: near the zenith
    that costs 5 m where the position costs 0.5.)
    """

    coefficients: Array
    """In km, Earth-fixed; shape (6, 3, steps), constant first."""
    zenith: Array
    """Shape (3, steps)."""
    mask_sine: Array
    """Shape (steps,)."""

    def chosen(self, which: Flags | Index) -> _Arcs:
        return _Arcs(*(values[..., which] for values in self))

    def at(self, u: Array) -> _Sight:
        return _sight(*_expanded(self.coefficients, u), self.zenith)

    def above(self, u: Array) -> tuple[Array, Array]:
        """How far the satellite is above the mask, and the derivative of that."""
        sight = self.at(u)
        distance = np.sqrt(sight.square)
        return sight.height - self.mask_sine * distance, sight.climb - self.mask_sine * sight.parting / distance

    def rising(self, u: Array) -> tuple[Array, Array]:
        """``_Sight.rising``, and its derivative."""
        way, velocity = _expanded(self.coefficients, u)
        _, _, second, third, fourth, fifth = self.coefficients
        acceleration = 2 * second + u * (6 * third + u * (12 * fourth + u * (20 * fifth)))
        sight = _sight(way, velocity, self.zenith)
        slope = sight.climb * sight.parting + _dot(acceleration, self.zenith) * sight.square
        return sight.rising, slope - sight.height * (_dot(velocity, velocity) + _dot(way, acceleration))


class _Block:
    """The nodes of some satellites, seen from sites."""

    def __init__(self, ephemeris: Ephemeris, sites: Sites, rows: slice) -> None:
        nodes = ephemeris.nodes(rows)
        self.steps = _near_steps(nodes[0], sites, ephemeris.step_s)
        self._count = nodes[0].shape[-1]
        self._nodes = tuple(values.reshape(3, -1) for values in nodes)
        self._sites = sites

    def sight(self, steps: _Steps, end: int) -> _Sight:
        """At the beginning (``end`` is 0) or the end (1) of each step. The same for neighbours, to the last bit."""
        way, velocity = self._states(steps, end, 2)
        return _sight(way, velocity, self._zenith(steps))

    def arcs(self, steps: _Steps, mask_sine: Array) -> _Arcs:
        coefficients = quintic(*self._states(steps, 0, 3), *self._states(steps, 1, 3))
        return _Arcs(np.stack(coefficients), self._zenith(steps), mask_sine)

    def _states(self, steps: _Steps, end: int, orders: int) -> list[Array]:
        node = steps.row * self._count + steps.number + end
        position, *derivatives = (values.take(node, axis=1) for values in self._nodes[:orders])
        return [position - self._sites.position_km.T.take(steps.site, axis=1), *derivatives]

    def _zenith(self, steps: _Steps) -> Array:
        zenith: Array = self._sites.zenith.T.take(steps.site, axis=1)
        return zenith


def _sight(way: Array, velocity: Array, zenith: Array) -> _Sight:
    return _Sight(_dot(way, zenith), _dot(velocity, zenith), _dot(way, way), _dot(way, velocity))


def _passes(ephemeris: Ephemeris, sites: Sites, rows: slice) -> Passes:
    """Passes of some satellites, in order of site, satellite, time."""
    block = _Block(ephemeris, sites, rows)
    steps = block.steps
    mask_sine = np.sin(np.radians(sites.mask_deg)).take(steps.site)
    left, right = block.sight(steps, 0), block.sight(steps, 1)
    above_left, above_right = left.above(mask_sine), right.above(mask_sine)
    up_left, up_right = above_left >= 0, above_right >= 0
    peaks = (left.rising > 0) & (right.rising <= 0)
    dips = (left.rising < 0) & (right.rising >= 0) & up_left & up_right
    first = (steps.number == 0) & up_left
    last = (steps.number == len(ephemeris.grid_s) - 2) & up_right

    kept = np.nonzero(peaks | dips | first | last | (up_left != up_right))[0]
    steps, left, right = steps.chosen(kept), _Sight(*(one[kept] for one in left)), _Sight(*(one[kept] for one in right))
    above_left, above_right, first, last = above_left[kept], above_right[kept], first[kept], last[kept]
    arcs = block.arcs(steps, mask_sine[kept])

    # Extrema. A step without one is treated as if it had one at its end, from where on nothing happens.
    turns = np.nonzero(peaks[kept] | dips[kept])[0]
    falling = peaks[kept][turns]
    share = left.rising[turns] / (left.rising[turns] - right.rising[turns])
    bounds = np.zeros(len(turns)), np.ones(len(turns))
    extremum = np.ones(len(kept))
    extremum[turns] = _roots(_Arcs.rising, arcs.chosen(turns), *bounds, share, falling, ephemeris.step_s)
    top = _Sight(*(values.copy() for values in right))
    for values, found in zip(top, arcs.chosen(turns).at(extremum[turns]), strict=True):
        values[turns] = found
    above_top = top.above(arcs.mask_sine)

    # Edges, at most one on either side of the extremum: a row each of four instants in order of time, nan for none.
    instants = np.full((len(kept), 4), np.nan)
    instants[first, 0], instants[last, 3] = 0.0, ephemeris.duration_s
    turned = np.zeros(len(kept), dtype=np.bool_)
    turned[turns] = True
    for column, low, high, above_low, above_high in (
        (1, np.zeros(len(kept)), extremum, above_left, above_top),
        (2, extremum, np.ones(len(kept)), above_top, above_right),
    ):
        edges = np.nonzero((above_low >= 0) != (above_high >= 0))[0]
        low, high, above_low, above_high = low[edges], high[edges], above_low[edges], above_high[edges]
        share = above_low / (above_low - above_high)
        # From an extremum the elevation departs with the square of time, otherwise steadily.
        from_top = 1 - np.sqrt(1 - share) if column == 1 else np.sqrt(share)
        guess = low + (high - low) * np.where(turned[edges], from_top, share)
        u = _roots(_Arcs.above, arcs.chosen(edges), low, high, guess, above_low >= 0, ephemeris.step_s)
        instants[edges, column] = np.minimum((steps.number[edges] + u) * ephemeris.step_s, ephemeris.duration_s)
    return _joined(steps, instants, left, top, right, rows.start, sites)


def _joined(
    steps: _Steps, instants: Array, left: _Sight, top: _Sight, right: _Sight, first_row: int, sites: Sites
) -> Passes:
    """Beginnings and ends alternate within a pair, since neighbouring steps agree on the node between them."""
    there = ~np.isnan(instants)
    step = np.nonzero(there)[0]
    starts, ends = step[0::2], step[1::2]
    start_s, end_s = instants[there][0::2], instants[there][1::2]
    if len(starts) != len(ends) or (steps.site[starts] != steps.site[ends]).any() or (end_s < start_s).any():
        raise BugError("a pass has a beginning and no end")
    highest_deg = sites.mask_deg.take(steps.site[starts])
    # By the number of instants up to one, it lies in a pass if that is odd.
    instants_before = np.cumsum(there).reshape(there.shape)
    for column, sight in ((0, left), (1, top), (3, right)):
        count = instants_before[:, column] - (column == 3)
        inside = (count % 2 == 1) & (there[:, column] | (column == 1))
        np.maximum.at(highest_deg, count[inside] // 2, _Sight(*(values[inside] for values in sight)).elevation_deg)
    passes = Passes(steps.row[starts] + first_row, steps.site[starts], start_s, end_s, highest_deg)
    return passes.chosen(end_s > start_s)


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _roots(
    function: Callable[[_Arcs, Array], tuple[Array, Array]],
    arcs: _Arcs,
    low: Array,
    high: Array,
    guess: Array,
    positive_at_low: Flags,
    step_s: float,
) -> Array:
    """Where the function changes sign, once in each bracket: Newton's method, or bisection where it leaves that.

    Every eighth round bisects in any case, so that none can go on for ever.
    """
    roots: Array = guess.copy()
    open_ones = np.arange(len(guess))
    u = guess
    for number in range(_MOST_ROUNDS):
        value, slope = function(arcs, u)
        before = (value >= 0) == positive_at_low
        low, high = np.where(before, u, low), np.where(before, high, u)
        with np.errstate(divide="ignore", invalid="ignore"):
            better = u - value / slope
        trusted = (better >= low) & (better <= high) if number % 8 != 7 else np.zeros(len(u), dtype=np.bool_)
        better = np.where(trusted, better, (low + high) / 2)
        moving = np.abs(better - u) * step_s > EDGE_TOLERANCE_S
        u = roots[open_ones] = better
        if not moving.any():
            return roots
        if number >= 3:
            open_ones, arcs, u = open_ones[moving], arcs.chosen(moving), u[moving]
            low, high, positive_at_low = low[moving], high[moving], positive_at_low[moving]
    raise BugError("the edges of passes were not found")


def _dot(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Products of vectors whose components are the first axis, each computed alike wherever it stands."""
    product: NDArray[Any] = first[0] * second[0] + first[1] * second[1] + first[2] * second[2]
    return product


def _expanded(coefficients: Array, u: Array) -> tuple[Array, Array]:
    """Polynomials with the constant first, and their derivatives, at ``u`` (Horner's scheme)."""
    value, slope = coefficients[-1], np.zeros_like(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        slope = slope * u + value
        value = value * u + coefficient
    return value, slope
