"""A split training step against the same step in one piece, the satellite's part of it, and int8 against the embedding.

ViT-tiny (192 wide, 12 layers, 3 heads, patches of 16, Touvron et al. 2021) and the patch embedding of ViT-B/16, random
weights, images of 224 x 224, one torch thread. Peers take turns in one process; figures are medians of ratios of their
CPU times.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from testbed.learning.codec import decode, encode
from testbed.learning.model import Embedding
from testbed.learning.runtime import make_deterministic
from testbed.learning.split import GroundSide, SatelliteSide, split_step
from testbed.learning.tasks import load_dataset
from tests.bench.row import Row
from tests.split_parts import Parts, VitBackbone

BATCH = 8
STEPS = 21
CODEC_TURNS = 60
CLASSES = 10

OVERHEAD_GOAL_PERCENT = 5.0
SATELLITE_GOAL_PERCENT = 1.5
INT8_GOAL_PERCENT = 15.0


def rows() -> Iterator[Row]:
    """Overhead of the cut, the satellite's share, the codec's share."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    make_deterministic()
    try:
        yield from _overhead()
        yield from _shares()
        yield from _codec()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _model() -> Parts:
    """ViT-tiny with a linear head, in its three parts."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    vit = ViTModel(config, add_pooling_layer=False)
    return Parts(vit.embeddings, VitBackbone(vit), nn.Linear(192, CLASSES))


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn((BATCH, 3, 224, 224), generator=generator),
        torch.randint(0, CLASSES, (BATCH,), generator=generator),
    )


def _sgd(*modules: nn.Module) -> SGD:
    return SGD([p for module in modules for p in module.parameters() if p.requires_grad], lr=1e-3)


def _overhead() -> Iterator[Row]:
    images, labels = _batch()
    whole = _model()
    parts = copy.deepcopy(whole)
    optimiser = _sgd(whole)
    satellite = SatelliteSide(parts.embedding, parts.head, _sgd(parts.embedding, parts.head))
    ground = GroundSide(parts.backbone, _sgd(parts.backbone))

    def in_one() -> None:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(whole(images), labels)
        loss.backward()
        optimiser.step()
        loss.item()

    ratios = _ratios(lambda: split_step(satellite, ground, images, labels), in_one, STEPS)
    yield _row("split training step, in process: overhead over one piece", ratios, -1.0, OVERHEAD_GOAL_PERCENT)
    equal = all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    yield Row("split training step: weights equal, bit for bit", float(equal), "1 is yes", 1.0, equal)


def _shares() -> Iterator[Row]:
    """What the satellite does of a step. Where LoRA alone is trained, the ground does less, and its share is larger."""
    cases: tuple[tuple[str, bool, Callable[[nn.Module], object], float | None], ...] = (
        ("all of the backbone trained", False, _as_it_is, SATELLITE_GOAL_PERCENT),
        ("LoRA trained", False, _adapt, SATELLITE_GOAL_PERCENT),
        ("all of the backbone and the embedding trained", True, _as_it_is, None),
    )
    for name, trains_embedding, change, goal in cases:
        images, labels = _batch()
        model = _model()
        change(model.backbone)
        model.embedding.requires_grad_(trains_embedding)
        satellite = SatelliteSide(model.embedding, model.head, _sgd(model.embedding, model.head))
        ground = GroundSide(model.backbone, _sgd(model.backbone))
        shares = []
        for turn in range(STEPS + 1):
            begun_s = time.process_time()
            cut = satellite.embed(images)
            up_s = time.process_time()
            features = ground.forward(cut, with_cut_gradient=trains_embedding)
            down_s = time.process_time()
            gradient, _ = satellite.learn(features, labels)
            learnt_s = time.process_time()
            cut_gradient = ground.backward(gradient)
            back_s = time.process_time()
            satellite.finish(cut_gradient)
            ended_s = time.process_time()
            own_s = (up_s - begun_s) + (learnt_s - down_s) + (ended_s - back_s)
            if turn:  # the first pays for memory and kernels
                shares.append(own_s / (ended_s - begun_s))
        yield _row(f"split training step, {name}: the satellite's share of the compute", shares, 0.0, goal)


def _as_it_is(backbone: nn.Module) -> None:
    """All of it is trained."""


def _adapt(backbone: nn.Module) -> None:
    """Nothing but LoRA is: rank 8 on the attention's queries and values, as in the demo."""
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, one in backbone.named_modules() if isinstance(one, nn.Linear)]
    targets = [name for name in names if name.rsplit(".", 1)[-1] in {"query", "value", "q_proj", "v_proj"}]
    inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=targets), backbone)


def _codec() -> Iterator[Row]:
    """int8, encoding and decoding, against the embedding whose output it carries."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    vit: Any = ViTModel(ViTConfig(num_hidden_layers=1), add_pooling_layer=False)
    landsat = torch.from_numpy(load_dataset("landsat").train_x[:512])
    cases: tuple[tuple[str, nn.Module, Tensor, float | None], ...] = (
        ("ViT-B/16's embedding, 8 images", vit.embeddings, _batch()[0], INT8_GOAL_PERCENT),
        ("MiniLM's embedding, 512 of Landsat", Embedding(1), landsat, None),
    )
    for name, embedding, samples, goal in cases:
        with torch.no_grad():
            cut = embedding(samples)
            payload = encode(cut, "int8")

            def embed(embedding: nn.Module = embedding, samples: Tensor = samples) -> None:
                embedding(samples)

            def up(cut: Tensor = cut) -> None:
                encode(cut, "int8")

            def both(cut: Tensor = cut) -> None:
                decode(encode(cut, "int8"), cut.shape, "int8")

            def down(cut: Tensor = cut, payload: bytes = payload) -> None:
                decode(payload, cut.shape, "int8")

            yield _row(f"int8 to and fro, of {name}", _ratios(both, embed, CODEC_TURNS), 0.0, goal)
            yield _row(f"int8 encoded, of {name}", _ratios(up, embed, CODEC_TURNS), 0.0, None)
            yield _row(f"int8 decoded, of {name}", _ratios(down, embed, CODEC_TURNS), 0.0, None)


def _ratios(ours: Callable[[], object], peer: Callable[[], object], turns: int) -> list[float]:
    """CPU time of ours over that of the peer, turn by turn, each beginning as often as the other."""
    ours(), peer()
    found = []
    for turn in range(turns):
        taken_s = {}
        for one in (ours, peer) if turn % 2 else (peer, ours):
            begun_s = time.process_time()
            one()
            taken_s[one] = time.process_time() - begun_s
        found.append(taken_s[ours] / taken_s[peer])
    return found


def _row(name: str, ratios: list[float], offset: float, goal_percent: float | None) -> Row:
    percent = 100 * (statistics.median(ratios) + offset)
    return Row(name, percent, "%", goal_percent, percent <= goal_percent if goal_percent is not None else None)
