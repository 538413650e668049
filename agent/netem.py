"""Shaping one device by netem, per destination: the one module that knows netem's messages and its units.

The tree on a data device (handles in hex)::

    htb 1:  default 1
    ├── class 1:1      blackhole 2001:          whatever no filter matched, ARP too, is dropped
    └── class 1:N      netem 1000+N: (up)       one per peer, N = 2, 3, ... in the order of the peers' names
                       blackhole 2000+N: (down)
    flower, one per peer: dst_ip -> 1:N

Units on the wire: delay in nanoseconds (TCA_NETEM_LATENCY64), rate in *bytes* per second, loss as a fraction of
2^32, limit in packets. A netem change replaces the whole parameter block (a change of delay alone would reset loss to
0 and limit to 1000), so a message always carries the complete state. A link that goes down has its leaf *replaced*:
that flushes the queue, where ``loss 100%`` would still deliver what was queued (365 kB, measured).
Layouts: linux/pkt_sched.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import signal
import socket
import struct
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testbed.errors import KernelError
from testbed.rack.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Rtnetlink,
    attribute,
    inside,
    message,
    numbered,
    parse_attributes,
    text,
    u32,
)

if TYPE_CHECKING:
    from testbed.link.plan import LinkState

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTCLASS, RTM_GETTCLASS = 40, 42
RTM_NEWTFILTER, RTM_GETTFILTER = 44, 46
TC_H_ROOT = 0xFFFFFFFF
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_HTB_PARMS, TCA_HTB_INIT, TC_LINKLAYER_ETHERNET = 1, 2, 1
TCA_NETEM_RATE, TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64 = 6, 10, 11
TCA_FLOWER_CLASSID, TCA_FLOWER_KEY_ETH_TYPE, TCA_FLOWER_KEY_IPV4_DST, TCA_FLOWER_KEY_IPV4_DST_MASK = 1, 8, 12, 13
ETH_P_IP = socket.htons(0x0800)
TCMSG = "=BxxxiIII"  # family, ifindex, handle, parent, info
TCMSG_BYTES = 20
NETEM_BYTES = 24  # struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter

ROOT_HANDLE = 0x10000
UNMATCHED_MINOR, FIRST_PEER_MINOR = 1, 2
NETEM_MAJOR, DOWN_MAJOR = 0x1000, 0x2000
CLASS_RATE_BYTES_S = 1_250_000_000  # 10 Gbit/s: htb only classifies here
CLASS_BURST_TICKS = 100_000_000 // 64  # 0.1 s in scheduler ticks of 64 ns: htb never waits for tokens
CLASS_QUANTUM_BYTES = 60_000
HTB_VERSION = 3
LOSS_SCALE = 2**32 - 1
RATE_LIMIT_BYTES_S = 2**32 - 1
CLAIM_LIMIT_S, CLAIM_POLL_S = 2.0, 0.01
"""A dead player's child clears its devices within milliseconds of its death."""


@dataclass(frozen=True)
class KernelLinkState:
    """A link as the kernel reports it; a link that is down has zeros."""

    delay_ms: float
    rate_bps: float
    loss_ratio: float
    limit_packets: int
    up: bool


DOWN = KernelLinkState(0.0, 0.0, 0.0, 0, up=False)


@dataclass(frozen=True)
class Batch:
    """Changes of one device, encoded ahead: ``count`` netlink messages."""

    data: bytes
    count: int


def disagreement(state: LinkState, kernel: KernelLinkState) -> str:
    """How the kernel differs from ``state``, beyond what its units round (64 ns at the coarsest, 1 byte/s); empty when
    it does not."""
    if not state.up or not kernel.up:
        return "" if state.up == kernel.up else f"the link {'up' if kernel.up else 'down'}"
    pairs = {
        "delay_ms": (state.delay_ms, kernel.delay_ms, 6.5e-5),
        "rate_bps": (state.rate_bps, kernel.rate_bps, 8.0),
        "loss_ratio": (state.loss_ratio, kernel.loss_ratio, 1e-9),
        "limit_packets": (state.limit_packets, kernel.limit_packets, 0),
    }
    return ", ".join(
        f"{name} {found:g} instead of {wanted:g}"
        for name, (wanted, found, grain) in pairs.items()
        if abs(wanted - found) > grain
    )


