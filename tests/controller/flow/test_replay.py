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
