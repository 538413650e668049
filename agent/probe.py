"""Probing shaped links: what delay, goodput and loss do they really have, alone and all together?

Both ends of every probed link are namespaces of one kernel, so one process opens all sockets (a socket stays in the
namespace it was opened in) and one clock stamps both ends: delays are one way. Nothing outside them is talked to.

Loss is counted below the link's rate, where no queue overflows. What the figures are worth is for
``agent.certificate`` to say.
"""

from __future__ import annotations

import contextlib
import math
import random
import selectors
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.netem import KernelLinkState
from testbed.rack.netlink import inside

if TYPE_CHECKING:
    from testbed.link.plan import LinkState

ETHERNET_HEADER_BYTES, IPV4_HEADER_BYTES, UDP_HEADER_BYTES = 14, 20, 8
TCP_HEADER_BYTES = 32  # with the timestamp option, which Linux always uses (RFC 7323)
STAMP = struct.Struct("=Id")  # round, CLOCK_MONOTONIC of the sender
DELAY_PROBE_BYTES = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + UDP_HEADER_BYTES + STAMP.size
"""What netem counts for one delay probe: the frame without its checksum."""
DELAY_ROUNDS, DELAY_ROUNDS_LIMIT = 20, 300
UNHEARD = 1e-6
"""How likely a link that loses what it should may let none of its delay probes through."""
DELAY_SPACING_S = 0.001
"""Between the probes of two links of a round: they must not wait for each other at the one CPU."""
DELAY_GRACE_S = 0.2
WARM_S, WINDOW_S, WINDOW_PACKETS = 0.5, 2.0, 200
"""200 packets make the count exact to 0.5 %."""
OVERLOAD = 1.05
OFFERED_LOSS_LIMIT = 0.9
"""A link that loses more is not offered ever more to be full nevertheless."""
TICK_S = 0.004
BURST_PACKETS = 200
LOSS_EVENTS = 100
"""Datagrams that a measurement of loss expects to lose (or, of a link that loses most, to get through): the interval
is then about 0.6 to 1.5 times what is measured, and twice the loss that was set goes unnoticed once in 25,000 times."""
LOSS_DATAGRAMS, LOSS_DATAGRAMS_LIMIT = 500, 20_000
LOSS_LIMIT_S = 10.0
"""Where they do not fit, fewer are sent and the interval is wider."""
LOSS_LOAD = 0.5
"""Part of the rate and of the queue's limit that these datagrams take at most: what is lost, the link lost."""
LOSS_TOTAL_PER_S = 5000.0
"""Of all links together: a datagram costs a guest 50-100 us."""
IP_MTU = 14  # linux/in.h: what a connected socket's route carries
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

    @property
    def ends(self) -> tuple[str, str]:
        """Sender and receiver."""
        return self.sender, self.receiver

    def probe_ms(self) -> float:
        """The time that a delay probe itself takes on the link, beside the delay that is set."""
        return DELAY_PROBE_BYTES * 8 / self.target.rate_bps * 1e3 if self.target.up else 0.0


@dataclass(frozen=True)
class LossCount:
    """Datagrams that left for a link, and how many of them did not arrive."""

    sent: int
    lost: int

    @property
    def ratio(self) -> float:
        """Lost of sent."""
        return self.lost / self.sent


def payload_share(mtu_bytes: int = 1500) -> float:
    """TCP payload per byte that netem counts: full segments, Ethernet header counted, checksum and preamble not.

    1448 of 1514 at an MTU of 1500. A train of segments is counted with one header for each (qdisc_pkt_len).
    """
    return (mtu_bytes - IPV4_HEADER_BYTES - TCP_HEADER_BYTES) / (mtu_bytes + ETHERNET_HEADER_BYTES)


def measure_delays(links: Sequence[ProbeLink], rounds: int = DELAY_ROUNDS) -> list[float | None]:
    """One-way delays in ms, the minimum of ``rounds`` stamped datagrams per link, less the datagram's own time on
    the link; None where none arrived. The links carry next to nothing, so any number of them goes at once. A link that
    loses much gets more datagrams."""
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

        wanted = [max(rounds, _heard_rounds(link.target.loss_ratio)) for link in links]
        for number in range(max(wanted, default=0)):
            for flow, flow_rounds in zip(flows, wanted, strict=True):
                if number < flow_rounds:
                    flow.sender.send(STAMP.pack(number, time.monotonic()))
                    receive_until(time.monotonic() + DELAY_SPACING_S)
        slowest_ms = max((link.target.delay_ms + link.probe_ms() for link in links), default=0.0)
        receive_until(time.monotonic() + slowest_ms / 1e3 + DELAY_GRACE_S)
    return [
        None if delay_ms is None else delay_ms - link.probe_ms() for delay_ms, link in zip(best, links, strict=True)
    ]


def _heard_rounds(loss_ratio: float) -> int:
    if not 0 < loss_ratio < 1:
        return 0
    return min(DELAY_ROUNDS_LIMIT, math.ceil(math.log(UNHEARD) / math.log(loss_ratio)))


