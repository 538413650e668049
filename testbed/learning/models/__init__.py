"""The models a scenario may name, behind one interface. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from testbed.learning.models.base import Model, ModelShape
from testbed.learning.models.minilm import MiniLm
from testbed.learning.models.presto import Presto
from testbed.learning.models.transformer import Transformer
from testbed.scenario_learning import LearningSettings

__all__ = ["Model", "ModelShape", "open_model"]

_NAMED: Mapping[str, Callable[[LearningSettings], Model]] = {"minilm": MiniLm, "presto": Presto}


@lru_cache(maxsize=8)
def open_model(learning: LearningSettings) -> Model:
    """The model of a scenario. Nothing is loaded until a part of it is asked for."""
    return _NAMED.get(learning.model, Transformer)(learning)
