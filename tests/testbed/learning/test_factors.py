"""Averages of LoRA factors against peft's merged weights, on layers that are wider and narrower than they are long."""

from __future__ import annotations

import copy
import json
import math
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from testbed.errors import IntegrityError
from testbed.learning.checkpoint import weights_sha256
from testbed.learning.factors import BASE_DELTA, FACTOR_RULES, LORA_A, LORA_B, FactorRule, average_adapters, product
from testbed.learning.lora import Adapter
from testbed.scenario_learning import LearningSettings

State = dict[str, Tensor]
Contributions = dict[str, tuple[float, State]]
RANK, ALPHA = 2, 7.0  # a scaling of 3.5: no power of two, and not 1
EXACT = ("ffa", "stack", "exact-residual")


class Attention(nn.Module):
    """Projections of 12 inputs to 20 and to 7 outputs: a transpose would not go unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.out = nn.Linear(12, 20), nn.Linear(12, 7), nn.Linear(27, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.q_proj(x), self.v_proj(x)], dim=-1))  # type: ignore[no-any-return]


def _base() -> Attention:
    torch.manual_seed(0)
    return Attention()


def _adapter(base: nn.Module, rule: FactorRule) -> Adapter:
    adapter = Adapter(copy.deepcopy(base), rank=RANK, alpha=ALPHA, seed=1)
    if not rule.trains_a:
        adapter.freeze_a()
    return adapter


def _trained(base: nn.Module, rule: FactorRule, begun: State, nodes: int, seed: int) -> Contributions:
    """Adapters that have drifted apart from ``begun``, each with samples of its own and another weight."""
    generator = torch.Generator().manual_seed(seed)
    contributions = {}
    for index in range(nodes):
        adapter = _adapter(base, rule)
        adapter.load(begun)
        optimiser = torch.optim.AdamW(adapter.parameters(), lr=3e-2)
        for _ in range(8):
            x, y = torch.randn(8, 12, generator=generator), torch.randn(8, 12, generator=generator)
            optimiser.zero_grad()
            (adapter.encoder(x) - y).square().mean().backward()
            optimiser.step()
        trained = {name: tensor.detach().clone() for name, tensor in adapter.trained().items()}
        contributions[f"sat-0-{index}"] = (float(index * index + 1), trained)
    return contributions


def _begun(base: nn.Module, rule: FactorRule) -> State:
    adapter = _adapter(base, rule)
    return {**adapter.state(), **(adapter.zero_deltas() if rule.changes_base else {})}


def _merged(base: nn.Module, rule: FactorRule, state: State) -> State:
    """The oracle: peft merges the adapter into the weights."""
    adapter = _adapter(base, rule)
    adapter.load(state)
    return {name: tensor.double() for name, tensor in adapter.model.merge_and_unload().state_dict().items()}


def _kept(begun: State, averaged: State) -> State:
    return {**begun, **{name: tensor.to(begun[name].dtype) for name, tensor in averaged.items()}}


def _distance(first: State, second: State) -> float:
    return math.sqrt(math.fsum(float((first[name] - second[name]).square().sum()) for name in first))


def _round(name: str, begun: State, nodes: int = 4, seed: int = 5) -> tuple[State, float, float, float]:
    """One round of a rule: the weights after it, its own word on its deviation, peft's, and the largest error of any
    weight, all against the mean of peft's merged weights."""
    base, rule = _base(), FACTOR_RULES[name]
    contributions = _trained(base, rule, begun, nodes, seed)
    total = math.fsum(weight for weight, _ in contributions.values())
    merged = {node: _merged(base, rule, {**begun, **state}) for node, (_, state) in contributions.items()}
    exact = {
        layer: sum((contributions[node][0] / total * merged[node][layer] for node in merged), torch.zeros(()))
        for layer in merged["sat-0-0"]
    }
    averaged, deviation = average_adapters(rule, begun, contributions, start=_begun(base, rule), scaling=ALPHA / RANK)
    after = _kept(begun, averaged)
    ours = _merged(base, rule, after)
    bare = _merged(base, rule, {**begun, **{n: torch.zeros_like(t) for n, t in begun.items() if n.endswith(LORA_B)}})
    largest = max(float((ours[layer] - exact[layer]).abs().max()) for layer in exact)
    return after, deviation, _distance(ours, exact) / _distance(exact, bare), largest


