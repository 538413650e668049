"""What a schedule really takes: pieces of bytes that cross real links one after the other.

Independent of how a schedule was made: it takes from a schedule which shares go which way, over which passes, and in
which order they leave where they meet, and nothing else. Links work as soon as there is something to send. The windows
of one link may touch, not overlap.
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
from typing import NamedTuple

from controller.flow.bottleneck import amount
from testbed.errors import FlowError
from testbed.flow.problem import Problem
from testbed.flow.schedule import Hop, Schedule, Share

PIECE_BYTES = float(2**20)
"""What a node must have whole before it sends it on: the usual chunk."""


@dataclass(frozen=True)
class Replayed:
    """``completion_s`` is when the last byte arrived (mission time; ``start_s`` where there are none), ``shares`` are
    the schedule's, in its order, with the time from the first byte's leaving to the last one's on every hop.

    By demand: ``missing_bytes`` are those that no window was left for; ``missed_bytes`` those that went on in a later
    pass of a link than planned (each byte once, however many passes it missed). By node: ``peak_bytes`` is the most it
    held for others, ``held_up_bytes`` what had to wait at its neighbours because its storage was full.
    """

    completion_s: float
    shares: tuple[Share, ...]
    missing_bytes: Mapping[str, float]
    missed_bytes: Mapping[str, float]
    peak_bytes: Mapping[str, float]
    held_up_bytes: Mapping[str, float]


def replay(problem: Problem, schedule: Schedule, piece_bytes: float = PIECE_BYTES) -> Replayed:
    """Send a schedule's shares in pieces of at most ``piece_bytes``, store and forward.

    On a link the piece that was planned to leave first does, of those that are there when it is free (a share's pieces
    are planned evenly over the time of its hop); a piece under way is finished. Bytes arrive after the window's delay.
    What leaves later than a delay before the end of a pass would be lost, so it does not leave: a piece that is cut
    there goes on in the link's next pass, and counts as missed where it was planned for this one.

    No node holds more for others than the problem's ``storage_bytes``: where there is no room for a piece at the next
    node its sender waits, as a real one does whose receiver's disk is full, and everything is that much later; room is
    kept for a piece from when it begins to leave for a node until it begins to leave that node. FlowError, with the
    node and its limit, when that is less than one piece.
    """
    return _Run(problem, schedule, piece_bytes).result()


class _Piece(NamedTuple):
    """``part`` is how much of its share comes before it; ``missed_bytes`` how much of it has missed a pass so far."""

    share: int
    size_bytes: float
    hop: int
    part: float
    missed_bytes: float = 0.0


class _Sent(NamedTuple):
    """When a piece begins to leave, has left and has arrived, and how much of it a later pass than planned carries."""

    begins_s: float
    left_s: float
    arrives_s: float
    missed_bytes: float


class _Link:
    """One directed link: its windows, and the pieces that wait for it."""

    def __init__(self, problem: Problem, indices: Sequence[int]) -> None:
        """``indices`` of its windows, in order of their starts."""
        self._pass_of: dict[int, int] = {}
        number, before_s = 0, -math.inf
        for index in indices:
            number += problem.windows[index].start_s > before_s
            self._pass_of[index] = number
            before_s = problem.windows[index].end_s
        closes_s = problem.closes_s
        self._useful = [index for index in indices if problem.windows[index].start_s < closes_s[index]]
        self._windows = [problem.windows[index] for index in self._useful]
        self._closes_s = [closes_s[index] for index in self._useful]
        self.waiting: list[tuple[float, int, int, _Piece]] = []
        self.busy_until_s = -math.inf

    def opens_s(self, at_s: float) -> float:
        """The first instant from ``at_s`` on at which something may leave; infinite when there is none."""
        place = bisect_right(self._closes_s, at_s)
        return max(at_s, self._windows[place].start_s) if place < len(self._windows) else math.inf

    def send(self, size_bytes: float, at_s: float, planned: int) -> _Sent | None:
        """Bytes that may leave from ``at_s`` on and were planned for a window's pass; None for never."""
        begins_s, missed_bytes = math.inf, 0.0
        for place in range(bisect_right(self._closes_s, at_s), len(self._windows)):
            window, closes_s = self._windows[place], self._closes_s[place]
            is_late = self._pass_of[self._useful[place]] > self._pass_of[planned]
            opens_s = max(at_s, window.start_s)
            begins_s = min(begins_s, opens_s)
            left_s = opens_s + size_bytes / window.rate_Bps
            if left_s <= closes_s * (1 + 1e-12):
                missed_bytes += size_bytes if is_late else 0.0
                return _Sent(begins_s, left_s, left_s + window.delay_s, missed_bytes)
            through_bytes = (closes_s - opens_s) * window.rate_Bps
            missed_bytes += through_bytes if is_late else 0.0
            size_bytes -= through_bytes
        return None


