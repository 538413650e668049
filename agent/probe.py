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

from agent.netem import KernelLinkState, disagreement
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
CLOCK_GRAIN_MS = 0.002
FULL_FRAME_BYTES = 1514  # of an MTU of 1500
DATAGRAM_BYTES = FULL_FRAME_BYTES - ETHERNET_HEADER_BYTES - IPV4_HEADER_BYTES - UDP_HEADER_BYTES
WARM_S, WINDOW_S, WINDOW_PACKETS = 0.5, 2.0, 200
"""200 packets make the count exact to 0.5 %."""
OVERLOAD = 1.05
TICK_S = 0.004
BURST_PACKETS = 200
SO_MEMINFO, SK_MEMINFO_DROPS = 55, 8  # asm-generic/socket.h, linux/sock_diag.h (since Linux 4.12)


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

    def probe_ms(self) -> float:
        """The time that a delay probe itself takes on the link, beside the delay that is set."""
        return DELAY_PROBE_BYTES * 8 / self.target.rate_bps * 1e3 if self.target.up else 0.0


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


def datagram_share(mtu_bytes: int = 1500) -> float:
    """UDP payload per byte that netem counts, in full datagrams: 1472 of 1514 at an MTU of 1500."""
    return (mtu_bytes - IPV4_HEADER_BYTES - UDP_HEADER_BYTES) / (mtu_bytes + ETHERNET_HEADER_BYTES)


