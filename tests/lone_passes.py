"""A sky for tests in which satellites follow each other, so that what a pass cuts waits for the next one."""

from __future__ import annotations

LONE_PASSES = {
    "epoch": "2026-06-01T08:40:30Z",
    "isl.rate": "3.5 Mbit/s",
    "space_ground.up.rate": "8 Mbit/s",
    "space_ground.down.rate": "3 Mbit/s",
    "space_ground.min_elevation": "8.2 deg",
}
"""The demo where one satellite at a time has a station: Svalbard until 33 s, and from 390 s on."""
