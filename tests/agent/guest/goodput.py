"""Inside a guest: TCP goodput of one direction of a shaped link, against the share of its rate that payload can be."""

from __future__ import annotations

import socket
import threading
import time

from agent.netem import Shaper
from agent.probe import payload_share
from testbed.link.plan import LinkState, queue_limit_packets
from testbed.rack.netlink import inside
from tests.agent.guest.boards import Boards, say

RATE_BPS, DELAY_MS = 8e6, 10.0
WARM_S, WINDOW_S = 2.0, 8.0


def goodput_bps(boards: Boards, sender: str, receiver: str) -> float:
    """Payload bits a second that arrive, after slow start."""
    with inside(boards.netns[receiver]):
        listener = socket.create_server((boards.address(receiver), 0))
    with inside(boards.netns[sender]):
        out = socket.create_connection(listener.getsockname())
    into, _ = listener.accept()
    # Payload is counted where it is acknowledged in order: by reading it.
    threading.Thread(target=_send_for_ever, args=(out,), daemon=True).start()
    begin_s = time.monotonic()
    count, start_s, now_s = 0, 0.0, begin_s
    while now_s < begin_s + WARM_S + WINDOW_S:
        got = len(into.recv(1 << 16))
        now_s = time.monotonic()
        if start_s:
            count += got
        elif now_s >= begin_s + WARM_S:
            start_s = now_s
    return count * 8 / (now_s - start_s)


def _send_for_ever(out: socket.socket) -> None:
    block = bytes(1 << 16)
    while True:
        out.sendall(block)


if __name__ == "__main__":
    boards = Boards(["a", "b"])
    state = LinkState(0.0, DELAY_MS, RATE_BPS, 0.0, queue_limit_packets(RATE_BPS, DELAY_MS))
    for node, peer in (("a", "b"), ("b", "a")):
        shaper = Shaper("data", {peer: boards.address(peer)}, boards.netns[node])
        shaper.install()
        shaper.send(shaper.encode([(peer, state)]))
    say(
        goodput_bps=goodput_bps(boards, "a", "b"),
        payload_bps=RATE_BPS * payload_share(),
        facts=[vars(each) for each in boards.facts.values()],
    )
