"""Trace-driven links: a recording of delay, rate and loss that stands in place of the model.

A trace is a CSV file with a header. Its columns, in any order:

    time_s      mission seconds, from 0 on            or  time       ISO 8601 with a zone
    delay_ms    one way
    rate_bps                                       or  rate_mbps
    loss_ratio  0 to 1

Each row is a state that holds until the next one. A rate of 0 (or a loss of 1) is a link that is down. The last row has
a time and nothing else: there the trace ends.

    time_s,delay_ms,rate_mbps,loss_ratio
    0,21.5,8,0
    15,24,5.5,0.001
    30,,,
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from testbed.errors import ScenarioError
from testbed.link.plan import LinkState, queue_limit_packets
from testbed.scenario_links import NETEM_MAX_DELAY_MS, NETEM_MAX_RATE_BPS
from testbed.text_file import TextKind, read_text

MAX_BYTES = 64 * 2**20
_TRACE = TextKind("a trace", "CSV in UTF-8", MAX_BYTES)
MAX_STATES = 1_000_000
"""A day of a state every 0.1 s. Each takes some 200 bytes of memory, in the controller and in the node."""
MIN_RATE_BPS = 8.0
"""netem's rate is whole bytes a second, and to it 0 is no limit at all."""

END_ROW = "a last row with a time and nothing else, where the trace ends"

Value = TypeVar("Value")


class Row(NamedTuple):
    """From ``start_s`` on the link is this; rate 0 is down."""

    start_s: float
    delay_ms: float
    rate_bps: float
    loss_ratio: float


@dataclass(frozen=True)
class Trace:
    """A recording: ``rows`` in order of time, the last one until ``end_s``.

    Its seconds count from ``origin``, or are mission seconds where that is None. ``where`` is its file; it begins in
    line ``first_line`` and ends in ``end_line``.
    """

    where: str
    origin: datetime | None
    rows: tuple[Row, ...]
    end_s: float
    first_line: int
    end_line: int

    def states(self, epoch: datetime, duration_s: float, *, repeat: bool = False) -> tuple[LinkState, ...]:
        """The link's states from mission time 0 (``epoch``) to ``duration_s``, for a link plan; equal ones are merged.

        With ``repeat`` the trace is one period of what goes on for ever, before it and after it; a recording of another
        day keeps its phase. Without it the trace must cover the mission. Raises ScenarioError.
        """
        shift_s = 0.0 if self.origin is None else (self.origin - epoch).total_seconds()
        begin_s, end_s = shift_s + self.rows[0].start_s, shift_s + self.end_s
        period_s = end_s - begin_s
        if repeat:
            cycles = range(math.floor(-begin_s / period_s), math.ceil((duration_s - begin_s) / period_s))
            self._check_size(len(cycles) * len(self.rows))
        else:
            cycles = range(1)
            self._check_cover(epoch, begin_s, end_s, duration_s)
        states: list[LinkState] = []
        for start_s, row in self._played(cycles, shift_s, period_s):
            if start_s >= duration_s:
                break
            if states and states[-1].start_s >= start_s:
                states.pop()  # over before the mission begins
            state = _state(start_s, row)
            if not states or not _alike(states[-1], state):
                states.append(state)
        return tuple(states)

    def _played(self, cycles: range, shift_s: float, period_s: float) -> Iterator[tuple[float, Row]]:
        for cycle in cycles:
            for row in self.rows:
                # To the microsecond, which is what instants are written to: else rounding leaves a sliver of the cycle
                # before at the beginning of a mission (-1009.855 s and 385 times 2.623 s do not quite make 0).
                yield max(0.0, round(shift_s + cycle * period_s + row.start_s, 6)), row

    def _check_cover(self, epoch: datetime, begin_s: float, end_s: float, duration_s: float) -> None:
        mission = f"the mission goes from 0 to {duration_s:g} s after {epoch.isoformat()}"
        if begin_s > 0:
            self._refuse(
                "the trace begins after the mission does",
                self.first_line,
                f"{begin_s:.12g} s into the mission",
                f"{mission}; repeat: true fills it up",
            )
        if end_s < duration_s:
            self._refuse(
                "the trace is too short",
                self.end_line,
                f"{end_s:.12g} s into the mission",
                f"{mission}; repeat: true fills it up",
            )

    def _check_size(self, states: int) -> None:
        if states > MAX_STATES:
            self._refuse(
                "repeated over the mission the trace has too many states",
                self.end_line,
                f"{states} states",
                f"at most {MAX_STATES}",
            )

    def _refuse(self, message: str, line: int, found: str, allowed: str) -> NoReturn:
        field = "time_s" if self.origin is None else "time"
        raise ScenarioError(message, where=self.where, line=line, field=field, found=found, allowed=allowed)


