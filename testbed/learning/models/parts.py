"""The two parts of a model of transformers, and the proof that they are the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from testbed.errors import ScenarioError
from testbed.learning.models import loading
from testbed.learning.models.anatomy import Anatomy, Blocks, Front, observe
from testbed.learning.models.base import ModelShape
from testbed.learning.partition import micro_batches
from testbed.learning.seeds import random_stream
from testbed.learning.tasks import SampleLayout
from testbed.scenario_learning import LearningSettings

_PROBE_SAMPLES = 2
"""Never one: its kernels differ."""
_TOKEN_PROBE = SampleLayout((9, 4), "uint8", (128.0,) * 4, (74.0,) * 4)
"""What a token model's split is proved on where only its backbone is wanted."""


class TransformerEmbedding(nn.Module):
    """The satellite's part: scales samples and runs what the model does before its blocks."""

    def __init__(self, prepare: nn.Module, front: Front, shape: ModelShape, micro_batch: int) -> None:
        super().__init__()
        self.prepare = prepare
        self.front = front
        self._shape = shape
        self._micro_batch = micro_batch

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [n, ...] as the data set has them to cut tensors [n, tokens, width], micro-batch by micro-batch: an
        image is many times the size of its file once it is patches in fp32."""
        pieces = [self.front(**self.prepare(samples[part])) for part in micro_batches(len(samples), self._micro_batch)]
        return torch.cat(pieces) if pieces else torch.zeros((0, self._shape.tokens, self._shape.width))


def own_layout(name: str) -> SampleLayout:
    """Samples that the model by this name can take."""
    config = loading.load_config(name)
    if hasattr(config, "image_size"):
        return SampleLayout((config.image_size, config.image_size, config.num_channels), "uint8")
    return _TOKEN_PROBE


def measure(name: str, layout: SampleLayout) -> ModelShape:
    """The shape of a model on samples of ``layout``, without any weights."""
    model = loading.build_meta(name)
    with torch.device("meta"):
        prepare = _prepare(model, name, layout, seed=0)
        samples = torch.zeros((1, *layout.shape))
        prepared = prepare(samples)
    anatomy = observe(model, prepared)
    encoder, front = Blocks(model, anatomy), Front(model, anatomy)
    # What prepares samples has a linear map of its own, in token models; scaling is not counted.
    own = [module for module in prepare.modules() if isinstance(module, nn.Linear)]
    return ModelShape(
        tokens=anatomy.tokens,
        width=anatomy.width,
        feature_width=anatomy.last_hidden_state.shape[-1],
        embedding_flops=anatomy.embedding_flops + sum(2.0 * anatomy.tokens * linear.weight.numel() for linear in own),
        backbone_flops=anatomy.backbone_flops,
        embedding_parameters=_count(prepare) + _count(front),
        backbone_parameters=_count(encoder),
    )


def open_parts(learning: LearningSettings, layout: SampleLayout, seed: int) -> tuple[TransformerEmbedding, Blocks]:
    """Embedding and backbone of the model of a scenario. ScenarioError (field learning.model) where it cannot be split,
    or where the parts do not give what the whole gives, bit for bit."""
    name = learning.model
    model, missing = (
        (loading.load_random(name), frozenset[str]()) if learning.weights == "random" else loading.load_pretrained(name)
    )
    prepare = _prepare(model, name, layout, seed)
    samples = _probe(layout)
    with torch.no_grad():
        anatomy = observe(model, prepare(samples))
    loading.check_complete(anatomy, missing, name)
    shape = ModelShape(anatomy.tokens, anatomy.width, anatomy.last_hidden_state.shape[-1], 0.0, 0.0, 0, 0)
    encoder = Blocks(model, anatomy, learning.pooling)
    embedding = TransformerEmbedding(prepare, Front(model, anatomy), shape, learning.micro_batch)
    _prove(embedding, encoder, samples, anatomy, name)
    return embedding, encoder


def _prove(embedding: nn.Module, encoder: Blocks, samples: Tensor, anatomy: Anatomy, name: str) -> None:
    with torch.no_grad():
        parts = encoder.hidden(embedding(samples))
    if not torch.equal(parts, anatomy.last_hidden_state):
        raise ScenarioError(
            "the model's parts do not give what the whole model gives",
            field="learning.model",
            found=name,
            allowed="an encoder such as BERT, RoBERTa, ViT, DeiT, DINOv2, ViT-MAE",
        )


def _probe(layout: SampleLayout) -> Tensor:
    stream = random_stream("split-probe", 0)
    shape = (_PROBE_SAMPLES, *layout.shape)
    if np.issubdtype(np.dtype(layout.dtype), np.integer):
        return torch.from_numpy(stream.integers(0, 256, shape).astype(layout.dtype))
    return torch.from_numpy(stream.standard_normal(shape).astype(layout.dtype))


def _prepare(model: Any, name: str, layout: SampleLayout, seed: int) -> nn.Module:
    """What turns samples of ``layout`` into the model's inputs. ScenarioError (field learning.model) where none can."""
    if model.main_input_name == "pixel_values":
        wanted = (model.config.image_size, model.config.image_size, model.config.num_channels)
        if layout.shape != wanted or layout.dtype != "uint8":
            raise _mismatch(name, layout, f"images of {list(wanted)} uint8")
        return loading.Pixels(model, *loading.image_scaling(name))
    if model.main_input_name != "input_ids" or len(layout.shape) != 2 or not layout.means:
        raise _mismatch(name, layout, "samples of [tokens, values] with known means, such as landsat or crop")
    return loading.Tokens(model.config.hidden_size, layout.means, layout.deviations, seed)


def _mismatch(name: str, layout: SampleLayout, allowed: str) -> ScenarioError:
    return ScenarioError(
        "the model takes no such samples", field="learning.model", found=f"{name} with {layout}", allowed=allowed
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
