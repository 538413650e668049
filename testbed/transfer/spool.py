"""The receiving end of transfers: partial chunks that outlive a contact, and at most one accepted copy of each."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from testbed.errors import IntegrityError
from testbed.transfer.chunks import Chunk, ChunkId
from testbed.transfer.store import INCOMING, ChunkStore, NoRoom, incoming

_log = logging.getLogger(__name__)


class Spool:
    """Takes what arrives, chunk by chunk; shared by all links of one node.

    ``on_chunk`` is called with (neighbour, chunk) once per accepted chunk, before the sender gets its acknowledgement,
    so that a chunk is never nobody's. Unless it calls :meth:`keep`, the chunk is through when it returns: its identity
    stays, its payload goes. A kept chunk stays in the store until :meth:`done`, and a later process's :meth:`recover`
    hands it over again.

    ``on_again`` is called with the header of every chunk that is offered though it was accepted: its bytes are not
    taken again, but its route may be another one.

    Without a ``store`` chunks lie in memory, however many. ``nodes`` are the only ones that may send a chunk or have
    made one; None for any.

    Refused are chunks of another run or an unknown node, a second content under one name, bytes after a gap, and whole
    chunks whose digest is wrong (IntegrityError); and what there is no room for now (:class:`~store.NoRoom`), which
    its sender keeps. ``refused`` counts them by reason: run, node, content, gap, damage, room. All are logged.
    """

    def __init__(
        self,
        run: str,
        on_chunk: Callable[[str, Chunk], None],
        store: ChunkStore | None = None,
        nodes: Collection[str] | None = None,
        on_again: Callable[[dict[str, Any]], None] = lambda header: None,
    ) -> None:
        self._run = run
        self._on_chunk = on_chunk
        self._on_again = on_again
        self._first_round = 0
        """Nobody waits for chunks of earlier rounds."""
        self._store = ChunkStore(run, memory_bytes=math.inf) if store is None else store
        self._nodes = nodes
        self.refused: Counter[str] = Counter()

    def counts(self) -> Counter[str]:
        """``refused`` with its reasons, and ``damaged``: chunks of which a former process's files had lost bytes."""
        return Counter({f"refused: {reason}": count for reason, count in self.refused.items()}) + Counter(
            damaged=self._store.damaged
        )

    def offer(self, header: dict[str, Any]) -> int:
        """The byte to go on from: 0 for a new chunk, the size for one already accepted or of a round that is over."""
        identity = ChunkId.parse(header["id"])
        if identity.run != self._run:
            raise self._refusal("run", f"chunk {identity} belongs to another run than {self._run}")
        self._check_node(identity.origin, identity)
        if identity.round < self._first_round:
            return int(header["size"])
        key = incoming(identity)
        if self._accepted(key, header):
            self._on_again(header)
            return int(header["size"])
        held_bytes = self._store.held_bytes(key)
        if held_bytes is not None:
            self._check_content(self._store.header(key), header)
        try:
            self._store.place(key, header, self._store.peer(key) if held_bytes is not None else "")
        except NoRoom as full:
            raise self._no_room(identity, full) from full
        return held_bytes or 0

    def write(self, peer: str, header: dict[str, Any], offset: int, data: bytes | memoryview) -> bool:
        """Append bytes that continue what is held; True when the chunk is complete and accepted."""
        identity = ChunkId.parse(header["id"])
        self._check_node(peer, identity)
        if identity.round < self._first_round:
            return True
        key = incoming(identity)
        if self._accepted(key, header):
            self._on_again(header)
            return True
        held_bytes = self._store.held_bytes(key)
        if held_bytes is None or offset > held_bytes:
            raise self._refusal(
                "gap", f"chunk {identity}: bytes from {offset} but only {held_bytes or 0} are held of what was offered"
            )
        self._check_content(self._store.header(key), header)
        fresh = memoryview(data)[held_bytes - offset :]
        if held_bytes + len(fresh) > header["size"]:
            self._store.drop(key)
            raise self._refusal("damage", f"chunk {identity} arrived damaged, longer than announced, and was dropped")
        try:
            self._store.place(key, header, peer)
            self._store.append(key, fresh)
        except NoRoom as full:
            raise self._no_room(identity, full) from full
        if not self._store.whole(key):
            return False
        chunk = self._whole(key)
        self._store.sync(key)
        self._hand_over(key, peer, chunk)
        return True

    def keep(self, identity: ChunkId) -> None:
        """The node still needs the store's copy: it has to send it on, or has not made anything lasting of it. To be
        called from ``on_chunk``."""
        self._store.keep(incoming(identity))

    def done(self, identity: ChunkId) -> None:
        """The node does not need a kept chunk any more: it stays accepted, and its payload goes."""
        key = incoming(identity)
        if self._store.held_bytes(key) is not None:
            self._store.finish(key)

    def forget(self, identity: ChunkId) -> None:
        """Take a chunk that was accepted once more: its node could not send it on and gave it back."""
        self._store.forget(incoming(identity))

    def recover(self) -> int:
        """Hand over, in the order of their identities, the chunks that a former process of this node accepted and was
        not done with; how many. To be called before anything is offered. One that was damaged on disk since then is
        dropped, as if it had never come."""
        handed = 0
        for key in self._store.held(INCOMING):
            if not self._store.whole(key):
                continue
            try:
                chunk = self._whole(key)
            except IntegrityError:
                continue  # counted and logged
            self._hand_over(key, self._store.peer(key), chunk)
            handed += 1
        return handed

    def drop(self, before_round: int) -> None:
        """Give back the room of earlier rounds' chunks, kept ones and parts: nobody waits for them any more. What was
        kept stays accepted, and so counts what comes of them from now on, on its way or planned once too often."""
        self._first_round = max(self._first_round, before_round)
        for key in self._store.held(INCOMING):
            if ChunkId.parse(self._store.header(key)["id"]).round >= before_round:
                continue
            if self._store.kept(key):
                self._store.finish(key)
            else:
                self._store.drop(key)

    def _accepted(self, key: str, header: dict[str, Any]) -> bool:
        digest = self._store.done(key)
        if digest is None and self._store.kept(key):
            digest = self._store.header(key)["sha256"]
        if digest is None:
            return False
        self._check_content({"id": header["id"], "sha256": digest, "size": header["size"]}, header)
        return True

    def _whole(self, key: str) -> Chunk:
        try:
            return self._store.chunk(key)
        except IntegrityError as error:
            self._store.drop(key)
            raise self._refusal("damage", f"{error}; it was dropped") from error

    def _hand_over(self, key: str, peer: str, chunk: Chunk) -> None:
        self._on_chunk(peer, chunk)
        if not self._store.kept(key):
            self._store.finish(key)

    def _check_node(self, node: str, identity: ChunkId) -> None:
        if self._nodes is not None and node not in self._nodes:
            raise self._refusal("node", f"chunk {identity} comes from {node!r}, which is no node of this run")

    def _check_content(self, held: dict[str, Any], offered: dict[str, Any]) -> None:
        if (held["sha256"], held["size"]) != (offered["sha256"], offered["size"]):
            raise self._refusal("content", f"chunk {offered['id']} offered with two different contents")

    def _no_room(self, identity: ChunkId, full: NoRoom) -> NoRoom:
        self.refused["room"] += 1
        _log.info("refused for now, chunk %s: %s", identity, full)
        return NoRoom(f"chunk {identity} cannot be taken now: {full}")

    def _refusal(self, reason: str, message: str) -> IntegrityError:
        self.refused[reason] += 1
        _log.warning("refused (%s): %s", reason, message)
        return IntegrityError(message)
