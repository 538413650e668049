"""Minimum cuts and how they are put into words, on problems whose bottleneck is plain to see."""

from __future__ import annotations

import pytest

from controller.flow.bottleneck import bottleneck, clock, find_cut
from testbed.flow.problem import Demand, Problem, Window

WINDOWS = (
    Window("sat-0-1", "svalbard", 33, 250, 1000),
    Window("sat-0-2", "sat-0-1", 0, 4000, 9000),
    Window("svalbard", "ground", 0, 4000, 5000),
    Window("sat-0-1", "svalbard", 3700, 3900, 1000),
)
DEMANDS = Demand("of 1", {"sat-0-1": 0}, "ground", 2e5), Demand("of 2", {"sat-0-2": 0}, "ground", 1e5)


def test_the_contact_is_the_bottleneck() -> None:
    """217 s at 1 kB/s carry 217 kB of 300; other links cut the time into cells, which are one again in words."""
    problem = Problem((*WINDOWS, Window("sat-0-9", "svalbard", 100, 200, 1)), DEMANDS)
    cut = find_cut(problem, 600)
    assert cut.missing_bytes == pytest.approx(83e3, rel=1e-9)
    assert cut.windows == (0,)
    (span,) = cut.spans
    assert (span.sender, span.receiver, span.start_s, span.end_s) == ("sat-0-1", "svalbard", 33, 250)
    assert span.size_bytes == pytest.approx(217e3)
    assert cut.demands == ("of 1", "of 2")
    expected = "sat-0-1 -> svalbard between 0:33 and 4:10 of mission time: 83 kB of of 1 and of 2 too much for it"
    assert bottleneck(problem, 600) == str(cut) == expected


def test_by_the_next_contact_all_can_be_through() -> None:
    problem = Problem(WINDOWS, DEMANDS)
    assert find_cut(problem, 3700 + 83 + 1e-6).missing_bytes == 0
    assert find_cut(problem, 3700 + 82).missing_bytes == pytest.approx(1e3)
    assert bottleneck(problem, 3800) == "everything can be through by 1:03:20 of mission time"
    assert "3:01:40" not in bottleneck(problem, 3750) and "1:01:40 and 1:02:30" in bottleneck(problem, 3750)


def test_a_full_store() -> None:
    """The satellite gets 100 bytes while it hears no station, and may hold 30."""
    windows = Window("a", "b", 0, 10, 10), Window("b", "ground", 20, 30, 100)
    problem = Problem(windows, (Demand("x", {"a": 0}, "ground", 100),), storage_bytes={"b": 30})
    cut = find_cut(problem, 30)
    assert (cut.storage, cut.spans) == (("b",), ())
    assert cut.missing_bytes == pytest.approx(70)
    assert "the storage of b" in str(cut)


def test_no_way_at_all() -> None:
    problem = Problem((Window("a", "b", 0, 10, 10),), (Demand("x", {"a": 0}, "c", 5),))
    assert bottleneck(problem, 10) == "nothing leads to where x should be by 0:10 of mission time"


def test_only_who_is_short_is_named() -> None:
    """Two satellites with a contact each to one destination: one has room."""
    windows = Window("a", "ground", 0, 10, 10), Window("b", "ground", 0, 10, 10)
    demands = Demand("small", {"a": 0}, "ground", 50), Demand("large", {"b": 0}, "ground", 150)
    cut = find_cut(Problem(windows, demands), 10)
    assert cut.demands == ("large",)
    assert cut.windows == (1,)


def test_clock() -> None:
    assert [clock(at_s) for at_s in (0, 33, 250, 3599.6, 7325)] == ["0:00", "0:33", "4:10", "1:00:00", "2:02:05"]