@pytest.mark.parametrize("name", FACTOR_RULES)
def test_the_deviation_is_that_of_pefts_merged_weights(name: str) -> None:
    # Two rounds, so that a changed base and factors that were averaged before are among what is begun with. Merging is
    # in float32.
    begun = _begun(_base(), FACTOR_RULES[name])
    for seed in (5, 6):
        after, deviation, oracle, largest = _round(name, begun, seed=seed)
        assert deviation == pytest.approx(oracle, rel=1e-4, abs=1e-6)
        assert (largest <= 1e-6) == (deviation <= 1e-6) == (name in EXACT)
        assert after.keys() == begun.keys()
        begun = after


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_exact_rules_are_pefts_mean_of_merged_weights(name: str, nodes: int) -> None:
    _, deviation, _, largest = _round(name, _begun(_base(), FACTOR_RULES[name]), nodes=nodes, seed=11)
    assert largest <= 1e-6
    assert deviation <= 1e-6


def test_what_is_sent_once_more_is_half_where_a_is_frozen() -> None:
    base = _base()
    sent = {
        name: sum(t.numel() for t in _trained(base, rule, _begun(base, rule), 1, 1)["sat-0-0"][1].values())
        for name, rule in FACTOR_RULES.items()
    }
    assert sent["ffa"] == RANK * (20 + 7)
    assert {sent[name] for name in sent if name != "ffa"} == {RANK * (20 + 7 + 12 + 12)}


@given(
    nodes=st.integers(1, 5),
    rank=st.integers(1, 9),
    outputs=st.integers(1, 8),
    inputs=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)
def test_svd_is_the_best_of_its_rank(nodes: int, rank: int, outputs: int, inputs: int, seed: int) -> None:
    # Oracle: numpy's singular values of the whole mean update; the least error is the root of the squares of those left
    # out (Eckart and Young 1936). Ranks above what the layer can have, and above that of the update, included.
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    begun = {"x" + LORA_A: draw(rank, inputs), "x" + LORA_B: torch.zeros(outputs, rank)}
    contributions = {
        f"sat-0-{index}": (index + 1.0, {"x" + LORA_A: draw(rank, inputs), "x" + LORA_B: draw(outputs, rank)})
        for index in range(nodes)
    }
    averaged, deviation = average_adapters(FACTOR_RULES["svd"], begun, contributions, start=begun, scaling=ALPHA / RANK)
    total = sum(weight for weight, _ in contributions.values())
    update = sum(
        weight / total * state["x" + LORA_B].double().numpy() @ state["x" + LORA_A].double().numpy()
        for weight, state in contributions.values()
    )
    values = np.linalg.svd(update, compute_uv=False)
    best = math.sqrt(float((values[rank:] ** 2).sum()) / float((values**2).sum()))
    got = averaged["x" + LORA_B].numpy() @ averaged["x" + LORA_A].numpy()
    assert np.linalg.norm(got - update) / np.linalg.norm(update) == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert deviation == pytest.approx(best, abs=1e-6)
    used = min(rank, len(values))
    assert averaged["x" + LORA_A].shape == (rank, inputs) and averaged["x" + LORA_B].shape == (outputs, rank)
    rows = averaged["x" + LORA_A][: min(used, nodes * rank)]
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-9)


def test_svd_is_nearer_than_naive_and_naive_is_off() -> None:
    begun = _begun(_base(), FACTOR_RULES["naive"])
    naive, svd = (_round(name, begun)[1] for name in ("naive", "svd"))
    assert 0 < svd < naive
    assert naive > 0.05  # the satellites did drift apart: nothing here compares zeros


