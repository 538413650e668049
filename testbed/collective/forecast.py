"""How long collectives take: closed forms, and a replay of their journeys over links that serve in order.

The closed forms are the textbook's (Thakur, Rabenseifner and Gropp, Int. J. High Perform. Comput. Appl. 19, 2005) and
count every hop's delay, as if each step waited for all of the last. Sub-chunks overtake them: a node sends on what it
has while more arrives, so the delay of a hop hides behind the bytes of the others. The replay says what that gives. A
collective's call returns one acknowledgement later than its data is there; the replay counts that, the closed forms
do not.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from testbed.collective.gather import spans
from testbed.collective.journeys import BOTH_WAYS, Ways
from testbed.collective.membership import Membership
from testbed.collective.neighbours import SUB_CHUNK_BYTES
from testbed.collective.reduce import SEAL_BYTES, Sum, parts


@dataclass(frozen=True)
class Links:
    """What all links of a plane are: payload bytes per second each way, and a hop's delay."""

    rate_Bps: float  # noqa: N815
    delay_s: float


@dataclass(frozen=True)
class Crossing:
    """One message over one link. It can leave once those of ``after`` (earlier in the list) have arrived."""

    sender: str
    receiver: str
    size_bytes: int
    after: tuple[int, ...] = ()


@dataclass
class Crossings:
    """All messages of a collective, each after those it needs."""

    listed: list[Crossing] = field(default_factory=list)

    def along(self, path: Sequence[str], sizes: Sequence[int], after: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Add one message from node to node, ``sizes`` by hop; returns what its arrival is known by."""
        for sender, receiver, size in zip(path, path[1:], sizes, strict=False):
            self.listed.append(Crossing(sender, receiver, size, after))
            after = (len(self.listed) - 1,)
        return after


def gather_crossings(
    membership: Membership,
    sizes: Mapping[str, int],
    *,
    ways: Ways = BOTH_WAYS,
    sub_chunk_bytes: int = SUB_CHUNK_BYTES,
) -> list[Crossing]:
    """What :func:`~testbed.collective.gather.all_gather` sends, ``sizes`` in bytes by member."""
    crossings = Crossings()
    for origin in membership.members:
        for index, (start, end) in enumerate(spans(sizes[origin], sub_chunk_bytes)):
            for path in ways.gather(membership, origin, index).outward:
                crossings.along(path, [end - start] * (len(path) - 1))
    return crossings.listed


def reduce_crossings(
    total: Sum, count: int, *, ways: Ways = BOTH_WAYS, sub_chunk_bytes: int = SUB_CHUNK_BYTES
) -> list[Crossing]:
    """What :func:`~testbed.collective.reduce.round_the_ring` sends for a tensor of ``count`` elements."""
    crossings = Crossings()
    how, first = total.arithmetic, total.first.itemsize
    for journey, start, end in parts(total.membership, how, count, ways, sub_chunk_bytes):
        opening, partial, whole = (
            SEAL_BYTES + (end - start) * n for n in (first, how.partial.itemsize, how.item.itemsize)
        )
        arrived: tuple[int, ...] = ()
        for path in journey.inward:
            arrived += crossings.along(path, [opening] + [partial] * (len(path) - 2))
        for path in journey.outward:
            crossings.along(path, [whole] * (len(path) - 1), arrived)
    return crossings.listed


def replay_s(crossings: Sequence[Crossing], links: Links) -> float:
    """When the last sender knows that its message is durable. A link serves messages one at a time, in the order in
    which they can leave, and where that is equal in the order they are listed."""
    waits = [len(crossing.after) for crossing in crossings]
    then: list[list[int]] = [[] for _ in crossings]
    for number, crossing in enumerate(crossings):
        for earlier in crossing.after:
            then[earlier].append(number)
    ready = [(0.0, number) for number, count in enumerate(waits) if not count]
    possible_s = [0.0] * len(crossings)
    free_s: dict[tuple[str, str], float] = {}
    last_s = 0.0
    while ready:
        now_s, number = heapq.heappop(ready)
        crossing = crossings[number]
        link = (crossing.sender, crossing.receiver)
        free_s[link] = max(now_s, free_s.get(link, 0.0)) + crossing.size_bytes / links.rate_Bps
        arrived_s = free_s[link] + links.delay_s
        last_s = max(last_s, arrived_s + links.delay_s)
        for later in then[number]:
            waits[later] -= 1
            possible_s[later] = max(possible_s[later], arrived_s)
            if not waits[later]:
                heapq.heappush(ready, (possible_s[later], later))
    return last_s


def gather_s(membership: Membership, block_bytes: float, links: Links, ways: Ways = BOTH_WAYS) -> float:
    """Closed form of an all-gather of equal blocks: (K-1)(m/B + tau).

    Both ways round a ring halve the bytes of a link, and the hops. On a line the end's one link carries everybody
    else's block, as one way round a ring.
    """
    hops = len(membership) - 1
    directions = ways.directions if membership.closed else 1
    return hops / directions * block_bytes / links.rate_Bps + -(-hops // directions) * links.delay_s


def reduce_s(
    total: Sum, count: int, links: Links, ways: Ways = BOTH_WAYS, sub_chunk_bytes: int = SUB_CHUNK_BYTES
) -> float:
    """Closed form of an all-reduce of ``count`` elements: 2(K-1)(M/(K B) + tau) on a ring, bytes and hops halved both
    ways.

    M is in bytes as they travel: on the way to the sum a path's first hop carries ``total.first`` and the others
    ``partial``, afterwards all carry ``item``. On a line it is the pipelined form (a whole tensor that waits at each of
    K/2 hops to the middle and back would be no forecast): the tensor once, at its widest, and a sub-chunk at each
    other hop.
    """
    first, partial, item = (kind.itemsize for kind in (total.first, total.arithmetic.partial, total.arithmetic.item))
    others = len(total.membership) - 1
    if not others:
        return 0.0
    if not total.membership.closed:
        hops = len(total.membership) // 2
        widths = [first] + [partial] * (hops - 1) + [item] * hops
        step = min(count, max(1, sub_chunk_bytes // partial))
        wire_bytes: float = count * max(widths) + step * (sum(widths) - max(widths))
    else:
        hops = -(-others // ways.directions)
        arms = ways.directions
        width = arms * first + (others - arms) * partial + others * item
        wire_bytes = count * width / len(total.membership) / ways.directions
    return wire_bytes / links.rate_Bps + 2 * hops * links.delay_s


def least_gather_s(membership: Membership, sizes: Mapping[str, int], links: Links) -> float:
    """No all-gather is faster, whatever it does: who lacks most, through all links it has, after one delay."""
    if len(membership) == 1:
        return 0.0
    doors = {name: 2 for name in membership.members}
    if not membership.closed:
        doors[membership.members[0]] = doors[membership.members[-1]] = 1
    all_bytes = sum(sizes[name] for name in membership.members)
    return max((all_bytes - sizes[name]) / doors[name] for name in doors) / links.rate_Bps + links.delay_s
