"""The federated average, exact enough to be a checksum of the run.

Nodes are added in name order in float64 and the sum is cast once, so the answer depends on who contributed what and
never on who came first (McMahan et al. 2017 is the formula; the order is ours).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from testbed.errors import IntegrityError

State = Mapping[str, Tensor]

MAX_WEIGHT = 1e15
"""Far more samples than any node trains on, and few enough that every whole number up to it is exact in float64."""


def weighted_mean(contributions: Mapping[str, tuple[float, State]]) -> dict[str, Tensor]:
    """The mean of the nodes' states by weight (such as samples trained on), tensor by tensor.

    ``contributions`` is node -> (weight, state). All states must have the same names, shapes and dtypes, every float
    be finite, every weight above 0 and at most MAX_WEIGHT. Integers (counters, such as BatchNorm's) have no mean, and
    must be the same everywhere. Otherwise IntegrityError says which node and tensor. Tensors come in name order, each
    in the dtype it had.
    """
    exact = exact_mean(contributions)
    reference = next(state for _, state in contributions.values())
    return {name: tensor.to(reference[name].dtype) for name, tensor in exact.items()}


def exact_mean(contributions: Mapping[str, tuple[float, State]]) -> dict[str, Tensor]:
    """The same before the cast: float64, but for integers, which are as they were."""
    if not contributions:
        raise IntegrityError("nothing to average: no node contributed")
    nodes = sorted(contributions)
    reference = contributions[nodes[0]][1]
    for node in nodes:
        _check(node, *contributions[node], nodes[0], reference)
    mean: dict[str, Tensor] = {}
    for name in sorted(reference):
        parts = [(contributions[node][0], contributions[node][1][name].detach()) for node in nodes]
        mean[name] = _mean(parts) if reference[name].is_floating_point() else parts[0][1].clone()
        if not bool(torch.isfinite(mean[name]).all()):
            raise IntegrityError(f"{name}: the mean of finite values is beyond float64")
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


def _mean(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    accumulated = torch.zeros(parts[0][1].shape, dtype=torch.float64)
    for weight, tensor in parts:
        accumulated += tensor.to(torch.float64) * weight
    return accumulated / math.fsum(weight for weight, _ in parts)


def _check_weight(node: str, weight: float) -> None:
    if not 0 < weight <= MAX_WEIGHT:  # NaN is neither
        raise IntegrityError(f"{node}: weight {weight}, must be above 0 and at most {MAX_WEIGHT:.0e}")


def _check(node: str, weight: float, state: State, reference_node: str, reference: State) -> None:
    _check_weight(node, weight)
    if state.keys() != reference.keys():
        raise IntegrityError(f"{node}: tensors {sorted(state)}, {reference_node} has {sorted(reference)}")
    for name, tensor in sorted(state.items()):
        expected = reference[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise IntegrityError(
                f"{node}: {name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"{reference_node} has {expected.dtype} {tuple(expected.shape)}"
            )
        if tensor.is_complex():
            raise IntegrityError(f"{node}: {name} is {tensor.dtype}; only floating point is averaged")
        if not tensor.is_floating_point() and not torch.equal(tensor, expected):
            raise IntegrityError(f"{node}: {name} is {tensor.dtype} and not what {reference_node} has; it has no mean")
        if not bool(torch.isfinite(tensor).all()):
            raise IntegrityError(f"{node}: {name} holds values that are not finite")
