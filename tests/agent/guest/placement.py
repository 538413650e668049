"""Inside a guest: one link shaped at each of three places, and what TCP and datagrams make of it.

    egress   the sender's data device
    ingress  the receiver's, redirected to an intermediate functional block (ifb) that can queue
    far      the far end of the link: the port of the bridge that leads to the receiver

The tree, its messages and the limits are the same at all three; so is the way back. One JSON line per place, rate and
delay. Arguments: seconds of TCP to leave out, seconds to count.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

from agent.certificate import Measured, Tolerance, judge
from agent.netem import Shaper
from agent.probe import ProbeLink, measure_delays, measure_losses, payload_share
from testbed.link.plan import LinkState, queue_limit_packets
from tests.agent.guest.boards import Boards, say
from tests.agent.guest.goodput import goodput_bps

RATES_BPS = (3e6, 8e6, 50e6)
DELAYS_MS = (5.0, 40.0)
LOSS_RATIO = 0.02
BLOCK = "shape"
WAYS = (("a", "b"), ("b", "a"))


def egress(sender: str, receiver: str) -> Shaper:
    return Shaper("data", {receiver: boards.address(receiver)}, boards.netns[sender])


def ingress(sender: str, receiver: str) -> Shaper:
    for command in (
        f"ip link add {BLOCK} type ifb",
        f"ip link set {BLOCK} up",
        "tc qdisc add dev data handle ffff: ingress",
        f"tc filter add dev data parent ffff: matchall action mirred egress redirect dev {BLOCK}",
    ):
        boards.run(receiver, *command.split())
    return Shaper(BLOCK, {receiver: boards.address(receiver)}, boards.netns[receiver])


def far(sender: str, receiver: str) -> Shaper:
    return Shaper(f"data-{boards.space.addresses[receiver].index}", {receiver: boards.address(receiver)})


def links(shapers: dict[tuple[str, str], Shaper], state: LinkState) -> list[ProbeLink]:
    """Both ways in this state, nothing left in their queues."""
    found = []
    for (sender, receiver), shaper in shapers.items():
        shaper.send(shaper.encode([(receiver, dataclasses.replace(state, rate_bps=0.0))]))
        shaper.send(shaper.encode([(receiver, state)]))
        found.append(
            ProbeLink(
                sender,
                receiver,
                boards.netns[sender],
                boards.netns[receiver],
                boards.address(sender),
                boards.address(receiver),
                state,
                shaper.read_back()[receiver],
            )
        )
    return found


def measure(place: str, shapers: dict[tuple[str, str], Shaper], warm_s: float, window_s: float) -> None:
    for rate_bps in RATES_BPS:
        substrate_ms = measure_delays(links(shapers, LinkState(0.0, 0.0, rate_bps, 0.0, 64)))
        for delay_ms in DELAYS_MS:
            state = LinkState(0.0, delay_ms, rate_bps, 0.0, queue_limit_packets(rate_bps, delay_ms))
            delays_ms = measure_delays(links(shapers, state))
            there_ms, back_ms = (each if each is not None else float("nan") for each in delays_ms)
            payload_bps, resent = goodput_bps(boards, "a", "b", warm_s, window_s)
            lossy = links(shapers, dataclasses.replace(state, loss_ratio=LOSS_RATIO))
            loss = measure_losses(lossy)[0]
            row = judge(lossy[0], Tolerance(), Measured(loss=loss))
            say(
                place=place,
                rate_bps=rate_bps,
                delay_ms=delay_ms,
                goodput=payload_bps / (rate_bps * payload_share()),
                resent=resent,
                one_way_ms=there_ms,
                rtt_ms=there_ms + back_ms,
                substrate_ms=substrate_ms[0],
                loss_set=LOSS_RATIO,
                loss_measured=loss.ratio,
                loss_datagrams=loss.sent,
                loss_ok=row.ok,
                why=row.why,
            )


boards = Boards(["a", "b"])
PLACES: dict[str, Callable[[str, str], Shaper]] = {"egress": egress, "ingress": ingress, "far": far}
for place, at in PLACES.items():
    try:
        shapers = {(sender, receiver): at(sender, receiver) for sender, receiver in WAYS}
    except subprocess.CalledProcessError as error:
        say(place=place, missing=f"{' '.join(error.cmd[2:])}: {error.stderr.strip()}")
        continue
    for shaper in shapers.values():
        shaper.install()
    measure(place, shapers, float(sys.argv[1]), float(sys.argv[2]))
    for (_, receiver), shaper in shapers.items():
        shaper.clear()
        shaper.close()
        if place == "ingress":
            boards.run(receiver, "ip", "link", "delete", BLOCK)
            boards.run(receiver, "tc", "qdisc", "delete", "dev", "data", "ingress")
