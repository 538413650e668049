"""Contact plans as commands for ION's ``ionadmin``, after ionrc(5) of ION-DTN 4.1 (nasa-jpl/ION-DTN)::

    @ yyyy/mm/dd-hh:mm:ss                     the instant that relative times count from (UTC)
    a contact +start +end from to rate        one direction; rate in bytes per second
    a range +start +end one other owlt        both directions where one < other; light seconds

ION reads whole numbers only (``strtol``). So a window is rounded inwards to whole seconds, for nothing may be sent
before or after it; one that holds no whole second has no command. Comments, which ION skips, say what the numbers stand
for and give the window to the microsecond::

    # node 9 svalbard
    # contact 1 9 2026-06-01T02:25:18.500000Z 2026-06-01T02:34:53.654322Z 72.700

Commands are the plan: on the way back such a comment refines the commands that its window rounds to, and adds a window
that is too short for one. A comment whose commands were edited or deleted by hand no longer counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from testbed.errors import BugError
from testbed.orbit.contacts import Contact
from testbed.orbit.plan_rows import CONTACT_PLAN, Place, Row, Scope, checked, instant_at, iso_text, row_of, window
from testbed.text_file import read_filled_text

OWLT_S = 1
"""One-way light time, in whole seconds rounded up: nothing in orbit is a light second (299,792 km) away. With 0 the
timers of ION's retransmission would leave no time at all."""

MAX_RATE_BYTES_S = 2**32 - 1
"""ION keeps a rate in an unsigned int."""

_SECOND = timedelta(seconds=1)
_RELATIVE = re.compile(r"\+(0|[1-9]\d{0,9})", re.ASCII)  # strtol's base 0 would read +010 as 8
_ABSOLUTE = re.compile(r"(\d{4})/(\d\d?)/(\d\d?)-(\d\d?):(\d\d?):(\d\d?)", re.ASCII)
_TIME = "+seconds or yyyy/mm/dd-hh:mm:ss, in whole seconds"
_WHOLE = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)
_NODE = re.compile(r"#\s*node\s+([1-9]\d{0,18})\s+(\S+)\s*", re.ASCII)
_EXACT = re.compile(
    r"#\s*contact\s+([1-9]\d{0,18})\s+([1-9]\d{0,18})\s+(\d{4}-\S+)\s+(\d{4}-\S+)(?:\s+(\S+))?\s*", re.ASCII
)
_NO_PLAN = frozenset("1!ehmqrsvx?")
"""Commands about the local node, which are passed over."""

_Window = tuple[str, str, datetime, datetime]


