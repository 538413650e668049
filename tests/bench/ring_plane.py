"""Inside a guest, or as root on the host's kernel: a ring of nodes, a process and namespace each, that all-reduce.

Arguments: "guest" or "host", links' rate in bit/s, delay in ms, nodes, rounds, and the cases as JSON, all of one side.
A JSON line by case comes out: its seconds by round, each from when the first node began until the last had the sum and
knew that all it sent had arrived. The round before those opens TCP's windows and is not told of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.pki import RunAuthority
from testbed.rack.namespaces import NetworkSettings
from testbed.rack.netlink import inside, unshare_network
from tests.bench.ring_nodes import SIDES, Case, Plane

FRAME_BYTES = 1514
BURST_BYTES = 8 * FRAME_BYTES
"""What the host's tbf lets pass at once: half a millisecond more than its timers are late by."""
NOTICE_S = 0.5
"""From telling a case until it begins: time to make the tensors in."""
CONGESTION_CONTROL = "reno"
"""Of the host's side: every kernel lets a namespace have it. A guest's is the product's, cubic."""


def main(where: str, rate_bps: float, delay_ms: float, count: int, rounds: int, cases: list[Case]) -> None:
    """Lay the links, fork the nodes, and tell each case round by round."""
    names = [f"sat-0-{number}" for number in range(count)]
    state = LinkState(0.0, delay_ms, rate_bps, 0.0, queue_limit_packets(rate_bps, delay_ms))
    namespaces, addresses, device = {"guest": _guest, "host": _host}[where](names, state)
    authority = RunAuthority("bench")
    with tempfile.TemporaryDirectory() as folder:
        plans = {
            name: LinkPlan(name, {names[place - 1]: (state,), names[(place + 1) % count]: (state,)})
            for place, name in enumerate(names)
        }
        credentials = {name: authority.issue(name) for name in names}
        plane = Plane(addresses, device, plans, credentials, folder)
        nodes = _fork(plane, namespaces, cases[0].side)
        nodes.hear()
        nodes.tell(b"\n")
        nodes.hear()
        for case in cases:
            took_s = [nodes.play(case) for _ in range(rounds + 1)][1:]
            print(json.dumps({**vars(case), "took_s": took_s}), flush=True)  # noqa: T201
        nodes.end()


class _Nodes:
    """The processes, as the one sees them that tells them what to do."""

    def __init__(self) -> None:
        self._pids: list[int] = []
        self._tell: list[IO[bytes]] = []
        self._said: list[IO[bytes]] = []

    def add(self, pid: int, tell: int, said: int) -> None:
        self._pids.append(pid)
        self._tell.append(os.fdopen(tell, "wb", buffering=0))
        self._said.append(os.fdopen(said, "rb"))

    def tell(self, line: bytes) -> None:
        for pipe in self._tell:
            pipe.write(line)

    def hear(self) -> list[Any]:
        """A line of each. json.JSONDecodeError: one has died."""
        return [json.loads(pipe.readline()) for pipe in self._said]

    def play(self, case: Case) -> float:
        """Seconds of one round."""
        self.tell(json.dumps([time.monotonic() + NOTICE_S, vars(case)]).encode() + b"\n")
        begun_s, ended_s, right = zip(*self.hear(), strict=True)
        assert all(right), f"{case}: wrong at nodes {[i for i, each in enumerate(right) if not each]}"
        return float(max(ended_s) - min(begun_s))

    def end(self) -> None:
        for pipe in self._tell:
            pipe.close()
        for pid in self._pids:
            os.waitpid(pid, 0)

    def leave(self) -> None:
        """In a child: what is its parent's business."""
        for pipe in (*self._tell, *self._said):
            pipe.close()


