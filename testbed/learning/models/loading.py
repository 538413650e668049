"""Whole models by transformers: pretrained or at a random start that is the same everywhere; what they are fed with."""

from __future__ import annotations

import inspect
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from testbed.errors import ScenarioError
from testbed.learning.model import fill_uniform
from testbed.learning.models.anatomy import Anatomy
from testbed.learning.seeds import random_stream

_SEED = 0
"""Of random weights. They are part of the model, not of the experiment, so that a planner, a satellite and the ground
need nothing but the model's name to have the same."""
_IMAGE_MEANS = _IMAGE_DEVIATIONS = (0.5, 0.5, 0.5)
"""What ViT's image processor uses, where a model has no preprocessor_config.json."""


def _transformers(name: str) -> Any:
    """transformers, imported offline where the model is a path: then nothing is ever asked of a network."""
    if pathlib.Path(name).exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers


def load_config(name: str) -> Any:
    """The configuration of a model by path or hub id. ScenarioError (field learning.model) if there is none."""
    try:
        config = _transformers(name).AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise _missing(name, error) from error
    config._attn_implementation = "sdpa"
    if hasattr(config, "mask_ratio"):  # ViT-MAE: no patch is hidden outside its own pretraining
        config.mask_ratio = 0.0
    return config


def build_meta(name: str) -> nn.Module:
    """The model without weights, on the meta device: shapes alone."""
    with torch.device("meta"):
        return cast(nn.Module, _from_config(name))


def load_pretrained(name: str) -> tuple[nn.Module, frozenset[str]]:
    """The model in fp32 and evaluation mode, and the names of the parameters for which its files have no values."""
    try:
        model, info = _transformers(name).AutoModel.from_pretrained(
            name, config=load_config(name), dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _missing(name, error) from error
    return model.eval(), frozenset(info["missing_keys"])


def load_random(name: str) -> nn.Module:
    """The model of a configuration at a random start: every parameter that transformers starts at random is drawn again
    from a stream of ours with the configuration's own deviation, so that all processes and processors have the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = _from_config(name)
    deviation = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Biases, norms and scales start at a constant; what is not trained (ViT-MAE's positions) is a formula.
            if parameter.requires_grad and bool((parameter != parameter.flatten()[0]).any()):
                stream = random_stream("weights", _SEED, parameter_name)
                values = stream.standard_normal(tuple(parameter.shape), dtype=np.float32) * np.float32(deviation)
                parameter.copy_(torch.from_numpy(values))
    return cast(nn.Module, model.eval())


def _from_config(name: str) -> Any:
    try:
        return _transformers(name).AutoModel.from_config(load_config(name), dtype=torch.float32).eval()
    except ValueError as error:
        raise _missing(name, error) from error


def _missing(name: str, error: Exception) -> ScenarioError:
    return ScenarioError(
        f"the model cannot be loaded: {str(error).splitlines()[0]}",
        field="learning.model",
        found=name,
        allowed="a folder with config.json and model.safetensors (or learning.weights: random), or a hub id",
    )


def image_scaling(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation by channel that the model's images are scaled with, of values from 0 to 1."""
    _transformers(name)
    from transformers.utils.hub import cached_file

    path = cached_file(
        name,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    settings = json.loads(pathlib.Path(path).read_text()) if path else {}
    return settings.get("image_mean", _IMAGE_MEANS), settings.get("image_std", _IMAGE_DEVIATIONS)


class Pixels(nn.Module):
    """Images [n, height, width, channels] uint8 to what an image model is called with."""

    def __init__(self, model: Any, means: Sequence[float], deviations: Sequence[float]) -> None:
        super().__init__()
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", torch.tensor(tuple(means)), persistent=False)
        self.register_buffer("deviations", torch.tensor(tuple(deviations)), persistent=False)
        self._takes_noise = "noise" in inspect.signature(model.forward).parameters
        config = model.config
        self._patches = (config.image_size // config.patch_size) ** 2 if self._takes_noise else 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        # Turned while they are bytes, and in place from there: a third of the time, and the same values.
        values = images.permute(0, 3, 1, 2).contiguous().to(torch.float32, copy=True)
        values.div_(255).sub_(self.means.view(-1, 1, 1)).div_(self.deviations.view(-1, 1, 1))
        inputs = {"pixel_values": values}
        if self._takes_noise:  # ViT-MAE sorts its patches by this: ascending, they stay where they are
            order = torch.arange(self._patches, dtype=torch.float32, device=images.device)
            inputs["noise"] = order.expand(len(images), -1)
        return inputs


class Tokens(nn.Module):
    """Samples [n, tokens, values] to a token model's input embeddings, by a seeded linear map of the values."""

    def __init__(self, width: int, means: Sequence[float], deviations: Sequence[float], seed: int) -> None:
        super().__init__()
        self.bands = nn.Linear(len(means), width)
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", torch.tensor(tuple(means)), persistent=False)
        self.register_buffer("deviations", torch.tensor(tuple(deviations)), persistent=False)
        if self.bands.weight.device.type != "meta":
            fill_uniform(self.bands, "embedding", seed)

    def forward(self, samples: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.bands((samples.to(torch.float32) - self.means) / self.deviations)}


def check_complete(anatomy: Anatomy, missing: frozenset[str], name: str) -> None:
    """ScenarioError if a part that is used has parameters for which the model's files have no values."""
    used = (
        *(f"{path}." for path in anatomy.after),
        f"{anatomy.blocks}.",
        *(f"{path}." for path in anatomy.before if path),
    )
    lost = sorted(key for key in missing if key.startswith(used))
    if lost:
        raise ScenarioError(
            "the model's weights are not complete",
            field="learning.model",
            found=f"{name} without {', '.join(lost[:3])}",
            allowed="a whole model, or learning.weights: random",
        )
