"""Link budgets: what a link of a given range and elevation carries.

All decibels are power ratios. Arrays may have any shape; range and elevation have the same one.
"""

from __future__ import annotations

import importlib
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.errors import ScenarioError
from testbed.link.modcod import Coding

Array = NDArray[np.float64]

SPEED_OF_LIGHT_KM_S = 299_792.458
"""Exact, by the SI's definition of the metre."""
BOLTZMANN_DBW_K_HZ = 10 * math.log10(1.380649e-23)
"""-228.599 dBW/K/Hz; the constant is exact, by the SI's definition of the kelvin."""

ATMOSPHERE_HZ = (1e9, 55e9)
"""Below, the ionosphere decides and not the weather; ITU-R P.618-13 goes up to 55 GHz."""
ELEVATION_STEP_DEG = 0.25
"""Of the atmosphere's table. What lies between is off by at most 0.01 dB at 8 GHz and 0.25 dB (0.6 %) at 30 GHz: the
Recommendation's curve is steep next to the zenith."""


def delay_ms(range_km: Array) -> Array:
    """Propagation delay in vacuum. Processing and queueing come from the real nodes and queues, not from the plan."""
    return range_km * (1000.0 / SPEED_OF_LIGHT_KM_S)


def free_space_loss_db(range_km: Array, frequency_hz: float) -> Array:
    """``20 log10(4 pi d f / c)``, after ITU-R P.525-4."""
    waves = range_km * (4 * math.pi * frequency_hz / (SPEED_OF_LIGHT_KM_S * 1000)) * 1000
    with np.errstate(divide="ignore"):  # no range, no loss
        return 20 * np.log10(waves)


class LinkBudget(Protocol):
    """What a link carries while its ends see each other."""

    def evaluate(self, range_km: Array, elevation_deg: Array) -> tuple[Array, Array]:
        """Rate (bit/s; 0 where the link does not close) and loss ratio, both of the arguments' shape.

        ``elevation_deg`` is what the station sees; NaN between satellites.
        """
        ...


@dataclass(frozen=True)
class ConstantBudget:
    """The same rate at any range: a modem with one fixed coding that closes down to the mask."""

    constant_rate_bps: float
    constant_loss_ratio: float = 0.0

    def evaluate(self, range_km: Array, elevation_deg: Array) -> tuple[Array, Array]:
        """The constants."""
        return np.full(range_km.shape, self.constant_rate_bps), np.full(range_km.shape, self.constant_loss_ratio)


@dataclass(frozen=True)
class ElevationTable:
    """Steps by elevation: ``rows`` of (elevation in degrees, rate in bit/s), each from its elevation up to the next.

    Below the lowest there is no link.
    """

    rows: tuple[tuple[float, float], ...]
    constant_loss_ratio: float = 0.0

    def evaluate(self, range_km: Array, elevation_deg: Array) -> tuple[Array, Array]:
        """The rate of the row with the greatest elevation that is not above the satellite's."""
        bounds_deg, rates_bps = np.array(sorted(self.rows)).T
        row = np.searchsorted(bounds_deg, np.nan_to_num(elevation_deg, nan=-np.inf), side="right")
        return np.append(0.0, rates_bps)[row], np.full(range_km.shape, self.constant_loss_ratio)


