"""Inside a guest: what Shaper does to the kernel, as tc and real datagrams see it."""

from __future__ import annotations

import socket
import struct
from dataclasses import asdict, replace

from agent.netem import Shaper
from agent.witness import Witness
from testbed.errors import KernelError
from testbed.link.plan import LinkState
from testbed.rack.netlink import Rtnetlink, inside
from tests.agent.guest.boards import Boards, received, say

UP = LinkState(0.0, 5.12345, 3_500_000.0, 0.01, 50)
CHANGED = LinkState(10.0, 7.5, 8_000_001.0, 0.0, 80)
SLOW = LinkState(0.0, 500.0, 1e7, 0.0, 200)
DOWN = LinkState(20.0, 7.5, 0.0, 0.0, 64)


def refusal(action: object, *arguments: object) -> str:
    """The KernelError that an action ends in, or nothing."""
    try:
        action(*arguments)  # type: ignore[operator]
    except KernelError as error:
        return str(error)
    return ""


boards = Boards(["a", "b", "c", "d"])
shaper = Shaper("data", {name: boards.address(name) for name in ("b", "c")}, boards.netns["a"])
shaper.install()
witness = Witness("data", shaper.classes, boards.netns["a"])
say(
    step="installed",
    qdiscs=boards.tc("a", "qdisc", "show", "dev", "data"),
    classes=boards.run("a", "tc", "class", "show", "dev", "data").splitlines(),
    filters=boards.tc("a", "filter", "show", "dev", "data"),
    ours={name: asdict(state) for name, state in shaper.read_back().items()},
)
for step, states in {"up": [("b", UP), ("c", UP)], "changed": [("b", CHANGED)], "down": [("c", DOWN)]}.items():
    shaper.send(shaper.encode(states))
    say(
        step=step,
        qdiscs=boards.tc("a", "qdisc", "show", "dev", "data"),
        ours={name: asdict(state) for name, state in shaper.read_back().items()},
        witness={name: asdict(state) for name, state in witness.read().items()},
    )

with inside(boards.netns["a"]):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receivers = {}
for name in ("b", "d"):
    with inside(boards.netns[name]):
        receivers[name] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receivers[name].bind((boards.address(name), 5000))


def burst(name: str) -> None:
    for _ in range(50):
        sender.sendto(b"x" * 1000, (boards.address(name), 5000))


shaper.send(shaper.encode([("b", SLOW)]))
burst("b")
control = received(receivers["b"], 1.5)
burst("b")
shaper.send(shaper.encode([("b", DOWN)]))
while_down = received(receivers["b"], 1.5)
shaper.send(shaper.encode([("b", SLOW)]))
after = received(receivers["b"], 1.5)
burst("b")
shaper.send(shaper.encode([("b", LinkState(0.0, 400.0, 1e7, 0.0, 200))]))
kept = received(receivers["b"], 1.5)
burst("d")
unmatched = received(receivers["d"], 0.5)
say(step="flush", control=control, while_down=while_down, after=after, kept=kept, unmatched=unmatched)

whole = shaper.encode([("b", UP), ("c", UP), ("b", CHANGED)])
tampered = bytearray(whole.data)
second = struct.unpack_from("=I", tampered)[0]
struct.pack_into("=i", tampered, second + 16 + 4, 4242)  # an interface that there is not


class Lossy(Rtnetlink):
    """A kernel that drops one filter without a word."""

    def request(self, what: str, messages: object) -> None:
        super().request(what, list(messages)[:-1])  # type: ignore[call-overload]


refused = {
    "stranger": refusal(shaper.encode, [("d", UP)]),
    "negative": refusal(shaper.encode, [("b", LinkState(0.0, -1.0, 1e6, 0.0, 10))]),
    "too fast": refusal(shaper.encode, [("b", LinkState(0.0, 1.0, 1e12, 0.0, 10))]),
    "device": refusal(Shaper, "nic7", {"b": boards.address("b")}, boards.netns["a"]),
    "batch": refusal(shaper.send, replace(whole, data=bytes(tampered))),
}
lossy = Shaper("data", {name: boards.address(name) for name in ("b", "c")}, boards.netns["c"])
lossy._netlink.close()
with inside(boards.netns["c"]):
    lossy._netlink = Lossy()
refused["lost filter"] = refusal(lossy.install)
say(step="refused", **refused)
say(step="past a refusal", ours={name: asdict(state) for name, state in shaper.read_back().items()})

rounds = 50
batches = [
    shaper.encode([(name, LinkState(0.0, 5.0 + number / 100, 3e6, 0.0, 60)) for name in ("b", "c")])
    for number in range(rounds)
]
for batch in batches:
    shaper.send(batch)
say(step="many", ours={name: asdict(state) for name, state in shaper.read_back().items()})

shaper.clear()
shaper.clear()
say(step="cleared", qdiscs=boards.tc("a", "qdisc", "show", "dev", "data"))
