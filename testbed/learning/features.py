"""Cut tensors to features: the frozen backbone's part, wherever it runs."""

from __future__ import annotations

import torch

from testbed.learning import codec, minilm
from testbed.learning.encoder import Encoder
from testbed.learning.model import PIXELS
from testbed.learning.partition import micro_batches
from testbed.scenario import LearningSettings

TOKENS = PIXELS
WIDTH = minilm.WIDTH


def encode_features(encoder: Encoder, payload: bytes, count: int, learning: LearningSettings) -> bytes:
    """Run the backbone on one origin's encoded cut tensors [count, 9, 384]; features [count, 384], encoded.

    Micro-batches are fixed by (origin, index), never by arrival: the same bits on the ground as on board (DESIGN,
    decision 13).
    """
    if not count:
        return b""
    cut = codec.decode(payload, (count, TOKENS, WIDTH), learning.codec)
    pieces = [encoder.features(cut[part]) for part in micro_batches(count, learning.micro_batch)]
    return codec.encode(torch.cat(pieces), learning.codec)
