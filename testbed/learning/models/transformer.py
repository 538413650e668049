"""Any encoder of transformers behind the interface of models, split by its structure."""

from __future__ import annotations

import copy
import json
import pathlib
from functools import lru_cache
from typing import TYPE_CHECKING

from testbed.errors import ScenarioError
from testbed.learning.models.base import Model, ModelShape
from testbed.learning.tasks import SampleLayout
from testbed.scenario_learning import LearningSettings

if TYPE_CHECKING:
    from torch import nn

    from testbed.learning.encoder import Encoder


class Transformer(Model):
    """A model by hub id or path: images through its own patches, or tokens of values through a seeded linear map.

    The split is proved each time it is made: on a probe, embedding and encoder together must give the whole model's
    ``last_hidden_state``, bit for bit.
    """

    def __init__(self, learning: LearningSettings) -> None:
        super().__init__(learning)
        if learning.weights not in ("pretrained", "random"):
            raise ScenarioError(
                "a model of transformers has its weights beside its configuration",
                field="learning.weights",
                found=learning.weights,
                allowed="pretrained or random",
            )

    @property
    def base_name(self) -> str:
        return self.learning.model

    @property
    def image_px(self) -> int | None:
        size = _config(self.learning.model).get("image_size")
        if size is not None and not isinstance(size, int):
            raise ScenarioError(
                "the model takes no square images", field="learning.model", found=size, allowed="one image_size"
            )
        return size

    def shape(self, layout: SampleLayout) -> ModelShape:
        from testbed.learning.models.parts import measure

        return measure(self.learning.model, layout)

    def embedding(self, layout: SampleLayout, seed: int) -> nn.Module:
        return copy.deepcopy(_embedding(self.learning, layout, seed))

    def encoder(self) -> Encoder:
        from testbed.learning.models.parts import open_parts, own_layout

        return open_parts(self.learning, own_layout(self.learning.model), 0)[1]


@lru_cache(maxsize=2)
def _embedding(learning: LearningSettings, layout: SampleLayout, seed: int) -> nn.Module:
    """Proved once per process: many satellites may live in one."""
    from testbed.learning.models.parts import open_parts

    return open_parts(learning, layout, seed)[0]


def _config(name: str) -> dict[str, object]:
    """The configuration; from a path without transformers, whose import takes seconds."""
    path = pathlib.Path(name) / "config.json"
    if pathlib.Path(name).exists():
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise ScenarioError(
                f"the model's folder has no readable config.json: {error}",
                field="learning.model",
                found=name,
                allowed="a folder as transformers' save_pretrained writes it",
            ) from error
    from testbed.learning.models.loading import load_config

    return dict(load_config(name).to_dict())
