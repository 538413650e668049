"""Link plans as values: lookup, windows, order of changes, and digests that travel."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import BugError
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets

UP = 8e6


def _state(start_s: float, rate_bps: float, delay_ms: float = 5.0) -> LinkState:
    return LinkState(start_s, delay_ms, rate_bps, 0.0, 64)


PLAN = LinkPlan(
    "sat-0-0",
    {
        "svalbard": (_state(0, 0), _state(10, UP), _state(20, UP, 6.0), _state(30.5, 0), _state(40, UP)),
        "sat-0-1": (_state(0, 3.5e6, 18.0),),
    },
)


@pytest.mark.parametrize(
    ("at_s", "start_s"), [(-1, 0), (0, 0), (9.999, 0), (10, 10), (20, 20), (30.4999, 20), (30.5, 30.5), (1e9, 40)]
)
def test_a_state_holds_until_the_next(at_s: float, start_s: float) -> None:
    assert PLAN.state("svalbard", at_s).start_s == start_s


def test_windows_join_states_that_differ_in_delay_alone() -> None:
    assert PLAN.windows("svalbard") == ((10, 30.5), (40, math.inf))
    assert PLAN.windows("sat-0-1") == ((0, math.inf),)


def test_changes_come_in_order_of_time() -> None:
    changes = PLAN.changes()
    assert [(at_s, peer) for at_s, peer, _ in changes] == [
        (0, "sat-0-1"), (0, "svalbard"), (10, "svalbard"), (20, "svalbard"), (30.5, "svalbard"), (40, "svalbard")
    ]  # fmt: skip
    assert all(state.start_s == at_s and state in PLAN.links[peer] for at_s, peer, state in changes)


finite = st.floats(0, 1e12, allow_nan=False)
states = st.builds(LinkState, finite, finite, finite, st.floats(0, 1), st.integers(1, 10**6))


@given(
    st.dictionaries(st.text(max_size=8), st.lists(states, min_size=1, max_size=6, unique_by=lambda one: one.start_s))
)
def test_a_plan_survives_json_to_the_last_bit(links: dict[str, list[LinkState]]) -> None:
    ordered = {}
    for peer, unordered in links.items():
        later = sorted((one for one in unordered if one.start_s > 0), key=lambda one: one.start_s)
        ordered[peer] = (_state(0.0, 0.0), *later)
    plan = LinkPlan("here", ordered)
    again = LinkPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.digest() == plan.digest()


def test_digest_is_the_same_in_another_process() -> None:
    program = (
        "import json, sys; from testbed.link.plan import LinkPlan;"
        "sys.stdout.write(LinkPlan.from_dict(json.load(sys.stdin)).digest())"
    )
    for seed in ("1", "2"):
        other = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(PLAN.to_dict()), capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path) + ":."},
        )  # fmt: skip
        assert other.stdout == PLAN.digest()


def test_digest_knows_order_of_peers_from_content() -> None:
    reordered = LinkPlan(PLAN.node, dict(reversed(PLAN.links.items())))
    assert reordered.digest() == PLAN.digest()
    longer = LinkPlan(PLAN.node, {**PLAN.links, "sat-0-1": (_state(0, 3.5e6, math.nextafter(18.0, 19.0)),)})
    assert longer.digest() != PLAN.digest()


@pytest.mark.parametrize(
    "bad",
    [
        (),
        (_state(1, UP),),
        (_state(0, UP), _state(5, 0), _state(5, UP)),
        (_state(0, UP), _state(5, 0), _state(4, UP)),
        (_state(0, -1.0),),
        (_state(0, math.nan),),
        (LinkState(0, 5, UP, 1.5, 64),),
        (LinkState(0, 5, UP, 0.0, 0),),
    ],
)
def test_a_plan_that_no_link_can_play_is_a_bug(bad: tuple[LinkState, ...]) -> None:
    with pytest.raises(BugError, match="sat-0-0 -> svalbard"):
        LinkPlan("sat-0-0", {"svalbard": bad})


def test_queue_limit_holds_two_rate_delay_products() -> None:
    # 1 Gbit/s x 50 ms is 6.25 MB, 4,167 packets: the usual default of 1,000 would drop three quarters of them.
    assert queue_limit_packets(1e9, 50) == 2 * 4167 + 64
    assert queue_limit_packets(0.0, 10) == 64


def test_reading_a_plan_needs_no_orbits() -> None:
    program = "import sys, testbed.link.plan; sys.exit(bool({'skyfield', 'sgp4', 'numpy', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_equal_plans_have_equal_digests_however_their_numbers_are_written() -> None:
    whole = LinkPlan("here", {"there": (LinkState(0, 5, 8_000_000, 0, 64),)})
    floating = LinkPlan("here", {"there": (LinkState(0.0, 5.0, 8e6, -0.0, 64),)})
    assert whole == floating
    assert whole.digest() == floating.digest()


@given(
    st.dictionaries(st.text(max_size=8), st.lists(states, min_size=1, max_size=4, unique_by=lambda one: one.start_s)),
    st.data(),
)
def test_a_digest_tells_plans_apart_and_not_their_order(links: dict[str, list[LinkState]], data: st.DataObject) -> None:
    ordered = {
        peer: (_state(0.0, 0.0), *sorted((one for one in unordered if one.start_s > 0), key=lambda one: one.start_s))
        for peer, unordered in links.items()
    }
    plan = LinkPlan("here", ordered)
    turned = LinkPlan("here", dict(reversed(ordered.items())))
    assert turned.digest() == plan.digest()
    assert LinkPlan.from_dict(json.loads(json.dumps(plan.to_dict()))).digest() == plan.digest()
    if not ordered:
        return
    peer = data.draw(st.sampled_from(sorted(ordered)))
    place = data.draw(st.integers(0, len(ordered[peer]) - 1))
    changed = list(ordered[peer])
    changed[place] = replace(changed[place], delay_ms=math.nextafter(changed[place].delay_ms, math.inf))
    assert LinkPlan("here", {**ordered, peer: tuple(changed)}).digest() != plan.digest()
