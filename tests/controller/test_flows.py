"""The flow scheduler against what no schedule may do, and against every schedule of tiny instances."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.flows import EarliestFinish
from testbed.errors import ScenarioError
from testbed.flow.assignment import Assignment
from testbed.link.plan import LinkPlan, LinkState
from testbed.mission import MissionPlan
from testbed.orbit.contacts import Contact
from testbed.scenario import Scenario, load_scenario
from testbed.transfer.transport import PAYLOAD_SHARE

RING = ("sat-0-0", "sat-0-1", "sat-0-2", "sat-0-3")
STATIONS = ("east", "west")
ISL_BPS = 3.5e6
SLACK_S = 1e-6


@dataclass(frozen=True)
class _Parcel:
    chunk: str
    size: int
    held_s: dict[str, float] = field(hash=False)

    def ready_s(self, node: str) -> float:
        return self.held_s.get(node, float("inf"))


@lru_cache(maxsize=1)
def _scenario() -> Scenario:
    return load_scenario("demo")


def _plan(contacts: Sequence[Contact]) -> MissionPlan:
    ordered = sorted(contacts, key=lambda contact: (contact.start_s, contact.satellite, contact.station))
    return MissionPlan(_scenario(), (RING,), STATIONS, tuple(ordered), _links(ordered), 0.0, 0.0)


def _links(contacts: Sequence[Contact]) -> dict[str, LinkPlan]:
    """The link plans of these contacts, at the demo's rates."""
    up, down = _scenario().space_ground.up.rate_bps, _scenario().space_ground.down.rate_bps
    links: dict[str, dict[str, tuple[LinkState, ...]]] = {name: {} for name in (*RING, *STATIONS)}
    for satellite, other in itertools.pairwise((*RING, RING[0])):
        links[satellite][other] = links[other][satellite] = (LinkState(0.0, 10.0, ISL_BPS, 0.0, 64),)
    for satellite, station in {(contact.satellite, contact.station) for contact in contacts}:
        mine = [contact for contact in contacts if (contact.satellite, contact.station) == (satellite, station)]
        for sender, receiver, rate_bps in ((satellite, station, up), (station, satellite, down)):
            states = {0.0: LinkState(0.0, 5.0, 0.0, 0.0, 64)}
            for contact in mine:
                states[contact.start_s] = LinkState(contact.start_s, 5.0, rate_bps or 0.0, 0.0, 64)
                states[contact.end_s] = LinkState(contact.end_s, 5.0, 0.0, 0.0, 64)
            links[sender][receiver] = tuple(states.values())
    return {name: LinkPlan(name, by_peer) for name, by_peer in links.items()}


def _contact(satellite: int, station: int, start_s: float, length_s: float) -> Contact:
    return Contact(RING[satellite], STATIONS[station], start_s, start_s + length_s, 45.0)


def _up_Bps() -> float:  # noqa: N802
    return (_scenario().space_ground.up.rate_bps or 0.0) * PAYLOAD_SHARE / 8


@st.composite
def _contacts(draw: st.DrawFn, most: int = 8) -> list[Contact]:
    """Passes that may overlap, but never two of the same satellite over the same station at once."""
    drawn: list[Contact] = []
    for _ in range(draw(st.integers(1, most))):
        one = _contact(draw(st.integers(0, 3)), draw(st.integers(0, 1)), draw(st.floats(0, 60)), draw(st.floats(1, 20)))
        pair = [c for c in drawn if (c.satellite, c.station) == (one.satellite, one.station)]
        if all(one.end_s < c.start_s or c.end_s < one.start_s for c in pair):
            drawn.append(one)
    return drawn


def _parcels(sizes: Sequence[int], ready_s: Sequence[float]) -> list[_Parcel]:
    return [
        _Parcel(f"r/1/gather/{RING[i % 4]}/embedding/{i // 4}", size, dict(zip(RING, ready_s[i : i + 4], strict=True)))
        for i, size in enumerate(sizes)
    ]


