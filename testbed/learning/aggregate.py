"""The federated average, exact enough to be a checksum of the run.

Nodes are added in name order in float64 and the sum is cast once, so the answer depends on who contributed what and
never on who came first (McMahan et al. 2017 is the formula; the order is ours).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from testbed.errors import IntegrityError

State = Mapping[str, Tensor]


def weighted_mean(contributions: Mapping[str, tuple[float, State]]) -> dict[str, Tensor]:
    """The mean of the nodes' states by weight (such as samples trained on), tensor by tensor.

    ``contributions`` is node -> (weight, state). All states must have the same names, shapes and dtypes, all
    floating point and finite, every weight be above 0 and finite; otherwise IntegrityError says which node and
    tensor. Tensors come in name order, each in the dtype it had.
    """
    if not contributions:
        raise IntegrityError("nothing to average: no node contributed")
    nodes = sorted(contributions)
    reference = contributions[nodes[0]][1]
    for node in nodes:
        _check(node, *contributions[node], nodes[0], reference)
    total = math.fsum(contributions[node][0] for node in nodes)
    mean: dict[str, Tensor] = {}
    for name in sorted(reference):
        accumulated = torch.zeros(reference[name].shape, dtype=torch.float64)
        for node in nodes:
            weight, state = contributions[node]
            accumulated += state[name].detach().to(torch.float64) * weight
        mean[name] = (accumulated / total).to(reference[name].dtype)
    return mean


def mean_of_packed(blocks: Mapping[str, tuple[float, bytes]]) -> bytes:
    """The mean of packed float32 states by weight, for who knows no more of them than their bytes: in name order, in
    float64, cast once. IntegrityError on a weight that is none, on another length, and on what is not finite."""
    if not blocks:
        raise IntegrityError("nothing to average: no node contributed")
    total = np.zeros(0)
    for node, (weight, packed) in sorted(blocks.items()):
        _check_weight(node, weight)
        values = np.frombuffer(packed, dtype="<f4").astype(np.float64)
        if total.size and values.size != total.size:
            raise IntegrityError(f"{node}: {len(packed)} bytes of weights, others have {4 * total.size}")
        if not np.isfinite(values).all():
            raise IntegrityError(f"{node}: its weights hold values that are not finite")
        total = values * weight if not total.size else total + values * weight
    return (total / math.fsum(weight for weight, _ in blocks.values())).astype("<f4").tobytes()


def _check_weight(node: str, weight: float) -> None:
    if not (math.isfinite(weight) and weight > 0):
        raise IntegrityError(f"{node}: weight {weight}, must be above 0 and finite")


def _check(node: str, weight: float, state: State, reference_node: str, reference: State) -> None:
    _check_weight(node, weight)
    if state.keys() != reference.keys():
        raise IntegrityError(f"{node}: tensors {sorted(state)}, {reference_node} has {sorted(reference)}")
    for name, tensor in state.items():
        expected = reference[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise IntegrityError(
                f"{node}: {name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"{reference_node} has {expected.dtype} {tuple(expected.shape)}"
            )
        if not tensor.is_floating_point():
            raise IntegrityError(f"{node}: {name} is {tensor.dtype}; only floating point is averaged")
        if not bool(torch.isfinite(tensor).all()):
            raise IntegrityError(f"{node}: {name} holds values that are not finite")
