"""Flow plans of whole chunks, by every scheduler, against what no plan may do."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.flow.chunks import ChunkPlanner, flow_problem
from testbed import registry
from testbed.errors import FlowError, ScenarioError
from testbed.flow.assignment import Assignment
from testbed.flow.problem import Demand
from testbed.link.plan import LinkPlan, LinkState
from testbed.metrics import direction
from testbed.mission import MissionPlan
from testbed.orbit.contacts import Contact
from testbed.scenario import Scenario, load_scenario
from testbed.transfer.transport import PAYLOAD_SHARE

RING = ("sat-0-0", "sat-0-1", "sat-0-2", "sat-0-3")
STATIONS = ("east", "west")
SCHEDULERS = ("greedy", "static", "time-expanded")
UP = frozenset({"up", "backhaul"})
RELAYED = frozenset({"isl", "up", "backhaul"})
DOWN = frozenset({"backhaul", "down", "isl"})
ISL_BPS = 3.5e6
SLACK_S = 1e-3
DELAY_S = 5e-3
"""Schedulers count bytes in whole units; a tenth of a kilobyte is that long at these rates."""


@lru_cache(maxsize=1)
def _scenario() -> Scenario:
    return load_scenario("demo")


def _plan(contacts: Sequence[Contact]) -> MissionPlan:
    ordered = sorted(contacts, key=lambda contact: (contact.start_s, contact.satellite, contact.station))
    return MissionPlan(_scenario(), (RING,), STATIONS, tuple(ordered), _links(ordered), 0.0, 0.0)


def _links(contacts: Sequence[Contact]) -> dict[str, LinkPlan]:
    """The link plans of these contacts, at the demo's rates, the backhaul's ample."""
    ground = _scenario().ground.name
    links: dict[str, dict[str, tuple[LinkState, ...]]] = {name: {} for name in (*RING, *STATIONS, ground)}
    for satellite, other in itertools.pairwise((*RING, RING[0])):
        links[satellite][other] = links[other][satellite] = (LinkState(0.0, 10.0, ISL_BPS, 0.0, 64),)
    for station in STATIONS:
        links[station][ground] = links[ground][station] = (LinkState(0.0, 1.0, 1e9, 0.0, 64),)
    for satellite, station in {(contact.satellite, contact.station) for contact in contacts}:
        mine = [contact for contact in contacts if (contact.satellite, contact.station) == (satellite, station)]
        for sender, receiver in ((satellite, station), (station, satellite)):
            states = {0.0: LinkState(0.0, 5.0, 0.0, 0.0, 64)}
            for contact in mine:
                states[contact.start_s] = LinkState(
                    contact.start_s, 1000 * DELAY_S, _rate_bps(sender, receiver), 0.0, 64
                )
                states[contact.end_s] = LinkState(contact.end_s, 1000 * DELAY_S, 0.0, 0.0, 64)
            links[sender][receiver] = tuple(states.values())
    return {name: LinkPlan(name, by_peer) for name, by_peer in links.items()}


def _rate_bps(sender: str, receiver: str) -> float:
    settings = _scenario().space_ground
    return {"up": settings.up.rate_bps, "down": settings.down.rate_bps, "isl": ISL_BPS}[
        direction(sender, receiver)
    ] or 0.0


def _rate_Bps(sender: str, receiver: str) -> float:  # noqa: N802
    return _rate_bps(sender, receiver) * PAYLOAD_SHARE / 8


def _contact(satellite: int, station: int, start_s: float, length_s: float) -> Contact:
    return Contact(RING[satellite], STATIONS[station], start_s, start_s + length_s, 45.0)


@st.composite
def _contacts(draw: st.DrawFn, most: int = 6) -> list[Contact]:
    """Passes that may overlap, but never two of the same satellite over the same station at once; the last is long
    enough for anything."""
    drawn: list[Contact] = []
    for _ in range(draw(st.integers(1, most))):
        start_s, length_s = draw(st.integers(0, 600)) / 10, draw(st.integers(10, 200)) / 10
        one = _contact(draw(st.integers(0, 3)), draw(st.integers(0, 1)), start_s, length_s)
        pair = [c for c in drawn if (c.satellite, c.station) == (one.satellite, one.station)]
        if all(one.end_s < c.start_s or c.end_s < one.start_s for c in pair):
            drawn.append(one)
    return [*drawn, _contact(0, 0, 100.0, 400.0)]


def _name(index: int, phase: str = "gather", tensor: str = "embedding") -> str:
    return f"r/1/{phase}/{RING[index % 4]}/{tensor}/{index // 4}"


def _check(plan: MissionPlan, demands: Sequence[Demand], assignments: Sequence[Assignment], now_s: float) -> None:
    """No plan may send what is not held, outside a contact, or more over a link than it carries."""
    known = {(c.satellite, c.station, c.start_s, c.end_s) for c in plan.contacts}
    by_chunk: dict[str, list[Assignment]] = defaultdict(list)
    spans: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for a in assignments:
        by_chunk[a.chunk].append(a)
        sender, receiver = next(hop for hop in itertools.pairwise(a.route) if direction(*hop) in ("up", "down"))
        satellite, station = sorted((sender, receiver), key=lambda node: node not in RING)
        assert (satellite, station, a.contact_start_s, a.contact_end_s) in known
        assert a.contact_start_s - SLACK_S <= a.start_s <= a.end_s <= a.contact_end_s + SLACK_S
        assert now_s - SLACK_S <= a.start_s <= a.end_s <= a.arrives_s
        spans[sender, receiver].append((a.start_s, a.end_s))
    for listed in spans.values():
        listed.sort()
        assert all(one[1] <= other[0] + SLACK_S for one, other in itertools.pairwise(listed))
    assert by_chunk.keys() == {demand.name for demand in demands}
    for demand in demands:
        pieces = sorted(by_chunk[demand.name], key=lambda a: a.start_s)
        for a in pieces:
            assert a.size == demand.size_bytes
            assert a.route[-1] == demand.destination
            assert a.start_s >= demand.ready_s[a.route[0]] - SLACK_S
        hops = {h for a in pieces for h in itertools.pairwise(a.route) if direction(*h) in ("up", "down")}
        assert len({receiver for _, receiver in hops}) == 1  # what a station holds of a chunk only it can go on with
        rate_Bps = {_rate_Bps(*hop) for hop in hops}.pop()  # noqa: N806
        assert sum(a.end_s - a.start_s for a in pieces) * rate_Bps == pytest.approx(demand.size_bytes, rel=1e-3)
        assert [a.cut_by_plan for a in pieces] == [True] * (len(pieces) - 1) + [False]
        for cut, rest in itertools.pairwise(pieces):
            # Only a contact's end cuts, or its last millisecond that arrives.
            assert cut.contact_end_s - DELAY_S - SLACK_S <= cut.end_s <= cut.contact_end_s + SLACK_S
            assert rest.start_s >= cut.end_s - SLACK_S


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=25)
@given(_contacts(), st.lists(st.integers(10_000, 4_000_000), min_size=1, max_size=8), st.integers(0, 30), st.data())
def test_what_goes_up_can_be_flown(
    scheduler: str, contacts: list[Contact], sizes: list[int], now_s: float, data: st.DataObject
) -> None:
    plan = _plan(contacts)
    demands = [
        Demand(_name(i), {node: data.draw(st.integers(0, 40)) for node in RING}, plan.ground, size)
        for i, size in enumerate(sizes)
    ]
    _check(
        plan,
        demands,
        ChunkPlanner(registry.load("schedulers", scheduler)).plan(plan, demands, now_s, UP).assignments,
        now_s,
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=25)
@given(_contacts(), st.lists(st.integers(10_000, 1_000_000), min_size=1, max_size=8), st.integers(0, 30))
def test_what_is_relayed_starts_where_it_is_and_can_be_flown(
    scheduler: str, contacts: list[Contact], sizes: list[int], now_s: float
) -> None:
    plan = _plan(contacts)
    demands = [Demand(_name(i), {RING[i % 4]: now_s}, plan.ground, size) for i, size in enumerate(sizes)]
    flow = ChunkPlanner(registry.load("schedulers", scheduler)).plan(plan, demands, now_s, RELAYED)
    _check(plan, demands, flow.assignments, now_s)
    for a in flow.assignments:
        assert a.route[0] == a.chunk.split("/")[3]
        assert all(there in plan.link_plans[here].links for here, there in itertools.pairwise(a.route))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=25)
@given(_contacts(), st.lists(st.integers(10_000, 400_000), min_size=1, max_size=8), st.integers(0, 30), st.data())
def test_what_comes_down_reaches_its_owner(
    scheduler: str, contacts: list[Contact], sizes: list[int], now_s: float, data: st.DataObject
) -> None:
    plan = _plan(contacts)
    owners = [data.draw(st.sampled_from(RING)) for _ in sizes]
    demands = [
        Demand(_name(i, "down", "feature"), {plan.ground: now_s}, owner, size)
        for i, (size, owner) in enumerate(zip(sizes, owners, strict=True))
    ]
    flow = ChunkPlanner(registry.load("schedulers", scheduler)).plan(plan, demands, now_s, DOWN)
    _check(plan, demands, flow.assignments, now_s)


def test_two_passes_at_once_share_what_greedy_sends_through_one() -> None:
    size = int(_rate_Bps(RING[0], "east") * 10)  # ten seconds of a pass
    plan = _plan([_contact(0, 0, 0.0, 300.0), _contact(1, 1, 0.0, 300.0)][:2])
    demands = [Demand(_name(i), dict.fromkeys(RING, 0.0), plan.ground, size // 10) for i in range(20)]
    took_s = {
        name: ChunkPlanner(registry.load("schedulers", name)).plan(plan, demands, 0.0, UP).end_s for name in SCHEDULERS
    }
    # Twenty seconds of bytes over one pass, or ten over each of two; the hops' delays come on top.
    assert took_s["time-expanded"] == pytest.approx(10.0, abs=0.1)
    assert took_s["greedy"] == pytest.approx(20.0, abs=0.1)


def test_a_chunk_cut_by_one_pass_goes_on_over_the_same_stations_next() -> None:
    size = int(_rate_Bps(RING[0], "east") * 10)
    plan = _plan([_contact(0, 0, 0.0, 6.0), _contact(1, 0, 20.0, 30.0), _contact(2, 1, 30.0, 30.0)])
    demands = [Demand(_name(0), dict.fromkeys(RING, 0.0), plan.ground, size)]
    flow = ChunkPlanner(registry.load("schedulers", "time-expanded")).plan(plan, demands, 0.0, UP)
    first, second = flow.assignments
    assert (first.route[:2], second.route[:2]) == ((RING[0], "east"), (RING[1], "east"))
    # What leaves later than a delay (5 ms) before the end of the pass does not arrive.
    assert (first.start_s, first.end_s) == pytest.approx((0.0, 5.995), abs=SLACK_S)
    assert (second.start_s, second.end_s) == pytest.approx((20.0, 24.0), abs=0.02)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_without_a_contact_the_horizon_is_to_blame(scheduler: str) -> None:
    planner = ChunkPlanner(registry.load("schedulers", scheduler))
    plan = _plan([_contact(0, 0, 0.0, 5.0)])
    with pytest.raises(FlowError) as refusal:
        planner.plan(plan, [Demand(_name(0), dict.fromkeys(RING, 6.0), plan.ground, 1_000)], 6.0, UP)
    assert refusal.value.field == "duration"


def test_nothing_is_planned_for_a_contact_that_was_lost() -> None:
    plan = _plan([_contact(0, 0, 0.0, 50.0), _contact(1, 0, 60.0, 30.0)])
    demands = [Demand(_name(0), dict.fromkeys(RING, 0.0), plan.ground, 1_000)]
    kept = plan.without(plan.contacts[0])
    assert {w.sender for w in flow_problem(kept, demands, 0.0, frozenset({"up"})).windows} == {RING[1]}
    (only,) = ChunkPlanner(registry.load("schedulers", "time-expanded")).plan(kept, demands, 0.0, UP).assignments
    assert only.contact_start_s == 60.0


def test_schedulers_are_found_by_name() -> None:
    assert set(SCHEDULERS) <= set(registry.names("schedulers"))
    with pytest.raises(ScenarioError, match="no such name among the schedulers") as refusal:
        registry.load("schedulers", "latest-finish")
    assert refusal.value.allowed == ", ".join(registry.names("schedulers"))
