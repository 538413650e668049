"""What an eavesdropper on every data link gets (DESIGN, decision 22), recorded before encryption."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from testbed.learning import shard
from testbed.learning.placement import shard_indices
from testbed.mission import MissionPlan
from testbed.transfer.chunks import TENSOR_TAGS, Chunk

Simulate = Callable[..., dict[str, Any]]
Payloads = dict[tuple[str, str, str], bytes]
"""By sender, receiver and chunk."""


class _Tap:
    def __init__(self) -> None:
        self.payloads: Payloads = {}
        self.sent_bytes = 0

    def __call__(self, sender: str, receiver: str, chunk: Chunk, offset: int) -> None:
        self.payloads[sender, receiver, str(chunk.id)] = chunk.payload
        self.sent_bytes += len(chunk.payload) - offset

    def of(self, tensor: str, round_: int, *, up_only: bool = False) -> Payloads:
        return {
            key: payload
            for key, payload in self.payloads.items()
            if key[2].split("/")[1] == str(round_) and key[2].split("/")[4] == tensor
            if not up_only or (key[0].startswith("sat-") and not key[1].startswith("sat-"))
        }


def _record(simulate: Simulate, strategy: str = "collaborative") -> tuple[_Tap, dict[str, Any]]:
    tap = _Tap()
    return tap, simulate(strategy, {"learning.samples_per_round": "128"}, recorder=tap)


@pytest.fixture(scope="module")
def plain(simulate: Simulate) -> tuple[_Tap, dict[str, Any]]:
    return _record(simulate)


@pytest.fixture
def permuted(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> tuple[_Tap, dict[str, Any]]:
    """The same run with every satellite's labels dealt anew among its own samples, once all know who holds which."""
    honest = shard.Shard.__init__

    def deal(self: shard.Shard, plan: MissionPlan, node: str, *rest: Any, **named: Any) -> None:
        honest(self, plan, node, *rest, **named)
        rows = shard_indices(plan.scenario, plan.satellites)[node]
        labels = self._labels.clone()
        order = np.random.default_rng(7).permutation(len(rows))
        labels[torch.from_numpy(rows)] = labels[torch.from_numpy(rows[order])]
        assert not torch.equal(labels, self._labels)
        self._labels = labels

    monkeypatch.setattr(shard.Shard, "__init__", deal)
    return _record(simulate)


def test_uplinks_of_the_first_round_say_nothing_of_labels(
    plain: tuple[_Tap, dict[str, Any]], permuted: tuple[_Tap, dict[str, Any]]
) -> None:
    one, other = plain[0], permuted[0]
    uplinks = one.of("embedding", 1, up_only=True)
    assert sum(map(len, uplinks.values())) == 128 * 9 * 384 * 2
    assert other.of("embedding", 1, up_only=True) == uplinks
    # The ring and what comes down, too: until the first head everything follows from pixels and seed alone.
    for tensor in ("embedding", "feature"):
        assert one.of(tensor, 1)
        assert other.of(tensor, 1) == one.of(tensor, 1)
    # And the experiment can fail: what is learned from labels differs.
    assert one.of("head", 1).keys() == other.of("head", 1).keys()
    assert all(one.of("head", 1)[key] != payload for key, payload in other.of("head", 1).items())


@pytest.mark.parametrize("strategy", ["collaborative", "onboard"])
def test_only_tensors_that_may_leave_leave(
    simulate: Simulate, plain: tuple[_Tap, dict[str, Any]], strategy: str
) -> None:
    tap, result = plain if strategy == "collaborative" else _record(simulate, strategy)
    tags = {key[2].split("/")[4] for key in tap.payloads}
    assert tags == ({"embedding", "feature", "head"} if strategy == "collaborative" else {"head"})
    assert tags <= TENSOR_TAGS
    # Heads stay in the plane: the ground gets none.
    assert all(key[0].startswith("sat-") and key[1].startswith("sat-") for key in tap.payloads if "/head/" in key[2])
    # Every payload byte is counted, and nothing else is.
    assert tap.sent_bytes == sum(result["bytes"][kind] for kind in ("up", "down", "isl", "backhaul"))


def test_pixels_cross_no_link_as_they_are(plain: tuple[_Tap, dict[str, Any]]) -> None:
    from testbed.learning.placement import dataset

    tap, result = plain
    pixels = dataset(result["plan"].scenario.learning).train_x
    sent: defaultdict[str, bytearray] = defaultdict(bytearray)
    for (_, _, name), payload in sorted(tap.payloads.items()):
        sent[name] += payload
    stream = b"".join(bytes(part) for part in sent.values())
    assert not any(sample.tobytes() in stream for sample in pixels[:200])
