"""One command inside one User-Mode Linux guest: a kernel with netem that needs neither root nor a virtual machine.

The guest's root file system is the host's, with the caller's rights on files; /tmp, /run and /dev/shm are its own.
The command's standard output is a channel of lines back to the caller, as they appear; its standard error and the
kernel's log go to a file. :func:`run_in_guest` leaves no process and no directory behind, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import Interrupted, RackError
from testbed.rack.kernel import GuestKernel

HERE = Path(__file__).resolve().parent
GUEST_TMPFS = (Path("/tmp"), Path("/run"), Path("/dev/shm"))  # noqa: S108
"""What the guest sees of its own: a host path below these is visible only when it is named in ``binds``."""
GUEST_MODULES = (
    "sch_netem", "sch_htb", "sch_prio", "sch_tbf", "sch_ingress", "cls_flower", "cls_u32", "cls_matchall",
    "act_mirred", "act_gact", "veth", "bridge", "dummy", "ifb",
)  # fmt: skip
"""Debian's guest kernel keeps these as modules, where nothing would load them on demand."""
GUEST_ENVIRONMENT = {
    # A page fault costs 30-110 us in a guest: memory once taken from the kernel is kept. Training then runs at the
    # host's speed, and cold flows rose from 72 to 162-197 Mbit/s.
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "16777216",
    "OMP_NUM_THREADS": "1",  # a guest has one CPU
    "PYTHONUNBUFFERED": "1",  # lines reach the caller as they are printed
}
LOG_TAIL_LINES = 25
STOP_POLL_S = 0.1
TEARDOWN_LIMIT_S = 20.0


def run_in_guest(
    kernel: GuestKernel,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    binds: Sequence[Path],
    memory_mb: int,
    on_line: Callable[[str], None],
    log_path: Path,
    on_start: Callable[[int], None] = lambda session: None,
    stop: threading.Event | None = None,
) -> int:
    """Boot one guest, run ``argv`` as its one command, and return the command's exit code (128 + n for signal n).

    ``env`` is the command's whole environment, to which :data:`GUEST_ENVIRONMENT` and ``SKYRACK_GUEST`` (``virtual``
    or ``real``: the guest's time) are added. ``binds`` are host directories below /tmp, /run or /dev/shm to be
    visible in the guest at the same path; ``cwd`` always is. ``on_line`` gets each line of standard output without
    its newline, in the calling thread; ``on_start`` the host's session id of the guest's processes. ``log_path`` is
    appended to.

    RackError when the guest dies without an exit code (with the end of its log) or cannot be started; Interrupted
    when ``stop`` was set: by then everything has been torn down.
    """
    if not kernel.path.is_file():
        raise RackError(f"guest kernel {kernel.path} is not a file")
    _check_memory(memory_mb)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    log_start = os.fstat(log_fd).st_size
    lines_read, lines_write = os.pipe()
    try:
        request = _request(kernel, argv, cwd, env, binds, memory_mb, lines_write, log_fd)
        supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(HERE / "supervisor.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_fd,
            pass_fds=(lines_write, log_fd),
            start_new_session=True,  # a terminal's Ctrl-C is the caller's to handle
            cwd="/",
        )
    except BaseException:
        os.close(lines_read)
        raise
    finally:
        os.close(lines_write)
        os.close(log_fd)
    try:
        assert supervisor.stdin is not None
        supervisor.stdin.write(json.dumps(request).encode() + b"\n")
        supervisor.stdin.flush()
        facts = _follow(lines_read, supervisor, on_line, on_start, stop)
    finally:
        os.close(lines_read)
        _end(supervisor)
    if facts is None:
        raise Interrupted("the guest was stopped; it and everything in it are gone")
    return _exit_code(facts, kernel, log_path, log_start)


