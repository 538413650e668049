"""How many bytes and how much work a round is, known before it runs. No tensors here: the planner needs no torch."""

from __future__ import annotations

from functools import lru_cache

from testbed.learning import placement
from testbed.learning.codec_sizes import encoded_bytes
from testbed.learning.partition import micro_batches
from testbed.mission import MissionPlan
from testbed.scenario import Scenario
from testbed.transfer.chunks import chunk_sizes

TOKENS = 9
WIDTH = 384
"""MiniLM: hidden size 384; Landsat: 9 pixels, one token each."""
CLASSES = 6
RAW_BYTES_PER_SAMPLE = 36
"""Landsat: 3 x 3 pixels of 4 bands, one byte each."""


def embedding_bytes(plan: MissionPlan, count: int) -> int:
    """Bytes of ``count`` samples' cut tensors on the wire."""
    return encoded_bytes((count, TOKENS, WIDTH), plan.scenario.learning.codec)


def feature_bytes(plan: MissionPlan, count: int) -> int:
    """Bytes of ``count`` samples' features on the wire."""
    return encoded_bytes((count, WIDTH), plan.scenario.learning.codec)


def token_width(scenario: Scenario) -> int:
    """Values of one token of a cut tensor."""
    return WIDTH


def head_bytes() -> int:
    """Bytes of one head: weight and bias in fp32."""
    return 4 * (WIDTH * CLASSES + CLASSES)


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


def _of_present(plan: MissionPlan, counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name not in plan.lost}


@lru_cache(maxsize=1024)
def _encoded_counts(scenario: Scenario, satellites: tuple[str, ...], round: int) -> dict[str, int]:
    return placement.encoded_counts(scenario, satellites, round)


@lru_cache(maxsize=1024)
def _sample_counts(scenario: Scenario, satellites: tuple[str, ...], round: int) -> dict[str, int]:
    return placement.round_counts(scenario, satellites, round)
