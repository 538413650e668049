"""Link budgets: against published ones, closed forms, and the ITU-R's own figures."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.link.budget import (
    BOLTZMANN_DBW_K_HZ,
    Array,
    Atmosphere,
    ConstantBudget,
    ElevationTable,
    LinkBudget,
    RadioBudget,
    delay_ms,
    free_space_loss_db,
)
from testbed.link.modcod import CODINGS, DVB_S2, SHANNON, Coding

# An X-band downlink from a small satellite to a 3.4 m dish.
X_BAND = RadioBudget(
    eirp_dbw=12.0,
    g_over_t_dbk=23.0,
    frequency_hz=8.2e9,
    bandwidth_hz=60e6,
    roll_off=0.2,
    losses_db=1.0,
    margin_db=1.0,
    coding=DVB_S2,
)
LONDON = Atmosphere(51.5, -0.14, 31.4, unavailability_ratio=0.001, antenna_m=3.4)


def carried(budget: LinkBudget, range_km: Any, elevation_deg: Any = math.nan) -> tuple[Array, Array]:
    range_km, elevation_deg = np.broadcast_arrays(np.asarray(range_km, float), np.asarray(elevation_deg, float))
    return budget.evaluate(range_km, elevation_deg)


def test_delay_is_range_over_the_speed_of_light() -> None:
    # By definition light takes 1/299792458 s for a metre; the Moon's mean distance, 384,400 km, is 1.282 s away.
    assert delay_ms(np.array([299.792458, 384_400.0])) == pytest.approx([1.0, 1282.2], rel=1e-4)


# -- constants and tables ---------------------------------------------------------------------------------------------


def test_a_constant_budget_asks_for_neither_range_nor_elevation() -> None:
    rate_bps, loss_ratio = carried(ConstantBudget(8e6, 0.01), [[0.0, 500.0, 3000.0]])
    assert rate_bps.tolist() == [[8e6, 8e6, 8e6]]
    assert loss_ratio.tolist() == [[0.01, 0.01, 0.01]]


def test_a_table_steps_at_its_elevations() -> None:
    table = ElevationTable(((40.0, 8e6), (15.0, 2e6)), 0.001)  # in any order
    elevation_deg = [-5.0, 0.0, 14.999, 15.0, 39.999, 40.0, 90.0, math.nan]
    rate_bps, loss_ratio = carried(table, 1000.0, elevation_deg)
    assert rate_bps.tolist() == [0.0, 0.0, 0.0, 2e6, 2e6, 8e6, 8e6, 0.0]
    assert loss_ratio.tolist() == [0.001] * 8


# -- free space -------------------------------------------------------------------------------------------------------


def test_free_space_loss_in_closed_form() -> None:
    # ITU-R P.525 in practical units: 32.45 + 20 log f (MHz) + 20 log d (km); a kilometre of 2.4 GHz is 100.05 dB.
    assert free_space_loss_db(np.array([1.0]), 2.4e9) == pytest.approx([100.05], abs=0.01)
    assert free_space_loss_db(np.array([1.0, 10.0, 2000.0]), 1e6) == pytest.approx([32.45, 52.45, 98.47], abs=0.01)
    # A wavelength over 4 pi away nothing is lost, and twice as far is 20 log 2 more.
    wavelength_km = 299_792.458 / 8e9
    near_km = wavelength_km / (4 * math.pi)
    assert free_space_loss_db(np.array([near_km, 2 * near_km]), 8e9) == pytest.approx([0, 6.0206], abs=1e-4)


@pytest.mark.parametrize(
    ("altitude_km", "elevation_deg", "frequency_hz", "published_db"),
    [
        (600, 30, 2e9, 159.1),
        (600, 30, 20e9, 179.1),
        (600, 30, 30e9, 182.6),
        (1200, 30, 20e9, 184.5),
        (35786, 12.5, 2e9, 190.6),
    ],
)
def test_free_space_loss_of_3gpp_satellites(
    altitude_km: float, elevation_deg: float, frequency_hz: float, published_db: float
) -> None:
    """3GPP TR 38.821, table 6.1.3.3-1, on its sphere of 6371 km."""
    sine = math.sin(math.radians(elevation_deg))
    range_km = math.sqrt((6371 * sine) ** 2 + altitude_km**2 + 2 * 6371 * altitude_km) - 6371 * sine
    assert free_space_loss_db(np.array(range_km), frequency_hz) == pytest.approx(published_db, abs=0.06)


# -- whole budgets ----------------------------------------------------------------------------------------------------


def test_boltzmann() -> None:
    assert pytest.approx(-228.6, abs=0.001) == BOLTZMANN_DBW_K_HZ


@pytest.mark.parametrize(
    ("eirp_dbw", "g_over_t_dbk", "frequency_hz", "range_km", "losses_db", "lost_db", "c_n0_dbhz"),
    [
        # FCC IBFS SAT-AMD-20060727-00083, table 8: uplink of a handheld terminal to a geostationary satellite
        # (atmosphere 0.1 dB, propagation margin 7.5 dB).
        pytest.param(-1.0, 17.0, 2.020e9, 39_554.0, 0.1 + 7.5, 190.5, 46.5, id="handheld uplink"),
        # FCC IBFS SAT-MOD-20080204-00036: X-band telecommand at 90 degrees to a geostationary satellite; 20 dBi and
        # 3300 K; C/N is 18.1 dB in 440 kHz.
        pytest.param(
            61.7, 20 - 10 * math.log10(3300), 7.026e9, 35_786.0, 0.1, 200.5, 18.1 + 10 * math.log10(440e3), id="command"
        ),
        # EURASIP J. Wireless Com. Network. 2020, doi 10.1186/s13638-020-01674-9, table 1: S-band downlink, 38.2 dBi and
        # 130 K, 10 dB off the beam's axis. The range is the one of the published 162.2 dB.
        pytest.param(8.3, 38.2 - 10 * math.log10(130), 2.2e9, 1397.4, 10.0, 162.2, 81.8, id="low orbit downlink"),
    ],
)
def test_published_budgets(
    eirp_dbw: float,
    g_over_t_dbk: float,
    frequency_hz: float,
    range_km: float,
    losses_db: float,
    lost_db: float,
    c_n0_dbhz: float,
) -> None:
    """Each is published to a tenth of a decibel, and so is each of its terms."""
    budget = RadioBudget(eirp_dbw, g_over_t_dbk, frequency_hz, 1e6, 0.0, losses_db, 0.0, SHANNON)
    assert free_space_loss_db(np.array(range_km), frequency_hz) == pytest.approx(lost_db, abs=0.06)
    assert budget.c_n0_dbhz(np.array(range_km), np.array(math.nan)) == pytest.approx(c_n0_dbhz, abs=0.11)


def test_a_rate_is_what_the_frames_of_the_standard_carry() -> None:
    """8PSK 3/4 in 36 MHz with a roll-off of 0.2: 30 million symbols a second, in frames of 241 slots of 90 symbols with
    48,408 - 80 bits each (ETSI EN 302 307-1); it needs 7.91 dB, and the next modcod 8.97."""
    budget = replace(X_BAND, bandwidth_hz=36e6, roll_off=0.2)
    assert budget.symbol_rate_hz == pytest.approx(30e6)
    # Free-space loss goes with 20 log d: one kilometre's Es/N0 says where it is 8.5 dB, after a margin of 1 dB.
    range_km = 10 ** ((float(budget.es_n0_db(np.array(1.0), np.array(math.nan))) - 9.5) / 20)
    rate_bps, loss_ratio = carried(budget, [range_km])
    assert rate_bps == pytest.approx([30e6 / (241 * 90) * (48_408 - 80)], rel=1e-6)
    assert loss_ratio.tolist() == [0.0]


def test_the_link_ends_where_the_most_robust_coding_does() -> None:
    at_1_km_db = 12.0 - 1.0 + 23.0 + 228.6 - 10 * math.log10(50e6) - (92.45 + 20 * math.log10(8.2))
    last_km = 10 ** ((at_1_km_db - 1.0 - (-2.35)) / 20)
    rate_bps, _ = carried(X_BAND, [last_km * 0.999, last_km * 1.001])
    assert rate_bps == pytest.approx([50e6 * 0.490243, 0.0])


def test_losses_and_margin_cost_signal_decibel_by_decibel() -> None:
    range_km = np.geomspace(300, 5000, 500)
    worse = [replace(X_BAND, losses_db=4.0), replace(X_BAND, margin_db=4.0), replace(X_BAND, eirp_dbw=9.0)]
    expected = carried(X_BAND, range_km * 10 ** (3 / 20))[0]
    assert len(set(expected.tolist())) > 15
    for budget in worse:
        # A range may sit on a threshold to within rounding: one of 500 may fall to the other side.
        assert (carried(budget, range_km)[0] != expected).sum() <= 1


@given(
    near_km=st.floats(1, 50_000),
    further=st.floats(1, 10),
    name=st.sampled_from(sorted(CODINGS)),
    margin_db=st.floats(0, 6),
)
def test_further_away_never_carries_more(near_km: float, further: float, name: str, margin_db: float) -> None:
    budget = replace(X_BAND, coding=CODINGS[name], margin_db=margin_db)
    rate_bps, _ = carried(budget, [near_km, near_km * further])
    assert rate_bps[0] >= rate_bps[1] >= 0


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_answers_have_the_arguments_shape(coding: Coding) -> None:
    for shape in [(), (3,), (2, 3)]:
        rate_bps, loss_ratio = carried(replace(X_BAND, coding=coding, constant_loss_ratio=0.5), np.full(shape, 900.0))
        assert rate_bps.shape == loss_ratio.shape == shape
        assert (rate_bps > 0).all() and (loss_ratio == 0.5).all()


# -- atmosphere -------------------------------------------------------------------------------------------------------


def test_an_atmosphere_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "itur", None)
    with pytest.raises(ScenarioError, match=r"pip install 'skyrack\[itu\]'") as caught:
        replace(X_BAND, atmosphere=replace(LONDON, altitude_m=32.123))  # not in any cache
    assert caught.value.field == "radio.atmosphere"


@pytest.mark.parametrize("frequency_hz", [437e6, 60e9])
def test_an_atmosphere_knows_its_frequencies(frequency_hz: float) -> None:
    with pytest.raises(ScenarioError, match="1 to 55 GHz"):
        replace(X_BAND, frequency_hz=frequency_hz, atmosphere=LONDON)


def test_an_atmosphere_is_the_sum_that_the_itu_prescribes() -> None:
    """ITU-R P.618-13, 2.5: gas + sqrt((rain + cloud)^2 + scintillation^2), each with its units spelled out.

    The place is that of the ITU's validation examples (revision 5.1), whose gas attenuation is 0.226874038 dB.
    """
    itur = pytest.importorskip("itur", reason="the extra [itu] is not installed")
    unit = itur.u
    place, elevation_deg, percent = (51.5, -0.14), 31.07699124, 1.0
    frequency, altitude, dish = 14.25 * unit.GHz, 0.031382984 * unit.km, 120 * unit.cm
    temperature = itur.surface_mean_temperature(*place)
    pressure = itur.standard_pressure(altitude)
    density = itur.surface_water_vapour_density(*place, percent, altitude)
    vapour = itur.total_water_vapour_content(*place, percent, altitude)
    gas = itur.gaseous_attenuation_slant_path(
        frequency, elevation_deg, density, pressure, temperature, vapour, altitude
    )
    assert gas.value == pytest.approx(0.226874038, rel=1e-6)
    rain = itur.rain_attenuation(*place, frequency, elevation_deg, altitude, percent)
    cloud = itur.cloud_attenuation(*place, elevation_deg, frequency, percent)
    scintillation = itur.scintillation_attenuation(*place, frequency, elevation_deg, percent, dish)
    total_db = gas.value + math.hypot(rain.value + cloud.value, scintillation.value)
    ours = Atmosphere(*place, altitude_m=31.382984, unavailability_ratio=0.01, antenna_m=1.2)
    assert ours.attenuation_db(14.25e9, np.array(elevation_deg)) == pytest.approx(total_db, abs=1e-3)


@pytest.mark.parametrize(("frequency_hz", "tolerance_db"), [(8.2e9, 0.01), (30e9, 0.25)])
def test_between_the_tables_rows_an_atmosphere_is_as_good(frequency_hz: float, tolerance_db: float) -> None:
    itur = pytest.importorskip("itur", reason="the extra [itu] is not installed")
    elevation_deg = np.random.default_rng(3).uniform(5.0, 89.99, 2000)
    expected = itur.atmospheric_attenuation_slant_path(
        51.5, -0.14, frequency_hz / 1e9, elevation_deg, 0.001, 3.4, hs=0.0314
    )
    ours = replace(LONDON, unavailability_ratio=1e-5).attenuation_db(frequency_hz, elevation_deg)
    assert np.abs(ours - expected.value).max() <= tolerance_db


def test_weather_costs_signal() -> None:
    pytest.importorskip("itur", reason="the extra [itu] is not installed")
    elevation_deg = np.array([5.0, 10.0, 20.0, 45.0, 80.0])
    range_km = np.full(5, 1000.0)
    wet = replace(X_BAND, atmosphere=LONDON)
    lost_db = LONDON.attenuation_db(8.2e9, elevation_deg)
    assert X_BAND.es_n0_db(range_km, elevation_deg) - wet.es_n0_db(range_km, elevation_deg) == pytest.approx(lost_db)
    assert (np.diff(lost_db) < 0).all() and lost_db[-1] > 0.05
    rarer = replace(LONDON, unavailability_ratio=0.0001).attenuation_db(8.2e9, elevation_deg)
    higher = LONDON.attenuation_db(20e9, elevation_deg)
    assert (rarer > lost_db).all() and (higher > lost_db).all()


def test_at_the_horizon_an_atmosphere_closes_the_link() -> None:
    pytest.importorskip("itur", reason="the extra [itu] is not installed")
    wet = replace(X_BAND, atmosphere=LONDON)
    rate_bps, _ = carried(wet, 1000.0, [-90.0, -1.0, 0.0, math.nan, 1e-9, 60.0])
    assert rate_bps[:5].tolist() == [0.0] * 5
    assert rate_bps[5] > 0


def test_a_place_off_the_maps_is_refused() -> None:
    pytest.importorskip("itur", reason="the extra [itu] is not installed")
    with pytest.raises(ScenarioError, match="no value here") as caught:
        replace(X_BAND, atmosphere=replace(LONDON, latitude_deg=-90.0))
    assert "latitude -90 deg" in str(caught.value)


def test_the_package_leaves_numpys_warnings_alone() -> None:
    pytest.importorskip("itur", reason="the extra [itu] is not installed")
    for name in [name for name in sys.modules if name.partition(".")[0] == "itur"]:
        del sys.modules[name]
    with np.errstate(divide="warn"):
        replace(X_BAND, atmosphere=replace(LONDON, altitude_m=33.456))
        assert np.geterr()["divide"] == "warn"
