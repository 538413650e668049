"""What a scenario's ``learning.model`` is: a transformer cut in two, and what its shapes cost. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.learning.tasks import SampleLayout
from testbed.scenario_learning import LearningSettings

if TYPE_CHECKING:
    from torch import nn

    from testbed.learning.encoder import Encoder


@dataclass(frozen=True)
class ModelShape:
    """What crosses links, and what a sample's forward pass takes, in numbers that follow from shapes alone.

    A cut tensor is [n, ``tokens``, ``width``], features are [n, ``feature_width``]. FLOPs are those of linear layers,
    convolutions and attention, two for each multiply-add; normalisation and activations are not counted.
    """

    tokens: int
    width: int
    feature_width: int
    embedding_flops: float
    """Forward, per sample."""
    backbone_flops: float
    """Forward, per sample."""
    embedding_parameters: int
    backbone_parameters: int


class Model(ABC):
    """A model of a scenario: its shapes for the planner, its embedding for satellites, its encoder for the rest.

    Whoever builds a part of it gets the same bits, in any process.
    """

    def __init__(self, learning: LearningSettings) -> None:
        self.learning = learning

    @property
    @abstractmethod
    def base_name(self) -> str:
        """What a saved adapter names as the model it belongs to: a hub id or a path."""

    @property
    def image_px(self) -> int | None:
        """Side of the square images it takes, in pixels; None of a model that takes no images."""
        return None

    @abstractmethod
    def shape(self, layout: SampleLayout) -> ModelShape:
        """Its shape on samples of this layout. ScenarioError where it cannot take them."""

    def adapted(self) -> tuple[tuple[int, int], ...]:
        """[in, out] of each projection that LoRA adapts."""
        from testbed.learning.attention import adapted_shapes

        return adapted_shapes(self.encoder(), self.learning.lora_targets)

    @abstractmethod
    def embedding(self, layout: SampleLayout, seed: int) -> nn.Module:
        """The satellite's part: samples [n, ...] as the data set has them to cut tensors [n, tokens, width] float32."""

    @abstractmethod
    def encoder(self) -> Encoder:
        """The part between the cuts, a new one in evaluation mode: cut tensors to features [n, feature_width]."""


def square_projections(width: int, layers: int, targets: str) -> tuple[tuple[int, int], ...]:
    """[in, out] of what LoRA adapts in ``layers`` standard blocks."""
    return ((width, width),) * (layers * {"query-value": 2, "attention": 4}[targets])


def transformer_flops(tokens: int, width: int, inner_width: int, layers: int) -> float:
    """Forward FLOPs per sample of ``layers`` standard transformer blocks (Vaswani et al. 2017, arXiv 1706.03762).

    Per block four width x width projections and two width x ``inner_width`` layers on each token, then scores and
    weighted sums over all pairs of tokens.
    """
    linear = 2.0 * tokens * (4 * width * width + 2 * width * inner_width)
    attention = 4.0 * tokens * tokens * width
    return layers * (linear + attention)
