"""Probing shaped links: what delay and goodput do they really have, alone and all together?

Both ends of every probed link are namespaces of one kernel, so one process opens all sockets (a socket stays in the
namespace it was opened in) and one clock stamps both ends: delays are one way. Nothing outside them is talked to.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agent.netem import KernelLinkState
from testbed.errors import LinkToleranceError
from testbed.rack.netlink import inside

if TYPE_CHECKING:
    from testbed.link.plan import LinkState

ETHERNET_HEADER_BYTES, IPV4_HEADER_BYTES, UDP_HEADER_BYTES = 14, 20, 8
TCP_HEADER_BYTES = 32  # with the timestamp option, which Linux always uses (RFC 7323)
STAMP = struct.Struct("=Id")  # round, CLOCK_MONOTONIC of the sender
DELAY_PROBE_BYTES = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + UDP_HEADER_BYTES + STAMP.size
"""What netem counts for one delay probe: the frame without its checksum."""
DELAY_ROUNDS = 20
DELAY_SPACING_S = 0.001
"""Between the probes of two links of a round: they must not wait for each other at the one CPU."""
DELAY_GRACE_S = 0.2
WARM_S, WINDOW_S = 1.0, 2.0
"""TCP fills the slowest path here (11 Mbit/s x 40 ms = 36 segments) in well under a second of slow start."""
CHUNK_BYTES = 65536


@dataclass(frozen=True)
class ProbeLink:
    """One directed link to probe: both ends' namespaces (descriptors) and data addresses, and what it should be."""

    sender: str
    receiver: str
    sender_netns_fd: int | None
    receiver_netns_fd: int | None
    sender_address: str
    receiver_address: str
    target: LinkState
    kernel: KernelLinkState

    def expected_probe_ms(self) -> float:
        """One-way time of a delay probe: the set delay and the time that the probe itself takes on the link."""
        return self.target.delay_ms + DELAY_PROBE_BYTES * 8 / self.target.rate_bps * 1e3


@dataclass(frozen=True)
class Tolerance:
    """How far a measured link may be from its target: up to ``delay_ms`` above it; rate ratios below and above."""

    delay_ms: float = 1.0
    rate_low: float = 0.05
    rate_high: float = 0.01


@dataclass(frozen=True)
class ProbeRow:
    """One line of the certificate. ``measured_*`` is None for what this probe did not measure, or nothing arrived."""

    sender: str
    receiver: str
    at_s: float
    target_delay_ms: float
    kernel_delay_ms: float
    measured_delay_ms: float | None
    target_rate_bps: float
    kernel_rate_bps: float
    measured_rate_bps: float | None
    loss_ratio: float
    ok: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def payload_share(mtu_bytes: int = 1500) -> float:
    """TCP payload per byte that netem counts: full segments, Ethernet header counted, checksum and preamble not.

    1448 of 1514 at an MTU of 1500. A train of segments is counted with one header for each (qdisc_pkt_len).
    """
    return (mtu_bytes - IPV4_HEADER_BYTES - TCP_HEADER_BYTES) / (mtu_bytes + ETHERNET_HEADER_BYTES)


def measure_delays(links: Sequence[ProbeLink], rounds: int = DELAY_ROUNDS) -> list[float | None]:
    """One-way delays in ms, the minimum of ``rounds`` stamped datagrams per link, less the datagram's own time on
    the link; None where none arrived. The links carry next to nothing, so any number of them goes at once."""
    best: list[float | None] = [None] * len(links)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        senders, targets = [], []
        for position, link in enumerate(links):
            with inside(link.receiver_netns_fd):
                receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                receiver.bind((link.receiver_address, 0))
            with inside(link.sender_netns_fd):
                sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sender.bind((link.sender_address, 0))
            receiver.setblocking(False)
            selector.register(receiver, selectors.EVENT_READ, position)
            senders.append(sender)
            targets.append(receiver.getsockname())

        def receive_until(until_s: float) -> None:
            while (left_s := until_s - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    arrived_s = time.monotonic()
                    receiver = key.fileobj
                    assert isinstance(receiver, socket.socket)
                    _, sent_s = STAMP.unpack(receiver.recv(STAMP.size))
                    delay_ms = (arrived_s - sent_s) * 1e3
                    known = best[key.data]
                    best[key.data] = delay_ms if known is None else min(known, delay_ms)

        for number in range(rounds):
            for sender, target in zip(senders, targets, strict=True):
                sender.sendto(STAMP.pack(number, time.monotonic()), target)
                receive_until(time.monotonic() + DELAY_SPACING_S)
        slowest_ms = max((link.expected_probe_ms() for link in links), default=0.0)
        receive_until(time.monotonic() + slowest_ms / 1e3 + DELAY_GRACE_S)
    return [
        None if delay_ms is None else delay_ms - DELAY_PROBE_BYTES * 8 / link.target.rate_bps * 1e3
        for delay_ms, link in zip(best, links, strict=True)
    ]


def count_leaks(links: Sequence[tuple[int | None, int | None, str, str]]) -> list[int]:
    """How many of five datagrams came through links that are down: (sender's namespace, receiver's, addresses)."""
    raise NotImplementedError


def measure_rates(links: Sequence[ProbeLink], warm_s: float = WARM_S, window_s: float = WINDOW_S) -> list[float]:
    """TCP goodput in bit/s (payload that arrived) of every link, all of them loaded at the same time.

    Counted over ``window_s`` after ``warm_s``; one connection a link, ended by reset so that nothing lingers.
    """
    counted = [0] * len(links)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for position, link in enumerate(links):
            with inside(link.receiver_netns_fd):
                listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                listener.bind((link.receiver_address, 0))
            listener.listen(1)
            listener.setblocking(False)
            with inside(link.sender_netns_fd):
                sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                sender.bind((link.sender_address, 0))
            _reset_on_close(sender)
            sender.setblocking(False)
            sender.connect_ex(listener.getsockname())
            selector.register(listener, selectors.EVENT_READ, ("accept", position))
            selector.register(sender, selectors.EVENT_WRITE, ("send", position))
        payload = random.Random(0).randbytes(CHUNK_BYTES)
        buffer = bytearray(CHUNK_BYTES)
        start_s = time.monotonic() + warm_s
        end_s = start_s + window_s
        while (now_s := time.monotonic()) < end_s:
            for key, _ in selector.select(end_s - now_s):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                role, position = key.data
                if role == "receive":
                    got = end.recv_into(buffer)
                    if start_s <= time.monotonic() < end_s:
                        counted[position] += got
                elif role == "send":
                    with contextlib.suppress(BlockingIOError):
                        end.send(payload)
                else:
                    receiver, _ = end.accept()
                    stack.enter_context(receiver)
                    _reset_on_close(receiver)
                    receiver.setblocking(False)
                    selector.register(receiver, selectors.EVENT_READ, ("receive", position))
    return [each * 8 / window_s for each in counted]


def _reset_on_close(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
