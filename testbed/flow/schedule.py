"""What a flow scheduler answers: which share of which demand goes along which windows, and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from testbed.flow.problem import Problem


@dataclass(frozen=True, slots=True)
class Hop:
    """A share's crossing of one window (its index in ``Problem.windows``): when it is planned to leave, first byte and
    last. Another share may have the window at the same time; together they fit."""

    window: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Share:
    """Part of a demand (or all of it) along one way. ``hops`` lead from a node that holds the demand to its
    destination; a demand that is at its destination already has none. It is sent as soon as its first link is free,
    but never before ``not_before_s``: that is for schedulers that decide late."""

    demand: str
    size_bytes: float
    hops: tuple[Hop, ...]
    not_before_s: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """All shares, in the order in which they are to be sent where they meet. ``completion_s``: when, as the scheduler
    has it, the last byte arrives (mission time)."""

    shares: tuple[Share, ...]
    completion_s: float


class FlowScheduler(ABC):
    """One way to schedule. Found through the entry point group ``skyrack.schedulers``."""

    name: ClassVar[str]
    reroutable: ClassVar[bool] = False
    """Whether a schedule says how much goes over which link, and not which demand: whole chunks may then go another way
    than their shares where they are through sooner."""

    @abstractmethod
    def schedule(self, problem: Problem) -> Schedule:
        """Shares that together carry every demand whole, and through by its deadline.

        The same problem gives the same schedule, in any process. Raises :class:`~testbed.errors.FlowError` when it
        finds none, with a demand that is not through and what stands in the way, in words.
        """
