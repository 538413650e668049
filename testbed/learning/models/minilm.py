"""MiniLM behind the interface of models: its shapes are constants of its config.json, so planning loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.errors import ScenarioError
from testbed.learning import minilm
from testbed.learning.models.base import Model, ModelShape, square_projections, transformer_flops
from testbed.learning.tasks import SampleLayout
from testbed.scenario_learning import LearningSettings

if TYPE_CHECKING:
    from torch import nn

    from testbed.learning.encoder import Encoder

_LAYERS, _INNER_WIDTH, _POSITIONS = 6, 1_536, 512


class MiniLm(Model):
    """Samples of up to 512 tokens of any number of values each, through a seeded linear map of the values."""

    def __init__(self, learning: LearningSettings) -> None:
        super().__init__(learning)
        if learning.weights != "pretrained":
            raise ScenarioError(
                "MiniLM has the weights it came with",
                field="learning.weights",
                found=learning.weights,
                allowed="pretrained",
            )

    @property
    def base_name(self) -> str:
        return minilm.HUB_ID

    def shape(self, layout: SampleLayout) -> ModelShape:
        tokens, values = _tokens(layout)
        width = minilm.WIDTH
        block = 4 * (width * width + width) + 2 * width * _INNER_WIDTH + _INNER_WIDTH + width + 4 * width
        return ModelShape(
            tokens=tokens,
            width=width,
            feature_width=width,
            embedding_flops=2.0 * tokens * values * width,
            backbone_flops=transformer_flops(tokens, width, _INNER_WIDTH, _LAYERS),
            # The linear map with its bias, positions, the token type, a LayerNorm.
            embedding_parameters=(values + 1) * width + tokens * width + width + 2 * width,
            backbone_parameters=_LAYERS * block,
        )

    def adapted(self) -> tuple[tuple[int, int], ...]:
        return square_projections(minilm.WIDTH, _LAYERS, self.learning.lora_targets)

    def embedding(self, layout: SampleLayout, seed: int) -> nn.Module:
        from testbed.learning.model import Embedding

        tokens, _ = _tokens(layout)
        return Embedding(seed, tokens=tokens, means=layout.means, deviations=layout.deviations)

    def encoder(self) -> Encoder:
        from testbed.learning.encoder import load_encoder

        return load_encoder(self.learning.model, pooling=self.learning.pooling)


def _tokens(layout: SampleLayout) -> tuple[int, int]:
    """Tokens of a sample and values of a token."""
    if len(layout.shape) != 2 or not 1 <= layout.shape[0] <= _POSITIONS or not layout.means:
        raise ScenarioError(
            "MiniLM takes no such samples",
            field="learning.model",
            found=f"minilm with samples of {layout}",
            allowed=f"samples of [1 to {_POSITIONS} tokens, values] with known means, such as landsat or crop",
        )
    return layout.shape[0], layout.shape[1]