def read_trace(path: Path) -> Trace:
    """The trace in a CSV file. Raises ScenarioError with file, line, column, what was found and what is allowed."""
    return _Reader(str(path), read_text(path, _TRACE)).trace()


def _state(start_s: float, row: Row) -> LinkState:
    # netem lets what it holds go on even when it loses all that comes: such a link is played as one that is down.
    up = row.rate_bps > 0 and row.loss_ratio < 1
    rate_bps, loss_ratio = (row.rate_bps, row.loss_ratio) if up else (0.0, 0.0)
    return LinkState(start_s, row.delay_ms, rate_bps, loss_ratio, queue_limit_packets(rate_bps, row.delay_ms))


def _alike(one: LinkState, other: LinkState) -> bool:
    """Whether nothing changes: a link that is down has no delay that anyone could notice."""
    if not one.up and not other.up:
        return True
    return (one.delay_ms, one.rate_bps, one.loss_ratio) == (other.delay_ms, other.rate_bps, other.loss_ratio)


# -- cells ------------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)
_INSTANT = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[Tt ](?P<clock>\d\d:\d\d:\d\d)(\.(?P<fraction>\d{1,9}))?(?P<zone>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)


@dataclass(frozen=True)
class _Number:
    """A column of numbers: times ``scale`` they are in Skyrack's unit, and there from ``low`` to ``high``.

    ``least`` is the smallest that is not 0.
    """

    high: float
    scale: int = 1
    least: float = 0.0

    @property
    def allowed(self) -> str:
        low, high = self.least / self.scale, self.high / self.scale
        return f"0 (down), or {low:g} to {high:g}" if self.least else f"a number from 0 to {high:g}"

    def read(self, text: str) -> float:
        """Exact, rounded once. ValueError says what is wrong."""
        if _NUMBER.fullmatch(text) is None:
            raise ValueError("not a number")
        number = float(Decimal(text) * self.scale) + 0.0  # no negative zero
        if not 0 <= number <= self.high or 0 < number < self.least:
            raise ValueError("out of range")
        return number


