"""How good a run's weights are, by the ground's own copy of the data; charged nothing, on no link."""

from __future__ import annotations

from testbed.learning.checkpoint import unpack_state
from testbed.learning.encoder import load_encoder
from testbed.learning.evaluate import Evaluator
from testbed.learning.learners import AdapterLearner, Learner, State, make_learner
from testbed.learning.model import Embedding
from testbed.learning.placement import dataset, validation_indices
from testbed.scenario import Scenario


class Appraiser:
    """Scores packed weights as the satellites report them."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._encoder = load_encoder(scenario.learning.model)
        self.learner: Learner = make_learner(scenario, self._encoder)
        self.first = self.learner.pack()
        """The untrained weights."""
        self._frozen = self._evaluator()

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
        return self._evaluator()

    def _evaluator(self) -> Evaluator:
        scenario = self._scenario
        return Evaluator(
            dataset(scenario.learning.dataset),
            validation_indices(scenario),
            Embedding(scenario.seed),
            self._encoder,
            scenario.learning.codec,
        )
