"""Inside a guest: one process and namespace per node, the two segments between them, JSON lines out."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

from agent.player import main
from testbed.rack.namespaces import NetworkSettings, Space, unshare_network

PR_CAPBSET_DROP, PR_SET_KEEPCAPS = 24, 8  # linux/prctl.h
CAPABILITY_VERSION = 0x20080522  # linux/capability.h, version 3
CAP_NET_ADMIN, CAP_SYS_NICE = 12, 23
NOBODY = 65534


class Boards:
    """Nodes as sleeping processes, each in a namespace attached to one :class:`Space`."""

    def __init__(self, nodes: list[str], network: NetworkSettings | None = None) -> None:
        self.space = Space(nodes, network)
        self.pids = {name: _sleeper() for name in nodes}
        self.facts = {name: self.space.attach(name, pid) for name, pid in self.pids.items()}
        self.netns = {name: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for name, pid in self.pids.items()}

    def address(self, node: str) -> str:
        """The node's data address."""
        return self.space.addresses[node].data

    def tc(self, node: str, *words: str) -> Any:
        """What ``tc -json`` says in the node's namespace: an implementation of netlink that is not ours."""
        return json.loads(self.run(node, "tc", "-json", *words) or "[]")

    def run(self, node: str, *command: str) -> str:
        """The output of a command in the node's namespace."""
        inside = ["nsenter", f"--net=/proc/{self.pids[node]}/ns/net", *command]
        # tc lies where an ordinary user's PATH does not look.
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        return subprocess.run(inside, capture_output=True, text=True, check=True, env=environment).stdout


def _sleeper() -> int:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        unshare_network()
        os.write(write, b".")
        time.sleep(1e6)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return pid


def say(**facts: object) -> None:
    """One JSON line to the host."""
    print(json.dumps(facts), flush=True)  # noqa: T201


def received(receiver: socket.socket, for_s: float) -> int:
    """Datagrams that arrive within ``for_s``."""
    until_s = time.monotonic() + for_s
    count = 0
    while (left_s := until_s - time.monotonic()) > 0:
        receiver.settimeout(left_s)
        try:
            receiver.recv(2048)
        except TimeoutError:
            break
        count += 1
    return count


def keep_capabilities(*kept: int, uid: int = 0) -> None:
    """Become ``uid`` with these capabilities and no others, and no way to any."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in set(range(41)) - set(kept):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    mask = sum(1 << number for number in kept)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(*[mask & 0xFFFFFFFF] * 2, 0, *[mask >> 32] * 2, 0)  # effective, permitted, inheritable
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


class Link:
    """The runner's end of a link player's channel; the player is a process of its own.

    ``prepare`` runs in the player's process first. With ``at_home`` the player is told of no namespace: it is to be
    in its board's own.
    """

    def __init__(
        self,
        boards: Boards,
        plans: dict[str, dict[str, Any]],
        prepare: Callable[[], None] = lambda: None,
        at_home: bool = False,
    ) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            prepare()
            main(theirs)
            os._exit(0)
        theirs.close()
        self._stream = ours.makefile("rwb")
        nodes = {
            name: {
                "plan": plan,
                "address": boards.address(name),
                "peers": {peer: boards.address(peer) for peer in plan["links"]},
                **({} if at_home else {"pid": boards.pids[name]}),
            }
            for name, plan in plans.items()
        }
        self.seen: list[dict[str, Any]] = []
        self.tell(command="install", nodes=nodes)

    def tell(self, **command: Any) -> None:
        """Send one command."""
        self._stream.write(json.dumps(command).encode() + b"\n")
        self._stream.flush()

    def until(self, event: str) -> dict[str, Any]:
        """Read events up to the next one of this name (or an error); all of them are kept in ``seen``."""
        while True:
            line = json.loads(self._stream.readline())
            self.seen.append(line)
            if line["event"] in (event, "error"):
                return dict(line)

    def ask(self, event: str, **command: Any) -> dict[str, Any]:
        """Send a command and wait for the event that answers it."""
        self.tell(**command)
        return self.until(event)