@dataclass(frozen=True)
class Atmosphere:
    """Gas, cloud, rain and scintillation between a station and space, after ITU-R P.618-13 by the package ``itur``.

    Latitude and longitude in degrees (east positive), ``altitude_m`` above the sea. The attenuation is the one that is
    exceeded during ``unavailability_ratio`` (1e-5 to 0.05) of an average year; the weather of a certain hour nobody
    knows. ``antenna_m`` is the diameter of the station's antenna (a large one evens scintillation out); polarisation is
    circular.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    unavailability_ratio: float
    antenna_m: float

    def attenuation_db(self, frequency_hz: float, elevation_deg: Array) -> Array:
        """What the path loses beyond free space; infinite at the horizon and below.

        Below 5 degrees the Recommendation's flat layers exaggerate. The first call at a frequency takes about a second.
        Raises ScenarioError without the package, for a frequency that the Recommendation does not cover, and for a
        place that its maps do not.
        """
        grid_deg, vertical_db = _vertical_db(self, frequency_hz)
        sine = np.sin(np.radians(elevation_deg))
        above = sine > 0
        # Attenuation goes with the length of the path, nearly 1 / sine: without it the table is smooth.
        lost_db = np.interp(elevation_deg, grid_deg, vertical_db)
        return np.where(above, lost_db / np.where(above, sine, 1.0), np.inf)


@dataclass(frozen=True)
class RadioBudget:
    """A carrier whose coding adapts to what arrives: the best one that the signal quality allows at every instant.

    ``C/N0 = EIRP - free space loss - losses - atmosphere + G/T - k`` and ``Es/N0 = C/N0 - 10 log10(symbol rate)``; a
    coding is usable when its threshold and ``margin_db`` are met. ``losses_db`` is everything else: pointing,
    polarisation, feeders behind the EIRP's reference point. G/T is taken as it is: that a wet sky is also a warmer one
    costs a low-noise receiver up to 3 dB more in rain, and belongs into the losses where it matters.

    ``bandwidth_hz`` is what the carrier occupies, ``1 + roll_off`` times the symbol rate (root-raised cosine).
    """

    eirp_dbw: float
    g_over_t_dbk: float
    frequency_hz: float
    bandwidth_hz: float
    roll_off: float
    losses_db: float
    margin_db: float
    coding: Coding
    atmosphere: Atmosphere | None = None
    constant_loss_ratio: float = 0.0
    """Packets lost all the same; the coding itself is quasi-error-free."""

    def __post_init__(self) -> None:
        if self.atmosphere is not None:
            _vertical_db(self.atmosphere, self.frequency_hz)  # complain at once

    @property
    def symbol_rate_hz(self) -> float:
        """Symbols a second."""
        return self.bandwidth_hz / (1 + self.roll_off)

    def c_n0_dbhz(self, range_km: Array, elevation_deg: Array) -> Array:
        """Carrier to noise density. Elevation matters to an atmosphere alone."""
        lost_db = free_space_loss_db(range_km, self.frequency_hz) + self.losses_db
        if self.atmosphere is not None:
            lost_db = lost_db + self.atmosphere.attenuation_db(self.frequency_hz, elevation_deg)
        return self.eirp_dbw - lost_db + self.g_over_t_dbk - BOLTZMANN_DBW_K_HZ

    def es_n0_db(self, range_km: Array, elevation_deg: Array) -> Array:
        """Energy of a symbol to noise density."""
        return self.c_n0_dbhz(range_km, elevation_deg) - 10 * math.log10(self.symbol_rate_hz)

    def evaluate(self, range_km: Array, elevation_deg: Array) -> tuple[Array, Array]:
        """Symbol rate times the best coding's efficiency."""
        efficiency = self.coding.efficiency(self.es_n0_db(range_km, elevation_deg) - self.margin_db)
        return self.symbol_rate_hz * efficiency, np.full(range_km.shape, self.constant_loss_ratio)


@lru_cache(maxsize=1024)
def _vertical_db(atmosphere: Atmosphere, frequency_hz: float) -> tuple[Array, Array]:
    """Attenuation times the sine of the elevation, by elevation in degrees."""
    low_hz, high_hz = ATMOSPHERE_HZ
    if not low_hz <= frequency_hz <= high_hz:
        raise ScenarioError(
            "ITU-R P.618 does not cover this frequency",
            field="radio.frequency",
            found=f"{frequency_hz / 1e9:g} GHz",
            allowed=f"{low_hz / 1e9:g} to {high_hz / 1e9:g} GHz with an atmosphere; any without",
        )
    itur = _itur()
    grid_deg = np.arange(ELEVATION_STEP_DEG, 90 + ELEVATION_STEP_DEG / 2, ELEVATION_STEP_DEG)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # elevations below 5 degrees: see attenuation_db
        total = itur.atmospheric_attenuation_slant_path(
            atmosphere.latitude_deg,
            atmosphere.longitude_deg,
            frequency_hz / 1e9,
            grid_deg,
            atmosphere.unavailability_ratio * 100,
            atmosphere.antenna_m,
            hs=atmosphere.altitude_m / 1000,
        )
    vertical_db: Array = np.asarray(total.value, dtype=np.float64) * np.sin(np.radians(grid_deg))
    if not np.isfinite(vertical_db).all():
        raise ScenarioError(
            "the ITU-R's maps of weather have no value here",
            field="radio.atmosphere",
            found=f"latitude {atmosphere.latitude_deg:g} deg, longitude {atmosphere.longitude_deg:g} deg",
            allowed="a station elsewhere, or no atmosphere",
        )
    return grid_deg, vertical_db


def _itur() -> Any:
    try:
        with np.errstate():  # the package silences divisions by zero for the whole process
            return importlib.import_module("itur")
    except ImportError as error:
        raise ScenarioError(
            "an atmosphere needs the package itur",
            field="radio.atmosphere",
            found=str(error),
            allowed="pip install 'skyrack[itu]', or no atmosphere",
        ) from error
