"""The mode torch is put in, and that warming up leaves nothing to import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from testbed.learning.runtime import make_deterministic

_PREPARE = """
import sys, torch
from testbed.learning import aggregate, checkpoint, codec, head, model, runtime, split
runtime.make_deterministic()
runtime.warm(optimisers={optimisers})
before = set(sys.modules)
"""
_HEAD = """
state = dict(model.Head(6, 1).state_dict())
with torch.no_grad():
    cut = model.Embedding(1)(torch.zeros(4, 9, 4, dtype=torch.uint8))
codec.round_trip(cut, "bf16")
trained, _ = head.train_head(state, torch.randn(8, 384), torch.zeros(8, dtype=torch.int64), learning_rate=0.1,
                             local_epochs=1, batch_size=4, seed=(1, 0, "sat-0-0"))
checkpoint.weights_sha256(aggregate.weighted_mean({"sat-0-0": (1.0, trained)}))
"""
_U_SHAPED = """
embedding, backbone, last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
satellite = split.SatelliteSide(embedding, last, torch.optim.AdamW([*embedding.parameters(), *last.parameters()]))
ground = split.GroundSide(backbone, torch.optim.SGD(backbone.parameters(), lr=0.1))
split.split_step(satellite, ground, torch.randn(3, 4), torch.tensor([0, 1, 0]))
"""


def test_one_thread_and_an_error_for_what_has_no_fixed_order() -> None:
    make_deterministic()
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize(("optimisers", "work"), [(False, _HEAD), (True, _HEAD + _U_SHAPED)])
def test_nothing_is_imported_after_warming_up(optimisers: bool, work: str) -> None:
    script = _PREPARE.format(optimisers=optimisers) + work + "print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
