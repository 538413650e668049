"""``python -m testbed.rack.leash COMMAND...``: run a command that ends when whoever started this ends, however.

Standard input is the leash: a pipe that nobody writes to and that breaks with its other end, also after kill -9. Then
the whole process group is killed; on a native kernel namespaces and their shaping go with the processes in them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _hold() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(command: list[str]) -> int:
    """The command's exit code; 128 + n where a signal ended it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_hold, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
