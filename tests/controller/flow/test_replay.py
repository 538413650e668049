"""The replay against closed forms of store and forward; whole chunks against their fluid plan."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.flow.expanded import TimeExpanded
from controller.flow.replay import replay
from controller.flow.whole import whole
from testbed.errors import FlowError
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import Hop, Schedule, Share
from tests.controller.flow.problems import gathered


def _one(size_bytes: float, *windows: Window) -> tuple[Problem, Schedule]:
    """One share over windows in a row."""
    problem = Problem(windows, (Demand("all", {windows[0].sender: 0.0}, windows[-1].receiver, size_bytes),))
    return problem, Schedule(
        (Share("all", size_bytes, tuple(Hop(i, w.start_s, w.end_s) for i, w in enumerate(windows))),), 0.0
    )


def test_one_link_takes_size_over_rate_and_its_delay() -> None:
    found = replay(*_one(1000, Window("a", "b", 5, 100, 50, 0.25)), 100)
    assert found.completion_s == pytest.approx(5 + 1000 / 50 + 0.25, abs=1e-9)
    (hop,) = found.shares[0].hops
    assert (hop.start_s, hop.end_s) == pytest.approx((5.0, 25.0))


@pytest.mark.parametrize("pieces", [1, 2, 10])
def test_links_in_a_row_are_a_pipeline_of_pieces(pieces: int) -> None:
    """K hops of one rate: size / rate, and for each further hop one piece and a delay."""
    rate_Bps, delay_s, size_bytes = 50.0, 0.25, 1000.0  # noqa: N806
    hops = [Window(str(i), str(i + 1), 0, 1000, rate_Bps, delay_s) for i in range(4)]
    found = replay(*_one(size_bytes, *hops), size_bytes / pieces)
    expected_s = size_bytes / rate_Bps + 3 * size_bytes / pieces / rate_Bps + 4 * delay_s
    assert found.completion_s == pytest.approx(expected_s, abs=1e-9)
    assert max(found.peak_bytes.values()) <= size_bytes / pieces + 1e-9


def test_two_senders_share_one_backhaul() -> None:
    windows = (Window("a", "s", 0, 99, 100), Window("b", "s", 0, 99, 100), Window("s", "g", 0, 99, 100))
    demands = (Demand("x", {"a": 0.0}, "g", 500), Demand("y", {"b": 0.0}, "g", 500))
    shares = (Share("x", 500, (Hop(0, 0, 5), Hop(2, 0, 10))), Share("y", 500, (Hop(1, 0, 5), Hop(2, 0, 10))))
    found = replay(Problem(windows, demands), Schedule(shares, 10.0), 50)
    assert found.completion_s == pytest.approx(50 / 100 + 1000 / 100, abs=1e-9)
    assert found.peak_bytes["s"] == pytest.approx(500, abs=50)  # half of what came waits


def test_what_a_window_cuts_goes_on_in_the_next_or_is_missing() -> None:
    first, second = Window("a", "b", 0, 6, 10), Window("a", "b", 20, 30, 10)
    problem = Problem((first, second), (Demand("all", {"a": 0.0}, "b", 100),))
    found = replay(problem, Schedule((Share("all", 100, (Hop(0, 0, 6),)),), 0.0), 25)
    assert found.completion_s == pytest.approx(24.0)
    alone = Problem((first,), problem.demands)
    assert replay(alone, Schedule((Share("all", 100, (Hop(0, 0, 6),)),), 0.0), 25).missing_bytes == {"all": 50}


def test_the_last_delay_of_a_pass_carries_nothing() -> None:
    """10 B/s from 0 to 10 s, 0.5 s away: 95 bytes arrive, the other five with the next pass. Windows that touch are one
    pass, whose last delay alone is lost."""
    first, second = Window("a", "b", 0, 10, 10, 0.5), Window("a", "b", 20, 30, 10, 0.5)
    found = replay(*_one(95, first), 5)
    assert found.completion_s == pytest.approx(10) and not found.missing_bytes and not found.missed_bytes
    assert replay(*_one(100, first), 5).missing_bytes == {"all": pytest.approx(5)}
    problem = Problem((first, second), (Demand("all", {"a": 0.0}, "b", 100),))
    found = replay(problem, Schedule((Share("all", 100, (Hop(0, 0, 10),)),), 0.0), 5)
    assert found.completion_s == pytest.approx(20 + 0.5 + 0.5)
    assert found.missed_bytes == {"all": pytest.approx(5)}
    touching = first, Window("a", "b", 10, 12, 5, 0.5)
    problem = Problem(touching, (Demand("all", {"a": 0.0}, "b", 107.5),))
    found = replay(problem, Schedule((Share("all", 107.5, (Hop(0, 0, 12),)),), 0.0), 107.5)
    assert found.completion_s == pytest.approx(12) and not found.missing_bytes and not found.missed_bytes


def test_what_misses_its_pass_is_said() -> None:
    """Two passes of 60 and 100 bytes and two demands of 50, both planned for the first: 40 bytes miss it. Planned for
    the second they miss nothing, though some of them go in the first."""
    windows = Window("a", "b", 0, 6, 10), Window("a", "b", 20, 30, 10), Window("b", "c", 0, 99, 10)
    demands = Demand("x", {"a": 0.0}, "c", 50), Demand("y", {"a": 0.0}, "c", 50)
    first = tuple(Share(name, 50, (Hop(0, 0, 6), Hop(2, 0, 6))) for name in "xy")
    found = replay(Problem(windows, demands), Schedule(first, 6.0), 10)
    assert found.missed_bytes == {"x": pytest.approx(20), "y": pytest.approx(20)} and not found.missing_bytes
    second = tuple(Share(name, 50, (Hop(1, 20, 30), Hop(2, 20, 31))) for name in "xy")
    assert replay(Problem(windows, demands), Schedule(second, 31.0), 10).missed_bytes == {}


def test_bytes_that_miss_two_passes_count_once() -> None:
    windows = (
        Window("a", "b", 0, 5, 10),
        Window("a", "b", 20, 30, 10),
        Window("b", "c", 0, 9, 10),
        Window("b", "c", 40, 50, 10),
    )
    problem = Problem(windows, (Demand("x", {"a": 0.0}, "c", 100),))
    found = replay(problem, Schedule((Share("x", 100, (Hop(0, 0, 5), Hop(2, 0, 9))),), 0.0), 10)
    assert found.missed_bytes == {"x": pytest.approx(50)}


def test_a_full_node_makes_its_senders_wait() -> None:
    """`n` gets 10 B/s and sends 5 on: of 100 bytes half would wait there. With room for 20 it takes as much as it
    sends, and nothing is later; with two senders their shares queue for the room."""
    windows = Window("a", "n", 0, 99, 10), Window("n", "g", 0, 99, 5)
    free = Problem(windows, (Demand("x", {"a": 0.0}, "g", 100),))
    schedule = Schedule((Share("x", 100, (Hop(0, 0, 10), Hop(1, 0, 20))),), 20.0)
    found = replay(free, schedule, 10)
    assert found.completion_s == pytest.approx(1 + 20) and not found.held_up_bytes
    assert found.peak_bytes["n"] == pytest.approx(50, abs=10)
    tight = replay(Problem(windows, free.demands, storage_bytes={"n": 20}), schedule, 10)
    assert tight.completion_s == pytest.approx(1 + 20) and tight.peak_bytes["n"] <= 20
    assert tight.held_up_bytes["n"] == pytest.approx(100, abs=40)


def test_a_full_node_costs_the_end_of_a_pass() -> None:
    """`n` hears `a` for 10 s and the ground only afterwards. With room for 30 bytes, 70 wait for the second pass."""
    windows = (
        Window("a", "n", 0, 10, 10),
        Window("n", "g", 20, 60, 10),
        Window("a", "n", 40, 50, 10),
    )
    schedule = Schedule((Share("x", 100, (Hop(0, 0, 10), Hop(1, 20, 30))),), 30.0)
    found = replay(Problem(windows, (Demand("x", {"a": 0.0}, "g", 100),), storage_bytes={"n": 30}), schedule, 10)
    assert found.peak_bytes == {"n": 30} and found.held_up_bytes == {"n": pytest.approx(70)}
    assert found.missed_bytes == {"x": pytest.approx(70)} and not found.missing_bytes
    assert found.completion_s == pytest.approx(40 + 7 + 1)


def test_nodes_that_wait_for_each_other_are_named() -> None:
    """Each has room for one piece, and each is full of what only the other can take: nothing is sent any more."""
    windows = (
        Window("a", "m", 0, 99, 10),
        Window("b", "n", 0, 99, 10),
        Window("m", "n", 5, 99, 10),
        Window("n", "m", 5, 99, 10),
        Window("m", "d", 0, 99, 10),
        Window("n", "d", 0, 99, 10),
    )
    demands = Demand("x", {"a": 0.0}, "d", 10), Demand("y", {"b": 0.0}, "d", 10)
    shares = (
        Share("x", 10, (Hop(0, 0, 1), Hop(2, 5, 6), Hop(5, 6, 7))),
        Share("y", 10, (Hop(1, 0, 1), Hop(3, 5, 6), Hop(4, 6, 7))),
    )
    found = replay(Problem(windows, demands, storage_bytes={"m": 10, "n": 10}), Schedule(shares, 7.0), 10)
    assert found.missing_bytes == {"x": 10, "y": 10}
    assert found.held_up_bytes == {"m": 10, "n": 10}


def test_a_node_that_cannot_store_a_piece_is_named() -> None:
    windows = Window("a", "n", 0, 99, 10), Window("n", "g", 0, 99, 10)
    problem = Problem(windows, (Demand("x", {"a": 0.0}, "g", 100),), storage_bytes={"n": 20, "g": 0})
    schedule = Schedule((Share("x", 100, (Hop(0, 0, 10), Hop(1, 0, 10))),), 10.0)
    with pytest.raises(FlowError, match=r"x cannot go through n, which stores no more than 20 B for others") as raised:
        replay(problem, schedule, 25)
    assert raised.value.found == "pieces of 25 B"
    assert replay(problem, schedule, 20).completion_s == pytest.approx(2 + 10)


@settings(max_examples=60)
@given(problem=gathered())
def test_no_node_ever_holds_more_than_it_may(problem: Problem) -> None:
    """Schedules that know of no storage limit, replayed by nodes that have one of two pieces."""
    without = Problem(problem.windows, problem.demands, problem.start_s)
    try:
        schedule = TimeExpanded().schedule(without)
    except FlowError:
        return
    limits = dict.fromkeys(problem.storage_bytes, 4.0)
    tight = replay(Problem(problem.windows, problem.demands, storage_bytes=limits), schedule, 2.0)
    assert all(tight.peak_bytes.get(node, 0.0) <= limit * (1 + 1e-9) for node, limit in limits.items())
    for demand, missing in tight.missing_bytes.items():
        assert 0 < missing <= problem.demand[demand].size_bytes


def test_nothing_is_sent_before_it_may_be() -> None:
    problem, schedule = _one(100, Window("a", "b", 0, 99, 10))
    late = Schedule((Share("all", 100, schedule.shares[0].hops, not_before_s=7.0),), 0.0)
    assert replay(problem, late, 10).completion_s == pytest.approx(17.0)
    assert replay(problem, whole(problem, late), 10).completion_s == pytest.approx(17.0)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(5, 40), st.integers(0, 2)), min_size=1, max_size=6),
    st.integers(1, 20),
    st.data(),
)
def test_whole_chunks_take_a_chunk_per_contact_longer_at_most(
    passes: list[tuple[int, int, int]], count: int, data: st.DataObject
) -> None:
    """Equal chunks that three satellites all hold; the last pass has room for everything."""
    chunk_bytes, rate_Bps = 100.0, 100.0  # noqa: N806
    by_link: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for start_s, length_s, satellite in sorted(passes):
        if not by_link[satellite] or by_link[satellite][-1][1] < start_s:
            by_link[satellite].append((start_s, start_s + length_s))
    by_link[0].append((200, 400))
    windows = [Window(f"s{i}", "g", *span, rate_Bps) for i, spans in by_link.items() for span in spans]
    ready_s = {f"s{i}": data.draw(st.integers(0, 30)) for i in range(3)}
    demands = [Demand(f"c{i}", ready_s, "g", chunk_bytes) for i in range(count)]
    problem = Problem(tuple(sorted(windows, key=lambda w: (w.start_s, w.sender))), tuple(demands))
    fluid = TimeExpanded().schedule(problem)
    chunks = whole(problem, fluid)
    sent = {demand.name: 0.0 for demand in demands}
    for share in chunks.shares:
        sent[share.demand] += share.size_bytes
    assert sent == {demand.name: pytest.approx(chunk_bytes) for demand in demands}
    assert len(chunks.shares) <= count + len(windows)  # only the end of a pass splits
    found = replay(problem, chunks, chunk_bytes)
    assert not found.missing_bytes
    assert found.completion_s <= chunks.completion_s + 1e-6
    if fluid.completion_s <= 100:  # while passes are near each other; a chunk too many waits for the last pass
        assert found.completion_s <= fluid.completion_s + 1.0 + 1e-6 or found.completion_s >= 200


def test_chunks_that_find_no_room_are_named() -> None:
    problem = Problem(
        (Window("a", "g", 0, 10, 10),), (Demand("c0", {"a": 0.0}, "g", 60), Demand("c1", {"a": 0.0}, "g", 60))
    )
    impossible = Schedule(tuple(Share(f"c{i}", 60, (Hop(0, 0, 10),)) for i in range(2)), 10.0)
    with pytest.raises(FlowError, match="no contact left for chunk c1"):
        whole(problem, impossible)
