"""The scenario: what an experiment is. One file, read once; inside, frozen models in SI units.

Every name carries its unit; in the file the key drops it and the value carries it (see ``testbed.scenario_keys``).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from testbed import profile_file, scenario_file, scenario_keys
from testbed.devices import Device, DeviceProfile, Precision
from testbed.errors import ScenarioError
from testbed.orbit.constellation import GRAMMAR, parse_constellation
from testbed.orbit.stations import STATIONS, Station
from testbed.scenario_file import Entry
from testbed.scenario_keys import Text
from testbed.scenario_learning import LearningSettings
from testbed.scenario_links import (
    PLACE_KEYS,
    GroundSettings,
    IslSettings,
    MaybeName,
    Name,
    NetworkSection,
    PlaceSettings,
    Settings,
    SpaceGroundSettings,
    ToleranceSettings,
    TraceSettings,
    existing_file,
    written_station,
)

MAX_DURATION_S = 30 * 86_400.0
"""Contacts and link plans of the whole horizon are held in memory."""


ELEMENT_SUFFIXES = frozenset({".tle", ".txt", ".json", ".csv", ".xml", ".oem"})
"""Of files that stand in a constellation's place: element sets and ephemerides."""


def _constellation(entry: Entry, text: str) -> str:
    if Path(text).suffix.casefold() in ELEMENT_SUFFIXES:
        return existing_file("no such file of orbits", _CONSTELLATION)(entry, text)
    return parse_constellation(text).code


_CONSTELLATION = f"{GRAMMAR}; or the path of a file: .tle, .txt, .json, .csv, .xml (OMM) or .oem"
_CONTACTS = "the path of a contact plan: .csv, .json or .ion"
_INSTANT = Text(
    scenario_file.read_instant,
    scenario_file.write_instant,
    "an instant with its zone, for example 2026-03-20T05:00:00Z",
)
_PROFILE = Text(profile_file.named_profile, profile_file.written_name, profile_file.ALLOWED)
_STATION = Text(
    lambda entry, text: PlaceSettings(name=text).station(),
    written_station,
    f"a ground station: {', '.join(sorted(STATIONS))}; or a section with {', '.join(PLACE_KEYS)}",
    section=PlaceSettings,
    make=PlaceSettings.station,
)

Profile = Annotated[DeviceProfile, _PROFILE]


class DeviceSettings(Settings):
    """Which device a node stands for: what its computation is charged."""

    satellite: Profile
    ground: Profile
    precision: Precision = "fp32"
    """What computation is charged as; learning itself computes in fp32 (decision 13)."""
    satellite_power_mode: str | None = None
    """Needed where a profile was measured in several."""
    ground_power_mode: str | None = None

    @property
    def by_node(self) -> dict[str, Device]:
        """The devices of satellites and of the ground server, as they are run."""
        return {
            "satellite": Device(self.satellite, self.precision, self.satellite_power_mode),
            "ground": Device(self.ground, self.precision, self.ground_power_mode),
        }


class RackSettings(Settings):
    """``capacity_bps`` is what the rack carries at a time; plans above it are refused.

    100 Mbit/s: one User-Mode Linux guest in real time carries 150 to 200.
    """

    capacity_bps: float = Field(default=100e6, gt=0)


class FailureSettings(Settings):
    """A satellite or a station whose process is killed at a mission time, to see how the others go on."""

    node: Name
    at_s: float = Field(ge=0, le=MAX_DURATION_S)


class TransferSettings(Settings):
    """What is asked of the transfers one way (embeddings go up, features down) of a satellite, or of every one.

    ``weight`` is what a second of their delay counts against others' (1 unless said), ``deadline_s`` by when they must
    be through: seconds after they could begin, which is with the round for embeddings and when the ground has computed
    for features.
    """

    way: Literal["up", "down"]
    node: MaybeName = None
    weight: float = Field(default=1.0, gt=0, le=1e6)
    deadline_s: float | None = Field(default=None, gt=0, le=MAX_DURATION_S)


class OutputSettings(Settings):
    """What a run leaves beside its figures."""

    save_total_limit: int | None = Field(default=None, ge=1)
    """Checkpoints that are kept: the last ones, and the best if this is more than 1. All where it is not given."""
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb", "trackio"], ...] = ()
    """Experiment trackers (``controller.trackers``); each is an optional package."""


