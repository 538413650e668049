"""The mission plan: everything about a run that is known before it starts."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from testbed.collective.forecast import Links, gather_s
from testbed.collective.membership import Membership, form, linked_at
from testbed.errors import LinkError
from testbed.link.plan import LinkPlan
from testbed.orbit.contacts import Contact
from testbed.scenario import Scenario
from testbed.transfer.transport import PAYLOAD_SHARE


@dataclass(frozen=True)
class MissionPlan:
    """Scenario, contact plan and one link plan per node. ``rings`` lists each plane's satellites in ring order.

    ``lost`` are nodes that failed and take no part any more; they keep their names and their share of the data.
    """

    scenario: Scenario
    rings: tuple[tuple[str, ...], ...]
    stations: tuple[str, ...]
    contacts: tuple[Contact, ...]
    link_plans: dict[str, LinkPlan]
    peak_rate_bps: float
    peak_at_s: float
    strategy: str = "collaborative"
    prediction: dict[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def satellites(self) -> tuple[str, ...]:
        """All satellites, plane by plane, lost ones included."""
        return tuple(name for ring in self.rings for name in ring)

    @property
    def present(self) -> tuple[str, ...]:
        """The satellites that are not lost, plane by plane."""
        return tuple(name for name in self.satellites if name not in self.lost)

    @cached_property
    def planes(self) -> tuple[tuple[str, ...], ...]:
        """The satellites of each plane that are not lost; no plane of which none is left."""
        planes = (tuple(name for name in ring if name not in self.lost) for ring in self.rings)
        return tuple(plane for plane in planes if plane)

    def plane_of(self, satellite: str) -> tuple[str, ...]:
        """The satellites of a satellite's plane that are not lost."""
        return tuple(name for name in self.ring_of(satellite) if name not in self.lost)

    @property
    def ground(self) -> str:
        """The ground server's name."""
        return self.scenario.ground.name

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node: satellites, stations, the ground server last; lost ones included."""
        return (*self.satellites, *self.stations, self.ground)

    def ring_of(self, satellite: str) -> tuple[str, ...]:
        """The ring a satellite is in."""
        return self._ring_by_satellite[satellite]

    def membership(self, ring: tuple[str, ...], at_s: float) -> Membership:
        """Who of a plane shares and averages in a round that begins at a mission time: a ring, or a line where a
        satellite is lost or a link is down. Raises LinkError where that leaves pieces that cannot reach each other."""
        return form(ring, linked_at(self.link_plans, at_s, self.scenario.duration_s), self.lost)

    def memberships(self, at_s: float) -> tuple[Membership, ...]:
        """The same of every plane that has a satellite left."""
        return tuple(self.membership(self.ring_of(plane[0]), at_s) for plane in self.planes)

    def assembled_s(self, at_s: float) -> float:
        """From when on, not before a mission time, every plane is a ring or a line by plan: a round waits for it.
        Raises LinkError where one is neither any more, with the links that are missing."""
        names = self.satellites
        opens_s = {start_s for name in names for peer in self.ring_of(name) for start_s, _ in self._windows(name, peer)}
        for instant_s in (at_s, *sorted(start_s for start_s in opens_s if start_s > at_s)):
            try:
                self.memberships(instant_s)
            except LinkError as error:
                apart = error
            else:
                return instant_s
        raise apart

    def round_the_ring_s(self, plane: tuple[str, ...], at_s: float, size_bytes: float) -> float:
        """How long blocks of one size each take to reach everybody in a plane, among those who take part in a round
        that begins at a mission time: an all-gather's closed form, but no less than one chunk takes to the farthest."""
        members = self.membership(self.ring_of(plane[0]), at_s)
        rate_bytes_per_s = self.isl_rate_bps * PAYLOAD_SHARE / 8
        gathered_s = gather_s(members, size_bytes, Links(rate_bytes_per_s, self.isl_hop_s))
        return max(gathered_s, self._farthest_s(members, min(size_bytes, self.scenario.chunk_bytes), rate_bytes_per_s))

    def spread_s(self, plane: tuple[str, ...], at_s: float, size_bytes: float) -> float:
        """How long one member's block takes to everybody: its chunks follow each other, and each link carries them
        once."""
        members = self.membership(self.ring_of(plane[0]), at_s)
        rate_bytes_per_s = self.isl_rate_bps * PAYLOAD_SHARE / 8
        chunk_bytes = min(size_bytes, self.scenario.chunk_bytes)
        return (size_bytes - chunk_bytes) / rate_bytes_per_s + self._farthest_s(members, chunk_bytes, rate_bytes_per_s)

    def _farthest_s(self, members: Membership, chunk_bytes: float, rate_bytes_per_s: float) -> float:
        hops = len(members) // 2 if members.closed else len(members) - 1
        return hops * (self.isl_hop_s + chunk_bytes / rate_bytes_per_s)

    def _windows(self, sender: str, receiver: str) -> tuple[tuple[float, float], ...]:
        plan = self.link_plans[sender]
        return plan.windows(receiver) if receiver in plan.links else ()

    @cached_property
    def isl_rate_bps(self) -> float:
        """The least rate that any inter-satellite link has while it is up; infinity where there is none."""
        rates_bps = [
            state.rate_bps
            for satellite in self.satellites
            for peer, states in self.link_plans[satellite].links.items()
            if peer in self._ring_by_satellite
            for state in states
            if state.up
        ]
        return min(rates_bps, default=math.inf)

    @cached_property
    def isl_hop_s(self) -> float:
        """One-way delay of the first inter-satellite link there is inside a plane, when it is first up; 0 without
        any."""
        ends = ((name, peer) for ring in self.rings for name in ring for peer in ring)
        states = (state for name, peer in ends for state in self.link_plans[name].links.get(peer, ()))
        return next((state.delay_ms / 1000 for state in states if state.up), 0.0)

    def contact(self, one: str, other: str, at_s: float) -> Contact | None:
        """The contact between a satellite and a station (in either order) that the plan has open at a mission time."""
        ends = {one, other}
        return next(
            (c for c in self.contacts if {c.satellite, c.station} == ends and c.start_s <= at_s < c.end_s), None
        )

    def without(self, contact: Contact) -> MissionPlan:
        """The same plan with a contact that nothing is to be planned for any more."""
        return replace(self, contacts=tuple(one for one in self.contacts if one != contact))

    def without_nodes(self, names: Collection[str]) -> MissionPlan:
        """The same plan with nodes lost: no contact of theirs, no link to them or from them."""
        lost = tuple(sorted({*self.lost, *names}))
        return replace(
            self,
            lost=lost,
            contacts=tuple(one for one in self.contacts if one.satellite not in lost and one.station not in lost),
            link_plans={
                name: plan.without(self.nodes if name in lost else lost) for name, plan in self.link_plans.items()
            },
        )

    @cached_property
    def _ring_by_satellite(self) -> dict[str, tuple[str, ...]]:
        return {name: ring for ring in self.rings for name in ring}

    def to_json(self) -> str:
        """One self-contained document, read back by ``from_json`` in another process or kernel."""
        return json.dumps(
            {
                "scenario": self.scenario.model_dump(mode="json"),
                "rings": self.rings,
                "stations": self.stations,
                "contacts": [vars(contact) for contact in self.contacts],
                "link_plans": {name: plan.to_dict() for name, plan in self.link_plans.items()},
                "peak_rate_bps": self.peak_rate_bps,
                "peak_at_s": self.peak_at_s,
                "strategy": self.strategy,
                "prediction": self.prediction,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> MissionPlan:
        """The inverse of ``to_json``."""
        data = json.loads(text)
        return cls(
            scenario=Scenario.model_validate(data["scenario"]),
            rings=tuple(tuple(ring) for ring in data["rings"]),
            stations=tuple(data["stations"]),
            contacts=tuple(Contact(**contact) for contact in data["contacts"]),
            link_plans={name: LinkPlan.from_dict(plan) for name, plan in data["link_plans"].items()},
            peak_rate_bps=data["peak_rate_bps"],
            peak_at_s=data["peak_at_s"],
            strategy=data["strategy"],
            prediction=data["prediction"],
        )
