"""The process between a caller and its guest kernel: it makes the guest die with its caller, whatever kills that.

Run as ``python -I -S supervisor.py``, standard library only, in a session of its own. The caller writes one JSON line
to its standard input (:data:`REQUEST_FIELDS`) and then keeps that pipe open: its end of file, which the kernel
delivers also after ``kill -9``, is the order to tear everything down. On standard output one JSON line names the
guest's process group as soon as it exists, and a second one tells how the guest ended. The control directory and
every process of the guest are gone before this process exits.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

REQUEST_FIELDS = ("kernel", "arguments", "guest", "core", "stdout_fd", "log_fd", "caller_pid")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
REAP_LIMIT_S = 10.0
"""A killed guest of 2 GB takes about 0.5 s to go; past this limit the host itself is stuck."""


def main() -> int:
    """Start the guest that standard input asks for, wait for it or for the caller's death, tear down, report."""
    lifeline = sys.stdin.fileno()
    request = json.loads(_read_line(lifeline))
    # Orphans of the guest become our children, so that we, and not a container's pid 1, reap them.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    control = tempfile.mkdtemp(prefix="skyrack-guest-")
    try:
        report = _supervise(request, control, lifeline, wake, libc)
    finally:
        shutil.rmtree(control, ignore_errors=True)
    _tell(report)
    return 0


def _tell(facts: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the caller is gone: that is what we are for
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


def _supervise(request: dict[str, Any], control: str, lifeline: int, wake: int, libc: ctypes.CDLL) -> dict[str, object]:
    with open(os.path.join(control, "guest.json"), "w", encoding="utf-8") as stream:
        json.dump(request["guest"], stream)
    if request["core"] is not None:
        # A guest has one CPU. Tracer and traced process on one core make its fork and exec 3-4 times faster.
        os.sched_setaffinity(0, {request["core"]})
    arguments = [text.replace("{control}", control) for text in request["arguments"]]
    supervisor = os.getpid()

    def follow_supervisor() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(1)

    try:
        guest = subprocess.Popen(
            [request["kernel"], *arguments],
            stdin=subprocess.DEVNULL,  # a guest whose standard input is a closed pipe spins
            stdout=request["log_fd"],
            stderr=request["log_fd"],
            pass_fds=(request["stdout_fd"], request["log_fd"]),
            start_new_session=True,
            preexec_fn=follow_supervisor,
        )
    except OSError as error:
        return {"exit_code": None, "kernel_status": None, "error": f"cannot start {request['kernel']}: {error}"}
    _tell({"process_group": guest.pid})
    os.close(request["stdout_fd"])  # the caller's reader sees the end of file when the guest is gone
    try:
        stopped = _wait(guest, lifeline, wake, request["caller_pid"])
    finally:
        _kill(guest)
    return {"exit_code": _exit_code(control), "kernel_status": guest.returncode, "stopped": stopped}


def _wait(guest: subprocess.Popen[bytes], lifeline: int, wake: int, caller_pid: int) -> bool:
    """Block until the guest ends (False) or the caller is gone or wants it gone (True)."""
    watched = [lifeline, wake]
    # A process forked by the caller may hold the pipe open past the caller's death; the pid file cannot be held.
    if hasattr(os, "pidfd_open"):
        try:
            watched.append(os.pidfd_open(caller_pid))
        except ProcessLookupError:
            return True
        except OSError:  # Linux before 5.3 has none
            pass
    while guest.poll() is None:
        ready, _, _ = select.select(watched, [], [])
        if wake in ready:
            numbers = os.read(wake, 64)
            if any(number != signal.SIGCHLD for number in numbers):
                return True
            ready.remove(wake)
        if ready:
            return True
    return False


def _kill(guest: subprocess.Popen[bytes]) -> None:
    """Kill the guest's whole process group (its processes are host processes in it) and reap all of them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(guest.pid, signal.SIGKILL)
    guest.wait()
    deadline_s = time.monotonic() + REAP_LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return


def _exit_code(control: str) -> int | None:
    try:
        with open(os.path.join(control, "exit"), encoding="ascii") as stream:
            return int(stream.read())
    except (FileNotFoundError, ValueError):
        return None


def _read_line(descriptor: int) -> bytes:
    # Unbuffered: whatever follows the line must stay in the pipe, where select sees it.
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 1)
        if not piece:
            raise SystemExit("supervisor: the caller went away before it asked for anything")
        line += piece
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main())
