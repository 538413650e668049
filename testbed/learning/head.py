"""Local training of the task head: what a satellite does between two aggregations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from testbed.errors import BugError, ScenarioError
from testbed.learning.partition import micro_batches
from testbed.learning.seeds import random_stream

_NAMES = ("linear.weight", "linear.bias")


def train_head(
    state: Mapping[str, Tensor],
    features: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    local_epochs: int,
    batch_size: int,
    seed: tuple[int, int, str],
    proximal_mu: float = 0.0,
) -> tuple[dict[str, Tensor], float]:
    """Trains a head by plain SGD on cross-entropy and returns its new state and the last epoch's mean loss.

    ``state`` is that of ``model.Head`` and is left as it is; ``features`` is [n, width] float32, ``labels`` [n] int64,
    n >= 2. The order within each epoch is a permutation that follows from ``seed``, the scenario's seed, the round and
    the node; no step sees a single sample. ``proximal_mu`` adds mu/2 |w - w_0|^2 to the loss, where w_0 is
    ``state`` (FedProx, Li et al. 2018, arXiv 1812.06127). ScenarioError (field learning.learning_rate) if the weights
    diverge.
    """
    weight = state["linear.weight"].detach().clone().requires_grad_(True)
    bias = state["linear.bias"].detach().clone().requires_grad_(True)
    stream = random_stream("head-order", *seed)
    batches = micro_batches(len(labels), batch_size)
    if not batches:
        raise BugError(f"{seed[2]} has no samples to train on in round {seed[1]}")
    mean_loss = 0.0
    for _ in range(local_epochs):
        order = torch.from_numpy(stream.permutation(len(labels)))
        total = 0.0
        for batch in batches:
            rows = order[batch]
            loss = functional.cross_entropy(functional.linear(features[rows], weight, bias), labels[rows])
            # By hand and not by torch.optim: the step is one line, torch.optim imports torch's compiler.
            gradients = torch.autograd.grad(loss, (weight, bias))
            with torch.no_grad():
                for name, tensor, gradient in zip(_NAMES, (weight, bias), gradients, strict=True):
                    gradient.add_(tensor - state[name], alpha=proximal_mu)
                    tensor.sub_(gradient, alpha=learning_rate)
            total += loss.item() * len(rows)
        mean_loss = total / len(labels)
    trained = {"linear.weight": weight.detach(), "linear.bias": bias.detach()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in trained.values()):
        raise ScenarioError(
            f"the head of {seed[2]} diverged in round {seed[1]}",
            field="learning.learning_rate",
            found=learning_rate,
            allowed="a smaller value",
        )
    return trained, mean_loss


def head_scores(state: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Class scores [n, classes] of ``features`` [n, width] under ``state``."""
    return functional.linear(features, state["linear.weight"], state["linear.bias"])