def _request(
    kernel: GuestKernel,
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    binds: Sequence[Path],
    memory_mb: int,
    stdout_fd: int,
    log_fd: int,
) -> dict[str, Any]:
    """What the supervisor is asked for; ``{control}`` stands for the directory that it will make."""
    arguments = [
        f"mem={memory_mb}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "hostfs=/",
        "rw",
        "umid=guest",
        "uml_dir={control}/",
        # Kernel log to UML's own standard error; the two terminals are the command's output and error.
        "console=stderr0",
        "loglevel=4",
        "con=null",
        f"con0=null,fd:{stdout_fd}",
        "ssl=null",
        f"ssl0=null,fd:{log_fd}",
        "noreboot",
        f"init={sys.executable}",
        "SKYRACK_CONTROL={control}",
    ]
    if kernel.time_travel:
        arguments.append("time-travel=inf-cpu")
    arguments += ["--", "-I", "-S", "-B", str(HERE / "guest_init.py")]
    guest = {
        "argv": list(argv),
        "env": {**env, **GUEST_ENVIRONMENT, "SKYRACK_GUEST": "virtual" if kernel.time_travel else "real"},
        "virtual": kernel.time_travel,
        "cwd": str(cwd),
        "binds": [str(path) for path in _covered([*binds, cwd])],
        "modules": list(GUEST_MODULES) if kernel.modules_folder else [],
        "modules_folder": str(kernel.modules_folder or ""),
    }
    return {
        "kernel": str(kernel.path),
        "arguments": arguments,
        "guest": guest,
        "core": max(os.sched_getaffinity(0)),
        "stdout_fd": stdout_fd,
        "log_fd": log_fd,
        "caller_pid": os.getpid(),
    }


def _covered(paths: Sequence[Path]) -> list[Path]:
    """Those of ``paths`` that the guest's own directories would hide, outermost first. RackError: not a directory."""
    covered = []
    for path in sorted({path.absolute() for path in paths}):
        if not path.is_dir():
            raise RackError(f"{path} cannot be made visible in the guest: it is not a directory")
        if any(top in path.parents for top in GUEST_TMPFS):
            covered.append(path)
    return covered


def guest_memory_mb(least_mb: int, greatest_mb: int) -> int:
    """What a guest may have: half of what is free in /dev/shm, within these limits. It takes what it touches."""
    free_mb = _free_mb()
    return least_mb if free_mb is None else min(greatest_mb, max(least_mb, free_mb // 2))


def _free_mb() -> int | None:
    try:
        facts = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize >> 20


def _check_memory(memory_mb: int) -> None:
    # A guest's memory is a lazily filled file in /dev/shm; one that is too small kills the guest by SIGBUS, later.
    free_mb = _free_mb()
    if free_mb is not None and free_mb < memory_mb:
        raise RackError(
            f"/dev/shm has {free_mb} MB free, the guest wants {memory_mb} MB: "
            f"run `mount -o remount,size={memory_mb + 64}M /dev/shm` as root"
        )


def _follow(
    lines_read: int,
    supervisor: subprocess.Popen[bytes],
    on_line: Callable[[str], None],
    on_start: Callable[[int], None],
    stop: threading.Event | None,
) -> dict[str, Any] | None:
    """Hand over the guest's lines until it is gone; what the supervisor said of it, or None when ``stop`` was set.

    Should the supervisor itself be killed, what it would have done to the guest is done here.
    """
    assert supervisor.stdout is not None
    said_read = supervisor.stdout.fileno()
    buffers = {lines_read: b"", said_read: b""}
    facts: dict[str, Any] = {}
    while buffers:
        if stop is not None and stop.is_set():
            return None
        ready, _, _ = select.select(list(buffers), [], [], None if stop is None else STOP_POLL_S)
        for descriptor in ready:
            piece = os.read(descriptor, 1 << 16)
            *lines, rest = (buffers[descriptor] + piece).split(b"\n")
            buffers[descriptor] = rest
            if not piece:
                lines += [rest] if rest else []
                del buffers[descriptor]
            for line in lines:
                if descriptor == lines_read:
                    on_line(line.decode("utf-8", "replace"))
                else:
                    said = json.loads(line)
                    facts |= said
                    if "process_group" in said:
                        on_start(said["process_group"])
            if not piece and descriptor == said_read and "exit_code" not in facts and "process_group" in facts:
                facts["error"] = "its supervisor was killed"
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(facts["process_group"], signal.SIGKILL)
    return facts


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    """Order the teardown and wait until it is done."""
    assert supervisor.stdin is not None and supervisor.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        supervisor.stdin.close()
    try:
        supervisor.wait(TEARDOWN_LIMIT_S)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
        raise RackError(f"the guest could not be torn down within {TEARDOWN_LIMIT_S:g} s") from None
    finally:
        supervisor.stdout.close()


def _exit_code(facts: dict[str, Any], kernel: GuestKernel, log_path: Path, log_start: int) -> int:
    if facts.get("exit_code") is not None:
        return int(facts["exit_code"])
    with open(log_path, "rb") as stream:
        stream.seek(log_start)
        tail = stream.read().decode("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
    why = facts.get("error") or f"its kernel process ended with {facts.get('kernel_status')}"
    shown = "\n".join(f"  {line}" for line in tail) or "  (nothing was logged)"
    raise RackError(f"the guest ({kernel.path.name} {kernel.release}) died: {why}; the end of {log_path}:\n{shown}")
