"""Where a node keeps chunks: in memory up to a bound, else in a folder, from which the next process goes on.

What a folder promises. Bytes that were appended survive the process's death (kill -9) from the moment the call
returns. A chunk that was accepted, which others may delete because of our word, is on the disk itself before it is
acknowledged (fsync), and survives the machine's death as well; of a partial chunk the machine's death may cost the
last records, and of the journal the last entries: a chunk is then sent once more, and its receiver says that it has it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from testbed.errors import BoardError, BugError, IntegrityError
from testbed.transfer.chunk_file import ChunkFile, NoRoom
from testbed.transfer.chunks import Chunk, ChunkId
from testbed.transfer.journal import Journal

__all__ = ["INCOMING", "OUTGOING", "RESTING", "ChunkStore", "NoRoom", "incoming", "outgoing", "resting"]

FORMAT = 1
INCOMING, OUTGOING, RESTING = "in ", "out ", "at "
"""How keys begin."""
DONE, FORGOTTEN = "done", "forgotten"
_log = logging.getLogger(__name__)


def incoming(identity: ChunkId) -> str:
    """The key of a chunk that arrives here, or has arrived."""
    return f"{INCOMING}{identity}"


def outgoing(identity: ChunkId, peer: str) -> str:
    """The key of a chunk made here that goes to ``peer``; a chunk may go both ways round a ring."""
    return f"{OUTGOING}{peer} {identity}"


def resting(identity: ChunkId) -> str:
    """The key of a chunk that lies here until somebody says where it goes."""
    return f"{RESTING}{identity}"


class _Body(Protocol):
    """Where one chunk's bytes are."""

    description: dict[str, Any]
    size_bytes: int

    def describe(self, description: dict[str, Any]) -> None: ...

    def append(self, data: bytes | bytearray | memoryview) -> None: ...

    def read(self) -> bytes: ...

    def sync(self) -> None: ...

    def finish(self) -> None: ...

    def remove(self) -> None: ...