def write_ion(contacts: Sequence[Contact], scope: Scope) -> str:
    """The plan as ionadmin's commands. Satellites are nodes 1, 2, ... in the motion's order, stations follow.

    A direction that carries less than a byte per second has no command.
    """
    if scope.rates_bps is None:
        raise BugError("ION's contact plans name rates: Scope.rates_bps")
    names = (*scope.orbits.motion.names, *(station.slug for station in scope.stations))
    numbers = {name: number for number, name in enumerate(names, start=1)}
    reference = _whole(instant_at(scope.epoch, 0.0))
    lines = [
        f"# {' '.join(scope.title.split())}: contact plan of {len(scope.orbits.motion.names)} satellites and "
        f"{len(scope.stations)} stations, made by Skyrack",
        *(f"# node {number} {name}" for name, number in numbers.items()),
        f"@ {reference:%Y/%m/%d-%H:%M:%S}",
    ]
    for one in contacts:
        space, ground = numbers[one.satellite], numbers[one.station]
        start, end = window(one, scope.epoch)
        lines.append(f"# contact {space} {ground} {iso_text(start)} {iso_text(end)} {one.max_elevation_deg:.3f}")
        inner_start, inner_end = _inwards(start, end)
        if inner_end <= inner_start:
            continue
        times = f"+{(inner_start - reference) // _SECOND} +{(inner_end - reference) // _SECOND}"
        up_bps, down_bps = scope.rates_bps(one)
        for sender, receiver, rate_bps in ((space, ground, down_bps), (ground, space, up_bps)):
            rate_bytes_s = min(int(rate_bps // 8), MAX_RATE_BYTES_S)
            if rate_bytes_s > 0:
                lines.append(f"a contact {times} {sender} {receiver} {rate_bytes_s}")
        lines.append(f"a range {times} {space} {ground} {OWLT_S}")
    return "\n".join(lines) + "\n"


def read_ion(path: Path, scope: Scope) -> tuple[Contact, ...]:
    """Contacts from ionadmin's commands, in both directions or one; node numbers are named by comments.

    Relative times count from the scenario's epoch up to the first ``@``. Contacts between others than a satellite and a
    station, and commands that change or delete, are refused.
    """
    return checked(_Reader(str(path), scope).rows(read_filled_text(path, CONTACT_PLAN)), str(path), scope)


def _whole(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)


def _inwards(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The window in whole seconds, from the first inside to the last."""
    first = _whole(start)
    return (first if first == start else first + _SECOND), _whole(end)


class _Reader:
    def __init__(self, where: str, scope: Scope) -> None:
        self._where, self._scope = where, scope
        self._reference = instant_at(scope.epoch, 0.0)
        self._names: dict[str, str] = {}
        self._commands: dict[_Window, Place] = {}
        self._exact: list[tuple[Place, tuple[str, ...]]] = []
        self._verbs: dict[tuple[str, ...], Callable[[Place, list[str]], None]] = {
            ("a", "contact"): self._contact,
            ("a", "range"): self._range,
        }

    def rows(self, text: str) -> Iterator[Row]:
        """All contacts of the file, once for both directions."""
        lines = [(Place(self._where, number), line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
        for place, line in lines:  # first, since a name may stand after its use
            self._comment(place, line)
        for place, line in lines:
            if line and not line.startswith("#"):
                self._command(place, line.split())
        windows: dict[_Window, Place] = {}
        for (sender, receiver, start, end), place in self._commands.items():
            satellite, station = self._ends(place, sender, receiver)
            windows.setdefault((satellite, station, start, end), place)
        for place, (first, second, *times, elevation) in self._exact:
            satellite, station = self._ends(place, first, second)
            record = dict(zip(("start", "end", "max_elevation_deg"), (*times, elevation), strict=True))
            row = row_of(place, {"satellite": satellite, "station": station, **record}, self._scope)
            inner = _inwards(*window(row.contact, self._scope.epoch))
            if inner[1] <= inner[0] or (satellite, station, *inner) in windows:
                windows.pop((satellite, station, *inner), None)
                yield row
        for (satellite, station, start, end), place in windows.items():
            names = {"satellite": satellite, "station": station}
            yield row_of(place, {**names, "start": iso_text(start), "end": iso_text(end)}, self._scope)

    def _comment(self, place: Place, line: str) -> None:
        node, exact = _NODE.fullmatch(line), _EXACT.fullmatch(line)
        if node:
            number, name = node.groups()
            if self._names.setdefault(number, name) != name:
                place.refuse("the node has two names", "node", f"{number} {name}", f"{number} {self._names[number]}")
        if exact:
            self._exact.append((place, exact.groups()))

    def _command(self, place: Place, words: list[str]) -> None:
        verb = self._verbs.get(tuple(words[:2]))
        if verb is not None:
            verb(place, words)
        elif words[0] == "@":
            self._reference = self._time(place, "reference time", " ".join(words[1:]))
        elif words[0] not in _NO_PLAN:
            place.refuse("not a command of a contact plan", None, " ".join(words), "a contact, a range, @, #")

    def _contact(self, place: Place, words: list[str]) -> None:
        if len(words) not in (7, 8):
            place.refuse("a contact has five or six values", "a contact", " ".join(words), _CONTACT)
        start, end = self._window(place, words)
        sender, receiver, rate = words[4:7]
        if not _WHOLE.fullmatch(rate) or not 0 < int(rate) <= MAX_RATE_BYTES_S:
            place.refuse("not a rate", "rate", rate, f"whole bytes per second from 1 to {MAX_RATE_BYTES_S}")
        key = (sender, receiver, start, end)
        if key in self._commands:
            place.refuse(
                f"this contact overlaps the one of line {self._commands[key].line} in the same direction",
                "start",
                " ".join(words),
                "each contact once",
            )
        self._commands[key] = place

    def _range(self, place: Place, words: list[str]) -> None:
        if len(words) != 7:
            place.refuse("a range has five values", "a range", " ".join(words), "a range +start +end one other owlt")
        self._window(place, words)
        for number in words[4:6]:
            self._name(place, number)
        if not _WHOLE.fullmatch(words[6]):
            place.refuse("not a light time", "owlt", words[6], "whole light seconds")

    def _window(self, place: Place, words: list[str]) -> tuple[datetime, datetime]:
        start, end = (self._time(place, name, word) for name, word in zip(("start", "end"), words[2:4], strict=True))
        if end <= start:
            place.refuse("a contact ends after it starts", "end", " ".join(words[2:4]), "an end after the start")
        return start, end

    def _time(self, place: Place, field: str, text: str) -> datetime:
        relative, absolute = _RELATIVE.fullmatch(text), _ABSOLUTE.fullmatch(text)
        try:
            if relative:
                return self._reference + int(relative[1]) * _SECOND
            if absolute:
                return datetime(*(int(part) for part in absolute.groups()), tzinfo=timezone.utc)  # type: ignore[misc,arg-type]
        except (ValueError, OverflowError):
            pass  # a thirteenth month is no instant either
        place.refuse("not an instant of ION's", field, text, _TIME)

    def _name(self, place: Place, number: str) -> str:
        name = self._names.get(number)
        if name is None:
            place.refuse("the node has no name", "node", number, f'a comment such as "# node {number} sat-0-0"')
        return name

    def _ends(self, place: Place, first: str, second: str) -> tuple[str, str]:
        """Satellite and station, whichever way the contact goes."""
        names = (self._name(place, first), self._name(place, second))
        satellites = self._scope.satellites
        if names[0] in satellites and names[1] in satellites:
            place.refuse("a contact is between a satellite and a station", "to", " ".join(names), "one of each")
        # Where neither is a satellite the check of rows says which name is unknown.
        return names if names[0] in satellites else (names[1], names[0])


_CONTACT = "a contact +start +end from to rate [confidence]"
