"""Every error Skyrack raises on purpose, by who must act on it.

    SkyrackError                       exit  gRPC                 to blame
    ├── ScenarioError                  2     INVALID_ARGUMENT     the scenario file or the flags
    │   └── FlowError                  2     INVALID_ARGUMENT     too few or too short passes for the bytes
    ├── RackError                      3     FAILED_PRECONDITION  the rack (host, kernel, board) is not fit
    │   ├── KernelError                3     FAILED_PRECONDITION  the kernel lacks or refuses something
    │   └── LinkToleranceError         3     FAILED_PRECONDITION  a probed link is out of tolerance
    ├── RunError                       4     ABORTED              the run failed while under way
    │   ├── BoardError                 4     UNAVAILABLE          a node's process died or went silent
    │   │   └── NodeLost               4     UNAVAILABLE          the same, of a node that others can do without
    │   ├── LinkError                  4     UNAVAILABLE          a link did not carry what the plan says
    │   │   └── LinkClosed             4     UNAVAILABLE          the contact ended before the bytes did
    │   ├── IntegrityError             4     DATA_LOSS            bytes arrived that must not be accepted
    │   └── BugError                   4     INTERNAL             Skyrack broke one of its own promises
    └── Interrupted                    130   CANCELLED            the user stopped it

Anything else that escapes is a bug: the command line shows its traceback only with ``--debug`` and exits 4.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Process exit codes of the ``skyrack`` command."""

    DONE = 0
    """The command did what it was asked to do."""
    SCENARIO = 2
    """The scenario or the flags are wrong; nothing was started."""
    RACK = 3
    """The rack is not fit to measure; nothing was trained."""
    RUN = 4
    """The run started and failed."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C or SIGTERM."""


class SkyrackError(Exception):
    """Base of the tree. ``exit_code`` and ``grpc_status`` are per class."""

    exit_code: ClassVar[ExitCode] = ExitCode.RUN
    grpc_status: ClassVar[str] = "INTERNAL"


class ScenarioError(SkyrackError):
    """The scenario (or a flag) is wrong.

    ``where`` is the file (or flag), ``line`` counts from 1, ``field`` is a dotted path, ``found`` is what stands
    there and ``allowed`` what may stand there.
    """

    exit_code = ExitCode.SCENARIO
    grpc_status = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        line: int | None = None,
        field: str | None = None,
        found: object = None,
        allowed: str | None = None,
    ) -> None:
        self.message = message
        self.where = where
        self.line = line
        self.field = field
        self.found = found
        self.allowed = allowed
        super().__init__(self._text())

    def _text(self) -> str:
        place = ":".join(str(part) for part in (self.where, self.line) if part is not None)
        lines = [f"{place}: {self.message}" if place else self.message]
        if self.field is not None:
            lines.append(f"  field:   {self.field}")
        if self.found is not None:
            lines.append(f"  found:   {self.found}")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        return "\n".join(lines)

    def located(self, where: str, line: int | None = None) -> ScenarioError:
        """The same error with the place filled in where it was missing."""
        return ScenarioError(
            self.message,
            where=self.where or where,
            line=self.line if self.line is not None else line,
            field=self.field,
            found=self.found,
            allowed=self.allowed,
        )


class FlowError(ScenarioError):
    """The planned links cannot carry the bytes that must cross them. The message names what stands in the way."""


class RackError(SkyrackError):
    """The rack is not fit: say what is missing and the command that mends it."""

    exit_code = ExitCode.RACK
    grpc_status = "FAILED_PRECONDITION"


class KernelError(RackError):
    """The kernel lacks, or refused, something that shaping needs."""


class LinkToleranceError(RackError):
    """A link was probed before the run and is not what the plan says."""


class RunError(SkyrackError):
    """The run started and could not be finished."""

    exit_code = ExitCode.RUN
    grpc_status = "ABORTED"


class BoardError(RunError):
    """A node's process died or went silent."""

    grpc_status = "UNAVAILABLE"


class NodeLost(BoardError):
    """A node's process died that the others can do without: the round is begun again, and the run goes on."""

    def __init__(self, node: str, why: str) -> None:
        super().__init__(f"{node} is lost: {why}")
        self.node = node
        self.why = why


class LinkError(RunError):
    """A link that the plan calls open did not carry its bytes."""

    grpc_status = "UNAVAILABLE"


class LinkClosed(LinkError):
    """The contact ended while bytes were under way. Not a failure: the next contact resumes.

    ``durable_bytes`` is how much of the chunk the receiver is known to hold, ``resumed_from`` how much it held
    before this attempt.
    """

    def __init__(self, message: str, durable_bytes: int = 0, resumed_from: int = 0) -> None:
        super().__init__(message)
        self.durable_bytes = durable_bytes
        self.resumed_from = resumed_from


class IntegrityError(RunError):
    """Bytes arrived that must not be accepted (wrong digest, wrong run, wrong size)."""

    grpc_status = "DATA_LOSS"


class BugError(RunError):
    """Skyrack broke one of its own promises."""

    grpc_status = "INTERNAL"


class Interrupted(SkyrackError):
    """The user stopped the run; everything has been torn down."""

    exit_code = ExitCode.INTERRUPTED
    grpc_status = "CANCELLED"
