"""How good a run's weights are, by the ground's own copy of the data; charged nothing, on no link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from testbed.learning.ahead import AheadStore
from testbed.learning.checkpoint import models_sha256, unpack_state
from testbed.learning.evaluate import Evaluator
from testbed.learning.features import Backbone
from testbed.learning.learners import AdapterLearner, Learner, State, make_learner
from testbed.learning.models import open_model
from testbed.learning.placement import dataset, validation_indices
from testbed.learning.protection import open_protection
from testbed.scenario import Scenario


class Appraiser:
    """Scores packed weights as the satellites report them."""

    def __init__(self, scenario: Scenario, ahead: AheadStore | None = None) -> None:
        self._scenario = scenario
        self._backbone = Backbone(scenario.learning, ahead)
        self.learner: Learner = make_learner(scenario, self._backbone)
        self.first = self.learner.pack()
        """The untrained weights."""
        self._frozen = _evaluator(scenario, self._backbone)

    def validation_accuracies(self, models: Mapping[str, bytes]) -> dict[str, float]:
        """Fraction of the held-out tenth that each of these packed weights labels correctly, by whose they are."""
        found = {}
        for name, packed in sorted(models.items()):
            state = self._take(packed)
            found[name] = self._current().validation_accuracy(state)
        return found

    def test_accuracies(self, models: Mapping[str, bytes]) -> tuple[float, dict[str, float]]:
        """Fractions of the test split that the untrained and the final weights label correctly: its one reading."""
        first = self._take(self.first)
        before = self._current().baseline_test_accuracy(first)
        if isinstance(self.learner, AdapterLearner):
            return before, {name: self._current_of(packed) for name, packed in sorted(models.items())}
        states = [unpack_state(packed, self.learner.state) for _, packed in sorted(models.items())]
        return before, dict(zip(sorted(models), self._frozen.test_accuracies(states), strict=True))

    def _current_of(self, packed: bytes) -> float:
        state = self._take(packed)
        return self._current().test_accuracy(state)

    def digest(self, models: Mapping[str, bytes]) -> str:
        """SHA-256 of the one model's weights, or over all of them where each satellite has its own."""
        return models_sha256({name: unpack_state(packed, self.learner.state) for name, packed in models.items()})

    def _take(self, packed: bytes) -> State:
        self.learner.state = unpack_state(packed, self.learner.state)
        return self.learner.state

    def _current(self) -> Evaluator:
        """The evaluator whose features belong to the learner's weights: one for all where the encoder is frozen."""
        if not isinstance(self.learner, AdapterLearner):
            return self._frozen
        self.learner.adapter.load(self.learner.state)
        return _evaluator(self._scenario, self._backbone)


def appraisal_payloads(scenario: Scenario) -> Iterator[tuple[bytes, int]]:
    """The cut tensors whose features appraising needs, encoded, and how many."""
    evaluator = _evaluator(scenario, Backbone(scenario.learning))
    for split in ("validation", "test"):
        yield from evaluator.payloads(split)


def _evaluator(scenario: Scenario, backbone: Backbone) -> Evaluator:
    data = dataset(scenario.learning)
    return Evaluator(
        data,
        validation_indices(scenario),
        open_model(scenario.learning).embedding(data.layout, scenario.seed),
        backbone,
        scenario.learning.codec,
        open_protection(scenario),
    )
