"""Ephemerides as their publishers write them: CCSDS OEM in key-value notation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from testbed.orbit.ephemeris import EphemerisMotion

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
HEADER = "CCSDS_OEM_VERS = 2.0\nCREATION_DATE = 2026-05-31T00:00:00\nORIGINATOR = TEST\n"
Read = Callable[..., EphemerisMotion]


def written(instant: datetime) -> str:
    """The instant, to the microsecond and without its zone."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%f")


def segment_text(
    node_s: Any,
    states: Any,
    name: str = "SAT 1",
    frame: str = "TEME",
    system: str = "UTC",
    ahead_s: float = 0.0,
    extra: Sequence[str] = (),
    epoch: datetime = EPOCH,
    identity: str = "2026-001A",
) -> str:
    """One segment; ``ahead_s`` is what the clock of the file reads more than UTC."""
    instants = [written(epoch + timedelta(seconds=float(at_s) + ahead_s)) for at_s in node_s]
    rows = [
        f"{instant} {' '.join(f'{one:.9f}' for one in state)}" for instant, state in zip(instants, states, strict=True)
    ]
    keys = [
        f"OBJECT_NAME = {name}",
        f"OBJECT_ID = {identity}",
        "CENTER_NAME = EARTH",
        f"REF_FRAME = {frame}",
        f"TIME_SYSTEM = {system}",
        f"START_TIME = {instants[0]}",
        f"STOP_TIME = {instants[-1]}",
        *extra,
    ]
    return "\n".join(["META_START", *keys, "META_STOP", *rows, ""])


def straight(node_s: Any, from_km: float, km_s: float) -> list[list[float]]:
    """States of a body that moves along x: in km, and km/s."""
    return [[from_km + km_s * at_s, 0, 0, km_s, 0, 0] for at_s in node_s]
