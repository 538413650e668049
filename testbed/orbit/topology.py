"""Inter-satellite links: which satellites have one, and when they can see each other past the Earth.

A topology is an object with one method, found by its name in :data:`TOPOLOGIES`. `ring` and `explicit` promise links
that are always up, and refuse orbits that cannot keep the promise. `plus-grid` and `nearest-visible` have links that
come and go: theirs are cut to the times at which the ray passes high enough and is short enough.
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from testbed.errors import ScenarioError
from testbed.orbit.motion import Array, Orbits
from testbed.orbit.propagate import Ephemeris
from testbed.orbit.sight import (
    BLOCK_SAMPLES,
    Index,
    IslLink,
    Limits,
    Pair,
    Span,
    Window,
    always_clear,
    clear_windows,
    endless,
    when_clear,
)


class Topology(Protocol):
    """Which satellites have links, and when."""

    def links(self, orbits: Orbits, duration_s: float) -> tuple[IslLink, ...]:
        """Each link once, in a stable order; only links that are up at some time of ``[0, duration_s]``.

        Raises ScenarioError where the topology cannot be had with these orbits.
        """
        ...


@dataclass(frozen=True)
class Ring:
    """A ring in every plane: each satellite and the next one. Two satellites have one link, one has none."""

    limits: Limits = Limits()

    def links(self, orbits: Orbits, duration_s: float) -> tuple[IslLink, ...]:
        """Always up. Raises ScenarioError where a link is ever blocked or too long."""
        pairs = [pair for plane in orbits.planes for pair in _ring(plane)]
        advice = "put more satellites in a plane, or fly higher"
        return always_clear(orbits.motion, pairs, duration_s, self.limits, "constellation", advice)


@dataclass(frozen=True)
class Explicit:
    """The links that are listed."""

    pairs: tuple[Pair, ...]
    limits: Limits = Limits()

    def links(self, orbits: Orbits, duration_s: float) -> tuple[IslLink, ...]:
        """Always up. Raises ScenarioError for names nobody has, a satellite with itself, a pair listed twice, and
        where a link is ever blocked or too long."""
        seen: dict[frozenset[str], int] = {}
        for number, pair in enumerate(self.pairs):
            field, found = f"isl.pairs[{number}]", " - ".join(pair)
            for name in pair:
                if name not in orbits.motion.names:
                    allowed = _names(orbits.motion.names, name)
                    raise ScenarioError(f"no satellite is called {name}", field=field, found=found, allowed=allowed)
            if pair[0] == pair[1]:
                allowed = f"{pair[0]} and another one: {_names(orbits.motion.names, pair[0], without=pair[0])}"
                raise ScenarioError("a satellite has no link to itself", field=field, found=found, allowed=allowed)
            earlier = seen.setdefault(frozenset(pair), number)
            if earlier != number:
                allowed = f"every pair once; it stands in isl.pairs[{earlier}], and holds both ways"
                raise ScenarioError("a link is listed twice", field=field, found=found, allowed=allowed)
        advice = "link satellites that stay in view of each other"
        return always_clear(orbits.motion, self.pairs, duration_s, self.limits, "isl.pairs", advice)


@dataclass(frozen=True)
class PlusGrid:
    """The ring in the plane, and one link to the same place in the next plane (Walker shells: 2 P S links).

    ``shift`` is added to that place in every next plane. ``seam`` joins the last plane and the first where there are
    three or more; a Walker star leaves it open, as the two fly in opposite directions. Across the seam the place is
    also turned by as many places as phasing has added up over all planes (Walker's F), so that those links are like the
    others; without phasing it is the same place there, too. Each shell is a grid of its own.

    Between planes of unequal size every satellite of the smaller one has its link, to the place in the larger one that
    lies at the nearest share of the plane; the rest of the larger plane has none that way. So no satellite ever has
    more than four.
    """

    seam: bool = True
    shift: int = 0
    limits: Limits = Limits()

    def links(self, orbits: Orbits, duration_s: float) -> tuple[IslLink, ...]:
        """Up whenever the limits allow it; a link that they never do is left out."""
        return when_clear(orbits.motion, self.pairs(orbits), duration_s, self.limits)

    def pairs(self, orbits: Orbits) -> tuple[Pair, ...]:
        """All pairs of the grid, whether they see each other or not."""
        found: list[Pair] = []
        for shell in _shells(orbits):
            planes = [plane.names for plane in shell]
            found += [pair for names in planes for pair in _ring(names)]
            for names, following in zip(planes, planes[1:], strict=False):
                found += _across(names, following, self.shift)
            if self.seam and len(planes) > 2:
                found += _across(planes[-1], planes[0], self.shift + _seam_turn(shell))
        return tuple(found)


@dataclass(frozen=True)
class NearestVisible:
    """Links to the nearest others in view, at most ``neighbours`` of them, chosen anew every ``step_s``.

    The choice is mutual: links are given out from the shortest pair on, to every pair whose both ends have one left.
    Then no two satellites would both rather have each other than what they have; there is just one such choice (stable
    fixtures with globally ranked pairs: Abraham, Levavi, Manlove and O'Malley, Internet Math. 5, 2008). Ranges are
    compared in whole metres, and equal ones by the satellites' order. A standing link counts as shorter by the share
    ``hysteresis``, so that two candidates which are about as near do not take turns.
    """

    neighbours: int = 4
    step_s: float = 60.0
    hysteresis: float = 0.1
    limits: Limits = Limits()

    def links(self, orbits: Orbits, duration_s: float) -> tuple[IslLink, ...]:
        """Up from one choice to the next, less the times in between at which the limits forbid it."""
        names = orbits.motion.names
        if len(names) < 2:
            return ()
        ephemeris = Ephemeris(orbits.motion, duration_s)
        rows = np.arange(len(names))
        spans: list[Span] = []
        since_s: dict[tuple[int, int], float] = {}
        for now_s in np.arange(0.0, duration_s, self.step_s).tolist():
            chosen = self._choice(ephemeris.position_at_km(rows, np.array(now_s)), since_s)
            spans += (Span(*pair, since_s.pop(pair), now_s) for pair in sorted(since_s.keys() - chosen))
            since_s |= {pair: now_s for pair in chosen - since_s.keys()}
        spans += (Span(*pair, start_s, duration_s) for pair, start_s in since_s.items())
        windows: dict[tuple[int, int], list[Window]] = defaultdict(list)
        for span, clear in zip(spans, clear_windows(ephemeris, spans, self.limits), strict=True):
            windows[span.first, span.second] += clear
        return tuple(
            IslLink(names[first], names[second], endless(sorted(windows[first, second]), duration_s))
            for first, second in sorted(windows)
            if windows[first, second]
        )

    def _choice(self, position_km: Array, standing: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """The pairs (lower row first) that have links at one instant, from positions of shape (satellites, 3)."""
        held = np.array(sorted(standing), dtype=np.intp).reshape(-1, 2)
        held_m = self._ranges_m(position_km, held) * (1 - self.hysteresis)
        left = [self.neighbours] * len(position_km)
        chosen: set[tuple[int, int]] = set()
        for pairs, from_m, to_m in self._by_range(position_km, left):
            due = (from_m < held_m) & (held_m <= to_m)
            first, second = np.concatenate([held[due], pairs]).T
            ranks_m = np.rint(np.concatenate([held_m[due], self._ranges_m(position_km, pairs)]))
            order = np.lexsort((second, first, ranks_m))
            order = order[np.isfinite(ranks_m[order])]
            for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
                if left[one] and left[other] and (one, other) not in chosen:
                    chosen.add((one, other))
                    left[one] -= 1
                    left[other] -= 1
        return chosen

    def _by_range(self, position_km: Array, left: list[int]) -> Iterator[tuple[Index, float, float]]:
        """Pairs (m, 2) by growing range from ``from_m`` to ``to_m``, of those that have a link ``left`` by then."""
        radius_m = 1000 * np.linalg.norm(position_km, axis=1)
        most_m = min(1000 * self.limits.max_range_km, 2 * float(radius_m.max())) + 1.0
        # On a sphere n (d / 2r)^2 of n satellites lie within d: begin with four times as many as are wanted.
        from_m, to_m = -1.0, 4 * float(radius_m.mean()) * math.sqrt(self.neighbours / len(position_km))
        while from_m < most_m:
            free = np.flatnonzero(left)
            yield _pairs_between(position_km, free, from_m, to_m), from_m, to_m
            from_m, to_m = to_m, 2 * to_m

    def _ranges_m(self, position_km: Array, pairs: Index) -> Array:
        """Ranges in m, infinite where the limits forbid a link."""
        first_km, second_km = position_km[pairs[:, 0]], position_km[pairs[:, 1]]
        clear = self.limits.margin_km(first_km, second_km) >= 0
        return np.where(clear, 1000 * np.linalg.norm(second_km - first_km, axis=-1), np.inf)


@dataclass(frozen=True)
class IslOptions:
    """What a scenario may say about its topology. Each one takes what it understands."""

    limits: Limits = Limits()
    pairs: tuple[Pair, ...] = ()
    seam: bool = True
    shift: int = 0
    neighbours: int = 4


TOPOLOGIES: Mapping[str, Callable[[IslOptions], Topology]] = {
    "ring": lambda options: Ring(options.limits),
    "plus-grid": lambda options: PlusGrid(options.seam, options.shift, options.limits),
    "nearest-visible": lambda options: NearestVisible(options.neighbours, limits=options.limits),
    "explicit": lambda options: Explicit(options.pairs, options.limits),
}


def open_topology(name: str, options: IslOptions) -> Topology:
    """The topology of that name; ScenarioError lists the names there are."""
    if name not in TOPOLOGIES:
        raise ScenarioError("no such topology", field="isl.topology", found=name, allowed=", ".join(TOPOLOGIES))
    return TOPOLOGIES[name](options)


# Pairs.


def _ring(names: Sequence[str]) -> list[Pair]:
    pairs = list(zip(names, names[1:], strict=False))
    return [*pairs, (names[-1], names[0])] if len(names) > 2 else pairs


def _across(names: Sequence[str], following: Sequence[str], shift: int) -> list[Pair]:
    places = _places(len(names), len(following))
    return [(names[place], following[(next_place + shift) % len(following)]) for place, next_place in places]


def _places(count: int, next_count: int) -> list[tuple[int, int]]:
    """Places in one plane and the next at the nearest share; each place of the smaller plane once."""
    if count > next_count:
        return [(place, next_place) for next_place, place in _places(next_count, count)]
    return [(place, (2 * place * next_count + count) // (2 * count)) for place in range(count)]


@dataclass(frozen=True)
class _Plane:
    """A plane at mission time 0."""

    names: tuple[str, ...]
    unit: Array
    """Directions to its satellites, (satellites, 3)."""
    normal: Array
    semi_major_km: float
    inclination_deg: float


# Two planes are of one shell where their sizes differ by less than a thousandth (7 km in a low orbit: Starlink's shells
# of 53.0 and 53.2 degrees are 10 km apart) and their inclinations by less than half a degree.
_SHELL_SIZE_RATIO = 1e-3
_SHELL_INCLINATION_DEG = 0.5


def _shells(orbits: Orbits) -> list[list[_Plane]]:
    """Planes of one size and inclination together, in their order."""
    position_km, velocity_km_s = (state[:, 0] for state in orbits.motion.state_itrs_km(np.zeros(1)))
    shells: list[list[_Plane]] = []
    for names in orbits.planes:
        rows = [orbits.motion.row(name) for name in names]
        plane = _plane(names, position_km[rows], velocity_km_s[rows])
        for shell in shells:
            nearly_as_large = abs(plane.semi_major_km / shell[0].semi_major_km - 1) < _SHELL_SIZE_RATIO
            if nearly_as_large and abs(plane.inclination_deg - shell[0].inclination_deg) < _SHELL_INCLINATION_DEG:
                shell.append(plane)
                break
        else:
            shells.append([plane])
    return shells


# WGS84's gravitational parameter, radius, oblateness and rate of turning (NIMA TR8350.2).
_MU_KM3_S2, _EQUATOR_KM, _J2, _TURN_RAD_S = 398600.4418, 6378.137, 1.08263e-3, 7.292115e-5


def _plane(names: tuple[str, ...], position_km: Array, velocity_km_s: Array) -> _Plane:
    inertial_km_s = velocity_km_s + np.cross([0.0, 0.0, _TURN_RAD_S], position_km)
    radius_km = np.linalg.norm(position_km, axis=1)
    unit = position_km / radius_km[:, None]
    # The energy with the oblateness's share in it stays the same all around an orbit; without, the size would seem to
    # change by 19 km, more than what tells one shell from another.
    oblate = _J2 * (_EQUATOR_KM / radius_km) ** 2 * (3 * unit[:, 2] ** 2 - 1) / 2
    energy = np.einsum("si,si->s", inertial_km_s, inertial_km_s) / 2 - _MU_KM3_S2 / radius_km * (1 - oblate)
    normal = np.cross(position_km, inertial_km_s).sum(axis=0)
    normal = normal / np.linalg.norm(normal)
    inclination_deg = math.degrees(math.acos(float(np.clip(normal[2], -1.0, 1.0))))
    return _Plane(names, unit, normal, float(np.median(-_MU_KM3_S2 / (2 * energy))), inclination_deg)


def _seam_turn(shell: Sequence[_Plane]) -> int:
    """By how many places the first plane's are turned against those that follow the last plane."""
    around = [_lead_rad(one, other) for one, other in zip(shell, shell[1:], strict=False)]
    usual_rad = math.atan2(sum(map(math.sin, around)), sum(map(math.cos, around)))
    turn = (usual_rad - _lead_rad(shell[-1], shell[0])) * len(shell[0].names) / math.tau
    # Walker's phasing makes whole places. Staggered planes leave half a place, which is no reason to turn.
    return int(math.copysign(math.floor(abs(turn) + 0.4), turn))


def _lead_rad(plane: _Plane, following: _Plane) -> float:
    """How far, on average, a satellite of the next plane is ahead of the one at its place in this plane.

    The next plane is first tilted into this one, about the line in which they cut (Rodrigues).
    """
    places = np.array(_places(len(plane.names), len(following.names)))
    unit, other = plane.unit[places[:, 0]], following.unit[places[:, 1]]
    axis = np.cross(following.normal, plane.normal)
    twice = np.cross(axis, np.cross(axis, other)) / max(1.0 + float(following.normal @ plane.normal), 1e-9)
    tilted = other + np.cross(axis, other) + twice
    return math.atan2(float((np.cross(unit, tilted) @ plane.normal).sum()), float((unit * tilted).sum()))


def _pairs_between(position_km: Array, rows: Index, from_m: float, to_m: float) -> Index:
    """Pairs (m, 2) of satellites among ``rows`` (ascending), the lower first, that are that far from each other."""
    place_km = position_km[rows]
    square_km2 = np.einsum("si,si->s", place_km, place_km)
    low_km2, high_km2 = math.copysign((from_m / 1000) ** 2, from_m), (to_m / 1000) ** 2
    found = [np.empty((0, 2), dtype=np.intp)]
    height = max(1, BLOCK_SAMPLES // max(1, len(rows)))
    for top in range(0, len(rows), height):
        block = slice(top, top + height)
        range_km2 = square_km2[block, None] + square_km2[None, top:] - 2 * (place_km[block] @ place_km[top:].T)
        first, second = np.nonzero((range_km2 > low_km2) & (range_km2 <= high_km2))
        upper = first < second
        found.append(np.stack([rows[top + first[upper]], rows[top + second[upper]]], axis=1))
    return np.concatenate(found)


def _names(names: Sequence[str], name: str, *, without: str | None = None, most: int = 12) -> str:
    """What may stand there, nearest spelling first."""
    others = [one for one in names if one != without]
    near = difflib.get_close_matches(name, others, n=most)
    shown = [*near, *(one for one in others if one not in near)][:most]
    return ", ".join(shown) + (f", ... ({len(others)} names)" if len(others) > most else "")
