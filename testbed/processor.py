"""What the processor of this host is called, which power mode it is in, and whether it multiplies in bfloat16."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

UNKNOWN = "unknown"
_CPUINFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""As /proc/cpuinfo has them: the first two on x86, the last on Arm. Without one bfloat16 is emulated, and slower."""


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's own name, such as ``AMD EPYC``; what kind it is where it has none."""
    return _field(cpuinfo, "model name") or platform.processor() or platform.machine()


def multiplies_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor has instructions for bfloat16 products."""
    flags = _field(cpuinfo, "flags") or _field(cpuinfo, "Features") or ""
    return not _BF16_FLAGS.isdisjoint(flags.split())


def power_mode(governor: Path = _GOVERNOR) -> str:
    """A Jetson's power mode (``15W``, ``MAXN``); elsewhere the frequency governor; ``unknown`` in most guests."""
    program = shutil.which("nvpmodel")
    if program is not None:
        try:
            done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            return UNKNOWN
        return read_nvpmodel(done.stdout)
    try:
        return governor.read_text(encoding="ascii").strip() or UNKNOWN
    except (OSError, UnicodeDecodeError):
        return UNKNOWN


def read_nvpmodel(answer: str) -> str:
    """The mode's name in what ``nvpmodel -q`` prints."""
    found = re.search(r"NV Power Mode:\s*(\S+)", answer)
    return found[1] if found else UNKNOWN


def _field(cpuinfo: Path, key: str) -> str | None:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{re.escape(key)}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None
