"""Boards of the local rack: one network namespace per node on one kernel, two Ethernet segments between them.

Every node has two devices: ``mgmt`` (control, heartbeat, metrics; never shaped, or each outage would look like a
crash) and ``data`` (what the link plan shapes at the sender's egress). The caller's own namespace holds the two
bridges and is itself fresh, so that nothing is left on the host when the caller dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BoardError, KernelError, RackError, ScenarioError
from testbed.rack.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Rtnetlink,
    attribute,
    inside,
    message,
    nested,
    parse_attributes,
    text,
    u32,
    unshare_network,
)

__all__ = ["BoardFacts", "NetworkSettings", "NodeAddresses", "Space", "address_table", "unshare_network"]

MGMT_NETWORK = ipaddress.IPv4Network("10.77.0.0/24")
DATA_NETWORK = ipaddress.IPv4Network("10.78.0.0/24")
CONTROLLER_ADDRESS = "10.77.0.1"
MGMT_BRIDGE, DATA_BRIDGE = "skyrack-mgmt", "skyrack-data"
MGMT_MTU_BYTES = 1500
MTU_RANGE_BYTES = (576, 9000)
"""From what every host must accept (RFC 791) to the usual jumbo frame."""
SEGMENTS_RANGE = (1, 64)
"""A train is at most 64 KiB."""
BUFFER_RANGE_BYTES = (2304, 1 << 30)
"""From the kernel's SOCK_MIN_RCVBUF on x86-64."""
ADDRESS_LIMIT = 252

RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_NEWNEIGH = 16, 18, 20, 28
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_NET_NS_PID, IFLA_GSO_MAX_SEGS = 19, 40
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_BR_MCAST_SNOOPING = 23
IFA_ADDRESS, IFA_LOCAL = 1, 2
NDA_DST, NDA_LLADDR, NUD_NOARP, NUD_PERMANENT, NTF_MASTER = 1, 2, 0x40, 0x80, 0x04
IFF_UP = 1
SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GET = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B}  # linux/ethtool.h; the command that sets is the next number
AF_BRIDGE, AF_INET, AF_UNSPEC = 7, 2, 0


@dataclass(frozen=True)
class NodeAddresses:
    """A node's addresses: IPv4 on both segments (a /24 each) and the hardware address of ``data``."""

    index: int
    mgmt: str
    data: str
    mgmt_mac: str
    data_mac: str


@dataclass(frozen=True)
class NetworkSettings:
    """What the network of every namespace is set to. ScenarioError for a value that no kernel has.

    ``segments`` is how many segments TCP hands down as one train on the data device, at least and at most. netem
    handles a train as one packet (10 full frames: 15 kB, 35 ms at 3.5 Mbit/s), and a packet is what a guest's
    processor time goes into: one segment a packet took about twice the host time for the same bytes on a time-travel
    kernel (0.09 s per MB, not 0.05) and filled the queue's limit with them. Buffers are least, first and greatest
    (tcp(7)); the defaults are the kernel's own where memory is not short, which in a small guest it is.
    """

    mtu_bytes: int = 1500
    congestion_control: str = "cubic"
    receive_buffer_bytes: tuple[int, int, int] = (4096, 131_072, 6_291_456)
    send_buffer_bytes: tuple[int, int, int] = (4096, 16_384, 4_194_304)
    segments: int = 10
    tso: bool = True
    gso: bool = True
    gro: bool = False

    def __post_init__(self) -> None:
        ranges = {"mtu_bytes": MTU_RANGE_BYTES, "segments": SEGMENTS_RANGE}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                self._refuse(name, f"{low} to {high}")
        for name in ("receive_buffer_bytes", "send_buffer_bytes"):
            sizes = getattr(self, name)
            low, high = BUFFER_RANGE_BYTES
            if len(sizes) != 3 or list(sizes) != sorted(sizes) or not low <= sizes[0] <= sizes[-1] <= high:
                self._refuse(name, f"least, first and greatest in order, from {low} to {high} bytes")
        if not self.congestion_control.isidentifier():
            self._refuse("congestion_control", "the name of one of the kernel's algorithms, as cubic or bbr")

    def _refuse(self, name: str, allowed: str) -> None:
        raise ScenarioError(
            "no network can be set so", field=f"network.{name}", found=getattr(self, name), allowed=allowed
        )


