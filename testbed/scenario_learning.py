"""The part of a scenario that says what is fine-tuned, on what, and how."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from testbed import registry
from testbed.errors import ScenarioError
from testbed.scenario_file import Entry
from testbed.scenario_keys import Text
from testbed.scenario_links import Settings, existing_file

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _existing(entry: Entry, text: str) -> str | None:
    """The absolute path of a file or folder, relative to the scenario's folder, if there is one."""
    path = (entry.folder / text).absolute()
    try:
        return str(path) if path.exists() else None
    except (OSError, ValueError):
        return None  # a path that no file system takes is not there either


def _model(entry: Entry, text: str) -> str:
    if text in NAMED_MODELS:
        return text
    found = _existing(entry, text)
    if found is None and not _HUB_ID.fullmatch(text):
        raise ScenarioError("no such model", found=text, allowed=_MODEL)
    return found or text


def _dataset(entry: Entry, text: str) -> str:
    if text in registry.names("datasets"):
        return text
    found = _existing(entry, text)
    if found is None:
        allowed = ", ".join([*registry.names("datasets"), _DATASET])
        raise ScenarioError("no such data set", found=text, allowed=allowed)
    return found


def _weights(entry: Entry, text: str) -> str:
    return text if text in ("pretrained", "random") else existing_file("no such weights", _WEIGHTS)(entry, text)


NAMED_MODELS = ("minilm", "presto")
Mode = Literal["head", "u-shaped"]
"""What is trained: the head alone, on features of a frozen backbone; or LoRA in the backbone as well."""
_MODEL = f"{', '.join(NAMED_MODELS)}, the path of a folder with a config.json, or a hub id (owner/name)"
_DATASET = "or the path of an .npz file or of a folder of images"
_WEIGHTS = "pretrained, random, or the path of a .safetensors file"


_PROTECTED_BY = {"noise_ratio": "noise", "projection_dimensions": "projection"}
"""The protection that a key belongs to, and without which it has no meaning."""
_USED_BY = {"proximal_mu": "fedprox", "server_learning_rate": "fedadam", "server_adaptivity": "fedadam"}
"""The aggregation that a key belongs to."""
_NEEDED = {"fedprox": "proximal_mu", "fedadam": "server_learning_rate"}
"""What has no default: good values differ by orders of magnitude from task to task, and both papers tune them."""
_NEW_FACTORS = frozenset({"stack", "svd"})
"""LoRA averages after which factors are not those that were trained: nothing remembered of the old fits the new."""


