"""Contacts: when each station sees each satellite above its elevation mask and its terrain.

Elevation is geometric (no refraction) and geodetic: measured from the plane normal to the ellipsoid's normal, as
skyfield's ``altaz`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np

from testbed.orbit.motion import Motion
from testbed.orbit.passes import COARSE_TURN_RAD, Passes, Sites, find_passes
from testbed.orbit.propagate import Ephemeris, geodetic_itrs_km, longest_step_s
from testbed.orbit.stations import Station
from testbed.orbit.terrain import MARGIN_DEG, clear_passes, lowest_deg


@dataclass(frozen=True)
class Contact:
    """One pass: the station sees the satellite from ``start_s`` to ``end_s``, in seconds of mission time.

    A pass that is under way at the beginning (or the end) of the horizon is cut there; ``max_elevation_deg`` is the
    highest elevation within what is left of it. Terrain can split a pass into several contacts.
    """

    satellite: str
    station: str
    start_s: float
    end_s: float
    max_elevation_deg: float

    @property
    def duration_s(self) -> float:
        """How long the contact lasts."""
        return self.end_s - self.start_s


def find_contacts(motion: Motion, stations: Sequence[Station], duration_s: float) -> tuple[Contact, ...]:
    """All contacts in ``[0, duration_s]``, sorted by start, satellite, station.

    At each edge that is not the horizon's, the elevation is what the station must clear, within 0.01 s of motion.
    Satellites that ``motion`` cannot follow over the whole time raise its ScenarioError.
    """
    if not stations:
        return ()
    ephemeris = Ephemeris(motion, duration_s, longest_step_s(motion, duration_s, COARSE_TURN_RAD))
    passes = find_passes(ephemeris, _sites(stations))
    for number, station in enumerate(stations):
        if station.horizon_deg:
            here = passes.site == number
            cleared = clear_passes(ephemeris, station, passes.chosen(here))
            passes = Passes(*(np.concatenate(both) for both in zip(passes.chosen(~here), cleared, strict=True)))

    slugs = [one.slug for one in stations]
    order = np.lexsort((_ranks(slugs)[passes.site], _ranks(motion.names)[passes.satellite], passes.start_s))
    satellite, site, *times_and_angle = (column[order].tolist() for column in passes)
    names = map(motion.names.__getitem__, satellite), map(slugs.__getitem__, site)
    return tuple(map(Contact, *names, *times_and_angle))


def contacts_csv(contacts: Sequence[Contact], epoch: datetime) -> str:
    """The contact plan as CSV: instants in UTC (ISO 8601, to the microsecond), durations in s, angles in degrees."""
    lines = ["satellite,station,start,end,duration_s,max_elevation_deg"]
    lines += [
        f"{one.satellite},{one.station},{_iso(epoch, one.start_s)},{_iso(epoch, one.end_s)},"
        f"{one.duration_s:.3f},{one.max_elevation_deg:.3f}"
        for one in contacts
    ]
    return "\n".join(lines) + "\n"


def _iso(epoch: datetime, at_s: float) -> str:
    instant = epoch.astimezone(timezone.utc) + timedelta(seconds=at_s)
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _sites(stations: Sequence[Station]) -> Sites:
    """Places and masks; where there is terrain passes are looked for down to its lowest, and are cut afterwards."""
    places = [geodetic_itrs_km(one.latitude_deg, one.longitude_deg, one.altitude_m) for one in stations]
    masks = [lowest_deg(one) - MARGIN_DEG if one.horizon_deg else one.min_elevation_deg for one in stations]
    return Sites(np.array([place for place, _ in places]), np.array([zenith for _, zenith in places]), np.array(masks))


def _ranks(names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The place of each name among all, sorted."""
    ranks = np.empty(len(names), dtype=np.intp)
    ranks[np.argsort(np.array(names))] = np.arange(len(names))
    return ranks
