"""Is this host fit to run Skyrack, and on which rack? Each check says what it found and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from testbed.errors import ExitCode, SkyrackError

State = Literal["ok", "warn", "fail"]

MEMORY_GB = 5.0
"""A run of the demo in one guest was given 4 GiB, and the host needs some."""
DISK_GB = 2.0
"""The guest's memory is a file that fills as it is used, 1.9 GB for the demo."""


_MAPPINGS = Path("/proc/sys/vm/max_map_count")
ENOUGH_MAPPINGS = 262_144
"""Nodes of the demo have some 50,000 each, those of a ViT-Ti with LoRA up to 70,000; Debian allows 65,530, other
distributions a million."""


@dataclass(frozen=True)
class Check:
    """One row. ``fail``: nothing runs before it is mended; ``warn``: something will be slower or missing."""

    name: str
    state: State
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def diagnose(runs_dir: Path) -> tuple[Check, ...]:
    """All checks, in the order in which one would mend things."""
    return tuple(check for examine in _EXAMINATIONS for check in examine(runs_dir))


def exit_code(checks: tuple[Check, ...]) -> ExitCode:
    """0 when everything needed is there, else the rack is not fit."""
    return ExitCode.RACK if any(check.state == "fail" for check in checks) else ExitCode.DONE


def _python(runs_dir: Path) -> Iterator[Check]:
    fit = sys.version_info >= (3, 10)
    yield Check("python", "ok" if fit else "fail", platform.python_version(), "" if fit else "use Python 3.10 or newer")


def _libraries(runs_dir: Path) -> Iterator[Check]:
    for name in ("torch", "transformers", "skyfield", "grpcio"):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "fail", "not installed", "make venv (or pip install skyrack[controller])")


def _torch(runs_dir: Path) -> Iterator[Check]:
    """Installed is one thing, loadable another (a wheel for another processor, a missing library)."""
    if find_spec("torch") is None:
        return
    from testbed.learning import codec

    yield Check("torch loads", "ok", f"{len(codec.CODECS)} codecs")


def _model(runs_dir: Path) -> Iterator[Check]:
    from testbed.learning.minilm import model_folder

    folder = model_folder()
    yield Check("MiniLM weights", "ok", str(folder))


def _dataset(runs_dir: Path) -> Iterator[Check]:
    from testbed.learning.landsat import LANDSAT_PATH

    if LANDSAT_PATH.is_file():
        yield Check("Landsat data", "ok", f"{LANDSAT_PATH.stat().st_size / 1000:.0f} kB")
    else:
        yield Check("Landsat data", "fail", "not there", "python -m testbed.learning.landsat rebuild")


def _strategies(runs_dir: Path) -> Iterator[Check]:
    from importlib.metadata import entry_points

    names = sorted(point.name for point in entry_points(group="skyrack.strategies"))
    fit = bool(names)
    yield Check(
        "strategies",
        "ok" if fit else "fail",
        ", ".join(names) or "none",
        "" if fit else "install Skyrack with pip, so that its entry points exist: make venv",
    )


def _kernels(runs_dir: Path) -> Iterator[Check]:
    """The native kernel, a guest's, and the one whose clock stands still while anything computes."""
    if sys.platform != "linux":
        yield Check(
            "local rack", "warn", sys.platform, "only the simulated rack runs here: skyrack run demo --rack simulated"
        )
        return
    from testbed.rack.kernel import find_guest_kernel, probe_native

    facts = probe_native()
    native = facts.netem and facts.root
    yield Check(
        "native kernel",
        "ok" if native else "warn",
        f"{facts.release}: {'netem and root' if native else facts.why}",
        "" if native else "nothing, if a guest kernel is there",
    )
    try:
        stock = find_guest_kernel("real")
        instead = "" if stock.modules_folder else "; Debian's cannot give back all registers of this processor"
        yield Check("guest kernel", "ok", f"{stock.path} ({stock.release}){instead}")
    except SkyrackError as error:
        yield Check(
            "guest kernel", "warn" if native else "fail", "none that runs here", str(error).splitlines()[-1].strip()
        )
    try:
        best = find_guest_kernel("auto")
        travel = best.time_travel
        found = f"{best.path} ({best.release})" if travel else "not built"
    except SkyrackError as error:
        travel, found = False, str(error).splitlines()[0]
    yield Check(
        "time-travel kernel",
        "ok" if travel else "warn",
        found,
        "" if travel else "make kernel (once, 5 to 10 minutes): orbits' waits then take no time",
    )


def _mappings(runs_dir: Path) -> Iterator[Check]:
    """In a guest every page of a process may be a mapping of its own on the host."""
    try:
        allowed = int(_MAPPINGS.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return  # another system's concern
    fit = allowed >= ENOUGH_MAPPINGS
    remedy = "" if fit else "as root, to train LoRA on image models in a guest: sysctl -w vm.max_map_count=1048576"
    yield Check("mappings", "ok" if fit else "warn", f"{allowed:,} a process", remedy)


def _memory(runs_dir: Path) -> Iterator[Check]:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return
    fields = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines())
    free_gb = int(fields["MemAvailable"].split()[0]) * 1024 / 1e9
    fit = free_gb >= MEMORY_GB
    yield Check(
        "memory",
        "ok" if fit else "warn",
        f"{free_gb:.1f} GB free",
        "" if fit else f"free some: a local rack of the demo takes up to {MEMORY_GB:g} GB",
    )


def _disk(runs_dir: Path) -> Iterator[Check]:
    folder = next(path for path in (runs_dir.absolute(), *runs_dir.absolute().parents) if path.is_dir())
    free_gb = shutil.disk_usage(folder).free / 1e9
    writable = os.access(folder, os.W_OK)
    if not writable:
        yield Check("disk", "fail", f"{folder} cannot be written to", "name another folder with --runs-dir")
    elif free_gb < DISK_GB:
        yield Check("disk", "warn", f"{free_gb:.1f} GB free in {folder}", f"free some: {DISK_GB:g} GB are comfortable")
    else:
        yield Check("disk", "ok", f"{free_gb:.1f} GB free in {folder}")


def _guarded(name: str, examine: Callable[[Path], Iterator[Check]]) -> Callable[[Path], Iterator[Check]]:
    """A check that cannot be made is a row like any other: doctor is for hosts where things are broken."""

    def checks(runs_dir: Path) -> Iterator[Check]:
        try:
            yield from examine(runs_dir)
        except (SkyrackError, ImportError, OSError) as error:
            text = str(error).splitlines() or [type(error).__name__]
            yield Check(name, "fail", text[0], text[-1].strip() if len(text) > 1 else "make venv")

    return checks


_EXAMINATIONS = tuple(
    _guarded(name, examine)
    for name, examine in (
        ("python", _python),
        ("libraries", _libraries),
        ("torch loads", _torch),
        ("MiniLM weights", _model),
        ("Landsat data", _dataset),
        ("strategies", _strategies),
        ("kernels", _kernels),
        ("memory", _memory),
        ("mappings", _mappings),
        ("disk", _disk),
    )
)
