"""What every node does: accept chunks, keep or forward them, report what it did. Written against a clock, a
transport and a control channel, and nothing else, so that any rack can host it."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from testbed.clock import Clock
from testbed.errors import IntegrityError, LinkClosed, LinkError
from testbed.flow.assignment import Assignment
from testbed.link.plan import LinkPlan
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report, attempted
from testbed.transfer.chunks import Chunk, ChunkId, chunk_sizes, join, split
from testbed.transfer.compression import open_compression
from testbed.transfer.shelf import ChunkGone
from testbed.transfer.transport import CHUNKS_IN_FLIGHT, Delivery, Transport
from testbed.transfer.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.strategy.base import Strategy

T = TypeVar("T")


class Control(Protocol):
    """The management plane as a node sees it."""

    async def report(self, report: Report) -> None:
        """Tell the controller something it must act on; returns when it has."""

    def note(self, report: Report) -> None:
        """Tell the controller something it only records; never waits."""


class Mailbox:
    """Chunks that arrived (or were made) here, by identity; whoever needs one waits for it."""

    def __init__(self) -> None:
        self._chunks: dict[ChunkId, Chunk] = {}
        self._waiting: dict[ChunkId, asyncio.Future[Chunk]] = {}

    def put(self, chunk: Chunk) -> None:
        """Keep a chunk; a second copy of the same changes nothing."""
        self._chunks.setdefault(chunk.id, chunk)
        waiting = self._waiting.pop(chunk.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(chunk)

    def find(self, identity: ChunkId) -> Chunk | None:
        """The chunk, if it is here."""
        return self._chunks.get(identity)

    async def get(self, identity: ChunkId) -> Chunk:
        """The chunk, as soon as it is here."""
        if identity in self._chunks:
            return self._chunks[identity]
        waiting = self._waiting.setdefault(identity, asyncio.get_running_loop().create_future())
        return await asyncio.shield(waiting)

    def drop(self, before_round: int) -> None:
        """Forget everything of earlier rounds."""
        self._chunks = {i: chunk for i, chunk in self._chunks.items() if i.round >= before_round}


class Node(ABC):
    """One satellite, station or ground server."""

    def __init__(
        self,
        name: str,
        run: str,
        plan: MissionPlan,
        strategy: Strategy,
        clock: Clock,
        transport: Transport,
        control: Control,
    ) -> None:
        self.name = name
        self.run = run
        self.plan = plan
        self.strategy = strategy
        self.clock = clock
        self.transport = transport
        self.control = control
        self.ahead: Path | None = None
        """Where features computed ahead are, on a rack whose nodes share a core."""
        self.mailbox = Mailbox()
        self.round = 0
        self.attempt = 1
        self.begun_s = 0.0
        """When the attempt at this round found who takes part."""
        self.release: Callable[[ChunkId], None] = lambda identity: None
        """The host's spool forgets a chunk of which nothing stays here, and has its room back: it may come again."""
        self.lay: Callable[[Chunk], Chunk] = lambda chunk: chunk
        """The host's store takes a chunk that was made here, or that waits to be planned anew, and gives back the same
        without its bytes in memory."""
        self.received: Callable[[], Counter[str]] = Counter
        """What the host's receiving end met, counted."""
        self._compression = open_compression(plan.scenario.learning.compression)
        self._told: Counter[str] = Counter()
        self._lanes: dict[str, Turns] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: set[asyncio.Task[None]] = set()
        self._shared: set[asyncio.Task[None]] = set()
        self._passing: dict[ChunkId, Chunk] = {}
        """Chunks on their way through here, of which no copy stays."""
        self._ways: set[tuple[ChunkId, tuple[str, ...]]] = set()
        """The routes that chunks of this round were sent on along."""
        self._sending = 0
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def link_plan(self) -> LinkPlan:
        """This node's own link plan."""
        return self.plan.link_plans[self.name]

    # -- the data plane -------------------------------------------------------------------------------------------

    def accept(self, peer: str, chunk: Chunk) -> None:
        """Called by the spool once per accepted chunk: keep it, and send it on if it is not for us alone."""
        onward = chunk.onward()
        if chunk.keep or not onward.route:
            self.mailbox.put(chunk)
        else:
            self._passing[chunk.id] = chunk
        self._pass_on(onward)

    def accept_again(self, header: dict[str, Any]) -> None:
        """Called by the spool when a chunk is offered that was accepted: what is here goes on along its new route."""
        identity = ChunkId.parse(header["id"])
        here = self.mailbox.find(identity) or self._passing.get(identity)
        if here is not None:
            anew = here.along(header["route"], keep=bool(header["keep"])).urgent(int(header["priority"]))
            self._pass_on(anew.within(header["contact_peer"], header["contact_end_s"]).onward())

    def _pass_on(self, onward: Chunk) -> None:
        way = (onward.id, onward.route)
        if not onward.route or way in self._ways:
            return
        self._ways.add(way)
        if onward.keep:
            self.share_on(onward)
        else:
            self.spawn(self.forward(onward))

    def share_on(self, chunk: Chunk) -> None:
        """Forward a chunk of which every node on the route keeps a copy. Ends with the attempt at the round."""
        task = self.spawn(self.forward(chunk))
        self._shared.add(task)
        task.add_done_callback(self._shared.discard)

    async def forward(self, chunk: Chunk) -> None:
        """Send a chunk to the next node of its route in the link's next window, or say that its contact was missed (or
        failed) and keep it. Those that wait for one link are begun by priority, then in the order of the calls: what a
        pass's end cut goes on first in the next, where a killed process's successor looks for it first."""
        async with self._lanes.setdefault(chunk.route[0], Turns(CHUNKS_IN_FLIGHT)).slot(chunk.priority) as slot:
            async with slot:
                """The turn was for the order alone."""
            await self._forward(chunk)

    async def _forward(self, chunk: Chunk) -> None:
        peer = chunk.route[0]
        until_s = chunk.until_s(peer)
        while True:
            if peer in self.plan.lost:
                self.mailbox.put(chunk)  # the round is begun again, and whoever needs this gets it another way
                return
            start_s, end_s = self.next_window(peer)
            if math.isinf(start_s) and math.isinf(until_s):
                why = f"{self.name} -> {peer}: the link plan has no window any more; lengthen `duration`"
                await self.report("unreachable", peer=peer, why=why)
                return
            if start_s >= until_s:
                if self.mailbox.find(chunk.id) is None:
                    self.mailbox.put(self.lay(chunk))
                self._let_go(chunk)
                await self.report("undelivered", chunks=[str(chunk.id)], missed=[self.name, peer])
                return
            try:
                await self.send(peer, chunk, not_before_s=start_s, until_s=min(end_s, until_s))
                if not chunk.keep:
                    self._let_go(chunk)
                return
            except LinkClosed:
                continue
            except LinkError as error:
                if math.isinf(until_s):
                    self.mailbox.put(chunk)
                    await self.report("unreachable", peer=peer, why=str(error))
                    return
                self.note("link_failed", sender=self.name, receiver=peer, chunk=str(chunk.id))
                until_s = start_s

    def _let_go(self, chunk: Chunk) -> None:
        """A chunk was handed on, or missed its contact: it may come again, by any route. Where it only passed through
        its room is free; where a copy stays that is the one which arrived."""
        if self._passing.pop(chunk.id, None) is not None:
            self.release(chunk.id)
        self._ways.discard((chunk.id, chunk.route))

    def cut(self, phase: str, tensor: str, origin: str, payload: bytes) -> list[Chunk]:
        """A tensor's bytes as this round's chunks, each with its hash. IntegrityError where the strategy does not say
        that such tensors are sent."""
        if tensor not in self.strategy.tensors:
            allowed = ", ".join(sorted(self.strategy.tensors))
            raise IntegrityError(f"{self.strategy.name!r} may not send a {tensor!r}; allowed: {allowed}")
        size, shrink = self.plan.scenario.chunk_bytes, self._compression.shrink
        what = {"run": self.run, "phase": phase, "origin": origin, "tensor": tensor}
        return [self.lay(chunk) for chunk in split(payload, size, round=self.round, **what, shrink=shrink)]

    def in_attempt(self, step: str) -> str:
        """The phase of chunks that are made anew in every attempt at a round."""
        return attempted(step, self.attempt)

    def held(self, tensor: str, phase: str, origin: str, size: int) -> list[Chunk]:
        """A tensor's chunks of this round, where all of them are here already; none otherwise."""
        chunks = [self.mailbox.find(identity) for identity in self._pieces(tensor, phase, origin, size)]
        found = [chunk for chunk in chunks if chunk is not None]
        return found if len(found) == len(chunks) else []

    async def collect(self, tensor: str, phase: str, origin: str, size: int) -> bytes:
        """A tensor's bytes as soon as all of them are here."""
        sizes = chunk_sizes(size, self.plan.scenario.chunk_bytes)
        chunks = [await self.mailbox.get(identity) for identity in self._pieces(tensor, phase, origin, size)]
        return join(chunks, lambda chunk: self._compression.restore(chunk.payload, sizes[chunk.id.index]))

    def _pieces(self, tensor: str, phase: str, origin: str, size: int) -> list[ChunkId]:
        count = len(chunk_sizes(size, self.plan.scenario.chunk_bytes))
        return [ChunkId(self.run, self.round, phase, origin, tensor, index) for index in range(count)]

    def next_window(self, peer: str) -> tuple[float, float]:
        """The link's current or next window (mission seconds); it starts at infinity when there is none."""
        now_s = self.clock.now()
        windows = self.link_plan.windows(peer)
        return next((window for window in windows if window[1] > now_s), (math.inf, math.inf))

    async def send(
        self, peer: str, chunk: Chunk, *, not_before_s: float, until_s: float, planned: Assignment | None = None
    ) -> Delivery:
        """Deliver one chunk to a neighbour and record the transfer beside its prediction."""
        await self.clock.sleep_until(not_before_s)
        what: dict[str, Any] = {
            "sender": self.name,
            "receiver": peer,
            "tensor": chunk.id.tensor,
            "chunk": str(chunk.id),
            "kept": chunk.keep or len(chunk.route) == 1,
            "predicted_end_s": planned.end_s if planned else None,
        }
        start_s = self.clock.now()
        with self._under_way():
            try:
                delivery = await self.transport.deliver(peer, chunk, not_before_s=not_before_s, until_s=until_s)
            except LinkClosed as closed:
                sent, end_s, held = closed.durable_bytes - closed.resumed_from, self.clock.now(), closed.durable_bytes
                self.note("cut", **what, start_s=start_s, end_s=end_s, bytes=sent, durable_bytes=held)
                raise
            self.note(
                "transfer",
                **what,
                start_s=delivery.start_s,
                end_s=delivery.end_s,
                bytes=chunk.size_bytes - delivery.resumed_from,
                resumed_from=delivery.resumed_from,
            )
        return delivery

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._sending += 1
        self._settled.clear()
        try:
            yield
        finally:
            self._sending -= 1
            if not self._sending:
                self._settled.set()

    async def settle(self) -> None:
        """Return once every transfer under way has ended and is noted: acknowledgements outlive a round."""
        await self.clock.wait(self._settled.wait())
        self.tally()

    # -- the management plane -------------------------------------------------------------------------------------

    def note(self, kind: str, **data: Any) -> None:
        """Record an event."""
        self.control.note(Report(self.name, kind, self.clock.now(), self.round, data))

    async def report(self, kind: str, blob: bytes = b"", **data: Any) -> None:
        """Tell the controller, and wait until it has heard."""
        data["attempt"] = self.attempt
        self.tally()
        with self.clock.busy():
            await self.control.report(Report(self.name, kind, self.clock.now(), self.round, data, blob))

    def tally(self) -> None:
        """Record what both ends of the data plane have met since this was done last: refused, put off, sent again."""
        now = self.transport.counts + self.received()
        fresh = now - self._told
        self._told = now
        if fresh:
            self.note("exchange", counts=dict(sorted(fresh.items())))

    def take(self, order: Order) -> None:
        """Begin to carry out an order."""
        if order.kind == "abandon":
            self._abandon(order)
            return
        if order.kind == "begin_round":
            self.enter(order)
            self.mailbox.drop(order.round)
            self._ways = {way for way in self._ways if way[0].round >= order.round}
        task = self.spawn(self.obey(order))
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)

    def enter(self, order: Order) -> None:
        """Be in an order's round, and attempt at it."""
        self.round, self.attempt, self.begun_s = order.round, order.attempt, order.begun_s
        if set(order.lost) - set(self.plan.lost):
            self.plan = self.plan.without_nodes(order.lost)

    def _abandon(self, order: Order) -> None:
        """Stop what was ordered for this attempt at the round and keep what is here: it is begun again without the lost
        nodes. What is only passing through goes on."""
        self.enter(order)
        for task in (*self._orders, *self._shared):
            task.cancel()

    @abstractmethod
    async def obey(self, order: Order) -> None:
        """Carry out one order; returns when it is done. A round's beginning was noted before."""

    async def prepare(self) -> None:  # noqa: B027 - a relay has nothing to load
        """Load data and weights before the mission starts; costs no mission time."""

    # -- work -----------------------------------------------------------------------------------------------------

    async def compute(self, what: str, charge_s: float, work: Callable[[], T]) -> T:
        """Compute, charged by the device profile, and record it."""
        with self.activity("compute", what):
            return await self.clock.compute(charge_s, work)

    async def wait(self, what: str, awaitable: Awaitable[T]) -> T:
        """Wait for a message, and record for what."""
        with self.activity("wait", what):
            return await self.clock.wait(awaitable)

    @contextmanager
    def activity(self, state: str, what: str) -> Iterator[None]:
        """Record what the node does from here to the end of the block."""
        start_s = self.clock.now()
        self.note("state", state=state, what=what)
        yield
        self.note("activity", state=state, what=what, start_s=start_s, end_s=self.clock.now())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside; a failure is reported, never lost."""
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except ChunkGone as gone:
            self.note("dropped", message=str(gone))
        except Exception as error:
            await self.report("failed", error=type(error).__name__, message=str(error))

    def halt(self) -> None:
        """Cancel what is under way, and no more."""
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Cancel what is under way and close the transport."""
        self.halt()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.transport.close()
