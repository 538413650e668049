"""Contacts with long gaps between them, on a real kernel whose TCP ages in virtual time: each begins at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testbed.rack.kernel import GuestKernel

pytestmark = [pytest.mark.guest, pytest.mark.slow]

CONTACTS = 8
BEGIN_S = 0.05
"""Beyond two round trips; the guest's timers, of 10 ms, included."""
COLD_S = 0.4
"""For the first contact of all, which pays for TCP, TLS and HTTP/2 and what gRPC sets up once in a process."""
CHUNK_BYTES = 256 << 10


@pytest.fixture(scope="module", params=[60.0, 4800.0], ids=["60 s", "80 minutes"])
def flown(
    request: pytest.FixtureRequest,
    guest_script: Callable[..., list[dict[str, Any]]],
    time_travel_kernel: GuestKernel,
) -> dict[str, dict[str, Any]]:
    """What sender and receiver say after a link was kept busy through all contacts."""
    lines = guest_script(time_travel_kernel, "gaps.py", str(request.param), str(CONTACTS), "demo")
    return {line["what"]: line for line in lines}


def test_the_first_byte_is_there_two_round_trips_and_50_ms_after_the_start(flown: dict[str, dict[str, Any]]) -> None:
    first, *later = flown["received"]["contacts"]
    assert first["first_ms"] <= 4.5 * first["rtt_ms"] + COLD_S * 1e3
    assert len(later) == CONTACTS - 1
    for contact in later:
        assert contact["rtt_ms"] / 2 < contact["first_ms"] <= 2 * contact["rtt_ms"] + BEGIN_S * 1e3, contact


def test_nothing_from_before_a_gap_is_handed_over_after_it(flown: dict[str, dict[str, Any]]) -> None:
    assert flown["received"]["stale"] == 0


def test_every_contact_is_cut_and_none_breaks(flown: dict[str, dict[str, Any]]) -> None:
    sent = flown["sent"]
    assert sent["breaks"] == []
    assert sent["counts"]["cuts"] >= CONTACTS
    assert sent["counts"]["dials"] == CONTACTS


def test_a_cut_costs_less_than_a_chunk(flown: dict[str, dict[str, Any]]) -> None:
    # Besides what was sent twice, up to a chunk per worker is still on its way when all ends.
    sent, received = flown["sent"], flown["received"]
    assert sent["counts"]["resumed bytes"] > 0
    twice = received["bytes"] - received["chunks"] * CHUNK_BYTES
    assert twice < (CONTACTS - 1) * CHUNK_BYTES + 3 * CHUNK_BYTES
    assert sent["counts"]["resent bytes"] < (CONTACTS - 1) * CHUNK_BYTES