@dataclass(frozen=True)
class BoardFacts:
    """What a namespace and its data device were read back to be, for the run's record."""

    node: str
    netns_inode: int
    mtu_bytes: int
    congestion_control: str
    gso_max_segments: int
    min_train_segments: int
    receive_buffer_bytes: tuple[int, ...]
    send_buffer_bytes: tuple[int, ...]
    tso: bool
    gso: bool
    gro: bool

    def check(self, network: NetworkSettings) -> None:
        """KernelError when the kernel took a setting without a word and has another value."""
        wanted = {
            "mtu_bytes": network.mtu_bytes,
            "congestion_control": network.congestion_control,
            "gso_max_segments": network.segments,
            "min_train_segments": network.segments,
            "receive_buffer_bytes": tuple(network.receive_buffer_bytes),
            "send_buffer_bytes": tuple(network.send_buffer_bytes),
            "tso": network.tso,
            "gso": network.gso,
            "gro": network.gro,
        }
        wrong = [
            f"{name} is {getattr(self, name)}, not {value}"
            for name, value in wanted.items()
            if getattr(self, name) != value
        ]
        if wrong:
            raise KernelError(f"{self.node}: the network was set and reads back otherwise: {'; '.join(wrong)}")


def address_table(nodes: Sequence[str]) -> dict[str, NodeAddresses]:
    """Addresses by node, from the order of ``nodes`` alone: the first gets .2 on both networks.

    RackError when the nodes are not unique or more than the networks have room for.
    """
    if len(set(nodes)) != len(nodes):
        raise RackError(f"node names are not unique: {sorted({name for name in nodes if list(nodes).count(name) > 1})}")
    if len(nodes) > ADDRESS_LIMIT:
        raise RackError(f"{len(nodes)} nodes on one rack; {DATA_NETWORK} has room for {ADDRESS_LIMIT}")
    return {
        name: NodeAddresses(
            index=index,
            mgmt=str(MGMT_NETWORK[index]),
            data=str(DATA_NETWORK[index]),
            mgmt_mac=f"02:53:4b:00:00:{index:02x}",  # locally administered (IEEE 802, bit 1 of the first octet)
            data_mac=f"02:53:4b:00:01:{index:02x}",
        )
        for index, name in enumerate(nodes, start=2)
    }


