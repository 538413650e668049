"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) on an encoder, by peft.

A weight W [out, in] is replaced by W + scaling B A with A [r, in] and B [out, r] trained. What becomes of several
satellites' factors is in :mod:`testbed.learning.factors`.
"""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from testbed.errors import BugError, IntegrityError
from testbed.learning import minilm
from testbed.learning.aggregate import State
from testbed.learning.attention import find_targets
from testbed.learning.checkpoint import save_head
from testbed.learning.factors import BASE_DELTA, LORA_A, LORA_B, layers_of
from testbed.learning.head import head_scores
from testbed.learning.moments import give_moments, take_moments
from testbed.learning.partition import micro_batches
from testbed.learning.seeds import random_stream

HEAD_FILE = "head.safetensors"
"""Beside peft's own files in a saved adapter's folder."""

_HEAD_NAMES = ("linear.weight", "linear.bias")


class Adapter:
    """An encoder with LoRA matrices in it, of which only those are trained.

    The encoder passed in is changed in place and from then on computes with the adapter: ``self.encoder`` is it.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        rank: int,
        alpha: float,
        seed: int,
        targets: str = "query-value",
        base_name: str = minilm.HUB_ID,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # the scaling is alpha / rank: a fraction does as well
            target_modules=list(find_targets(encoder, targets)),
            lora_dropout=0.0,
        )
        self.encoder = encoder
        self._base_name = base_name
        self.model: Any = get_peft_model(encoder, config)
        self.model.eval()  # the base's dropout stays off: it would differ between split and centralised training
        self.scaling = alpha / rank
        self._bases: dict[str, tuple[nn.Parameter, Tensor]] = {}
        """Base weights that were changed, by name: the parameter, and what it was before."""
        self._deltas: dict[str, Tensor] = {}
        self._fill(seed)

    def _fill(self, seed: int) -> None:
        """A from +-1/sqrt(in), peft's own range, but from a stream of ours; B zero, so that training starts at W."""
        for name, tensor in self._tensors().items():
            values = np.zeros(tuple(tensor.shape), dtype=np.float32)
            if name.endswith(LORA_A):
                bound = tensor.shape[1] ** -0.5
                values = (
                    random_stream("lora", seed, name).uniform(-bound, bound, tuple(tensor.shape)).astype(np.float32)
                )
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(values))

    def _tensors(self) -> dict[str, nn.Parameter]:
        """The LoRA matrices by the name peft saves them under, in name order."""
        named = {name.replace(".default.", "."): p for name, p in self.model.named_parameters()}
        return {name: p for name, p in sorted(named.items()) if name.endswith((LORA_A, LORA_B))}

    def freeze_a(self) -> None:
        """Train B alone from now on."""
        for name, tensor in self._tensors().items():
            tensor.requires_grad_(not name.endswith(LORA_A))

    def trained(self) -> dict[str, nn.Parameter]:
        """What an optimiser trains, in name order."""
        return {name: tensor for name, tensor in self._tensors().items() if tensor.requires_grad}

    def parameters(self) -> list[nn.Parameter]:
        """The same without the names."""
        return list(self.trained().values())

    def state(self) -> dict[str, Tensor]:
        """Copies of the LoRA matrices, named as in a peft checkpoint."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def zero_deltas(self) -> dict[str, Tensor]:
        """A BASE_DELTA of zeros [out, in] for every adapted layer, for states whose base weights change."""
        bases = {name: self._base_weight(name) for name in layers_of(self._tensors())}
        return {name + BASE_DELTA: torch.zeros_like(weight) for name, weight in bases.items()}

    def _base_weight(self, layer: str) -> nn.Parameter:
        weight: nn.Parameter = self.model.get_submodule(layer).base_layer.weight
        return weight

    def load(self, state: State) -> None:
        """Takes over the LoRA matrices in ``state``, and what it says was added to base weights; other entries (a head)
        are left. IntegrityError, and nothing taken over, if any do not fit."""
        tensors = self._tensors()
        deltas = {name: tensor for name, tensor in state.items() if name.endswith(BASE_DELTA)}
        layers = layers_of(tensors)
        for name in deltas:
            layer = name.removesuffix(BASE_DELTA)
            if layer not in layers:
                raise IntegrityError(f"adapter: {name} is of a layer that is not adapted")
            if name not in self._bases:
                weight = self._base_weight(layer)
                self._bases[name] = (weight, weight.detach().clone())
        bases = {name: self._bases[name][0] for name in deltas}
        for name, tensor in {**tensors, **bases}.items():
            if name not in state or state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                found = f"{state[name].dtype} {tuple(state[name].shape)}" if name in state else "missing"
                raise IntegrityError(f"adapter: {name} is {found}, must be {tensor.dtype} {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state[name])
            for name, delta in deltas.items():
                weight, before = self._bases[name]
                weight.copy_(before + delta)
        self._deltas = {name: delta.detach().clone() for name, delta in deltas.items()}

    def save(self, folder: pathlib.Path, head_state: State | None = None) -> None:
        """Writes a peft checkpoint that ``PeftModel.from_pretrained(base, folder)`` reads, and the head beside it.

        ``base`` is the whole model, such as ``AutoModel.from_pretrained(minilm.model_folder())``. What was added to
        base weights is in the adapter, which then has the rank that this takes (``_widen``).
        """
        config = self.model.peft_config["default"]
        config.base_model_name_or_path = self._base_name
        config.task_type = "FEATURE_EXTRACTION"
        # Without the last argument peft asks the model hub whether the vocabulary was resized.
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        if self._deltas:
            self._widen(folder)
        if head_state is not None:
            save_head({name: head_state[name] for name in _HEAD_NAMES}, folder / HEAD_FILE)

    def _widen(self, folder: pathlib.Path) -> None:
        """Rewrites a saved adapter as one that adds scaling B A + D to each weight, D [out, in] its delta, exactly.
        With an identity I: [scaling B, D] [A; I] or, where outputs are fewer than inputs, [scaling B, I] [A; D]. A
        checkpoint that had D in a file of its own would load without a word, and be another model."""
        tensors = self._tensors()
        wide: dict[str, Tensor] = {}
        for layer in layers_of(tensors):
            a, b = tensors[layer + LORA_A].detach(), tensors[layer + LORA_B].detach()
            delta = self._deltas[layer + BASE_DELTA]
            outputs, inputs = delta.shape
            left, right = (torch.eye(outputs), delta) if outputs < inputs else (delta, torch.eye(inputs))
            wide[layer + LORA_A] = torch.cat([a, right], dim=0)
            wide[layer + LORA_B] = torch.cat([self.scaling * b, left], dim=1)
        config = copy.deepcopy(self.model.peft_config["default"])
        ranks = {layer: wide[layer + LORA_A].shape[0] for layer in layers_of(wide)}
        config.inference_mode = True
        config.r = config.lora_alpha = max(ranks.values())
        # Of layers that are no wider: their rank, and the scaling 1 that goes with it.
        config.rank_pattern = {_in_model(layer): rank for layer, rank in ranks.items() if rank != config.r}
        config.alpha_pattern = dict(config.rank_pattern)
        config.save_pretrained(str(folder))
        save_file(wide, folder / "adapter_model.safetensors")


def _in_model(layer: str) -> str:
    """A layer's name in the model that is adapted, from that in its checkpoint."""
    return layer.removeprefix("base_model.model.")


