"""Where a link is shaped: the sender's egress against the receiver's ingress and the far end of the link.

The figures of docs/links.md come from tests/agent/guest/placement.py, which this runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testbed.rack.kernel import GuestKernel

pytestmark = pytest.mark.guest
Rows = dict[str, list[dict[str, Any]]]

SETTINGS = 6  # three rates, two delays


@pytest.fixture(scope="module")
def rows(guest_script: Callable[..., list[dict[str, Any]]], time_travel_kernel: GuestKernel) -> Rows:
    found: Rows = {}
    for line in guest_script(time_travel_kernel, "placement.py", "2", "8"):
        found.setdefault(line["place"], []).append(line)
    return found


def _offered(rows: Rows, place: str) -> list[dict[str, Any]]:
    first = rows[place][0]
    if "missing" in first:
        pytest.skip(f"this kernel does not offer {place}: {first['missing']}")
    return rows[place]


@pytest.mark.parametrize("place", ["egress", "ingress", "far"])
def test_delay_and_loss_are_right_wherever_the_link_is_shaped(rows: Rows, place: str) -> None:
    offered = _offered(rows, place)
    assert len(offered) == SETTINGS
    for row in offered:
        assert row["one_way_ms"] == pytest.approx(row["delay_ms"], abs=0.005), row
        assert row["rtt_ms"] == pytest.approx(2 * row["delay_ms"], abs=0.01), row
        assert row["loss_ok"], row["why"]


def test_the_default_carries_the_whole_rate(rows: Rows) -> None:
    for row in _offered(rows, "egress"):
        assert row["goodput"] == pytest.approx(1.0, abs=0.005), row


@pytest.mark.parametrize("place", ["ingress", "far"])
def test_no_other_place_carries_more_than_the_default(rows: Rows, place: str) -> None:
    # Were one better, the default would have to move. What it is worse by is in docs/links.md.
    mean = {each: sum(row["goodput"] for row in _offered(rows, each)) / SETTINGS for each in ("egress", place)}
    assert mean["egress"] > mean[place] - 0.005, mean


def test_a_queue_at_the_sender_loses_no_segment_of_its_own(rows: Rows) -> None:
    # A full queue there refuses what TCP hands it, which waits; elsewhere what does not fit is lost and sent again.
    assert [row["resent"] for row in _offered(rows, "egress")] == [0] * SETTINGS
    assert sum(row["resent"] for row in _offered(rows, "far")) > 0
