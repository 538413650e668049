"""The closed-form bound against what can be worked out on paper."""

from __future__ import annotations

import math

import pytest

from controller.flow import bound
from controller.flow.bound import lower_bound_s
from testbed.flow.problem import Demand, Problem, Window


def test_one_link_from_its_release() -> None:
    """30 bytes, ready 4 s into a link of 2 B/s that rests from 10 s to 100 s: 12 bytes before, 18 after."""
    windows = Window("a", "b", 0, 10, 2), Window("a", "b", 100, 200, 2)
    assert lower_bound_s(Problem(windows, (Demand("x", {"a": 4}, "b", 30),))) == pytest.approx(109.0)


def test_a_relay_passes_on_what_it_has_got() -> None:
    """The backhaul is always up, the contact from 50 s on: bytes go through at the slower of the two from then."""
    windows = Window("station", "ground", 0, 1000, 3), Window("a", "station", 50, 1000, 5)
    problem = Problem(windows, (Demand("x", {"a": 0}, "ground", 30),))
    assert lower_bound_s(problem) == pytest.approx(60.0)
    # With a backlog the backhaul goes on after the contact: 50 bytes by 60 s, sent on at 3 B/s since 50 s.
    windows = Window("station", "ground", 0, 1000, 3), Window("a", "station", 50, 60, 5)
    problem = Problem(windows, (Demand("x", {"a": 0}, "ground", 45),))
    assert lower_bound_s(problem) == pytest.approx(65.0)


def test_stations_are_added_up() -> None:
    """Two stations that hear a satellite each: 3 B/s from 10 s, 3 + 2 B/s from 20 s. 80 bytes: 30 + 5 x 10 s."""
    windows = (
        Window("n", "ground", 0, 99, 3),
        Window("s", "ground", 0, 99, 9),
        Window("a", "n", 10, 99, 4),
        Window("b", "s", 20, 99, 2),
    )
    demands = Demand("x", {"a": 0}, "ground", 40), Demand("y", {"b": 0}, "ground", 40)
    # b alone has 2 B/s for 40 bytes: 40 s, which is the latest of all bounds.
    assert lower_bound_s(Problem(windows, demands)) == pytest.approx(40.0)
    either = tuple(Demand(name, {"a": 0, "b": 0}, "ground", 40) for name in "xy")
    assert lower_bound_s(Problem(windows, either)) == pytest.approx(30.0)


def test_late_bytes_cannot_use_what_was_before() -> None:
    windows = (Window("a", "b", 0, 100, 2),)
    demands = Demand("x", {"a": 0}, "b", 10), Demand("y", {"a": 60}, "b", 20)
    assert lower_bound_s(Problem(windows, demands)) == pytest.approx(70.0)


def test_many_origins_count_their_own_links(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = tuple(Window(f"s{n}", "ground", 10 * n, 10 * n + 5, 4) for n in range(9))
    demands = tuple(Demand(f"x{n}", {f"s{n}": 0}, "ground", 12) for n in range(9))
    assert lower_bound_s(Problem(windows, demands)) == pytest.approx(83.0)
    monkeypatch.setattr(bound, "MOST_PATIENT", 2)
    assert lower_bound_s(Problem(windows, demands)) == pytest.approx(83.0)


def test_never() -> None:
    windows = (Window("a", "b", 0, 10, 2),)
    assert lower_bound_s(Problem(windows, (Demand("x", {"a": 0}, "b", 21),))) == math.inf
    assert lower_bound_s(Problem((), (Demand("x", {"a": 0}, "b", 1),))) == math.inf
    assert lower_bound_s(Problem((), (), start_s=7.0)) == 7.0
