"""One command in one guest: what comes back, and that nothing stays, however it ends."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from testbed.errors import Interrupted, KernelError, RackError
from testbed.rack.kernel import GuestKernel, find_guest_kernel
from testbed.rack.uml import guest_memory_mb, run_in_guest

pytestmark = pytest.mark.guest
GONE_WITHIN_S = 30.0


@pytest.fixture(params=["auto", "real"])
def kernel(request: pytest.FixtureRequest) -> GuestKernel:
    found = find_guest_kernel(request.param)
    if request.param == "auto" and not found.time_travel:
        pytest.skip("no time-travel kernel: run `make kernel`")
    return found


class Guest:
    """Runs commands in guests whose control directories are in a folder of the test's own."""

    def __init__(self, kernel: GuestKernel, folder: Path) -> None:
        self.kernel = kernel
        self.control = folder / "control"
        self.control.mkdir()
        self.log = folder / "log"
        self.lines: list[str] = []

    def run(
        self,
        *argv: str,
        binds: Sequence[Path] = (),
        env: dict[str, str] | None = None,
        cwd: Path = Path("/"),
        memory_mb: int = 128,
        on_line: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> int:
        return run_in_guest(
            self.kernel,
            argv,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], **(env or {})},
            binds=binds,
            memory_mb=memory_mb,
            on_line=on_line or self.lines.append,
            log_path=self.log,
            stop=stop,
        )

    def left(self, files: bool = True) -> list[str]:
        """Host processes (and files) that a guest of this test has left: all name its control directory."""
        found = [str(path) for path in self.control.iterdir()] if files else []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.control).encode() in command:
                    found.append(f"{entry.name}: {command!r}")
        return found

    def left_after_a_while(self, files: bool) -> list[str]:
        deadline_s = time.monotonic() + GONE_WITHIN_S
        while (left := self.left(files)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return left


@pytest.fixture
def guest(kernel: GuestKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    made = Guest(kernel, tmp_path)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(made.control))  # where the supervisor makes its directory
    return made


def test_exit_code_output_environment_and_folder_pass_through(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("from the host")
    script = """
echo "$COLOUR $(pwd) $(cat seen) $SKYRACK_GUEST $OMP_NUM_THREADS $(id -u)"
echo written > made
echo to the log >&2
exit 7
"""
    assert guest.run("/bin/sh", "-c", script, binds=[tmp_path], cwd=tmp_path, env={"COLOUR": "blue"}) == 7
    time_kind = "virtual" if guest.kernel.time_travel else "real"
    assert guest.lines == [f"blue {tmp_path} from the host {time_kind} 1 0"]
    assert (tmp_path / "made").read_text() == "written\n"
    assert "to the log\n" in guest.log.read_text()
    assert guest.left() == []


def test_temporary_folders_are_the_guests_own(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "hidden").write_text("")
    script = f"ls {tmp_path} /run/lock 2>/dev/null; touch /tmp/{tmp_path.name} && ls /tmp"
    assert guest.run("/bin/sh", "-c", script) == 0
    assert tmp_path.name in guest.lines
    assert "hidden" not in guest.lines
    assert not Path("/tmp", tmp_path.name).exists()  # noqa: S108


def test_lines_are_whole_and_appear_at_once(guest: Guest, tmp_path: Path) -> None:
    # The command waits for a file that the host makes only when it has seen the first line.
    script = f"""
import hashlib, os, time
print("first", flush=True)
while not os.path.exists({str(tmp_path / "seen")!r}):
    time.sleep(0.01)
for number in range(5_000):
    print(number, "æ" * (number % 60))
"""

    def see(line: str) -> None:
        guest.lines.append(line)
        if line == "first":
            (tmp_path / "seen").touch()

    assert guest.run(sys.executable, "-c", script, binds=[tmp_path], env={"PYTHONUTF8": "1"}, on_line=see) == 0
    wanted = "\n".join(["first", *(f"{number} {'æ' * (number % 60)}" for number in range(5_000))])
    assert hashlib.sha256("\n".join(guest.lines).encode()).digest() == hashlib.sha256(wanted.encode()).digest()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["/bin/sh", "-c", "kill -9 $$"], 137),
        (["/no/such/command"], 127),
        (["/bin/sh", "-c", "sleep 1000 & sleep 1000 & exit 3"], 3),  # what it leaves behind does not keep the guest
        (["/bin/sh", "-c", "[ -t 1 ] || exit 4"], 4),  # not a terminal
    ],
)
def test_exit_codes(guest: Guest, argv: list[str], code: int) -> None:
    assert guest.run(*argv) == code
    assert guest.left() == []


def test_stop_tears_everything_down(guest: Guest) -> None:
    stop = threading.Event()

    def see(line: str) -> None:
        stop.set()

    with pytest.raises(Interrupted):
        guest.run("/bin/sh", "-c", "echo up; read forever < /dev/tty0", on_line=see, stop=stop)
    assert guest.left() == []


def test_a_callers_error_tears_everything_down(guest: Guest) -> None:
    def see(line: str) -> None:
        raise ZeroDivisionError(line)

    with pytest.raises(ZeroDivisionError):
        guest.run("/bin/sh", "-c", "echo up; read forever < /dev/tty0", on_line=see)
    assert guest.left() == []


