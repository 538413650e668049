"""Splitting models of transformers by structure, against the whole models' own forward."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from testbed.errors import ScenarioError
from testbed.learning.attention import find_targets, projections
from testbed.learning.models import open_model
from testbed.learning.models.anatomy import find_blocks
from testbed.learning.models.base import transformer_flops
from testbed.learning.runtime import make_deterministic
from testbed.learning.tasks import SampleLayout
from testbed.scenario_learning import LearningSettings

_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _TEXT),
    "roberta": ("RobertaConfig", _TEXT),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99}),
    "vit": ("ViTConfig", {**_VISION, "intermediate_size": 64}),
    "deit": ("DeiTConfig", {**_VISION, "intermediate_size": 64}),
    "dinov2": ("Dinov2Config", {**_VISION, "mlp_ratio": 2}),
    "vit-mae": ("ViTMAEConfig", {**_VISION, "intermediate_size": 64}),
}
IMAGES = SampleLayout((16, 16, 3), "uint8")
SERIES = SampleLayout((9, 4), "uint8", (69.0, 83.0, 99.0, 83.0), (14.0, 23.0, 17.0, 19.0))
LAYOUTS = {name: SERIES if name in ("bert", "roberta", "distilbert") else IMAGES for name in CONFIGS}


def _settings(**given: Any) -> LearningSettings:
    needed = {"dirichlet_alpha": 1.0, "rounds": 1, "samples_per_round": 8, "learning_rate": 0.1}
    return LearningSettings(**{**needed, "local_epochs": 1, "batch_size": 4, **given})


@pytest.fixture(scope="module", params=CONFIGS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pathlib.Path]:
    """A tiny model of each family as save_pretrained writes it."""
    import transformers

    make_deterministic()
    class_name, values = CONFIGS[request.param]
    config = getattr(transformers, class_name)(**values)
    folder: pathlib.Path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(7)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():  # also where transformers starts with zeros: a token or a bias that is left out shows
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return request.param, folder


def _samples(layout: SampleLayout, count: int) -> Tensor:
    stream = np.random.default_rng(3)
    return torch.from_numpy(stream.integers(0, 256, (count, *layout.shape), dtype=np.uint8))


def _whole(folder: pathlib.Path, name: str, samples: Tensor, bands: nn.Linear | None) -> Tensor:
    """The oracle: transformers' own model, fed as its documentation says."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        if bands is not None:
            means, deviations = torch.tensor(SERIES.means), torch.tensor(SERIES.deviations)
            inputs = {"inputs_embeds": bands((samples.float() - means) / deviations)}
        else:
            inputs = {"pixel_values": ((samples.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).contiguous()}
        if name == "vit-mae":
            model.config.mask_ratio = 0.0
            inputs["noise"] = torch.arange(16.0).expand(len(samples), -1)
        return model(**inputs).last_hidden_state  # type: ignore[no-any-return]


def test_the_parts_of_every_family_are_the_whole_bit_for_bit(family: tuple[str, pathlib.Path]) -> None:
    name, folder = family
    layout = LAYOUTS[name]
    model = open_model(_settings(model=str(folder), micro_batch=6))
    embedding, encoder = model.embedding(layout, seed=5), model.encoder()
    samples = _samples(layout, 6)
    with torch.no_grad():
        cut = embedding(samples)
        hidden = encoder.hidden(cut)
    whole = _whole(folder, name, samples, embedding.prepare.bands if layout is SERIES else None)  # type: ignore[union-attr, arg-type]
    shape = model.shape(layout)
    assert cut.shape == (6, shape.tokens, shape.width) and whole.shape == hidden.shape
    assert torch.equal(hidden, whole)
    pooled = whole.mean(dim=1)
    standard = (pooled - pooled.mean(dim=1, keepdim=True)) / (
        pooled.var(dim=1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    assert (encoder.features(cut) - standard).abs().max() < 1e-5
    first = open_model(_settings(model=str(folder), pooling="cls")).encoder().features(cut)
    assert torch.equal(first, nn.functional.layer_norm(whole[:, 0], (32,), eps=1e-5))


def test_shapes_count_what_a_real_pass_does(family: tuple[str, pathlib.Path]) -> None:
    # Oracle: torch's own counter of dispatched operations, and transformers' own parameters.
    import transformers

    name, folder = family
    layout = LAYOUTS[name]
    model = open_model(_settings(model=str(folder)))
    shape, embedding, encoder = model.shape(layout), model.embedding(layout, seed=1), model.encoder()
    for part, given, flops in (
        (embedding, _samples(layout, 2), shape.embedding_flops),
        (encoder, torch.zeros(2, shape.tokens, shape.width), shape.backbone_flops),
    ):
        # The counter does not know the fused attention of processors, only what it stands for.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            part(given)
        assert counter.get_total_flops() == pytest.approx(2 * flops, rel=1e-12)
    assert shape.tokens == {"deit": 18, "vit": 17, "dinov2": 17, "vit-mae": 17}.get(name, 9)
    assert shape.backbone_flops == transformer_flops(shape.tokens, 32, 64, 3)
    assert shape.backbone_parameters == sum(p.numel() for p in encoder.parameters())
    assert shape.embedding_parameters == sum(p.numel() for p in embedding.parameters())
    whole = transformers.AutoModel.from_pretrained(folder)
    left_out = [n for n, _ in whole.named_parameters() if n.startswith("pooler") or "word_embeddings" in n]
    own = sum(p.numel() for n, p in embedding.named_parameters() if n.startswith("prepare"))
    parts = shape.backbone_parameters + shape.embedding_parameters - own
    assert parts == sum(p.numel() for n, p in whole.named_parameters() if n not in left_out)
    assert all(p.device.type == "cpu" for p in [*embedding.parameters(), *embedding.buffers()])


def test_adapters_find_their_targets_in_every_family(family: tuple[str, pathlib.Path]) -> None:
    _, folder = family
    encoder = open_model(_settings(model=str(folder))).encoder()
    found = projections(encoder)
    roles = [role for role, _ in found.values()]
    assert [roles.count(role) for role in ("query", "key", "value", "output")] == [3, 3, 3, 3]
    assert all(linear.in_features == linear.out_features == 32 for _, linear in found.values())
    few, all_ = find_targets(encoder), find_targets(encoder, "attention")
    named = {name for name, _ in encoder.named_modules() if any(name == t or name.endswith(f".{t}") for t in all_)}
    assert len(few) == 2 and named == set(found)


def test_an_adapter_of_any_family_fits_the_whole_model(
    family: tuple[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    from testbed.learning.lora import Adapter

    name, folder = family
    layout = LAYOUTS[name]
    model = open_model(_settings(model=str(folder), micro_batch=4))
    embedding, encoder = model.embedding(layout, seed=5), model.encoder()
    adapter = Adapter(encoder, rank=2, alpha=4, seed=1, targets="attention", base_name=model.base_name)
    samples = _samples(layout, 4)
    with torch.no_grad():
        plain = encoder.hidden(embedding(samples))
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        ours = encoder.hidden(embedding(samples))
    adapter.save(tmp_path)
    whole = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path).eval()
    with torch.no_grad():
        inputs = embedding.prepare(samples)  # type: ignore[operator]
        if name == "vit-mae":
            whole.config.mask_ratio = 0.0
        theirs = whole(**inputs).last_hidden_state
    assert (ours - theirs).abs().max() < 1e-5 < 1e-3 < (ours - plain).abs().max()


_RANDOM_ELSEWHERE = """
import sys, torch
from testbed.learning.checkpoint import weights_sha256
from tests.testbed.learning.test_transformers import _settings
from testbed.learning.models import open_model
print(weights_sha256(open_model(_settings(model=sys.argv[1], weights="random")).encoder().state_dict()))
"""


def test_random_weights_are_the_same_in_every_process(tmp_path: pathlib.Path) -> None:
    from transformers import ViTConfig

    from testbed.learning.checkpoint import weights_sha256

    ViTConfig(**_VISION, intermediate_size=64).save_pretrained(tmp_path)
    model = open_model(_settings(model=str(tmp_path), weights="random"))
    torch.manual_seed(123)  # nobody else's draws matter
    encoder, embedding = model.encoder(), model.embedding(IMAGES, seed=1)
    done = subprocess.run(
        [sys.executable, "-c", _RANDOM_ELSEWHERE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == weights_sha256(encoder.state_dict())
    drawn = torch.cat([p.detach().flatten() for p in encoder.parameters() if p.ndim == 2])
    assert abs(float(drawn.std()) - 0.02) < 1e-3 and abs(float(drawn.mean())) < 1e-3
    norms = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
    assert norms and all(bool((norm.weight == 1).all() and (norm.bias == 0).all()) for norm in norms)
    assert sum(p.numel() for p in embedding.parameters()) == model.shape(IMAGES).embedding_parameters
    with pytest.raises(ScenarioError, match="cannot be loaded"):
        open_model(_settings(model=str(tmp_path))).encoder()


def test_the_shipped_vit_has_the_published_size(root: pathlib.Path) -> None:
    # Dosovitskiy et al. 2021 (arXiv 2010.11929), table 1: 86 M parameters; torchvision's table of models: 17.56 billion
    # multiply-adds, of which 768 x 1,000 are the classifier that is not here.
    shape = open_model(_settings(model=str(root / "testbed" / "data" / "vit-b16"))).shape(
        SampleLayout((224, 224, 3), "uint8")
    )
    assert (shape.tokens, shape.width, shape.feature_width) == (197, 768, 768)
    assert shape.embedding_parameters + shape.backbone_parameters == 86_567_656 - (768 * 1_000 + 1_000)
    multiply_adds = (shape.embedding_flops + shape.backbone_flops) / 2
    assert multiply_adds + 768e3 == pytest.approx(17.56e9, rel=5e-4)


def test_what_cannot_be_split_is_refused(tmp_path: pathlib.Path) -> None:
    from transformers import BertConfig, BertModel, ConvNextConfig, T5Config

    for count, config in enumerate((T5Config(d_model=16, num_layers=1, d_kv=4), ConvNextConfig(hidden_sizes=[8] * 4))):
        folder = tmp_path / str(count)
        config.save_pretrained(folder)
        with pytest.raises(ScenarioError) as caught:
            open_model(_settings(model=str(folder), weights="random")).encoder()
        assert caught.value.field == "learning.model"
    incomplete = tmp_path / "incomplete"
    model = BertModel(BertConfig(**_TEXT))
    kept = {n: t for n, t in model.state_dict().items() if "layer.1.attention.self.query" not in n}
    model.save_pretrained(incomplete, state_dict=kept)
    with pytest.raises(ScenarioError, match="not complete") as caught:
        open_model(_settings(model=str(incomplete))).encoder()
    assert "layer.1.attention.self.query" in str(caught.value.found)
    with pytest.raises(ScenarioError, match="takes no such samples"):
        open_model(_settings(model=str(incomplete))).shape(IMAGES)
    with pytest.raises(ScenarioError, match="no list of transformer blocks"):
        find_blocks(nn.Linear(2, 2))


def test_a_split_that_is_not_the_whole_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A model that does something to its hidden states between two blocks: structure alone cannot see it.
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTLayer

    ViTConfig(**_VISION, intermediate_size=64).save_pretrained(tmp_path)
    forward = ViTLayer.forward
    calls: list[int] = []

    def uneven(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return forward(self, *arguments, **named) * (1 + 1e-6 * (len(calls) < 3))

    monkeypatch.setattr(ViTLayer, "forward", uneven)
    with pytest.raises(ScenarioError, match="do not give what the whole model gives"):
        open_model(_settings(model=str(tmp_path), weights="random")).encoder()
