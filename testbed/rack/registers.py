"""How many registers this host's processor has, in bytes: guests must give all of them back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import lru_cache

PTRACE_ATTACH, PTRACE_GETREGSET = 16, 0x4204
NT_X86_XSTATE = 0x202
_ROOM_BYTES = 65_536


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@lru_cache(maxsize=1)
def xstate_bytes() -> int | None:
    """Length of the XSAVE area (Intel SDM, volume 1, chapter 13) that this host's kernel keeps of a process; None where
    no such thing is to be learned.

    It is asked of a process made for that, as User-Mode Linux does of its own: what the processor could have counts for
    nothing where the kernel does not use it.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    try:
        process = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)  # noqa: S607 - any program would do
    except OSError:
        return None
    try:
        if libc.ptrace(PTRACE_ATTACH, process.pid, None, None) != 0:
            return None
        os.waitpid(process.pid, os.WUNTRACED)
        room = ctypes.create_string_buffer(_ROOM_BYTES)
        area = _Iovec(ctypes.addressof(room), _ROOM_BYTES)
        if libc.ptrace(PTRACE_GETREGSET, process.pid, NT_X86_XSTATE, ctypes.addressof(area)) != 0:
            return None
        return int(area.length)
    finally:
        process.kill()
        process.wait()
