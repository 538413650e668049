"""A node at the timekeeper's table: it says what it is doing, votes, and follows commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from protos.skyrack.v1.clock_pb2 import AttendRequest, NodeActivity
from protos.skyrack.v1.clock_pb2_grpc import ClockServiceStub
from testbed import rpc
from testbed.clock import ClockCommit
from testbed.mission_clock import MissionClock
from testbed.pki import Credentials


class Attendance:
    """Keeps one stream to the timekeeper for as long as the node lives."""

    def __init__(self, node: str, clock: MissionClock, controller_address: str, credentials: Credentials) -> None:
        self._node = node
        self._clock = clock
        self._channel = rpc.control_channel(controller_address, "controller", credentials)
        self._news = asyncio.Event()
        self._vote: int | None = None
        self._task: asyncio.Task[None] | None = None
        clock.on_activity = self._news.set

    def begin(self) -> None:
        """Start attending."""
        self._news.set()
        self._task = asyncio.get_running_loop().create_task(self._attend())

    async def _attend(self) -> None:
        async for answer in ClockServiceStub(self._channel).Attend(self._say()):
            command = answer.command
            if command.WhichOneof("step") == "commit":
                commit = command.commit
                self._clock.apply(ClockCommit(commit.epoch, commit.real_monotonic_s, commit.mission_s, commit.running))
            else:
                await self._clock.quiet()
                self._vote = command.prepare.epoch
                self._news.set()

    async def _say(self) -> AsyncIterator[AttendRequest]:
        while True:
            await self._news.wait()
            self._news.clear()
            activity, vote = self._clock.activity(), self._vote
            self._vote = None
            yield AttendRequest(
                activity=NodeActivity(
                    node=self._node,
                    sequence=activity.sequence,
                    epoch=self._clock.epoch,
                    in_flight=activity.in_flight,
                    moving=activity.moving,
                    computing=activity.computing > 0,
                    busy=activity.busy,
                    wake_mission_s=activity.wake_mission_s,
                    vote_epoch=vote,
                )
            )

    async def close(self) -> None:
        """Leave the table."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()
