"""How good a head is: on the ground, which holds copies of the validation and test data of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from testbed.errors import BugError
from testbed.learning.codec import round_trip
from testbed.learning.encoder import Encoder
from testbed.learning.head import head_scores
from testbed.learning.model import Embedding
from testbed.learning.partition import micro_batches
from testbed.learning.tasks import Dataset

_MICRO_BATCH = 64


class Evaluator:
    """Scores heads on features that went through the same rounding as those the heads were trained on.

    Features are computed when first asked for and kept: the encoder is frozen. The validation score may be taken
    after every round; the test score is for the end of a run and is given once, so that nothing is ever tuned on it.
    """

    def __init__(
        self,
        dataset: Dataset,
        validation_indices: npt.NDArray[np.int64],
        embedding: Embedding,
        encoder: Encoder,
        codec: str,
    ) -> None:
        self._embedding = embedding
        self._encoder = encoder
        self._codec = codec
        self._pixels = {"validation": dataset.train_x[validation_indices], "test": dataset.test_x}
        self._labels = {"validation": dataset.train_y[validation_indices], "test": dataset.test_y}
        self._features: dict[str, Tensor] = {}
        self._test_read = False
        self._baseline_read = False

    def validation_accuracy(self, head_state: Mapping[str, Tensor]) -> float:
        """Fraction of the validation samples that the head labels correctly."""
        return self._accuracy("validation", head_state)

    def test_accuracy(self, head_state: Mapping[str, Tensor]) -> float:
        """Fraction of the test samples that the head labels correctly. BugError when asked a second time."""
        if self._test_read:
            raise BugError("the test split was read already: it is for the final model alone")
        self._test_read = True
        return self._accuracy("test", head_state)

    def baseline_test_accuracy(self, head_state: Mapping[str, Tensor]) -> float:
        """The same for the untrained head, before training. BugError later, or when asked a second time."""
        if self._baseline_read or self._test_read:
            raise BugError("the untrained model is tested once, before the trained one")
        self._baseline_read = True
        return self._accuracy("test", head_state)

    def _accuracy(self, split: str, head_state: Mapping[str, Tensor]) -> float:
        if split not in self._features:
            self._features[split] = self._encode(self._pixels[split])
        with torch.no_grad():
            guesses = head_scores(head_state, self._features[split]).argmax(dim=1)
        labels = torch.from_numpy(self._labels[split].astype(np.int64))
        return int((guesses == labels).sum()) / len(labels)

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        with torch.no_grad():
            cut = round_trip(self._embedding(torch.from_numpy(pixels)), self._codec)
        parts = [self._encoder.features(cut[part]) for part in micro_batches(len(cut), _MICRO_BATCH)]
        return round_trip(torch.cat(parts), self._codec)
