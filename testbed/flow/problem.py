"""What a flow scheduler is asked: which bytes wait where, and which links carry how much when.

Nodes are names. Rates are payload bytes per second: what framing takes off a link's rate is taken off before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from testbed.errors import BugError


@dataclass(frozen=True, slots=True)
class Window:
    """A directed link while it is up at one rate: [``start_s``, ``end_s``) in mission seconds.

    A byte that leaves at ``t`` is at ``receiver`` at ``t + delay_s``; what has not arrived by ``end_s`` is lost with
    the link's queue, unless the next window of the same two nodes begins there.
    """

    sender: str
    receiver: str
    start_s: float
    end_s: float
    rate_Bps: float
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not (self.start_s < self.end_s and self.rate_Bps > 0 and self.delay_s >= 0):
            raise BugError(f"no link can be {self}")

    @property
    def size_bytes(self) -> float:
        """What it can carry from its start to its end."""
        return (self.end_s - self.start_s) * self.rate_Bps


@dataclass(frozen=True)
class Demand:
    """Bytes that must get to one node.

    ``ready_s`` says from when each of the nodes that hold them has them (mission seconds): more than one node where
    copies exist, as after an all-gather, and then any of them may send any part. ``weight`` is what a second of this
    demand's delay counts against others'; ``deadline_s`` by when it must be through (mission time): a scheduler
    may put others behind it, and has no answer where it is later.
    """

    name: str
    ready_s: Mapping[str, float]
    destination: str
    size_bytes: float
    weight: float = 1.0
    deadline_s: float = math.inf

    def __post_init__(self) -> None:
        if not self.ready_s or self.size_bytes < 0 or self.weight <= 0:
            raise BugError(f"no transfer can be {self}")


@dataclass(frozen=True)
class Problem:
    """Demands, and the windows they may use from ``start_s`` on, in order of their starts.

    ``storage_bytes`` bounds what a node holds for others at any instant (its own demands do not count); a node without
    an entry holds anything.
    """

    windows: tuple[Window, ...]
    demands: tuple[Demand, ...]
    start_s: float = 0.0
    storage_bytes: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def end_s(self) -> float:
        """When the last window ends; ``start_s`` where there is none."""
        return max((window.end_s for window in self.windows), default=self.start_s)

    @cached_property
    def closes_s(self) -> tuple[float, ...]:
        """Of each window: until when what leaves still arrives (mission time), a delay before the end of the pass that
        the window is part of. A pass is windows of one link each of which begins when the one before ends."""
        ends_s: dict[tuple[str, str, float], float] = {}
        closes_s = [0.0] * len(self.windows)
        for index in sorted(range(len(self.windows)), key=lambda i: -self.windows[i].start_s):
            window = self.windows[index]
            link = window.sender, window.receiver
            pass_ends_s = ends_s.get((*link, window.end_s), window.end_s)
            begun = *link, window.start_s
            ends_s[begun] = max(pass_ends_s, ends_s.get(begun, pass_ends_s))
            closes_s[index] = min(window.end_s, pass_ends_s - window.delay_s)
        return tuple(closes_s)

    @cached_property
    def total_bytes(self) -> float:
        """Of all demands."""
        return sum(demand.size_bytes for demand in self.demands)

    @cached_property
    def demand(self) -> Mapping[str, Demand]:
        """By name."""
        return {demand.name: demand for demand in self.demands}