def measure_rates(links: Sequence[ProbeLink], warm_s: float = WARM_S, window_s: float = WINDOW_S) -> list[float]:
    """The rate of every link in bit/s as netem counts it (whole frames), all loaded slightly above it at once.

    Datagrams, because TCP in both directions of a link measures itself: each acknowledgement waits in the other
    direction's queue, and two links without fault reach 75-97 % of what they carry (one direction alone 100.0 %).
    They fill the device's MTU. Counted over ``window_s`` (longer where the slowest link needs it for 200 packets)
    after ``warm_s``.
    """
    with contextlib.ExitStack() as stack:
        flows = _open_flows(links, stack)
        payload = random.Random(0).randbytes(max(flow.mtu_bytes for flow in flows))
        frames_bytes = [flow.mtu_bytes + ETHERNET_HEADER_BYTES for flow in flows]
        datagrams = [payload[: flow.mtu_bytes - IPV4_HEADER_BYTES - UDP_HEADER_BYTES] for flow in flows]
        seconds_a_frame = [
            frame_bytes * 8 / link.target.rate_bps for frame_bytes, link in zip(frames_bytes, links, strict=True)
        ]
        window_s = max(window_s, WINDOW_PACKETS * max(seconds_a_frame))
        offered_per_s = [
            OVERLOAD / frame_s / max(1 - link.target.loss_ratio, 1 - OFFERED_LOSS_LIMIT)
            for frame_s, link in zip(seconds_a_frame, links, strict=True)
        ]
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
                            flow.sender.send(datagrams[position])
                    sent[position] = due  # what a busy host could not send in time is not made up for
                time.sleep(max(0.0, min(until_s, now_s + TICK_S) - time.monotonic()))

        load_until(begin_s + warm_s)
        first = [_arrivals(flow) for flow in flows]
        load_until(begin_s + warm_s + window_s)
        last = [_arrivals(flow) for flow in flows]
    return [
        (end - start) * frame_bytes * 8 / (end_s - start_s)
        for (start_s, start), (end_s, end), frame_bytes in zip(first, last, frames_bytes, strict=True)
    ]


def measure_losses(links: Sequence[ProbeLink]) -> list[LossCount]:
    """Loss of every link, all at once, by small datagrams paced so that no queue overflows.

    As many as :data:`LOSS_EVENTS` asks for at the target's loss, or as fit into :data:`LOSS_LIMIT_S`.
    """
    share_per_s = LOSS_TOTAL_PER_S / max(1, len(links))
    pace_per_s = [min(share_per_s, _unqueued_per_s(link)) for link in links]
    wanted = [
        max(1, min(loss_datagrams(link.target.loss_ratio), int(pace * LOSS_LIMIT_S)))
        for link, pace in zip(links, pace_per_s, strict=True)
    ]
    with contextlib.ExitStack() as stack:
        flows = _open_flows(links, stack)
        for flow in flows:
            flow.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sent = [0] * len(flows)
        last_s = time.monotonic()
        owed = [0.0] * len(flows)
        while sent != wanted:
            now_s = time.monotonic()
            # A stall is not made up for: it would be a burst, and a burst overflows.
            elapsed_s = min(now_s - last_s, 2 * TICK_S)
            last_s = now_s
            for position, flow in enumerate(flows):
                owed[position] += elapsed_s * pace_per_s[position]
                owed[position] = min(owed[position], wanted[position] - sent[position])
                while owed[position] >= 1:
                    owed[position] -= 1
                    with contextlib.suppress(BlockingIOError):
                        flow.sender.send(STAMP.pack(sent[position], now_s))
                        sent[position] += 1
            time.sleep(TICK_S)
        time.sleep(max(link.target.delay_ms for link in links) / 1e3 + DELAY_GRACE_S)
        arrived = [_arrivals(flow)[1] + _held(flow) for flow in flows]
    return [LossCount(number, number - came) for number, came in zip(sent, arrived, strict=True)]


def loss_datagrams(loss_ratio: float) -> int:
    """How many datagrams :func:`measure_losses` sends through a link that should lose ``loss_ratio`` of them."""
    rarer = min(loss_ratio, 1 - loss_ratio)
    wanted = math.ceil(LOSS_EVENTS / rarer) if rarer > 0 else LOSS_DATAGRAMS
    return min(max(LOSS_DATAGRAMS, wanted), LOSS_DATAGRAMS_LIMIT)


def _unqueued_per_s(link: ProbeLink) -> float:
    """Probes a second that use but :data:`LOSS_LOAD` of the link: of its rate, and of its queue's limit, in which
    what is on its way counts too."""
    by_rate = link.target.rate_bps / (DELAY_PROBE_BYTES * 8)
    by_limit = link.target.limit_packets / (link.target.delay_ms / 1e3 + 2 * TICK_S)
    return LOSS_LOAD * min(by_rate, by_limit)


def _arrivals(flow: _Flow) -> tuple[float, int]:
    """Now, and how many datagrams have come to the receiving socket beyond the few that it holds.

    They are counted, not read: the socket's buffer is full and drops them. Reading each would cost a guest more than
    carrying it does, and a rack that carries 380 Mbit/s would fail its probe at 50.
    """
    facts = flow.receiver.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    return time.monotonic(), struct.unpack("=9I", facts)[SK_MEMINFO_DROPS]


def _held(flow: _Flow) -> int:
    """How many datagrams the receiving socket holds, after which it holds none."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            flow.receiver.recv(1)
            count += 1
    return count


@dataclass(frozen=True)
class _Flow:
    sender: socket.socket
    receiver: socket.socket
    mtu_bytes: int


def _open_flows(links: Sequence[ProbeLink], stack: contextlib.ExitStack) -> list[_Flow]:
    """Per link a datagram socket at either end, each in its own namespace, the sender's connected."""
    flows = []
    for link in links:
        with inside(link.receiver_netns_fd):
            receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            receiver.bind((link.receiver_address, 0))
        with inside(link.sender_netns_fd):
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.bind((link.sender_address, 0))
        sender.connect(receiver.getsockname())
        for end in (sender, receiver):
            end.setblocking(False)
        flows.append(_Flow(sender, receiver, sender.getsockopt(socket.IPPROTO_IP, IP_MTU)))
    return flows
