"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) on an encoder, by peft.

A weight W [out, in] is replaced by W + scaling B A with A [r, in] and B [out, r] trained. The mean of several
satellites' A times the mean of their B is *not* the mean of their B A (FedEx-LoRA, arXiv 2410.09432): averaging
factor by factor is what most systems do, and ``factor_average_deviation`` says by how much it is off.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from testbed.errors import BugError, IntegrityError
from testbed.learning import minilm
from testbed.learning.aggregate import State, weighted_mean
from testbed.learning.attention import find_targets
from testbed.learning.checkpoint import save_head
from testbed.learning.head import head_scores
from testbed.learning.partition import micro_batches
from testbed.learning.seeds import random_stream

HEAD_FILE = "head.safetensors"
"""Beside peft's own files in a saved adapter's folder."""

_A, _B = ".lora_A.weight", ".lora_B.weight"
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
        self._fill(seed)

    def _fill(self, seed: int) -> None:
        """A from +-1/sqrt(in), peft's own range, but from a stream of ours; B zero, so that training starts at W."""
        for name, tensor in self._tensors().items():
            values = np.zeros(tuple(tensor.shape), dtype=np.float32)
            if name.endswith(_A):
                bound = tensor.shape[1] ** -0.5
                values = (
                    random_stream("lora", seed, name).uniform(-bound, bound, tuple(tensor.shape)).astype(np.float32)
                )
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(values))

    def _tensors(self) -> dict[str, nn.Parameter]:
        """The trained parameters by the name peft saves them under, in name order."""
        found = {name.replace(".default.", "."): p for name, p in self.model.named_parameters() if p.requires_grad}
        return dict(sorted(found.items()))

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains, in name order."""
        return list(self._tensors().values())

    def state(self) -> dict[str, Tensor]:
        """Copies of the LoRA matrices, named as in a peft checkpoint."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def load(self, state: State) -> None:
        """Takes over the LoRA matrices in ``state``; other entries (a head) are left. IntegrityError if any differ."""
        for name, tensor in self._tensors().items():
            if name not in state or state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                found = f"{state[name].dtype} {tuple(state[name].shape)}" if name in state else "missing"
                raise IntegrityError(f"adapter: {name} is {found}, must be {tensor.dtype} {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(state[name])

    def save(self, folder: pathlib.Path, head_state: State | None = None) -> None:
        """Writes a peft checkpoint that ``PeftModel.from_pretrained(base, folder)`` reads, and the head beside it.

        ``base`` is the whole model, such as ``AutoModel.from_pretrained(minilm.model_folder())``.
        """
        config = self.model.peft_config["default"]
        config.base_model_name_or_path = self._base_name
        config.task_type = "FEATURE_EXTRACTION"
        # Without the last argument peft asks the model hub whether the vocabulary was resized.
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        if head_state is not None:
            save_head({name: head_state[name] for name in _HEAD_NAMES}, folder / HEAD_FILE)


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
) -> tuple[dict[str, Tensor], float]:
    """Trains adapter and head together on cut tensors [n, tokens, width] and returns both and the last mean loss.

    This is the u-shaped mode done on board. ``state`` holds the LoRA matrices and a head's linear.weight and
    linear.bias, as does the answer. AdamW with torch's default betas, without weight decay, its moments fresh in every
    call (each round); order and batches as in ``head.train_head``. ``seed`` is scenario seed, round, node.
    """
    batches = micro_batches(len(labels), batch_size)
    if not batches:
        raise BugError(f"{seed[2]} has no samples to train on in round {seed[1]}")
    adapter.load(state)
    head = {name: state[name].detach().clone().requires_grad_(True) for name in _HEAD_NAMES}
    optimiser = torch.optim.AdamW([*adapter.parameters(), *head.values()], lr=learning_rate, weight_decay=0.0)
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
            optimiser.step()
            total += loss.item() * len(rows)
        mean_loss = total / len(labels)
    return {**adapter.state(), **{name: tensor.detach() for name, tensor in head.items()}}, mean_loss


def average_factors(contributions: Mapping[str, tuple[float, State]]) -> tuple[dict[str, Tensor], float]:
    """The mean of A and of B each for itself (and of a head, which is exact), and by how much that is off."""
    return weighted_mean(contributions), factor_average_deviation(contributions)


def factor_average_deviation(contributions: Mapping[str, tuple[float, State]]) -> float:
    """|mean(B) mean(A) - mean(B A)| / |mean(B A)| over all adapted weights together (Frobenius norm, float64).

    ``contributions`` is node -> (weight, state) with one scaling for all, which cancels. 0.0 where the mean update
    is zero and the averaged factors give zero as well; infinity where only the former is.
    """
    nodes = sorted(contributions)
    total = sum(contributions[node][0] for node in nodes)
    names = sorted(name.removesuffix(_A) for name in contributions[nodes[0]][1] if name.endswith(_A))
    difference_squared = update_squared = 0.0
    for name in names:
        mean_a = mean_b = mean_update = torch.zeros((), dtype=torch.float64)
        for node in nodes:
            weight, state = contributions[node]
            a, b = state[name + _A].to(torch.float64), state[name + _B].to(torch.float64)
            share = weight / total
            mean_a, mean_b, mean_update = mean_a + share * a, mean_b + share * b, mean_update + share * (b @ a)
        difference_squared += float((mean_b @ mean_a - mean_update).square().sum())
        update_squared += float(mean_update.square().sum())
    if update_squared == 0.0:
        return 0.0 if difference_squared == 0.0 else float("inf")
    return float((difference_squared / update_squared) ** 0.5)
