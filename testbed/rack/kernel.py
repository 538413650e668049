"""Kernels that can shape links: this one, Debian's User-Mode Linux, or a time-travel build of it.

``python -m testbed.rack.kernel build`` (``make kernel``) builds the last: Debian's Linux source with
``kernel/registers.patch`` and ``kernel/config.fragment``, into the user's cache, once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from testbed.errors import ExitCode, KernelError, SkyrackError
from testbed.rack.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Rtnetlink,
    attribute,
    message,
    nested,
    parse_attributes,
    text,
    unshare_network,
)
from testbed.rack.registers import xstate_bytes

FRAGMENT = Path(__file__).resolve().parent / "kernel" / "config.fragment"
PATCH = FRAGMENT.with_name("registers.patch")
SOURCE_PACKAGE = "linux-source-6.1"
SOURCE_ARCHIVE = Path("/usr/src") / f"{SOURCE_PACKAGE}.tar.xz"
BUILD_PACKAGES = ("gcc", "make", "flex", "bison", "bc", "libelf-dev", "patch", "xz-utils", SOURCE_PACKAGE)
BUILD_TOOLS = ("gcc", "make", "flex", "bison", "bc", "patch", "xz")
BUILD_DISK_BYTES = 2_500_000_000
"""The unpacked source is 1.3 GB, its objects 0.2 GB."""
GUEST_PACKAGES = ("user-mode-linux", "kmod", "iproute2")
GUEST_MODULES_FOLDER = Path("/usr/lib/uml/modules")
STOCK_NAME = "linux.uml"
STOCK_XSTATE_BYTES = 2696
"""Of a processor's registers Debian's guest kernel gives back so much and no more (arch/x86/um/user-offsets.c in Linux
4.10 to 6.12). A host with more of them, as AMX has, ends the guest's first program."""
TimeChoice = Literal["auto", "real"]

RTM_NEWLINK, RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 16, 36, 37, 38
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 18, 1
TCA_KIND, TCA_OPTIONS = 1, 2
TC_H_ROOT = 0xFFFFFFFF
PROBE_LIMIT_PACKETS = 4321


@dataclass(frozen=True)
class KernelFacts:
    """What the running kernel can do for us. ``why`` says what is missing, or is empty."""

    release: str
    root: bool
    netem: bool
    why: str


@dataclass(frozen=True)
class GuestKernel:
    """A User-Mode Linux binary. With ``time_travel`` its clock stands still while anything computes; what it has not
    built in is in ``modules_folder``."""

    path: Path
    time_travel: bool
    release: str
    modules_folder: Path | None = None


def probe_native() -> KernelFacts:
    """Really add, read and remove a netem qdisc, on a device in a namespace that vanishes with the probe."""
    facts: list[KernelFacts] = []
    # A namespace belongs to a thread: it and its device end with this one, and the caller never left its own.
    thread = threading.Thread(target=lambda: facts.append(_probe_here()), name="netem-probe")
    thread.start()
    thread.join()
    return facts[0]


def _probe_here() -> KernelFacts:
    release = platform.release()
    try:
        unshare_network()
    except KernelError as error:
        return KernelFacts(release, root=False, netem=False, why=str(error))
    try:
        with Rtnetlink() as netlink:
            index = _probe_device(netlink)
            address = struct.pack("=BxxxiIII", 0, index, 0x10000, TC_H_ROOT, 0)  # struct tcmsg
            # struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter
            options = struct.pack("=6I", 0, PROBE_LIMIT_PACKETS, 0, 0, 0, 0)
            body = address + text(TCA_KIND, "netem") + attribute(TCA_OPTIONS, options)
            netlink.request("netem qdisc", [message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)])
            read = [parse_attributes(answer[20:]) for _, answer in netlink.dump(RTM_GETQDISC, address)]
            limits = [
                struct.unpack_from("=I", each[TCA_OPTIONS], 4)[0] for each in read if each[TCA_KIND] == b"netem\0"
            ]
            if limits != [PROBE_LIMIT_PACKETS]:
                return KernelFacts(release, root=True, netem=False, why=f"netem was added but reads back as {limits}")
            netlink.request("remove netem qdisc", [message(RTM_DELQDISC, 0, address)])
    except KernelError as error:
        return KernelFacts(release, root=True, netem=False, why=str(error))
    return KernelFacts(release, root=True, netem=True, why="")


