"""LoRA: targets found, averaging error against peft's merged weights, and checkpoints a stranger can load."""

from __future__ import annotations

import copy
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testbed.errors import BugError, IntegrityError, ScenarioError
from testbed.learning import minilm
from testbed.learning.attention import find_targets
from testbed.learning.checkpoint import weights_sha256
from testbed.learning.encoder import load_encoder
from testbed.learning.head import head_scores
from testbed.learning.lora import Adapter, train_adapter
from testbed.learning.model import Embedding, Head
from testbed.learning.runtime import make_deterministic
from testbed.learning.tasks import load_dataset


class Attention(nn.Module):
    """Something with projections that are not square: 12 in, 20 and 7 out."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.out = nn.Linear(12, 20), nn.Linear(12, 7), nn.Linear(27, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.q_proj(x), self.v_proj(x)], dim=-1))  # type: ignore[no-any-return]


def _landsat(n: int, first: int = 0) -> tuple[Tensor, Tensor]:
    make_deterministic()
    data = load_dataset("landsat")
    rows = slice(first, first + n)
    with torch.no_grad():
        cut = Embedding(1)(torch.from_numpy(data.train_x[rows]))
    return cut, torch.from_numpy(data.train_y[rows].astype(np.int64))


def _state(adapter: Adapter) -> dict[str, Tensor]:
    return {**adapter.state(), **Head(6, 1).state_dict()}


def test_targets_are_found_by_looking() -> None:
    from transformers import ViTConfig, ViTModel

    assert find_targets(load_encoder("minilm", layers=1)) == ("query", "value")
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=8)
    assert find_targets(ViTModel(config)) in (("query", "value"), ("q_proj", "v_proj"))  # by transformers version
    fused = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(8, 24)})])})
    assert find_targets(fused) == ("qkv",)
    with pytest.raises(ScenarioError) as caught:
        find_targets(nn.ModuleDict({"query": nn.Linear(2, 2), "dense": nn.Linear(2, 2)}))
    assert (caught.value.field, caught.value.found) == ("learning.model", "dense, query")


def test_a_fresh_adapter_changes_nothing_and_trains_only_itself() -> None:
    cut, _ = _landsat(4)
    plain = load_encoder("minilm", layers=2).features(cut)
    adapter, again, other = (
        Adapter(load_encoder("minilm", layers=2), rank=4, alpha=8, seed=seed) for seed in (3, 3, 4)
    )
    with torch.no_grad():
        assert torch.equal(adapter.encoder(cut), plain)
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 2 * (4 * 384 + 384 * 4)
    assert weights_sha256(adapter.state()) == weights_sha256(again.state()) != weights_sha256(other.state())


def test_training_learns_repeats_and_starts_from_the_state_given() -> None:
    cut, labels = _landsat(64)
    adapter = Adapter(load_encoder("minilm", layers=1), rank=4, alpha=8, seed=3)
    start = _state(adapter)
    settings: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 16, "seed": (1, 0, "sat-0-0")}
    first, loss_one = train_adapter(adapter, start, cut, labels, local_epochs=1, **settings)
    state, loss_five = train_adapter(adapter, start, cut, labels, local_epochs=5, **settings)
    again, _ = train_adapter(adapter, start, cut, labels, local_epochs=1, **settings)
    assert loss_five < loss_one
    assert weights_sha256(first) == weights_sha256(again) != weights_sha256(state)
    assert state.keys() == start.keys() and all(not torch.equal(state[name], start[name]) for name in state)
    with pytest.raises(BugError):
        train_adapter(adapter, start, cut[:0], labels[:0], local_epochs=1, **settings)


def test_states_that_do_not_fit_are_refused_whole() -> None:
    adapter = Adapter(Attention(), rank=2, alpha=4, seed=1)
    before = weights_sha256(adapter.state())
    names = list(adapter.state())
    for change in ({names[-1]: torch.zeros(1)}, {names[-1]: adapter.state()[names[-1]].double()}):
        with pytest.raises(IntegrityError, match="q_proj|v_proj"):
            adapter.load({**{name: tensor + 1 for name, tensor in adapter.state().items()}, **change})
    with pytest.raises(IntegrityError, match="missing"):
        adapter.load({})
    assert weights_sha256(adapter.state()) == before


def test_the_proximal_term_is_that_of_the_paper() -> None:
    # Oracle: autograd through loss + mu/2 |w - w0|^2 over all that is trained, head included. One batch a step.
    torch.manual_seed(0)
    base, head = Attention(), {"linear.weight": torch.randn(6, 12), "linear.bias": torch.randn(6)}
    x, y = torch.randn(16, 12), torch.randint(0, 6, (16,))
    mine, theirs = (Adapter(copy.deepcopy(base), rank=2, alpha=6, seed=1) for _ in range(2))
    start = {**mine.state(), **head}
    common: dict[str, Any] = {"learning_rate": 0.05, "local_epochs": 6, "batch_size": 16, "seed": (1, 1, "sat-0-0")}
    pulled, _ = train_adapter(mine, start, x, y, **common, proximal_mu=3.0)
    trained: dict[str, Tensor] = {**theirs.trained(), **{n: t.clone().requires_grad_(True) for n, t in head.items()}}
    optimiser = torch.optim.AdamW(list(trained.values()), lr=0.05, weight_decay=0.0)
    for _ in range(6):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(head_scores(trained, theirs.encoder(x)), y)
        distance = torch.stack([(tensor - start[name]).square().sum() for name, tensor in trained.items()]).sum()
        (loss + 3.0 / 2 * distance).backward()
        optimiser.step()
    assert max(float((pulled[name] - trained[name]).detach().abs().max()) for name in trained) < 1e-4
    free, _ = train_adapter(mine, start, x, y, **common)
    assert max(float((pulled[name] - free[name]).abs().max()) for name in trained) > 1e-2


_LOAD_ELSEWHERE = """
import json, sys, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel
base_folder, folder = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModel.from_pretrained(base_folder, add_pooling_layer=False), folder).eval()
torch.set_num_threads(1)
cut = load_file(folder + "/cut.safetensors")["cut"]
head = load_file(folder + "/head.safetensors")
with torch.no_grad():
    pooled = model.base_model.model.encoder(cut).last_hidden_state.mean(dim=1)
    features = torch.nn.functional.layer_norm(pooled, (384,), eps=1e-5)
    scores = features @ head["linear.weight"].T + head["linear.bias"]
