"""From orbits and contacts to one link plan per node.

Links: satellite to neighbouring satellite, both ways and always up; satellite to station at the up rate and back at the
down rate, up exactly within their contacts; station to ground and back, always up and constant.

A link's delay is piecewise constant, such that the true delay (range over c) never differs from it by more than the
tolerance. A piece is held for as long as that is possible at all, with the middle of the true delay's extremes as its
value; no plan within the tolerance has fewer pieces (greedy extension is optimal for covering a line by intervals).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from testbed.errors import BugError, ScenarioError
from testbed.link.budget import SPEED_OF_LIGHT_KM_S, ConstantBudget, LinkBudget, delay_ms
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.orbit.constellation import Constellation
from testbed.orbit.contacts import Contact
from testbed.orbit.motion import Array
from testbed.orbit.propagate import Ephemeris, Propagator, geodetic_itrs_km
from testbed.orbit.stations import Station
from testbed.orbit.topology import Edge

FIRST_STEP_S = 30.0
SLACK_SHARE = 0.02
"""The delay is sampled so finely that what happens between two samples is at most this share of the tolerance."""

MIN_TOLERANCE_MS = 0.001
"""One microsecond, 300 m of range: below it the kernel's own timers blur the delay by more."""


class Piece(NamedTuple):
    """From ``start_s`` on the delay is ``delay_ms``."""

    start_s: float
    delay_ms: float


@dataclass(frozen=True)
class _Span:
    """A time during which a link is up, and its pieces of constant delay."""

    start_s: float
    end_s: float
    pieces: tuple[Piece, ...]


def compile_link_plans(
    *,
    propagator: Propagator,
    constellation: Constellation,
    stations: Sequence[Station],
    contacts: Sequence[Contact],
    isl_edges: Sequence[Edge],
    isl_rate_bps: float,
    up_rate_bps: float,
    down_rate_bps: float,
    ground_name: str,
    backhaul_delay_ms: float,
    backhaul_rate_bps: float,
    delay_tolerance_ms: float,
    duration_s: float,
) -> dict[str, LinkPlan]:
    """One plan per node: every satellite, every station, the ground. Times are mission seconds in ``[0, duration_s]``.

    A satellite and a station that never meet have no link. A contact cut by the horizon ends with it, because nothing
    is known beyond; inter-satellite and backhaul links stay up.
    """
    if delay_tolerance_ms < MIN_TOLERANCE_MS:
        raise ScenarioError(
            "the delay tolerance is finer than a kernel can play",
            field="tolerance.delay_ms",
            found=delay_tolerance_ms,
            allowed=f"{MIN_TOLERANCE_MS} ms or more",
        )
    ephemeris = Ephemeris(propagator, duration_s)
    links: dict[str, dict[str, tuple[LinkState, ...]]] = {name: {} for name in constellation.names}
    links |= {one.slug: {} for one in stations} | {ground_name: {}}
    if len(links) != len(constellation.satellites) + len(stations) + 1:
        raise ScenarioError("two nodes have the same name", field="ground.name", found=ground_name)

    isl = ConstantBudget(isl_rate_bps)
    for first, second in isl_edges:
        rows = propagator.row(first), propagator.row(second)
        pieces = hold(_between(ephemeris, *rows), 0.0, duration_s, delay_tolerance_ms)
        states = _always(pieces, isl)
        links[first][second] = links[second][first] = states

    up, down = ConstantBudget(up_rate_bps), ConstantBudget(down_rate_bps)
    place_km = {one.slug: geodetic_itrs_km(one.latitude_deg, one.longitude_deg, one.altitude_m)[0] for one in stations}
    spans: dict[tuple[str, str], list[_Span]] = defaultdict(list)
    for contact in contacts:
        true_delay_ms = _from_place(ephemeris, propagator.row(contact.satellite), place_km[contact.station])
        pieces = hold(true_delay_ms, contact.start_s, contact.end_s, delay_tolerance_ms)
        spans[contact.satellite, contact.station].append(_Span(contact.start_s, contact.end_s, pieces))
    for (satellite, slug), meetings in spans.items():
        meetings.sort(key=lambda span: span.start_s)
        links[satellite][slug] = _within(meetings, up)
        links[slug][satellite] = _within(meetings, down)

    backhaul = _always((Piece(0.0, backhaul_delay_ms),), ConstantBudget(backhaul_rate_bps))
    for one in stations:
        links[one.slug][ground_name] = links[ground_name][one.slug] = backhaul
    return {node: LinkPlan(node, by_peer) for node, by_peer in links.items()}


