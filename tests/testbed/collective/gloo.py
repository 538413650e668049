"""One rank of torch.distributed's gloo: ``gloo.py RANK WORLD FOLDER`` reduces FOLDER/in-RANK.npz into out-RANK.npz."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist


def main(rank: int, world: int, folder: Path) -> None:
    """All-reduce (sum) and all-gather every array of the rank's file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
    results = {}
    with np.load(folder / f"in-{rank}.npz") as inputs:
        for name in sorted(inputs):
            tensor = torch.from_numpy(inputs[name])
            parts = [torch.empty_like(tensor) for _ in range(world)]
            dist.all_gather(parts, tensor)
            results[f"gathered {name}"] = torch.stack(parts).numpy()
            dist.all_reduce(tensor)
            results[f"reduced {name}"] = tensor.numpy()
    np.savez(folder / f"out-{rank}.npz", **results)  # type: ignore[arg-type]
    # Nobody leaves before all are done, and nobody runs gloo's destructors: they abort when a peer has gone first.
    (folder / f"done-{rank}").touch()
    while not all((folder / f"done-{peer}").exists() for peer in range(world)):
        time.sleep(0.05)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