class Shaper:
    """One device's egress, shaped per peer. Needs CAP_NET_ADMIN over the device's namespace and nothing else
    once ``netns_fd`` is entered (None: the namespace we are in)."""

    def __init__(self, device: str, peers: Mapping[str, str], netns_fd: int | None = None) -> None:
        """``peers``: data address (IPv4) by peer name. KernelError when there is no such device."""
        self.device = device
        self._addresses = {name: ipaddress.IPv4Address(peers[name]).packed for name in sorted(peers)}
        self._minors = {name: minor for minor, name in enumerate(self._addresses, start=FIRST_PEER_MINOR)}
        self._peers = {minor: name for name, minor in self._minors.items()}
        if len(peers) >= DOWN_MAJOR - NETEM_MAJOR - FIRST_PEER_MINOR:
            raise KernelError(f"{device}: {len(peers)} peers on one device")
        with inside(netns_fd):
            try:
                self._index = socket.if_nametoindex(device)
            except OSError:
                raise KernelError(f"there is no device {device} in this namespace") from None
            self._netlink = Rtnetlink()

    @property
    def classes(self) -> dict[int, str]:
        """The peer of each class (``major << 16 | minor``), that is of each leaf's parent."""
        return {ROOT_HANDLE | minor: name for name, minor in self._minors.items()}

    @property
    def descriptor(self) -> int:
        """Of the netlink socket."""
        return self._netlink.fileno()

    def close(self) -> None:
        """Close the netlink socket; the shaping stays."""
        self._netlink.close()

    def install(self) -> None:
        """Build the tree with every link down, in place of whatever was there, and prove it by reading it back."""
        self.clear()
        create = NLM_F_CREATE | NLM_F_EXCL
        init = attribute(TCA_HTB_INIT, struct.pack("=5I", HTB_VERSION, 10, UNMATCHED_MINOR, 0, 0))
        root = self._tc(ROOT_HANDLE, TC_H_ROOT) + text(TCA_KIND, "htb") + attribute(TCA_OPTIONS, init)
        messages = [message(RTM_NEWQDISC, create, root)]
        for minor in (UNMATCHED_MINOR, *self._minors.values()):
            rate = struct.pack("=BBHhHI", 0, TC_LINKLAYER_ETHERNET, 0, 0, 0, CLASS_RATE_BYTES_S)
            parameters = (
                rate + rate + struct.pack("=5I", CLASS_BURST_TICKS, CLASS_BURST_TICKS, CLASS_QUANTUM_BYTES, 0, 0)
            )
            body = self._tc(ROOT_HANDLE | minor, ROOT_HANDLE) + text(TCA_KIND, "htb")
            body += attribute(TCA_OPTIONS, attribute(TCA_HTB_PARMS, parameters))
            messages += [message(RTM_NEWTCLASS, create, body), self._down(minor)]
        for name, minor in self._minors.items():
            options = (
                u32(TCA_FLOWER_CLASSID, ROOT_HANDLE | minor)
                + attribute(TCA_FLOWER_KEY_ETH_TYPE, struct.pack("=H", ETH_P_IP))
                + attribute(TCA_FLOWER_KEY_IPV4_DST, self._addresses[name])
                + attribute(TCA_FLOWER_KEY_IPV4_DST_MASK, b"\xff" * 4)
            )
            body = self._tc(minor, ROOT_HANDLE, info=1 << 16 | ETH_P_IP) + text(TCA_KIND, "flower")
            messages.append(message(RTM_NEWTFILTER, create, body + attribute(TCA_OPTIONS, options)))
        self._netlink.request(f"{self.device}: shaping", messages)
        self._verify_tree()

    def encode(self, changes: Sequence[tuple[str, LinkState]]) -> Batch:
        """One batch for :meth:`send`, built ahead: per change the peer's complete state (or its leaf's removal).

        KernelError for a peer that is not ours or a state that netem cannot express.
        """
        messages = []
        for peer, state in changes:
            if peer not in self._minors:
                raise KernelError(f"{self.device}: no link to {peer!r}; there are {list(self._minors)}")
            minor = self._minors[peer]
            messages.append(self._up(peer, minor, state) if state.up else self._down(minor))
        return Batch(numbered(messages), len(messages))

    def send(self, batch: Batch) -> None:
        """Apply a batch with one system call and hear the kernel's answer. KernelError names the peer."""
        if not batch.count:
            return
        try:
            refusals = self._netlink.send(batch.data, batch.count)
        except OSError as error:
            raise KernelError(f"{self.device}: the kernel took no batch of {len(batch.data)} bytes: {error}") from error
        if refusals:
            first = refusals[0]
            peer = self._peers.get(_parents(batch.data)[first.position] & 0xFFFF, "?")
            raise KernelError(f"{self.device}: link to {peer} could not be changed: {first}")

    def read_back(self) -> dict[str, KernelLinkState]:
        """Every peer's state as the kernel has it now. KernelError when a leaf is not one of ours."""
        found = {}
        for handle, parent, kind, options in self._qdiscs():
            minor = parent & 0xFFFF
            if parent >> 16 != ROOT_HANDLE >> 16 or minor not in self._peers:
                continue
            if (handle, kind) == ((NETEM_MAJOR + minor) << 16, "netem"):
                found[self._peers[minor]] = _decode(options)
            elif (handle, kind) == ((DOWN_MAJOR + minor) << 16, "blackhole"):
                found[self._peers[minor]] = DOWN
            else:
                raise KernelError(f"{self.device}: link to {self._peers[minor]} has the leaf {kind} {handle >> 16:x}:")
        missing = sorted(set(self._minors) - set(found))
        if missing:
            raise KernelError(f"{self.device}: no leaf for {', '.join(missing)}")
        return {name: found[name] for name in self._minors}

    def clear(self) -> None:
        """Remove all shaping from the device; nothing happens when there is none."""
        refusals = self._netlink.send(message(RTM_DELQDISC, 0, self._tc(0, TC_H_ROOT)), 1)
        if refusals and refusals[0].code not in (errno.ENOENT, errno.EINVAL):
            raise KernelError(f"{self.device}: shaping could not be removed: {refusals[0]}")

    def _tc(self, handle: int, parent: int, info: int = 0) -> bytes:
        return struct.pack(TCMSG, 0, self._index, handle, parent, info)

    def _up(self, peer: str, minor: int, state: LinkState) -> bytes:
        rate_bytes_s = round(state.rate_bps / 8)
        delay_ns = round(state.delay_ms * 1e6)
        if not 1 <= rate_bytes_s <= RATE_LIMIT_BYTES_S or delay_ns < 0 or not 0 <= state.loss_ratio <= 1:
            raise KernelError(f"{self.device}: netem has no form for the link to {peer}: {state}")
        if state.limit_packets < 1:
            raise KernelError(f"{self.device}: a queue of {state.limit_packets} packets passes nothing to {peer}")
        options = struct.pack("=6I", 0, state.limit_packets, round(state.loss_ratio * LOSS_SCALE), 0, 0, 0)
        options += attribute(TCA_NETEM_RATE, struct.pack("=IiIi", rate_bytes_s, 0, 0, 0))
        options += attribute(TCA_NETEM_LATENCY64, struct.pack("=q", delay_ns))
        options += attribute(TCA_NETEM_JITTER64, struct.pack("=q", 0))
        body = self._tc((NETEM_MAJOR + minor) << 16, ROOT_HANDLE | minor) + text(TCA_KIND, "netem")
        # The same handle in place: parameters change, the queue stays. Another leaf there: it is replaced.
        return message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body + attribute(TCA_OPTIONS, options))

    def _down(self, minor: int) -> bytes:
        body = self._tc((DOWN_MAJOR + minor) << 16, ROOT_HANDLE | minor) + text(TCA_KIND, "blackhole")
        return message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)

    def _qdiscs(self) -> list[tuple[int, int, str, bytes]]:
        """(handle, parent, kind, options) of this device's queueing disciplines."""
        found = []
        for _, body in self._netlink.dump(RTM_GETQDISC, self._tc(0, 0)):
            _, index, handle, parent, _ = struct.unpack_from(TCMSG, body)
            if index == self._index:
                attributes = parse_attributes(body[TCMSG_BYTES:])
                kind = attributes[TCA_KIND].rstrip(b"\0").decode()
                found.append((handle, parent, kind, attributes.get(TCA_OPTIONS, b"")))
        return found

    def _verify_tree(self) -> None:
        """Qdiscs, classes and filters, each set exactly ours: a missing filter once left a link at 10 Gbit/s."""
        minors = [UNMATCHED_MINOR, *self._minors.values()]
        qdiscs = {(handle, parent, kind) for handle, parent, kind, _ in self._qdiscs()}
        wanted_qdiscs = {(ROOT_HANDLE, TC_H_ROOT, "htb")}
        wanted_qdiscs |= {((DOWN_MAJOR + minor) << 16, ROOT_HANDLE | minor, "blackhole") for minor in minors}
        self._compare("qdiscs", qdiscs, wanted_qdiscs)
        classes = set()
        for _, body in self._netlink.dump(RTM_GETTCLASS, self._tc(0, 0)):
            _, _, handle, _, leaf = struct.unpack_from(TCMSG, body)
            classes.add((handle, leaf))
        self._compare("classes", classes, {(ROOT_HANDLE | each, (DOWN_MAJOR + each) << 16) for each in minors})
        filters = set()
        for _, body in self._netlink.dump(RTM_GETTFILTER, self._tc(0, ROOT_HANDLE)):
            options = parse_attributes(parse_attributes(body[TCMSG_BYTES:]).get(TCA_OPTIONS, b""))
            if TCA_FLOWER_CLASSID in options:
                target = struct.unpack("=I", options[TCA_FLOWER_CLASSID])[0]
                mask = options.get(TCA_FLOWER_KEY_IPV4_DST_MASK, b"")
                filters.add((options.get(TCA_FLOWER_KEY_IPV4_DST, b""), mask, target))
        wanted_filters = {
            (self._addresses[name], b"\xff" * 4, ROOT_HANDLE | minor) for name, minor in self._minors.items()
        }
        self._compare("filters", filters, wanted_filters)
        init = next(options for handle, _, _, options in self._qdiscs() if handle == ROOT_HANDLE)
        default = struct.unpack_from("=5I", parse_attributes(init)[TCA_HTB_INIT])[2]
        self._compare("default class", {default}, {UNMATCHED_MINOR})

    def _compare(self, what: str, found: Set[Any], wanted: Set[Any]) -> None:
        if found != wanted:
            raise KernelError(
                f"{self.device}: {what} read back differ: missing {sorted(wanted - found, key=str)}, "
                f"unexpected {sorted(found - wanted, key=str)}"
            )


