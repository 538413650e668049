"""Times each stage of a scenario's model on this host, as nodes run it: the real modules on made-up samples.

A call is timed from before it is asked for until the device has done it (a GPU is waited for on both sides). Others may
share the host: one thread of a processor is timed by the time it had the processor, and what counts is the median over
repetitions after a warm-up; the spread says how much others were felt all the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch

from testbed.devices import MeasuredSettings, Precision
from testbed.errors import RackError
from testbed.learning.features import Backbone
from testbed.learning.head import head_scores, train_head
from testbed.learning.learners import open_adapter
from testbed.learning.model import Head
from testbed.learning.models import open_model
from testbed.learning.placement import dataset, model_shape
from testbed.processor import multiplies_bf16, processor_name
from testbed.scenario import Scenario
from testbed.stage_work import Stage

WARM_UP = 2
"""Calls that are not counted: the first sets up kernels and memory."""
ENOUGH_S = 0.3
"""Quick calls are repeated beyond what was asked until they took this long together,"""
AT_MOST = 20
"""but at most so many times as often."""
_HEAD_STEPS = 8
"""Optimiser steps per timed call of the head: it has a set-up, which a round of many steps pays once."""

Sync = Callable[[], None]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Target:
    """Where to measure: a torch device, and how many threads a processor may use."""

    device: torch.device
    threads: int = 1

    @property
    def name(self) -> str:
        """The hardware's name."""
        if self.device.type == "cuda":
            return str(torch.cuda.get_device_name(self.device))
        return processor_name()

    @property
    def bf16(self) -> bool:
        """Whether it multiplies in bfloat16 itself; emulation would be measured as a slow device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_capability(self.device) >= (8, 0)  # Ampere: the first with bf16 tensor cores
        return multiplies_bf16()

    @property
    def clock(self) -> Clock:
        """By the wall, unless a single thread of a processor does everything: then without the time others had it."""
        return time.process_time if self.device.type == "cpu" and self.threads == 1 else time.perf_counter

    def wait(self) -> None:
        """Until everything asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def find_target(kind: str, threads: int) -> Target:
    """``cpu``, ``cuda``, or ``auto`` for a GPU where there is one. RackError for one that is not there."""
    present = torch.cuda.is_available()
    if kind == "cuda" and not present:
        raise RackError("torch finds no CUDA device here: measure with --device cpu, or install a torch built for it")
    return Target(torch.device("cuda" if present and kind != "cpu" else "cpu"), threads)


def measure(
    scenario: Scenario,
    target: Target,
    *,
    batches: Sequence[int],
    precisions: Sequence[Precision],
    power_mode: str,
    repetitions: int,
) -> Iterator[MeasuredSettings]:
    """Every stage by precision and batch size (each 2 or more), one after another as they are measured."""
    torch.set_num_threads(target.threads)
    model = _Model(scenario, target.device)
    for precision in precisions:
        for stage, case in model.stages.items():
            for batch in batches:
                seconds = timed(case.of(batch), target.wait, repetitions, _cast(target, precision), target.clock)
                yield MeasuredSettings(
                    model=scenario.learning.model,
                    stage=stage,
                    precision=precision,
                    power_mode=power_mode,
                    batch=batch,
                    call_s=median(seconds) / case.calls,
                    repetitions=len(seconds),
                    spread=spread(seconds),
                )


def spread(seconds: Sequence[float]) -> float:
    """The interquartile range over the median; 0 for a single value."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


@dataclass(frozen=True)
class Work:
    """Something to time: ``run`` on what ``prepare`` made, of which only ``run`` counts."""

    prepare: Callable[[], Any]
    run: Callable[[Any], object]


def timed(
    work: Work,
    wait: Sync,
    repetitions: int,
    within: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Seconds of each counted call: at least ``repetitions``, more of quick ones."""
    seconds: list[float] = []
    for _ in range(WARM_UP):
        with within():
            work.run(work.prepare())
    while len(seconds) < repetitions or (sum(seconds) < ENOUGH_S and len(seconds) < AT_MOST * repetitions):
        with within():
            made = work.prepare()
            wait()
            begun_s = clock()
            work.run(made)
            wait()
            seconds.append(clock() - begun_s)
    return seconds


def _cast(target: Target, precision: Precision) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """bf16 as training has it: products in bfloat16, weights, norms and losses in fp32 (torch's autocast)."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(target.device.type, dtype=torch.bfloat16)


@dataclass(frozen=True)
class _Case:
    """A stage at any batch size. ``calls`` is how many calls of the stage one timed call is."""

    of: Callable[[int], Work]
    calls: int = 1


class _Model:
    """The scenario's model on a device, stage by stage."""

    def __init__(self, scenario: Scenario, device: torch.device) -> None:
        learning = scenario.learning
        self._scenario = scenario
        self._device = device
        self._data = dataset(learning)
        self._shape = model_shape(learning)
        self._embedding = open_model(learning).embedding(self._data.layout, scenario.seed).to(device)
        self._encoder = open_model(learning).encoder().to(device)
        # Another one: an adapter changes the encoder that it is put into.
        adapted = open_model(learning).encoder()
        self._adapter = open_adapter(scenario, Backbone(learning, encoder=adapted))
        adapted.to(device)
        head = Head(len(self._data.classes), scenario.seed, self._shape.feature_width)
        self._head = {name: value.to(device) for name, value in head.state_dict().items()}
        self.stages: dict[Stage, _Case] = {
            "embed": _Case(self._embed),
            "encode": _Case(self._encode),
            "encode_backward": _Case(self._encode_backward),
            "encode_train": _Case(self._encode_train),
            "head": _Case(self._train_head, _HEAD_STEPS),
        }

    def _embed(self, batch: int) -> Work:
        rows = np.arange(batch) % len(self._data.train_y)
        samples = torch.tensor(self._data.train_x[rows], device=self._device)

        def run(_: object) -> object:
            with torch.no_grad():
                return self._embedding(samples)

        return Work(_nothing, run)

    def _encode(self, batch: int) -> Work:
        cut = self._cut(batch)
        return Work(_nothing, lambda _: self._encoder.features(cut))

    def _encode_backward(self, batch: int) -> Work:
        return Work(lambda: self._loss(batch), lambda loss: loss.backward())

    def _encode_train(self, batch: int) -> Work:
        return Work(_nothing, lambda _: self._loss(batch).backward())

    def _train_head(self, batch: int) -> Work:
        features, labels = torch.randn(batch, self._shape.feature_width, device=self._device), self._labels(batch)
        learning = self._scenario.learning

        def run(_: object) -> object:
            return train_head(
                self._head,
                features,
                labels,
                learning_rate=learning.learning_rate,
                local_epochs=_HEAD_STEPS,
                batch_size=batch,
                seed=(self._scenario.seed, 1, "calibration"),
            )

        return Work(_nothing, run)

    def _loss(self, batch: int) -> torch.Tensor:
        """A forward pass through encoder, adapters and head that keeps what a backward pass needs."""
        scores = head_scores(self._head, self._adapter.encoder(self._cut(batch)))
        return torch.nn.functional.cross_entropy(scores, self._labels(batch))

    def _cut(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, self._shape.tokens, self._shape.width, device=self._device)

    def _labels(self, batch: int) -> torch.Tensor:
        return torch.arange(batch, device=self._device) % len(self._data.classes)


def _nothing() -> None:
    """No preparation."""
