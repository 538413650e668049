"""What names of satellites and instants of CCSDS become."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from testbed.orbit.elements import parse_instant, slug


@pytest.mark.parametrize(
    ("name", "node"), [("ISS (ZARYA)", "iss-zarya"), ("  CZ-3B R/B*", "cz-3b-r-b"), ("天宮", ""), ("É_1", "e-1")]
)
def test_slugs_are_host_names(name: str, node: str) -> None:
    assert slug(name) == node


@pytest.mark.parametrize(
    "text", ["2026-06-01T12:34:56.789012", "2026-152T12:34:56.789012Z", "2026-06-01T12:34:56.789012000Z"]
)
def test_instants_by_month_or_by_day_of_the_year(text: str) -> None:
    minute, second = parse_instant(text)
    assert (minute, second) == (datetime(2026, 6, 1, 12, 34, tzinfo=timezone.utc), 56.789012)
