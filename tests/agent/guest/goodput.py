"""Inside a guest: TCP goodput of one direction of a shaped link, against the share of its rate that payload can be.

Argument: the MTU in bytes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from dataclasses import replace

from agent.netem import Shaper
from agent.probe import ProbeLink, measure_rates, payload_share
from testbed.link.plan import LinkState, queue_limit_packets
from testbed.rack.namespaces import NetworkSettings
from testbed.rack.netlink import inside
from tests.agent.guest.boards import Boards, say

RATE_BPS, DELAY_MS = 8e6, 10.0
WARM_S, WINDOW_S = 2.0, 8.0
TOTAL_RETRANS_OFFSET = 100  # of tcpi_total_retrans in struct tcp_info, linux/tcp.h


def goodput_bps(
    boards: Boards, sender: str, receiver: str, warm_s: float = WARM_S, window_s: float = WINDOW_S
) -> tuple[float, int]:
    """Payload bits a second that arrive, after slow start; and how many segments were sent again."""
    with inside(boards.netns[receiver]):
        listener = socket.create_server((boards.address(receiver), 0))
    with inside(boards.netns[sender]):
        out = socket.create_connection(listener.getsockname())
    into, _ = listener.accept()
    with listener, out, into:
        # Payload is counted where it is acknowledged in order: by reading it.
        sending = threading.Thread(target=_send_for_ever, args=(out,))
        sending.start()
        begin_s = time.monotonic()
        count, start_s, now_s = 0, 0.0, begin_s
        while now_s < begin_s + warm_s + window_s:
            got = len(into.recv(1 << 16))
            now_s = time.monotonic()
            if start_s:
                count += got
            elif now_s >= begin_s + warm_s:
                start_s = now_s
        information = out.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS_OFFSET + 4)
        out.shutdown(socket.SHUT_RDWR)
        sending.join()
    return count * 8 / (now_s - start_s), struct.unpack_from("=I", information, TOTAL_RETRANS_OFFSET)[0]


def _send_for_ever(out: socket.socket) -> None:
    block = bytes(1 << 16)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            out.sendall(block)


if __name__ == "__main__":
    mtu_bytes = int(sys.argv[1])
    boards = Boards(["a", "b"], NetworkSettings(mtu_bytes=mtu_bytes))
    state = LinkState(0.0, DELAY_MS, RATE_BPS, 0.0, queue_limit_packets(RATE_BPS, DELAY_MS))
    links, shapers = [], []
    for node, peer in (("a", "b"), ("b", "a")):
        shaper = Shaper("data", {peer: boards.address(peer)}, boards.netns[node])
        shaper.install()
        shaper.send(shaper.encode([(peer, state)]))
        shapers.append((shaper, peer))
        ends = (boards.netns[node], boards.netns[peer], boards.address(node), boards.address(peer))
        links.append(ProbeLink(node, peer, *ends, state, shaper.read_back()[peer]))
    carried_bps, _ = goodput_bps(boards, "a", "b")
    for shaper, peer in shapers:  # what TCP left in the queues would go first
        shaper.send(shaper.encode([(peer, replace(state, rate_bps=0.0))]))
        shaper.send(shaper.encode([(peer, state)]))
    say(
        goodput_bps=carried_bps,
        payload_bps=RATE_BPS * payload_share(mtu_bytes),
        set_bps=RATE_BPS,
        datagrams_bps=measure_rates(links),
    )
