"""Chunks of 1 MiB over gRPC, as nodes send them, against sockets that do as much of the work or less.

The stream in the clear against TCP; the stream with mutual TLS, and the product has no other, against TCP with TLS.
Peers beside them say where the rest goes: TCP whose receiver checks a SHA-256 of each chunk, as the stream's does, and
gRPC alone, that is bytes in messages and nothing made of them.

On this host's kernel (root): two processes over a veth pair between namespaces, and over loopback; all in turn, so that
what the host does meanwhile falls on each. In a time-travel guest, where processor time does not count: over a
link of 20 ms and 200 Mbit/s. And there, with gaps between contacts, the time from a contact's start to its first byte.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import RackError
from testbed.rack.kernel import find_guest_kernel
from testbed.rack.uml import GUEST_ENVIRONMENT, run_in_guest
from tests.bench.row import Row
from tests.bench.transfer_ends import CHUNK_BYTES, LINK_DELAY_MS, PROGRAMS, Ends

ROOT = Path(__file__).resolve().parents[2]
CHUNKS = 384
ROUNDS = 5
LINK_BPS = 200e6
LINK_CHUNKS = 150
"""6 s of the link: TCP's start, a few round trips, is 2 % of it."""
GAPS = ((60.0, 21), (4800.0, 21))
"""Seconds between contacts, and how many there are; the first has nothing before it."""
VETH_GOAL, LOOPBACK_GOAL, LINK_GOAL, CPU_GOAL = 0.9, 0.6, 0.9, 2.5
VETH_ADDRESSES = ("10.79.0.1", "10.79.0.2")
NAME = {
    "tcp": "TCP",
    "tcp+sha": "TCP with SHA-256",
    "tls": "TCP with TLS",
    "tls+sha": "TCP with TLS and SHA-256",
    "grpc": "gRPC alone",
    "grpc+tls": "gRPC alone with mTLS",
    "clear": "stream without TLS",
    "stream": "stream with mTLS",
}
MODES = tuple(NAME)
LINK_MODES = ("tcp", "tls", "stream")
CLAIMS = (("clear", "tcp"), ("stream", "tls"))
BESIDE = (("clear", "tcp+sha"), ("clear", "grpc"), ("stream", "tls+sha"), ("stream", "grpc+tls"), ("grpc", "tcp"))
"""Where the distance to the goal lies; no goals themselves."""


def rows() -> Iterator[Row]:
    """Wall and CPU ratios on this kernel (medians), shares of a shaped link, and first bytes after gaps."""
    environment = {**os.environ, **GUEST_ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for where, goal in (("veth", VETH_GOAL), ("loopback", LOOPBACK_GOAL)):
        if os.geteuid() != 0:
            break
        # The boards sleep for ever: they end with their process namespace.
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, __file__, where]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        yield from _against_tcp(where, goal, [json.loads(line) for line in done.stdout.splitlines()])
    kernel = find_guest_kernel("auto")
    if not kernel.time_travel:
        return
    took_s = {line["mode"]: line["wall_s"] for line in _in_guest(kernel, [__file__, "link"])}
    for mode in LINK_MODES:
        # Framed: of 1514 octets on the wire 1448 are payload.
        share = LINK_CHUNKS * CHUNK_BYTES * 8 / took_s[mode] / (LINK_BPS * 1448 / 1514)
        name = f"{NAME[mode]} over {LINK_DELAY_MS:g} ms, {LINK_BPS / 1e6:g} Mbit/s (guest): share of goodput"
        yield Row(name, share, "ratio", *((LINK_GOAL, share >= LINK_GOAL) if mode == "stream" else (None, None)))
    for gap_s, contacts in GAPS:
        yield from _first_bytes(kernel, gap_s, contacts)


def _against_tcp(where: str, goal: float, lines: list[dict[str, Any]]) -> Iterator[Row]:
    for mode in MODES:
        walls = [line["wall_s"] for line in lines if line["mode"] == mode]
        cpus = [line["cpu_s"] for line in lines if line["mode"] == mode]
        size_gb = CHUNKS * CHUNK_BYTES / 1e9
        yield Row(f"{NAME[mode]}, {where}, 1 MiB", size_gb * 1e3 / statistics.median(walls), "MB/s", None, None)
        yield Row(f"{NAME[mode]}, {where}: CPU", statistics.median(cpus) / size_gb, "CPU s/GB", None, None)

    def ratio(key: str, mode: str, peer: str) -> float:
        """Median over rounds of one round's ratio."""
        mine, theirs = ([line[key] for line in lines if line["mode"] == name] for name in (mode, peer))
        return float(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)))

    for pairs, goals in ((CLAIMS, (goal, CPU_GOAL)), (BESIDE, None)):
        for mine, theirs in pairs:
            name = f"{NAME[mine]} against {NAME[theirs]}, {where}"
            speed, cost = ratio("wall_s", theirs, mine), ratio("cpu_s", mine, theirs)
            if goals is None:
                yield Row(f"{name}: speed", speed, "ratio", None, None)
                yield Row(f"{name}: CPU", cost, "ratio", None, None)
            else:
                yield Row(f"{name}: speed", speed, "ratio", goals[0], speed >= goals[0])
                yield Row(f"{name}: CPU", cost, "ratio", goals[1], cost <= goals[1])


