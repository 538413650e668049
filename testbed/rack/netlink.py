"""Raw rtnetlink: messages as bytes, one send and one answer for many of them, every refusal reported.

What costs is encoding and the system calls for answers, not the kernel's work. So messages are built ahead, sent as
one batch at their instant, and only the last of them asks for an acknowledgement: rtnetlink works a batch off in
order, goes on past a refusal, and reports refusals unasked. Layouts: RFC 3549 and linux/netlink.h,
linux/rtnetlink.h, linux/pkt_sched.h.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from testbed.errors import KernelError

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
CLONE_NEWNET = 0x40000000
DUMP_BYTES = 1 << 18
ANSWER_BYTES = 1 << 14
"""A refusal holds the message that was refused and a sentence."""
SOCKET_BUFFER_BYTES = 4 << 20
"""Room for the largest batch (one tick of a few hundred links), and for as many refusals."""
FLAGS_OFFSET = 6  # in nlmsghdr: 16 bits of flags, then 32 of sequence number


def align(data: bytes) -> bytes:
    """Pad to netlink's four bytes."""
    return data + b"\0" * (-len(data) % 4)


def attribute(kind: int, data: bytes) -> bytes:
    """One ``nlattr`` with its padding."""
    return align(struct.pack("=HH", 4 + len(data), kind) + data)


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A 32-bit attribute."""
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One ``nlmsghdr`` and its body, as a batch of one: sequence number 0, acknowledged."""
    flags |= NLM_F_REQUEST | NLM_F_ACK
    return align(struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body)


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type (the last one wins)."""
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


@dataclass(frozen=True)
class Refusal:
    """The kernel's answer to message ``position`` of a batch: ``code`` is an errno, ``reason`` its extended text."""

    position: int
    code: int
    reason: str

    def __str__(self) -> str:
        return f"{os.strerror(self.code)}{f': {self.reason}' if self.reason else ''}"


class Rtnetlink:
    """One NETLINK_ROUTE socket; it stays in the network namespace it was opened in."""

    def __init__(self, netns_fd: int | None = None) -> None:
        """Open in the calling thread's namespace, or in the one that ``netns_fd`` names."""
        with inside(netns_fd):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, batch: bytes, count: int) -> list[Refusal]:
        """Send ``count`` messages at once (:func:`numbered`, or one :func:`message`) and wait for the last one's
        answer; what was refused, in order."""
        self._socket.send(batch)
        refusals = []
        answered = -1
        while answered < count - 1:
            for kind, _, sequence, body in _messages(self._socket.recv(ANSWER_BYTES)):
                if kind != NLMSG_ERROR:
                    continue
                answered = sequence
                (code,) = struct.unpack_from("=i", body)
                if code:
                    # With CAP_ACK the echoed request is its bare header, so the extended text is at a fixed place
                    # unless the request failed: then it is echoed whole.
                    (echoed,) = struct.unpack_from("=I", body, 4)
                    reason = parse_attributes(body[4 + ((echoed + 3) & ~3) :]).get(NLMSGERR_ATTR_MSG, b"")
                    refusals.append(Refusal(sequence, -code, reason.rstrip(b"\0").decode()))
        return refusals

    def request(self, what: str, messages: Sequence[bytes]) -> None:
        """Send messages as one batch; KernelError naming ``what`` with the first refusal."""
        refusals = self.send(numbered(messages), len(messages))
        if refusals:
            first = refusals[0]
            raise KernelError(f"{what}: message {first.position + 1} of {len(messages)}: {first}")

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """All objects of a dump request, as (message type, body). KernelError when the kernel refuses it."""
        header = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
        self._socket.send(header + body)
        found: list[tuple[int, bytes]] = []
        while True:
            for answer, _, _, data in _messages(self._socket.recv(DUMP_BYTES)):
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", data)
                    raise KernelError(f"netlink dump {kind}: {os.strerror(-code)}")
                found.append((answer, data))


def numbered(messages: Sequence[bytes]) -> bytes:
    """One batch out of ``messages``, numbered 0, 1, ...; only the last one is acknowledged.

    64 acknowledgements are 64 datagrams to be received, and a system call takes a guest 10 us.
    """
    batch = bytearray()
    for sequence, each in enumerate(messages):
        (flags,) = struct.unpack_from("=H", each, FLAGS_OFFSET)
        if sequence < len(messages) - 1:
            flags &= ~NLM_F_ACK
        batch += each[:FLAGS_OFFSET] + struct.pack("=HI", flags, sequence) + each[FLAGS_OFFSET + 6 :]
    return bytes(batch)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def unshare_network() -> None:
    """Move the calling process (its calling thread) into a fresh network namespace. KernelError without the right."""
    _call("unshare", CLONE_NEWNET)


class inside:  # noqa: N801 - reads as a verb of the with statement
    """``with inside(netns_fd):`` the calling thread is in that network namespace; None stays where it is."""

    def __init__(self, netns_fd: int | None) -> None:
        self._netns_fd = netns_fd
        self._home: int | None = None

    def __enter__(self) -> None:
        if self._netns_fd is not None:
            self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _call("setns", self._netns_fd, CLONE_NEWNET)

    def __exit__(self, *_: object) -> None:
        if self._home is not None:
            _call("setns", self._home, CLONE_NEWNET)
            os.close(self._home)


def _call(name: str, *arguments: int) -> None:
    # os.unshare and os.setns came with Python 3.12; the C library has had both for ever.
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise KernelError(f"{name}(CLONE_NEWNET): {os.strerror(code)} (needs CAP_SYS_ADMIN: root, or a guest kernel)")