@pytest.mark.parametrize("name", FACTOR_RULES)
@given(order=st.permutations(range(4)))
def test_order_of_arrival_changes_no_bit(name: str, order: list[int]) -> None:
    rule = FACTOR_RULES[name]
    generator = torch.Generator().manual_seed(3)
    shapes = {"x" + LORA_A: (2, 5), "x" + LORA_B: (3, 2), "bias": (4,)}
    begun = {what: torch.randn(shape, generator=generator) for what, shape in shapes.items()}
    begun |= {"x" + BASE_DELTA: torch.randn(3, 5, generator=generator)} if rule.changes_base else {}
    sent = [what for what in shapes if rule.trains_a or not what.endswith(LORA_A)]
    parts = {
        f"sat-0-{index}": (float(3 * index + 1), {w: torch.randn(shapes[w], generator=generator) for w in sent})
        for index in range(4)
    }
    results = [
        average_adapters(rule, begun, {node: parts[node] for node in nodes}, start=begun, scaling=2.0)
        for nodes in (sorted(parts), [f"sat-0-{index}" for index in order])
    ]
    assert weights_sha256(results[0][0]) == weights_sha256(results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("name", FACTOR_RULES)
def test_nothing_deviates_where_nothing_was_learned(name: str) -> None:
    base, rule = _base(), FACTOR_RULES[name]
    begun = _begun(base, rule)
    fresh = {n: t for n, t in begun.items() if not n.endswith(BASE_DELTA) and (rule.trains_a or n.endswith(LORA_B))}
    averaged, deviation = average_adapters(
        rule, begun, {"sat-0-0": (1.0, fresh), "sat-0-1": (2.0, fresh)}, start=begun, scaling=ALPHA / RANK
    )
    assert deviation == 0.0
    # And it can still learn: no direction has both factors at zero, from which no gradient leads away.
    for layer in ("q_proj", "v_proj"):
        assert all(bool(row.any()) for row in averaged[f"base_model.model.{layer}{LORA_A}"])


def test_equal_factors_are_no_deviation_for_the_naive() -> None:
    base, rule = _base(), FACTOR_RULES["naive"]
    begun = _begun(base, rule)
    same = _trained(base, rule, begun, 1, 1)["sat-0-0"][1]
    parts = {f"sat-0-{index}": (index + 1.0, same) for index in range(3)}
    assert average_adapters(rule, begun, parts, start=begun, scaling=2.0)[1] < 1e-12


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"base_model.model.q_proj" + LORA_B: torch.zeros(20, 1)}, "sat-0-1: .*q_proj"),
        ({"base_model.model.v_proj" + LORA_A: torch.full((2, 12), math.nan)}, "sat-0-1: .*v_proj"),
        ({"base_model.model.v_proj" + LORA_A: torch.zeros(2, 12).double()}, "sat-0-1: .*v_proj"),
        ({"other": torch.zeros(1)}, "sat-0-1: tensors"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: State, what: str) -> None:
    base, rule = _base(), FACTOR_RULES["exact-residual"]
    begun = _begun(base, rule)
    contributions = _trained(base, rule, begun, 3, 2)
    contributions["sat-0-1"][1].update(change)
    with pytest.raises(IntegrityError, match=what):
        average_adapters(rule, begun, contributions, start=begun, scaling=2.0)


def test_products_are_those_of_a_matrix_library() -> None:
    generator = torch.Generator().manual_seed(1)
    b, a = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((20, 6), (6, 12)))
    assert (product(b, a) - b @ a).abs().max() < 1e-13


def test_every_name_of_the_scenario_has_a_rule() -> None:
    assert set(FACTOR_RULES) == set(LearningSettings.model_fields["lora_average"].annotation.__args__)  # type: ignore[union-attr]


# -- what changes base weights, kept and read by peft -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["stack", "exact-residual", "svd"])
def test_a_stranger_loads_the_model_that_was_trained(name: str, tmp_path: pathlib.Path) -> None:
    # Three lines of peft, on the untouched base: nothing that was added to base weights may be missing.
    from peft import PeftModel

    base, rule = _base(), FACTOR_RULES[name]
    state = _begun(base, rule)
    for seed in (5, 6):
        state = _round(name, state, seed=seed)[0]
    adapter = _adapter(base, rule)
    adapter.load(state)
    adapter.save(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    theirs = loaded.merge_and_unload().state_dict()
    ours = _merged(base, rule, state)
    assert max(float((theirs[layer].double() - ours[layer]).abs().max()) for layer in ours) <= 1e-6
    assert max(float((theirs[layer] - base.state_dict()[layer]).abs().max()) for layer in ours) > 1e-2
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    # Rank 2 for what is trained, and as much as the smaller side of the layer for what was added: 12, and 7.
    assert (config["r"], config["rank_pattern"]) == ((RANK, {}) if name == "svd" else (RANK + 12, {"v_proj": RANK + 7}))


def test_base_weights_that_do_not_fit_are_refused_whole() -> None:
    rule = FACTOR_RULES["stack"]
    adapter = _adapter(_base(), rule)
    good = {name: tensor + 1 for name, tensor in _begun(_base(), rule).items()}
    before = weights_sha256(dict(adapter.model.state_dict()))
    delta = "base_model.model.v_proj" + BASE_DELTA
    for wrong in ({delta: torch.zeros(12, 7)}, {"base_model.model.out" + BASE_DELTA: torch.zeros(12, 27)}):
        with pytest.raises(IntegrityError, match="v_proj|out"):
            adapter.load({**good, **wrong})
    assert weights_sha256(dict(adapter.model.state_dict())) == before
    adapter.load(good)
    adapter.load(_begun(_base(), rule))  # what was added is not added to
    assert weights_sha256(dict(adapter.model.state_dict())) == before
