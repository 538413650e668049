"""Features computed ahead (DESIGN, decision 8): on a shared host a second core does what nodes are charged for anyway.

Where thirteen nodes share one core, computing and transmitting would fight for it. So a process beside the rack runs
the frozen backbone on the cut tensors that the scenario says will be made, and stores the features under the hash of
those very bytes. A node that was sent its cut tensors looks them up by what arrived, waits its charge, and goes on: a
hit proves that the right bytes came over the links. On a miss it computes by itself. The bits are the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from testbed.scenario import Scenario
from testbed.scenario_learning import LearningSettings

PR_SET_PDEATHSIG = 1


class AheadStore:
    """Encoded features by the hash of the encoded cut tensors and of all that decides their bits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, payload: bytes, count: int, learning: LearningSettings) -> Path:
        """Where the features of ``payload`` are, or would be."""
        model = f"{learning.model} {learning.weights} {learning.pooling}"
        what = f"{model} {learning.codec} {learning.micro_batch} {count}\n".encode()
        return self._folder / hashlib.sha256(what + payload).hexdigest()

    def get(self, payload: bytes, count: int, learning: LearningSettings) -> bytes | None:
        """The features, or None when they are not there (yet)."""
        try:
            return self.path(payload, count, learning).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, payload: bytes, count: int, learning: LearningSettings, features: bytes) -> None:
        """Keep features; they appear whole or not at all."""
        path = self.path(payload, count, learning)
        partial = path.with_suffix(".partial")
        partial.write_bytes(features)
        partial.replace(path)


def payloads(scenario: Scenario, satellites: tuple[str, ...]) -> Iterator[tuple[bytes, int]]:
    """Every batch of encoded cut tensors the run will need features of, in the order of need."""
    from testbed.learning.appraisal import appraisal_payloads
    from testbed.learning.shard import CutMaker

    maker = CutMaker(scenario, satellites)
    for round in range(1, scenario.learning.rounds + 1):
        for node in sorted(satellites):
            for rows in maker.parts(round, node):
                if len(rows):
                    yield maker.make(rows), len(rows)
        if round == 1:  # validation is read when the first round ends
            yield from appraisal_payloads(scenario)


def main(arguments: list[str]) -> int:
    """``python -m testbed.learning.ahead PLAN FOLDER``: fill the store, then end. Ends with its parent, too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    os.nice(5)  # the rack itself comes first
    from testbed.learning.features import Backbone
    from testbed.learning.runtime import make_deterministic
    from testbed.mission import MissionPlan

    make_deterministic()
    plan = MissionPlan.from_json(Path(arguments[0]).read_text())
    learning = plan.scenario.learning
    store = AheadStore(Path(arguments[1]))
    backbone = Backbone(learning)
    for payload, count in payloads(plan.scenario, plan.satellites):
        store.put(payload, count, learning, backbone.encode(payload, count))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
