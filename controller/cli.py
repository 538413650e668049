"""The command line, ``skyrack``. Commands are in ``controller.commands``.

Standard output carries the answer (a table, or one JSON document with ``--format json``), standard error everything
else. Nothing heavy is imported before a command needs it: ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys

from controller import commands as commands
from controller.commands.base import app
from testbed.errors import ExitCode


def main() -> int:
    """The entry point of ``skyrack``."""
    # What ends a command, ends it as Ctrl-C does: temporary folders go, guests are powered off. Under nohup SIGHUP is
    # ignored, and stays so.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    app()
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