@pytest.mark.parametrize("victim", ["caller", "supervisor"])
def test_the_guest_dies_with_its_caller(guest: Guest, root: Path, victim: str) -> None:
    caller = f"""
import os, sys, threading, time
from pathlib import Path
from testbed.rack.kernel import GuestKernel
from testbed.rack.uml import guest_memory_mb, run_in_guest
if os.fork() == 0:
    time.sleep({GONE_WITHIN_S + 30})  # a child that inherits whatever pipes are open
    os._exit(0)
try:
    run_in_guest(
        GuestKernel(Path({str(guest.kernel.path)!r}), {guest.kernel.time_travel}, {guest.kernel.release!r},
                    {guest.kernel.modules_folder and str(guest.kernel.modules_folder)!r}),
        ["/bin/sh", "-c", "echo up; read forever < /dev/tty0"], cwd=Path("/"), env=dict(os.environ), binds=[],
        memory_mb=128, on_line=lambda line: print(line, flush=True), log_path=Path({str(guest.log)!r}),
    )
except Exception as error:
    print(type(error).__name__, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", caller],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        assert len(guest.left()) >= 2
        if victim == "caller":
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.kill(_supervisor_of(process.pid), signal.SIGKILL)
            assert process.stdout.readline() == b"RackError\n"
        # Without its supervisor nobody removes the directory; no process may stay.
        left = guest.left_after_a_while(files=victim == "caller")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert left == []


def _supervisor_of(pid: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(status[1]) == pid and b"supervisor.py" in command:
                return int(entry.name)
    raise AssertionError(f"process {pid} has no supervisor")


def test_a_guest_that_panics_is_an_error_with_its_log(guest: Guest) -> None:
    if guest.kernel.modules_folder is None:
        pytest.skip("this kernel has no sysrq to panic by")
    script = "open('/proc/sysrq-trigger', 'w').write('c')"
    with pytest.raises(RackError, match="(?s)died.*sysrq"):
        guest.run(sys.executable, "-c", script)
    assert guest.left() == []


def test_a_guest_without_memory_is_an_error(guest: Guest) -> None:
    with pytest.raises(RackError, match=r"died|/dev/shm"):
        guest.run("/bin/true", memory_mb=8)
    assert guest.left() == []


def test_a_host_that_is_slow_to_read_takes_no_time_of_a_guest_whose_clock_stands_still(guest: Guest) -> None:
    """While it waited for the host the guest slept, and its clock jumped to the next timer, again and again: 23,000 s
    of its time in 7 s of the host's."""
    if not guest.kernel.time_travel:
        pytest.skip("this kernel's time is the host's")
    script = """
        import sys, threading, time
        def tick():
            while True:
                time.sleep(0.5)
        threading.Thread(target=tick, daemon=True).start()
        begun_s = time.monotonic()
        for _ in range(1000):
            print("x" * 1000)
        sys.stdout.flush()
        print(time.monotonic() - begun_s)
    """
    slow = iter([0.3] * 5)

    def read(line: str) -> None:
        guest.lines.append(line)
        if len(guest.lines) % 200 == 0:
            time.sleep(next(slow, 0.0))

    assert guest.run(sys.executable, "-c", textwrap.dedent(script), on_line=read) == 0
    assert len(guest.lines) == 1001
    assert float(guest.lines[-1]) < 0.5  # no timer was waited for


def test_no_call_waits_for_a_measurement_of_the_processor(guest: Guest) -> None:
    """What the first call takes of a clock that stands still while anything computes is what something slept: 255 ms
    when Abseil took its measurements, 0.1 ms otherwise."""
    if not guest.kernel.time_travel:
        pytest.skip("this kernel's time is the host's")
    script = """
        import asyncio, time
        import grpc

        async def echo(request, context):
            return request

        async def main():
            server = grpc.aio.server()
            method = grpc.unary_unary_rpc_method_handler(echo)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", {"b": method}),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary("/a/b")
                for _ in range(50):
                    begun_s = time.monotonic()
                    await asyncio.gather(*(call(b"x" * 5000) for _ in range(4)))
                    print(time.monotonic() - begun_s)
            await server.stop(None)

        asyncio.run(main())
    """
    assert guest.run(sys.executable, "-c", textwrap.dedent(script), memory_mb=256) == 0
    assert len(guest.lines) == 50
    assert max(map(float, guest.lines)) < 0.005


def test_a_guest_that_runs_out_of_memory_says_so(guest: Guest) -> None:
    script = "held = [bytearray(b'1' * (8 << 20)) for _ in range(64)]"  # little by little: none is refused
    assert guest.run(sys.executable, "-c", script, memory_mb=256) == 128 + signal.SIGKILL
    said = re.search(r"out of memory: 1 of its processes .* has (\d+) MB", guest.log.read_text())
    assert said is not None and 128 < int(said[1]) <= 256, guest.log.read_text()


def test_a_guest_gets_half_of_what_is_free_within_limits() -> None:
    facts = os.statvfs("/dev/shm")
    free_mb = facts.f_bavail * facts.f_frsize >> 20
    assert guest_memory_mb(1, 1 << 30) == pytest.approx(free_mb / 2, rel=0.2)  # others use it, too
    assert guest_memory_mb(free_mb, 1 << 30) == free_mb
    assert guest_memory_mb(1, 64) == 64


@pytest.mark.parametrize("path", ["/bin/false", "/no/such/kernel", "/etc/passwd"])
def test_what_is_no_kernel_is_an_error(guest: Guest, path: str) -> None:
    guest.kernel = GuestKernel(Path(path), guest.kernel.time_travel, "0")
    with pytest.raises((RackError, KernelError), match=path.rsplit("/", 1)[1]):
        guest.run("/bin/true")
    assert guest.left() == []


def test_a_bind_that_is_no_folder_is_an_error(guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(RackError, match="absent"):
        guest.run("/bin/true", binds=[tmp_path / "absent"])


def test_more_memory_than_the_host_gives_is_an_error_beforehand(guest: Guest) -> None:
    with pytest.raises(RackError, match="/dev/shm"):
        guest.run("/bin/true", memory_mb=1 << 30)
