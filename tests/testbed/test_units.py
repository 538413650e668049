"""Quantities at the edge, against values that standards define."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import units
from testbed.errors import ScenarioError

QUANTITIES = tuple(units.BY_SUFFIX.values())


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_rate_bps, "3.5 Mbit/s", 3.5e6),
        (units.parse_rate_bps, "100kbit/s", 1e5),
        (units.parse_rate_bps, "0 bit/s", 0.0),
        (units.parse_rate_bps, "1e2 Mbit/s", 1e8),
        (units.parse_duration_s, "3 h", 10_800.0),
        (units.parse_duration_s, "1.5 min", 90.0),
        (units.parse_duration_s, "98.88 min", 5932.8),
        (units.parse_duration_s, "250 ms", 0.25),
        (units.parse_delay_ms, "12 ms", 12.0),
        (units.parse_delay_ms, "0.1 ms", 0.1),
        (units.parse_delay_ms, "100 us", 0.1),
        (units.parse_distance_km, "80 km", 80.0),
        (units.parse_distance_km, "705000 m", 705.0),
        (units.parse_angle_deg, "10 deg", 10.0),
        # IEC 80000-13: a kibibyte is 1024 bytes, a kilobyte 1000.
        (units.parse_size_bytes, "128 KiB", 131_072.0),
        (units.parse_size_bytes, "1 kB", 1000.0),
        (units.parse_size_bytes, "1 MB", 1e6),
        (units.parse_size_bytes, "1 GiB", float(2**30)),
    ],
)
def test_parses(parse: object, text: str, value: float) -> None:
    assert parse(text) == value  # type: ignore[operator]


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.noun)
@pytest.mark.parametrize("text", ["3", "3.5", "0", ""])
def test_the_unit_is_mandatory(quantity: units.Quantity, text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        quantity.parse(text)
    assert caught.value.allowed is not None
    for spelling in quantity.scale:
        assert spelling in caught.value.allowed


@pytest.mark.parametrize(
    "text",
    [
        "-1 Mbit/s",
        "1 Mbit",
        "1 MB/s",
        "fast",
        "nan bit/s",
        "inf bit/s",
        "1 Mbit/s per link",
        "1e999 Gbit/s",
        "٣ bit/s?",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        units.parse_rate_bps(text)
    assert caught.value.found == text


def test_suggests_the_right_case() -> None:
    # 1 mbit/s would be a millibit.
    with pytest.raises(ScenarioError, match="did you mean Mbit/s"):
        units.parse_rate_bps("1 mbit/s")


@pytest.mark.parametrize(
    ("text", "value"),
    [("3.5 Mbit/s", 3.5e6), ("11 Mbit/s", 11e6), ("1 Gbit/s", 1e9), ("0 bit/s", 0.0), ("0.5 bit/s", 0.5)],
)
def test_formats_as_people_write(text: str, value: float) -> None:
    assert units.format_rate_bps(value) == text


def test_formats_the_other_kinds() -> None:
    assert units.format_duration_s(10_800) == "3 h"
    assert units.format_delay_ms(0.1) == "100 us"
    assert units.format_size_bytes(131_072) == "128 KiB"
    assert units.format_angle_deg(10.0) == "10 deg"
    assert units.format_distance_km(80.0) == "80 km"


@given(st.sampled_from(QUANTITIES), st.floats(min_value=0, max_value=1e18, allow_nan=False))
def test_what_is_formatted_parses_back_to_the_same_float(quantity: units.Quantity, value: float) -> None:
    assert quantity.parse(quantity.format(value)) == value


@given(st.data(), st.decimals(min_value=0, max_value=10**9, places=6, allow_nan=False))
def test_conversion_is_rounded_once(data: st.DataObject, number: object) -> None:
    quantity = data.draw(st.sampled_from(QUANTITIES))
    unit = data.draw(st.sampled_from(sorted(quantity.scale)))
    exact = Fraction(str(number)) * Fraction(quantity.scale[unit])
    # Oracle: exact rational arithmetic; Fraction's own conversion to float rounds correctly.
    assert quantity.parse(f"{number:f} {unit}") == float(exact)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_scenario_error(text: str) -> None:
    for quantity in QUANTITIES:
        try:
            value = quantity.parse(text)
        except ScenarioError:
            continue
        assert value >= 0


def test_names_carry_their_quantity() -> None:
    assert units.quantity_of("up_rate_bps") == ("up_rate", units.RATE)
    assert units.quantity_of("chunk_bytes") == ("chunk", units.SIZE)
    assert units.quantity_of("rounds") is None
    assert units.quantity_of("s") is None