class Space:
    """The two segments, in a namespace of the calling process's own.

    The process that makes it is thereby moved into a fresh network namespace. Children call
    :func:`unshare_network` themselves and are then attached by their pid.
    """

    def __init__(self, nodes: Sequence[str], network: NetworkSettings | None = None) -> None:
        self.addresses: Mapping[str, NodeAddresses] = address_table(nodes)
        self.network = network or NetworkSettings()
        self._index: dict[str, int] = {}
        unshare_network()
        self._netlink = Rtnetlink()
        bridges = [
            message(
                RTM_NEWLINK,
                NLM_F_CREATE | NLM_F_EXCL,
                # Snooping would send queries for ever, and each timer wakes a guest whose clock could have jumped.
                _link(0) + text(IFLA_IFNAME, name) + _kind("bridge", attribute(IFLA_BR_MCAST_SNOOPING, b"\0")),
            )
            for name in (MGMT_BRIDGE, DATA_BRIDGE)
        ]
        self._netlink.request("bridges", [*bridges, message(RTM_NEWLINK, 0, _link(1, up=True))])
        for name in (MGMT_BRIDGE, DATA_BRIDGE):
            _quiet_ipv6(name)
            self._index[name] = _interface_index(name)
        self._netlink.request(
            "bridges up",
            [
                *(message(RTM_NEWLINK, 0, _link(self._index[name], up=True)) for name in (MGMT_BRIDGE, DATA_BRIDGE)),
                _address(self._index[MGMT_BRIDGE], CONTROLLER_ADDRESS, MGMT_NETWORK.prefixlen),
            ],
        )

    def close(self) -> None:
        """Close the netlink socket; the segments go with the last process in their namespaces."""
        self._netlink.close()

    def __enter__(self) -> Space:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, node: str, pid: int) -> BoardFacts:
        """Give the namespace of process ``pid`` (which has called :func:`unshare_network`) its two devices.

        BoardError when the process is gone; KernelError when its namespace is ours or a step is refused.
        """
        if node not in self.addresses:
            raise RackError(f"{node!r} is not one of the nodes this space was made for: {sorted(self.addresses)}")
        addresses = self.addresses[node]
        try:
            netns_fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BoardError(f"{node}: process {pid} went away before its network was up: {error}") from None
        try:
            inode = os.fstat(netns_fd).st_ino
            if inode == os.stat("/proc/self/ns/net").st_ino:
                raise KernelError(f"{node}: process {pid} has not called unshare_network yet")
            self._netlink.request(f"{node}: devices", self._pairs(addresses, pid))
            ports = {name: _interface_index(f"{name}-{addresses.index}") for name in ("mgmt", "data")}
            for port in ports:
                _quiet_ipv6(f"{port}-{addresses.index}")
            self._netlink.request(
                f"{node}: ports",
                [
                    message(RTM_NEWLINK, 0, _link(ports["mgmt"], up=True) + u32(IFLA_MASTER, self._index[MGMT_BRIDGE])),
                    message(RTM_NEWLINK, 0, _link(ports["data"], up=True) + u32(IFLA_MASTER, self._index[DATA_BRIDGE])),
                    # The segments never have to learn, and never forget during an orbit's silence.
                    _forwarding(ports["mgmt"], addresses.mgmt_mac),
                    _forwarding(ports["data"], addresses.data_mac),
                ],
            )
            with inside(netns_fd):
                return self._furnish(node, addresses, inode)
        finally:
            os.close(netns_fd)

    def _pairs(self, addresses: NodeAddresses, pid: int) -> list[bytes]:
        flags = NLM_F_CREATE | NLM_F_EXCL
        messages = []
        for name, mac, mtu_bytes in (
            ("mgmt", addresses.mgmt_mac, MGMT_MTU_BYTES),
            ("data", addresses.data_mac, self.network.mtu_bytes),
        ):
            peer = (
                _link(0)
                + text(IFLA_IFNAME, name)
                + attribute(IFLA_ADDRESS, _mac(mac))
                + u32(IFLA_MTU, mtu_bytes)
                + u32(IFLA_NET_NS_PID, pid)
            )
            body = _link(0) + text(IFLA_IFNAME, f"{name}-{addresses.index}") + u32(IFLA_MTU, mtu_bytes)
            messages.append(message(RTM_NEWLINK, flags, body + _kind("veth", attribute(VETH_INFO_PEER, peer))))
        return messages

    def _furnish(self, node: str, addresses: NodeAddresses, inode: int) -> BoardFacts:
        """Inside the node's namespace: addresses, neighbours, devices up, TCP settings; then read back."""
        network = self.network
        index = {name: _interface_index(name) for name in ("mgmt", "data")}
        for name in index:
            _quiet_ipv6(name)
        offloads = {"tso": network.tso, "gso": network.gso, "gro": network.gro}
        for name, on in offloads.items():
            _ethtool("data", ETHTOOL_GET[name] + 1, int(on))
        peers = [each for name, each in self.addresses.items() if name != node]
        with Rtnetlink() as netlink:
            netlink.request(
                f"{node}: addresses",
                [
                    message(RTM_NEWLINK, 0, _link(1, up=True)),
                    message(RTM_NEWLINK, 0, _link(index["mgmt"], up=True)),
                    message(RTM_NEWLINK, 0, _link(index["data"], up=True) + u32(IFLA_GSO_MAX_SEGS, network.segments)),
                    _address(index["mgmt"], addresses.mgmt, MGMT_NETWORK.prefixlen),
                    _address(index["data"], addresses.data, DATA_NETWORK.prefixlen),
                    # Static neighbours: all unmatched data traffic is dropped, and ARP is unmatched.
                    *(_neighbour(index["data"], peer.data, peer.data_mac) for peer in peers),
                ],
            )
            link = _read_link(netlink, index["data"])
        for name, value in {
            "tcp_congestion_control": network.congestion_control,
            # TCP sizes trains by the millisecond (tcp_tso_autosize), two segments at these rates, if not told else.
            "tcp_min_tso_segs": str(network.segments),
            "tcp_rmem": " ".join(map(str, network.receive_buffer_bytes)),
            "tcp_wmem": " ".join(map(str, network.send_buffer_bytes)),
            # A connection starts alike, whatever came before it.
            "tcp_no_metrics_save": "1",
        }.items():
            _set_sysctl(node, name, value)
        facts = BoardFacts(
            node=node,
            netns_inode=inode,
            mtu_bytes=struct.unpack("=I", link[IFLA_MTU])[0],
            congestion_control=_read_sysctl("tcp_congestion_control"),
            gso_max_segments=struct.unpack("=I", link[IFLA_GSO_MAX_SEGS])[0],
            min_train_segments=int(_read_sysctl("tcp_min_tso_segs")),
            receive_buffer_bytes=tuple(map(int, _read_sysctl("tcp_rmem").split())),
            send_buffer_bytes=tuple(map(int, _read_sysctl("tcp_wmem").split())),
            **{name: bool(_ethtool("data", ETHTOOL_GET[name])) for name in offloads},
        )
        facts.check(network)
        return facts


