"""Who holds which samples: hold-out, the partition over satellites, the draw of each round, and micro-batches.

All of it follows from the scenario's seed and from nothing else: not from arrival, not from timing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from testbed.errors import ScenarioError
from testbed.learning.seeds import random_stream

IndexArray = npt.NDArray[np.int64]

MINIMUM = 16
"""Samples that every satellite is given at least, however uneven the partition."""
SHARDS_PER_NODE = 2
"""Runs of the samples in class order that a satellite gets by class, as in McMahan et al. 2017, section 3."""
_PARTITION_TRIES = 100
_DRAW_TRIES = 1_000


def hold_out(n: int, fraction: float, seed: int) -> tuple[IndexArray, IndexArray]:
    """Splits 0..n-1 into training and validation indices, both ascending.

    The validation part is round(n x fraction) samples drawn without replacement. ScenarioError (field
    learning.validation_fraction) if either part would be empty.
    """
    count = round(n * fraction)
    if not 0 < count < n:
        raise ScenarioError(
            f"the hold-out would leave {n - count} of {n} samples for training and {count} for validation",
            field="learning.validation_fraction",
            found=fraction,
            allowed="more than 0 and less than 1, at least one sample in each part",
        )
    order = random_stream("hold-out", seed).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


def dirichlet_partition(
    labels: npt.NDArray[np.integer], nodes: Sequence[str], alpha: float, seed: int, minimum: int = MINIMUM
) -> dict[str, IndexArray]:
    """Shares out 0..len(labels)-1 so that every class is spread over the nodes as Dirichlet(alpha) says.

    Source: Hsu, Qi and Brown 2019 (arXiv 1909.06335), the usual model of label skew: a small ``alpha`` gives each
    node few classes, a large one gives all nodes the same mix. The shares are drawn again until every node has
    ``minimum`` samples; ScenarioError (field learning.dirichlet_alpha) if 100 draws do not give that. Nodes come in
    name order, indices ascending.
    """
    names = _named(nodes)
    if not (alpha > 0 and np.isfinite(alpha)):
        raise ScenarioError("not a Dirichlet parameter", field="learning.dirichlet_alpha", found=alpha, allowed="> 0")
    stream = random_stream("partition", seed)
    by_class = [stream.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    for _ in range(_PARTITION_TRIES):
        parts: list[list[IndexArray]] = [[] for _ in names]
        for indices in by_class:
            shares = stream.dirichlet(np.full(len(names), alpha))
            edges = np.rint(np.cumsum(shares)[:-1] * len(indices)).astype(np.int64)
            for part, piece in zip(parts, np.split(indices, edges), strict=True):
                part.append(piece)
        held = {name: np.sort(np.concatenate(part)) for name, part in zip(names, parts, strict=True)}
        if min(len(indices) for indices in held.values()) >= minimum:
            return held
    raise ScenarioError(
        f"{_PARTITION_TRIES} draws each left one of {len(names)} satellites with fewer than {minimum} "
        f"of {len(labels)} samples",
        field="learning.dirichlet_alpha",
        found=alpha,
        allowed="a larger value, fewer satellites or more samples",
    )


def iid_partition(
    labels: npt.NDArray[np.integer], nodes: Sequence[str], seed: int, minimum: int = MINIMUM
) -> dict[str, IndexArray]:
    """Shares out 0..len(labels)-1 in one random order, evenly: every node has the same mix but for chance.

    Shares differ by one sample at most. ScenarioError (field learning.partition) where they would be below
    ``minimum``. Nodes come in name order, indices ascending.
    """
    names = _named(nodes)
    _check_enough(len(labels), names, minimum)
    order = random_stream("partition-iid", seed).permutation(len(labels))
    return {name: np.sort(part) for name, part in zip(names, np.array_split(order, len(names)), strict=True)}


def class_partition(
    labels: npt.NDArray[np.integer], nodes: Sequence[str], seed: int, minimum: int = MINIMUM
) -> dict[str, IndexArray]:
    """Shares out 0..len(labels)-1 by class: in class order, cut into two equal runs a node, dealt at random.

    Source: McMahan et al. 2017 (arXiv 1602.05629, section 3), the "pathological" non-IID partition: most nodes have
    two classes. Within a class the order is random. ScenarioError (field learning.partition) where a node would have
    fewer than ``minimum`` samples. Nodes come in name order, indices ascending.
    """
    names = _named(nodes)
    _check_enough(len(labels), names, minimum)
    stream = random_stream("partition-by-class", seed)
    mixed = stream.permutation(len(labels))
    in_order = mixed[np.argsort(labels[mixed], kind="stable")]
    runs = np.array_split(in_order, SHARDS_PER_NODE * len(names))
    dealt = stream.permutation(len(runs)).reshape(len(names), SHARDS_PER_NODE)
    return {name: np.sort(np.concatenate([runs[run] for run in mine])) for name, mine in zip(names, dealt, strict=True)}


def ground_track_partition(
    distances_km: npt.NDArray[np.floating], nodes: Sequence[str], minimum: int = MINIMUM
) -> dict[str, IndexArray]:
    """Shares out 0..n-1 by who flies over what: a sample is held by the node whose ground track comes nearest to it.

    ``distances_km`` [nodes, n] is how near the track of each node, in name order, comes to each sample's place; of two
    as near the first by name has it. A node left with fewer than ``minimum`` is given those nearest to its own track
    out of what others have to spare, the neediest node first. ScenarioError (field learning.partition) where there are
    not ``minimum`` for everybody. Indices are ascending.
    """
    names = _named(nodes)
    _check_enough(distances_km.shape[1], names, minimum)
    holder = np.argmin(distances_km, axis=0)
    counts = np.bincount(holder, minlength=len(names))
    for node in np.argsort(counts, kind="stable"):
        for sample in np.argsort(distances_km[node], kind="stable"):
            if counts[node] >= minimum:
                break
            if holder[sample] != node and counts[holder[sample]] > minimum:
                counts[holder[sample]] -= 1
                counts[node] += 1
                holder[sample] = node
    return {name: np.flatnonzero(holder == index) for index, name in enumerate(names)}


def _named(nodes: Sequence[str]) -> list[str]:
    names = sorted(nodes)
    if not names or len(set(names)) != len(names):
        raise ScenarioError("nodes must be named, each once", field="constellation", found=len(names))
    return names


def _check_enough(samples: int, names: Sequence[str], minimum: int) -> None:
    if samples < minimum * len(names):
        raise ScenarioError(
            f"{len(names)} satellites cannot have {minimum} samples each",
            field="learning.partition",
            found=f"{samples} samples",
            allowed=f"{minimum * len(names)} samples or more, or fewer satellites",
        )


def draw_round(partition: Mapping[str, IndexArray], count: int, round_index: int, seed: int) -> dict[str, IndexArray]:
    """The samples of one round: ``count`` out of everybody's, without replacement, each with its holder.

    Every node is in the answer, in name order, its indices ascending; some may have none. None has exactly one:
    kernels for one row differ from those for more, so a draw that leaves a node with one is drawn again.
    ScenarioError (field learning.samples_per_round) if ``count`` is not to be had.
    """
    names = sorted(partition)
    everything = np.concatenate([partition[name] for name in names])
    holders = np.repeat(np.arange(len(names)), [len(partition[name]) for name in names])
    if not 2 <= count <= len(everything):
        raise ScenarioError(
            "cannot draw that many samples in a round",
            field="learning.samples_per_round",
            found=count,
            allowed=f"2 to {len(everything)}, the training samples of all satellites",
        )
    stream = random_stream("draw", seed, round_index)
    for _ in range(_DRAW_TRIES):
        drawn = stream.permutation(len(everything))[:count]
        if not np.any(np.bincount(holders[drawn], minlength=len(names)) == 1):
            return {name: np.sort(everything[drawn[holders[drawn] == i]]) for i, name in enumerate(names)}
    raise ScenarioError(
        f"{_DRAW_TRIES} draws each left a satellite with a single sample",
        field="learning.samples_per_round",
        found=count,
        allowed=f"more: {len(names)} satellites share the draw",
    )


def micro_batches(n: int, size: int) -> tuple[slice, ...]:
    """Fixed cuts of 0..n-1 into runs of ``size``; the last is shorter, or longer by one where one would be left over.

    ScenarioError (field learning.micro_batch) if ``n`` is 1 or ``size`` is below 2: nothing is ever computed on one
    row, since its kernels differ from those for more.
    """
    if size < 2 or n == 1 or n < 0:
        raise ScenarioError(
            "a batch of one sample is never computed",
            field="learning.micro_batch",
            found=f"{n} samples by {size}",
            allowed="no samples or two and more, by two and more",
        )
    starts = list(range(0, n, size))
    if n % size == 1:
        starts.pop()
    return tuple(slice(start, stop) for start, stop in itertools.pairwise([*starts, n]))