def _instant(text: str) -> datetime:
    """ISO 8601 to the microsecond, in any Python (3.10's own reader knows neither Z nor all fractions)."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError("not an instant")
    if match["zone"] is None:
        raise ValueError("an instant needs a zone")
    zone = "+00:00" if match["zone"] in "Zz" else match["zone"]
    micros = (match["fraction"] or "")[:6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{match['day']}T{match['clock']}.{micros}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError("not an instant") from None


_SECONDS = _Number(high=1e9)
_INSTANT_ALLOWED = "an instant with its zone, for example 2026-03-20T05:00:00.5Z"
_VALUES: tuple[Mapping[str, _Number], ...] = (
    {"delay_ms": _Number(high=NETEM_MAX_DELAY_MS)},
    {
        "rate_bps": _Number(high=NETEM_MAX_RATE_BPS, least=MIN_RATE_BPS),
        "rate_mbps": _Number(high=NETEM_MAX_RATE_BPS, least=MIN_RATE_BPS, scale=1_000_000),
    },
    {"loss_ratio": _Number(high=1.0)},
)
"""What a row says, in the order of ``Row``; of each quantity a file has one column."""
_COLUMNS: tuple[tuple[str, ...], ...] = (("time_s", "time"), *(tuple(quantity) for quantity in _VALUES))
_HEADER = "one column each for " + ", ".join(" or ".join(names) for names in _COLUMNS)
_ROW = "rows with a value in each column"


# -- the file ---------------------------------------------------------------------------------------------------------


class _Reader:
    """One file, read once, row by row."""

    def __init__(self, where: str, text: str) -> None:
        self._where = where
        self._records = self._split(text)
        self._origin: datetime | None = None
        line, header = next(self._records, (1, []))
        self._names = [name.strip() for name in header]
        self._check_header(line)
        self._time = self._named(_COLUMNS[0])
        self._values = [(name, quantity[name]) for quantity in _VALUES for name in (self._named(tuple(quantity)),)]

    def trace(self) -> Trace:
        """All of it."""
        rows: list[Row] = []
        first_line, last_line, last_s, ended = 0, 1, -math.inf, False
        for line, row in self._rows():
            if ended:
                self._refuse("a gap: what the link is from here on is missing", last_line, self._values[0][0], "", _ROW)
            start_s = self._seconds(line, row[self._time])
            if start_s <= last_s:
                message = "a time stands here twice" if start_s == last_s else "the times go back"
                self._refuse(message, line, self._time, row[self._time], f"a time after that of line {last_line}")
            first_line, last_line, last_s = first_line or line, line, start_s
            ended = not any(row[name] for name, _ in self._values)
            if not ended:
                cells = [self._read(line, name, row[name], as_.read, as_.allowed) for name, as_ in self._values]
                rows.append(Row(start_s, *cells))
            if len(rows) > MAX_STATES:
                self._refuse("the trace is too long", line, None, f"more than {MAX_STATES} rows", "fewer")
        if not rows:
            self._refuse("the trace has no rows", last_line, None, "no state", f"{_ROW}, and {END_ROW}")
        if not ended:
            self._refuse("how long the last state holds is missing", last_line, self._time, "no end", END_ROW)
        return Trace(self._where, self._origin, tuple(rows), last_s, first_line, last_line)

    def _split(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Lines that are not blank, as their number and cells."""
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            self._refuse("not CSV", max(1, reader.line_num), None, str(error), "values with commas between them")

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Cells by column; those missing at a row's end are empty."""
        width = len(self._names)
        for line, cells in self._records:
            if len(cells) > width:
                self._refuse("more values than columns", line, None, ",".join(cells), f"{width} values")
            texts = [cell.strip() for cell in cells] + [""] * (width - len(cells))
            yield line, dict(zip(self._names, texts, strict=True))

    def _check_header(self, line: int) -> None:
        """Each quantity in one column, and nothing else."""
        known = [name for names in _COLUMNS for name in names]
        for position, name in enumerate(self._names):
            if name not in known:
                self._refuse("an unknown column", line, name or f"column {position + 1}", name, _HEADER)
            if name in self._names[:position]:
                self._refuse("a column stands here twice", line, name, name, _HEADER)
        for names in _COLUMNS:
            present = [name for name in names if name in self._names]
            if not present:
                self._refuse("a column is missing", line, names[0], ",".join(self._names), _HEADER)
            if len(present) > 1:
                self._refuse("two columns for one quantity", line, present[1], " and ".join(present), _HEADER)

    def _named(self, names: Sequence[str]) -> str:
        return next(name for name in names if name in self._names)

    def _seconds(self, line: int, text: str) -> float:
        """A row's time; instants count from the first one."""
        if self._time == "time_s":
            return self._read(line, self._time, text, _SECONDS.read, _SECONDS.allowed)
        instant = self._read(line, self._time, text, _instant, _INSTANT_ALLOWED)
        self._origin = self._origin or instant
        return (instant - self._origin).total_seconds()

    def _read(self, line: int, name: str, text: str, read: Callable[[str], Value], allowed: str) -> Value:
        if not text:
            self._refuse("a value is missing", line, name, "", allowed)
        try:
            return read(text)
        except ValueError as error:
            self._refuse(str(error), line, name, text, allowed)

    def _refuse(self, message: str, line: int, field: str | None, found: str, allowed: str) -> NoReturn:
        shown = found if len(found) <= 80 else found[:77] + "..."
        raise ScenarioError(
            message, where=self._where, line=line, field=field, found=shown or "nothing", allowed=allowed
        )
