"""Presto in torch: tokens from series of NDVI, and its blocks as transformers' ViT."""

from __future__ import annotations

import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from testbed.errors import ScenarioError
from testbed.learning.attention import projections
from testbed.learning.models.anatomy import Blocks, observe
from testbed.learning.models.presto import HEADS, INNER_WIDTH, LAYERS, WIDTH, chosen_dates
from testbed.learning.tasks import SampleLayout

_NDVI_CHANNEL = 8
"""Its place among Presto's ten groups of channels: S1, four groups of S2's bands before NIR at 20 m, SWIR, ERA5, SRTM,
NDVI, Dynamic World."""
_MONTHS = 12
_PLACE_DEG = (43.6, 1.4)
"""Latitude and longitude given for every sample: near Toulouse, where the fields of UCR Crop are (Tan, Webb and
Petitjean 2017, doi 10.1137/1.9781611974973.32). The location's map is trained with the rest of the embedding."""


class PrestoEmbedding(nn.Module):
    """Series of NDVI to tokens: one for the place, then one a date.

    A date's token is a linear map of its NDVI plus [month, channel, position] side by side; months follow from the
    date's place in a year that the series is taken to span evenly.
    """

    def __init__(self, path: str, layout: SampleLayout) -> None:
        super().__init__()
        dates = chosen_dates(layout)
        weights = _read(path)
        self.ndvi = nn.Linear(1, WIDTH)
        self.place = nn.Linear(3, WIDTH)
        _take(self.ndvi, weights, "eo_patch_embed.NDVI")
        _take(self.place, weights, "latlon_embed")
        self.channel = nn.Parameter(weights["channel_embed.weight"][_NDVI_CHANNEL].clone())
        months = torch.tensor([date * _MONTHS // layout.shape[0] for date in dates])
        self.dates: Tensor
        self.months: Tensor
        self.positions: Tensor
        self.direction: Tensor
        self.register_buffer("dates", torch.tensor(list(dates)), persistent=False)
        self.register_buffer("months", weights["month_embed.weight"][months], persistent=False)
        self.register_buffer("positions", weights["pos_embed"][0, : len(dates)], persistent=False)
        self.register_buffer("direction", _direction(*_PLACE_DEG), persistent=False)

    def forward(self, series: Tensor) -> Tensor:
        """``series`` [n, dates, 1] float to cut tensors [n, chosen dates + 1, 128] float32."""
        where = torch.cat([self.months, self.channel.expand(len(self.months), -1), self.positions], dim=1)
        tokens = self.ndvi(series[:, self.dates].to(torch.float32)) + where
        place = self.place(self.direction).expand(len(series), 1, -1)
        return torch.cat([place, tokens], dim=1)


def load_presto_encoder(path: str, pooling: str) -> Blocks:
    """Presto's blocks and final norm, as those of a ViT. ScenarioError (field learning.weights) for another file."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER_WIDTH,
        layer_norm_eps=1e-5,
        image_size=8,  # of the patches, which are left out
        patch_size=4,
    )
    config._attn_implementation = "sdpa"
    weights = _read(path)
    model = ViTModel(config, add_pooling_layer=False).eval()
    anatomy = observe(model, {"pixel_values": torch.zeros(2, 3, 8, 8)})
    blocks: Any = model.get_submodule(anatomy.blocks)
    for index, block in enumerate(blocks):
        _fill_block(block, {key: weights[f"blocks.{index}.{key}"] for key in _BLOCK_KEYS})
    (norm,) = anatomy.after
    _take(model.get_submodule(norm), weights, "norm")
    return Blocks(model, anatomy, pooling)


_BLOCK_KEYS = tuple(
    f"{layer}.{kind}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
)

_KEYS = (
    "eo_patch_embed.NDVI.weight",
    "latlon_embed.weight",
    "channel_embed.weight",
    "month_embed.weight",
    "pos_embed",
    "norm.weight",
    *(f"blocks.{index}.{key}" for index in range(LAYERS) for key in _BLOCK_KEYS),
)


def _fill_block(block: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts a block's weights where this version of transformers has them, found by what its layers are."""
    found = projections(block)
    by_role: dict[str, nn.Linear] = {role: linear for role, linear in found.values()}
    for number, role in enumerate(("query", "key", "value")):
        rows = slice(number * WIDTH, (number + 1) * WIDTH)
        _set(by_role[role], weights["attn.qkv.weight"][rows], weights["attn.qkv.bias"][rows])
    _set(by_role["output"], weights["attn.proj.weight"], weights["attn.proj.bias"])
    linears = [m for name, m in block.named_modules() if isinstance(m, nn.Linear) and name not in found]
    norms = [module for module in block.modules() if isinstance(module, nn.LayerNorm)]
    for modules, names in ((linears, ("mlp.fc1", "mlp.fc2")), (norms, ("norm1", "norm2"))):
        for module, name in zip(modules, names, strict=True):
            _take(module, weights, name)


def _read(path: str) -> dict[str, Tensor]:
    """The encoder's weights by Presto's own names. ScenarioError (field learning.weights) if they are not there."""
    try:
        with safe_open(path, "pt") as file:
            weights = {name.removeprefix("encoder."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _wrong(path, f"cannot be read: {error}") from error
    missing = [name for name in _KEYS if name not in weights]
    if missing:
        raise _wrong(path, f"lack {missing[0]}")
    return weights


def _wrong(path: str, what: str) -> ScenarioError:
    return ScenarioError(
        f"Presto's weights {what}", field="learning.weights", found=path, allowed="Presto's encoder as .safetensors"
    )


def _direction(latitude_deg: float, longitude_deg: float) -> Tensor:
    """Unit vector from the Earth's centre: how Presto is told a place."""
    latitude, longitude = torch.deg2rad(torch.tensor([latitude_deg, longitude_deg], dtype=torch.float64))
    cosine = torch.cos(latitude)
    vector = torch.stack([cosine * torch.cos(longitude), cosine * torch.sin(longitude), torch.sin(latitude)])
    return vector.to(torch.float32)


def _take(module: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    _set(module, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _set(module: Any, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
