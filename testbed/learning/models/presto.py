"""Presto (Tseng et al. 2023, arXiv 2304.14065; NASA Harvest, MIT): a transformer pretrained on pixels' time series.

Here it sees series of NDVI, one token a date, and a token that says where on Earth. Its two blocks are those of a ViT,
so its encoder is transformers' ``ViTModel`` with Presto's weights, and adapters fit that.
"""

from __future__ import annotations

import math
import pathlib
from typing import TYPE_CHECKING

from testbed.errors import ScenarioError
from testbed.learning.models.base import Model, ModelShape, square_projections, transformer_flops
from testbed.learning.tasks import SampleLayout
from testbed.scenario_learning import LearningSettings

if TYPE_CHECKING:
    from torch import nn

    from testbed.learning.encoder import Encoder

WIDTH, INNER_WIDTH, LAYERS, HEADS = 128, 512, 2, 8
"""Of the published weights."""
MAX_DATES = 24
"""Positions there are weights for."""
MONTH_WIDTH = CHANNEL_WIDTH = 32


class Presto(Model):
    """Presto's encoder, of which the scenario's ``learning.weights`` is the safetensors file."""

    def __init__(self, learning: LearningSettings) -> None:
        super().__init__(learning)
        if not pathlib.Path(learning.weights).is_file():
            raise ScenarioError(
                "Presto's weights are not shipped with Skyrack",
                field="learning.weights",
                found=learning.weights,
                allowed="the path of Presto's encoder as .safetensors (github.com/nasaharvest/presto)",
            )

    @property
    def base_name(self) -> str:
        return self.learning.weights

    def shape(self, layout: SampleLayout) -> ModelShape:
        tokens = len(chosen_dates(layout)) + 1
        block = 4 * (WIDTH * WIDTH + WIDTH) + 2 * WIDTH * INNER_WIDTH + INNER_WIDTH + WIDTH + 4 * WIDTH
        return ModelShape(
            tokens=tokens,
            width=WIDTH,
            feature_width=WIDTH,
            embedding_flops=2.0 * WIDTH * (tokens - 1 + 3),
            backbone_flops=transformer_flops(tokens, WIDTH, INNER_WIDTH, LAYERS),
            # The maps of NDVI (1 value) and of the place (3), each with its bias; the channel's own embedding.
            embedding_parameters=2 * WIDTH + 4 * WIDTH + CHANNEL_WIDTH,
            backbone_parameters=LAYERS * block + 2 * WIDTH,
        )

    def adapted(self) -> tuple[tuple[int, int], ...]:
        return square_projections(WIDTH, LAYERS, self.learning.lora_targets)

    def embedding(self, layout: SampleLayout, seed: int) -> nn.Module:
        from testbed.learning.models.presto_parts import PrestoEmbedding

        return PrestoEmbedding(self.learning.weights, layout)

    def encoder(self) -> Encoder:
        from testbed.learning.models.presto_parts import load_presto_encoder

        return load_presto_encoder(self.learning.weights, self.learning.pooling)


def chosen_dates(layout: SampleLayout) -> range:
    """Which dates of a series Presto sees: every one, or every second, third, ... where there are too many."""
    if len(layout.shape) != 2 or layout.shape[1] != 1 or not layout.dtype.startswith("float"):
        raise ScenarioError(
            "Presto takes no such samples",
            field="learning.model",
            found=f"presto with samples of {layout}",
            allowed="series of NDVI, [dates, 1] float, such as crop",
        )
    dates = layout.shape[0]
    return range(0, dates, math.ceil(dates / MAX_DATES))
