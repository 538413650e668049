"""Puts torch into the one mode in which every process computes the same bits."""

from __future__ import annotations

import torch
from torch import nn


def make_deterministic() -> None:
    """One thread, deterministic algorithms, no global randomness that differs from process to process.

    Threads split sums, so their number changes bits. Nothing here draws from torch's generator on purpose; it is
    seeded for what a library might.
    """
    torch.set_num_threads(1)
    # Not use_deterministic_algorithms(True), which does the same and imports torch's compiler besides: 800 modules,
    # 70 MB and a second that a board has no use for.
    torch.set_deterministic_debug_mode("error")
    torch.manual_seed(0)


def warm(*, optimisers: bool = False) -> None:
    """Runs what nodes will run once, small, so that a process forked from this one imports and sets up nothing.

    Covers a forward and backward pass of the layers in use (linear, LayerNorm, GELU, attention, cross-entropy) and the
    bfloat16 cast; no encoder is loaded. ``optimisers`` adds torch's own, whose first step imports torch's compiler:
    u-shaped training uses them, head training does not.
    """
    tokens = torch.linspace(-1.0, 1.0, 2 * 9 * 8).reshape(2, 9, 8)
    layers = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))
    hidden = layers(tokens.to(torch.bfloat16).to(torch.float32))
    heads = hidden.reshape(2, 9, 2, 4).transpose(1, 2)
    pooled = nn.functional.scaled_dot_product_attention(heads, heads, heads).mean(dim=(1, 2))
    nn.functional.cross_entropy(pooled, torch.tensor([0, 1])).backward()
    if optimisers:
        for make in (torch.optim.SGD, torch.optim.AdamW):
            make(layers.parameters(), lr=0.1).step()
