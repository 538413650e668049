"""From orbits and contacts to one link plan per node.

Links: satellite to satellite, both ways, in the topology's windows; satellite to station by the up budget and back by
the down budget, up within their contacts and while the budget closes; station to ground and back, always up.

What a link is, is piecewise constant, such that the true delay (range over c) never differs from the plan's by more
than the absolute tolerance, and the true rate never by more than the relative one. A piece is held for as long as the
delay allows at all, with the middle of the extremes as its value; where rates do not vary, no plan within the tolerance
has fewer pieces (greedy extension is optimal for covering a line by intervals).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from testbed.errors import BugError, ScenarioError
from testbed.link.budget import LinkBudget, delay_ms
from testbed.link.plan import PACKET_BYTES, LinkPlan, LinkState, queue_limit_packets
from testbed.orbit.contacts import Contact
from testbed.orbit.motion import Array, Motion
from testbed.orbit.propagate import Ephemeris, geodetic_itrs_km
from testbed.orbit.sight import IslLink
from testbed.orbit.stations import Station

FIRST_STEP_S = 30.0
SLACK_SHARE = 0.02
"""The delay is sampled so finely that what happens between two samples is at most this share of the tolerance."""
RATE_SHARE = 0.25
"""The rate is sampled so finely that it changes by at most this share of its tolerance between two samples."""
EDGE_S = 1e-3
"""A rate that still changes by more within this time is a step (another coding), and the step is placed this well."""
LOSS_TOLERANCE = 1e-3
"""How far, absolutely, the true loss ratio may be from the plan's."""
MIN_TOLERANCE_MS = 0.001
"""One microsecond, 300 m of range: below it the kernel's own timers blur the delay by more."""


@dataclass(frozen=True)
class Tolerance:
    """How far a plan may be from the truth: delay absolutely, rate as a share of the true rate."""

    delay_ms: float
    rate_ratio: float


@dataclass(frozen=True)
class Budgets:
    """What carries what; ``up`` and ``down`` by station (its weather is part of them)."""

    isl: LinkBudget
    up: Mapping[str, LinkBudget]
    down: Mapping[str, LinkBudget]
    backhaul: LinkBudget


class Piece(NamedTuple):
    """From ``start_s`` on a link has this delay, rate and loss; rate 0 is a link that its budget does not close."""

    start_s: float
    delay_ms: float
    rate_bps: float
    loss_ratio: float


Truth = Callable[[Array], tuple[Array, Array, Array]]
"""Delay (ms), rate (bit/s) and loss ratio of a link at mission times."""


@dataclass(frozen=True)
class _Span:
    """A time during which two nodes see each other, and the pieces of one direction."""

    start_s: float
    end_s: float
    pieces: tuple[Piece, ...]


