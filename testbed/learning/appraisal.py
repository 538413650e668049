"""How good a run's weights are, by the ground's own copy of the data; charged nothing, on no link."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.learning.ahead import AheadStore
from testbed.learning.checkpoint import unpack_state
from testbed.learning.evaluate import Evaluator
from testbed.learning.features import Backbone
from testbed.learning.learners import AdapterLearner, Learner, State, make_learner
from testbed.learning.model import Embedding
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

    def validation_accuracy(self, packed: bytes) -> float:
        """Fraction of the held-out tenth that these weights label correctly."""
        state = self._take(packed)
        return self._current().validation_accuracy(state)

    def test_accuracy(self, last: bytes) -> tuple[float, float]:
        """Fractions of the test split that the untrained and the final weights label correctly: its one reading."""
        first = self._take(self.first)
        before = self._current().baseline_test_accuracy(first)
        state = self._take(last)
        return before, self._current().test_accuracy(state)

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
        yield evaluator.payload(split)


def _evaluator(scenario: Scenario, backbone: Backbone) -> Evaluator:
    return Evaluator(
        dataset(scenario.learning.dataset),
        validation_indices(scenario),
        Embedding(scenario.seed),
        backbone,
        scenario.learning.codec,
        open_protection(scenario),
    )
