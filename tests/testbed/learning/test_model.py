"""Embedding and encoder against transformers' own BERT, and their promise of equal bits."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from testbed.errors import ScenarioError
from testbed.learning import minilm
from testbed.learning.codec import encode
from testbed.learning.encoder import load_encoder
from testbed.learning.landsat import BAND_DEVIATIONS, BAND_MEANS
from testbed.learning.model import Embedding, Head
from testbed.learning.partition import micro_batches
from testbed.learning.runtime import make_deterministic
from testbed.learning.tasks import load_dataset


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    make_deterministic()
    return torch.from_numpy(load_dataset("landsat").train_x[:48])


def test_band_constants_are_those_of_the_training_split() -> None:
    levels = load_dataset("landsat").train_x[:].astype(np.float64)
    assert np.abs(levels.mean(axis=(0, 1)) - BAND_MEANS).max() < 0.5
    assert np.abs(levels.std(axis=(0, 1)) - BAND_DEVIATIONS).max() < 0.5


def test_embedding_and_encoder_equal_the_whole_bert_bit_for_bit(pixels: Tensor) -> None:
    # Oracle: transformers' BertModel on the same inputs_embeds, word table and all.
    from transformers import AutoModel

    bert = AutoModel.from_pretrained(minilm.model_folder(), add_pooling_layer=False).eval()
    embedding = Embedding(seed=5)
    with torch.no_grad():
        bands = embedding.bands((pixels.float() - embedding.means) / embedding.deviations)
        pooled = bert(inputs_embeds=bands).last_hidden_state.mean(dim=1)
        cut = embedding(pixels)
        assert torch.equal(cut, bert.embeddings(inputs_embeds=bands))
    features = load_encoder("minilm").features(cut)
    assert cut.shape == (48, 9, 384) and features.shape == (48, 384)
    assert torch.equal(features, torch.nn.functional.layer_norm(pooled, (384,), eps=1e-5))


def test_features_are_standardised_per_sample(pixels: Tensor) -> None:
    encoder, embedding = load_encoder("minilm", layers=2), Embedding(seed=5)
    with torch.no_grad():
        cut = embedding(pixels)
    features = encoder.features(cut)
    assert features.mean(dim=1).abs().max() < 1e-5
    assert (features.var(dim=1, correction=0) - 1).abs().max() < 1e-3
    # Nobody else's data matter: other neighbours in a micro-batch of the same size leave a sample's bits alone.
    assert torch.equal(encoder.features(torch.cat([cut[:8], cut[40:]]))[:8], encoder.features(cut[:16])[:8])


def test_seed_decides_embedding_and_head() -> None:
    for build in (lambda seed: Embedding(seed), lambda seed: Head(6, seed)):
        first, again, other = build(1).state_dict(), build(1).state_dict(), build(2).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
    weight = Head(6, 1).linear.weight.detach()
    assert weight.shape == (6, 384) and 0.9 * 384**-0.5 < float(weight.abs().max()) <= 384**-0.5


_FEATURES_ELSEWHERE = """
import hashlib, numpy as np, torch
from testbed.learning.codec import encode
from testbed.learning.encoder import load_encoder
from testbed.learning.model import Embedding
from testbed.learning.runtime import make_deterministic
from testbed.learning.tasks import load_dataset
make_deterministic()
with torch.no_grad():
    cut = Embedding(5)(torch.from_numpy(load_dataset("landsat").train_x[:48]))
features = load_encoder("minilm").features(cut[:32])
print(hashlib.sha256(encode(features, "fp32")).hexdigest())
"""


def test_another_process_computes_the_same_bits(pixels: Tensor) -> None:
    with torch.no_grad():
        cut = Embedding(seed=5)(pixels)
    here = [load_encoder("minilm").features(cut[part]) for part in micro_batches(48, 32)][0]
    done = subprocess.run([sys.executable, "-c", _FEATURES_ELSEWHERE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(encode(here, "fp32")).hexdigest()


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ScenarioError) as caught:
        load_encoder("vit-b16")
    assert (caught.value.field, caught.value.allowed) == ("learning.model", "minilm")


def test_boards_need_no_transformers_and_no_compiler_front_end() -> None:
    # What a satellite runs (embed, train, average, pack), and none of the slow imports it must not cause.
    script = """
import sys, numpy as np, torch
from testbed.learning import aggregate, checkpoint, codec, head, model, partition, runtime, tasks
runtime.make_deterministic()
runtime.warm()
state = dict(model.Head(6, 1).state_dict())
with torch.no_grad():
    codec.encode(model.Embedding(1)(torch.zeros(4, 9, 4, dtype=torch.uint8)), "bf16")
trained, _ = head.train_head(state, torch.randn(8, 384), torch.zeros(8, dtype=torch.int64), learning_rate=0.1,
                             local_epochs=1, batch_size=4, seed=(1, 0, "sat-0-0"))
checkpoint.pack_state(aggregate.weighted_mean({"sat-0-0": (1.0, trained)}))
print([name for name in ("transformers", "peft", "torch._dynamo", "scipy", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_planning_needs_no_torch() -> None:
    script = """
import sys
from testbed.learning import partition, tasks
train, _ = partition.hold_out(len(tasks.load_dataset("landsat").train_y), 0.1, 1)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
