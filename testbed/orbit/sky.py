"""A scenario's sky: how its satellites move, and which station sees which of them when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.errors import ScenarioError
from testbed.orbit.contact_plan import read_contacts
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.motion import Orbits
from testbed.orbit.orbits import open_orbits
from testbed.scenario import Scenario


@dataclass(frozen=True)
class Sky:
    """Orbits, and contacts in ``[0, duration_s]`` (what the orbits or a contact plan of the scenario's own say)."""

    orbits: Orbits
    contacts: tuple[Contact, ...]


def open_sky(scenario: Scenario) -> Sky:
    """Propagate a scenario's orbits over its horizon and find every contact."""
    orbits = open_orbits(scenario.constellation, Path(), scenario.epoch, scenario.duration_s)
    clash = {station.slug for station in scenario.stations} & set(orbits.motion.names)
    if clash:
        raise ScenarioError(
            "a station and a satellite have one name",
            where=scenario.source,
            field="stations",
            found=", ".join(sorted(clash)),
            allowed="names that no satellite has",
        )
    if scenario.contacts is None:
        contacts = find_contacts(orbits.motion, scenario.stations, scenario.duration_s)
    else:
        contacts = read_contacts(
            Path(scenario.contacts),
            scenario.epoch,
            motion=orbits.motion,
            stations=scenario.stations,
            duration_s=scenario.duration_s,
        )
    return Sky(orbits, contacts)
