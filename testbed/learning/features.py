"""Cut tensors to features: the frozen backbone's part, wherever it runs."""

from __future__ import annotations

from pathlib import Path

import torch

from testbed.learning import codec
from testbed.learning.ahead import AheadStore
from testbed.learning.encoder import Encoder
from testbed.learning.models import ModelShape, open_model
from testbed.learning.partition import micro_batches
from testbed.learning.placement import model_shape
from testbed.scenario_learning import LearningSettings


class Backbone:
    """The frozen backbone wherever it runs: the ground, a satellite, the appraiser.

    With a store of features computed ahead the encoder is loaded only when something is not in it.
    """

    def __init__(
        self, learning: LearningSettings, ahead: AheadStore | None = None, encoder: Encoder | None = None
    ) -> None:
        self._learning = learning
        self._ahead = ahead
        self._encoder = encoder
        self.hits = self.misses = 0

    @property
    def encoder(self) -> Encoder:
        """The encoder itself, loaded when first asked for."""
        if self._encoder is None:
            self._encoder = open_model(self._learning).encoder()
        return self._encoder

    @property
    def shape(self) -> ModelShape:
        """Shapes of what goes in and comes out."""
        return model_shape(self._learning)

    @property
    def micro_batch(self) -> int:
        """How many samples it computes at a time."""
        return self._learning.micro_batch

    def encode(self, payload: bytes, count: int) -> bytes:
        """Encoded cut tensors [count, tokens, width] to encoded features [count, width].

        Micro-batches are fixed by (origin, index), never by arrival: the same bits on the ground as on board (DESIGN,
        decision 13).
        """
        if not count:
            return b""
        known = self._ahead.get(payload, count, self._learning) if self._ahead is not None else None
        self.hits += known is not None
        self.misses += known is None
        return known if known is not None else self._compute(payload, count)

    def _compute(self, payload: bytes, count: int) -> bytes:
        learning = self._learning
        cut = codec.decode(payload, (count, self.shape.tokens, self.shape.width), learning.codec)
        pieces = [self.encoder.features(cut[part]) for part in micro_batches(count, learning.micro_batch)]
        return codec.encode(torch.cat(pieces), learning.codec)


def open_backbone(learning: LearningSettings, ahead: Path | None) -> Backbone:
    """The backbone, with the store at ``ahead`` where there is one; loaded now where there is none."""
    backbone = Backbone(learning, AheadStore(ahead) if ahead is not None else None)
    if ahead is None:
        backbone.encoder.eval()
    return backbone
