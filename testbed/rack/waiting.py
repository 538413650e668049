"""How long a rack's processes waited for a processor that the host gave to others.

From inside a guest kernel a busy host looks like a long computation: its clocks run on while it is not running.
The host's scheduler knows (proc(5), ``/proc/PID/schedstat``: nanoseconds on a run queue), so it is asked there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

FIRST_EVENT, LATEST_EVENT = "round_started", "round_finished"
_SESSION = 3
"""Field of /proc/PID/stat after the command's closing bracket: state, parent, process group, session."""


def waited_s(session: int) -> float:
    """What all tasks of a session that live now have waited in their lives; 0 where the kernel does not count it."""
    total_ns = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[_SESSION]) != session:
                continue
            for task in (folder / "task").iterdir():
                total_ns += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it ended while we looked, or the kernel was built without CONFIG_SCHED_INFO
    return total_ns / 1e9


class HostWatch:
    """Watches one rack from its first round to its last."""

    def __init__(self) -> None:
        self.session: int | None = None
        """Of the rack's processes, as soon as it is known."""
        self._first: tuple[float, float] | None = None
        self._latest: tuple[float, float] | None = None

    def observe(self, event: dict[str, Any]) -> None:
        """Take a sample at every round's start and end."""
        if self.session is None or event["kind"] not in (FIRST_EVENT, LATEST_EVENT):
            return
        self._latest = time.monotonic(), waited_s(self.session)
        self._first = self._first or self._latest

    def ratio(self) -> float | None:
        """Waited time as a share of real time, between the first sample and the latest; None without two."""
        if self._first is None or self._latest is None or self._latest[0] <= self._first[0]:
            return None
        return (self._latest[1] - self._first[1]) / (self._latest[0] - self._first[0])