def train_adapter(
    adapter: Adapter,
    state: State,
    cut: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    local_epochs: int,
    batch_size: int,
    seed: tuple[int, int, str],
    proximal_mu: float = 0.0,
    moments: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Trains adapter and head together on cut tensors [n, tokens, width] and returns both and the last mean loss.

    This is the u-shaped mode done on board. ``state`` holds the LoRA matrices and a head's linear.weight and
    linear.bias, as does the answer. AdamW with torch's default betas, without weight decay; order, batches and
    ``proximal_mu`` as in ``head.train_head``. ``seed`` is scenario seed, round, node. ``moments`` are AdamW's to go on
    from, by name (:mod:`testbed.learning.moments`), and in it are left those after the last step; without it they begin
    at zero and are forgotten.
    """
    batches = micro_batches(len(labels), batch_size)
    if not batches:
        raise BugError(f"{seed[2]} has no samples to train on in round {seed[1]}")
    adapter.load(state)
    head = {name: state[name].detach().clone().requires_grad_(True) for name in _HEAD_NAMES}
    trained: dict[str, Tensor] = {**adapter.trained(), **head}
    anchors = [tensor.detach().clone() for tensor in trained.values()]
    optimiser = torch.optim.AdamW(list(trained.values()), lr=learning_rate, weight_decay=0.0)
    give_moments(optimiser, trained, moments or {})
    stream = random_stream("adapter-order", *seed)
    mean_loss = 0.0
    for _ in range(local_epochs):
        order = torch.from_numpy(stream.permutation(len(labels)))
        total = 0.0
        for batch in batches:
            rows = order[batch]
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(head_scores(head, adapter.encoder(cut[rows])), labels[rows])
            loss.backward()
            for tensor, anchor in zip(trained.values(), anchors, strict=True):
                if tensor.grad is not None:
                    tensor.grad.add_(tensor.detach() - anchor, alpha=proximal_mu)
            optimiser.step()
            total += loss.item() * len(rows)
        mean_loss = total / len(labels)
    if moments is not None:
        moments.update(take_moments(optimiser, trained))
    return {**state, **adapter.state(), **{name: tensor.detach() for name, tensor in head.items()}}, mean_loss
