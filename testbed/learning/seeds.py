"""Random streams, one per purpose, so that drawing for one thing never shifts another.

Everything random in learning comes from numpy's PCG64: its integers and uniform doubles are the same on every
platform, which torch does not promise of its vectorised samplers.
"""

from __future__ import annotations

import hashlib

# By name: numpy loads its random part only when first touched, which a forked node should find done.
from numpy.random import PCG64, Generator

__all__ = ["Generator", "random_stream"]


def random_stream(purpose: str, seed: int, *parts: int | str) -> Generator:
    """The stream of ``purpose`` (such as "embedding") under ``seed``, and of a round or node given in ``parts``.

    Streams with different arguments are independent: the state is the SHA-256 of the arguments.
    """
    text = "\x1f".join([purpose, str(seed), *(str(part) for part in parts)])
    entropy = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    return Generator(PCG64(entropy))
