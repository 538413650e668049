"""Inside a guest: links that are not what they should be, by delay, by rate, by loss and by being up."""

from __future__ import annotations

import dataclasses

from agent.certificate import Measured, Tolerance, judge
from agent.netem import Shaper
from agent.probe import ProbeLink, measure_delays, measure_losses, measure_rates
from testbed.link.plan import LinkState
from tests.agent.guest.boards import Boards, say

TARGET = LinkState(0.0, 10.0, 2e6, 0.0, 60)
SETTINGS = {
    "right": TARGET,
    "late": dataclasses.replace(TARGET, delay_ms=11.5),
    "early": dataclasses.replace(TARGET, delay_ms=9.5),
    "eightfold": dataclasses.replace(TARGET, rate_bps=16e6),
    "slow": dataclasses.replace(TARGET, rate_bps=1.8e6),
    "closed": dataclasses.replace(TARGET, rate_bps=0.0),
    "open": TARGET,
}
TARGETS = {name: TARGET for name in SETTINGS} | {"open": SETTINGS["closed"]}
LOSSY = dataclasses.replace(TARGET, loss_ratio=0.02)
LOSSES = {"right": 0.02, "late": 0.0, "early": 0.006, "eightfold": 0.05, "slow": 0.16, "closed": 0.02, "open": 0.002}

boards = Boards(["hub", *SETTINGS])
shaper = Shaper("data", {name: boards.address(name) for name in SETTINGS}, boards.netns["hub"])
shaper.install()
shaper.send(shaper.encode(list(SETTINGS.items())))
# The kernel is made to say what was asked for: only the measurement can tell.
kernel = shaper.read_back()
obedient = {name: kernel["closed" if name == "open" else "right"] for name in SETTINGS}
links = [
    ProbeLink(
        "hub",
        name,
        boards.netns["hub"],
        boards.netns[name],
        boards.address("hub"),
        boards.address(name),
        TARGETS[name],
        obedient[name],
    )
    for name in SETTINGS
]
delays_ms = measure_delays(links)
loaded = [link for link in links if link.target.up]
rates_bps = measure_rates(loaded)
for link, delay_ms in zip(links, delays_ms, strict=True):
    say(what="delay", **judge(link, Tolerance(), Measured(delay_ms=delay_ms)).to_dict())
for link, rate_bps in zip(loaded, rates_bps, strict=True):
    say(what="rate", **judge(link, Tolerance(), Measured(rate_bps=rate_bps)).to_dict())
honest = dataclasses.replace(links[1], kernel=kernel["late"])
say(what="kernel", **judge(honest, Tolerance(), Measured(delay_ms=10.1)).to_dict())
shaper.send(shaper.encode([(name, SETTINGS["closed"]) for name in SETTINGS]))  # or the load's queues would overflow
shaper.send(shaper.encode([(name, dataclasses.replace(LOSSY, loss_ratio=LOSSES[name])) for name in SETTINGS]))
lossy = [
    dataclasses.replace(link, target=LOSSY, kernel=dataclasses.replace(kernel["right"], loss_ratio=LOSSY.loss_ratio))
    for link in links
]
for link, loss in zip(lossy, measure_losses(lossy), strict=True):
    row = judge(link, Tolerance(), Measured(loss=loss)).to_dict()
    say(what="loss", **row, set_loss_ratio=LOSSES[link.receiver])
