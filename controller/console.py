"""Standard output: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 120
"""Columns of a table that goes into a file or a pipe."""
_MARKS = {"ok": "green", "warn": "yellow", "fail": "red", "valid": "green", "degraded": "yellow", "invalid": "red"}


def emit_json(value: object) -> None:
    """A value as indented JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def emit(*parts: Any) -> None:
    """Tables and texts on standard output."""
    console = console_on(sys.stdout)
    for part in parts:
        console.print(part)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles the BrokenPipeError, and would exit with 1


def console_on(file: IO[str]) -> Console:
    """A console on a stream: as wide as its terminal, or as a page where there is none."""
    return _Console(file=file, highlight=False, width=None if file.isatty() else PLAIN_WIDTH)


def make_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Sequence[str] = ()
) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def marked(word: str) -> Text:
    return Text(word, style=_MARKS.get(word, ""))