def compile_link_plans(
    *,
    motion: Motion,
    stations: Sequence[Station],
    contacts: Sequence[Contact],
    isl_links: Sequence[IslLink],
    budgets: Budgets,
    ground_name: str,
    backhaul_delay_ms: float,
    tolerance: Tolerance,
    duration_s: float,
    mtu_bytes: int = PACKET_BYTES,
    traces: Mapping[tuple[str, str], tuple[LinkState, ...]] | None = None,
) -> dict[str, LinkPlan]:
    """One plan per node: every satellite, every station, the ground. Times are mission seconds in ``[0, duration_s]``.

    Nodes that never meet have no link. A contact cut by the horizon ends with it, because nothing is known beyond;
    inter-satellite links that are never blocked and backhauls stay up. ``traces`` are states by (sender, receiver) that
    stand in place of what the orbits say.
    """
    if tolerance.delay_ms < MIN_TOLERANCE_MS:
        raise ScenarioError(
            "the delay tolerance is finer than a kernel can play",
            field="tolerance.delay",
            found=f"{tolerance.delay_ms} ms",
            allowed=f"{MIN_TOLERANCE_MS} ms or more",
        )
    ephemeris = Ephemeris(motion, duration_s)
    links: dict[str, dict[str, tuple[LinkState, ...]]] = {name: {} for name in motion.names}
    links |= {one.slug: {} for one in stations} | {ground_name: {}}
    if len(links) != len(motion.names) + len(stations) + 1:
        raise ScenarioError("two nodes have the same name", field="ground.name", found=ground_name)

    for link in isl_links:
        truth = _between(ephemeris, motion.row(link.first), motion.row(link.second), budgets.isl)
        spans = [
            _Span(start_s, end_s, hold(truth, start_s, min(end_s, duration_s), tolerance))
            for start_s, end_s in link.windows
        ]
        links[link.first][link.second] = links[link.second][link.first] = _states(spans, mtu_bytes)

    by_slug = {one.slug: one for one in stations}
    meetings: dict[tuple[str, str], list[Contact]] = defaultdict(list)
    for contact in contacts:
        meetings[contact.satellite, contact.station].append(contact)
    for (satellite, slug), met in meetings.items():
        sight = _Sight(ephemeris, motion.row(satellite), by_slug[slug])
        times_s = sorted((one.start_s, one.end_s) for one in met)
        for sender, receiver, budget in (
            (satellite, slug, budgets.up[slug]),
            (slug, satellite, budgets.down[slug]),
        ):
            truth = sight.truth(budget)
            links[sender][receiver] = _states(
                [_Span(*each, hold(truth, *each, tolerance)) for each in times_s], mtu_bytes
            )

    far = np.array([np.nan])
    rate_bps, loss_ratio = budgets.backhaul.evaluate(far, far)
    piece = Piece(0.0, backhaul_delay_ms, float(rate_bps[0]), float(loss_ratio[0]))
    for one in stations:
        links[one.slug][ground_name] = links[ground_name][one.slug] = _states([_Span(0.0, np.inf, (piece,))], mtu_bytes)
    for (sender, receiver), states in (traces or {}).items():
        links[sender][receiver] = states
    return {node: LinkPlan(node, by_peer) for node, by_peer in links.items()}


def usable_contacts(
    contacts: Sequence[Contact], plans: Mapping[str, LinkPlan], satellites: Sequence[str], duration_s: float
) -> tuple[Contact, ...]:
    """The contacts in which links go both ways.

    Where budgets close down to the mask and no trace says otherwise these are ``contacts`` themselves. A satellite that
    a trace alone connects to a station has contacts when the trace has; its elevation then is 0.
    """
    flying = frozenset(satellites)
    meetings: dict[tuple[str, str], list[Contact]] = defaultdict(list)
    for contact in contacts:
        meetings[contact.satellite, contact.station].append(contact)
    usable = []
    for satellite in satellites:
        for station in plans[satellite].links.keys() - flying:
            if satellite not in plans[station].links:
                continue
            met = meetings[satellite, station]
            for start_s, end_s in _common(plans[satellite].windows(station), plans[station].windows(satellite)):
                seen = [one.max_elevation_deg for one in met if one.start_s < end_s and start_s < one.end_s]
                usable.append(Contact(satellite, station, start_s, min(end_s, duration_s), max(seen, default=0.0)))
    return tuple(sorted(usable, key=lambda one: (one.start_s, one.satellite, one.station)))


def hold(truth: Truth, start_s: float, end_s: float, tolerance: Tolerance) -> tuple[Piece, ...]:
    """Pieces that keep within the tolerance of a link's smooth delay, and of its rate, in ``[start_s, end_s]``.

    A step of the rate is an edge of its own, at most :data:`EDGE_S` late.
    """
    spaced_s = _spaced(truth, start_s, end_s, SLACK_SHARE * tolerance.delay_ms)
    at_s = _refined(truth, np.union1d(spaced_s, _turning(spaced_s, truth(spaced_s)[0])), tolerance)
    delays_ms, rates_bps, losses = (each.tolist() for each in truth(at_s))
    times_s = at_s.tolist()
    spread_ms = 2 * tolerance.delay_ms * (1 - SLACK_SHARE)
    pieces: list[Piece] = []
    held = _Held(start_s, delays_ms[0], rates_bps[0], losses[0])
    last_s, last_ms = start_s, delays_ms[0]
    for now_s, now_ms, now_bps, now_loss in zip(times_s[1:], delays_ms[1:], rates_bps[1:], losses[1:], strict=True):
        # Several pieces may begin between two samples, where the delay is straight to within the slack.
        while max(held.high_ms, now_ms) - min(held.low_ms, now_ms) > spread_ms:
            edge_ms = held.low_ms + spread_ms if now_ms > last_ms else held.high_ms - spread_ms
            cut_s = last_s + (now_s - last_s) * (edge_ms - last_ms) / (now_ms - last_ms)
            held.take_delay(edge_ms)
            pieces.append(held.piece())
            held = _Held(cut_s, edge_ms, held.last_bps, held.last_loss)
            last_s, last_ms = cut_s, edge_ms
        if not held.admits(now_bps, now_loss, tolerance):
            held.take_delay(now_ms)
            pieces.append(held.piece())
            held = _Held(now_s, now_ms, now_bps, now_loss)
        held.take(now_ms, now_bps, now_loss)
        last_s, last_ms = now_s, now_ms
    if held.start_s < end_s:  # else rounding put the last cut at the very end
        pieces.append(held.piece())
    return tuple(pieces)


