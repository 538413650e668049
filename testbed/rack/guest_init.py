"""Process 1 of a guest kernel: mounts, modules, loopback, one command, its exit code, power off.

Run by the guest's kernel as ``python -I -S -B guest_init.py`` with ``SKYRACK_CONTROL`` naming the control directory
on the host's file system. It works by system calls alone: a fork and exec costs 10-30 ms in a guest, and neither
``mount`` nor ``modprobe`` need be installed. Everything it needs is imported before /tmp and /run are covered.

The command's standard output goes to console ``/dev/tty0`` and its standard error to ``/dev/ttyS0``, both raw and
both files of the host, through pipes (so that ``isatty`` is false and nothing is buffered differently than in CI).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import traceback
import tty

SYS_FINIT_MODULE = 313  # x86-64; UML is x86-64 only
RB_POWER_OFF = 0x4321FEDC  # linux/reboot.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
CONTROL = "/run/skyrack-control"
CPU = "/sys/devices/system/cpu/cpu0"
TMPFS = {"/run": "mode=755", "/tmp": "mode=1777", "/dev/shm": "mode=1777"}  # noqa: S108

LIBC = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: str, options: str = "", source: str | None = None) -> None:
    """mount(2). OSError names the target."""
    os.makedirs(target, exist_ok=True)
    if LIBC.mount((source or kind).encode(), target.encode(), kind.encode(), 0, options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {kind} on {target}: {os.strerror(code)}")


def mount_all(control: str, binds: list[str]) -> None:
    """Private volatile directories over the host's root, then the control directory and ``binds`` on top of them."""
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    with open("/proc/self/mounts", encoding="utf-8") as stream:
        mounted = {line.split()[1] for line in stream}
    if "/dev" not in mounted:  # a kernel with CONFIG_DEVTMPFS_MOUNT has done it
        mount("devtmpfs", "/dev")
    mount("devpts", "/dev/pts", "ptmxmode=666")
    for path, options in TMPFS.items():
        mount("tmpfs", path, options)
    mount("hostfs", CONTROL, control)
    for path in binds:
        mount("hostfs", path, path)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        with contextlib.suppress(FileExistsError):
            os.symlink("/proc/self/fd" + target, "/dev/" + name)


def state_cycles() -> None:
    """Say how many cycles of its processor a second of a guest has whose clock stands still while anything computes.

    The Abseil within gRPC asks once in each process, at the first lock that two threads want: in the middle of some
    transfer. It reads this file, which ordinary kernels do not have, or else sleeps for 1, 2, 4, ... 128 ms until two
    measurements agree within 1 % (absl/base/internal/sysinfo.cc, MeasureTscFrequency). Here they never do: cycles
    are the host's and milliseconds the guest's, and each node once stood still for 255 ms of mission time. Any
    figure will do; it serves the statistics of lock waits.
    """
    mount("tmpfs", CPU)
    with open(os.path.join(CPU, "tsc_freq_khz"), "w", encoding="ascii") as stream:
        stream.write("1000000")


