"""A strategy: who computes what in a round, and what crosses which link. Found through the entry point group
``skyrack.strategies``, so that another package can add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from testbed.errors import ScenarioError
from testbed.flow.assignment import FlowPlan
from testbed.flow.problem import Demand
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.strategy import sizes
from testbed.strategy.forecast import Forecast
from testbed.strategy.sizes import Averaged

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


EVERYBODY = "all"
"""Whose a model is that all satellites share."""


@dataclass(frozen=True)
class RoundOutcome:
    """What a round came to. ``reports`` are every satellite's ``round_done``; ``models`` packed weights (head, and
    adapter where one is trained) by whose they are: one under ``EVERYBODY``, or one by satellite where each has its
    own. ``loss`` is the mean over all samples of the round; ``disagreement`` says what is wrong where weights differ
    that should not."""

    reports: tuple[Report, ...]
    models: Mapping[str, bytes]
    loss: float
    disagreement: str = ""

    @classmethod
    def agreed(cls, reports: Sequence[Report], *before: bytes, loss: float | None = None) -> RoundOutcome:
        """Of satellites that all hold the same weights, which one of them reports. ``before`` are packed tensors of the
        same model that others hold and whose names come first; ``loss`` is given where satellites do not know it."""
        weights = next(report.blob for report in reports if report.blob)
        digests = {report.data["weights_sha256"] for report in reports}
        disagreement = f"the satellites ended with {len(digests)} different weights" if len(digests) > 1 else ""
        model = {EVERYBODY: b"".join((*before, weights))}
        return cls(tuple(reports), model, _mean_loss(reports) if loss is None else loss, disagreement)

    @classmethod
    def apart(cls, reports: Sequence[Report]) -> RoundOutcome:
        """Of satellites each of which holds, and reports, weights of its own."""
        return cls(tuple(reports), {report.node: report.blob for report in reports}, _mean_loss(reports))


def _mean_loss(reports: Sequence[Report]) -> float:
    samples = sum(report.data["samples"] for report in reports)
    return float(sum(report.data["loss"] * report.data["samples"] for report in reports) / samples)


class Strategy(ABC):
    """One way to fine-tune. Three views of one round: the controller's, a satellite's and the ground server's."""

    name: ClassVar[str]
    modes: ClassVar[frozenset[str]]
    encoder_on_board: ClassVar[bool]
    encoder_on_ground: ClassVar[bool]
    tensors: ClassVar[frozenset[str]] = frozenset({"embedding", "feature", "head", "adapter"})
    """Tags of what its nodes may send (DESIGN, decision 22)."""

    def check(self, scenario: Scenario) -> None:
        """Refuse a scenario this strategy cannot run."""
        if scenario.learning.mode not in self.modes:
            raise ScenarioError(
                f"strategy {self.name!r} does not run this mode over passes yet",
                field="learning.mode",
                found=scenario.learning.mode,
                allowed=", ".join(sorted(self.modes)),
            )

    def check_plan(self, plan: MissionPlan) -> None:  # noqa: B027 - most run over any
        """Refuse a mission that this strategy cannot fly: what is known only once there are orbits."""

    def averaged(self, plan: MissionPlan) -> Averaged:
        """What satellites average: all that is trained, unless a part of it is trained elsewhere."""
        return Averaged(sizes.weights_tensor(plan), sizes.weights_bytes(plan))

    def prepare_satellite(self, satellite: Satellite) -> None:
        """Load what a satellite needs: its data, what it trains, and the encoder where that is on board."""
        from testbed.learning.features import open_backbone
        from testbed.learning.learners import make_learner
        from testbed.learning.shard import Shard

        plan = satellite.plan
        backbone = open_backbone(plan.scenario.learning, satellite.ahead) if self.encoder_on_board else None
        satellite.shard = Shard(plan, satellite.name, make_learner(plan.scenario, backbone))

    def prepare_ground(self, ground: GroundServer) -> None:
        """Load what the ground server needs: the encoder where that is on the ground."""
        if self.encoder_on_ground:
            from testbed.learning.features import open_backbone

            ground.backbone = open_backbone(ground.plan.scenario.learning, ground.ahead)

    @abstractmethod
    async def coordinate(self, desk: Desk, round: int) -> RoundOutcome:
        """Drive one round, until every satellite has reported ``round_done``."""

    @abstractmethod
    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        """What a round that starts at ``now_s`` will take."""

    @abstractmethod
    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        """One satellite's part."""

    @abstractmethod
    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        """The ground server's part."""


def averages_plainly(scenario: Scenario, why: str) -> None:
    """Refuse whatever asks for more than the mean of weights, where ``why`` nothing else can be done."""
    learning = scenario.learning
    plain = {"aggregation": ("fedavg", "fedprox"), "lora_average": ("naive",), "optimiser_state": ("reset",)}
    for key, allowed in plain.items():
        found = getattr(learning, key)
        if found not in allowed:
            raise ScenarioError(why, field=f"learning.{key}", found=found, allowed=" or ".join(allowed))
