"""A strategy: who computes what in a round, and what crosses which link. Found through the entry point group
``skyrack.strategies``, so that another package can add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from testbed.errors import ScenarioError
from testbed.flow.assignment import FlowPlan
from testbed.flow.problem import Demand
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.strategy.forecast import Forecast

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite
    from testbed.orbit.contacts import Contact
    from testbed.scenario import Scenario


T = TypeVar("T")


class FlowPlanner(Protocol):
    """Says which chunk uses which contact. What decides behind it is a scheduler, chosen by name."""

    def plan(self, mission: MissionPlan, demands: Sequence[Demand], now_s: float, over: frozenset[str]) -> FlowPlan:
        """Routes for chunks (each a demand, named as the chunk) that may use the kinds of links in ``over``: up, down,
        isl, backhaul. Raises :class:`~testbed.errors.FlowError` when the horizon is too short."""


class Desk(Protocol):
    """What the controller offers a strategy while it coordinates a round."""

    plan: MissionPlan
    flows: FlowPlanner
    run: str
    attempt: int
    """Which attempt at the round this is, from 1: a round that loses a node is coordinated again, without it."""

    def now(self) -> float:
        """Mission time."""

    async def order(self, node: str, order: Order) -> None:
        """Send one node an order; returns when the node has taken it. A lost node gets none."""

    async def consider(self, work: Callable[[], T]) -> T:
        """Do the planner's own work, which no mission time is charged for."""

    async def next_report(self) -> Report:
        """The next report of any node that asks for a decision. Raises NodeLost when a node is lost."""

    def held_by(self, chunk: str) -> frozenset[str]:
        """The nodes that are known to hold a chunk of this round; none of one that nobody has sent yet."""

    def lose(self, contact: Contact) -> None:
        """Record that a contact does not carry what the plan says, and plan nothing for it any more."""

    def journal(self, kind: str, **data: object) -> None:
        """Record a decision."""


class Strategy(ABC):
    """One way to fine-tune. Three views of one round: the controller's, a satellite's and the ground server's."""

    name: ClassVar[str]
    modes: ClassVar[frozenset[str]]
    encoder_on_board: ClassVar[bool]
    encoder_on_ground: ClassVar[bool]

    def check(self, scenario: Scenario) -> None:
        """Refuse a scenario this strategy cannot run."""
        if scenario.learning.mode not in self.modes:
            raise ScenarioError(
                f"strategy {self.name!r} does not run this mode over passes yet",
                field="learning.mode",
                found=scenario.learning.mode,
                allowed=", ".join(sorted(self.modes)),
            )

    @abstractmethod
    async def coordinate(self, desk: Desk, round: int) -> list[Report]:
        """Drive one round; returns every satellite's ``round_done`` report."""

    @abstractmethod
    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        """What a round that starts at ``now_s`` will take."""

    @abstractmethod
    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        """One satellite's part."""

    @abstractmethod
    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        """The ground server's part."""
