"""Break-even of a pair of strategies: at which speeds and link rates computing on the ground and on board take equal
predicted time, everything else as in the scenario.

Three quantities are varied, one at a time, each by a factor under which the ground's side only gains: how slow the
satellites are and how fast the ground is (both change the ratio of speeds), and the rates of the links between the two.
Times are forecasts of the first rounds; the factor is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from controller.flow.chunks import ChunkPlanner
from controller.planner import predict
from testbed import registry
from testbed.errors import FlowError, LinkError, ScenarioError
from testbed.link.plan import LinkPlan
from testbed.metrics import direction
from testbed.mission import MissionPlan
from testbed.strategy import charges, sizes
from testbed.strategy.base import FlowPlanner, Strategy

ROUNDS = 1
"""How many rounds are forecast unless somebody asks for more. A break-even is some thirty forecasts, each 0.15 s a
round for the demo; later rounds meet other passes."""
FURTHEST = 4.0**5
"""How far a quantity is varied either way: a thousand times slower satellites are no satellites any more."""
TOLERANCE = 1e-3
"""Times that differ by less than this share are equal."""
_STEPS = 40
_UNLIMITED = 1e5
"""What the rates of links are multiplied by to see a mission without them: the demo's 5 Mbit/s become 500 Gbit/s."""
SPACE_GROUND = frozenset({"up", "down"})
_RELAXED = (
    ("the backhaul", frozenset({"backhaul"})),
    ("the links between satellites", frozenset({"backhaul", "isl"})),
)
"""What may hold the ground's side up when links between space and ground do not, in the order in which it is tried."""


@dataclass(frozen=True)
class Scaled:
    """By how much a mission differs from the scenario's: satellites so many times slower, the ground so many times
    faster, the rates of the links between them multiplied."""

    slower_satellites: float = 1.0
    faster_ground: float = 1.0
    link_rates: float = 1.0


@dataclass(frozen=True)
class Balance:
    """Where one quantity brings the two sides to equal time.

    ``factor`` is None where there is no such place, and ``why`` says so; otherwise ``ground_s`` and ``board_s`` are the
    two times there. They differ by more than the tolerance where the ground's time jumps, from one pass to the next:
    the ground's side is then slower below the factor and quicker from it on.
    """

    quantity: str
    factor: float | None
    ground_s: float
    board_s: float
    why: str = ""

    @property
    def equal(self) -> bool:
        """Whether both times are the same there."""
        return self.factor is not None and abs(self.ground_s - self.board_s) <= TOLERANCE * self.board_s


class Pair:
    """A strategy that computes on the ground and one that computes on board, on the same mission."""

    def __init__(
        self, plan: MissionPlan, ground: Strategy, board: Strategy, flows: FlowPlanner, rounds: int = ROUNDS
    ) -> None:
        """ScenarioError where one of the two cannot run the scenario."""
        for strategy in (ground, board):
            strategy.check(plan.scenario)
        rounds = min(rounds, plan.scenario.learning.rounds)
        learning = plan.scenario.learning.model_copy(update={"rounds": rounds})
        self.plan = replace(plan, scenario=plan.scenario.model_copy(update={"learning": learning}))
        self.rounds = rounds
        self.ground = ground
        self.board = board
        self._flows = flows
        self._known: dict[tuple[str, Scaled, frozenset[str]], float] = {}

    def ground_s(self, scaled: Scaled, unlimited: frozenset[str] = frozenset()) -> float:
        """Predicted time of the rounds when the ground computes, also without limits on some kinds of links; infinity
        where the horizon is too short."""
        return self._time_s(self.ground, scaled, unlimited)

    def board_s(self, scaled: Scaled) -> float:
        """The same when the satellites compute."""
        return self._time_s(self.board, scaled)

    def speed_ratio(self, scaled: Scaled) -> float:
        """How many times as fast as a satellite the ground encodes the samples of the first round."""
        plan = scaled_plan(self.plan, scaled)
        count = max(1, sum(sizes.encoded_counts(plan, 1).values()))
        return charges.satellite_s(plan, "encode", count) / charges.ground_s(plan, "encode", count)

    def link_rates_bps(self, scaled: Scaled) -> dict[str, float]:
        """The greatest rate of any link up, and of any down."""
        found = dict.fromkeys(("up", "down"), 0.0)
        for sender, links in self.plan.link_plans.items():
            for receiver, states in links.links.items():
                way = direction(sender, receiver)
                if way in found:
                    found[way] = max([found[way], *(state.rate_bps * scaled.link_rates for state in states)])
        return found

    def _time_s(self, strategy: Strategy, scaled: Scaled, unlimited: frozenset[str] = frozenset()) -> float:
        key = (strategy.name, scaled, unlimited)
        if key not in self._known:
            try:
                predicted = predict(scaled_plan(self.plan, scaled, unlimited), strategy, self._flows)
                self._known[key] = float(predicted["mission_time_s"])
            except (FlowError, LinkError):  # no passes left, or no plane in one piece
                self._known[key] = math.inf
        return self._known[key]


