"""Who takes part in a collective, and in which shape: a ring, or a line where the ring is open."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from testbed.errors import BugError, LinkError
from testbed.link.plan import LinkPlan

Linked = Callable[[str, str], bool]
"""Whether two nodes have a link that is up, both ways."""

SMALLEST_RING = 3
"""Two nodes share one link: both of its directions are in use whichever way data goes round, so they are a line."""


@dataclass(frozen=True)
class Membership:
    """The nodes of a collective, each linked to the next; where ``closed``, the last to the first as well.

    ``out`` are satellites of the plane that do not take part, ``down`` the links that are missing between those that
    do. Every node must be given the same membership: it decides in which order numbers are added.
    """

    members: tuple[str, ...]
    closed: bool
    out: tuple[str, ...] = ()
    down: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.members)
        if not count or len(set(self.members)) != count or (self.closed and count < SMALLEST_RING):
            raise BugError(f"no collective can be {self}")

    def __len__(self) -> int:
        return len(self.members)

    def beside(self, name: str) -> tuple[str, ...]:
        """The members that ``name`` has a link to, the one before it first."""
        here, count = self.members.index(name), len(self.members)
        if self.closed:
            return self.members[here - 1], self.members[(here + 1) % count]
        return self.members[max(here - 1, 0) : here] + self.members[here + 1 : here + 2]

    def __str__(self) -> str:
        """For the round's record: "ring of 8", "line of 7: sat-0-3 is out"."""
        reasons = [f"{name} is out" for name in self.out]
        reasons += [f"{a} - {b} is down" for a, b in self.down if not self.out]
        count = len(self.members)
        shape = "ring" if self.closed else "line"
        what = f"{shape} of {count}" if count > 1 else f"{self.members[0]} alone"
        return f"{what}: {', '.join(reasons)}" if reasons else what


def form(ring: Sequence[str], linked: Linked, out: Collection[str] = ()) -> Membership:
    """The collective of those satellites of a plane that are not ``out``; ``ring`` is the plane in ring order.

    Whoever is out leaves a hole, which closes only where its two neighbours have a link of their own. One hole makes a
    line. More than one leave pieces that cannot reach each other: LinkError names the links that are missing.
    """
    members = tuple(name for name in ring if name not in out)
    absent = tuple(name for name in ring if name in out)
    if not members:
        raise LinkError(f"no satellite is left of {', '.join(ring)}")
    count = len(members)
    if count == 1:
        return Membership(members, False, absent)
    ends = range(count) if count >= SMALLEST_RING else range(1)
    holes = [i for i in ends if not linked(members[i], members[(i + 1) % count])]
    down = tuple((members[i], members[(i + 1) % count]) for i in holes)
    if not holes:
        return Membership(members, count >= SMALLEST_RING, absent)
    if len(holes) > 1 or count < SMALLEST_RING:
        raise LinkError(_apart(members, down, absent))
    first = holes[0] + 1
    return Membership(members[first:] + members[:first], False, absent, down)


def linked_at(plans: Mapping[str, LinkPlan], at_s: float, horizon_s: float) -> Linked:
    """Which nodes have a link both ways at a mission time, by the link plans. One that closes for good before the
    horizon (mission time) does not count even while it is up: what is on it then would wait for ever."""

    def up(sender: str, receiver: str) -> bool:
        windows = plans[sender].windows(receiver) if receiver in plans[sender].links else ()
        return any(start_s <= at_s < end_s for start_s, end_s in windows) and windows[-1][1] >= horizon_s

    return lambda a, b: up(a, b) and up(b, a)


def _apart(members: Sequence[str], down: Sequence[tuple[str, str]], out: Sequence[str]) -> str:
    missing = ", ".join(f"{a} - {b}" for a, b in down)
    without = f" ({', '.join(out)} out)" if out else ""
    return f"{', '.join(members)} cannot all reach each other{without}: there is no link {missing}"