def _probe_device(netlink: Rtnetlink) -> int:
    """A dummy device, or one end of a veth pair where the kernel has no dummy. Its index in the fresh namespace."""
    refusals = []
    for kind in ("dummy", "veth"):
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + text(IFLA_IFNAME, "probe")
        body += nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind))
        refused = netlink.send(message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body), 1)
        if not refused:
            for _, link in netlink.dump(18, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
                if parse_attributes(link[16:])[IFLA_IFNAME] == b"probe\0":
                    return int(struct.unpack_from("=i", link, 4)[0])
        refusals.append(f"{kind}: {refused[0] if refused else 'not there after it was made'}")
    raise KernelError(f"no device to probe netem on ({'; '.join(refusals)})")


def find_guest_kernel(time: TimeChoice = "auto") -> GuestKernel:
    """The guest kernel to use: a time-travel build where there is one (unless ``time`` is "real"), else Debian's.

    ``$SKYRACK_KERNEL`` names one outright, and is then the only candidate for "auto". Where Debian's cannot run
    programs, for this host's registers, the time-travel build takes its place and lets its clock go on. KernelError
    says which command an administrator must run, or which variable is wrong.
    """
    named = os.environ.get("SKYRACK_KERNEL")
    if time == "auto":
        if named:
            path = Path(named)
            if not (path.is_file() and os.access(path, os.X_OK)):
                raise KernelError(f"SKYRACK_KERNEL={named} is not an executable file: correct or unset it")
            return describe(path)
        if cached_kernel().is_file():
            return describe(cached_kernel())
    stock = shutil.which(STOCK_NAME)
    if stock is None:
        raise KernelError(
            f"this machine has no guest kernel: {STOCK_NAME} is not on PATH. As an administrator run\n"
            f"  apt-get install -y --no-install-recommends {' '.join(GUEST_PACKAGES)}"
        )
    if (have := xstate_bytes() or 0) > STOCK_XSTATE_BYTES:
        if cached_kernel().is_file():
            return replace(describe(cached_kernel()), time_travel=False)
        raise KernelError(
            f"{stock} runs no programs on this host, whose processor has {have:,} bytes of registers (AMX) where it "
            f"knows {STOCK_XSTATE_BYTES:,}. Build a kernel that does, once, in 5 to 10 minutes:\n"
            "  make kernel"
        )
    kernel = describe(Path(stock))
    if kernel.modules_folder and not (kernel.modules_folder / "modules.dep").is_file():
        raise KernelError(
            f"{stock} is release {kernel.release} but {kernel.modules_folder} has no modules. Run\n"
            f"  apt-get install -y --no-install-recommends --reinstall {' '.join(GUEST_PACKAGES)}"
        )
    return kernel


def describe(path: Path) -> GuestKernel:
    """Ask a User-Mode Linux binary for its release and its options. KernelError when it is none."""
    answers = []
    for option in ("--version", "--help"):
        try:
            done = subprocess.run([str(path), option], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KernelError(f"{path} is no User-Mode Linux kernel: {error}") from None
        answers.append(done.stdout + done.stderr)
    release = answers[0].strip()
    if not release[:1].isdigit() or "umid=" not in answers[1]:
        raise KernelError(f"{path} is no User-Mode Linux kernel: `{path} --version` says {release[:80]!r}")
    time_travel = "time-travel=inf-cpu" in answers[1]
    return GuestKernel(path, time_travel, release, None if time_travel else GUEST_MODULES_FOLDER / release)


def cached_kernel() -> Path:
    """Where ``build`` puts the kernel of this configuration: ``~/.cache/skyrack/kernel/linux-tt-<hash>``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made_of = FRAGMENT.read_bytes() + PATCH.read_bytes() + SOURCE_PACKAGE.encode()
    configuration = hashlib.sha256(made_of).hexdigest()[:12]
    return cache / "skyrack" / "kernel" / f"linux-tt-{configuration}"


def build() -> Path:
    """Build the time-travel kernel into the cache (4-9 minutes on two cores); at once when it is there already.

    As root it installs the packages that are missing; otherwise KernelError names the command. Nothing but the
    finished kernel is left behind.
    """
    target = cached_kernel()
    if target.is_file():
        return target
    _require_tools()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.gettempdir()
    if shutil.disk_usage(scratch).free < BUILD_DISK_BYTES:
        raise KernelError(f"{scratch} has not {BUILD_DISK_BYTES / 1e9:.1f} GB free: set TMPDIR to a folder that has")
    with tempfile.TemporaryDirectory(prefix="skyrack-kernel-") as name:
        folder = Path(name)
        _run(["tar", "--extract", "--xz", "--file", str(SOURCE_ARCHIVE), "--strip-components=1"], folder)
        _run(["patch", "-p1", "--input", str(PATCH)], folder)
        make = ["make", "ARCH=um"]
        _run([*make, "allnoconfig"], folder)
        # The fragment on top of allnoconfig; olddefconfig settles what follows from it.
        with open(folder / ".config", "ab") as stream:
            stream.write(FRAGMENT.read_bytes())
        _run([*make, "olddefconfig"], folder)
        _check_configuration(folder / ".config")
        _run([*make, f"-j{len(os.sched_getaffinity(0))}", "linux"], folder)
        _run(["strip", "linux"], folder)
        describe(folder / "linux")
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copy2(folder / "linux", fresh)
        os.replace(fresh, target)
    return target


def _check_configuration(path: Path) -> None:
    """Every ``=y`` of the fragment must have survived: a dependency that is missing drops an option silently."""
    have = set(path.read_text(encoding="utf-8").splitlines())
    wanted = [line for line in FRAGMENT.read_text(encoding="utf-8").splitlines() if line.endswith("=y")]
    lost = [line for line in wanted if line not in have]
    if lost:
        raise KernelError(f"{SOURCE_PACKAGE} does not take these options of {FRAGMENT.name}: {', '.join(lost)}")


def _require_tools() -> None:
    missing = [tool for tool in BUILD_TOOLS if shutil.which(tool) is None]
    missing += [str(path) for path in (SOURCE_ARCHIVE, Path("/usr/include/libelf.h")) if not path.exists()]
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *BUILD_PACKAGES]
    if os.geteuid() != 0:
        raise KernelError(f"the build needs {', '.join(missing)}. As an administrator run\n  {' '.join(install)}")
    _run(["apt-get", "update"], Path("/"))
    _run(install, Path("/"))


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode != 0:
        tail = done.stdout.decode("utf-8", "replace").splitlines()[-20:]
        raise KernelError(f"`{' '.join(command)}` ended with {done.returncode}:\n" + "\n".join(f"  {x}" for x in tail))


def main(arguments: Sequence[str]) -> int:
    """``python -m testbed.rack.kernel build | check``.

    ``build`` prints the path of the kernel it built, or found built; ``check`` says in one line of JSON whether the
    local rack has a kernel to run on and ends with 0 if so, else with the exit code of an unfit rack.
    """
    commands = {"build": _build, "check": _check}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write("usage: python -m testbed.rack.kernel build | check\n")
        return int(ExitCode.SCENARIO)
    try:
        return commands[arguments[0]]()
    except SkyrackError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)


def _build() -> int:
    sys.stdout.write(f"{build()}\n")
    return 0


def _check() -> int:
    facts = probe_native()
    native, guest, why = facts.netem and facts.root, True, ""
    try:
        find_guest_kernel("real")  # the stock one: a time-travel kernel is an addition, not a replacement
    except KernelError as error:
        guest, why = False, str(error)
    sys.stdout.write(json.dumps({"native": native, "guest": guest, "why": why}) + "\n")
    return 0 if native or guest else int(ExitCode.RACK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
