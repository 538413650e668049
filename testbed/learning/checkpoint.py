"""States at rest and on the link: safetensors files, flat bytes, and the digest that says two runs agree."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from testbed.errors import IntegrityError, ScenarioError

# numpy knows no bfloat16: its bits travel as int16.
_WIRE: Mapping[torch.dtype, tuple[torch.dtype, str]] = {
    torch.float64: (torch.float64, "<f8"),
    torch.float32: (torch.float32, "<f4"),
    torch.float16: (torch.float16, "<f2"),
    torch.bfloat16: (torch.int16, "<i2"),
    torch.int64: (torch.int64, "<i8"),
}


def _tensor_bytes(tensor: Tensor) -> bytes:
    carrier, layout = _WIRE[tensor.dtype]
    return tensor.detach().cpu().contiguous().view(carrier).numpy().astype(layout, copy=False).tobytes()


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over the tensors in name order: name, dtype, shape, then little-endian row-major values.

    Two states have the same digest only if they are equal bit for bit, whatever order they were made in.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(_tensor_bytes(tensor))
    return digest.hexdigest()


def models_sha256(models: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The digest of one model, or over those of several, by whose they are."""
    digests = {name: weights_sha256(state) for name, state in models.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def pack_state(state: Mapping[str, Tensor]) -> bytes:
    """The values alone, in name order, little-endian: the form in which weights cross a link."""
    return b"".join(_tensor_bytes(state[name]) for name in sorted(state))


def unpack_state(data: bytes | bytearray | memoryview, template: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``pack_state`` undone; names, shapes and dtypes are those of ``template``. IntegrityError on another length."""
    view = memoryview(data)
    expected = sum(tensor.numel() * tensor.element_size() for tensor in template.values())
    if len(view) != expected:
        raise IntegrityError(f"weights take {expected} bytes, {len(view)} arrived")
    state: dict[str, Tensor] = {}
    start = 0
    for name in sorted(template):
        like = template[name]
        carrier, layout = _WIRE[like.dtype]
        stop = start + like.numel() * like.element_size()
        values = np.frombuffer(view[start:stop], dtype=layout)
        native = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=True))
        state[name] = native.view(carrier).view(like.dtype).reshape(like.shape)
        start = stop
    return state


def save_head(state: Mapping[str, Tensor], path: pathlib.Path) -> None:
    """Writes a head as safetensors; ``path`` appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, partial)
    partial.replace(path)


def load_head(path: pathlib.Path) -> dict[str, Tensor]:
    """A head written by ``save_head``. ScenarioError if there is none, or it is not safetensors."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ScenarioError(f"cannot read weights: {error}", where=str(path), allowed="a safetensors file") from error
