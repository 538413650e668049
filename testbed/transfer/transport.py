"""What node code may do with a network: deliver a chunk to a neighbour."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from testbed.transfer.chunks import Chunk

PAYLOAD_SHARE = 0.94
"""Part of a link's rate that chunk bytes get: TCP's 1448 of 1514 octets a frame (RFC 7323 timestamps on), less TLS
records, HTTP/2 frames and acknowledgements of the other direction. Used for predictions only, never for measuring."""

CHUNKS_IN_FLIGHT = 4
"""Offered and not yet durable, per link: enough to keep the link busy while acknowledgements travel."""
ROOM_CHECK_S = 1.0
"""How often a receiver asks its own disk whether what it put off has room now; no byte crosses a link for it."""


@dataclass(frozen=True)
class Delivery:
    """One acknowledged chunk: mission times of declaration and acknowledgement, and the byte it went on from."""

    start_s: float
    end_s: float
    resumed_from: int


Recorder = Callable[[str, str, Chunk, int], None]
"""Called with (sender, receiver, chunk, first byte sent) for every payload handed to a link: the privacy tests' tap."""


class Transport(ABC):
    """The data plane of one node. ``counts`` has what its sending end met, by the names that each transport gives."""

    counts: Counter[str]

    @abstractmethod
    async def deliver(self, peer: str, chunk: Chunk, *, not_before_s: float, until_s: float) -> Delivery:
        """Send a chunk to a neighbour between two mission times; return when its application has accepted it.

        Chunks that wait for one neighbour go by priority, and in the order of the calls where that is equal; one that
        has begun is finished first. A chunk for which the receiver has no room now is kept until it has. Raises
        IntegrityError, naming both ends, for a chunk that the receiver refuses, and :class:`LinkClosed` when the link
        (or ``until_s``) ended first; the receiver keeps what arrived and the next delivery goes on from there.
        """

    async def open(self) -> None:  # noqa: B027 - a transport without sockets has nothing to open
        """Connect the links that are always up, before the mission starts: a connection set up under load waits for
        its answers behind the bulk of the other direction."""

    async def close(self) -> None:  # noqa: B027 - a transport without sockets has nothing to close
        """Close every connection."""
