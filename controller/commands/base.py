"""What every command shares: the application, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from testbed.errors import ExitCode, SkyrackError

Command = TypeVar("Command", bound=Callable[..., Any])

app = typer.Typer(
    name="skyrack",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A hardware-in-the-loop rack that trains like a constellation.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """A hardware-in-the-loop rack that trains like a constellation."""
    global _debug
    _debug = debug
    if version:
        from importlib.metadata import version as installed

        sys.stdout.write(f"skyrack {installed('skyrack')}\n")
        raise typer.Exit


def command(function: Command) -> Command:
    """Register a command; its errors become a message on standard error and an exit code here and nowhere else."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except typer.Exit:
            raise
        except SkyrackError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("stopped", ExitCode.INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has seen enough (skyrack plan demo | head). Not ours to complain about, and the
            # interpreter must not try to flush again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            # Anything else is a bug: say so, whatever it is.
            hint = "" if _debug else " (skyrack --debug ... shows where)"
            _fail(f"this is a bug in Skyrack: {type(error).__name__}: {error}{hint}", ExitCode.RUN)

    app.command()(guarded)
    return function


def _fail(message: str, code: ExitCode) -> None:
    if _debug:
        traceback.print_exc()
    sys.stderr.write(f"skyrack: {message}\n")
    raise typer.Exit(int(code))