def pair_of(plan: MissionPlan, flows: FlowPlanner, rounds: int = ROUNDS) -> Pair:
    """The plan's strategy and its counterpart: ``collaborative`` for one that computes on board, else ``onboard``."""
    own = registry.load("strategies", plan.strategy)
    other = registry.load("strategies", "onboard" if own.encoder_on_ground else "collaborative")
    ground, board = (own, other) if own.encoder_on_ground else (other, own)
    return Pair(plan, ground, board, flows, rounds)


def scaled_plan(plan: MissionPlan, scaled: Scaled, unlimited: frozenset[str] = frozenset()) -> MissionPlan:
    """The plan with other speeds of devices and other rates between space and ground; passes stay. Kinds of links in
    ``unlimited`` are no limit."""
    devices = plan.scenario.devices
    speeds = {
        "satellite": devices.satellite.faster(1 / scaled.slower_satellites),
        "ground": devices.ground.faster(scaled.faster_ground),
    }
    scenario = plan.scenario.model_copy(update={"devices": devices.model_copy(update=speeds)})
    rates = dict.fromkeys(SPACE_GROUND, scaled.link_rates) | dict.fromkeys(unlimited, _UNLIMITED)
    links = {name: _with_rates(one, rates) for name, one in plan.link_plans.items()}
    return replace(plan, scenario=scenario, link_plans=links)


def _with_rates(plan: LinkPlan, rates: Mapping[str, float]) -> LinkPlan:
    links = {}
    for peer, states in plan.links.items():
        factor = rates.get(direction(plan.node, peer), 1.0)
        links[peer] = tuple(replace(state, rate_bps=state.rate_bps * factor) for state in states)
    return LinkPlan(plan.node, links)


# -- search -----------------------------------------------------------------------------------------------------------


def crossing(gain: Callable[[float], float], equal: Callable[[float], bool]) -> tuple[float | None, float]:
    """The least factor, as far as bisection tells, from which on ``gain`` (which should not fall) is not negative.

    From 1 it goes out by factors of 4, up where the gain is negative and down where it is not, as far as
    :data:`FURTHEST`, and then halves the bracket on a logarithmic scale until ``equal`` or as narrow as the tolerance.
    Answers the factor (None for no crossing) and the last one tried on the other side.
    """
    wins = gain(1.0) >= 0
    if equal(1.0):
        return 1.0, 1.0
    inside, step = 1.0, 0.25 if wins else 4.0
    outside = inside * step
    while (gain(outside) >= 0) == wins:
        if not 1 / FURTHEST < outside < FURTHEST:
            return None, outside
        inside, outside = outside, outside * step
    low, high = (outside, inside) if wins else (inside, outside)
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        if gain(middle) >= 0:
            high = middle
        else:
            low = middle
        if equal(middle):
            return middle, low
        # Much narrower than the tolerance of times: what still differs is a jump.
        if high / low < 1 + TOLERANCE / 100:
            break
    return high, low


@dataclass(frozen=True)
class Quantity:
    """What is varied: how a factor of it makes another mission, and why there may be no crossing."""

    name: str
    scaled: Callable[[float], Scaled]
    always: str
    never: Callable[[Pair, Scaled], str]


