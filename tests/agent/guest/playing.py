"""Inside a guest: the player plays a plan of two nodes under clock commits, while stamped datagrams cross the link."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time

from testbed.link.plan import LinkPlan, LinkState
from testbed.rack.netlink import inside
from tests.agent.guest.boards import Boards, Link, say

FAST_BPS = 1e9  # a datagram's own time on the link is then below 1 us
STEP_S = 0.01


def up(start_s: float, delay_ms: float) -> LinkState:
    return LinkState(start_s, delay_ms, FAST_BPS, 0.0, 100)


OUT = (up(0.0, 5.0), LinkState(2.0, 5.0, 0.0, 0.0, 64), up(3.0, 20.0), up(50.0, 30.0), up(60.0, 40.0))
BACK = (up(0.0, 7.0), up(3.0, 8.0))

boards = Boards(["a", "b"])
plans = {"a": LinkPlan("a", {"b": OUT}).to_dict(), "b": LinkPlan("b", {"a": BACK}).to_dict()}
link = Link(boards, plans)
say(what="installed", **link.until("installed"))
say(what="early commit", **link.ask("error", command="commit", epoch=1, mission_s=0, real_monotonic_s=0, running=True))
say(what="unknown", **link.ask("error", command="dance"))
say(what="malformed", **link.ask("error", command="start"))

with inside(boards.netns["a"]):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with inside(boards.netns["b"]):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((boards.address("b"), 5000))


def send_until(until_s: float) -> list[tuple[float, float]]:
    """Datagrams from a to b every 10 ms until then: (sent at, delay in ms) of those that arrived, times from zero."""
    arrived = []
    next_s = time.monotonic()
    while next_s < until_s:
        sender.sendto(struct.pack("d", time.monotonic()), (boards.address("b"), 5000))
        next_s += STEP_S
        while (left_s := next_s - time.monotonic()) > 0:
            receiver.settimeout(left_s)
            try:
                (sent_s,) = struct.unpack("d", receiver.recv(64))
            except TimeoutError:
                break
            arrived.append((sent_s - zero_s, (time.monotonic() - sent_s) * 1e3))
    return arrived


zero_s = time.monotonic() + 0.5
say(what="started", **link.ask("started", command="start", mission_zero_monotonic_s=zero_s, read_back=True))
# Hold the clock at mission time 4 from real 4 to real 8; then jump to 49.5, so that 50 and 60 are 0.5 and 10.5 s off;
# then jump past 60.
commits = [(1, 4.0, 4.0, False), (2, 8.0, 49.5, True), (3, 9.0, 70.0, True)]
for epoch, real_s, mission_s, running in commits:
    link.tell(command="commit", epoch=epoch, real_monotonic_s=zero_s + real_s, mission_s=mission_s, running=running)
arrived = send_until(zero_s + 10.0)
link.until("finished")
say(what="played", arrived=arrived, changes=[event for event in link.seen if event["event"] == "change"])
say(what="late", **link.ask("error", command="commit", epoch=2, mission_s=0, real_monotonic_s=zero_s, running=True))
os.kill(boards.pids["b"], signal.SIGKILL)  # a node that died does not keep the others from being cleared
link.tell(command="stop")
say(what="stopped", **link.until("stopped"))
say(what="cleared", qdiscs=boards.tc("a", "qdisc", "show", "dev", "data"))