print(json.dumps(scores.tolist()))
"""


@pytest.mark.parametrize("added", [0.0, 0.02])
def test_a_saved_adapter_loads_in_a_fresh_process(tmp_path: pathlib.Path, added: float) -> None:
    """``added``: how large what an average has put into base weights is; 0.0 for none."""
    from safetensors.torch import save_file

    cut, labels = _landsat(16)
    adapter = Adapter(load_encoder("minilm"), rank=4, alpha=8, seed=3)
    generator = torch.Generator().manual_seed(2)
    deltas = {name: added * torch.randn(d.shape, generator=generator) for name, d in adapter.zero_deltas().items()}
    start = {**_state(adapter), **(deltas if added else {})}
    state, _ = train_adapter(
        adapter, start, cut, labels, learning_rate=1e-2, local_epochs=1, batch_size=8, seed=(1, 0, "sat-0-0")
    )
    adapter.save(tmp_path, state)
    save_file({"cut": cut}, tmp_path / "cut.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_ELSEWHERE, str(minilm.model_folder()), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    theirs = torch.tensor(json.loads(done.stdout))
    with torch.no_grad():
        ours = head_scores(state, adapter.encoder(cut))
        untrained = head_scores(state, load_encoder("minilm")(cut))
    assert (theirs - ours).abs().max() < 1e-5  # one process may fuse head and bias where the other does not
    assert (theirs - untrained).abs().max() > 1e-2
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert sorted(config["target_modules"]) == ["query", "value"]
