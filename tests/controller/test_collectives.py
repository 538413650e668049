"""Collectives of a run against their predictions, where links are the model's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from testbed.scenario import FailureSettings

Simulate = Callable[..., dict[str, Any]]
RING = 8
HEAD_BYTES = 4 * (384 * 6 + 6)


def _one(result: dict[str, Any], round_: int, tensor: str) -> dict[str, Any]:
    (found,) = (each for each in result["rounds"][round_ - 1]["collectives"] if each["tensor"] == tensor)
    return dict(found)


def test_what_links_that_serve_in_order_take_is_what_the_replay_says(simulate: Simulate) -> None:
    result = simulate("collaborative")
    for round_ in (1, 2):
        embeddings, heads = _one(result, round_, "embedding"), _one(result, round_, "head")
        assert embeddings["members"] == heads["members"] == "ring of 8"
        assert embeddings["size_bytes"] == 64 * 9 * 384 * 2 * (RING - 1)
        assert heads["size_bytes"] == RING * HEAD_BYTES * (RING - 1)
        # Satellites begin within some milliseconds of each other: a charge is 50 ms a call and 0.05 ms a sample.
        assert embeddings["measured_s"] == pytest.approx(embeddings["predicted_s"], abs=0.005)
        # Who begins to share its head last finds most of the others' delivered, or features for others on the links.
        assert heads["closed_form_s"] * 0.5 < heads["measured_s"] < heads["predicted_s"] * 1.5


def test_equal_blocks_take_what_the_closed_form_says_and_a_chunk_a_hop(simulate: Simulate) -> None:
    heads = _one(simulate("onboard", {"learning.rounds": "1"}), 1, "head")
    # Each head is one chunk: what the closed form hides behind other bytes is one chunk and one delay of the way back.
    assert heads["closed_form_s"] < heads["predicted_s"] < heads["closed_form_s"] * 1.25


def test_a_line_takes_longer_and_what_was_broken_off_is_no_collective(simulate: Simulate) -> None:
    failures = (FailureSettings(node="sat-0-3", at_s=0.5),)

    def change(plan: Any) -> Any:
        return replace(plan, scenario=plan.scenario.model_copy(update={"failures": failures}))

    result = simulate("collaborative", change=change)
    (first,) = result["rounds"][0]["collectives"]
    assert (first["tensor"], first["members"]) == ("head", "line of 7: sat-0-3 is out")
    assert {each["tensor"] for each in result["rounds"][1]["collectives"]} == {"embedding", "head"}
    whole = _one(simulate("collaborative"), 2, "embedding")
    assert _one(result, 2, "embedding")["closed_form_s"] > 1.5 * whole["closed_form_s"]


def test_relayed_embeddings_are_no_collective(simulate: Simulate) -> None:
    result = simulate("collaborative", {"intra_orbit": "relay"})
    assert [each["tensor"] for each in result["rounds"][0]["collectives"]] == ["head"]