class _Run:
    """Pieces, links and a queue of what happens next: (time, order, what)."""

    def __init__(self, problem: Problem, schedule: Schedule, piece_bytes: float) -> None:
        self._problem = problem
        self._shares = schedule.shares
        by_link: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index in sorted(range(len(problem.windows)), key=lambda i: problem.windows[i].start_s):
            window = problem.windows[index]
            by_link[window.sender, window.receiver].append(index)
        self._links = {link: _Link(problem, indices) for link, indices in by_link.items()}
        self._into: dict[str, list[_Link]] = defaultdict(list)
        for (_, receiver), link in self._links.items():
            self._into[receiver].append(link)
        self._times: list[list[tuple[float, float]]] = [[(math.inf, -math.inf)] * len(s.hops) for s in self._shares]
        self._arrived: dict[str, float] = defaultdict(float)
        self._missed: dict[str, float] = defaultdict(float)
        self._held: dict[str, float] = defaultdict(float)
        self._peak: dict[str, float] = defaultdict(float)
        self._kept_room: dict[str, float] = defaultdict(float)
        self._held_up: dict[str, float] = defaultdict(float)
        self._refused: set[int] = set()
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
        pieces = max(1, math.ceil(share.size_bytes / piece_bytes))
        size_bytes = share.size_bytes / pieces
        windows = [self._problem.windows[hop.window] for hop in share.hops]
        for window in windows[1:]:
            limit_bytes = self._problem.storage_bytes.get(window.sender, math.inf)
            if size_bytes > limit_bytes:
                raise FlowError(
                    f"demand {share.demand} cannot go through {window.sender}, which stores no more than "
                    f"{amount(limit_bytes)} for others: less than one piece",
                    field="flow",
                    found=f"pieces of {amount(size_bytes)}",
                    allowed="smaller pieces, more storage or another way",
                )
        ready_s = max(demand.ready_s[windows[0].sender], share.not_before_s, self._problem.start_s)
        for index in range(pieces):
            piece = _Piece(number, size_bytes, 0, index / pieces)
            heapq.heappush(self._next, (ready_s, next(self._order), piece, None))

    def result(self) -> Replayed:
        while self._next:
            at_s, _, piece, link = heapq.heappop(self._next)
            if link is not None:
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
        by_name = (dict(sorted(found.items())) for found in (self._missed, self._peak, self._held_up))
        return Replayed(self.completion_s, shares, missing, *by_name)

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
        self._serve(link, at_s)

    def _serve(self, link: _Link, at_s: float) -> None:
        """Begin with the next piece that waits and has room where it goes, if the link is free and open."""
        if at_s < link.busy_until_s or not link.waiting:
            return
        opens_s = link.opens_s(at_s)
        if at_s < opens_s < math.inf:
            heapq.heappush(self._next, (opens_s, next(self._order), None, link))
        if opens_s > at_s:
            return  # for good where no window is left: the bytes of all that waits are missing
        while (piece := self._first(link)) is not None:
            hops = self._shares[piece.share].hops
            sent = link.send(piece.size_bytes, at_s, hops[piece.hop].window)
            if sent is not None:  # else it is missing, but a smaller one may still get through
                self._begin(link, piece, sent, at_s)
                return

    def _begin(self, link: _Link, piece: _Piece, sent: _Sent, at_s: float) -> None:
        """A piece leaves."""
        share = self._shares[piece.share]
        window = self._problem.windows[share.hops[piece.hop].window]
        if piece.hop:
            self._held[window.sender] -= piece.size_bytes
            self._leave(window.sender, piece.size_bytes, at_s)
        if piece.hop + 1 < len(share.hops):
            self._kept_room[window.receiver] += piece.size_bytes
        first_s, last_s = self._times[piece.share][piece.hop]
        self._times[piece.share][piece.hop] = (min(first_s, sent.begins_s), max(last_s, sent.left_s))
        missed_bytes = max(piece.missed_bytes, sent.missed_bytes)
        if missed_bytes > piece.missed_bytes:
            self._missed[share.demand] += missed_bytes - piece.missed_bytes
        link.busy_until_s = sent.left_s
        heapq.heappush(self._next, (sent.left_s, next(self._order), None, link))
        onward = _Piece(piece.share, piece.size_bytes, piece.hop + 1, piece.part, missed_bytes)
        heapq.heappush(self._next, (sent.arrives_s, next(self._order), onward, None))

    def _first(self, link: _Link) -> _Piece | None:
        """Off a link's queue: the first piece that the next node has room for, or that stays there."""
        refused: list[tuple[float, int, int, _Piece]] = []
        found: _Piece | None = None
        while link.waiting and found is None:
            entry = heapq.heappop(link.waiting)
            piece = entry[-1]
            hops = self._shares[piece.share].hops
            receiver = self._problem.windows[hops[piece.hop].window].receiver
            limit_bytes = self._problem.storage_bytes.get(receiver, math.inf) * (1 + 1e-12)
            if piece.hop + 1 == len(hops) or self._kept_room[receiver] + piece.size_bytes <= limit_bytes:
                found = piece
                continue
            refused.append(entry)
            if entry[2] not in self._refused:
                self._refused.add(entry[2])
                self._held_up[receiver] += piece.size_bytes
        for entry in refused:
            heapq.heappush(link.waiting, entry)
        return found

    def _leave(self, node: str, size_bytes: float, at_s: float) -> None:
        """A node has room again, which whoever waits for it hears of."""
        self._kept_room[node] -= size_bytes
        if node in self._problem.storage_bytes:
            for link in self._into[node]:
                heapq.heappush(self._next, (at_s, next(self._order), None, link))
