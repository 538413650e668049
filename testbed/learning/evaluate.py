"""How good a head is: on the ground, which holds copies of the validation and test data of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from testbed.errors import BugError
from testbed.learning.codec import decode, encode
from testbed.learning.features import Backbone
from testbed.learning.head import head_scores
from testbed.learning.partition import micro_batches
from testbed.learning.protection import Protection, Unprotected
from testbed.learning.tasks import Dataset, Samples

_AT_ONCE_BYTES = 32 * 2**20
"""What samples of images may take as floating point at a time: a guest's memory is shared by all nodes."""


class Evaluator:
    """Scores heads on features that went through the same protection and rounding as those the heads were trained on.

    Features are computed when first asked for and kept: the encoder is frozen. The validation score may be taken
    after every round; the test score is for the end of a run and is given once, so that nothing is ever tuned on it.
    """

    def __init__(
        self,
        dataset: Dataset,
        validation_indices: npt.NDArray[np.int64],
        embedding: nn.Module,
        backbone: Backbone,
        codec: str,
        protection: Protection | None = None,
    ) -> None:
        self._embedding = embedding
        self._backbone = backbone
        self._codec = codec
        self._protection = protection or Unprotected()
        self._samples: dict[str, tuple[Samples, npt.NDArray[np.int64], str]] = {
            "validation": (dataset.train_x, validation_indices, "train"),
            "test": (dataset.test_x, np.arange(len(dataset.test_y)), "test"),
        }
        self._labels = {"validation": dataset.train_y[validation_indices], "test": dataset.test_y}
        self._features: dict[str, Tensor] = {}
        self._test_read = False
        self._baseline_read = False

    def validation_accuracy(self, head_state: Mapping[str, Tensor]) -> float:
        """Fraction of the validation samples that the head labels correctly."""
        return self._accuracy("validation", head_state)

    def test_accuracy(self, head_state: Mapping[str, Tensor]) -> float:
        """Fraction of the test samples that the head labels correctly. BugError when asked a second time."""
        return self.test_accuracies([head_state])[0]

    def test_accuracies(self, head_states: Sequence[Mapping[str, Tensor]]) -> list[float]:
        """The same of several heads, where a run ends with several. BugError when asked a second time."""
        if self._test_read:
            raise BugError("the test split was read already: it is for the final model alone")
        self._test_read = True
        return [self._accuracy("test", state) for state in head_states]

    def baseline_test_accuracy(self, head_state: Mapping[str, Tensor]) -> float:
        """The same for the untrained head, before training. BugError later, or when asked a second time."""
        if self._baseline_read or self._test_read:
            raise BugError("the untrained model is tested once, before the trained one")
        self._baseline_read = True
        return self._accuracy("test", head_state)

    def _accuracy(self, split: str, head_state: Mapping[str, Tensor]) -> float:
        if split not in self._features:
            self._features[split] = self._encode(split)
        with torch.no_grad():
            guesses = head_scores(head_state, self._features[split]).argmax(dim=1)
        labels = torch.from_numpy(self._labels[split].astype(np.int64))
        return int((guesses == labels).sum()) / len(labels)

    def _encode(self, split: str) -> Tensor:
        width = self._backbone.shape.feature_width
        return torch.cat(
            [
                decode(self._backbone.encode(payload, count), (count, width), self._codec)
                for payload, count in self.payloads(split)
            ]
        )

    def payloads(self, split: str) -> Iterator[tuple[bytes, int]]:
        """A split's cut tensors in pieces, encoded, and how many each has: whole micro-batches, so that pieces make the
        features that all at once would make."""
        samples, rows, protected_as = self._samples[split]
        shape = self._backbone.shape
        largest = 4 * max(math.prod(samples.shape[1:]), shape.tokens * shape.width)
        whole = max(1, _AT_ONCE_BYTES // (largest * self._backbone.micro_batch)) * self._backbone.micro_batch
        for part in micro_batches(len(rows), whole):
            some = rows[part]
            with torch.no_grad():
                cut = self._protection.apply(self._embedding(torch.tensor(samples[some])), protected_as, some.tolist())
            yield encode(cut, self._codec), len(some)
