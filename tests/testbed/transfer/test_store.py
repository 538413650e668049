"""Where chunks are kept: what a killed process, a torn or damaged file and a full disk leave of them."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from testbed.errors import BoardError, IntegrityError
from testbed.transfer.chunks import Chunk, split
from testbed.transfer.spool import Spool
from testbed.transfer.store import INCOMING, OUTGOING, ChunkStore, NoRoom, incoming, outgoing

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000  # linux/sched.h, linux/mount.h
RECORD_BYTES = 9  # before each piece of data: kind, length, CRC-32


def _chunk(payload: bytes, index: int = 0, phase: str = "gather", origin: str = "a") -> Chunk:
    chunks = split(payload, max(len(payload), 1), run="r", round=index, phase=phase, origin=origin, tensor="embedding")
    return chunks[0].along(("b", "c"))


def _store(folder: Path, **bounds: float) -> ChunkStore:
    return ChunkStore("r", folder=folder, **{"memory_bytes": 0, **bounds})


@contextmanager
def _opened(folder: Path, **bounds: float) -> Iterator[ChunkStore]:
    store = _store(folder, **bounds)
    try:
        yield store
    finally:
        store.close()


# -- processes that are killed ------------------------------------------------------------------------------------

_APPENDER = """
import sys
from pathlib import Path
from testbed.transfer.chunks import split
from testbed.transfer.store import ChunkStore, incoming

