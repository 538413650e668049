"""The journal: a run's events in SQLite, append-only, as they happen.

Write-ahead logging lets others read while a run writes. ``synchronous=NORMAL`` in that mode survives the death of any
process; only the loss of power may take the last events (sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    run_id    TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    mission_s REAL,
    real_s    REAL    NOT NULL,
    kind      TEXT    NOT NULL,
    node      TEXT,
    data      TEXT    NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS events_are_never_changed BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_are_never_removed BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""
_COLUMNS = frozenset({"kind", "node", "mission_s", "real_s"})


@dataclass(frozen=True)
class JournalEntry:
    """One event. ``seq`` counts from 1 within a run; ``real_s`` is the event's own, or Unix time."""

    run_id: str
    seq: int
    mission_s: float | None
    real_s: float
    kind: str
    node: str | None
    data: dict[str, Any]


class Journal:
    """A run's journal. Open it once per run; appending is safe from any thread of that process."""

    def __init__(self, path: Path, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self._run_id = run_id
        self._clock = clock
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)
        query = "SELECT coalesce(max(seq), 0) FROM events WHERE run_id = ?"
        self._seq = int(self._database.execute(query, (run_id,)).fetchone()[0])

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, event: Mapping[str, Any]) -> int:
        """Add an event with a ``kind``; ``node``, ``mission_s`` and ``real_s`` are columns, the rest is data."""
        data = json.dumps({key: value for key, value in event.items() if key not in _COLUMNS}, allow_nan=False)
        with self._lock:
            seq = self._seq + 1
            self._database.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self._run_id,
                    seq,
                    event.get("mission_s"),
                    event.get("real_s", self._clock()),
                    event["kind"],
                    event.get("node"),
                    data,
                ),
            )
            self._seq = seq
        return seq

    def entries(self, kind: str | None = None) -> Iterator[JournalEntry]:
        """The run's events in order, all or of one kind."""
        with self._lock:
            rows = self._database.execute(
                "SELECT * FROM events WHERE run_id = ? AND (? IS NULL OR kind = ?) ORDER BY seq",
                (self._run_id, kind, kind),
            ).fetchall()
        for run_id, seq, mission_s, real_s, kind_, node, data in rows:
            yield JournalEntry(run_id, seq, mission_s, real_s, kind_, node, json.loads(data))

    def close(self) -> None:
        """Fold the log into the database and let go of it; safe to call twice."""
        with self._lock:
            self._database.close()