def load_modules(folder: str, names: list[str]) -> None:
    """Load ``names`` and what they need from ``folder``/modules.dep; what the kernel has built in is left out."""
    needs: dict[str, tuple[str, list[str]]] = {}
    with open(os.path.join(folder, "modules.dep"), encoding="utf-8") as stream:
        for line in stream:
            path, _, rest = line.partition(":")
            needs[_module_name(path)] = (path, [_module_name(each) for each in rest.split()])
    loaded: set[str] = set()

    def load(name: str) -> None:
        if name in loaded or name not in needs:
            return
        loaded.add(name)
        path, dependencies = needs[name]
        for each in dependencies:
            load(each)
        descriptor = os.open(os.path.join(folder, path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if LIBC.syscall(SYS_FINIT_MODULE, descriptor, b"", 0) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"module {name}: {os.strerror(code)}")
        finally:
            os.close(descriptor)

    for name in names:
        load(name)


def _module_name(path: str) -> str:
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


def raise_loopback() -> None:
    """``ip link set lo up``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def open_console(path: str, target: int) -> None:
    """Put the raw terminal ``path`` at descriptor ``target``."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor)
    if descriptor != target:
        os.dup2(descriptor, target)
        os.close(descriptor)


def run(argv: list[str], env: dict[str, str], cwd: str) -> int:
    """Run the command, pump its output to descriptors 1 and 2, reap orphans; its exit code (128 + n for signal n)."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.dup2(out_write, 1)
            os.dup2(err_write, 2)
            os.closerange(3, 64)
            # Background jobs inherit ignored signals; the command starts from the defaults.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(cwd)
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(2, f"guest: cannot run {argv[0]} in {cwd}: {error}\n".encode())
        os._exit(127)
    os.close(out_write)
    os.close(err_write)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    sinks = {out_read: 1, err_read: 2}
    for target in sinks.values():
        os.set_blocking(target, False)
    status: int | None = None
    while sinks or status is None:
        ready, _, _ = select.select([*sinks, wake], [], [])
        for descriptor in ready:
            if descriptor == wake:
                continue
            piece = os.read(descriptor, 65536)
            if not piece:
                del sinks[descriptor]
            while piece:
                try:
                    piece = piece[os.write(sinks[descriptor], piece) :]
                except BlockingIOError:
                    # The host is slow to read. Nobody may sleep meanwhile: a clock that stands still while anything
                    # computes would jump to the next timer, by hours in the end.
                    os.sched_yield()
        if wake in ready:
            os.read(wake, 64)
            ended = dict(_reap())
            if child in ended:
                status = ended[child]
                # What the command left behind holds the pipes open and has no kernel to live in any more.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
    for target in (1, 2):
        os.set_blocking(target, True)
    return os.waitstatus_to_exitcode(status) if not os.WIFSIGNALED(status) else 128 + os.WTERMSIG(status)


def _reap() -> list[tuple[int, int]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, status))
    return ended


def tell_of_memory() -> None:
    """Say in the log if the kernel killed processes to have their memory: they could not say so themselves."""
    with open("/proc/vmstat", encoding="ascii") as stream:
        killed = dict(line.split() for line in stream).get("oom_kill", "0")
    if killed == "0":
        return
    with open("/proc/meminfo", encoding="ascii") as stream:
        total_mb = int(stream.readline().split()[1]) >> 10
    words = f"guest: out of memory: {killed} of its processes were killed; all of it together has {total_mb} MB\n"
    os.write(2, words.encode())


def main() -> None:
    """Everything, in order; the exit code goes to ``exit`` in the control directory."""
    null = os.open("/dev/null", os.O_RDWR)  # the kernel's console is no device: 0, 1 and 2 are closed
    for target in (0, 1, 2):
        if target != null:
            os.dup2(null, target)
    if null > 2:
        os.close(null)
    control = os.environ["SKYRACK_CONTROL"]
    with open(os.path.join(control, "guest.json"), encoding="utf-8") as stream:
        guest = json.load(stream)
    mount_all(control, guest["binds"])
    if guest["virtual"]:
        state_cycles()
    open_console("/dev/tty0", 1)
    open_console("/dev/ttyS0", 2)
    if guest["modules"]:
        load_modules(guest["modules_folder"], guest["modules"])
    raise_loopback()
    code = run(guest["argv"], guest["env"], guest["cwd"])
    tell_of_memory()
    for descriptor in (1, 2):
        termios.tcdrain(descriptor)
    with open(os.path.join(CONTROL, "exit"), "w", encoding="ascii") as stream:
        stream.write(str(code))


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        # To the guest's log, then power off without an exit code: the caller sees a guest that died, and why.
        with contextlib.suppress(OSError, termios.error):
            os.write(2, traceback.format_exc().encode())
            termios.tcdrain(2)
    sys.stdout = sys.stderr = None
    os.sync()
    LIBC.reboot(RB_POWER_OFF)
