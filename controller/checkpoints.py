"""The checkpoints of a run: one folder per round, written as rounds finish, and only so many kept."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.rundir import RunDirectory, sync_folder
from testbed.errors import BugError, RunError
from testbed.mission import MissionPlan
from testbed.strategy.base import EVERYBODY

PREFIX = "checkpoint-"


class Checkpoints:
    """Keeps every round's weights, or the last ``output.save_total_limit`` of them with the best among those.

    ``facts`` go into every model card.
    """

    def __init__(self, directory: RunDirectory, plan: MissionPlan, facts: Mapping[str, object]) -> None:
        from testbed.learning.keep import Keeper

        self._directory = directory
        self._limit = plan.scenario.output.save_total_limit
        self._facts = facts
        # Now, so that importing torch and loading an encoder take no time of a round.
        self._keeper = Keeper(plan.scenario)
        self._scores: dict[int, float] = {}
        """Validation accuracy of what is kept, by round."""
        self._last: dict[str, Any] = {}

    def keep(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Write the weights of a ``weights`` event and remove what is too many; the event that says so."""
        round_ = int(event["round"])
        self._last = dict(event)
        self._write(self._card_facts(event))
        self._scores[round_] = float(event["validation_accuracy"])
        removed = self._too_many()
        for one in removed:
            del self._scores[one]
            shutil.rmtree(self._folder(one), ignore_errors=True)
        return {
            "kind": "checkpoint",
            "node": "controller",
            "mission_s": event["mission_s"],
            "round": round_,
            "folder": self._folder(round_).name,
            "removed": [self._folder(one).name for one in removed],
        }

    def finish(self, test_accuracy: float) -> dict[str, Any]:
        """Add the test accuracy to the last one's card; what is kept, and which is the last and the best."""
        self._write({**self._card_facts(self._last), "test accuracy": f"{test_accuracy:.4f}"})
        return {
            "last": self._folder(max(self._scores)).name,
            "best": self._folder(self._best()).name,
            "kept": [self._folder(one).name for one in sorted(self._scores)],
        }

    def _best(self) -> int:
        """The round with the highest validation accuracy; of several the first."""
        return min(self._scores, key=lambda one: (-self._scores[one], one))

    def _too_many(self) -> list[int]:
        """The oldest rounds beyond the limit, sparing the last always and the best where there is room for both."""
        if self._limit is None:
            return []
        spared = {max(self._scores)} | ({self._best()} if self._limit > 1 else set())
        candidates = [one for one in sorted(self._scores) if one not in spared]
        return candidates[: max(0, len(self._scores) - self._limit)]

    def _folder(self, round_: int) -> Path:
        return self._directory.file(f"{PREFIX}{round_}")

    def _card_facts(self, event: Mapping[str, Any]) -> dict[str, object]:
        return {
            **self._facts,
            "rounds": event["round"],
            "validation accuracy": f"{event['validation_accuracy']:.4f}",
            "mission time": f"{event['end_s']:.1f} s",
            "weights SHA-256": event["weights_sha256"],
        }

    def _write(self, facts: Mapping[str, object]) -> None:
        """Write the last event's folder, so that it is whole or not there; in place of an earlier one of its name."""
        from testbed.learning.checkpoint import models_sha256

        models = {name: _bytes(weights) for name, weights in self._last["weights"].items()}
        folder = self._folder(int(self._last["round"]))
        # Folders cannot be swapped in one step: what is written first lies beside under the same name, for the card.
        scratch = self._directory.file(".checkpoint") / folder.name
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            places = {name: scratch if name == EVERYBODY else scratch / name for name in models}
            kept = {name: self._keeper.save(models[name], place, facts) for name, place in places.items()}
            if models_sha256(kept) != self._last["weights_sha256"]:
                raise BugError("the kept weights are not those that the satellites reported")
            for place in places.values():
                for path in place.iterdir():
                    _sync_file(path)
                sync_folder(place)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(scratch, folder)
            sync_folder(folder.parent)
        except OSError as error:
            raise RunError(f"cannot write {folder}: {error.strerror}") from error
        finally:
            shutil.rmtree(scratch.parent, ignore_errors=True)


def _bytes(weights: str | bytes) -> bytes:
    """Packed weights, which come out of a rack's kernel as text."""
    return base64.b64decode(weights) if isinstance(weights, str) else weights


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