class LearningSettings(Settings):
    """What is fine-tuned, on what, and how."""

    model: Annotated[str, Text(_model, allowed=_MODEL)] = "minilm"
    weights: Annotated[str, Text(_weights, allowed=_WEIGHTS)] = "pretrained"
    """Those that come with the model, a fixed random start, or a file of them."""
    pooling: Literal["mean", "cls"] = "mean"
    """What a feature is of the last hidden states: their mean over the tokens, or the first token's."""
    dataset: Annotated[str, Text(_dataset, allowed=_DATASET)] = "landsat"
    partition: Literal["dirichlet", "iid", "by-class", "ground-track"] = "dirichlet"
    """How samples are shared out over the satellites (``testbed.learning.partition``)."""
    dirichlet_alpha: float | None = Field(default=None, gt=0, le=1e6)
    """How unevenly classes are spread over satellites: small is uneven (Hsu et al., 2019, arXiv:1909.06335). Needed by
    partition dirichlet, and of no effect on the others."""
    mode: Mode = "head"
    split_order: Literal["pooled", "per-satellite"] = "pooled"
    """In mode u-shaped across the cut: who takes an optimiser step. All together on one large batch of ``batch_size``,
    which is what training in one place does; or one satellite after the other, on batches of its own."""
    turns: int = Field(default=4, ge=1, le=100)
    """Strategy async: how often a plane may go through a round while others have not been heard in it."""
    mixing_rate: float = Field(default=0.6, gt=0, le=1)
    """Strategy async: the weight of a plane's model that is not stale (0.6 in Xie et al., 2019, arXiv:1903.03934)."""
    staleness_exponent: float = Field(default=0.5, ge=0, le=100)
    """Strategy async: how quickly that weight falls with staleness (0.5 there)."""
    rounds: int = Field(ge=1, le=10_000)
    samples_per_round: int = Field(ge=1, le=10_000_000)
    codec: Literal["fp32", "bf16", "fp16", "int8"] = "bf16"
    """How cut tensors are rounded before they cross a link (or would cross one)."""
    compression: Literal["none", "zstd"] = "none"
    """What is done to each chunk's bytes before they cross a link; no value changes."""
    protection: Literal["none", "noise", "projection"] = "none"
    """What is done to cut tensors so that the ground sees less of the samples (docs/privacy.md)."""
    noise_ratio: float | None = Field(default=None, gt=0, le=1e6, validate_default=True)
    """Of protection noise: its standard deviation over the root mean square of the sample's cut tensor."""
    projection_dimensions: int | None = Field(default=None, ge=1, le=65_536, validate_default=True)
    """Of protection projection: what is left of a token's width."""
    learning_rate: float = Field(gt=0, le=1_000)
    local_epochs: int = Field(ge=1, le=10_000)
    batch_size: int = Field(ge=1, le=1_000_000)
    micro_batch: int = Field(default=64, ge=2, le=65_536)
    """Samples per call of the backbone. Never 1: its kernels differ, and with them the last bits (decision 13)."""
    feature_cache: bool = False
    pipeline: int = Field(default=1, ge=1, le=64)
    """In how many parts a satellite's samples go through a round, each sent on as soon as it is computed."""
    lora_targets: Literal["query-value", "attention"] = "query-value"
    """Which projections LoRA adapts: queries and values, or all of attention."""
    lora_rank: int = Field(default=8, ge=1, le=4_096)
    lora_alpha: float = Field(default=16.0, gt=0, le=1e6)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training data that no satellite gets."""
    aggregation: Literal["fedavg", "fedprox", "fedadam"] = "fedavg"
    """How a round's weights become the next round's (docs/aggregation.md)."""
    proximal_mu: float | None = Field(default=None, ge=0, le=1e6)
    """FedProx's pull of local steps towards the round's common start."""
    server_learning_rate: float | None = Field(default=None, gt=0, le=1_000)
    server_adaptivity: float | None = Field(default=None, gt=0, le=1)
    """FedAdam's tau; 1e-3 unless given."""
    lora_average: Literal["naive", "ffa", "stack", "svd", "exact-residual"] = "naive"
    """What becomes of the satellites' LoRA factors."""
    optimiser_state: Literal["reset", "keep", "average"] = "reset"
    """What becomes of AdamW's moments between a satellite's rounds."""

    @field_validator(*_USED_BY)
    @classmethod
    def _belongs(cls, value: float | None, info: ValidationInfo) -> float | None:
        rule = _USED_BY[str(info.field_name)]
        if value is not None and info.data.get("aggregation") != rule:
            raise ValueError(f"only aggregation {rule} uses this key")
        return value

    @field_validator("lora_average")
    @classmethod
    def _averages_adapters(cls, value: str, info: ValidationInfo) -> str:
        if value != "naive" and info.data.get("mode") == "head":
            raise ValueError("mode head has no adapters to average")
        if value not in ("naive", "ffa") and info.data.get("aggregation") == "fedadam":
            raise ValueError("fedadam steps from factors to averaged factors: it takes naive or ffa")
        return value

    @field_validator("optimiser_state")
    @classmethod
    def _has_state(cls, value: str, info: ValidationInfo) -> str:
        if value != "reset" and info.data.get("mode") == "head":
            raise ValueError("mode head trains by plain SGD, which has no state")
        if value != "reset" and info.data.get("lora_average") in _NEW_FACTORS:
            raise ValueError(f"after {info.data['lora_average']} the old factors' moments mean nothing: only reset")
        return value

    @model_validator(mode="after")
    def _complete(self) -> LearningSettings:
        needed = _NEEDED.get(self.aggregation)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"aggregation {self.aggregation} needs {needed}")
        return self

    @field_validator(*_PROTECTED_BY)
    @classmethod
    def _of_protection(cls, value: float | None, info: ValidationInfo) -> float | None:
        name, chosen = _PROTECTED_BY[str(info.field_name)], info.data.get("protection")
        if value is None and chosen == name:
            raise ValueError(f"protection {name} needs this key")
        if value is not None and chosen != name:
            raise ValueError(f"only protection {name} uses this key")
        return value
