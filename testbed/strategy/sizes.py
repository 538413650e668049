"""How many bytes and how much work a round is, known before it runs. No tensors here: the planner needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from testbed.learning import placement
from testbed.learning.codec_sizes import encoded_bytes
from testbed.learning.partition import micro_batches
from testbed.learning.placement import part_counts
from testbed.mission import MissionPlan
from testbed.scenario import Scenario
from testbed.transfer.chunks import chunk_sizes


def embedding_bytes(plan: MissionPlan, count: int) -> int:
    """Bytes of ``count`` samples' cut tensors on the wire."""
    shape = placement.model_shape(plan.scenario.learning)
    return encoded_bytes((count, shape.tokens, shape.width), plan.scenario.learning.codec)


def feature_bytes(plan: MissionPlan, count: int) -> int:
    """Bytes of ``count`` samples' features on the wire."""
    width = placement.model_shape(plan.scenario.learning).feature_width
    return encoded_bytes((count, width), plan.scenario.learning.codec)


def token_width(scenario: Scenario) -> int:
    """Values of one token of a cut tensor."""
    return placement.model_shape(scenario.learning).width


def head_bytes(plan: MissionPlan) -> int:
    """Bytes of one head: weight and bias in fp32."""
    learning = plan.scenario.learning
    return 4 * (placement.model_shape(learning).feature_width + 1) * len(placement.dataset(learning).classes)


def raw_bytes(plan: MissionPlan, count: int) -> int:
    """Bytes of ``count`` samples as the sensor gave them."""
    return count * placement.dataset(plan.scenario.learning).raw_bytes_per_sample


def adapter_bytes(plan: MissionPlan) -> int:
    """Bytes of one adapter in fp32: two factors for each projection that is adapted."""
    learning = plan.scenario.learning
    return 4 * learning.lora_rank * sum(map(sum, placement.adapted(learning)))


def _nothing(plan: MissionPlan) -> int:
    return 0


def weights_bytes(plan: MissionPlan) -> int:
    """Bytes of what a satellite that holds all that is trained sends to be averaged."""
    return {"head": _nothing, "u-shaped": adapter_bytes}[plan.scenario.learning.mode](plan) + head_bytes(plan)


def weights_tensor(plan: MissionPlan) -> str:
    """The tag that all that is trained travels under."""
    return {"head": "head", "u-shaped": "adapter"}[plan.scenario.learning.mode]


@dataclass(frozen=True)
class Averaged:
    """What satellites average: the tag it travels under, and its size in bytes."""

    tensor: str
    size_bytes: int


def sample_bytes(plan: MissionPlan, count: int) -> int:
    """Bytes of ``count`` samples as they were taken, each with a label of two bytes."""
    return raw_bytes(plan, count) + 2 * count


def training_work(scenario: Scenario, count: int) -> tuple[str, int]:
    """What training all of that on ``count`` samples costs: items of which stage of a device profile."""
    learning = scenario.learning
    works = {"head": ("head", head_steps(scenario, count)), "u-shaped": ("encode_train", count * learning.local_epochs)}
    return works[learning.mode]


def encoding_work(scenario: Scenario, count: int) -> tuple[str, int]:
    """The same of what is computed before: features, where the backbone stays as it is."""
    return {"head": ("encode", count), "u-shaped": ("encode", 0)}[scenario.learning.mode]


def head_steps(scenario: Scenario, count: int) -> int:
    """Optimiser steps of one satellite in one round."""
    return scenario.learning.local_epochs * len(micro_batches(count, scenario.learning.batch_size))


def chunks_of(plan: MissionPlan, size: int) -> tuple[int, ...]:
    """Chunk sizes of a tensor."""
    return chunk_sizes(size, plan.scenario.chunk_bytes)


def sample_counts(plan: MissionPlan, round: int) -> dict[str, int]:
    """Samples that each satellite which is not lost draws in a round."""
    return _of_present(plan, _sample_counts(plan.scenario, plan.satellites, round))


def encoded_counts(plan: MissionPlan, round: int) -> dict[str, int]:
    """Samples of each satellite whose embeddings and features cross links in a round: fewer with the feature cache."""
    return _of_present(plan, _encoded_counts(plan.scenario, plan.satellites, round))


def fresh_counts(plan: MissionPlan, round: int) -> dict[str, int]:
    """Samples of each satellite that it has not used in an earlier round."""
    return _of_present(plan, _fresh_counts(plan.scenario, plan.satellites, round))


def encoded_parts(plan: MissionPlan, round: int) -> dict[str, tuple[int, ...]]:
    """The same, in the parts that go through a round one behind the other."""
    learning = plan.scenario.learning
    return {name: part_counts(count, learning) for name, count in encoded_counts(plan, round).items()}


def _of_present(plan: MissionPlan, counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name not in plan.lost}


@lru_cache(maxsize=1024)
def _encoded_counts(scenario: Scenario, satellites: tuple[str, ...], round: int) -> dict[str, int]:
    return placement.encoded_counts(scenario, satellites, round)


@lru_cache(maxsize=1024)
def _fresh_counts(scenario: Scenario, satellites: tuple[str, ...], round: int) -> dict[str, int]:
    return {name: len(rows) for name, rows in placement.fresh_indices(scenario, satellites, round).items()}


@lru_cache(maxsize=1024)
def _sample_counts(scenario: Scenario, satellites: tuple[str, ...], round: int) -> dict[str, int]:
    return placement.round_counts(scenario, satellites, round)
