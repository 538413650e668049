"""The link player: one privileged process that plays the link plans of every node of one kernel.

It hears and says JSON lines over a Unix socket. Plans are encoded ahead; at each instant the changes of a namespace
are one batch, sent at an absolute time of CLOCK_MONOTONIC. It sleeps in between (never spins: on a time-travel kernel
the clock would not move) and a command interrupts its sleep. Losing the channel is a stop, after which nothing of the
shaping is left; a child sees to that where the player itself is killed. CAP_NET_ADMIN is all that it must have on a
board of its own: entering the namespaces of others takes CAP_SYS_ADMIN besides, real-time priority CAP_SYS_NICE.

Commands, by ``command``::

    install  nodes: {name: {plan: LinkPlan.to_dict(), address: data address, peers: {peer: data address},
                            pid: a process in its namespace | netns: path, device: "data"}}
             (neither pid nor netns: the player's own namespace, as on a board)
    probe    at_s: mission time of the probe under load (absent: where the planned rates add up highest),
             tolerance: {delay_ms, rate_low, rate_high} (absent: Tolerance())
    start    mission_zero_monotonic_s, read_back: bool (absent: false; else after each change)
    commit   epoch, mission_s, real_monotonic_s, running
    stop

Events, by ``event``: installed, certificate, started, change, finished (no changes are left), error (``error``
is the class of testbed.errors, ``command`` what it came of: ``play`` when a change failed), stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.board import Board, open_board
from agent.certificate import Tolerance
from agent.inspection import Inspection, busiest_s
from agent.netem import Batch, DeadMan, disagreement
from testbed.clock import ClockCommit, ClockMap, monotonic_s
from testbed.errors import KernelError, RackError, SkyrackError
from testbed.link.plan import LinkState

PRIORITY = 50
"""Of SCHED_FIFO: with it the 99th percentile of lateness was 0.15 ms on a loaded host, without it 2.4 ms."""
PR_SET_TIMERSLACK = 29  # linux/prctl.h; the default slack is 50 us
RECEIVE_BYTES = 1 << 16
SLEEP_LIMIT_S = 3600.0
"""select takes no longer timeouts than its struct holds; waking up once an hour costs nothing."""


@dataclass(frozen=True)
class Tick:
    """All that changes at one instant: per node the batch for its namespace and the states in it."""

    at_s: float
    batches: tuple[tuple[str, Batch, tuple[tuple[str, LinkState], ...]], ...]


class Player:
    """The player's state: boards, the ticks still to come, the clock."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        self._emit = emit
        self._boards: dict[str, Board] = {}
        self._dead_man: DeadMan | None = None
        self._ticks: list[Tick] = []
        self._next = 0
        self._clock: ClockMap | None = None
        self._commits: list[ClockCommit] = []
        self._read_back = False
        self._finished = False
        self._commands: Mapping[str, Callable[[dict[str, Any]], None]] = {
            "install": self._install,
            "probe": self._probe,
            "start": self._start,
            "commit": self._commit,
        }

    def obey(self, command: dict[str, Any]) -> None:
        """Carry out one command; what is wrong with it, or with the kernel, becomes an ``error`` event."""
        name = str(command.get("command"))
        try:
            if name not in self._commands:
                raise RackError(f"the player knows no command {name!r}; it knows {', '.join(self._commands)} and stop")
            self._commands[name](command)
        except SkyrackError as error:
            self._emit({"event": "error", "command": name, "error": type(error).__name__, "message": str(error)})
        except (KeyError, TypeError, ValueError) as error:
            message = f"command {name} is malformed: {error!r}"
            self._emit({"event": "error", "command": name, "error": "BugError", "message": message})

    def next_due_s(self) -> float | None:
        """When something is to be done (CLOCK_MONOTONIC), or None: nothing until a command comes."""
        due_s = self._tick_due_s()
        if self._commits:
            commit_s = self._commits[0].real_s
            return commit_s if due_s is None else min(due_s, commit_s)
        return due_s

    def play_due(self, now_s: float) -> None:
        """Apply every tick and every clock commit that is due at ``now_s``, in the order of their instants."""
        while (due_s := self.next_due_s()) is not None and due_s <= now_s:
            tick_due_s = self._tick_due_s()
            if tick_due_s is None or (self._commits and self._commits[0].real_s < tick_due_s):
                assert self._clock is not None
                self._clock.commit(self._commits.pop(0))
            else:
                self._play(self._ticks[self._next], tick_due_s)
                self._next += 1
        if self._clock is not None and self._next == len(self._ticks) and not self._finished:
            self._finished = True
            self._emit({"event": "finished", "changes": self._next})

    def clear(self) -> None:
        """Remove all shaping, as far as the namespaces still live."""
        for name, board in self._boards.items():
            try:
                if self._dead_man is not None:  # else the devices are not ours: another player may shape them
                    board.shaper.clear()
            except KernelError as error:
                self._emit({"event": "error", "command": "stop", "error": "KernelError", "message": f"{name}: {error}"})
            board.close()
        self._boards.clear()
        if self._dead_man is not None:
            self._dead_man.release()
            self._dead_man = None

    def _tick_due_s(self) -> float | None:
        if self._clock is None or self._next == len(self._ticks):
            return None
        return self._clock.real_at(self._ticks[self._next].at_s)

    def _install(self, command: dict[str, Any]) -> None:
        if self._boards:
            raise RackError("plans are installed already")
        try:
            for name, node in sorted(command["nodes"].items()):
                self._boards[name] = open_board(name, node)
            # Before anything is shaped: from then on no death leaves it so.
            self._dead_man = DeadMan([(board.shaper.device, board.netns_fd) for board in self._boards.values()])
            for board in self._boards.values():
                board.shaper.install()
        except BaseException:
            self.clear()
            raise
        self._ticks = _encode(self._boards)
        self._emit(
            {"event": "installed", "links": sum(len(each.plan.links) for each in self._boards.values()),
             "ticks": len(self._ticks)}
        )  # fmt: skip

    def _probe(self, command: dict[str, Any]) -> None:
        if self._clock is not None:
            raise RackError("the mission has started: its links are not free to be probed")
        inspection = Inspection(self._boards, Tolerance(**command.get("tolerance", {})))
        begin_s = monotonic_s()
        at_s = float(command["at_s"]) if command.get("at_s") is not None else busiest_s(self._boards)
        rows = inspection.rows(at_s)
        self._emit(
            {
                "event": "certificate",
                "ok": all(row.ok for row in rows),
                "at_s": at_s,
                "seconds": monotonic_s() - begin_s,
                "rows": [row.to_dict() for row in rows],
            }
        )

    def _start(self, command: dict[str, Any]) -> None:
        if self._clock is not None or not self._boards:
            raise RackError("the mission has started already" if self._clock else "no plans are installed")
        zero_s = float(command["mission_zero_monotonic_s"])
        # Not sooner: while it probes, the kernel's own timer threads must get their turn.
        granted = _raise_priority()
        self._read_back = bool(command.get("read_back", False))
        # Before mission time 0 a link is what it is at 0: the first states are applied at once.
        if self._ticks:
            self._play(self._ticks[0], zero_s, read_back=True)
            self._next = 1
        self._clock = ClockMap(ClockCommit(0, real_s=zero_s, mission_s=0.0, running=True))
        self._emit({"event": "started", "mission_zero_monotonic_s": zero_s, "real_time_priority": granted})

    def _commit(self, command: dict[str, Any]) -> None:
        if self._clock is None:
            raise RackError("no clock commit before the mission has started")
        commit = ClockCommit(
            epoch=int(command["epoch"]),
            real_s=float(command["real_monotonic_s"]),
            mission_s=float(command["mission_s"]),
            running=bool(command["running"]),
        )
        last = self._commits[-1] if self._commits else self._clock.latest
        if commit.epoch <= last.epoch or commit.real_s < last.real_s:
            raise RackError(f"clock commit {commit} does not follow {last}")
        # It takes effect at its own instant: until then the clock runs as before.
        self._commits.append(commit)

    def _play(self, tick: Tick, due_s: float, read_back: bool | None = None) -> None:
        for name, batch, changes in tick.batches:
            board = self._boards[name]
            try:
                board.shaper.send(batch)
                lateness_ms = max(0.0, monotonic_s() - due_s) * 1e3
                if self._read_back if read_back is None else read_back:
                    self._check(name, board, changes)
            except KernelError as error:
                message = f"{name} at {tick.at_s:g} s: {error}"
                self._emit({"event": "error", "command": "play", "error": "KernelError", "message": message})
                continue
            for peer, state in changes:
                self._emit(
                    {
                        "event": "change",
                        "node": name,
                        "peer": peer,
                        "at_s": tick.at_s,
                        "epoch": self._clock.latest.epoch if self._clock is not None else 0,
                        "lateness_ms": lateness_ms,
                        **{key: value for key, value in asdict(state).items() if key != "start_s"},
                    }
                )

    @staticmethod
    def _check(name: str, board: Board, changes: tuple[tuple[str, LinkState], ...]) -> None:
        kernel = board.shaper.read_back()
        for peer, state in changes:
            difference = disagreement(state, kernel[peer])
            if difference:
                raise KernelError(f"link from {name} to {peer}: the kernel has {difference}")