def _check_up(plan: MissionPlan, parcels: Sequence[_Parcel], assignments: Sequence[Assignment], now_s: float) -> None:
    """No schedule may send what is not held, outside a contact, or two chunks over one contact at a time."""
    by_chunk: dict[str, list[Assignment]] = defaultdict(list)
    spans: dict[tuple[str, str, float], list[tuple[float, float]]] = defaultdict(list)
    known = {(c.satellite, c.station, c.start_s, c.end_s) for c in plan.contacts}
    for a in assignments:
        by_chunk[a.chunk].append(a)
        satellite, station, ground = a.route
        assert ground == plan.ground
        assert (satellite, station, a.contact_start_s, a.contact_end_s) in known
        assert a.contact_start_s - SLACK_S <= a.start_s <= a.end_s <= a.contact_end_s + SLACK_S
        assert a.start_s >= now_s
        spans[satellite, station, a.contact_start_s].append((a.start_s, a.end_s))
    for listed in spans.values():
        listed.sort()
        assert all(one[1] <= other[0] + SLACK_S for one, other in itertools.pairwise(listed))
    assert by_chunk.keys() == {parcel.chunk for parcel in parcels}
    for parcel in parcels:
        pieces = by_chunk[parcel.chunk]
        assert all(a.size == parcel.size for a in pieces)
        assert all(a.start_s >= parcel.ready_s(a.route[0]) for a in pieces)
        assert sum(a.end_s - a.start_s for a in pieces) * _up_Bps() == pytest.approx(parcel.size, rel=1e-6)
        assert len({a.route[1] for a in pieces}) == 1  # what a station holds of a chunk only it can go on with
        for cut, rest in itertools.pairwise(sorted(pieces, key=lambda a: a.start_s)):
            assert cut.end_s == cut.contact_end_s  # only a contact's end cuts
            assert rest.start_s >= cut.end_s - SLACK_S


@given(_contacts(), st.lists(st.integers(1_000, 8_000_000), min_size=1, max_size=10), st.floats(0, 30), st.data())
def test_what_it_plans_can_be_flown(
    contacts: list[Contact], sizes: list[int], now_s: float, data: st.DataObject
) -> None:
    ready_s = data.draw(st.lists(st.floats(0, 40), min_size=len(sizes) + 4, max_size=len(sizes) + 4))
    plan, parcels = _plan(contacts), _parcels(sizes, ready_s)
    try:
        flow = EarliestFinish().plan_up(plan, parcels, now_s)
    except ScenarioError as refusal:
        assert refusal.field == "duration"
        return
    _check_up(plan, parcels, flow.assignments, now_s)


def _alone_s(contact: Contact, sizes: Sequence[int], now_s: float) -> float:
    """When everything is through over this contact alone, one chunk after the other; infinity if it ends first."""
    end_s = max(contact.start_s, now_s) + sum(sizes) / _up_Bps()
    return end_s if end_s <= contact.end_s else float("inf")


@given(_contacts(most=3), st.lists(st.integers(100_000, 6_000_000), min_size=1, max_size=4), st.floats(0, 30))
def test_it_is_no_worse_than_any_contact_alone(contacts: list[Contact], sizes: list[int], now_s: float) -> None:
    plan, parcels = _plan(contacts), _parcels(sizes, [0.0] * (len(sizes) + 4))
    alone_s = min(_alone_s(contact, sizes, now_s) for contact in contacts)
    if alone_s < float("inf"):
        flow = EarliestFinish().plan_up(plan, parcels, now_s)
        _check_up(plan, parcels, flow.assignments, now_s)
        assert flow.end_s <= alone_s + SLACK_S


