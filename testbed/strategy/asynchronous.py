"""``async``: planes that do not wait for each other. Each trains and averages inside, as in ``onboard``; the ground
mixes in what a plane sends on its next pass, with a weight that falls with how many others came between, and the plane
goes on with what comes of it.

A round ends when every plane has been heard. Until then a plane that has been goes on, for up to ``learning.turns``
turns: it may be so far ahead and no farther (Ho et al., 2013, stale synchronous parallel). So nobody waits for a plane
without a pass, but for the end of a round, in which the model is appraised and kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from testbed.errors import BoardError, ScenarioError
from testbed.flow.assignment import Assignment, FlowPlan
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report, attempted
from testbed.scenario import Scenario
from testbed.strategy import charges, planes, rounds, sizes
from testbed.strategy.base import EVERYBODY, Desk, FlowPlanner, RoundOutcome, averages_plainly
from testbed.strategy.forecast import Forecast, Phase
from testbed.strategy.legs import Leg, plan_down, plan_up, ready_at
from testbed.strategy.onboard import Onboard
from testbed.strategy.passes import Handler
from testbed.transfer.chunks import ChunkId

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


def drawn_round(plan: MissionPlan, round: int, turn: int) -> int:
    """The round whose draw of samples a turn takes: its own in the first, and later ones that no round has."""
    return round + (turn - 1) * plan.scenario.learning.rounds


class Asynchronous(Onboard):
    """Encoder and head on every satellite; weights of planes meet on the ground one by one."""

    name: ClassVar[str] = "async"

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}
        self._done: dict[str, list[Report]] = {}
        self._heard: set[str] = set()
        self._model = b""

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        averages_plainly(scenario, "what planes send is mixed, and nothing else is done with it")
        if scenario.learning.feature_cache:
            raise ScenarioError(
                "planes go through samples each at its own pace: what is known of them cannot be planned",
                field="learning.feature_cache",
                found="true",
                allowed="false",
            )

    def check_plan(self, plan: MissionPlan) -> None:
        """Any number of planes will do."""

    # -- the controller's view ------------------------------------------------------------------------------------

    async def begin(self, desk: Desk, round: int) -> None:
        if desk.attempt > 1:
            raise BoardError(
                f"{desk.plan.lost[-1]} was lost: planes that do not wait for each other have no common state from "
                "which a round could be begun again"
            )
        speakers = planes.speakers(desk.plan)
        self._turns = dict.fromkeys(speakers, 1)
        self._done = {speaker: [] for speaker in speakers}
        self._heard = set()
        await self.begin_with(desk, round, FlowPlan(()))

    def leg_of(self, plan: MissionPlan, chunk: ChunkId, attempt: int) -> Leg:
        both = (leg for turn in _turns(plan) for leg in planes.legs(self.averaged(plan), turn, [chunk.origin]))
        return next(leg for leg in both if leg.phase == chunk.phase)

    def handlers(self) -> Mapping[str, Handler]:
        return {"round_done": self._turn_done, planes.READY: self._hear, planes.MEAN: self._answer}

    def outcome(self, kept: list[Report]) -> RoundOutcome:
        apart = RoundOutcome.apart(kept)
        return RoundOutcome(apart.reports, {EVERYBODY: self._model}, apart.loss)

    async def _hear(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        """A plane has averaged inside: let the ground listen, and plan its weights up."""
        await desk.order(
            desk.plan.ground, Order("begin_round", report.round, turn=report.data["again"], about=report.node)
        )
        await self._send_plane(desk, report, kept)

    async def _answer(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        """The ground has mixed a plane's weights in: send it what came of it."""
        self._model = report.blob
        self._heard.update(report.data["to"])
        mixed = {key: report.data[key] for key in ("version", "staleness", "weight")}
        desk.journal("mixed", round=report.round, plane=report.data["to"][0], turn=report.data["again"], **mixed)
        await self._send_mean(desk, report, kept)

    async def _turn_done(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        """A satellite has ended its turn; when all of its plane have, they take another, or the round is over for
        them."""
        plane = desk.plan.plane_of(report.node)
        done = self._done[plane[0]]
        done.append(report)
        if len(done) < len(plane):
            return
        if self._heard == set(self._turns) or self._turns[plane[0]] == desk.plan.scenario.learning.turns:
            kept.extend(done)
            return
        self._turns[plane[0]] += 1
        self._done[plane[0]] = []
        for name in plane:
            await desk.order(name, Order("begin_round", report.round, turn=self._turns[plane[0]]))

    # -- prediction -----------------------------------------------------------------------------------------------

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        """Turn by turn, whichever plane is done first; planes' transfers are planned as if others had none."""
        begun = [(now_s, speaker, 1) for speaker in planes.speakers(plan)]
        heard_s: dict[str, float] = {}
        ends: list[tuple[float, str, int]] = []
        phases: list[Phase] = []
        transfers: list[Assignment] = []
        waiting = list(begun)
        while waiting or ends:
            for start_s, speaker, turn in waiting:
                made, met = self._forecast_turn(plan, flows, round, speaker, turn, start_s)
                phases += made
                transfers += met
                heard_s.setdefault(speaker, made[-1].start_s)
                heapq.heappush(ends, (made[-1].end_s, speaker, turn))
            end_s, speaker, turn = heapq.heappop(ends)
            unheard = [name for name in planes.speakers(plan) if heard_s.get(name, end_s) > end_s]
            again = unheard and turn < plan.scenario.learning.turns
            waiting = [(end_s, speaker, turn + 1)] if again else []
        return Forecast(round, tuple(sorted(phases, key=lambda one: (one.end_s, one.start_s))), tuple(transfers))

    def _forecast_turn(
        self, plan: MissionPlan, flows: FlowPlanner, round: int, speaker: str, turn: int, start_s: float
    ) -> tuple[list[Phase], tuple[Assignment, ...]]:
        """A plane's turn: on board, then up, mixed at the start of the last phase, and down to everybody."""
        plane, averaged = plan.plane_of(speaker), self.averaged(plan)
        drawn = drawn_round(plan, round, turn)
        encoded, used = sizes.encoded_counts(plan, drawn), sizes.sample_counts(plan, drawn)
        board_s = max(
            charges.satellite_s(plan, "embed", encoded[name])
            + charges.satellite_s(plan, *sizes.encoding_work(plan.scenario, encoded[name]))
            + rounds.training_s(plan, used[name])
            for name in plane
        )
        ready_s = start_s + board_s + plan.round_the_ring_s(plane, start_s, averaged.size_bytes)
        up, down = planes.legs(averaged, turn, [speaker])
        ups = plan_up(plan, flows, [up], ready_at([up], ready_s), ready_s, round, "plan")
        downs = plan_down(plan, flows, [down], ready_at([down], ups.end_s), ups.end_s, round, "plan")
        spread_s = plan.spread_s(plane, start_s, averaged.size_bytes)
        phases = [
            Phase(f"{speaker} on board {turn}", start_s, ready_s),
            Phase(f"{speaker} up {turn}", ready_s, ups.end_s),
            Phase(f"{speaker} down {turn}", ups.end_s, downs.end_s + spread_s),
        ]
        return phases, ups.assignments + downs.assignments

    # -- a satellite's view ---------------------------------------------------------------------------------------

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        drawn, learner = drawn_round(satellite.plan, order.round, order.turn), satellite.shard.learner
        inputs = await self.encode(satellite, drawn)
        loss, count = await rounds.train(satellite, inputs, drawn)
        await rounds.average_inside(satellite, drawn, attempted("gather", order.turn))
        learner.unpack(await planes.meet(satellite, learner.pack(), order.turn))
        await rounds.report_done(satellite, loss, count, drawn=drawn)

    # -- the ground server's view ---------------------------------------------------------------------------------

    def prepare_ground(self, ground: GroundServer) -> None:
        from testbed.learning.features import Backbone
        from testbed.learning.learners import make_learner
        from testbed.learning.mixing import Mixer

        learning = ground.plan.scenario.learning
        first = make_learner(ground.plan.scenario, Backbone(learning)).pack()
        ground.mixer = Mixer(first, learning.mixing_rate, learning.staleness_exponent)

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        if not order.about:
            return  # the round begins; what there is to do will be said
        plan, mixer, speaker = ground.plan, ground.mixer, order.about
        up, down = planes.legs(self.averaged(plan), order.turn, [speaker])
        with ground.activity("wait", f"plane of {speaker}"):
            packed = await ground.collect(up.tensor, up.phase, speaker, up.sizes_bytes[speaker])
        staleness = mixer.mix(speaker, packed)
        ground.offer(ground.cut(down.phase, down.tensor, speaker, mixer.packed))
        await ground.report(
            planes.MEAN,
            blob=mixer.packed,
            again=order.turn,
            to=[speaker],
            version=mixer.version,
            staleness=staleness,
            weight=mixer.weight_of(staleness),
        )


def _turns(plan: MissionPlan) -> range:
    return range(1, plan.scenario.learning.turns + 1)
