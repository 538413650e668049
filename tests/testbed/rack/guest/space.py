"""Inside a guest: a Space with eight boards, looked at with iproute2 and crossed with datagrams."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from dataclasses import asdict

from testbed.errors import SkyrackError
from testbed.rack.kernel import probe_native
from testbed.rack.namespaces import NetworkSettings, Space, unshare_network
from testbed.rack.netlink import inside


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201


def sleeper(own_network: bool = True) -> int:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if own_network:
            unshare_network()
        os.write(write, b".")
        time.sleep(1e6)
    os.read(read, 1)
    return pid


def refusal(space: Space, node: str, pid: int) -> dict[str, str]:
    try:
        space.attach(node, pid)
    except SkyrackError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {}


def run(pid: int, *command: str) -> str:
    inside_it = ["nsenter", f"--net=/proc/{pid}/ns/net", *command]
    return subprocess.run(inside_it, capture_output=True, text=True, check=True).stdout


def crosses(sender_fd: int, source: str, receiver_fd: int | None, target: str) -> bool:
    """Whether a datagram gets from one namespace's address to another's."""
    with inside(receiver_fd):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((target, 0))
    with inside(sender_fd):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind((source, 0))
    sender.sendto(b"hello", receiver.getsockname())
    receiver.settimeout(2.0)
    try:
        return bool(receiver.recvfrom(16)[1][0] == source)
    except TimeoutError:
        return False


say(what="kernel", **asdict(probe_native()))
before = os.stat("/proc/self/ns/net").st_ino
nodes = [f"n{number}" for number in range(8)]
with Space(nodes) as space:
    pids = {name: sleeper() for name in nodes[:-1]}
    facts = [asdict(space.attach(name, pid)) for name, pid in pids.items()]
    say(what="boards", facts=facts, moved=os.stat("/proc/self/ns/net").st_ino != before)
    first = pids["n0"]
    say(
        what="first",
        devices=json.loads(run(first, "ip", "-json", "-details", "address")),
        neighbours=json.loads(run(first, "ip", "-json", "neighbour", "show", "dev", "data")),
        processes=sorted(os.listdir("/sys/class/net")),
    )
    fds = {name: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for name, pid in pids.items()}
    addresses = space.addresses
    say(
        what="paths",
        data=crosses(fds["n0"], addresses["n0"].data, fds["n5"], addresses["n5"].data),
        mgmt=crosses(fds["n0"], addresses["n0"].mgmt, fds["n5"], addresses["n5"].mgmt),
        controller=crosses(fds["n0"], addresses["n0"].mgmt, None, "10.77.0.1"),
    )
    dead = sleeper()
    os.kill(dead, 9)
    os.waitpid(dead, 0)
    say(
        what="refused",
        stranger=refusal(space, "n9", first),
        twice=refusal(space, "n0", first),
        at_home=refusal(space, "n7", sleeper(own_network=False)),
        dead=refusal(space, "n7", dead),
    )


def try_attach(network: NetworkSettings) -> dict[str, str]:
    with Space(["n0"], network) as space:
        return refusal(space, "n0", sleeper())


def listener(pid: int, address: str) -> socket.socket:
    with inside(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)):
        return socket.create_server((address, 0))


network = NetworkSettings(
    mtu_bytes=4000,
    congestion_control="reno",
    receive_buffer_bytes=(5000, 70_000, 900_000),
    send_buffer_bytes=(5000, 30_000, 800_000),
    segments=3,
    tso=False,
    gso=True,
    gro=True,
)
with Space(["m0", "m1"], network) as space:
    pids = {name: sleeper() for name in ("m0", "m1")}
    facts = [asdict(space.attach(name, pid)) for name, pid in pids.items()]
    with listener(pids["m1"], space.addresses["m1"].data) as server:
        with inside(os.open(f"/proc/{pids['m0']}/ns/net", os.O_RDONLY)):
            client = socket.socket()
        sizes = [client.getsockopt(socket.SOL_SOCKET, each) for each in (socket.SO_RCVBUF, socket.SO_SNDBUF)]
        client.connect(server.getsockname())
        say(
            what="settings",
            facts=facts,
            devices=json.loads(run(pids["m0"], "ip", "-json", "-details", "link")),
            buffers=sizes,
            segment_bytes=client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
            congestion=client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode(),
        )
say(what="unfit", answer=try_attach(NetworkSettings(congestion_control="pigeon")))
