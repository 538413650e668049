"""The oracle: torch.distributed's gloo, on the same tensors in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.collective.gather import all_gather
from testbed.collective.journeys import BOTH_WAYS, ONE_WAY, Ways
from testbed.collective.membership import Membership
from testbed.collective.neighbours import Neighbours
from testbed.collective.reduce import Sum, round_the_ring

WORLD = 3
PLANES = {
    "ring": Membership(tuple(f"sat-0-{i}" for i in range(WORLD)), True),
    "line": Membership(tuple(f"sat-0-{i}" for i in range(WORLD)), False),
}
Inputs = list[dict[str, NDArray[Any]]]


def _inputs() -> Inputs:
    dice = np.random.default_rng(4)
    ranks: Inputs = [{} for _ in range(WORLD)]
    for rank in ranks:
        for dtype in ("int8", "uint8", "int32", "int64"):
            limits = np.iinfo(dtype)
            rank[dtype] = dice.integers(limits.min, limits.max, (5, 41), np.dtype(dtype), endpoint=True)
        rank["float32"] = dice.normal(size=(3, 7, 101)).astype(np.float32)
        rank["float64"] = dice.normal(size=2_000)
        rank["short"] = dice.normal(size=2).astype(np.float32)
        rank["scalar"] = np.array(dice.normal())
    return ranks


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inputs, list[dict[str, NDArray[Any]]]]:
    """What went in, and what each of gloo's ranks got out."""
    folder, inputs = tmp_path_factory.mktemp("gloo"), _inputs()
    for rank, arrays in enumerate(inputs):
        np.savez(folder / f"in-{rank}.npz", **arrays)  # type: ignore[arg-type]
    script = Path(__file__).with_name("gloo.py")
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(WORLD), str(folder)], env=env)
        for rank in range(WORLD)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * WORLD
    finally:
        for process in processes:
            process.kill()
            process.wait()
    outputs = []
    for number in range(WORLD):
        with np.load(folder / f"out-{number}.npz") as out:
            outputs.append(dict(out))
    return inputs, outputs


@pytest.mark.parametrize("shape", PLANES)
@pytest.mark.parametrize("ways", [ONE_WAY, BOTH_WAYS], ids=["one way", "both ways"])
def test_sums_are_gloos(flown, shuffled, shape: str, ways: Ways) -> None:  # type: ignore[no-untyped-def]
    (inputs, outputs), plane = flown, PLANES[shape]
    for what in inputs[0]:

        async def work(neighbours: Neighbours, what: str = what) -> NDArray[Any]:
            mine = inputs[plane.members.index(neighbours.name)][what]
            return await round_the_ring(neighbours, Sum(plane, mine), what, mine, ways, 100)

        results, _ = shuffled(plane, work, 1)
        true = np.sum([rank[what].astype(np.float64) for rank in inputs], axis=0)
        size = np.sum([np.abs(rank[what].astype(np.float64)) for rank in inputs], axis=0)
        for rank, name in enumerate(plane.members):
            theirs = outputs[rank][f"reduced {what}"].reshape(inputs[0][what].shape)
            if theirs.dtype.kind in "iu":
                np.testing.assert_array_equal(results[name], theirs, strict=True)
            else:
                assert results[name].dtype == theirs.dtype
                assert np.all(np.abs(results[name] - true) <= 1e-6 * np.abs(true) + 1e-15)
                assert np.all(np.abs(results[name] - theirs) <= 1e-6 * size)


@pytest.mark.parametrize("shape", PLANES)
def test_gathered_bytes_are_gloos(flown, shuffled, shape: str) -> None:  # type: ignore[no-untyped-def]
    (inputs, outputs), plane = flown, PLANES[shape]
    for what in inputs[0]:
        sizes = dict.fromkeys(plane.members, inputs[0][what].nbytes)

        async def work(neighbours: Neighbours, what: str = what, sizes: dict[str, int] = sizes) -> bytes:
            mine = inputs[plane.members.index(neighbours.name)][what].tobytes()
            held = await all_gather(neighbours, plane, what, mine, sizes, sub_chunk_bytes=100)
            return b"".join(held[name] for name in plane.members)

        results, _ = shuffled(plane, work, 1)
        for rank, name in enumerate(plane.members):
            assert results[name] == outputs[rank][f"gathered {what}"].tobytes()
