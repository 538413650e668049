"""The part of a scenario that says what is fine-tuned, on what, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from testbed.scenario_file import Entry
from testbed.scenario_keys import Text
from testbed.scenario_links import Settings, existing_file


def _dataset(entry: Entry, text: str) -> str:
    return text if text == "landsat" else existing_file("no such data set", _DATASET)(entry, text)


_PROTECTED_BY = {"noise_ratio": "noise", "projection_dimensions": "projection"}
"""The protection that a key belongs to, and without which it has no meaning."""
_DATASET = "landsat, or the path of an .npz file"


class LearningSettings(Settings):
    """What is fine-tuned, on what, and how."""

    model: Literal["minilm"] = "minilm"
    dataset: Annotated[str, Text(_dataset, allowed=_DATASET)] = "landsat"
    dirichlet_alpha: float = Field(gt=0, le=1e6)
    """How unevenly classes are spread over satellites: small is uneven (Hsu et al., 2019, arXiv:1909.06335)."""
    mode: Literal["head", "u-shaped"] = "head"
    rounds: int = Field(ge=1, le=10_000)
    samples_per_round: int = Field(ge=1, le=10_000_000)
    codec: Literal["bf16", "fp16", "fp32", "int8"] = "bf16"
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
    lora_rank: int = Field(default=8, ge=1, le=4_096)
    lora_alpha: float = Field(default=16.0, gt=0, le=1e6)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training data that no satellite gets."""

    @field_validator(*_PROTECTED_BY)
    @classmethod
    def _of_protection(cls, value: float | None, info: ValidationInfo) -> float | None:
        name, chosen = _PROTECTED_BY[str(info.field_name)], info.data.get("protection")
        if value is None and chosen == name:
            raise ValueError(f"protection {name} needs this key")
        if value is not None and chosen != name:
            raise ValueError(f"only protection {name} uses this key")
        return value