def _link(index: int, up: bool = False) -> bytes:
    """``struct ifinfomsg``."""
    return struct.pack("=BxHiII", AF_UNSPEC, 0, index, IFF_UP if up else 0, IFF_UP if up else 0)


def _kind(name: str, data: bytes) -> bytes:
    return nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, name), nested(IFLA_INFO_DATA, data))


def _address(index: int, address: str, prefix: int) -> bytes:
    packed = ipaddress.IPv4Address(address).packed
    body = struct.pack("=BBBBi", AF_INET, prefix, 0, 0, index)  # struct ifaddrmsg
    return message(
        RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    )


def _neighbour(index: int, address: str, mac: str) -> bytes:
    body = struct.pack("=BxxxiHBB", AF_INET, index, NUD_PERMANENT, 0, 0)  # struct ndmsg
    body += attribute(NDA_DST, ipaddress.IPv4Address(address).packed) + attribute(NDA_LLADDR, _mac(mac))
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def _forwarding(port: int, mac: str) -> bytes:
    body = struct.pack("=BxxxiHBB", AF_BRIDGE, port, NUD_NOARP, NTF_MASTER, 0)
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body + attribute(NDA_LLADDR, _mac(mac)))


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _interface_index(name: str) -> int:
    return socket.if_nametoindex(name)


def _read_link(netlink: Rtnetlink, index: int) -> dict[int, bytes]:
    for _, body in netlink.dump(RTM_GETLINK, _link(0)):
        if struct.unpack_from("=i", body, 4)[0] == index:
            return parse_attributes(body[16:])
    raise KernelError(f"device {index} is not there any more")


def _quiet_ipv6(device: str) -> None:
    """Keep a device from sending router solicitations of its own; a kernel without IPv6 has nothing to keep."""
    with contextlib.suppress(FileNotFoundError):
        _sysctl(f"ipv6/conf/{device}/disable_ipv6").write_text("1", encoding="ascii")


def _sysctl(name: str) -> Path:
    """A network sysctl of the calling thread's namespace."""
    return Path("/proc/sys/net") / name


def _read_sysctl(name: str) -> str:
    return _sysctl(f"ipv4/{name}").read_text(encoding="ascii").strip()


def _set_sysctl(node: str, name: str, value: str) -> None:
    try:
        _sysctl(f"ipv4/{name}").write_text(value, encoding="ascii")
    except OSError as error:
        has = f"; it has {_read_sysctl('tcp_available_congestion_control')}" if "congestion" in name else ""
        raise KernelError(f"{node}: the kernel does not take {value!r} for net.ipv4.{name}: {error}{has}") from None


def _ethtool(device: str, command: int, value: int = 0) -> int:
    """One offload of a device of the calling thread's namespace, read or set: ``struct ethtool_value`` by ioctl."""
    setting = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    request = struct.pack("16sP16x", device.encode(), ctypes.addressof(setting))  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, SIOCETHTOOL, request)
        except OSError as error:
            raise KernelError(f"{device}: ethtool command {command:#x} with {value}: {error}") from None
    return int(struct.unpack("=II", setting.raw)[1])
