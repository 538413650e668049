"""Skyrack's own strategies keep what every strategy promises; one that breaks a promise is told which."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest

from controller.conformance import CHECKS, Trial, declares_itself, predicts_its_time, sends_what_it_declares
from testbed import registry
from testbed.strategy.base import Strategy
from testbed.strategy.onboard import Onboard

TRIALS = {name: Trial(name) for name in registry.names("strategies")}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TRIALS))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_strategy_keeps_its_promises(name: str, check: object) -> None:
    assert callable(check)
    check(TRIALS[name])


class _Idle(Onboard):
    """Says that it runs a mode which it does not, under a name that is not its own."""

    name: ClassVar[str] = "onboard"
    modes: ClassVar[frozenset[str]] = frozenset({"head", "sideways"})


@dataclass(frozen=True)
class _Pinned(Trial):
    """A trial of a class that has no entry point."""

    @property
    def object(self) -> Strategy:
        return _Idle()


def test_a_broken_promise_is_named() -> None:
    with pytest.raises(AssertionError, match="entry point 'idle' leads to a strategy named 'onboard'"):
        declares_itself(_Pinned("idle"))
    with pytest.raises(AssertionError, match="runs modes that scenarios do not have: sideways"):
        declares_itself(_Pinned("onboard"))


def test_a_wrong_prediction_is_named() -> None:
    flight = SimpleNamespace(
        plan=SimpleNamespace(prediction={"mission_time_s": 2.0, "rounds": []}), result={"mission_time_s": 3.0}
    )
    trial = Trial("local-only", _flown=dict.fromkeys(("head", "u-shaped"), flight))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="local-only, mode head: predicted 2.000 s, took 3.000 s"):
        predicts_its_time(trial)


def test_what_is_sent_and_not_declared_is_named() -> None:
    flight = SimpleNamespace(events=[{"kind": "transfer", "tensor": "label"}, {"kind": "state"}])
    trial = Trial("onboard", _flown=dict.fromkeys(("head", "u-shaped"), flight))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="onboard, mode head: sends label, which it does not declare"):
        sends_what_it_declares(trial)
