"""What a run keeps of what it learned."""

from __future__ import annotations

from pathlib import Path

from testbed.learning.checkpoint import save_head, unpack_state
from testbed.learning.features import Backbone
from testbed.learning.learners import AdapterLearner, State, make_learner
from testbed.scenario import Scenario


def save_checkpoint(scenario: Scenario, packed: bytes, folder: Path) -> State:
    """Write ``head.safetensors``, and beside it the PEFT adapter where one was trained; returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    learner = make_learner(scenario, Backbone(scenario.learning))
    state = unpack_state(packed, learner.state)
    if isinstance(learner, AdapterLearner):
        learner.adapter.load(state)
        learner.adapter.save(folder, state)
    else:
        save_head(state, folder / "head.safetensors")
    return state
