"""States at rest and as bytes: nothing is lost, and the digest sees every bit."""

from __future__ import annotations

import hashlib
import json
import pathlib

import numpy as np
import pytest
import torch
from safetensors import safe_open

from testbed.errors import IntegrityError, ScenarioError
from testbed.learning.checkpoint import load_head, pack_state, save_head, unpack_state, weights_sha256
from testbed.learning.model import Head


def test_digest_is_what_its_docstring_says() -> None:
    # Oracle: the same bytes put together with numpy.
    state = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor([3], dtype=torch.int64)}
    digest = hashlib.sha256()
    for name, dtype, array in (
        ("a", "torch.int64", np.array([3], "<i8")),
        ("b", "torch.float32", np.array([[1.5, -2.0]], "<f4")),
    ):
        digest.update(json.dumps([name, dtype, list(array.shape)]).encode() + b"\n" + array.tobytes())
    assert weights_sha256(state) == digest.hexdigest() == weights_sha256(dict(reversed(list(state.items()))))


def test_digest_sees_bit_name_shape_and_dtype() -> None:
    base = {"w": torch.tensor([[0.0, 1.0]])}
    others = [
        {"w": torch.tensor([[-0.0, 1.0]])},
        {"w": torch.tensor([[0.0, np.nextafter(np.float32(1), np.float32(2))]])},
        {"v": base["w"]},
        {"w": base["w"].reshape(2, 1)},
        {"w": base["w"].to(torch.float16)},
        {"w": base["w"], "b": torch.zeros(0)},
    ]
    assert len({weights_sha256(state) for state in [base, *others]}) == 7
    assert weights_sha256({"w": torch.tensor([[0.0], [1.0]]).t()}) == weights_sha256(base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_pack_and_unpack_keep_every_bit(dtype: torch.dtype) -> None:
    state = {"b": (torch.randn(3, 5) * 9).to(dtype), "a": torch.tensor(7).to(dtype), "c": torch.zeros(0, 2).to(dtype)}
    data = pack_state(state)
    back = unpack_state(memoryview(data), state)
    assert weights_sha256(back) == weights_sha256(state)
    with pytest.raises(IntegrityError, match="arrived"):
        unpack_state(data[:-1], state)


def test_a_packed_head_is_nothing_but_its_values() -> None:
    state = Head(6, 1).state_dict()
    expected = state["linear.bias"].numpy().tobytes() + state["linear.weight"].numpy().tobytes()
    assert pack_state(state) == expected and len(expected) == 4 * (384 * 6 + 6)


def test_saved_heads_are_plain_safetensors(tmp_path: pathlib.Path) -> None:
    state, path = Head(6, 1).state_dict(), tmp_path / "head.safetensors"
    save_head(state, path)
    assert weights_sha256(load_head(path)) == weights_sha256(state)
    with safe_open(path, "np") as opened:
        assert np.array_equal(opened.get_tensor("linear.weight"), state["linear.weight"].numpy())
    assert [entry.name for entry in tmp_path.iterdir()] == ["head.safetensors"]


def test_unreadable_heads_name_the_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "junk").write_bytes(b"not safetensors")
    for name in ("junk", "absent"):
        with pytest.raises(ScenarioError) as caught:
            load_head(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
