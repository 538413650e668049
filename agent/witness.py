"""A second opinion on shaping: the kernel's state as pyroute2 reads it.

What sets the links (``agent.netem``) must not be all that vouches for them: an emulator that wrote and read the same
wrong unit proved links eight times too fast. So the certificate's kernel column comes from another implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.netem import DOWN, KernelLinkState
from testbed.errors import KernelError
from testbed.rack.netlink import inside

TICK_MS = 64e-6
"""netem's 32-bit delay counts scheduler ticks of 64 ns (PSCHED_SHIFT, net/pkt_sched.h)."""
LOSS_SCALE = 2**32 - 1


class Witness:
    """Reads one device's leaves. ``peers`` names each by its parent class (``major << 16 | minor``)."""

    def __init__(self, device: str, peers: Mapping[int, str], netns_fd: int | None = None) -> None:
        # Here and not above: it takes a guest most of a second to import, and only the player needs it.
        from pyroute2 import IPRoute

        self._peers = peers
        with inside(netns_fd):
            self._kernel: Any = IPRoute()
        indices = self._kernel.link_lookup(ifname=device)
        if not indices:
            self.close()
            raise KernelError(f"there is no device {device} in this namespace")
        self._index = indices[0]

    def close(self) -> None:
        """Close its socket."""
        self._kernel.close()

    def read(self) -> dict[str, KernelLinkState]:
        """Every peer's state as the kernel has it now; delays to 64 ns."""
        found = {}
        for leaf in self._kernel.get_qdiscs(index=self._index):
            if leaf["parent"] in self._peers:
                peer = self._peers[leaf["parent"]]
                found[peer] = _state(leaf) if leaf.get_attr("TCA_KIND") == "netem" else DOWN
        return found


def _state(leaf: Any) -> KernelLinkState:
    options = leaf.get_attr("TCA_OPTIONS")
    rate = options.get_attr("TCA_NETEM_RATE")
    return KernelLinkState(
        delay_ms=options["delay"] * TICK_MS,
        rate_bps=rate["rate"] * 8.0 if rate is not None else 0.0,
        loss_ratio=options["loss"] / LOSS_SCALE,
        limit_packets=options["limit"],
        up=True,
    )