def _fork(plane: Plane, namespaces: list[int], side: str) -> _Nodes:
    if side == "gloo":
        import torch.distributed  # noqa: F401 - once, before the processes part
    nodes = _Nodes()
    for name, namespace in zip(plane.names, namespaces, strict=True):
        (told, tell), (said, say) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            nodes.leave()  # a pipe whose writing end a brother holds would never end
            os.close(tell)
            os.close(said)
            inside(namespace).__enter__()
            SIDES[side](plane, name, os.fdopen(told, "rb"), partial(_say, say))
            os._exit(0)
        os.close(told)
        os.close(say)
        nodes.add(pid, tell, said)
    return nodes


def _say(pipe: int, what: Any) -> None:
    os.write(pipe, json.dumps(what).encode() + b"\n")


def _guest(names: list[str], state: LinkState) -> tuple[list[int], dict[str, str], str]:
    """The product's boards and shapers. Everybody has a link to everybody: gloo connects all, and uses its ring."""
    from agent.netem import Shaper
    from tests.agent.guest.boards import Boards

    boards = Boards(names)
    for name in names:
        peers = [peer for peer in names if peer != name]
        shaper = Shaper("data", {peer: boards.address(peer) for peer in peers}, boards.netns[name])
        shaper.install()
        shaper.send(shaper.encode([(peer, state) for peer in peers]))
    return [boards.netns[name] for name in names], {name: boards.address(name) for name in names}, "data"


def _host(names: list[str], state: LinkState) -> tuple[list[int], dict[str, str], str]:
    """Namespaces joined to a ring by veth pairs with tbf at both ends, which is all that a kernel without netem has:
    a rate, and no delay. Nodes that are no neighbours reach each other through those between."""
    namespaces = []
    for _ in names:
        unshare_network()
        namespaces.append(os.open("/proc/self/ns/net", os.O_RDONLY))
    count = len(names)
    addresses = [f"10.79.1.{number + 1}" for number in range(count)]
    paths = [f"/proc/{os.getpid()}/fd/{namespace}" for namespace in namespaces]
    for place, path in enumerate(paths):
        after = paths[(place + 1) % count]
        _batch(path, "ip", [f"link add right type veth peer name left netns {after}"])
    # A rack's netem counts a train of segments as one packet, tbf counts bytes: the same room.
    limit_bytes = state.limit_packets * NetworkSettings().segments * FRAME_BYTES
    tbf = f"tbf rate {state.rate_bps:.0f}bit burst {BURST_BYTES} limit {limit_bytes}"
    for place, path in enumerate(paths):
        with inside(namespaces[place]):
            _set_sysctls()
        routes = []
        for steps in range(1, count):
            device, beside = ("right", place + 1) if steps <= count // 2 else ("left", place - 1)
            via = f"via {addresses[beside % count]} dev {device} onlink src {addresses[place]}"
            routes.append(f"route add {addresses[(place + steps) % count]}/32 {via}")
        ups = [f"link set {device} up" for device in ("lo", "left", "right")]
        _batch(path, "ip", [f"address add {addresses[place]}/32 dev right", *ups, *routes])
        _batch(path, "tc", [f"qdisc add dev {device} root {tbf}" for device in ("left", "right")])
    return namespaces, dict(zip(names, addresses, strict=True)), "right"


def _batch(namespace: str, tool: str, lines: list[str]) -> None:
    command = ["nsenter", f"--net={namespace}", tool, "-batch", "-"]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(command, input="\n".join(lines), text=True, check=True, env=environment)


def _set_sysctls() -> None:
    root = Path("/proc/sys/net/ipv4")
    (root / "ip_forward").write_text("1")
    (root / "tcp_congestion_control").write_text(CONGESTION_CONTROL)
    for device in ("all", "default"):
        (root / "conf" / device / "rp_filter").write_text("0")
    with suppress(FileNotFoundError):
        (root / "tcp_no_metrics_save").write_text("1")  # a connection starts alike, whatever came before it


if __name__ == "__main__":
    _, kind, rate, delay, nodes_count, repeats, listed = sys.argv
    main(kind, float(rate), float(delay), int(nodes_count), int(repeats), [Case(**each) for each in json.loads(listed)])
