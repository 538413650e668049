"""Inside a guest, or natively as root: a link that is asked to carry argv[1] bit/s and set to argv[2]; what iperf3
says that TCP carries."""

from __future__ import annotations

import json
import subprocess
import sys

from agent.netem import Shaper
from agent.probe import payload_share
from testbed.link.plan import LinkState, queue_limit_packets
from tests.agent.guest.boards import Boards, say

DELAY_MS = 10.0
OMIT_S, WINDOW_S = 2, 8


def received_bps(boards: Boards, sender: str, receiver: str) -> float:
    """Payload bits a second of one connection, as its receiver counts them, after slow start."""
    namespace = ["nsenter", f"--net=/proc/{boards.pids[receiver]}/ns/net"]
    server = subprocess.Popen(
        [*namespace, "iperf3", "--server", "--one-off", "--bind", boards.address(receiver), "--forceflush"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    while "listening" not in server.stdout.readline():
        assert server.poll() is None, "iperf3's server ended"
    client = ["iperf3", "--client", boards.address(receiver), "--time", str(WINDOW_S), "--omit", str(OMIT_S), "--json"]
    report = json.loads(boards.run(sender, *client))
    server.communicate()
    return float(report["end"]["sum_received"]["bits_per_second"])


if __name__ == "__main__":
    asked_bps, set_bps = map(float, sys.argv[1:])
    boards = Boards(["a", "b"])
    state = LinkState(0.0, DELAY_MS, set_bps, 0.0, queue_limit_packets(set_bps, DELAY_MS))
    for node, peer in (("a", "b"), ("b", "a")):
        shaper = Shaper("data", {peer: boards.address(peer)}, boards.netns[node])
        shaper.install()
        shaper.send(shaper.encode([(peer, state)]))
    say(asked_bps=asked_bps, carried_bps=received_bps(boards, "a", "b") / payload_share())