class DeadMan:
    """Clears devices when the process that made it dies, whatever killed it.

    A child sleeps on a pipe whose other end only its maker holds; the kernel closes that end with the maker. Then the
    child removes all shaping and ends. While either of the two lives the devices are claimed: a next maker waits for
    the child of a dead one, whose clearing would else take the new shaping away, and is refused beside a living one.
    The claim is an abstract Unix address, which each network namespace has its own of (unix(7)).
    """

    def __init__(self, devices: Sequence[tuple[str, int | None]]) -> None:
        """``devices``: name and network namespace (None: the one we are in). KernelError: one is claimed."""
        self._claims: list[socket.socket] = []
        shapers: list[Shaper] = []
        try:
            for device, netns_fd in devices:
                self._claims.append(_claim(device, netns_fd))
                shapers.append(Shaper(device, {}, netns_fd))  # its socket serves the child after we are gone
            reading, self._writing = os.pipe()
            self._child = os.fork()
            if self._child == 0:
                _outlive(reading, shapers, [each.fileno() for each in self._claims])
            os.close(reading)
        except BaseException:
            self._unclaim()
            raise
        finally:
            for shaper in shapers:
                shaper.close()

    @property
    def child_pid(self) -> int:
        """The process that waits for our death."""
        return self._child

    def release(self) -> None:
        """End the child without clearing anything, and give up the claims."""
        with contextlib.suppress(BrokenPipeError):  # it was killed
            os.write(self._writing, b".")
        os.close(self._writing)
        os.waitpid(self._child, 0)
        self._unclaim()

    def _unclaim(self) -> None:
        for claim in self._claims:
            claim.close()


