"""First contact, no sharing: who waits for which contact, and that everything gets there whenever there is room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.flow.greedy import Greedy
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from tests.controller.flow.problems import check, gathered, mixed, spread

HORIZON = Window("north", "horizon", 0, 1000, 1)
"""Makes every link that ends before it a contact."""


@settings(max_examples=100, deadline=None)
@given(drawn=st.one_of(gathered(), spread(), mixed()))
def test_it_is_complete_wherever_there_is_room_in_the_end(drawn: Problem) -> None:
    """Every holder has a last contact that carries everything; nothing that goes before keeps anybody from it."""
    ways = sorted({(node, d.destination) for d in drawn.demands for node in d.ready_s})
    last = tuple(Window(*way, 60, 200, drawn.total_bytes) for way in ways)
    problem = Problem((*drawn.windows, *last, HORIZON), drawn.demands)
    schedule = Greedy().schedule(problem)
    check(problem, schedule)
    assert schedule.completion_s <= 60 + len(drawn.demands)  # one after the other, none longer than a second
    assert schedule == Greedy().schedule(problem)


def test_who_cannot_use_a_contact_does_not_wait_for_it() -> None:
    """Two satellites that do not see each other, each with a contact of its own at the same time."""
    windows = Window("a", "ground", 0, 20, 1), Window("b", "ground", 0, 10, 1), HORIZON
    demands = Demand("of a", {"a": 0.0}, "ground", 5), Demand("of b", {"b": 0.0}, "ground", 5)
    assert Greedy().schedule(Problem(windows, demands)).completion_s == 5


def test_who_can_use_it_waits_though_another_is_open() -> None:
    """The same two with a link between them: both queue for `a`'s contact, then go on over `b`'s, which opened first of
    those that are open then."""
    windows = (
        Window("a", "ground", 0, 8, 1),
        Window("b", "ground", 1, 40, 1),
        Window("b", "a", 0, 1000, 1000),
        Window("a", "b", 0, 1000, 1000),
        HORIZON,
    )
    demands = Demand("of a", {"a": 0.0}, "ground", 5), Demand("of b", {"b": 0.0}, "ground", 5)
    schedule = Greedy().schedule(Problem(windows, demands))
    sent = [(share.demand, share.hops[-1].window, share.size_bytes) for share in schedule.shares]
    assert sent == [("of a", 0, 5), ("of b", 0, pytest.approx(3)), ("of b", 1, pytest.approx(2))]
    assert schedule.completion_s == pytest.approx(8 + 2)


def test_a_way_may_take_two_links_that_do_not_last() -> None:
    """12 B/s into `b`, 1 B/s on: 5 bytes, stored and forwarded whole, take 5/12 + 5 s."""
    windows = Window("a", "b", 0, 50, 12), Window("b", "ground", 0, 60, 1), HORIZON
    schedule = Greedy().schedule(Problem(windows, (Demand("x", {"a": 0.0}, "ground", 5),)))
    assert schedule.completion_s == pytest.approx(5 / 12 + 5)


def test_a_link_that_changes_its_rate_is_one_link() -> None:
    """At 2 B/s, then 1, to the horizon: everybody's. A contact's two rates are one contact: `b` stays with it."""
    lasting = Window("a", "b", 0, 50, 2), Window("a", "b", 50, 1000, 1)
    windows = *lasting, Window("b", "ground", 0, 60, 1), HORIZON
    schedule = Greedy().schedule(Problem(windows, (Demand("x", {"a": 0.0}, "ground", 5),)))
    assert schedule.completion_s == pytest.approx(5 / 2 + 5)
    windows = Window("b", "ground", 0, 5, 3), Window("b", "ground", 5, 60, 1), Window("a", "ground", 2, 60, 3), HORIZON
    schedule = Greedy().schedule(Problem(windows, (Demand("x", {"a": 0.0, "b": 0.0}, "ground", 21),)))
    assert [share.hops[0].window for share in schedule.shares] == [0, 1]
    assert schedule.completion_s == pytest.approx(5 + 6)


def test_contacts_of_strangers_share_a_backhaul_in_the_order_of_arrival() -> None:
    """What comes through `b`'s contact at 1 s finds the backhaul free, though it carries `a`'s bytes at 100 s."""
    windows = (
        Window("a", "north", 0, 200, 1),
        Window("b", "north", 0, 100, 10),
        Window("north", "ground", 0, 1000, 100),
        HORIZON,
    )
    demands = Demand("of a", {"a": 0.0}, "ground", 100), Demand("of b", {"b": 0.0}, "ground", 10)
    schedule = Greedy().schedule(Problem(windows, demands))
    ends_s = {share.demand: share.hops[-1].end_s for share in schedule.shares}
    assert ends_s == pytest.approx({"of a": 100 + 1, "of b": 1 + 0.1})


def test_store_and_forward() -> None:
    """20 bytes at 10 and at 4 B/s, in either order, and 0.5 s of delay on each link: 2 + 5 + 1 s."""
    demand = Demand("x", {"a": 0.0}, "ground", 20)
    for first_Bps, second_Bps in ((10, 4), (4, 10)):
        windows = Window("a", "n", 0, 100, first_Bps, 0.5), Window("n", "ground", 0, 100, second_Bps, 0.5)
        assert Greedy().schedule(Problem(windows, (demand,))).completion_s == pytest.approx(8)


def test_the_last_delay_of_a_contact_is_not_used() -> None:
    """1 B/s for 10 s, 0.5 s away: 9.5 bytes go through the first contact and half a byte through the second."""
    windows = Window("a", "ground", 0, 10, 1, 0.5), Window("a", "ground", 20, 30, 1, 0.5), HORIZON
    schedule = Greedy().schedule(Problem(windows, (Demand("x", {"a": 0.0}, "ground", 10),)))
    assert [share.size_bytes for share in schedule.shares] == pytest.approx([9.5, 0.5])
    assert [share.hops[0].end_s for share in schedule.shares] == pytest.approx([9.5, 20.5])
    assert schedule.completion_s == pytest.approx(21)


def test_who_finds_no_contact_is_named() -> None:
    windows = Window("a", "ground", 0, 5, 1e6), HORIZON
    with pytest.raises(
        FlowError, match=r"^x finds no contact towards ground after 0:05 .*: 1 MB of it are left"
    ) as raised:
        Greedy().schedule(Problem(windows, (Demand("x", {"a": 0.0}, "ground", 6e6),)))
    assert raised.value.found == "a -> ground between 0:00 and 0:05 of mission time: 1 MB of x too much for it"


def test_of_those_that_are_there_together_the_heaviest_goes_first() -> None:
    windows = Window("a", "ground", 5, 50, 1), HORIZON
    light, heavy = Demand("x", {"a": 0.0}, "ground", 5), Demand("y", {"a": 0.0}, "ground", 5, weight=2.0)
    assert [share.demand for share in Greedy().schedule(Problem(windows, (light, heavy))).shares] == ["y", "x"]


def test_what_is_there_already_is_not_sent() -> None:
    problem = Problem((), (Demand("none", {"a": 0}, "b", 0), Demand("there", {"b": 3.0}, "b", 9)), start_s=1.0)
    schedule = Greedy().schedule(problem)
    assert [(share.demand, share.hops) for share in schedule.shares] == [("there", ())]
    assert schedule.completion_s == 3.0
