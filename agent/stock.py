"""What a node's process has to keep: chunks, and what it was told. In memory, or in a folder from which the next
process of the same node goes on."""

from __future__ import annotations

import base64
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from protos.skyrack.v1 import agent_pb2 as pb
from testbed.node.base import Node
from testbed.transfer.chunks import Chunk
from testbed.transfer.journal import Journal
from testbed.transfer.shelf import Shelf
from testbed.transfer.spool import Spool
from testbed.transfer.store import ChunkStore

RECENT_BYTES = 16 << 20
"""Of chunks whose payload is in memory as well: twice what one link has under way with chunks of 1 MiB."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_log = logging.getLogger(__name__)

Accept = Callable[[str, Chunk], None]
Again = Callable[[dict[str, Any]], None]


class Stock(Protocol):
    """Where a node's process keeps what it needs."""

    def open(self, run: str, nodes: tuple[str, ...], accept: Accept, again: Again) -> Spool:
        """The receiving end of the node's transfers; ``accept`` gets each chunk once, ``again`` the header of one that
        is offered once more."""

    def equip(self, node: Node) -> None:
        """Have a node lay its chunks here."""

    def recover(self, node: Node) -> int:
        """Hand over what a former process of this node was not done with; how many chunks."""

    def drop(self, before_round: int) -> None:
        """Give back the room of chunks whose round is over."""

    def note(self, kind: str, **facts: Any) -> None:
        """Write down what this process was told."""

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """What a former process of this node was told, in order; nothing where there was none."""

    def clear(self) -> None:
        """The run is over: leave nothing."""

    def close(self) -> None:
        """Let the next process have it."""


class MemoryStock:
    """Nothing outlives the process, and chunks take as much memory as they have bytes."""

    def open(self, run: str, nodes: tuple[str, ...], accept: Accept, again: Again) -> Spool:
        self._spool = Spool(run, accept, nodes=nodes, on_again=again)
        return self._spool

    def equip(self, node: Node) -> None:
        node.release = self._spool.forget
        node.received = self._spool.counts

    def recover(self, node: Node) -> int:
        return 0

    def drop(self, before_round: int) -> None:
        self._spool.drop(before_round)

    def note(self, kind: str, **facts: Any) -> None:
        """Memory needs no notes."""

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        return []

    def clear(self) -> None:
        """Ends with the process."""

    def close(self) -> None:
        """Ends with the process."""


class DiskStock:
    """A folder of one node and one run. What the node acknowledged, and what it was told, survives kill -9."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / "told")
        self._boot = BOOT_ID.read_text().strip()
        self._store: ChunkStore | None = None

    def open(self, run: str, nodes: tuple[str, ...], accept: Accept, again: Again) -> Spool:
        store = ChunkStore(run, memory_bytes=0, folder=self._folder / "chunks", recent_bytes=RECENT_BYTES)
        self._store, self._shelf = store, Shelf(store)

        def keep(peer: str, chunk: Chunk) -> None:
            # Its node says by `release` that it was handed on, and by the round's end that nobody needs it any more.
            self._spool.keep(chunk.id)
            accept(peer, self._shelf.arrived(chunk))

        self._spool = Spool(run, keep, store, nodes, again)
        return self._spool

    def equip(self, node: Node) -> None:
        node.release = self._spool.forget
        node.received = self._spool.counts
        node.lay = self._shelf.lay

    def recover(self, node: Node) -> int:
        resting = self._shelf.recover()
        for chunk in resting:
            node.mailbox.put(chunk)
        return len(resting) + self._spool.recover()

    def drop(self, before_round: int) -> None:
        self._spool.drop(before_round)
        self._shelf.drop(before_round)

    def note(self, kind: str, **facts: Any) -> None:
        self._journal.add({"kind": kind, "boot": self._boot, **facts})

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        entries = [dict(entry) for entry in self._journal.entries]
        if any(entry.pop("boot") != self._boot for entry in entries):
            # Mission time zero is an instant of a clock that begins anew with the machine.
            _log.warning("the machine was started again since %s was written: waiting for orders", self._folder)
            return []
        return [(entry.pop("kind"), entry) for entry in entries]

    def clear(self) -> None:
        self.close()
        for path in list(self._folder.iterdir()):  # the folder itself is its maker's
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        self._journal.close()
        if self._store is not None:
            self._store.close()


def make_stock(folder: str) -> Stock:
    """On disk in a folder; in memory where none is named."""
    return DiskStock(Path(folder)) if folder else MemoryStock()


def packed(request: Any) -> str:
    """A request as a note has it."""
    return base64.b64encode(request.SerializeToString()).decode()


def configuration(text: str) -> pb.ConfigureRequest:
    """The inverse of ``packed``."""
    return pb.ConfigureRequest.FromString(base64.b64decode(text))


def order(text: str) -> pb.ObeyRequest:
    """The inverse of ``packed``."""
    return pb.ObeyRequest.FromString(base64.b64decode(text))
