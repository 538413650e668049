"""The part of a scenario that says what links there are and what they carry."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from testbed.errors import ScenarioError
from testbed.orbit.stations import DEFAULT_MIN_ELEVATION_DEG, STATIONS, Station, station
from testbed.scenario_file import Entry
from testbed.scenario_keys import Text

NETEM_MAX_RATE_BPS = 34e9
"""netem's rate is 32 bits of bytes per second (tc_netem_rate in linux/pkt_sched.h): 34.36 Gbit/s."""
NETEM_MAX_DELAY_MS = 274_000.0
"""netem's delay is 32 bits of 64 ns ticks (linux/pkt_sched.h): 274.9 s."""


class Settings(BaseModel):
    """A section of a scenario file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def existing_file(message: str, allowed: str) -> Callable[[Entry, str], str]:
    """Reads the path of a file that is there, relative to the scenario's folder, as an absolute one."""

    def read(entry: Entry, text: str) -> str:
        path = (entry.folder / text).absolute()
        try:
            if path.is_file():
                return str(path)
        except (OSError, ValueError):
            pass  # a path that no file system takes is not there either
        raise ScenarioError(message, found=text, allowed=allowed)

    return read


def _name(entry: Entry, text: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", text) is None:
        raise ScenarioError("not a name", found=text, allowed=_NAME)
    return text


_NAME = "up to 63 small letters, digits, dots and hyphens, a letter or digit first (it names folders and hosts)"
Name = Annotated[str, Text(_name, allowed=_NAME)]
MaybeName = Annotated[str | None, Text(_name, allowed=_NAME)]


class StepSettings(Settings):
    """From this elevation up the rate is this."""

    elevation_deg: float = Field(ge=0, lt=90)
    rate_bps: float = Field(gt=0, le=NETEM_MAX_RATE_BPS)


class AtmosphereSettings(Settings):
    """Gas and rain after the ITU-R's recommendations, for the share of the year in which they may be exceeded."""

    unavailability: float = Field(ge=0.00001, le=0.05)
    antenna_m: float = Field(default=3.0, gt=0, le=100)
    """Diameter of the station's antenna (it evens scintillation out)."""


class RadioSettings(Settings):
    """A link budget: from power, range and coding to a rate."""

    eirp_dbw: float
    g_over_t_dbk: float
    frequency_hz: float = Field(gt=1e6, le=1e12)
    bandwidth_hz: float = Field(gt=0, le=100e9)
    roll_off: float = Field(default=0.2, ge=0, le=1)
    losses_db: float = Field(default=0.0, ge=0)
    """Pointing, polarisation, implementation: everything but free space and weather."""
    margin_db: float = Field(default=1.0, ge=0)
    modcods: Literal["dvb-s2", "shannon"] = "dvb-s2"
    atmosphere: AtmosphereSettings | None = None


class CarrierSettings(Settings):
    """What a link carries in one direction: one rate, one by elevation, or what a link budget gives."""

    rate_bps: float | None = Field(default=None, gt=0, le=NETEM_MAX_RATE_BPS)
    rates: tuple[StepSettings, ...] = ()
    radio: RadioSettings | None = None
    loss: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _one(self) -> CarrierSettings:
        if [self.rate_bps is not None, bool(self.rates), self.radio is not None].count(True) != 1:
            raise ValueError("exactly one of rate, rates and radio is needed")
        elevations_deg = [step.elevation_deg for step in self.rates]
        if elevations_deg != sorted(set(elevations_deg)):
            raise ValueError("rates go up in elevation, each elevation once")
        return self


_PAIR = re.compile(r"\s*(?P<first>[a-z0-9._-]+)\s+-\s+(?P<second>[a-z0-9._-]+)\s*")


def _pair(entry: Entry, text: str) -> tuple[str, str]:
    match = _PAIR.fullmatch(text)
    if match is None:
        raise ScenarioError("not a pair of satellites", found=text, allowed=_PAIR_EXAMPLE)
    return match["first"], match["second"]


_PAIR_EXAMPLE = "two satellites' names, for example sat-0-0 - sat-1-0"


class IslSettings(Settings):
    """Links between satellites; ``rate_bps`` (or ``radio``) and ``loss`` hold for each direction of each link."""

    topology: Literal["ring", "plus-grid", "nearest-visible", "explicit"] = "ring"
    seam: bool = True
    """plus-grid: whether the last plane has links to the first."""
    shift: int = Field(default=0, ge=-10_000, le=10_000)
    """plus-grid: how many places on a satellite's neighbour in the next plane is."""
    neighbours: int = Field(default=4, ge=1, le=64)
    """nearest-visible: how many links a satellite has at most."""
    pairs: Annotated[tuple[tuple[str, str], ...], Text(_pair, " - ".join, _PAIR_EXAMPLE)] = ()
    """explicit: which satellites have a link."""
    rate_bps: float | None = Field(default=None, gt=0, le=NETEM_MAX_RATE_BPS)
    radio: RadioSettings | None = None
    loss: float = Field(default=0.0, ge=0, lt=1)
    min_altitude_km: float = Field(default=80.0, ge=0, le=2_000)
    """The ray between two satellites stays above this; 80 km is the emulators' usual figure for the atmosphere."""
    max_range_km: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> IslSettings:
        if (self.rate_bps is None) == (self.radio is None):
            raise ValueError("exactly one of rate and radio is needed")
        if bool(self.pairs) != (self.topology == "explicit"):
            raise ValueError("pairs belong to the topology explicit, and it needs some")
        return self

    @property
    def carrier(self) -> CarrierSettings:
        """What each direction carries."""
        return CarrierSettings(rate_bps=self.rate_bps, radio=self.radio, loss=self.loss)


class SpaceGroundSettings(Settings):
    """Links between a satellite and a ground station during a contact."""

    up: CarrierSettings
    down: CarrierSettings
    min_elevation_deg: float = Field(default=DEFAULT_MIN_ELEVATION_DEG, ge=0, lt=90)


class CornerSettings(Settings):
    """A corner of a station's horizon."""

    azimuth_deg: float = Field(ge=0, lt=360)
    elevation_deg: float = Field(ge=-5, lt=90)


class PlaceSettings(Settings):
    """A ground station by its place, or one of the known ones with a mask or horizon of its own."""

    name: str = Field(min_length=1, max_length=60)
    latitude_deg: float | None = Field(default=None, ge=-90, le=90)
    longitude_deg: float | None = Field(default=None, ge=-180, le=180)
    altitude_m: float = Field(default=0.0, ge=-500, le=9_000)
    min_elevation_deg: float | None = Field(default=None, ge=0, lt=90)
    horizon: tuple[CornerSettings, ...] = ()

    @model_validator(mode="after")
    def _place(self) -> PlaceSettings:
        if (self.latitude_deg is None) != (self.longitude_deg is None):
            raise ValueError("a place has a latitude and a longitude")
        azimuths_deg = [corner.azimuth_deg for corner in self.horizon]
        if azimuths_deg != sorted(set(azimuths_deg)):
            raise ValueError("a horizon goes around once, from azimuth 0 on")
        return self

    def station(self) -> Station:
        """The station; ``min_elevation_deg`` is NaN where the scenario's own holds."""
        mask_deg = math.nan if self.min_elevation_deg is None else self.min_elevation_deg
        horizon_deg = tuple((corner.azimuth_deg, corner.elevation_deg) for corner in self.horizon)
        if self.latitude_deg is None or self.longitude_deg is None:
            try:
                known = station(self.name)
            except ScenarioError as unknown:
                raise ScenarioError(
                    unknown.message, field="name", found=unknown.found, allowed=f"{unknown.allowed}; or a place"
                ) from None
            place = (known.name, known.slug, known.latitude_deg, known.longitude_deg, known.altitude_m)
            return Station(*place, mask_deg, known.source, horizon_deg)
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.casefold()).strip("-")
        if not slug:
            raise ScenarioError(
                "a station's name needs letters", field="name", found=self.name, allowed="such as Kourou"
            )
        place = (self.name, slug, self.latitude_deg, self.longitude_deg, self.altitude_m)
        return Station(*place, mask_deg, "the scenario", horizon_deg)


