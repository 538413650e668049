"""The journal: order, append-only, and what a killed process leaves."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from controller.journal import Journal


def test_events_come_back_as_they_were(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite", "run", clock=lambda: 1000.0) as journal:
        assert journal.append({"kind": "round_started", "round": 1, "mission_s": 0.5}) == 1
        assert journal.append({"kind": "transfer", "node": "ground", "bytes": 3, "real_s": 7.0, "mission_s": 1.0}) == 2
        one, two = journal.entries()
        assert (one.seq, one.kind, one.node, one.mission_s, one.real_s) == (1, "round_started", None, 0.5, 1000.0)
        assert one.data == {"round": 1}
        assert (two.node, two.real_s, two.data) == ("ground", 7.0, {"bytes": 3})
        assert [entry.seq for entry in journal.entries("transfer")] == [2]


def test_numbering_goes_on_after_a_restart_and_runs_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal(path, "one") as journal:
        journal.append({"kind": "a"})
    with Journal(path, "one") as journal:
        assert journal.append({"kind": "b"}) == 2
    with Journal(path, "two") as journal:
        assert journal.append({"kind": "a"}) == 1


@pytest.mark.parametrize("change", ["UPDATE events SET kind = 'x'", "DELETE FROM events"])
def test_the_past_cannot_be_changed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "j.sqlite"
    with Journal(path, "run") as journal:
        journal.append({"kind": "a"})
    database = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(change)
    database.close()


def test_readable_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal(path, "run") as journal:
        journal.append({"kind": "a"})
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        journal.append({"kind": "b"})
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (2,)
        reader.close()


def test_threads_share_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite", "run") as journal:
        threads = [
            threading.Thread(target=lambda: [journal.append({"kind": "a"}) for _ in range(50)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [entry.seq for entry in journal.entries()] == list(range(1, 201))


def test_a_killed_process_loses_nothing_it_had_appended(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "j.sqlite"
    program = f"""
from pathlib import Path
import time
from controller.journal import Journal
journal = Journal(Path({str(path)!r}), "run")
for number in range(100):
    journal.append({{"kind": "a", "number": number}})
print("done", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "done\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with Journal(path, "run") as journal:
        assert [entry.data["number"] for entry in journal.entries()] == list(range(100))
        assert journal.append({"kind": "b"}) == 101
