"""The controller's side of the link player: it hands over link plans, asks for the certificate, passes on commits."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.clock import ClockCommit
from testbed.errors import KernelError, LinkToleranceError, RunError
from testbed.mission import MissionPlan
from testbed.rack.base import Record


class LinkPlayer:
    """Talks JSON lines with the one privileged process that plays every node's link plan."""

    def __init__(
        self,
        channel: socket.socket,
        plan: MissionPlan,
        peers: Mapping[str, str],
        pids: Mapping[str, int],
        boards: Sequence[dict[str, Any]],
        settings: Mapping[str, Any],
    ) -> None:
        self._channel = channel
        self._plan = plan
        self._peers = peers
        self._pids = pids
        self._boards = boards
        self._settings = settings
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._real_time_priority = False
        self.observer: Record = lambda event: None

    async def open(self) -> None:
        """Take over the channel."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._channel, limit=64 << 20)
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    async def install(self) -> None:
        """Shape every data device, all links as at mission time 0 or down, read back by the player."""
        nodes = {
            name: {
                "plan": plan.to_dict(),
                "address": self._peers[name],
                "peers": {peer: self._peers[peer] for peer in plan.links},
                "pid": self._pids[name],
            }
            for name, plan in self._plan.link_plans.items()
        }
        self._send({"command": "install", "nodes": nodes})
        await self._answer("installed")

    async def certify(self) -> list[dict[str, Any]]:
        """Probe the links, at their plans' extremes and all that are up together; rows of the certificate.

        LinkToleranceError names the links that are out of tolerance. In real time a busy host makes links slower than
        they are set, never faster and never other than the kernel says: such rows only speak against the run.
        """
        allowed = self._plan.scenario.tolerance
        tolerance = {
            "delay_ms": allowed.probe_delay_ms,
            "rate_low": allowed.probe_rate_low,
            "rate_high": allowed.probe_rate_high,
        }
        self._send({"command": "probe", "at_s": self._plan.peak_at_s, "tolerance": tolerance})
        rows: list[dict[str, Any]] = (await self._answer("certificate"))["rows"]
        bad = [row for row in rows if not row["ok"]]
        real = self._settings["clock"] == "real"
        slow = [row for row in bad if real and row["slow"]]
        wrong = [row for row in bad if row not in slow]
        if wrong:
            listed = "\n".join(f"  {row['sender']} -> {row['receiver']}: {row['why']}" for row in wrong)
            raise LinkToleranceError(f"{len(wrong)} of {len(rows)} probes are out of tolerance:\n{listed}")
        for row in slow:
            self.observer({"kind": "slow_probe", "node": row["sender"], "mission_s": 0.0, **row})
        return rows

    async def start(self, mission_zero_s: float) -> None:
        """Play from this instant of CLOCK_MONOTONIC on."""
        self._send({"command": "start", "mission_zero_monotonic_s": mission_zero_s})
        self._real_time_priority = (await self._answer("started"))["real_time_priority"]

    def follow(self, commit: ClockCommit) -> None:
        """Pass a clock commit on."""
        self._send(
            {
                "command": "commit",
                "epoch": commit.epoch,
                "mission_s": commit.mission_s,
                "real_monotonic_s": commit.real_s,
                "running": commit.running,
            }
        )

    async def stop(self) -> None:
        """Clear every qdisc and end the player."""
        self._send({"command": "stop"})
        await self._answer("stopped")
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()

    def facts(self) -> dict[str, Any]:
        """What the network was read back to be."""
        return {
            "kernel": self._settings["kernel"],
            "clock": {"kernel": "the guest's own, virtual", "real": "real time with skip and hold"}[
                self._settings["clock"]
            ],
            "boards": list(self._boards),
            "real_time_priority": self._real_time_priority,
        }

    def _send(self, command: dict[str, Any]) -> None:
        if self._writer is None:
            raise RunError("the link player is not connected")
        self._writer.write(json.dumps(command).encode() + b"\n")

    async def _answer(self, event: str) -> dict[str, Any]:
        answer = await self._answers.get()
        if answer["event"] != event:
            raise KernelError(f"link player: {answer.get('message', answer)}")
        return answer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "change":
                self.observer({"kind": "link_change", "mission_s": event["at_s"], **event})
            elif kind == "error" and event["command"] == "play":
                self.observer({"kind": "link_error", "node": "player", "mission_s": 0.0, **event})
            elif kind != "finished":
                self._answers.put_nowait({"event": kind, **event})
        self._answers.put_nowait({"event": "error", "message": "the player's process ended"})
