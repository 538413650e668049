"""How many floating-point operations a stage of a model is: what a device without measurements of it is charged by.

No tensors here: the planner needs no torch. A multiplication and an addition are two operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Stage = Literal["embed", "encode", "encode_backward", "encode_train", "head"]
STAGES: tuple[Stage, ...] = ("embed", "encode", "encode_backward", "encode_train", "head")
"""Per sample: ``embed``; ``encode`` (the backbone forward), ``encode_backward`` (back through what a forward pass
kept), ``encode_train`` (both). Per optimiser step: ``head``."""

BACKWARD = 2.0
"""A backward pass has the gradients of inputs and of weights to compute, each as much as the forward pass."""


@dataclass(frozen=True)
class StageWork:
    """Floating-point operations per item of every stage of a model; measured rows of ``model`` go before them."""

    model: str
    flop: Mapping[str, float]

    @classmethod
    def forward(cls, model: str, *, embed: float, encode: float, head: float, batch_size: int) -> StageWork:
        """From the forward operations of a sample in each part of the model; an optimiser step has ``batch_size``."""
        flop = {
            "embed": embed,
            "encode": encode,
            "encode_backward": BACKWARD * encode,
            "encode_train": (1 + BACKWARD) * encode,
            "head": (1 + BACKWARD) * head * batch_size,
        }
        return cls(model, flop)


def linear_flop(inputs: int, outputs: int, tokens: int = 1) -> float:
    """A dense layer over some tokens, its bias left out."""
    return 2.0 * inputs * outputs * tokens


def transformer_flop(*, layers: int, width: int, inner: int, tokens: int) -> float:
    """The matrix products of an encoder's layers on one sample: four projections, scores and their use, feed-forward.

    Norms, softmax and biases, below 1 % of it, are left out.
    """
    attention = 4 * linear_flop(width, width, tokens) + 2 * linear_flop(width, tokens, tokens)
    return layers * (attention + linear_flop(width, inner, tokens) + linear_flop(inner, width, tokens))


def minilm_work(*, tokens: int, bands: int, classes: int, batch_size: int) -> StageWork:
    """MiniLM (6 layers, width 384, feed-forward 1536; its config.json) on ``tokens`` pixels of ``bands`` values.

    On Landsat's 9 tokens that is 0.1918 GFLOP a sample forward.
    """
    return StageWork.forward(
        "minilm",
        embed=linear_flop(bands, 384, tokens),
        encode=transformer_flop(layers=6, width=384, inner=1536, tokens=tokens),
        head=linear_flop(384, classes),
        batch_size=batch_size,
    )
