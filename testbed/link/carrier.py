"""From a scenario's words for a link to its budget."""

from __future__ import annotations

from testbed.errors import ScenarioError
from testbed.link.budget import Atmosphere, ConstantBudget, ElevationTable, LinkBudget, RadioBudget
from testbed.link.modcod import CODINGS
from testbed.orbit.stations import Station
from testbed.scenario_links import AtmosphereSettings, CarrierSettings, RadioSettings


def budget_of(carrier: CarrierSettings, station: Station | None, field: str) -> LinkBudget:
    """The budget of one direction; ``station`` is the link's end on the ground, None between satellites.

    Raises ScenarioError for what cannot be had, such as weather between satellites; ``field`` is the carrier's.
    """
    if carrier.radio is not None:
        return _radio(carrier.radio, carrier.loss, station, field)
    if carrier.rates:
        return ElevationTable(tuple((step.elevation_deg, step.rate_bps) for step in carrier.rates), carrier.loss)
    return ConstantBudget(carrier.rate_bps or 0.0, carrier.loss)


def _radio(radio: RadioSettings, loss_ratio: float, station: Station | None, field: str) -> RadioBudget:
    if radio.atmosphere is not None and station is None:
        raise ScenarioError(
            "between satellites there is no atmosphere",
            field=f"{field}.radio.atmosphere",
            found="an atmosphere",
            allowed="none here; one under space_ground",
        )
    try:
        return RadioBudget(
            eirp_dbw=radio.eirp_dbw,
            g_over_t_dbk=radio.g_over_t_dbk,
            frequency_hz=radio.frequency_hz,
            bandwidth_hz=radio.bandwidth_hz,
            roll_off=radio.roll_off,
            losses_db=radio.losses_db,
            margin_db=radio.margin_db,
            coding=CODINGS[radio.modcods],
            atmosphere=_atmosphere(radio.atmosphere, station),
            constant_loss_ratio=loss_ratio,
        )
    except ScenarioError as error:
        raise ScenarioError(
            error.message, field=f"{field}.{error.field}", found=error.found, allowed=error.allowed
        ) from error


def _atmosphere(settings: AtmosphereSettings | None, station: Station | None) -> Atmosphere | None:
    if settings is None or station is None:
        return None
    return Atmosphere(
        station.latitude_deg, station.longitude_deg, station.altitude_m, settings.unavailability, settings.antenna_m
    )
