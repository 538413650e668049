"""Contacts of constellations up to 5992 satellites over 12 stations in 24 h, against skyfield's ``find_events``.

CPU time of one process in which both are measured in turn. skyfield is asked about every pair of the smallest
constellation and about random ones of the larger two, whose sum is extrapolated.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import Station
from tests.bench.row import Row

EPOCH = datetime(2025, 1, 1, tzinfo=timezone.utc)
HORIZON_S = 86400.0
MASK_DEG = 25.0

_ROOT = Path(__file__).parents[2]

# Latitude, longitude and altitude in m of a dozen cities, for stations spread over the inhabited Earth.
_PLACES = (
    (64.13, -21.9, 50.0),
    (52.5, 13.4, 40.0),
    (40.4, -3.7, 650.0),
    (37.4, -122.1, 10.0),
    (39.9, 116.4, 50.0),
    (35.7, 139.7, 40.0),
    (1.35, 103.8, 15.0),
    (-33.9, 151.2, 20.0),
    (-33.0, -70.7, 520.0),
    (-25.7, 28.2, 1300.0),
    (19.1, 72.9, 10.0),
    (47.6, -122.3, 50.0),
)
STATIONS = tuple(
    Station(f"place {number}", f"place-{number}", *place, MASK_DEG, "a city")
    for number, place in enumerate(_PLACES, start=1)
)

IRIDIUM = "S:780:86.4:66/6/1"
STARLINK = "D:550:53:1584/72/39"
LARGEST = "+".join(
    (
        STARLINK,
        "D:540:53.2:1584/72/17",
        "D:570:70:720/36/11",
        "D:560:97.6:348/6/1",
        "D:560:97.6:172/4/1",
        "D:530:43:1584/72/31",
    )
)
"""The shells of Starlink's first generation and one more: 5992 satellites."""

ROUNDS = 3
SAMPLED_PAIRS = 120

RATIO_GOAL = 75.0
LARGEST_GOAL_S = 3.0
LARGEST_GOAL_MIB = 1536.0


def rows() -> Iterator[Row]:
    """Ratios, the cost of the largest constellation, and what the propagator astroz adds where it is installed."""
    for code in (IRIDIUM, STARLINK, LARGEST):
        yield from _against_skyfield(code)
    # In a process of its own, for which nothing else is loaded.
    child = subprocess.run([sys.executable, "-m", __name__], check=True, capture_output=True, text=True, cwd=_ROOT)
    peak_mib = float(child.stdout)
    name = "contacts of 5992 satellites: peak memory of the process"
    yield Row(name, peak_mib, "MiB", LARGEST_GOAL_MIB, peak_mib <= LARGEST_GOAL_MIB)


def _against_skyfield(code: str) -> Iterator[Row]:
    motion = Propagator(parse_constellation(code), EPOCH)
    peer = _Skyfield(motion)
    pairs = [(row, number) for row in range(len(motion.names)) for number in range(len(STATIONS))]
    some = pairs if code == IRIDIUM else random.Random(1).sample(pairs, SAMPLED_PAIRS)
    fast = _with_astroz(motion) if importlib.util.find_spec("astroz") else None
    peer_s, ours_s, fast_s = [], [], []
    contacts: tuple[Contact, ...] = ()
    find_contacts(motion, STATIONS, 3600.0)  # imports, and tables that skyfield loads once
    for _ in range(ROUNDS):
        peer_s.append(_cpu_s(lambda: peer.find_events(some))[0] * len(pairs) / len(some))
        took_s, contacts = _cpu_s(lambda: find_contacts(motion, STATIONS, HORIZON_S))
        ours_s.append(took_s)
        if fast is not None:
            fast_s.append(_cpu_s(lambda: find_contacts(fast, STATIONS, HORIZON_S))[0])

    name = f"contacts of {len(motion.names)} satellites, 12 stations, 24 h"
    ratio = statistics.median(theirs / ours for theirs, ours in zip(peer_s, ours_s, strict=True))
    yield Row(f"{name}: skyfield's find_events against ours", ratio, "x", RATIO_GOAL, ratio >= RATIO_GOAL)
    largest = code == LARGEST
    took_s = statistics.median(ours_s)
    goal_s = LARGEST_GOAL_S if largest else None
    yield Row(name, took_s, "CPU s", goal_s, took_s <= LARGEST_GOAL_S if largest else None)
    yield Row(f"{name}: found", len(contacts), "contacts", None, None)
    if fast_s:
        ratio = statistics.median(theirs / ours for theirs, ours in zip(peer_s, fast_s, strict=True))
        yield Row(f"{name}: with astroz for sgp4, against skyfield", ratio, "x", None, None)
        yield Row(f"{name}: with astroz for sgp4", statistics.median(fast_s), "CPU s", None, None)


class _Skyfield:
    """The peer, with its objects made beforehand, as ours are."""

    def __init__(self, motion: Propagator) -> None:
        from skyfield.api import EarthSatellite, load, wgs84

        timescale = load.timescale(builtin=True)
        self._satellites = [EarthSatellite.from_satrec(record, timescale) for record in motion.satrecs]
        self._places = [
            wgs84.latlon(one.latitude_deg, one.longitude_deg, elevation_m=one.altitude_m) for one in STATIONS
        ]
        start = timescale.from_datetime(EPOCH)
        self._span = start, timescale.tt_jd(start.whole, start.tt_fraction + HORIZON_S / 86400)

    def find_events(self, pairs: Sequence[tuple[int, int]]) -> None:
        for row, number in pairs:
            self._satellites[row].find_events(self._places[number], *self._span, altitude_degrees=MASK_DEG)


def _with_astroz(motion: Propagator) -> Propagator:
    """The same satellites, propagated by astroz (SIMD SGP4, within 0.3 m of sgp4's)."""
    astroz = importlib.import_module("astroz.api")  # not an import: where it is missing types cannot be checked
    records = []
    for one in motion.satrecs:
        record = astroz.Satrec()
        days = one.jdsatepoch - 2433281.5 + one.jdsatepochF
        elements = one.ecco, one.argpo, one.inclo, one.mo, one.no_kozai, one.nodeo
        record.sgp4init(astroz.WGS72, "i", one.satnum, days, one.bstar, one.ndot, one.nddot, *elements)
        records.append(record)
    fast = Propagator.of_satrecs(motion.names, motion.satrecs, EPOCH)
    fast._array = astroz.SatrecArray(records)  # a seam of this measurement's alone: Skyrack runs on sgp4
    return fast


_Result = TypeVar("_Result")


def _cpu_s(work: Callable[[], _Result]) -> tuple[float, _Result]:
    begun_s = time.process_time()
    result = work()
    return time.process_time() - begun_s, result


def peak_mib() -> float:
    """Of this process, since it was started (what ``getrusage`` says counts its parent's too)."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in bytes on macOS, the other system there is


if __name__ == "__main__":
    find_contacts(Propagator(parse_constellation(LARGEST), EPOCH), STATIONS, HORIZON_S)
    sys.stdout.write(f"{peak_mib()}\n")
