"""The local rack: one network namespace and one process per node, on one kernel with netem.

The native kernel when it has netem and we are root, else a User-Mode Linux guest; a time-travel guest where one was
built, unless real time is asked for. Either way the inside is the same program.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from testbed import errors
from testbed.errors import RunError
from testbed.rack.base import Job, Rack, Record
from testbed.rack.kernel import GuestKernel, find_guest_kernel, probe_native
from testbed.rack.uml import STOP_POLL_S, guest_memory_mb, run_in_guest
from testbed.rack.waiting import HostWatch
from testbed.scenario import Scenario

LEAST_MEMORY_MB, GREATEST_MEMORY_MB = 4096, 16_384
"""Of a guest, which takes what it touches: the demo's thirteen nodes, sharing one warmed torch, took 1.9 GB after three
rounds (measured); a ViT-Ti trained on pictures over the cut took more than 4."""

TimeChoice = Literal["auto", "real"]


class LocalRack(Rack):
    """Boots (or finds) the kernel, runs the inside there and passes its events on."""

    name: ClassVar[str] = "local"

    def __init__(self, inside: Sequence[str], time: TimeChoice = "auto", stop: threading.Event | None = None) -> None:
        self._inside = [sys.executable, *inside]
        self._stop = stop
        facts = probe_native()
        self._guest: GuestKernel | None = None
        if not (facts.netem and facts.root) or (time == "auto" and _has_time_travel()):
            self._guest = find_guest_kernel(time)
        self.kernel = self._guest.release if self._guest else facts.release
        self.time_travel = bool(self._guest and self._guest.time_travel)

    def run(self, job: Job, record: Record) -> dict[str, Any]:
        folder = job.directory.resolve()
        (folder / "plan.json").write_text(job.plan.to_json())
        settings = {
            "plan": "plan.json",
            "run": job.run,
            "directory": str(folder),
            "strategy": job.strategy,
            "scheduler": job.scheduler,
            "mission": job.mission,
            "clock": "kernel" if self.time_travel else "real",
            "kernel": self.kernel,
            "work": GUEST_WORK if self._guest else str(folder / WORK),
            "ahead": str(folder / AHEAD) if _helps(job.plan.scenario) else "",
        }
        (folder / "job.json").write_text(json.dumps(settings))
        listener = _Listener(record)
        command = [*self._inside, str(folder / "job.json")]
        log = folder / "rack.log"
        try:
            with _computing_ahead(folder, settings["ahead"], log):
                code = self._run_inside(command, folder, listener, log)
        finally:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        return listener.result(code, log)

    def _run_inside(self, command: Sequence[str], folder: Path, listener: _Listener, log: Path) -> int:
        if self._guest is None:
            return _run_natively(command, listener, log, self._stop)
        return run_in_guest(
            self._guest,
            command,
            cwd=Path.cwd(),
            env=dict(os.environ),
            binds=[folder, Path.cwd(), Path(sys.prefix), Path(__file__).resolve().parents[2]],
            memory_mb=guest_memory_mb(LEAST_MEMORY_MB, GREATEST_MEMORY_MB),
            on_line=listener.line,
            on_start=listener.started,
            log_path=log,
            stop=self._stop,
        )


AHEAD = "ahead"
WORK = "work"
GUEST_WORK = "/run/skyrack"
"""A guest ends with its run, and nothing in it can be gone on with: its own memory-backed folder, which belongs to the
nodes whoever owns the run directory outside, and is as quick as memory."""


def _helps(scenario: Scenario) -> bool:
    """Whether computing features ahead helps: they are of a frozen backbone, and there is a core besides the rack's."""
    return scenario.learning.mode == "head" and (os.cpu_count() or 1) > 1


@contextmanager
def _computing_ahead(folder: Path, store: str, log: Path) -> Iterator[None]:
    """A process on another core that fills the store for as long as the rack runs; the store goes with it."""
    if not store:
        yield
        return
    Path(store).mkdir()
    command = [sys.executable, "-m", "testbed.learning.ahead", str(folder / "plan.json"), store]
    # transformers makes torch's compiler create its cache folder, in the host's temporary folder unless told otherwise.
    environment = {**os.environ, **NATIVE_ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": store}
    with log.open("ab") as errors_to:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors_to, stderr=errors_to, env=environment
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(store, ignore_errors=True)


def _has_time_travel() -> bool:
    try:
        return find_guest_kernel("auto").time_travel
    except errors.KernelError:
        return False


class _Listener:
    """Takes the inside's JSON lines."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._host = HostWatch()
        self._result: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None

    def started(self, session: int) -> None:
        """The session on the host that the rack's processes are in."""
        self._host.session = session

    def line(self, text: str) -> None:
        """One line of the inside's standard output."""
        try:
            event = json.loads(text)
        except ValueError:
            event = {"kind": "log", "node": "rack", "mission_s": 0.0, "message": text}
        if event["kind"] == "result":
            self._result = event["result"]
        elif event["kind"] == "error":
            self._error = event
        else:
            self._host.observe(event)
            self._record(event)

    def result(self, code: int, log: Path) -> dict[str, Any]:
        """What the inside ended with, or its error raised here."""
        if self._error is not None:
            raise getattr(errors, self._error["error"], RunError)(self._error["message"])
        if code != 0 or self._result is None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
            why = _KILLED if code == 128 + signal.SIGKILL else ""
            raise RunError(f"the rack ended with exit code {code} and no result{why}; the end of {log}:\n{tail}")
        self._result["facts"]["host_wait_ratio"] = self._host.ratio()
        return self._result


_KILLED = (
    ": it was killed, as the kernel does when memory ends, or when a guest's process has more mappings on the host "
    "than vm.max_map_count (one for each page in the worst case; as root: sysctl -w vm.max_map_count=1048576)"
)


def _run_natively(command: Sequence[str], listener: _Listener, log: Path, stop: threading.Event | None) -> int:
    """Run the inside on this kernel; it is killed when we end, by whatever (the supervisor holds a pipe to us)."""
    env = {**os.environ, **NATIVE_ENVIRONMENT}
    with log.open("ab") as errors_to:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.rack.leash", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors_to,
            env=env,
            start_new_session=True,
        )
        assert process.stdout is not None
        listener.started(process.pid)
        pending = b""
        try:
            while True:
                if stop is not None and stop.is_set():
                    raise errors.Interrupted("stopped; everything of the rack is gone")
                ready, _, _ = select.select([process.stdout], [], [], STOP_POLL_S)
                piece = os.read(process.stdout.fileno(), 1 << 16) if ready else None
                if piece == b"":
                    return process.wait()
                *lines, pending = (pending + (piece or b"")).split(b"\n")
                for line in lines:
                    listener.line(line.decode())
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


NATIVE_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "16777216",
}