def hold(
    true_delay_ms: Callable[[Array], Array], start_s: float, end_s: float, tolerance_ms: float
) -> tuple[Piece, ...]:
    """The fewest pieces of constant delay that keep within the tolerance of a smooth delay in ``[start_s, end_s]``."""
    at_s, sampled_ms = _sampled(true_delay_ms, start_s, end_s, SLACK_SHARE * tolerance_ms)
    spread_ms = 2 * tolerance_ms * (1 - SLACK_SHARE)
    pieces: list[Piece] = []
    begun_s, low_ms, high_ms = start_s, float(sampled_ms[0]), float(sampled_ms[0])
    last_s, last_ms = begun_s, low_ms
    for now_s, now_ms in zip(at_s[1:].tolist(), sampled_ms[1:].tolist(), strict=True):
        # Several pieces may begin between two samples, where the delay is straight to within the slack.
        while max(high_ms, now_ms) - min(low_ms, now_ms) > spread_ms:
            edge_ms = low_ms + spread_ms if now_ms > last_ms else high_ms - spread_ms
            cut_s = last_s + (now_s - last_s) * (edge_ms - last_ms) / (now_ms - last_ms)
            pieces.append(Piece(begun_s, (min(low_ms, edge_ms) + max(high_ms, edge_ms)) / 2))
            begun_s = last_s = cut_s
            low_ms = high_ms = last_ms = edge_ms
        low_ms, high_ms = min(low_ms, now_ms), max(high_ms, now_ms)
        last_s, last_ms = now_s, now_ms
    if begun_s < end_s:  # else rounding put the last cut at the very end
        pieces.append(Piece(begun_s, (low_ms + high_ms) / 2))
    return tuple(pieces)


def _sampled(
    true_delay_ms: Callable[[Array], Array], start_s: float, end_s: float, slack_ms: float
) -> tuple[Array, Array]:
    """Samples so fine that the delay keeps to the straight lines between them within ``slack_ms``."""
    intervals = max(4, int(np.ceil((end_s - start_s) / FIRST_STEP_S)))
    while True:
        at_s = np.linspace(start_s, end_s, intervals + 1)
        sampled_ms = true_delay_ms(at_s)
        # A function strays from its chord by at most an eighth of its second difference; twice that to be safe.
        if float(np.abs(np.diff(sampled_ms, 2)).max()) / 4 <= slack_ms:
            return at_s, sampled_ms
        if (end_s - start_s) / intervals < 1e-3:
            raise BugError(f"a delay is not smooth: {float(np.abs(np.diff(sampled_ms)).max())} ms within a millisecond")
        intervals *= 2


def _between(ephemeris: Ephemeris, first: int, second: int) -> Callable[[Array], Array]:
    def true_delay_ms(at_s: Array) -> Array:
        position_km = ephemeris.position_at_km(np.array([[first], [second]]), at_s[None, :])
        return delay_ms(np.linalg.norm(position_km[0] - position_km[1], axis=-1))

    return true_delay_ms


def _from_place(ephemeris: Ephemeris, row: int, place_km: Array) -> Callable[[Array], Array]:
    def true_delay_ms(at_s: Array) -> Array:
        return delay_ms(np.linalg.norm(ephemeris.position_at_km(np.array(row), at_s) - place_km, axis=-1))

    return true_delay_ms


def _up_state(piece: Piece, budget: LinkBudget) -> LinkState:
    range_km = piece.delay_ms / 1000 * SPEED_OF_LIGHT_KM_S
    rate_bps = budget.rate_bps(range_km)
    limit = queue_limit_packets(rate_bps, piece.delay_ms)
    return LinkState(piece.start_s, piece.delay_ms, rate_bps, budget.loss_ratio(range_km), limit)


def _down_state(start_s: float, delay_ms: float) -> LinkState:
    return LinkState(start_s, delay_ms, 0.0, 0.0, queue_limit_packets(0.0, delay_ms))


def _always(pieces: Sequence[Piece], budget: LinkBudget) -> tuple[LinkState, ...]:
    return tuple(_up_state(piece, budget) for piece in pieces)


def _within(meetings: Sequence[_Span], budget: LinkBudget) -> tuple[LinkState, ...]:
    """Up within the meetings; down before them (with the first delay), between and after them (with the last)."""
    states: list[LinkState] = []
    if meetings[0].start_s > 0:
        states.append(_down_state(0.0, meetings[0].pieces[0].delay_ms))
    for meeting in meetings:
        if states and states[-1].start_s == meeting.start_s:
            states.pop()  # one meeting ends in the very instant the next begins
        states += _always(meeting.pieces, budget)
        states.append(_down_state(meeting.end_s, states[-1].delay_ms))
    return tuple(states)
