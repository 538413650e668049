"""Inside a guest: players that stop, are killed, follow one another at once, meet, and hold one capability alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pyroute2  # noqa: F401 - a player without rights on files cannot import it later

import agent.witness
from testbed.link.plan import LinkPlan, LinkState
from testbed.rack.netlink import inside
from tests.agent.guest.boards import CAP_NET_ADMIN, NOBODY, Boards, Link, keep_capabilities, say

LIMIT_S, STEP_S = 5.0, 0.02
STATES = (LinkState(0.0, 5.0, 1e6, 0.0, 64), LinkState(0.5, 7.0, 2e6, 0.0, 64))

assert agent.witness
boards = Boards(["a", "b"])
both = {name: LinkPlan(name, {peer: STATES}).to_dict() for name, peer in (("a", "b"), ("b", "a"))}
alone = {"a": both["a"]}


def kinds(node: str) -> list[str]:
    return sorted(each["kind"] for each in boards.tc(node, "qdisc", "show", "dev", "data"))


def bare(within_s: float) -> dict[str, Any]:
    """What is on the devices once they are bare, or at the end of the wait."""
    until_s = time.monotonic() + within_s
    found = {name: kinds(name) for name in boards.pids}
    while any(each != ["noqueue"] for each in found.values()) and time.monotonic() < until_s:
        time.sleep(STEP_S)
        found = {name: kinds(name) for name in boards.pids}
    return found


def parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    """By a look at every process: /proc/PID/task/PID/children is an option of the kernel (CONFIG_PROC_CHILDREN)."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and parent(int(entry)) == pid:
                found.append(int(entry))
        except FileNotFoundError:
            continue
    return found


def installed(link: Link) -> dict[str, Any]:
    link.until("installed")
    begun = link.ask("started", command="start", mission_zero_monotonic_s=time.monotonic() + 0.2)
    return {"started": begun, "kinds": {name: kinds(name) for name in boards.pids}}


# Killed, with nobody left to clean up but its child.
killed = Link(boards, both)
first = installed(killed)
guards = children(killed.pid)
os.kill(killed.pid, signal.SIGKILL)
os.waitpid(killed.pid, 0)
say(what="killed", **first, guards=len(guards), after=bare(LIMIT_S))

# Killed, and another at once in its place: what it set up stays.
hasty = Link(boards, both)
installed(hasty)
os.kill(hasty.pid, signal.SIGKILL)
successor = Link(boards, both)
second = installed(successor)
os.waitpid(hasty.pid, 0)
time.sleep(1.0)
say(what="followed", **second, after={name: kinds(name) for name in boards.pids})

# A second one beside a living one is refused and leaves it alone.
rival = Link(boards, both)
say(what="rival", answer=rival.until("installed"), after={name: kinds(name) for name in boards.pids})
rival.tell(command="stop")
rival.until("stopped")

# The player's child dies first: the player goes on, and stops as ever.
(guard,) = children(successor.pid)
os.kill(guard, signal.SIGTERM)  # as a whole process group is told: it waits for its maker nevertheless
time.sleep(0.1)
say(what="guarded", guards=len(children(successor.pid)))
successor.tell(command="stop")
say(what="stopped", event=successor.until("stopped"), after=bare(0.0))
os.waitpid(successor.pid, 0)
try:
    os.kill(guard, 0)
    say(what="left", guard=True)
except ProcessLookupError:
    say(what="left", guard=False)


# One capability, nobody's rights, and the board's own namespace.
def at_home() -> None:
    inside(boards.netns["a"]).__enter__()
    keep_capabilities(CAP_NET_ADMIN, uid=NOBODY)


def status(pid: int) -> dict[str, str]:
    fields = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.split()[0] for name, _, value in fields if name in ("Uid", "CapEff", "CapPrm", "CapBnd")}


humble = Link(boards, alone, at_home, at_home=True)
answer = humble.until("installed")
say(what="install", answer=answer, status=status(humble.pid), kinds=kinds("a"))
zero_s = time.monotonic() + 0.2
begun = humble.ask("started", command="start", mission_zero_monotonic_s=zero_s, read_back=True)
finished = humble.until("finished")
say(
    what="played",
    started=begun,
    finished=finished,
    changes=[event for event in humble.seen if event["event"] == "change"],
    leaf=[each for each in boards.tc("a", "qdisc", "show", "dev", "data") if each["kind"] == "netem"],
)
humble.tell(command="stop")
say(what="humble stop", event=humble.until("stopped"), after=bare(0.0))
os.waitpid(humble.pid, 0)

humble = Link(boards, alone, at_home, at_home=True)
humble.until("installed")
os.kill(humble.pid, signal.SIGKILL)
os.waitpid(humble.pid, 0)
say(what="humble kill", after=bare(LIMIT_S))
