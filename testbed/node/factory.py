"""Which class hosts which node."""

from __future__ import annotations

from typing import Any

from testbed.mission import MissionPlan
from testbed.node.base import Node
from testbed.node.ground import GroundServer
from testbed.node.satellite import Satellite
from testbed.node.station import GroundStation


def node_class(plan: MissionPlan, name: str) -> type[Node]:
    """Satellite, ground station or ground server, by the plan's lists."""
    roles: dict[str, type[Node]] = dict.fromkeys(plan.satellites, Satellite)
    roles |= dict.fromkeys(plan.stations, GroundStation)
    roles[plan.ground] = GroundServer
    return roles[name]


def build_node(plan: MissionPlan, name: str, **hosts: Any) -> Node:
    """One node, hosted by what ``hosts`` gives it: run, strategy, clock, transport, control."""
    return node_class(plan, name)(name=name, plan=plan, **hosts)