class _Held:
    """The piece that is being extended: the extremes of what it stands for."""

    def __init__(self, start_s: float, delay_ms: float, rate_bps: float, loss_ratio: float) -> None:
        self.start_s = start_s
        self.low_ms = self.high_ms = delay_ms
        self.low_bps = self.high_bps = self.last_bps = rate_bps
        self.low_loss = self.high_loss = self.last_loss = loss_ratio

    def admits(self, rate_bps: float, loss_ratio: float, tolerance: Tolerance) -> bool:
        """Whether the middle still stands for this rate and loss, too."""
        low_bps, high_bps = min(self.low_bps, rate_bps), max(self.high_bps, rate_bps)
        low_loss, high_loss = min(self.low_loss, loss_ratio), max(self.high_loss, loss_ratio)
        spread_bps = 2 * tolerance.rate_ratio * (1 - RATE_SHARE) * low_bps
        return high_bps - low_bps <= spread_bps and high_loss - low_loss <= 2 * LOSS_TOLERANCE * (1 - RATE_SHARE)

    def take_delay(self, delay_ms: float) -> None:
        """Stand for this delay, too."""
        self.low_ms, self.high_ms = min(self.low_ms, delay_ms), max(self.high_ms, delay_ms)

    def take(self, delay_ms: float, rate_bps: float, loss_ratio: float) -> None:
        """Stand for this sample, too."""
        self.take_delay(delay_ms)
        self.low_bps, self.high_bps, self.last_bps = min(self.low_bps, rate_bps), max(self.high_bps, rate_bps), rate_bps
        self.low_loss, self.high_loss = min(self.low_loss, loss_ratio), max(self.high_loss, loss_ratio)
        self.last_loss = loss_ratio

    def piece(self) -> Piece:
        """The middles."""
        return Piece(
            self.start_s,
            (self.low_ms + self.high_ms) / 2,
            (self.low_bps + self.high_bps) / 2,
            (self.low_loss + self.high_loss) / 2,
        )


def _spaced(truth: Truth, start_s: float, end_s: float, slack_ms: float) -> Array:
    """Instants so close together that the delay keeps to the straight lines between them within ``slack_ms``."""
    intervals = max(4, int(np.ceil((end_s - start_s) / FIRST_STEP_S)))
    while True:
        at_s = np.linspace(start_s, end_s, intervals + 1)
        sampled_ms = truth(at_s)[0]
        # A function strays from its chord by at most an eighth of its second difference; twice that to be safe.
        if float(np.abs(np.diff(sampled_ms, 2)).max()) / 4 <= slack_ms:
            return at_s
        if (end_s - start_s) / intervals < 1e-3:
            raise BugError(f"a delay is not smooth: {float(np.abs(np.diff(sampled_ms)).max())} ms within a millisecond")
        intervals *= 2


def _turning(at_s: Array, sampled_ms: Array) -> Array:
    """Where the delay turns, by the parabola through three samples.

    A coding that is the best one for seconds around the closest approach shows at neither neighbour; between turning
    points a budget goes one way, so that equal ends mean equal all along.
    """
    step_ms = np.diff(sampled_ms)
    middle = 1 + np.flatnonzero(np.sign(step_ms[1:]) * np.sign(step_ms[:-1]) < 0)
    before, after = sampled_ms[middle - 1] - sampled_ms[middle], sampled_ms[middle + 1] - sampled_ms[middle]
    return at_s[middle] + (at_s[middle + 1] - at_s[middle]) * (before - after) / (2 * (before + after))