@given(_contacts(most=3), st.integers(1, 4), st.integers(100_000, 6_000_000), st.floats(0, 30))
def test_equal_chunks_are_through_as_soon_as_in_the_best_of_all_schedules(
    contacts: list[Contact], count: int, size: int, now_s: float
) -> None:
    sizes = [size] * count
    best_s = float("inf")
    for places in itertools.product(range(len(contacts)), repeat=count):
        ends = [_alone_s(c, [size] * places.count(i), now_s) for i, c in enumerate(contacts) if i in places]
        best_s = min(best_s, max(ends))
    if best_s < float("inf"):
        plan, parcels = _plan(contacts), _parcels(sizes, [0.0] * (count + 4))
        assert EarliestFinish().plan_up(plan, parcels, now_s).end_s <= best_s + SLACK_S


def test_a_chunk_cut_by_one_pass_goes_on_over_the_same_stations_next() -> None:
    size = int(_up_Bps() * 10)
    plan = _plan([_contact(0, 0, 0.0, 6.0), _contact(1, 0, 20.0, 30.0), _contact(2, 1, 30.0, 30.0)])
    flow = EarliestFinish().plan_up(plan, _parcels([size], [0.0] * 5), 0.0)
    first, second = flow.assignments
    assert (first.route[:2], second.route[:2]) == ((RING[0], "east"), (RING[1], "east"))
    assert (first.start_s, first.end_s) == (0.0, 6.0)
    assert (second.start_s, second.end_s) == pytest.approx((20.0, 24.0), abs=1e-3)


def test_without_a_contact_the_scenario_is_to_blame() -> None:
    with pytest.raises(ScenarioError, match="no contact left"):
        EarliestFinish().plan_up(_plan([_contact(0, 0, 0.0, 5.0)]), _parcels([1_000], [0.0] * 5), 6.0)
    with pytest.raises(ScenarioError, match="no contact left"):
        EarliestFinish().plan_down(_plan([]), _parcels([1_000], [0.0] * 5), [RING[0]], 0.0)


@given(_contacts(), st.lists(st.integers(1_000, 1_000_000), min_size=1, max_size=10), st.floats(0, 30), st.data())
def test_what_comes_down_reaches_its_owner_over_the_shorter_way(
    contacts: list[Contact], sizes: list[int], now_s: float, data: st.DataObject
) -> None:
    plan, parcels = _plan(contacts), _parcels(sizes, [now_s] * (len(sizes) + 4))
    owners = [data.draw(st.sampled_from(RING)) for _ in sizes]
    try:
        flow = EarliestFinish().plan_down(plan, parcels, owners, now_s)
    except ScenarioError:
        return
    rate_Bps = (plan.scenario.space_ground.down.rate_bps or 0.0) * PAYLOAD_SHARE / 8  # noqa: N806
    spans: dict[tuple[str, str, float], list[tuple[float, float]]] = defaultdict(list)
    assert [a.chunk for a in flow.assignments] == [parcel.chunk for parcel in parcels]
    for a, parcel, owner in zip(flow.assignments, parcels, owners, strict=True):
        ground, station, satellite, *onward = a.route
        assert ground == plan.ground
        assert ([satellite, *onward])[-1] == owner
        steps = (RING.index(owner) - RING.index(satellite)) % len(RING)
        assert len(onward) == min(steps, len(RING) - steps)
        assert max(a.contact_start_s, now_s) <= a.start_s <= a.end_s <= a.contact_end_s
        assert (a.end_s - a.start_s) * rate_Bps == pytest.approx(parcel.size, rel=1e-6)
        spans[satellite, station, a.contact_start_s].append((a.start_s, a.end_s))
    for listed in spans.values():
        listed.sort()
        assert all(one[1] <= other[0] + SLACK_S for one, other in itertools.pairwise(listed))


def test_the_scheduler_is_found_by_its_name() -> None:
    from testbed import registry

    assert isinstance(registry.load("schedulers", "earliest-finish"), EarliestFinish)
    with pytest.raises(ScenarioError, match="no such name among the schedulers") as refusal:
        registry.load("schedulers", "latest-finish")
    assert refusal.value.allowed == "earliest-finish"