chunk = split(bytes(range(256)) * 4096, 1 << 20, run="r", round=0, phase="p", origin="a", tensor="embedding")[0]
store = ChunkStore("r", memory_bytes=0, folder=Path(sys.argv[1]))
key = incoming(chunk.id)
store.place(key, chunk.header(), "b")
while not store.whole(key):
    start = store.held_bytes(key)
    store.append(key, chunk.payload[start : start + 1009])
    sys.stdout.write(f"{store.held_bytes(key)}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, root: Path, seed: int) -> None:
    payload = bytes(range(256)) * 4096
    appender = subprocess.Popen(
        [sys.executable, "-c", _APPENDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert appender.stdout is not None
    lines = random.Random(seed).randrange(1, 600)
    acknowledged = [int(appender.stdout.readline()) for _ in range(lines)]
    appender.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in appender.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    appender.stdout.close()
    assert appender.wait() == -signal.SIGKILL
    with _opened(tmp_path) as store:
        (key,) = store.held(INCOMING)
        held_bytes = store.held_bytes(key)
        # The one append after the last line that came out may be there, whole or not at all.
        assert held_bytes in (acknowledged[-1], min(acknowledged[-1] + 1009, len(payload)))
        assert held_bytes is not None
        store.append(key, payload[held_bytes:])
        assert store.chunk(key).payload == payload


def test_a_folder_serves_one_process_and_one_run(tmp_path: Path) -> None:
    with _opened(tmp_path):
        with pytest.raises(BoardError, match="another process"):
            _store(tmp_path)
        with pytest.raises(BoardError, match="another process"):
            ChunkStore("other", memory_bytes=0, folder=tmp_path)
    with pytest.raises(IntegrityError, match="chunks of run 'r', not of 'other'"):
        ChunkStore("other", memory_bytes=0, folder=tmp_path)
    _store(tmp_path).close()  # neither refusal holds the folder


class Restarts(RuleBasedStateMachine):
    """A store on disk against a dictionary, with a new process (a new store) whenever one likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = _store(self.folder)
        self.chunks = [_chunk(random.Random(index).randbytes(3 * index), index) for index in range(6)]
        self.held: dict[int, bytes] = {}
        self.done: set[int] = set()

    def _key(self, index: int) -> str:
        return incoming(self.chunks[index].id)

    @rule(index=st.integers(0, 5), peer=st.sampled_from(["b", "c"]))
    def place(self, index: int, peer: str) -> None:
        if index not in self.done:
            self.store.place(self._key(index), self.chunks[index].header(), peer)
            self.held.setdefault(index, b"")

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.held)))
        rest = self.chunks[index].payload[len(self.held[index]) :]
        piece = rest[: data.draw(st.integers(0, len(rest)))]
        self.store.append(self._key(index), piece)
        self.held[index] += piece

    @precondition(lambda self: self.held)
    @rule(data=st.data(), end=st.sampled_from(["finish", "drop", "forget"]))
    def end(self, data: st.DataObject, end: str) -> None:
        index = data.draw(st.sampled_from(sorted(self.held)))
        getattr(self.store, end)(self._key(index))
        del self.held[index]
        if end == "finish":
            self.done.add(index)

    @rule(index=st.integers(0, 5))
    def forget(self, index: int) -> None:
        self.store.forget(self._key(index))
        self.held.pop(index, None)
        self.done.discard(index)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = _store(self.folder)
        assert self.store.damaged == 0

    @invariant()
    def agrees(self) -> None:
        assert self.store.held(INCOMING) == [self._key(index) for index in sorted(self.held)]
        for index, chunk in enumerate(self.chunks):
            key = self._key(index)
            assert self.store.done(key) == (chunk.sha256 if index in self.done else None)
            held = self.held.get(index)
            assert self.store.held_bytes(key) == (None if held is None else len(held))
            if held == chunk.payload:
                assert self.store.chunk(key) == chunk
        assert self.store.disk_used_bytes == sum(len(self.chunks[index].payload) for index in self.held)
        assert len(list((self.folder / "chunks").iterdir())) == len(self.held)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# -- files that are torn or damaged -------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6), st.data())
def test_a_torn_or_damaged_file_goes_back_to_its_last_good_record(pieces: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, chunk = Path(name), _chunk(b"".join(pieces))
        key = incoming(chunk.id)
        ends = []  # of the file after each call: what is good up to there
        with _opened(folder) as store:
            store.place(key, chunk.header(), "b")
            (path,) = (folder / "chunks").iterdir()
            ends.append(path.stat().st_size)
            for piece in pieces:
                store.append(key, piece)
                ends.append(path.stat().st_size)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[at:]
        else:
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        good = sum(end <= at for end in ends)  # calls of which nothing was harmed
        with _opened(folder) as store:
            if at == len(b"SKYCHNK1") and len(content) > at:  # the mark "done": anything but its one value is "not"
                assert store.held_bytes(key) == len(chunk.payload) or store.done(key)
                return
            # Cut between two records, or before the first byte was written, a file has lost nothing.
            assert store.damaged == (0 if len(content) == at and at in (0, *ends) else 1)
            assert store.held_bytes(key) == (sum(map(len, pieces[: good - 1])) if good else None)
            store.place(key, chunk.header(), "b")
            held_bytes = store.held_bytes(key)
            assert held_bytes is not None
            store.append(key, chunk.payload[held_bytes:])
            assert store.chunk(key) == chunk


@given(st.integers(0, 400), st.booleans())
def test_a_torn_journal_forgets_its_tail_and_no_more(at: int, torn: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, chunks = Path(name), [_chunk(b"x", index) for index in range(4)]
        journal, ends = folder / "journal", []
        with _opened(folder) as store:
            for chunk in chunks:
                store.place(incoming(chunk.id), chunk.header())
                store.finish(incoming(chunk.id))
                ends.append(journal.stat().st_size)
        content = bytearray(journal.read_bytes())
        at %= len(content)
        if torn:
            del content[at:]
        else:
            content[at] ^= 1
        journal.write_bytes(content)
        for _ in range(2):  # what was cut off once stays cut off
            with _opened(folder) as store:
                known = [store.done(incoming(chunk.id)) is not None for chunk in chunks]
                assert known == [end <= at for end in ends]


def test_a_chunk_that_the_disk_changed_meanwhile_is_not_handed_out(tmp_path: Path) -> None:
    chunk = _chunk(bytes(1000))
    with _opened(tmp_path) as store:
        store.place(incoming(chunk.id), chunk.header())
        store.append(incoming(chunk.id), chunk.payload)
        (path,) = (tmp_path / "chunks").iterdir()
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="damaged on disk"):
            store.chunk(incoming(chunk.id))


def test_files_are_named_safely_whatever_an_identity_contains(tmp_path: Path) -> None:
    names = ["..", "a" * 5000, "../../../../etc/passwd".replace("/", "\\"), "new\nline", "nul\0", "Ω", "%s", "."]
    chunks = [_chunk(name.encode(), phase=name, origin=name) for name in names]
    folder = tmp_path / "store"
    with _opened(folder) as store:
        for chunk in chunks:
            store.place(incoming(chunk.id), chunk.header())
            store.append(incoming(chunk.id), chunk.payload)
        store.finish(incoming(chunks[0].id))
    assert {path.name for path in tmp_path.iterdir()} == {"store"}
    assert {path.name for path in folder.iterdir()} == {"lock", "store.json", "journal", "chunks"}
    assert all(len(path.name) < 100 and path.name.isascii() for path in (folder / "chunks").iterdir())
    with _opened(folder) as store:
        assert store.done(incoming(chunks[0].id)) == chunks[0].sha256
        for chunk in chunks[1:]:
            assert store.chunk(incoming(chunk.id)) == chunk


# -- room ---------------------------------------------------------------------------------------------------------


def test_memory_first_then_the_folder_and_then_no_room(tmp_path: Path) -> None:
    chunks = [_chunk(bytes([index]) * 1000, index) for index in range(6)]
    keys = [incoming(chunk.id) for chunk in chunks]
    with _opened(tmp_path, memory_bytes=2500, disk_bytes=2500) as store:
        for key, chunk in zip(keys[:4], chunks, strict=False):
            store.place(key, chunk.header())
        assert (store.memory_used_bytes, store.disk_used_bytes) == (2000, 2000)
        with pytest.raises(NoRoom, match="this board has no room"):
            store.place(keys[4], chunks[4].header())
        assert store.held_bytes(keys[4]) is None
        for key, chunk in zip(keys[:4], chunks, strict=False):
            store.append(key, chunk.payload)
            assert store.chunk(key) == chunk
        store.finish(keys[0])
        store.place(keys[4], chunks[4].header())
        assert (store.memory_used_bytes, store.disk_used_bytes) == (2000, 2000)
    with _opened(tmp_path) as store:  # what was in memory is gone; what was on disk, and what was through, is known
        assert store.held(INCOMING) == keys[2:4]
        assert store.done(keys[0]) == chunks[0].sha256
    memory = ChunkStore("r", memory_bytes=1500)
    memory.place(keys[0], chunks[0].header())
    with pytest.raises(NoRoom, match="in memory"):
        memory.place(keys[1], chunks[1].header())


def _in_small_tmpfs(folder: Path, size_bytes: int, work: Callable[[], None]) -> None:
    """``work`` in a thread whose ``folder`` is a tmpfs of a few pages, which goes with the thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    outcome: list[BaseException | None] = []

    def body() -> None:
        try:
            if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
                pytest.skip(f"mount namespaces need root: {os.strerror(ctypes.get_errno())}")
            if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % size_bytes):
                pytest.skip(f"no tmpfs of its own: {os.strerror(ctypes.get_errno())}")
            work()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if outcome[0] is not None:
        raise outcome[0]


def test_a_full_disk_takes_no_chunk_and_loses_none(tmp_path: Path) -> None:
    chunks = [_chunk(random.Random(index).randbytes(300_000), index) for index in range(8)]
    keys = [incoming(chunk.id) for chunk in chunks]

    def work() -> None:
        taken = 0
        with _opened(tmp_path) as store:
            with pytest.raises(NoRoom, match=r"folder .* takes no more: No space left"):  # noqa: PT012
                for key, chunk in zip(keys, chunks, strict=True):
                    store.place(key, chunk.header())
                    for start in range(0, len(chunk.payload), 50_000):
                        store.append(key, chunk.payload[start : start + 50_000])
                    taken += 1
            assert 4 <= taken <= 6  # of 2 MiB, less the pages that files begin with
            partial = store.held_bytes(keys[taken])
            assert partial is not None
            assert partial % 50_000 == 0  # whole appends
            for key in keys[:taken]:
                store.finish(key)  # what can no longer be journalled is marked in place
        with _opened(tmp_path) as store:
            assert [store.done(key) for key in keys[:taken]] == [chunk.sha256 for chunk in chunks[:taken]]
            assert store.held(INCOMING) == [keys[taken]]
            assert store.held_bytes(keys[taken]) == partial
            store.append(keys[taken], chunks[taken].payload[partial:])  # now there is room
            assert store.chunk(keys[taken]) == chunks[taken]

    _in_small_tmpfs(tmp_path, 2 << 20, work)


def test_a_receiver_whose_disk_is_full_takes_the_chunk_when_there_is_room(tmp_path: Path) -> None:
    chunks = [_chunk(random.Random(index).randbytes(300_000), index) for index in range(5)]

    def work() -> None:
        accepted: list[Chunk] = []
        with _opened(tmp_path) as store:

            def accept(peer: str, chunk: Chunk) -> None:
                accepted.append(chunk)
                spool.keep(chunk.id)

            spool = Spool("r", accept, store)

            def send(chunk: Chunk) -> int:
                """As a sender does, in frames; how many bytes it sent."""
                offset = spool.offer(chunk.header())
                for start in range(offset, len(chunk.payload), 40_000):
                    spool.write("p", chunk.header(), start, chunk.payload[start : start + 40_000])
                return len(chunk.payload) - offset

            assert [send(chunk) for chunk in chunks[:3]] == [300_000] * 3
            with pytest.raises(NoRoom, match=r"chunk r/3/.* cannot be taken now: this board's folder"):
                send(chunks[3])
            with pytest.raises(NoRoom):
                send(chunks[3])
            assert spool.refused == {"room": 2}
            assert accepted == chunks[:3]
            spool.done(chunks[0].id)  # it went on its way: room
            assert 0 < send(chunks[3]) < 300_000  # from the byte where the disk was full
            spool.done(chunks[1].id)
            assert send(chunks[4]) == 300_000
            assert accepted == chunks

    _in_small_tmpfs(tmp_path, 1 << 20, work)


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_journal_does_not_let_a_chunk_in_twice(tmp_path: Path) -> None:
    chunks = [_chunk(b"", index) for index in range(20)]
    keys = [incoming(chunk.id) for chunk in chunks]
    with _opened(tmp_path) as store:
        for key, chunk in zip(keys, chunks, strict=True):
            store.place(key, chunk.header())
        with _largest_file(1000):  # room for some lines of the journal
            for key in keys:
                store.finish(key)
        assert len(list((tmp_path / "chunks").iterdir())) > 10  # these stand in for lines
        store.forget(keys[-1])
    for _ in range(2):
        with _opened(tmp_path) as store:
            assert [store.done(key) for key in keys] == [*(chunk.sha256 for chunk in chunks[:-1]), None]
            assert store.held(INCOMING) == []
        assert list((tmp_path / "chunks").iterdir()) == []  # all lines are written by now


def test_an_own_chunk_may_wait_for_two_neighbours(tmp_path: Path) -> None:
    chunk = _chunk(b"both ways")
    keys = [outgoing(chunk.id, peer) for peer in ("b", "z")]
    with _opened(tmp_path) as store:
        for key in keys:
            store.place(key, chunk.header())
            store.append(key, chunk.payload)
        store.finish(keys[0])
        assert store.held(OUTGOING) == [keys[1]]
        assert store.done(incoming(chunk.id)) is None
