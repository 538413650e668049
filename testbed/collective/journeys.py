"""Ways of data through a ring or a line: what is added up on the way to a root, and what spreads from it.

A collective is nothing but journeys. That of a gathered block starts at its owner and spreads; that of a segment of a
tensor first collects every member's part of the sum, then spreads the sum. What is done on a journey (``gather``,
``reduce``) and how long it takes (``forecast``) follow from the same values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from testbed.collective.membership import Membership
from testbed.transfer.ring import gather_routes

Path = tuple[str, ...]


@dataclass(frozen=True)
class Journey:
    """Paths that end at ``root`` and paths that begin at it. Each path names two nodes or more, and every node but the
    root is on one path outwards; where anything is added up, on one path inwards too."""

    root: str
    inward: tuple[Path, ...]
    outward: tuple[Path, ...]


class Ways(ABC):
    """How a collective uses a ring. On a line there is one way only, so all kinds do the same there.

    In which order numbers are added follows from the journeys alone: along a path from its start, and at a root its
    own share first, then path by path as listed.
    """

    directions: ClassVar[int]
    """Directions of a ring's links that are in use at once."""

    def gather(self, membership: Membership, origin: str, index: int) -> Journey:
        """The journey of the ``index``-th sub-chunk of a block."""
        members = membership.members
        if not membership.closed:
            here = members.index(origin)
            return Journey(origin, (), _real(members[here:], members[here::-1]))
        return Journey(origin, (), _real(*((origin, *route) for route in self._routes(members, origin, index))))

    def reduce(self, membership: Membership) -> tuple[Journey, ...]:
        """The journeys of a tensor's segments, in the order of the segments, which are of equal length."""
        members = membership.members
        if not membership.closed:
            # Every directed link carries the tensor once, which is the least it can be: each side of a link lacks all
            # that the other knows.
            middle = len(members) // 2
            return (_two_arms(members[: middle + 1], members[middle:][::-1]),)
        return self._reduce(members)

    @abstractmethod
    def _routes(self, ring: Path, origin: str, index: int) -> Sequence[Path]:
        """The nodes after ``origin`` that a sub-chunk passes in a ring."""

    @abstractmethod
    def _reduce(self, ring: Path) -> tuple[Journey, ...]:
        """The journeys of equal segments in a ring."""


class OneWay(Ways):
    """Round the ring as it is listed: the textbook's algorithm, half of every full-duplex link unused."""

    directions = 1

    def _routes(self, ring: Path, origin: str, index: int) -> Sequence[Path]:
        here = ring.index(origin)
        return (ring[here + 1 :] + ring[:here],)

    def _reduce(self, ring: Path) -> tuple[Journey, ...]:
        """Segment ``i`` starts at the ``i``-th node, is whole at the one before it, and goes on round from there
        (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009: reduce-scatter and all-gather)."""
        turned = [ring[i:] + ring[:i] for i in range(len(ring))]
        return tuple(Journey(nodes[-1], (nodes,), ((nodes[-1], *nodes[:-1]),)) for nodes in turned)


class BothWays(Ways):
    """Half of everything goes the other way: every directed link carries the same, and half of what it would. No hop
    is further than half the ring."""

    directions = 2

    def _routes(self, ring: Path, origin: str, index: int) -> Sequence[Path]:
        return gather_routes(ring, origin, index)

    def _reduce(self, ring: Path) -> tuple[Journey, ...]:
        """Segment ``i`` comes to the ``i``-th node from both sides and returns the way it came: the same bytes a link
        as with half the tensor sent round the other way, in half as many hops, and one more of them carries a tensor as
        it is. With an even number of nodes one side has a node more; so that wide partial sums load both directions
        alike, there are two segments a node, one for each side."""
        count = len(ring)
        around = ring * 3  # any stretch of the ring around a node of the middle copy
        return tuple(
            _two_arms(around[here - before : here + 1], around[here : here + count - before][::-1])
            for before in (count // 2, (count - 1) // 2)
            for here in range(count, 2 * count)
        )


ONE_WAY: Ways = OneWay()
BOTH_WAYS: Ways = BothWays()


def gather_ways(membership: Membership, origin: str, index: int) -> tuple[Path, ...]:
    """The nodes behind ``origin`` that the ``index``-th chunk of its block passes, both ways."""
    return tuple(path[1:] for path in BOTH_WAYS.gather(membership, origin, index).outward)


def _real(*paths: Path) -> tuple[Path, ...]:
    return tuple(path for path in paths if len(path) > 1)


def _two_arms(left: Path, right: Path) -> Journey:
    """From both ends to the node where two paths meet, and back."""
    arms = _real(left, right)
    return Journey(left[-1], arms, tuple(arm[::-1] for arm in arms))
