"""Finding and probing kernels; the build itself takes minutes and is `make kernel`."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.errors import KernelError
from testbed.rack.kernel import (
    FRAGMENT,
    PATCH,
    STOCK_XSTATE_BYTES,
    GuestKernel,
    build,
    cached_kernel,
    describe,
    find_guest_kernel,
    probe_native,
)
from testbed.rack.registers import xstate_bytes

AT_MINSIGSTKSZ = 51
SIGNAL_FRAME_BYTES = 1024
"""More than a signal's frame holds beside the processor's registers (952 bytes, Linux 6.18, x86-64)."""


def _kernel_file(path: Path, *options: str) -> Path:
    """What answers as a User-Mode Linux binary does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncase $1 in --version) echo 6.1.0 ;; *) echo umid= {' '.join(options)} ;; esac\n")
    path.chmod(0o755)
    return path


def _namespaces() -> set[int]:
    found = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # it ended meanwhile
            found.add(os.stat(f"/proc/self/task/{task}/ns/net").st_ino)
    return found


def test_the_probe_of_this_kernel_leaves_nothing() -> None:
    before = (_namespaces(), sorted(os.listdir("/sys/class/net")), threading.active_count())
    facts = probe_native()
    # A thread that was joined has left the interpreter, the kernel a moment later.
    deadline_s = time.monotonic() + 10.0
    while _namespaces() != before[0] and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert (_namespaces(), sorted(os.listdir("/sys/class/net")), threading.active_count()) == before
    assert facts.release == os.uname().release
    assert facts.netem == (not facts.why)
    assert facts.root or not facts.netem
    if os.geteuid() != 0:
        assert not facts.root


def test_a_kernel_named_in_the_environment_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKYRACK_KERNEL", str(tmp_path / "absent"))
    with pytest.raises(KernelError, match=r"SKYRACK_KERNEL=.*absent"):
        find_guest_kernel("auto")


def test_a_missing_guest_kernel_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SKYRACK_KERNEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelError, match="apt-get install -y --no-install-recommends user-mode-linux kmod iproute2"):
        find_guest_kernel("auto")


@pytest.mark.parametrize("path", ["/bin/true", "/etc/hostname"])
def test_what_is_no_user_mode_linux_is_refused(path: str) -> None:
    with pytest.raises(KernelError, match="no User-Mode Linux kernel"):
        describe(Path(path))


@pytest.mark.guest
def test_the_stock_kernel_is_real_time_and_the_cached_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("testbed.rack.kernel.xstate_bytes", lambda: STOCK_XSTATE_BYTES)
    cached = cached_kernel()
    monkeypatch.delenv("SKYRACK_KERNEL", raising=False)
    stock = find_guest_kernel("real")
    assert not stock.time_travel
    if cached.is_file():
        assert find_guest_kernel("auto").path == cached
        assert find_guest_kernel("auto").time_travel
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_guest_kernel("auto") == stock
    shutil.copy(stock.path, tmp_path / "named")
    monkeypatch.setenv("SKYRACK_KERNEL", str(tmp_path / "named"))
    assert find_guest_kernel("auto").path == tmp_path / "named"
    assert find_guest_kernel("real") == stock


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86-64 Linux alone has XSAVE")
def test_the_registers_are_what_a_signal_frame_must_hold() -> None:
    """Oracle: getauxval(AT_MINSIGSTKSZ), the kernel's own sum of XSAVE area and frame (Linux 5.14 and newer)."""
    frame_bytes = ctypes.CDLL(None).getauxval(AT_MINSIGSTKSZ)
    if not frame_bytes:
        pytest.skip("this kernel does not say how large a signal's frame is")
    found = xstate_bytes()
    assert found is not None
    assert frame_bytes - SIGNAL_FRAME_BYTES <= found <= frame_bytes


def test_where_debians_kernel_runs_nothing_the_built_one_does_so_in_real_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SKYRACK_KERNEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(_kernel_file(tmp_path / "bin" / "linux.uml").parent))
    monkeypatch.setattr("testbed.rack.kernel.xstate_bytes", lambda: 11_008)  # Sapphire Rapids
    for time_choice in ("auto", "real"):
        with pytest.raises(KernelError, match=r"11,008 bytes of registers .*2,696(?s:.*)make kernel"):
            find_guest_kernel(time_choice)
    built = _kernel_file(cached_kernel(), "time-travel=inf-cpu")
    assert find_guest_kernel("auto") == GuestKernel(built, time_travel=True, release="6.1.0")
    assert find_guest_kernel("real") == GuestKernel(built, time_travel=False, release="6.1.0")


@pytest.mark.parametrize("made_of", [FRAGMENT, PATCH], ids=lambda path: path.name)
def test_the_cache_follows_the_configuration(made_of: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = cached_kernel()
    assert here.parent == tmp_path / "cache" / "skyrack" / "kernel"
    other = tmp_path / made_of.name
    other.write_bytes(made_of.read_bytes() + b"# changed\n")
    monkeypatch.setattr("testbed.rack.kernel." + {FRAGMENT: "FRAGMENT", PATCH: "PATCH"}[made_of], other)
    assert cached_kernel() != here


def test_a_kernel_that_is_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # with which nothing could be built
    cached_kernel().parent.mkdir(parents=True)
    cached_kernel().write_bytes(b"built")
    assert build() == cached_kernel()


def test_a_build_without_its_tools_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(KernelError, match=r"apt-get install .* linux-source-6\.1"):
        build()
    assert list(tmp_path.iterdir()) == []
