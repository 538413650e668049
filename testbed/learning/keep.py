"""What a run keeps of what it learned: after every round a folder that others can load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from testbed.learning.card import CONFIG, EMBEDDING, HEAD, README, config, model_card
from testbed.learning.checkpoint import save_head, unpack_state
from testbed.learning.features import Backbone
from testbed.learning.learners import AdapterLearner, Learner, State, make_learner
from testbed.learning.models import open_model
from testbed.learning.placement import dataset
from testbed.scenario import Scenario


class Keeper:
    """Writes packed weights, as satellites report them, as files. Holds an encoder where an adapter is trained."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._learner: Learner = make_learner(scenario, Backbone(scenario.learning))
        layout = dataset(scenario.learning).layout
        embedding = open_model(scenario.learning).embedding(layout, scenario.seed)
        self._embedding: State = {**dict(embedding.named_parameters()), **dict(embedding.named_buffers())}

    def save(self, packed: bytes, folder: Path, facts: Mapping[str, object]) -> State:
        """Fill ``folder``, which is made: head, embedding, configuration, model card and, where one was trained, the
        adapter in PEFT's layout; returns the weights. ``facts`` are the card's, by name.

        The embedding comes from the seed and is never trained; with it the folder and the base are the whole model.
        """
        folder.mkdir(parents=True)
        state = unpack_state(packed, self._learner.state)
        if isinstance(self._learner, AdapterLearner):
            self._learner.adapter.load(state)
            self._learner.adapter.save(folder, state)
        else:
            save_head(state, folder / HEAD)
        save_head(self._embedding, folder / EMBEDDING)
        (folder / CONFIG).write_text(json.dumps(config(self._scenario), indent=2) + "\n", encoding="utf-8")
        # After the adapter: peft writes a card of its own.
        (folder / README).write_text(model_card(self._scenario, folder.name, facts), encoding="utf-8")
        return state
