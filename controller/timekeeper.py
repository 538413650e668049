"""The timekeeper: decides when the mission clock skips and holds (DESIGN, decision 7).

Skip when nobody has bytes in flight, computes or is given orders, to the earliest mission time anybody waits for or any
link changes. Hold, at once, while somebody computes or a management call is under way and nothing is in flight: neither
costs mission time but its charge. Otherwise run. :func:`decide` is pure.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from protos.skyrack.v1.clock_pb2 import AttendResponse, ClockCommand, CommitEpoch, NodeActivity, PrepareEpoch
from protos.skyrack.v1.clock_pb2_grpc import ClockServiceServicer
from testbed.clock import ClockCommit, monotonic_s
from testbed.mission_clock import MissionClock

COMMIT_LEAD_S = 0.01
"""A commit takes effect this far ahead, so that every node has it by then (management calls take 1-9 ms in a guest)."""
LEAST_SKIP_S = 0.05
"""Shorter skips cost more real time than they save."""
LINGER_S = 0.05
"""A hold lasts this long after the last of them is done: the next order, or the news that a node works on it, is on the
way. Rounds began with two or three holds, and mission time ran in between."""
EARLY_S = 0.002
"""A skip lands this much before the event, so that timers fire at it and not after it."""


@dataclass(frozen=True)
class Wish:
    """What the clock should do next: run from ``mission_s`` or stand at it.

    ``votes`` says whether to ask first, ``undo`` that it runs on as if it had never stood.
    """

    mission_s: float
    running: bool
    votes: bool = False
    undo: bool = False


@dataclass(frozen=True)
class Seen:
    """The latest word of one node."""

    in_flight: int
    moving: int
    computing: bool
    busy: int
    wake_mission_s: float | None
    vote_epoch: int | None


def is_occupied(nodes: Sequence[Seen]) -> bool:
    """Whether any node computes or has a management call under way."""
    return any(node.computing or node.busy for node in nodes)


def decide(
    nodes: Sequence[Seen], commit: ClockCommit, now_s: float, edges: Sequence[float], idle_s: float
) -> Wish | None:
    """The next commit worth asking for, or None to leave the clock as it is.

    ``now_s`` is mission time, ``edges`` are the sorted mission times at which any link changes, ``idle_s`` is for how
    long (in real time) nobody has been occupied.
    """
    occupied = is_occupied(nodes)
    flying = any(node.in_flight for node in nodes)
    if not commit.running:
        if any(node.moving for node in nodes):
            # Those bytes were on their way when the hold came: it should not have been.
            return Wish(commit.mission_s, running=True, undo=True)
        stays = (occupied or idle_s < LINGER_S) and not flying
        return None if stays else Wish(commit.mission_s, running=True)
    if flying:
        return None
    if occupied:
        # Not asked for: a vote takes longer than most charges. Who wants to send hears of the hold, declares its bytes
        # and waits; where somebody began before it heard, the hold is undone.
        return Wish(now_s, running=False)
    following = bisect.bisect_right(edges, now_s + LEAST_SKIP_S)
    waits = [node.wake_mission_s for node in nodes if node.wake_mission_s is not None]
    if not waits:
        return None
    target_s = min([*waits, *edges[following : following + 1]]) - EARLY_S
    return Wish(target_s, running=True, votes=True) if target_s - now_s > LEAST_SKIP_S else None


@dataclass
class _Seat:
    """One participant: its latest word and how to send it commands."""

    send: Callable[[ClockCommand], None]
    seen: Seen = field(default_factory=lambda: Seen(1, 0, False, 0, None, None))


class Timekeeper(ClockServiceServicer):
    """Serves every node's attendance; the controller's own clock and the link player follow its commits too."""

    def __init__(self, clock: MissionClock, nodes: Sequence[str], edges: Sequence[float]) -> None:
        self._clock = clock
        self._nodes = frozenset(nodes)
        self._edges = edges
        self.follow: Callable[[ClockCommit], None] = lambda commit: None
        self.record: Callable[[dict[str, Any]], None] = lambda event: None
        self.undecided: Callable[[], int] = lambda: 0
        self._seats: dict[str, _Seat] = {}
        self._latest = ClockCommit(1, 0.0, 0.0, running=True)
        self._number = self._latest.epoch
        """Epochs and questions share one count, so that an answer can never be taken for another's."""
        self._asked: tuple[int, Wish] | None = None
        self._occupied, self._occupied_s = False, 0.0
        self._later: asyncio.TimerHandle | None = None
        self._begun = False
        self.skips = 0
        self.holds = 0
        clock.on_activity = self._consider_soon

    def begin(self, mission_zero_s: float) -> None:
        """The mission starts at this instant; from then on skip and hold. Every clock was started by then."""
        self._latest = ClockCommit(self._clock.epoch, mission_zero_s, 0.0, running=True)
        self._number = self._latest.epoch
        self._begun = True
        asyncio.get_running_loop().call_later(max(0.0, mission_zero_s - monotonic_s()), self._consider)

    def lose(self, node: str) -> None:
        """Ask a node that is dead no more."""
        self._nodes -= {node}
        self._seats.pop(node, None)
        self._consider_soon()

    async def Attend(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[AttendResponse]:  # noqa: N802
        outgoing: asyncio.Queue[ClockCommand] = asyncio.Queue()
        reader = asyncio.get_running_loop().create_task(self._listen(requests, outgoing.put_nowait))
        try:
            while True:
                yield AttendResponse(command=await outgoing.get())
        finally:
            reader.cancel()

    async def _listen(self, requests: AsyncIterator[Any], send: Callable[[ClockCommand], None]) -> None:
        async for request in requests:
            activity: NodeActivity = request.activity
            if activity.node not in self._nodes:
                continue  # its last words, after its death was seen
            seat = self._seats.setdefault(activity.node, _Seat(send))
            if self._asked is not None and seat.seen.vote_epoch == self._asked[0]:
                self._asked = None  # it voted and then something changed: ask again
            seat.seen = Seen(
                activity.in_flight,
                activity.moving,
                activity.computing,
                activity.busy,
                activity.wake_mission_s if activity.HasField("wake_mission_s") else None,
                activity.vote_epoch if activity.HasField("vote_epoch") else None,
            )
            self._consider()

    def _consider_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._consider)

    def _consider(self) -> None:
        """Ask for, or make, the next commit."""
        now_real_s = monotonic_s()
        if not self._begun or self._seats.keys() != self._nodes or now_real_s < self._latest.real_s:
            return
        own = self._clock.activity()
        seen = {
            "controller": Seen(0, 0, own.computing > 0, own.busy + self.undecided(), own.wake_mission_s, None),
            **{name: seat.seen for name, seat in self._seats.items()},
        }
        nodes = list(seen.values())
        occupied = is_occupied(nodes)
        if occupied or self._occupied:
            self._occupied_s = now_real_s
        self._occupied = occupied
        idle_s = now_real_s - self._occupied_s
        if not occupied and not self._latest.running and idle_s < LINGER_S:
            self._consider_later(LINGER_S - idle_s)
        wish = decide(nodes, self._latest, self._clock.now(), self._edges, idle_s)
        if wish is None:
            self._asked = None
        elif not wish.votes:
            self._commit(wish)
        elif self._asked is None or not _same(self._asked[1], wish):
            self._number += 1
            self._asked = (self._number, wish)
            self._tell(ClockCommand(prepare=PrepareEpoch(epoch=self._number)))
        elif all(seat.seen.vote_epoch == self._asked[0] for seat in self._seats.values()):
            self._commit(wish)

    def _commit(self, wish: Wish) -> None:
        self._number += 1
        real_s = monotonic_s() + COMMIT_LEAD_S
        mission_s = wish.mission_s
        if wish.undo:
            mission_s += real_s - self._latest.real_s
        elif not wish.running:
            mission_s = self._clock.now() + COMMIT_LEAD_S  # what it will say when it stops
        commit = ClockCommit(self._number, real_s, mission_s, wish.running)
        self._latest, self._asked = commit, None
        self.skips += wish.running and wish.votes
        self.holds += not wish.running
        self._clock.apply(commit)
        self.follow(commit)
        self.record({"kind": "clock", "node": "controller", **commit.to_dict()})
        self._tell(
            ClockCommand(
                commit=CommitEpoch(
                    epoch=commit.epoch, mission_s=mission_s, real_monotonic_s=real_s, running=commit.running
                )
            )
        )
        self._consider_later(COMMIT_LEAD_S)

    def _consider_later(self, after_s: float) -> None:
        if self._later is not None:
            self._later.cancel()
        self._later = asyncio.get_running_loop().call_later(after_s, self._consider)

    def _tell(self, command: ClockCommand) -> None:
        for seat in self._seats.values():
            seat.send(command)


def _same(one: Wish, other: Wish) -> bool:
    """Two wishes of one kind: a skip to the same place, or a hold."""
    return one.running == other.running and (not one.running or one.mission_s == other.mission_s)