def _claim(device: str, netns_fd: int | None) -> socket.socket:
    with inside(netns_fd):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    until_s = time.monotonic() + CLAIM_LIMIT_S
    while True:
        try:
            claim.bind(f"\0skyrack-shaping-{device}")
            return claim
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until_s:
                claim.close()
                raise KernelError(f"{device}: another player shapes this device: {error}") from error
        time.sleep(CLAIM_POLL_S)


def _outlive(reading: int, shapers: Sequence[Shaper], claims: Sequence[int]) -> None:
    """The child's whole life. It keeps no descriptor of its maker's: a channel it held open would hide the death."""
    try:
        os.setsid()
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for its maker, whose end will be seen
            signal.signal(each, signal.SIG_IGN)
        keep = {reading, *claims, *(shaper.descriptor for shaper in shapers)}
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in keep:
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(int(name))
        if not os.read(reading, 1):
            for shaper in shapers:
                with contextlib.suppress(KernelError):  # there is nobody left to tell
                    shaper.clear()
    finally:
        os._exit(0)


def _parents(batch: bytes) -> list[int]:
    """The parent class of each message of a batch."""
    parents = []
    offset = 0
    while offset < len(batch):
        parents.append(struct.unpack_from("=I", batch, offset + 16 + 12)[0])
        offset += (struct.unpack_from("=I", batch, offset)[0] + 3) & ~3
    return parents


def _decode(options: bytes) -> KernelLinkState:
    """netem's options as the kernel dumps them: the fixed struct, then attributes."""
    _, limit_packets, loss, _, _, _ = struct.unpack_from("=6I", options)
    attributes = parse_attributes(options[NETEM_BYTES:])
    (rate_bytes_s,) = struct.unpack_from("=I", attributes.get(TCA_NETEM_RATE, b"\0" * 16))
    (delay_ns,) = struct.unpack("=q", attributes[TCA_NETEM_LATENCY64])
    return KernelLinkState(
        delay_ms=delay_ns / 1e6,
        rate_bps=rate_bytes_s * 8.0,
        loss_ratio=loss / LOSS_SCALE,
        limit_packets=limit_packets,
        up=True,
    )
