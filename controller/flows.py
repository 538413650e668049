"""The flow scheduler: which chunk goes up or down in which contact.

``earliest-finish`` is list scheduling: of all (contact, chunk) pairs the one that would be through first is fixed
next. It is simple and correct, not optimal; maximum-flow schedulers join it through ``skyrack.schedulers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from testbed.errors import ScenarioError
from testbed.flow.assignment import Assignment, FlowPlan
from testbed.mission import MissionPlan
from testbed.orbit.contacts import Contact
from testbed.strategy.base import Parcel, Scheduler
from testbed.transfer.ring import shortest_route
from testbed.transfer.transport import PAYLOAD_SHARE

LOOKAHEAD = 6
"""Contacts considered at a time beyond those open: more cannot be the earliest unless all of these are full."""


@dataclass
class _Slot:
    """A contact and the instant its link is free."""

    contact: Contact
    free_s: float


@dataclass(frozen=True)
class _Option:
    """One way to finish a parcel next; ``pieces`` are (slot, start, end) of each contact it uses."""

    end_s: float
    index: int
    pieces: tuple[tuple[_Slot, float, float], ...]


class EarliestFinish(Scheduler):
    """Greedy by earliest completion, with the partial chunk of a cut contact finished over the same station."""

    name: ClassVar[str] = "earliest-finish"

    def plan_up(self, plan: MissionPlan, parcels: Sequence[Parcel], now_s: float) -> FlowPlan:
        slots = _open_slots(plan, now_s)
        left = list(parcels)
        assignments: list[Assignment] = []
        while left:
            near = _near(slots)
            options = [
                option
                for position in range(len(near))
                for option in [_up_option(plan, near, position, left)]
                if option is not None
            ]
            if not options:
                raise _no_contact(plan, left[0].chunk, now_s)
            best = min(options, key=lambda option: (option.end_s, option.index))
            parcel = left.pop(best.index)
            for slot, start_s, end_s in best.pieces:
                slot.free_s = end_s
                contact = slot.contact
                route = (contact.satellite, contact.station, plan.ground)
                assignments.append(
                    Assignment(parcel.chunk, parcel.size, route, contact.start_s, contact.end_s, start_s, end_s)
                )
            slots = [slot for slot in slots if slot.free_s < slot.contact.end_s]
        return FlowPlan(tuple(sorted(assignments, key=lambda a: (a.start_s, a.chunk))))

    def plan_down(self, plan: MissionPlan, parcels: Sequence[Parcel], owners: Sequence[str], now_s: float) -> FlowPlan:
        isl_Bps = plan.isl_rate_bps * PAYLOAD_SHARE / 8
        backhaul_s = plan.scenario.ground.backhaul_delay_ms / 1000
        slots = _open_slots(plan, now_s + backhaul_s)
        assignments: list[Assignment] = []
        for parcel, owner in zip(parcels, owners, strict=True):
            best: tuple[float, _Slot, float, float, tuple[str, ...]] | None = None
            for slot in _near(slots):
                ring = plan.ring_of(slot.contact.satellite)
                if owner not in ring:
                    continue
                onward = shortest_route(ring, slot.contact.satellite, owner)
                start_s = max(slot.free_s, slot.contact.start_s)
                end_s = _through_s(plan, slot.contact.station, slot.contact.satellite, start_s, parcel.size)
                if end_s > slot.contact.end_s:
                    continue
                there_s = end_s + len(onward) * parcel.size / isl_Bps
                if best is None or there_s < best[0]:
                    best = (there_s, slot, start_s, end_s, (slot.contact.satellite, *onward))
            if best is None:
                raise _no_contact(plan, parcel.chunk, now_s)
            _, slot, start_s, end_s, onward = best
            slot.free_s = end_s
            contact = slot.contact
            route = (plan.ground, contact.station, *onward)
            assignments.append(
                Assignment(parcel.chunk, parcel.size, route, contact.start_s, contact.end_s, start_s, end_s)
            )
        return FlowPlan(tuple(assignments))


def _open_slots(plan: MissionPlan, now_s: float) -> list[_Slot]:
    return [_Slot(c, max(c.start_s, now_s)) for c in plan.contacts if c.end_s > now_s]


def _near(slots: Sequence[_Slot]) -> list[_Slot]:
    return sorted(slots, key=lambda slot: (slot.free_s, slot.contact.satellite))[:LOOKAHEAD]


def _through_s(plan: MissionPlan, sender: str, receiver: str, start_s: float, payload_bytes: float) -> float:
    """When a payload that leaves from ``start_s`` on is through, as the link plan's rates have it."""
    return plan.link_plans[sender].finish_s(receiver, start_s, payload_bytes / PAYLOAD_SHARE)


def _up_option(plan: MissionPlan, near: list[_Slot], position: int, left: Sequence[Parcel]) -> _Option | None:
    """The parcel that this contact would finish first, perhaps with help of the station's next contact."""
    slot = near[position]
    satellite, station = slot.contact.satellite, slot.contact.station
    index = min(range(len(left)), key=lambda i: (max(slot.free_s, left[i].ready_s(satellite)), left[i].chunk))
    parcel = left[index]
    start_s = max(slot.free_s, parcel.ready_s(satellite))
    end_s = _through_s(plan, satellite, station, start_s, parcel.size)
    closes_s = slot.contact.end_s
    if end_s <= closes_s:
        return _Option(end_s, index, ((slot, start_s, end_s),))
    if start_s >= closes_s:
        return None
    rest = parcel.size - plan.link_plans[satellite].carried_bytes(station, start_s, closes_s) * PAYLOAD_SHARE
    for later in near:
        if later is not slot and later.contact.station == station and later.free_s >= closes_s:
            resumed_s = max(later.free_s, parcel.ready_s(later.contact.satellite))
            done_s = _through_s(plan, later.contact.satellite, station, resumed_s, rest)
            if done_s <= later.contact.end_s:
                return _Option(done_s, index, ((slot, start_s, closes_s), (later, resumed_s, done_s)))
    return None


def _no_contact(plan: MissionPlan, chunk: str, now_s: float) -> ScenarioError:
    return ScenarioError(
        f"no contact left for chunk {chunk} after {now_s:.0f} s of mission time",
        field="duration",
        found=f"{plan.scenario.duration_s:.0f} s",
        allowed="a horizon with enough contacts for all rounds",
    )