def measure_delays(links: Sequence[ProbeLink], rounds: int = DELAY_ROUNDS) -> list[float | None]:
    """One-way delays in ms, the minimum of ``rounds`` stamped datagrams per link, less the datagram's own time on
    the link; None where none arrived. The links carry next to nothing, so any number of them goes at once."""
    best: list[float | None] = [None] * len(links)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        flows = _open_flows(links, stack)
        for position, flow in enumerate(flows):
            selector.register(flow.receiver, selectors.EVENT_READ, position)

        def receive_until(until_s: float) -> None:
            while (left_s := until_s - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    arrived_s = time.monotonic()
                    _, sent_s = STAMP.unpack(flows[key.data].receiver.recv(STAMP.size))
                    delay_ms = (arrived_s - sent_s) * 1e3
                    known = best[key.data]
                    best[key.data] = delay_ms if known is None else min(known, delay_ms)

        for number in range(rounds):
            for flow in flows:
                flow.sender.sendto(STAMP.pack(number, time.monotonic()), flow.target)
                receive_until(time.monotonic() + DELAY_SPACING_S)
        slowest_ms = max((link.target.delay_ms + link.probe_ms() for link in links), default=0.0)
        receive_until(time.monotonic() + slowest_ms / 1e3 + DELAY_GRACE_S)
    return [
        None if delay_ms is None else delay_ms - link.probe_ms() for delay_ms, link in zip(best, links, strict=True)
    ]


def measure_rates(links: Sequence[ProbeLink], warm_s: float = WARM_S, window_s: float = WINDOW_S) -> list[float]:
    """UDP payload that arrived, in bit/s, of every link, all of them loaded slightly above their rate at once.

    Datagrams, because TCP in both directions of a link measures itself: each acknowledgement waits in the other
    direction's queue, and two links without fault reach 75-97 % of what they carry (one direction alone 100.0 %).
    Counted over ``window_s`` (longer where the slowest link needs it for 200 packets) after ``warm_s``.
    """
    slowest_bps = min(link.target.rate_bps for link in links)
    window_s = max(window_s, WINDOW_PACKETS * FULL_FRAME_BYTES * 8 / slowest_bps)
    payload = random.Random(0).randbytes(DATAGRAM_BYTES)
    offered_per_s = [
        link.target.rate_bps / 8 / FULL_FRAME_BYTES * OVERLOAD / (1 - link.target.loss_ratio) for link in links
    ]
    with contextlib.ExitStack() as stack:
        flows = _open_flows(links, stack)
        for flow in flows:
            flow.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it its minimum
        begin_s = time.monotonic()
        sent = [0] * len(flows)

        def load_until(until_s: float) -> None:
            while (now_s := time.monotonic()) < until_s:
                for position, flow in enumerate(flows):
                    due = int((now_s - begin_s) * offered_per_s[position]) + 1
                    for _ in range(min(due - sent[position], BURST_PACKETS)):
                        with contextlib.suppress(BlockingIOError):
                            flow.sender.sendto(payload, flow.target)
                    sent[position] = due  # what a busy host could not send in time is not made up for
                time.sleep(max(0.0, min(until_s, now_s + TICK_S) - time.monotonic()))

        load_until(begin_s + warm_s)
        first = [_arrivals(flow) for flow in flows]
        load_until(begin_s + warm_s + window_s)
        last = [_arrivals(flow) for flow in flows]
    return [
        (end - start) * DATAGRAM_BYTES * 8 / (end_s - start_s)
        for (start_s, start), (end_s, end) in zip(first, last, strict=True)
    ]


def _arrivals(flow: _Flow) -> tuple[float, int]:
    """Now, and how many datagrams have come to the receiving socket beyond the few that it holds.

    They are counted, not read: the socket's buffer is full and drops them. Reading each would cost a guest more than
    carrying it does, and a rack that carries 380 Mbit/s would fail its probe at 50.
    """
    facts = flow.receiver.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    return time.monotonic(), struct.unpack("=9I", facts)[SK_MEMINFO_DROPS]


@dataclass(frozen=True)
class _Flow:
    sender: socket.socket
    receiver: socket.socket
    target: tuple[str, int]


def _open_flows(links: Sequence[ProbeLink], stack: contextlib.ExitStack) -> list[_Flow]:
    """Per link a datagram socket at either end, each in its own namespace."""
    flows = []
    for link in links:
        with inside(link.receiver_netns_fd):
            receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            receiver.bind((link.receiver_address, 0))
        with inside(link.sender_netns_fd):
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.bind((link.sender_address, 0))
        for end in (sender, receiver):
            end.setblocking(False)
        flows.append(_Flow(sender, receiver, receiver.getsockname()))
    return flows


def judge(
    link: ProbeLink, tolerance: Tolerance, delay_ms: float | None = None, rate_bps: float | None = None
) -> ProbeRow:
    """The certificate's row for one link: what was asked, what the kernel says, what was measured, and whether it is
    within tolerance. A link that is down must have let nothing through."""
    target, kernel = link.target, link.kernel
    faults = []
    difference = disagreement(target, kernel)
    if difference:
        faults.append(f"the kernel has {difference}")
    if not target.up:
        if delay_ms is not None:
            faults.append("the link is down and let datagrams through")
    elif rate_bps is None:
        if delay_ms is None:
            faults.append("nothing arrived")
        # The clock's own grain is the only excuse for a packet that is early.
        elif not -CLOCK_GRAIN_MS <= delay_ms - target.delay_ms <= tolerance.delay_ms:
            faults.append(f"delay is {delay_ms - target.delay_ms:+.3f} ms off, allowed 0 to {tolerance.delay_ms:g} ms")
    else:
        ratio = rate_bps / (target.rate_bps * datagram_share())
        if not 1 - tolerance.rate_low <= ratio <= 1 + tolerance.rate_high:
            faults.append(
                f"rate is {(ratio - 1) * 100:+.1f} % off, "
                f"allowed {-tolerance.rate_low * 100:g} to {tolerance.rate_high * 100:g} %"
            )
    return ProbeRow(
        sender=link.sender,
        receiver=link.receiver,
        at_s=target.start_s,
        target_delay_ms=target.delay_ms if target.up else 0.0,
        kernel_delay_ms=kernel.delay_ms,
        measured_delay_ms=delay_ms,
        target_rate_bps=target.rate_bps,
        kernel_rate_bps=kernel.rate_bps,
        measured_rate_bps=None if rate_bps is None else rate_bps / datagram_share(),
        loss_ratio=kernel.loss_ratio,
        ok=not faults,
        why="; ".join(faults),
    )
