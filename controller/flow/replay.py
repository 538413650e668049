"""What a schedule really takes: pieces of bytes that cross real links one after the other.

Independent of how a schedule was made: it takes from a schedule which shares go which way, and in which order they
leave where they meet, and nothing else. Links work as soon as there is something to send. The windows of one link may
touch, not overlap.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_
from itertools import count

from testbed.flow.problem import Problem, Window
from testbed.flow.schedule import Hop, Schedule, Share

PIECE_BYTES = float(2**20)
"""What a node must have whole before it sends it on: the usual chunk."""


@dataclass(frozen=True)
class Replayed:
    """``completion_s`` is when the last byte arrived (mission time; ``start_s`` where there are none), ``shares`` are
    the schedule's, in its order, with the time from the first byte's leaving to the last one's on every hop.
    ``missing_bytes``: by demand, what no window was left for. ``peak_bytes``: by node, the most it held for others."""

    completion_s: float
    shares: tuple[Share, ...]
    missing_bytes: Mapping[str, float]
    peak_bytes: Mapping[str, float]


def replay(problem: Problem, schedule: Schedule, piece_bytes: float = PIECE_BYTES) -> Replayed:
    """Send a schedule's shares in pieces of at most ``piece_bytes``, store and forward.

    On a link the piece that was planned to leave first does, of those that are there (a share's pieces are planned
    evenly over the time of its hop); a piece under way is finished. A piece that the end of a window cuts goes on in
    the link's next window. Bytes arrive after the window's delay.
    """
    return _Run(problem, schedule, piece_bytes).result()


@dataclass(frozen=True)
class _Piece:
    """``part`` is how much of its share comes before it."""

    share: int
    size_bytes: float
    hop: int
    part: float


class _Link:
    """One directed link: its windows, and the pieces that wait for it."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = windows
        self._ends_s = [window.end_s for window in windows]
        self.waiting: list[tuple[float, int, int, _Piece]] = []
        self.busy = False

    def send(self, size_bytes: float, at_s: float) -> tuple[float, float, float] | None:
        """When bytes that may leave from ``at_s`` on begin to leave, have left, and have arrived; None for never."""
        begins_s = math.inf
        for window in self._windows[bisect_right(self._ends_s, at_s) :]:
            opens_s = max(at_s, window.start_s)
            begins_s = min(begins_s, opens_s)
            left_s = opens_s + size_bytes / window.rate_Bps
            if left_s <= window.end_s * (1 + 1e-12):
                return begins_s, left_s, left_s + window.delay_s
            size_bytes -= (window.end_s - opens_s) * window.rate_Bps
        return None


class _Run:
    """Pieces, links and a queue of what happens next: (time, order, what)."""

    def __init__(self, problem: Problem, schedule: Schedule, piece_bytes: float) -> None:
        self._problem = problem
        self._shares = schedule.shares
        by_link: dict[tuple[str, str], list[Window]] = defaultdict(list)
        for window in sorted(problem.windows, key=lambda w: w.start_s):
            by_link[window.sender, window.receiver].append(window)
        self._links = {link: _Link(windows) for link, windows in by_link.items()}
        self._times: list[list[tuple[float, float]]] = [[(math.inf, -math.inf)] * len(s.hops) for s in self._shares]
        self._arrived: dict[str, float] = defaultdict(float)
        self._held: dict[str, float] = defaultdict(float)
        self._peak: dict[str, float] = defaultdict(float)
        self._order = count()
        self._next: list[tuple[float, int, _Piece | None, _Link | None]] = []
        self.completion_s = problem.start_s
        for number, share in enumerate(self._shares):
            self._release(number, share, piece_bytes)

    def _release(self, number: int, share: Share, piece_bytes: float) -> None:
        demand = self._problem.demand[share.demand]
        if not share.hops:
            self._arrived[share.demand] += share.size_bytes
            self.completion_s = max(self.completion_s, demand.ready_s[demand.destination])
            return
        first = self._problem.windows[share.hops[0].window]
        ready_s = max(demand.ready_s[first.sender], share.not_before_s, self._problem.start_s)
        pieces = max(1, math.ceil(share.size_bytes / piece_bytes))
        for index in range(pieces):
            piece = _Piece(number, share.size_bytes / pieces, 0, index / pieces)
            heapq.heappush(self._next, (ready_s, next(self._order), piece, None))

    def result(self) -> Replayed:
        while self._next:
            at_s, _, piece, link = heapq.heappop(self._next)
            if link is not None:
                link.busy = False
                self._serve(link, at_s)
            elif piece is not None:
                self._take(piece, at_s)
        shares = tuple(
            with_(s, hops=tuple(Hop(h.window, *span) for h, span in zip(s.hops, times, strict=True)))
            for s, times in zip(self._shares, self._times, strict=True)
        )
        missing = {
            d.name: d.size_bytes - self._arrived[d.name]
            for d in self._problem.demands
            if self._arrived[d.name] < d.size_bytes * (1 - 1e-9)
        }
        return Replayed(self.completion_s, shares, missing, dict(self._peak))

    def _take(self, piece: _Piece, at_s: float) -> None:
        """A piece is at the sender of its hop, or at its destination."""
        share = self._shares[piece.share]
        if piece.hop == len(share.hops):
            self._arrived[share.demand] += piece.size_bytes
            self.completion_s = max(self.completion_s, at_s)
            return
        hop = share.hops[piece.hop]
        window = self._problem.windows[hop.window]
        if piece.hop:
            self._held[window.sender] += piece.size_bytes
            self._peak[window.sender] = max(self._peak[window.sender], self._held[window.sender])
        link = self._links[window.sender, window.receiver]
        due_s = hop.start_s + piece.part * (hop.end_s - hop.start_s)
        heapq.heappush(link.waiting, (due_s, piece.share, next(self._order), piece))
        if not link.busy:
            self._serve(link, at_s)

    def _serve(self, link: _Link, at_s: float) -> None:
        """Begin with the next piece that waits."""
        while link.waiting:
            _, _, _, piece = heapq.heappop(link.waiting)
            sent = link.send(piece.size_bytes, at_s)
            if sent is None:
                continue  # no window is left: its bytes are missing
            begins_s, left_s, arrives_s = sent
            if piece.hop:
                sender = self._problem.windows[self._shares[piece.share].hops[piece.hop].window].sender
                self._held[sender] -= piece.size_bytes
            first_s, last_s = self._times[piece.share][piece.hop]
            self._times[piece.share][piece.hop] = (min(first_s, begins_s), max(last_s, left_s))
            link.busy = True
            heapq.heappush(self._next, (left_s, next(self._order), None, link))
            onward = with_(piece, hop=piece.hop + 1)
            heapq.heappush(self._next, (arrives_s, next(self._order), onward, None))
            return
