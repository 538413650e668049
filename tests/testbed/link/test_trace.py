"""Traces: what a recording says at an instant is what the link plan has there; what is wrong is named."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.link.trace import MAX_STATES, Row, Trace, read_trace

EPOCH = datetime(2026, 3, 20, 5, tzinfo=timezone.utc)
HEADER = "time_s,delay_ms,rate_bps,loss_ratio"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "starlink.csv"
        path.write_text(text)
        return path

    return written


def refusal(path: Path) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        read_trace(path)
    assert caught.value.where == str(path)
    return caught.value


# -- what a file says -------------------------------------------------------------------------------------------------


def test_a_trace_is_read_as_it_stands(write: Write) -> None:
    trace = read_trace(write(f"{HEADER}\n0,21.5,8e6,0\n12.5, 24 ,5700000,0.001\n\n30,,,\n"))
    assert trace.rows == (Row(0.0, 21.5, 8e6, 0.0), Row(12.5, 24.0, 5.7e6, 0.001))
    assert (trace.end_s, trace.first_line, trace.end_line) == (30.0, 2, 5)


def test_columns_may_stand_in_any_order_and_rates_be_in_mbps(write: Write) -> None:
    trace = read_trace(write("\ufeffloss_ratio,rate_mbps,time_s,delay_ms\r\n0.25,0.57,0,3\r\n,,10\r\n"))
    # 0.57 x 1,000,000 is 569,999.99... in floats; a trace means 570,000.
    assert trace.rows == (Row(0.0, 3.0, 570_000.0, 0.25),)
    assert trace.end_s == 10.0


@pytest.mark.parametrize(
    ("first", "second", "apart_s"),
    [
        ("2026-03-20T05:00:00Z", "2026-03-20T05:00:00.1Z", 0.1),
        ("2026-03-20 05:00:00.25+00:00", "2026-03-20T07:30:00+02:00", 1799.75),
        ("2026-03-20T05:00:00.000001Z", "2026-03-21T05:00:00.123456789Z", 86400.123455),
    ],
)
def test_times_may_be_instants(write: Write, first: str, second: str, apart_s: float) -> None:
    trace = read_trace(write(f"time,delay_ms,rate_bps,loss_ratio\n{first},20,8e6,0\n{second},,,\n"))
    assert trace.end_s == apart_s
    assert trace.origin is not None
    assert abs(trace.origin - EPOCH) < timedelta(seconds=1)


# -- what a link plan gets of it --------------------------------------------------------------------------------------


def test_states_are_complete_and_ready_for_a_link_plan(write: Write) -> None:
    rows = "0,20,8e6,0\n10,20,0,0\n20,25,2e6,0.5\n30,,,"
    states = read_trace(write(f"{HEADER}\n{rows}\n")).states(EPOCH, 30.0)
    assert states == (
        # 2 x ceil(8 Mbit/s x 20 ms / 12,000 bit) + 64 = 2 x 14 + 64
        LinkState(0.0, 20.0, 8e6, 0.0, 92),
        LinkState(10.0, 20.0, 0.0, 0.0, 64),
        LinkState(20.0, 25.0, 2e6, 0.5, 74),
    )
    plan = LinkPlan("sat-0-0", {"svalbard": states})
    assert plan.windows("svalbard")[0] == (0.0, 10.0)
    assert plan.state("svalbard", 29.0).rate_bps == 2e6


def test_a_state_that_changes_nothing_is_left_out(write: Write) -> None:
    rows = "0,20,8e6,0\n1,20,8e6,0\n2,20,0,0\n3,99,0,0.5\n4,20,8e6,1\n5,21,8e6,0\n6,21,8e6,0\n7,,,"
    states = read_trace(write(f"{HEADER}\n{rows}\n")).states(EPOCH, 7.0)
    # No rate and certain loss are the same: down. A link that is down has no delay that could change.
    assert [(one.start_s, one.up) for one in states] == [(0.0, True), (2.0, False), (5.0, True)]


def test_a_recording_is_aligned_with_the_epoch(write: Write) -> None:
    rows = "T04:59:00Z,1,8e6,0\nT04:59:50Z,2,8e6,0\nT05:00:10Z,3,8e6,0\nT06:00:00Z".replace("T", "2026-03-20T")
    trace = read_trace(write(f"time,delay_ms,rate_bps,loss_ratio\n{rows}\n"))
    assert [(one.start_s, one.delay_ms) for one in trace.states(EPOCH, 3600.0)] == [(0.0, 2.0), (10.0, 3.0)]
    late = EPOCH + timedelta(seconds=30)
    assert [(one.start_s, one.delay_ms) for one in trace.states(late, 60.0)] == [(0.0, 3.0)]


def test_a_trace_must_cover_the_mission_or_be_repeated(write: Write) -> None:
    path = write(f"{HEADER}\n0,20,8e6,0\n10,25,8e6,0\n30,,,\n")
    trace = read_trace(path)
    assert [one.start_s for one in trace.states(EPOCH, 30.0)] == [0.0, 10.0]
    assert [one.start_s for one in trace.states(EPOCH, 10.0)] == [0.0]
    with pytest.raises(ScenarioError, match="too short") as caught:
        trace.states(EPOCH, 30.001)
    assert (caught.value.where, caught.value.line, caught.value.field) == (str(path), 4, "time_s")
    assert "30 s" in str(caught.value.found) and "repeat" in str(caught.value.allowed)
    starts_s = [one.start_s for one in trace.states(EPOCH, 65.0, repeat=True)]
    assert starts_s == [0.0, 10.0, 30.0, 40.0, 60.0]


@pytest.mark.parametrize("epoch", [EPOCH - timedelta(seconds=1), EPOCH - timedelta(days=400)])
def test_a_trace_must_begin_with_the_mission(write: Write, epoch: datetime) -> None:
    rows = "2026-03-20T05:00:00Z,20,8e6,0\n2026-03-20T06:00:00Z,,,"
    trace = read_trace(write(f"time,delay_ms,rate_bps,loss_ratio\n{rows}\n"))
    with pytest.raises(ScenarioError, match="begins after the mission") as caught:
        trace.states(epoch, 10.0)
    assert (caught.value.line, caught.value.field) == (2, "time")
    assert len(trace.states(epoch, 10.0, repeat=True)) == 1


@pytest.mark.parametrize(("ago_s", "period_s"), [(1009.855, 2.623), (15556.962, 10.826), (27911.871, 26.507)])
def test_a_cycle_that_begins_with_the_mission_begins_at_zero(ago_s: float, period_s: float) -> None:
    """Each is a whole number of periods ago, but not in floats."""
    rows = (Row(0.0, 20.0, 8e6, 0.0), Row(1.0, 21.0, 8e6, 0.0))
    trace = Trace("a.csv", EPOCH - timedelta(seconds=ago_s), rows, period_s, 2, 4)
    states = trace.states(EPOCH, period_s, repeat=True)
    assert [(one.start_s, one.delay_ms) for one in states] == [(0.0, 20.0), (1.0, 21.0)]


def test_repeating_has_a_limit(write: Write) -> None:
    trace = read_trace(write(f"{HEADER}\n0,20,8e6,0\n0.5,21,8e6,0\n1,,,\n"))
    with pytest.raises(ScenarioError, match="too many states"):
        trace.states(EPOCH, MAX_STATES, repeat=True)


rows_of_a_trace = st.lists(
    st.tuples(
        st.integers(1, 50_000),  # milliseconds to the next row
        st.sampled_from([0.0, 1.5, 20.0]),
        st.sampled_from([0.0, 1e6, 8e6]),
        st.sampled_from([0.0, 0.01, 1.0]),
    ),
    min_size=1,
    max_size=12,
)


@given(
    rows=rows_of_a_trace,
    repeat=st.booleans(),
    ahead_s=st.integers(-10_000_000, 10_000_000),
    share=st.floats(0.01, 0.99),
    at=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20),
)
def test_at_every_instant_the_plan_is_what_the_recording_says(
    rows: list[tuple[int, float, float, float]], repeat: bool, ahead_s: int, share: float, at: list[float]
) -> None:
    """The oracle looks the row up that holds at an instant, for a repeated trace modulo its length."""
    held_ms = [row[0] for row in rows]
    starts_s = [sum(held_ms[:index]) / 1000 for index in range(len(rows) + 1)]
    length_s = starts_s[-1]
    # A trace that is not repeated covers the mission; one that is may be months away from it.
    begins_s = ahead_s if repeat else round(-share * length_s / 2, 6)  # what a datetime resolves
    duration_s = 5 * share * length_s if repeat else length_s / 2
    trace = Trace(
        "a.csv",
        EPOCH + timedelta(seconds=begins_s),
        tuple(Row(start_s, *row[1:]) for start_s, row in zip(starts_s[:-1], rows, strict=True)),
        length_s,
        2,
        9,
    )
    states = trace.states(EPOCH, duration_s, repeat=repeat)
    plan = LinkPlan("a", {"b": states})  # refuses what is not in order or does not begin at 0
    assert all(one.start_s < duration_s for one in states)
    for earlier, later in zip(states, states[1:], strict=False):
        assert earlier.up or later.up
        assert replace(earlier, start_s=later.start_s) != later
    for share_of_time in at:
        instant_s = share_of_time * duration_s
        phase_s = (instant_s - begins_s) % length_s
        if min(abs(phase_s - start_s) for start_s in starts_s) < 1e-6:
            continue  # on an edge rounding decides
        index = sum(start_s <= phase_s for start_s in starts_s) - 1
        _, delay_ms, rate_bps, loss_ratio = rows[index]
        state = plan.state("b", instant_s)
        assert state.up == (rate_bps > 0 and loss_ratio < 1)
        if state.up:
            assert (state.delay_ms, state.rate_bps, state.loss_ratio) == (delay_ms, rate_bps, loss_ratio)
            assert state.limit_packets == queue_limit_packets(rate_bps, delay_ms)


@given(rows=rows_of_a_trace)
def test_what_is_written_is_what_is_read(rows: list[tuple[int, float, float, float]]) -> None:
    starts_ms = [sum(row[0] for row in rows[:index]) for index in range(len(rows) + 1)]
    lines = [f"{ms / 1000},{row[1]},{row[2]},{row[3]}" for ms, row in zip(starts_ms[:-1], rows, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("\n".join([HEADER, *lines, f"{starts_ms[-1] / 1000}"]))
        trace = read_trace(path)
    assert trace.rows == tuple(Row(ms / 1000, *row[1:]) for ms, row in zip(starts_ms[:-1], rows, strict=True))
    assert trace.end_s == starts_ms[-1] / 1000


# -- what is wrong ----------------------------------------------------------------------------------------------------

GOOD = "0,20,8e6,0"
END = "30,,,"


@pytest.mark.parametrize(
    ("rows", "message", "line", "field", "found"),
    [
        ([GOOD, "5,,,", "10,20,8e6,0", END], "a gap", 3, "delay_ms", "nothing"),
        ([GOOD, "5,,8e6,0", END], "a value is missing", 3, "delay_ms", "nothing"),
        ([GOOD, ",21,8e6,0", END], "a value is missing", 3, "time_s", "nothing"),
        ([GOOD, "5,21", END], "a value is missing", 3, "rate_bps", "nothing"),
        ([GOOD, "5,21,8e6,0,7", END], "more values than columns", 3, None, "5,21,8e6,0,7"),
        ([GOOD, "0,21,8e6,0", END], "a time stands here twice", 3, "time_s", "0"),
        ([GOOD, "9,21,8e6,0", "8,22,8e6,0", END], "the times go back", 4, "time_s", "8"),
        ([GOOD, "40,21,8e6,0", END], "the times go back", 4, "time_s", "30"),
        (["-1,20,8e6,0", END], "out of range", 2, "time_s", "-1"),
        (["soon,20,8e6,0", END], "not a number", 2, "time_s", "soon"),
        (["0,-20,8e6,0", END], "out of range", 2, "delay_ms", "-20"),
        (["0,nan,8e6,0", END], "not a number", 2, "delay_ms", "nan"),
        (["0,300000,8e6,0", END], "out of range", 2, "delay_ms", "300000"),
        (["0,20,-8e6,0", END], "out of range", 2, "rate_bps", "-8e6"),
        (["0,20,inf,0", END], "not a number", 2, "rate_bps", "inf"),
        (["0,20,1e999,0", END], "out of range", 2, "rate_bps", "1e999"),
        (["0,20,7.9,0", END], "out of range", 2, "rate_bps", "7.9"),
        (["0,20,8 Mbit/s,0", END], "not a number", 2, "rate_bps", "8 Mbit/s"),
        (["0,20,8_000,0", END], "not a number", 2, "rate_bps", "8_000"),
        (["0,20,8e6,1.01", END], "out of range", 2, "loss_ratio", "1.01"),
        (["0,20,8e6,-0.1", END], "out of range", 2, "loss_ratio", "-0.1"),
        (["0,20,8e6,NaN", END], "not a number", 2, "loss_ratio", "NaN"),
        (["0,20,8e6,1%", END], "not a number", 2, "loss_ratio", "1%"),
        ([GOOD], "how long the last state holds", 2, "time_s", "no end"),
        ([], "no rows", 1, None, "no state"),
        ([END], "no rows", 2, None, "no state"),
        ([GOOD, '5,"20,8e6,0', END], "not CSV", None, None, None),
    ],
)
def test_a_bad_row_is_named(
    write: Write, rows: list[str], message: str, line: int | None, field: str | None, found: str | None
) -> None:
    error = refusal(write("\n".join([HEADER, *rows]) + "\n"))
    assert message in error.message
    assert error.allowed
    if line is not None:
        assert (error.line, error.field, error.found) == (line, field, found)


@pytest.mark.parametrize(
    ("header", "message", "field"),
    [
        ("", "a column is missing", "time_s"),
        ("time_s,rate_bps,loss_ratio", "a column is missing", "delay_ms"),
        ("time_s,delay_ms,rate_bps", "a column is missing", "loss_ratio"),
        ("time_s,delay_ms,rate_bps,loss_ratio,jitter_ms", "an unknown column", "jitter_ms"),
        ("time_s,delay_ms,rate_bps,loss_ratio,", "an unknown column", "column 5"),
        ("time_s;delay_ms;rate_bps;loss_ratio", "an unknown column", "time_s;delay_ms;rate_bps;loss_ratio"),
        ("0,20,8e6,0", "an unknown column", "0"),
        ("time_s,delay_ms,rate_bps,loss_ratio,delay_ms", "a column stands here twice", "delay_ms"),
        ("time_s,delay_ms,rate_bps,rate_mbps,loss_ratio", "two columns for one quantity", "rate_mbps"),
        ("time_s,time,delay_ms,rate_bps,loss_ratio", "two columns for one quantity", "time"),
    ],
)
def test_a_bad_header_is_named(write: Write, header: str, message: str, field: str) -> None:
    error = refusal(write(f"{header}\n"))
    assert (error.message, error.line, error.field) == (message, 1, field)
    assert "time_s or time, delay_ms, rate_bps or rate_mbps, loss_ratio" in str(error.allowed)


@pytest.mark.parametrize(
    ("instant", "message"),
    [
        ("2026-03-20T05:00:00", "an instant needs a zone"),
        ("2026-03-20", "not an instant"),
        ("2026-02-30T05:00:00Z", "not an instant"),
        ("2026-03-20T05:00:60Z", "not an instant"),
        ("1774000000", "not an instant"),
    ],
)
def test_a_bad_instant_is_named(write: Write, instant: str, message: str) -> None:
    error = refusal(write(f"time,delay_ms,rate_bps,loss_ratio\n{instant},20,8e6,0\n"))
    assert (error.message, error.line, error.field, error.found) == (message, 2, "time", instant)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    assert "a directory" in str(refusal(tmp_path))
    assert "no such file" in str(refusal(tmp_path / "none.csv"))
    assert "not a regular file" in str(refusal(Path("/dev/zero")))
    for data in (b"\x89PNG\r\n\x1a\n", HEADER.encode() + b"\n0,20,\x00,0\n"):
        path = tmp_path / "binary.csv"
        path.write_bytes(data)
        error = refusal(path)
        assert error.message == "the file is not text"
        assert f"offset {0 if data[0] == 0x89 else len(HEADER) + 6}" in str(error.found)