PLACE_KEYS = ("name", "latitude", "longitude", "altitude", "min_elevation", "horizon")


def written_station(one: Station) -> str | BaseModel:
    """A known station as its name, any other as a section."""
    known = STATIONS.get(one.name)
    horizon = tuple(CornerSettings(azimuth_deg=a, elevation_deg=e) for a, e in one.horizon_deg)
    same = known is not None and (known.latitude_deg, known.longitude_deg) == (one.latitude_deg, one.longitude_deg)
    return PlaceSettings(
        name=one.name,
        latitude_deg=None if same else one.latitude_deg,
        longitude_deg=None if same else one.longitude_deg,
        altitude_m=one.altitude_m,
        min_elevation_deg=one.min_elevation_deg,
        horizon=horizon,
    )


class GroundSettings(Settings):
    """The ground server and its links to all stations."""

    name: Name = "ground"
    backhaul_delay_ms: float = Field(ge=0, le=NETEM_MAX_DELAY_MS)
    backhaul_rate_bps: float = Field(gt=0, le=NETEM_MAX_RATE_BPS)
    backhaul_loss: float = Field(default=0.0, ge=0, lt=1)


class NetworkSection(Settings):
    """What TCP and the data devices are set to on every node of a rack; recorded as read back from the kernel.

    Buffers are least, first and greatest, as tcp(7) has them; ``segments`` is how many segments go down as one train.
    """

    mtu_bytes: int = Field(default=1500, ge=576, le=9000)
    congestion_control: str = Field(default="cubic", pattern="^[a-z_][a-z0-9_]{0,15}$")
    receive_buffer_bytes: tuple[int, ...] = Field(default=(4096, 131_072, 6_291_456), min_length=3, max_length=3)
    send_buffer_bytes: tuple[int, ...] = Field(default=(4096, 16_384, 4_194_304), min_length=3, max_length=3)
    segments: int = Field(default=10, ge=1, le=64)
    tso: bool = True
    gso: bool = True
    gro: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> NetworkSection:
        for sizes in (self.receive_buffer_bytes, self.send_buffer_bytes):
            if list(sizes) != sorted(sizes) or sizes[0] < 2304 or sizes[-1] > 1 << 30:
                raise ValueError("a buffer is least, first and greatest size in order, from 2304 B to 1 GiB")
        return self


class TraceSettings(Settings):
    """A directed link that follows a recording."""

    sender: str
    receiver: str
    file: Annotated[
        str, Text(existing_file("no such trace", "the path of a .csv file"), allowed="the path of a .csv file")
    ]
    repeat: bool = False


class ToleranceSettings(Settings):
    """How far a link plan may be from the model (``delay_ms``, ``rate``), and a probe from the plan (the others)."""

    delay_ms: float = Field(default=0.1, gt=0, le=1_000)
    rate: float = Field(default=0.01, gt=0, le=0.5)
    """Share of the true rate. Only rates that vary (link budgets) need it."""
    probe_delay_ms: float = Field(default=1.0, gt=0, le=1_000)
    probe_rate_low: float = Field(default=0.05, ge=0, le=1)
    """Share of the planned rate that may be missing."""
    probe_rate_high: float = Field(default=0.01, ge=0, le=1)
    """Share of the planned rate that may be too much."""
