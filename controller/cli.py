"""The command line, ``skyrack``. Commands are in ``controller.commands``.

Standard output carries the answer (a table, or one JSON document with ``--format json``), standard error everything
else. Nothing heavy is imported before a command needs it: ``--help`` answers at once.
"""

from __future__ import annotations

import sys

from controller import commands as commands
from controller.commands.base import app
from testbed.errors import ExitCode


def main() -> int:
    """The entry point of ``skyrack``."""
    app()
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