def _first_bytes(kernel: Any, gap_s: float, contacts: int) -> Iterator[Row]:
    script = ROOT / "tests" / "agent" / "guest" / "gaps.py"
    lines = _in_guest(kernel, [str(script), str(gap_s), str(contacts), "demo"])
    (received,) = (line for line in lines if line["what"] == "received")
    first, *later = received["contacts"]
    # Against the goal of two round trips and 50 ms: what is beyond the round trips, half of one included.
    beyond_ms = sorted(contact["first_ms"] - 2 * contact["rtt_ms"] for contact in later)
    for percent in (50, 99):
        value = beyond_ms[min(len(beyond_ms) * percent // 100, len(beyond_ms) - 1)]
        name = f"first byte after a gap of {gap_s:g} s, p{percent} of {len(later)}, less 2 round trips"
        yield Row(name, value, "ms", 50.0, value <= 50.0)
    name = f"first byte of a link's first contact ({first['rtt_ms']:g} ms round trip)"
    yield Row(name, first["first_ms"], "ms", None, None)


def _in_guest(kernel: Any, script: Sequence[str]) -> list[dict[str, Any]]:
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        code = run_in_guest(
            kernel,
            [sys.executable, *script],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            binds=[ROOT],
            memory_mb=512,
            on_line=lines.append,
            log_path=log,
        )
        if code != 0:
            raise RackError(f"the guest's measurements ended with {code}:\n{log.read_text()}")
    return [json.loads(line) for line in lines]


# -- on the kernel that is measured -----------------------------------------------------------------------------------


def _main(where: str) -> None:
    from agent.netem import Shaper
    from testbed.link.plan import LinkState, queue_limit_packets
    from tests.agent.guest.boards import Boards

    if where == "loopback":
        ends = Ends((), "127.0.0.1", CHUNKS, 10e9)
    elif where == "veth":
        ends = Ends(_veth(), VETH_ADDRESSES[1], CHUNKS, 10e9)
    else:
        boards = Boards(["a", "b"])
        state = LinkState(0.0, LINK_DELAY_MS, LINK_BPS, 0.0, queue_limit_packets(LINK_BPS, LINK_DELAY_MS))
        for node, peer in (("a", "b"), ("b", "a")):
            shaper = Shaper("data", {peer: boards.address(peer)}, boards.netns[node])
            shaper.install()
            shaper.send(shaper.encode([(peer, state)]))
        ends = Ends((boards.netns["a"], boards.netns["b"]), boards.address("b"), LINK_CHUNKS, LINK_BPS)
    modes = LINK_MODES if where == "link" else MODES
    for number in range(1 if where == "link" else ROUNDS):
        turn = number % len(modes)
        for mode in modes[turn:] + modes[:turn]:
            wall_s, cpu_s = _once(mode, ends, 7100 + number)
            print(json.dumps({"mode": mode, "wall_s": wall_s, "cpu_s": cpu_s}), flush=True)  # noqa: T201


def _veth() -> tuple[int, int]:
    """Two namespaces with nothing between them but a veth pair, as the kernel makes it."""
    from testbed.rack.netlink import unshare_network

    namespaces = []
    for _ in VETH_ADDRESSES:
        unshare_network()
        namespaces.append(os.open("/proc/self/ns/net", os.O_RDONLY))
    # We are in the second; the first is reached through our own descriptor of it.
    first = f"/proc/{os.getpid()}/fd/{namespaces[0]}"
    _ip("link", "add", "name", "veth-b", "type", "veth", "peer", "name", "veth-a", "netns", first)
    for name, address, into in (("veth-a", VETH_ADDRESSES[0], [f"--net={first}"]), ("veth-b", VETH_ADDRESSES[1], [])):
        _ip("address", "add", f"{address}/24", "dev", name, into=into)
        _ip("link", "set", name, "up", into=into)
    return namespaces[0], namespaces[1]


def _ip(*words: str, into: Sequence[str] = ()) -> None:
    subprocess.run([*(("nsenter", *into) if into else ()), "ip", *words], check=True)


def _once(mode: str, ends: Ends, port: int) -> tuple[float, float]:
    """Wall seconds of the sender, and CPU seconds of both processes, for all chunks; connections are there before."""
    from testbed.pki import RunAuthority
    from testbed.rack.netlink import inside

    authority = RunAuthority("r")
    credentials = {name: authority.issue(name) for name in ("a", "b")}
    work = PROGRAMS[mode]
    ready, told = os.pipe()
    reads: list[int] = []
    pids = []
    for place, (node, run) in enumerate((("b", work[1]), ("a", work[0]))):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            if ends.namespaces:
                inside(ends.namespaces[1 - place]).__enter__()
            if node == "a":
                os.read(ready, 1)
            result = run(ends, port, credentials[node], lambda: os.write(told, b"."))
            os.write(write, json.dumps(result).encode())
            os._exit(0)
        os.close(write)
        reads.append(read)
        pids.append(pid)
    results = []
    for read in reads:
        with open(read, "rb") as pipe:
            results.append(json.loads(pipe.read()))
    for pid in pids:
        os.waitpid(pid, 0)
    for descriptor in (ready, told):
        os.close(descriptor)
    return results[1]["wall_s"], results[0]["cpu_s"] + results[1]["cpu_s"]


if __name__ == "__main__":
    _main(sys.argv[1])