class _InMemory:
    """A chunk's bytes in this process. What cannot change is not copied until all of it is read."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.size_bytes = 0
        self._pieces: list[bytes | memoryview] = []

    def describe(self, description: dict[str, Any]) -> None:
        self.description = description

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._pieces.append(data if isinstance(data, bytes) or _constant(data) else bytes(data))
        self.size_bytes += len(data)

    def read(self) -> bytes:
        whole = b"".join(self._pieces) if len(self._pieces) != 1 else bytes(self._pieces[0])
        self._pieces = [whole]
        return whole

    def sync(self) -> None:
        """Memory promises nothing."""

    def finish(self) -> None:
        self._pieces = []

    def remove(self) -> None:
        self._pieces = []


def _constant(data: bytearray | memoryview) -> TypeGuard[memoryview]:
    return isinstance(data, memoryview) and isinstance(data.obj, bytes)


class ChunkStore:
    """Chunks by key, each with its header, the neighbour it came from (or goes to) and its bytes so far.

    A new chunk goes to memory while the whole of it fits into ``memory_bytes``, else to ``folder``, if there is one,
    while it fits into ``disk_bytes``. So ``memory_bytes=0`` with a folder is a store that survives its process. Of a
    chunk that is through, its key and digest are kept (some 300 bytes), never its payload. Of whole chunks that were
    written or read last, ``recent_bytes`` are in memory beside the folder: most go on as soon as they have come.

    ``damaged`` counts chunks of which a former process's files lost bytes. Raises IntegrityError when the folder
    holds another run's chunks, BoardError when another process uses it.
    """

    def __init__(
        self,
        run: str,
        *,
        memory_bytes: float,
        folder: Path | None = None,
        disk_bytes: float = math.inf,
        recent_bytes: float = 0,
    ) -> None:
        self.run = run
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.recent_bytes = recent_bytes
        self.memory_used_bytes = 0
        self.disk_used_bytes = 0
        self.damaged = 0
        self._bodies: dict[str, _Body] = {}
        self._done: dict[str, str] = {}
        self._kept: set[str] = set()
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_used_bytes = 0
        self._folder: Path | None = None
        self._journal: Journal | None = None
        self._lock = -1
        if folder is not None:
            self._open(folder)

    # -- one chunk ------------------------------------------------------------------------------------------------

    def held(self, kind: str) -> list[str]:
        """The keys of :data:`INCOMING`, :data:`OUTGOING` or :data:`RESTING` chunks that are here, or a part of them, in
        the order of their identities."""
        keys = [key for key in self._bodies if key.startswith(kind)]
        return sorted(keys, key=lambda key: ChunkId.parse(self._bodies[key].description["header"]["id"]))

    def held_bytes(self, key: str) -> int | None:
        """How much of a chunk is here; None for one that is not."""
        body = self._bodies.get(key)
        return None if body is None else body.size_bytes

    def header(self, key: str) -> dict[str, Any]:
        """As it was last placed."""
        return dict(self._bodies[key].description["header"])

    def peer(self, key: str) -> str:
        """As it was last placed."""
        return str(self._bodies[key].description["peer"])

    def whole(self, key: str) -> bool:
        """Whether all bytes are here (they may be the wrong ones)."""
        body = self._bodies.get(key)
        return body is not None and body.size_bytes == body.description["header"]["size"]

    def done(self, key: str) -> str | None:
        """The digest of a chunk that is through; None for any other."""
        return self._done.get(key)

    def keep(self, key: str) -> None:
        """Mark a whole chunk as accepted by its node and still needed here, until it is finished, dropped or
        forgotten. The mark is this process's: the next one decides anew about every whole chunk."""
        self._kept.add(key)

    def kept(self, key: str) -> bool:
        """Whether it was marked."""
        return key in self._kept

    def place(self, key: str, header: dict[str, Any], peer: str = "") -> None:
        """Begin a chunk, or learn a new header (its route may have changed) or neighbour of one that is here.

        Raises :class:`NoRoom` when the whole of it does not fit.
        """
        description = {"key": key, "peer": peer, "header": header}
        body = self._bodies.get(key)
        if body is None:
            self._bodies[key] = self._new(key, description, header["size"])
        elif body.description != description:
            body.describe(description)

    def append(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Add bytes to a chunk. Raises :class:`NoRoom`; what was there is there still."""
        body, header = self._bodies[key], self._bodies[key].description["header"]
        if len(data):
            body.append(data)
        if (
            0 < len(data) == header["size"] <= self.recent_bytes
            and hashlib.sha256(data).hexdigest() == header["sha256"]
        ):
            self._remember(key, bytes(data))  # the whole of it at once: it need not be read back to be checked

    def hold(self, key: str, chunk: Chunk, peer: str = "") -> None:
        """Place all of a chunk that was made here. Raises :class:`NoRoom`; nothing of it is here then."""
        self.place(key, chunk.header(), peer)
        try:
            self.append(key, chunk.payload)
        except NoRoom:
            self.drop(key)
            raise

    def chunk(self, key: str) -> Chunk:
        """A whole chunk, read anew unless it is among the recent ones; IntegrityError when it is not what its header
        says."""
        body = self._bodies[key]
        header = body.description["header"]
        if key in self._recent:
            self._recent.move_to_end(key)
            return Chunk.from_header(header, self._recent[key])
        payload = body.read()
        if len(payload) != header["size"] or hashlib.sha256(payload).hexdigest() != header["sha256"]:
            raise IntegrityError(f"chunk {header['id']} is damaged: its bytes are not those that its header announces")
        self._remember(key, payload)
        return Chunk.from_header(header, payload)

    def sync(self, key: str) -> None:
        """Have the disk itself take a chunk that is on disk."""
        self._bodies[key].sync()

    def finish(self, key: str) -> None:
        """A chunk is through: remember that, in the folder as well, and give its room back. Works on a full disk."""
        body = self._bodies[key]
        self._done[key] = digest = body.description["header"]["sha256"]
        try:
            self._note(DONE, key, digest)
        except NoRoom:
            body.finish()  # its file stays, empty, in the journal's stead; the next process journals it
            self._release(key)
            return
        self.drop(key)

    def drop(self, key: str) -> None:
        """A chunk's bytes are not wanted any more."""
        self._bodies[key].remove()
        self._release(key)

    def forget(self, key: str) -> None:
        """As if a chunk had never been here."""
        if key in self._done:
            self._note(FORGOTTEN, key, "")
            del self._done[key]
            if self._folder is not None:
                self._path(key).unlink(missing_ok=True)  # what a full disk had instead of a line in the journal
        if key in self._bodies:
            self.drop(key)

    def close(self) -> None:
        """Let another process, or another store, have the folder."""
        if self._journal is not None:
            self._journal.close()
            os.close(self._lock)
            self._journal = None

    # -- the two places -------------------------------------------------------------------------------------------

    def _new(self, key: str, description: dict[str, Any], size_bytes: int) -> _Body:
        if self.memory_used_bytes + max(size_bytes, 1) <= self.memory_bytes:  # an empty chunk survives as well
            self.memory_used_bytes += size_bytes
            return _InMemory(description)
        if self._folder is None:
            raise NoRoom(
                f"this board has no room in memory: {self.memory_used_bytes} of {self.memory_bytes:g} bytes are taken, "
                f"{size_bytes} more asked for"
            )
        if self.disk_used_bytes + size_bytes > self.disk_bytes:
            raise NoRoom(
                f"this board has no room in {self._folder}: {self.disk_used_bytes} of {self.disk_bytes:g} bytes are "
                f"taken, {size_bytes} more asked for"
            )
        made = ChunkFile.create(self._path(key), description)
        self.disk_used_bytes += size_bytes
        return made

    def _remember(self, key: str, payload: bytes) -> None:
        self._let_fall(key)
        self._recent[key] = payload
        self._recent_used_bytes += len(payload)
        while self._recent_used_bytes > self.recent_bytes:
            self._let_fall(next(iter(self._recent)))

    def _let_fall(self, key: str) -> None:
        self._recent_used_bytes -= len(self._recent.pop(key, b""))

    def _release(self, key: str) -> None:
        self._let_fall(key)
        body = self._bodies.pop(key)
        self._kept.discard(key)
        size_bytes = body.description["header"]["size"]
        if isinstance(body, _InMemory):
            self.memory_used_bytes -= size_bytes
        else:
            self.disk_used_bytes -= size_bytes

    def _path(self, key: str) -> Path:
        # A digest: identities may hold anything, file names not.
        assert self._folder is not None
        return self._folder / "chunks" / f"{hashlib.sha256(key.encode()).hexdigest()}.chunk"

    def _note(self, verb: str, key: str, digest: str) -> None:
        if self._folder is None:
            return
        if self._journal is None:
            raise BugError(f"{self._folder} was closed, and {key} is {verb}")
        self._journal.add([verb, key, digest])

    # -- what an earlier process left -----------------------------------------------------------------------------

    def _open(self, folder: Path) -> None:
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _claim(folder, self.run)
        except BlockingIOError:
            os.close(self._lock)
            raise BoardError(f"another process of this board uses {folder}") from None
        except IntegrityError:
            os.close(self._lock)
            raise
        self._folder, self._journal = folder, Journal(folder / "journal")
        self._replay(self._journal)
        for path in sorted((folder / "chunks").iterdir()):
            self._recover(path)

    def _replay(self, journal: Journal) -> None:
        if journal.lost_bytes:
            self.damaged += 1
            _log.warning("the journal in %s was cut back by %d bytes", self._folder, journal.lost_bytes)
        for verb, key, digest in journal.entries:
            if verb == DONE:
                self._done[key] = digest
            else:
                self._done.pop(key, None)

    def _recover(self, path: Path) -> None:
        body, lost_bytes = ChunkFile.recover(path)
        what = path.name if body is None else body.description["header"]["id"]
        if lost_bytes:
            self.damaged += 1
            _log.warning("chunk %s: %d bytes of its file in %s were damaged and dropped", what, lost_bytes, path.parent)
        if body is None:
            return
        key, header = body.description["key"], body.description["header"]
        if key not in self._done and body.done:
            self._done[key] = header["sha256"]
            with suppress(NoRoom):
                self._note(DONE, key, header["sha256"])
                body.remove()
            return
        if key in self._done:
            body.remove()
            return
        self._bodies[key] = body
        self.disk_used_bytes += header["size"]


def _claim(folder: Path, run: str) -> None:
    """Say whose chunks a folder holds, once and for all."""
    path = folder / "store.json"
    facts = {"format": FORMAT, "run": run}
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(facts))
        fresh.replace(path)
    found = json.loads(path.read_text())
    if found != facts:
        raise IntegrityError(
            f"{folder} holds chunks of run {found.get('run')!r}, not of {run!r}; give each run its own"
        )
