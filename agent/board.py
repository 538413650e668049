"""One node's shaped device: the plan it plays, what shapes it and what reads it back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.netem import Shaper
from agent.witness import Witness
from testbed.errors import RackError
from testbed.link.plan import LinkPlan


@dataclass(frozen=True)
class Board:
    """A device, its node's data address, and the descriptor of its namespace (None: the one we are in)."""

    plan: LinkPlan
    address: str
    shaper: Shaper
    witness: Witness
    netns_fd: int | None

    def close(self) -> None:
        """Give up its sockets and its namespace. The shaping stays."""
        self.shaper.close()
        self.witness.close()
        if self.netns_fd is not None:
            os.close(self.netns_fd)


def open_board(name: str, node: Mapping[str, Any]) -> Board:
    """A node's device as ``install`` names it (``agent.player``), found and read, not yet shaped.

    Raises RackError where its namespace is gone or a peer has no address, KernelError where there is no such device.
    """
    plan = LinkPlan.from_dict(node["plan"])
    unknown = sorted(set(plan.links) - set(node["peers"]))
    if unknown:
        raise RackError(f"{name}: the plan has links to {unknown}, of which no address was given")
    netns_fd = None
    path = node["netns"] if "netns" in node else f"/proc/{node['pid']}/ns/net" if "pid" in node else None
    if path is not None:
        try:
            netns_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RackError(f"{name}: its network namespace is gone: {error}") from None
    device = node.get("device", "data")
    shaper = Shaper(device, {peer: node["peers"][peer] for peer in plan.links}, netns_fd)
    return Board(plan, node["address"], shaper, Witness(device, shaper.classes, netns_fd), netns_fd)
