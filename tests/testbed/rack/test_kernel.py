"""Finding and probing kernels; the build itself takes minutes and is `make kernel`."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.errors import KernelError
from testbed.rack.kernel import FRAGMENT, build, cached_kernel, describe, find_guest_kernel, probe_native


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


def test_the_cache_follows_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = cached_kernel()
    assert here.parent == tmp_path / "cache" / "skyrack" / "kernel"
    other = tmp_path / "config.fragment"
    other.write_bytes(FRAGMENT.read_bytes() + b"# changed\n")
    monkeypatch.setattr("testbed.rack.kernel.FRAGMENT", other)
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
