"""What the rack has to carry at once."""

from __future__ import annotations

import pytest

from testbed.errors import ScenarioError
from testbed.link.capacity import check_capacity, concurrent_rate_bps
from testbed.link.plan import LinkPlan, LinkState


def _link(*states: tuple[float, float]) -> tuple[LinkState, ...]:
    return tuple(LinkState(start_s, 5.0, rate_bps, 0.0, 64) for start_s, rate_bps in states)


def _passes(rate_bps: float, *windows: tuple[float, float]) -> tuple[LinkState, ...]:
    edges = [(0.0, 0.0)] if windows[0][0] > 0 else []
    for start_s, end_s in windows:
        edges += [(start_s, rate_bps), (end_s, 0.0)]
    return _link(*edges)


def _plans(first: tuple[float, float], second: tuple[float, float], backhaul_bps: float) -> dict[str, LinkPlan]:
    """Two satellites that pass over one station; they also have a link of 3 to each other."""
    return {
        "a": LinkPlan("a", {"b": _link((0, 3e6)), "station": _passes(8e6, first)}),
        "b": LinkPlan("b", {"a": _link((0, 3e6)), "station": _passes(8e6, second)}),
        "station": LinkPlan(
            "station",
            {"a": _passes(2e6, first), "b": _passes(2e6, second), "ground": _link((0, backhaul_bps))},
        ),
        "ground": LinkPlan("ground", {"station": _link((0, backhaul_bps))}),
    }


def test_a_wide_backhaul_counts_what_the_contact_feeds_it() -> None:
    # ring 3 + 3, pass 8 + 2, and the backhaul carries on no more than those 8 and 2
    peak_bps, at_s, flows = concurrent_rate_bps(_plans((10, 20), (30, 40), 100e6), "ground")
    assert (peak_bps, at_s) == (26e6, 10)
    assert ("station", "ground", 8e6) in flows
    assert ("ground", "station", 2e6) in flows
    assert not any({sender, peer} == {"b", "station"} for sender, peer, _ in flows)


def test_a_narrow_backhaul_counts_in_full() -> None:
    assert concurrent_rate_bps(_plans((10, 20), (30, 40), 1e6), "ground")[0] == 18e6


def test_passes_that_overlap_add_up_where_they_do() -> None:
    peak_bps, at_s, flows = concurrent_rate_bps(_plans((10, 20), (15, 40), 11e6), "ground")
    assert (peak_bps, at_s) == (6e6 + 2 * 10e6 + 11e6 + 4e6, 15)
    assert sum(rate_bps for _, _, rate_bps in flows) == peak_bps


def test_a_pass_that_ends_as_the_next_begins_does_not_overlap_it() -> None:
    assert concurrent_rate_bps(_plans((10, 20), (20, 40), 100e6), "ground")[:2] == (26e6, 10)


def test_without_a_pass_the_backhaul_carries_nothing() -> None:
    plans = _plans((10, 20), (30, 40), 100e6)
    idle = {name: LinkPlan(name, {p: s for p, s in plan.links.items() if "station" not in (name, p)}) for name, plan
            in plans.items()}  # fmt: skip
    idle["station"] = LinkPlan("station", {"ground": _link((0, 1e6))})
    idle["ground"] = LinkPlan("ground", {"station": _link((0, 1e6))})
    assert concurrent_rate_bps(idle, "ground")[0] == 6e6


def test_capacity_is_refused_only_above_it() -> None:
    plans = _plans((10, 20), (30, 40), 100e6)
    check_capacity(plans, "ground", 26e6)
    with pytest.raises(ScenarioError, match=r"10\.0 s into the mission 6 links") as refusal:
        check_capacity(plans, "ground", 25.9e6)
    assert refusal.value.found == "2 x 8 + 2 x 3 + 2 x 2 = 26 Mbit/s"
    assert "at most 25.9 Mbit/s" in str(refusal.value.allowed)