def balance(pair: Pair, quantity: Quantity) -> Balance:
    """Where a quantity brings the pair to equal time."""

    def both_s(factor: float) -> tuple[float, float]:
        scaled = quantity.scaled(factor)
        return pair.ground_s(scaled), pair.board_s(scaled)

    def gain(factor: float) -> float:
        ground_s, board_s = both_s(factor)
        return board_s - ground_s

    def equal(factor: float) -> bool:
        return abs(gain(factor)) <= TOLERANCE * both_s(factor)[1]

    factor, last = crossing(gain, equal)
    if factor is not None:
        return Balance(quantity.name, factor, *both_s(factor))
    why = quantity.always if gain(last) >= 0 else quantity.never(pair, quantity.scaled(last))
    return Balance(quantity.name, None, *both_s(last), why)


def _unhelped(pair: Pair, scaled: Scaled) -> str:
    """Why no rate of the links between space and ground helps: the first of the other links that would, or none."""
    board_s = pair.board_s(scaled)
    for what, kinds in _RELAXED:
        if pair.ground_s(Scaled(), SPACE_GROUND | kinds) <= board_s:
            return f"{what} hold it up"
    return "passes to wait for, delays and computation hold it up, whatever links carry"


QUANTITIES = (
    Quantity(
        "slower satellites",
        lambda factor: Scaled(slower_satellites=factor),
        "even the fastest satellites are slower than the ground and the way to it",
        lambda pair, scaled: "even the slowest satellites are quicker, or the passes of the horizon do not suffice",
    ),
    Quantity(
        "faster ground",
        lambda factor: Scaled(faster_ground=factor),
        "even a very slow ground is quicker",
        lambda pair, scaled: "links and the satellites' own part take longer, however fast the ground computes",
    ),
    Quantity(
        "space-ground rates",
        lambda factor: Scaled(link_rates=factor),
        "even very slow links are quick enough",
        _unhelped,
    ),
)


# -- what is shown ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BreakEven:
    """The balances of a pair, and what the scenario has as it is."""

    pair: Pair
    balances: tuple[Balance, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form: times, speeds and rates as the scenario has them, and where both take equal time."""
        ground_s, board_s = self.pair.ground_s(Scaled()), self.pair.board_s(Scaled())
        return {
            "strategies": [self.pair.ground.name, self.pair.board.name],
            "rounds": self.pair.rounds,
            "ground_s": _finite(ground_s),
            "board_s": _finite(board_s),
            "speed_ratio": self.pair.speed_ratio(Scaled()),
            "link_rates_bps": self.pair.link_rates_bps(Scaled()),
            "balances": [self._row(one, quantity) for one, quantity in zip(self.balances, QUANTITIES, strict=True)],
        }

    def _row(self, one: Balance, quantity: Quantity) -> dict[str, Any]:
        scaled = quantity.scaled(one.factor or 1.0)
        times = {"ground_s": _finite(one.ground_s), "board_s": _finite(one.board_s)}
        row = asdict(one) | times | {"equal": one.equal}
        if one.factor is None:
            return row | {"speed_ratio": None, "link_rates_bps": None}
        return row | {
            "speed_ratio": self.pair.speed_ratio(scaled),
            "link_rates_bps": self.pair.link_rates_bps(scaled),
        }


def break_even(pair: Pair) -> BreakEven:
    """Where a pair takes equal time, for every quantity."""
    return BreakEven(pair, tuple(balance(pair, quantity) for quantity in QUANTITIES))


def balances(plan: MissionPlan, scheduler: str, rounds: int = ROUNDS) -> dict[str, Any]:
    """The break-even of a plan's strategy and its counterpart over the first rounds, as JSON. ScenarioError where the
    counterpart does not run the plan's mode."""
    flows = ChunkPlanner(registry.load("schedulers", scheduler))
    return break_even(pair_of(plan, flows, rounds)).to_dict()


def with_break_even(plan: MissionPlan, scheduler: str) -> MissionPlan:
    """The plan with its break-even in its prediction, where its strategy has a counterpart that runs its mode."""
    try:
        found = balances(plan, scheduler)
    except ScenarioError:
        return plan
    return replace(plan, prediction=plan.prediction | {"break_even": found})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