def _refined(truth: Truth, at_s: Array, tolerance: Tolerance) -> Array:
    """More instants where rate or loss change much from one to the next: those between which they do are halved."""
    while True:
        _, rate_bps, loss_ratio = truth(at_s)
        least_bps = np.minimum(rate_bps[1:], rate_bps[:-1])
        moved = np.abs(np.diff(rate_bps)) > RATE_SHARE * tolerance.rate_ratio * least_bps
        moved |= np.abs(np.diff(loss_ratio)) > RATE_SHARE * LOSS_TOLERANCE
        moved &= np.diff(at_s) > EDGE_S
        if not moved.any():
            return at_s
        at_s = np.sort(np.concatenate([at_s, (at_s[1:][moved] + at_s[:-1][moved]) / 2]))


def _between(ephemeris: Ephemeris, first: int, second: int, budget: LinkBudget) -> Truth:
    def truth(at_s: Array) -> tuple[Array, Array, Array]:
        position_km = ephemeris.position_at_km(np.array([[first], [second]]), at_s[None, :])
        range_km = np.linalg.norm(position_km[0] - position_km[1], axis=-1)
        return delay_ms(range_km), *budget.evaluate(range_km, np.full(range_km.shape, np.nan))

    return truth


class _Sight:
    """What a station sees of one satellite."""

    def __init__(self, ephemeris: Ephemeris, row: int, station: Station) -> None:
        self._ephemeris = ephemeris
        self._row = np.array(row)
        self._place_km, self._zenith = geodetic_itrs_km(station.latitude_deg, station.longitude_deg, station.altitude_m)

    def truth(self, budget: LinkBudget) -> Truth:
        """One direction's delay, rate and loss."""

        def truth(at_s: Array) -> tuple[Array, Array, Array]:
            sight_km = self._ephemeris.position_at_km(self._row, at_s) - self._place_km
            range_km = np.linalg.norm(sight_km, axis=-1)
            elevation_deg = np.degrees(np.arcsin(np.clip(sight_km @ self._zenith / range_km, -1.0, 1.0)))
            return delay_ms(range_km), *budget.evaluate(range_km, elevation_deg)

        return truth


def _states(spans: Sequence[_Span], mtu_bytes: int) -> tuple[LinkState, ...]:
    """Up in the spans as their pieces say; down before them (with the first delay), between and after (with the last).

    A span without an end stays up.
    """
    states: list[LinkState] = []
    if spans[0].start_s > 0:
        states.append(_down(0.0, spans[0].pieces[0].delay_ms, mtu_bytes))
    for span in spans:
        if states and states[-1].start_s == span.start_s:
            states.pop()  # one span ends in the very instant the next begins
        for piece in span.pieces:
            state = _up(piece, mtu_bytes) if piece.rate_bps > 0 else _down(piece.start_s, piece.delay_ms, mtu_bytes)
            if state.up or not states or states[-1].up:
                states.append(state)
        if np.isfinite(span.end_s) and states[-1].up:
            states.append(_down(span.end_s, states[-1].delay_ms, mtu_bytes))
    return tuple(states)


def _up(piece: Piece, mtu_bytes: int) -> LinkState:
    limit = queue_limit_packets(piece.rate_bps, piece.delay_ms, mtu_bytes)
    return LinkState(piece.start_s, piece.delay_ms, piece.rate_bps, piece.loss_ratio, limit)


def _down(start_s: float, delay_ms: float, mtu_bytes: int) -> LinkState:
    return LinkState(start_s, delay_ms, 0.0, 0.0, queue_limit_packets(0.0, delay_ms, mtu_bytes))


def _common(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where windows of both overlap."""
    overlaps = [(max(a[0], b[0]), min(a[1], b[1])) for a in one for b in other]
    return sorted((start_s, end_s) for start_s, end_s in overlaps if start_s < end_s)
