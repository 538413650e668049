"""Link plans: what each of a node's links is, at every second of the mission.

A plan is made once, before the run, and shipped whole to the node, which plays it by itself. Nothing here needs more
than the standard library: a board that only plays plans has no orbits.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from testbed.errors import BugError

PACKET_BYTES = 1500
"""What queue limits count: packets of Ethernet's usual MTU, unless the scenario has another."""

QUEUE_FLOOR_PACKETS = 64
"""Room for a sender's burst: 64 packets are 96 kB, more than the 64 KiB that TCP hands over in one piece."""


@dataclass(frozen=True)
class LinkState:
    """What a directed link is from ``start_s`` (mission seconds) until the next state. ``rate_bps`` 0 means down."""

    start_s: float
    delay_ms: float
    rate_bps: float
    loss_ratio: float
    limit_packets: int

    @property
    def up(self) -> bool:
        """Whether the link carries anything."""
        return self.rate_bps > 0


@dataclass(frozen=True)
class LinkPlan:
    """The links out of ``node`` (its egress), each a sequence of states of which the first starts at 0.0.

    A peer that the node never meets has no entry.
    """

    node: str
    links: dict[str, tuple[LinkState, ...]]

    def __post_init__(self) -> None:
        for peer, states in self.links.items():
            _check(f"{self.node} -> {peer}", states)

    def state(self, peer: str, at_s: float) -> LinkState:
        """The state of the link to ``peer`` at ``at_s``; before 0 it is the first one."""
        return self.links[peer][max(0, bisect_right(self._starts_s[peer], at_s) - 1)]

    def windows(self, peer: str) -> tuple[tuple[float, float], ...]:
        """When the link to ``peer`` is up: (start_s, end_s), in order. A link that stays up ends at infinity."""
        return self._windows[peer]

    def carried_bytes(self, peer: str, start_s: float, end_s: float) -> float:
        """What the link to ``peer`` can carry from ``start_s`` to ``end_s``, headers included."""
        return max(0.0, self._carried_bytes(peer, end_s) - self._carried_bytes(peer, start_s))

    def finish_s(self, peer: str, start_s: float, size_bytes: float) -> float:
        """When ``size_bytes`` (headers included) that are sent from ``start_s`` on have left; infinity for never."""
        if size_bytes <= 0:
            return start_s
        states, carried = self.links[peer], self._carried[peer]
        wanted = self._carried_bytes(peer, start_s) + size_bytes
        last = bisect_left(carried, wanted) - 1
        rate_bps = states[last].rate_bps
        return states[last].start_s + (wanted - carried[last]) * 8 / rate_bps if rate_bps > 0 else math.inf

    def _carried_bytes(self, peer: str, at_s: float) -> float:
        """Since mission time 0."""
        last = max(0, bisect_right(self._starts_s[peer], at_s) - 1)
        state = self.links[peer][last]
        return self._carried[peer][last] + max(0.0, at_s - state.start_s) * state.rate_bps / 8

    def without(self, peers: Collection[str]) -> LinkPlan:
        """The same plan without its links to some peers."""
        return LinkPlan(self.node, {peer: states for peer, states in self.links.items() if peer not in peers})

    def changes(self) -> tuple[tuple[float, str, LinkState], ...]:
        """Every state of every link as (start_s, peer, state), in the order in which they are to be applied."""
        every = [(state.start_s, peer, state) for peer, states in self.links.items() for state in states]
        return tuple(sorted(every, key=lambda change: change[:2]))

    def digest(self) -> str:
        """SHA-256 (hex) of the plan: equal plans have equal digests, in any process and on any machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """JSON form: a state is [start_s, delay_ms, rate_bps, loss_ratio, limit_packets]. Floats survive exactly."""
        links = {peer: [_values(state) for state in states] for peer, states in sorted(self.links.items())}
        return {"node": self.node, "links": links}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LinkPlan:
        """The inverse of ``to_dict``."""
        links = {peer: tuple(_state(values) for values in states) for peer, states in data["links"].items()}
        return cls(data["node"], links)

    @cached_property
    def _starts_s(self) -> dict[str, list[float]]:
        return {peer: [state.start_s for state in states] for peer, states in self.links.items()}

    @cached_property
    def _carried(self) -> dict[str, list[float]]:
        """By peer the bytes that the link could have carried when each state begins."""
        return {
            peer: list(
                accumulate(
                    (
                        (later.start_s - earlier.start_s) * earlier.rate_bps / 8
                        for earlier, later in zip(states, states[1:], strict=False)
                    ),
                    initial=0.0,
                )
            )
            for peer, states in self.links.items()
        }

    @cached_property
    def _windows(self) -> dict[str, tuple[tuple[float, float], ...]]:
        return {peer: tuple(_windows(states)) for peer, states in self.links.items()}


def queue_limit_packets(rate_bps: float, delay_ms: float, packet_bytes: int = PACKET_BYTES) -> int:
    """netem's ``limit``: ``2 x ceil(rate x delay / packet) + 64`` packets.

    netem's queue holds what is on its way as well as what waits, so one rate-delay product is always in it; a second
    one is the buffer that a loss-based TCP needs to keep the link full (Villamizar and Song, SIGCOMM CCR 1994), and
    the floor takes a sender's bursts where the product is small.
    """
    in_flight_bytes = rate_bps / 8 * delay_ms / 1000
    return 2 * math.ceil(in_flight_bytes / packet_bytes) + QUEUE_FLOOR_PACKETS


def _values(state: LinkState) -> list[float]:
    # Equal numbers, equal text: 8 and 8.0, 0.0 and -0.0.
    floats = (state.start_s, state.delay_ms, state.rate_bps, state.loss_ratio)
    return [*(float(number) + 0.0 for number in floats), state.limit_packets]


def _state(values: list[Any]) -> LinkState:
    start_s, delay_ms, rate_bps, loss_ratio, limit_packets = values
    return LinkState(float(start_s), float(delay_ms), float(rate_bps), float(loss_ratio), int(limit_packets))


def _windows(states: tuple[LinkState, ...]) -> list[tuple[float, float]]:
    windows = []
    opened_s: float | None = None
    for state in states:
        if state.up and opened_s is None:
            opened_s = state.start_s
        elif not state.up and opened_s is not None:
            windows.append((opened_s, state.start_s))
            opened_s = None
    if opened_s is not None:
        windows.append((opened_s, math.inf))
    return windows


def _check(link: str, states: tuple[LinkState, ...]) -> None:
    if not states or states[0].start_s != 0.0:
        raise BugError(f"the plan of {link} does not begin at 0")
    if any(later.start_s <= earlier.start_s for earlier, later in zip(states, states[1:], strict=False)):
        raise BugError(f"the states of {link} are not in order of time")
    for state in states:
        numbers = (state.start_s, state.delay_ms, state.rate_bps)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise BugError(f"{link} has a state that no link can have: {state}")
        if not 0 <= state.loss_ratio <= 1 or state.limit_packets < 1:
            raise BugError(f"{link} has a state that no link can have: {state}")