class Scenario(Settings):
    """One experiment. ``source`` is the path it was read from, ``text`` the file as given."""

    name: Name
    seed: int = Field(ge=0, lt=2**63)
    epoch: Annotated[AwareDatetime, _INSTANT]
    """Mission time 0."""
    duration_s: float = Field(gt=0, le=MAX_DURATION_S)
    """How far ahead contacts are known; the run ends when its rounds do."""
    constellation: Annotated[str, Text(_constellation, allowed=_CONSTELLATION)]
    """A constellation code, or the path of a file of elements or ephemerides."""
    isl: IslSettings
    stations: Annotated[tuple[Station, ...], _STATION]
    space_ground: SpaceGroundSettings
    ground: GroundSettings
    contacts: Annotated[str | None, Text(existing_file("no such contact plan", _CONTACTS), allowed=_CONTACTS)] = None
    """A file of contacts that stands in place of what the orbits say."""
    traces: tuple[TraceSettings, ...] = ()
    """Links that follow a recording instead of the model."""
    intra_orbit: Literal["all-gather", "relay"] = "all-gather"
    """How cut tensors reach the satellites that have a contact: everybody gets everything round the ring, or each chunk
    is routed to the contact it uses."""
    failures: tuple[FailureSettings, ...] = ()
    """Nodes that die under way."""
    transfers: tuple[TransferSettings, ...] = ()
    """Weights and deadlines. Of entries that fit the same transfer the last one counts."""
    network: NetworkSection = NetworkSection()
    tolerance: ToleranceSettings = ToleranceSettings()
    learning: LearningSettings
    devices: DeviceSettings
    rack: RackSettings = RackSettings()
    output: OutputSettings = OutputSettings()
    chunk_bytes: int = Field(default=131_072, ge=1_024, le=16 * 2**20)
    """Size of the pieces that bulk tensors travel in."""
    source: str = ""
    text: str = ""
    overridden: tuple[str, ...] = ()
    """Keys whose values came from flags."""
    overflown: tuple[int, ...] = ()
    """Which satellite (by name order) holds each training sample, where that is by ground track. The planner says so:
    it follows from the orbits, of which boards know nothing."""


_NOT_IN_FILE = frozenset({"source", "text", "overridden", "overflown"})


def scenario_names() -> tuple[str, ...]:
    """The scenarios that come with Skyrack."""
    folder = files("testbed") / "scenarios"
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


def load_scenario(path_or_name: str, overrides: Mapping[str, str] | None = None) -> Scenario:
    """Read a scenario file, or one that comes with Skyrack by its bare name.

    ``overrides`` are texts by dotted file key, e.g. ``{"learning.rounds": "3"}``. Raises ScenarioError only: one, with
    file, line, field, found and allowed.
    """
    path = _find(path_or_name)
    text = scenario_file.read_file(path)
    tree = scenario_file.parse(text, path_or_name, path.parent)
    for key, value in (overrides or {}).items():
        tree = scenario_file.override(tree, key, value)
    binding = scenario_keys.bind(Scenario, tree, given=_NOT_IN_FILE)
    binding.values |= {"source": str(path), "text": text, "overridden": tuple(overrides or ())}
    scenario = scenario_keys.build(Scenario, binding)
    mask_deg = scenario.space_ground.min_elevation_deg
    stations = tuple(
        replace(one, min_elevation_deg=mask_deg) if math.isnan(one.min_elevation_deg) else one
        for one in scenario.stations
    )
    scenario = scenario.model_copy(update={"stations": stations})
    _check_names(scenario, binding)
    return scenario


@contextmanager
def blaming(scenario: Scenario) -> Iterator[None]:
    """What the scenario is found to be wrong about later on is blamed on its file and line, or on the flag."""
    try:
        yield
    except ScenarioError as error:
        if error.where is not None and error.where != scenario.source or error.line is not None or not error.field:
            raise
        where, line = _place(scenario, error.field)
        raise ScenarioError(
            error.message, where=where, line=line, field=error.field, found=error.found, allowed=error.allowed
        ) from error


def _place(scenario: Scenario, field: str) -> tuple[str | None, int | None]:
    """Where a field's value stands, or the nearest section around it."""
    if any(field == key or field.startswith(f"{key}.") for key in scenario.overridden):
        return f"--set {field}", None
    if not scenario.text:
        return scenario.source or None, None
    entry = scenario_file.parse(scenario.text, scenario.source, Path(scenario.source).parent)
    line: int | None = None
    for part in re.findall(r"[^.\[\]]+", field):
        inner = entry.value
        if isinstance(inner, Mapping) and part in inner:
            entry = inner[part]
        elif isinstance(inner, tuple) and part.isdigit() and int(part) < len(inner):
            entry = inner[int(part)]
        else:
            break
        line = entry.line
    return scenario.source, line


def dump_scenario(scenario: Scenario) -> str:
    """The scenario with every default and override spelled out, as a file that loads to the same experiment."""
    return scenario_keys.dump(scenario, skip=_NOT_IN_FILE)


def _check_names(scenario: Scenario, binding: scenario_keys.Binding) -> None:
    """Every node has a name of its own."""
    _, entry = binding.entries["stations"]
    slugs = [one.slug for one in scenario.stations]
    if not slugs:
        entry.refuse("no ground station", "stations", _STATION.allowed)
    for index, slug in enumerate(slugs):
        if slug in slugs[:index]:
            entry.refuse("a station stands here twice", f"stations[{index}]", "each station once", found=slug)
    if scenario.ground.name in slugs or scenario.ground.name.startswith("sat-"):
        place = binding.sections["ground"].locate(("name",))
        (place[1] if place else entry).refuse(
            "this name belongs to another node",
            "ground.name",
            "not a station's name, and not sat-...",
            found=scenario.ground.name,
        )


def _find(path_or_name: str) -> Path:
    path = Path(path_or_name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        return path
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):
        return path  # reading it will say what is wrong
    names = scenario_names()
    if path_or_name in names:
        return Path(str(files("testbed") / "scenarios" / f"{path_or_name}.yaml"))
    close = difflib.get_close_matches(path_or_name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ScenarioError(
        f"no such scenario{hint}",
        where=path_or_name,
        found=path_or_name,
        allowed=f"the path of a file, or one of {', '.join(names)}",
    )
