"""One node's process: hosts a node of testbed.node on a clock, a data plane and a management plane. No privileges."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.pki import Credentials

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
DATA_DEVICE = "data"


@dataclass(frozen=True)
class Seat:
    """Where a node sits: its addresses, its peers' data addresses, and its credentials.

    ``ahead`` is the folder of features computed ahead, empty on a board of one's own. ``work`` is a folder of this
    node's own, where it keeps what its next process goes on with should this one be killed; empty for memory alone.
    """

    node: str
    management_address: str
    data_address: str
    controller_address: str
    peers: dict[str, str]
    credentials: Credentials
    clock: str
    ahead: str
    work: str
    uid: int
    gid: int


def drop_privileges(uid: int, gid: int) -> None:
    """Keep nothing that can touch the network's set-up: no capability, and none to be had by executing something."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; EINVAL beyond the last one
    if os.getuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    else:
        # capset(2), version 3: three empty sets for this process.
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        empty = (ctypes.c_uint32 * 6)()
        if libc.capset(ctypes.byref(header), ctypes.byref(empty)) != 0:
            raise OSError(ctypes.get_errno(), "capset")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with_parent() -> None:
    """End this process when the one that forked it ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def main(seat: Seat) -> None:
    """Serve until told to shut down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drop_privileges(seat.uid, seat.gid)
    die_with_parent()  # after the change of credentials, which clears it
    asyncio.run(_serve(seat))


async def _serve(seat: Seat) -> None:
    from agent.service import AgentServicer
    from protos.skyrack.v1.agent_pb2_grpc import add_AgentServiceServicer_to_server
    from testbed import rpc

    servicer = AgentServicer(seat)
    await servicer.resume()
    server = rpc.control_server()
    add_AgentServiceServicer_to_server(servicer, server)
    rpc.bind(server, seat.management_address, rpc.MANAGEMENT_PORT, seat.credentials)
    await server.start()
    await servicer.ended.wait()
    await server.stop(grace=1.0)


def data_counters() -> tuple[int, int]:
    """Octets that left and reached this namespace's data device, as the kernel counted them; zeros without one."""
    with suppress(OSError):
        for line in Path("/proc/net/dev").read_text().splitlines():
            name, _, fields = line.strip().partition(":")
            if name == DATA_DEVICE:
                values = fields.split()
                return int(values[8]), int(values[0])
    return 0, 0


def plan_digest(plan_json: bytes) -> str:
    """What a node says it read."""
    return hashlib.sha256(plan_json).hexdigest()