def _encode(boards: Mapping[str, Board]) -> list[Tick]:
    """All plans as ticks in order of time, every message built."""
    by_instant: dict[float, dict[str, list[tuple[str, LinkState]]]] = {}
    for name, board in boards.items():
        for at_s, peer, state in board.plan.changes():
            by_instant.setdefault(at_s, {}).setdefault(name, []).append((peer, state))
    return [
        Tick(
            at_s,
            tuple((name, boards[name].shaper.encode(changes), tuple(changes)) for name, changes in nodes.items()),
        )
        for at_s, nodes in sorted(by_instant.items())
    ]


def _raise_priority() -> bool:
    """Real-time priority and exact timers for this process, where we may. Whether the priority was granted."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.collect()
    gc.freeze()  # the encoded plans are for ever: no collection need walk them
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError:
        return False
    return True


def main(channel: socket.socket) -> None:
    """Serve the channel until ``stop`` or its end, then remove all shaping."""
    channel.setblocking(False)
    outgoing = bytearray()
    incoming = bytearray()

    def emit(event: dict[str, Any]) -> None:
        # Never blocks: a reader that is slow must not make a link late.
        outgoing.extend(json.dumps(event).encode() + b"\n")

    player = Player(emit)
    running = True
    try:
        while running:
            player.play_due(monotonic_s())
            due_s = player.next_due_s()
            left_s = SLEEP_LIMIT_S if due_s is None else min(SLEEP_LIMIT_S, max(0.0, due_s - monotonic_s()))
            readable, writable, _ = select.select([channel], [channel] if outgoing else [], [], left_s)
            if writable:
                del outgoing[: channel.send(outgoing)]
            if readable:
                piece = channel.recv(RECEIVE_BYTES)
                running = bool(piece)
                incoming += piece
                while running and b"\n" in incoming:
                    line, _, rest = bytes(incoming).partition(b"\n")
                    incoming[:] = rest
                    running = _obey(player, line, emit)
    except ConnectionError as error:
        emit({"event": "error", "command": None, "error": "RunError", "message": f"the channel broke: {error}"})
    finally:
        player.clear()
        emit({"event": "stopped"})
        _flush(channel, outgoing)


def _obey(player: Player, line: bytes, emit: Callable[[dict[str, Any]], None]) -> bool:
    """Carry out one line; False when it says stop."""
    try:
        command = json.loads(line)
    except ValueError as error:
        emit({"event": "error", "command": None, "error": "BugError", "message": f"not JSON: {error}"})
        return True
    if command.get("command") == "stop":
        return False
    player.obey(command)
    return True


def _flush(channel: socket.socket, outgoing: bytearray) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more
        channel.setblocking(True)
        channel.sendall(outgoing)


if __name__ == "__main__":  # python -m agent.player FD
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        main(inherited)
