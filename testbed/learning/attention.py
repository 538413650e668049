"""Where attention is in a model: its projections, found among the modules and never by the model's name.

Families and versions of transformers call them differently: ``query`` in BERT, ``q_proj`` in ViT since version 5,
``q_lin`` in DistilBERT, one fused ``qkv`` in timm's models and Presto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from testbed.errors import ScenarioError

Role = Literal["query", "key", "value", "qkv", "output"]

_NAMES: Mapping[Role, frozenset[str]] = {
    "query": frozenset({"query", "q_proj", "q_lin"}),
    "key": frozenset({"key", "k_proj", "k_lin"}),
    "value": frozenset({"value", "v_proj", "v_lin"}),
    "qkv": frozenset({"qkv", "query_key_value", "Wqkv"}),
}
"""By the last part of a module's name. The output projection has too many names (``dense``, ``o_proj``, ``proj``): it
is whatever other linear layer lies within an attention."""
_ROLES: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names}

_WANTED: Mapping[str, frozenset[Role]] = {
    "query-value": frozenset({"query", "value", "qkv"}),
    "attention": frozenset({"query", "key", "value", "qkv", "output"}),
}


def projections(model: nn.Module) -> dict[str, tuple[Role, nn.Linear]]:
    """Every attention projection of ``model`` by its full name, with what it projects to, in the model's order."""
    found: dict[str, tuple[Role, nn.Linear]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        *path, last = name.split(".")
        within = any("attention" in part.lower() or "attn" in part.lower() for part in path)
        role: Role | None = _ROLES.get(last, "output" if within else None)
        if role is not None:
            found[name] = (role, module)
    return found


def attention_width(model: nn.Module) -> int:
    """Summed width of all queries of ``model``: what scores and weighted sums are computed over."""
    total = 0
    for role, linear in projections(model).values():
        total += linear.out_features if role == "query" else linear.out_features // 3 if role == "qkv" else 0
    return total


def find_targets(model: nn.Module, scope: str = "query-value") -> tuple[str, ...]:
    """The projections of ``model`` that LoRA adapts: queries and values (the choice of Hu et al.), or with ``scope``
    "attention" keys and outputs as well. A fused projection is adapted whole.

    They are named by the last part of their names where no other linear layer is called that, else in full.
    ScenarioError (field learning.model) if there are none: an adapter on nothing would train nothing.
    """
    found = projections(model)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    roles = {role for role, _ in found.values()}
    if not (roles >= {"query", "value"} or "qkv" in roles):
        raise ScenarioError(
            "no attention projections to adapt were found in the model",
            field="learning.model",
            found=", ".join(sorted({_last(name) for name in linears})) or "no linear layers",
            allowed=f"{_either('query')} with {_either('value')}, or {_either('qkv')}",
        )
    targets = [name for name, (role, _) in found.items() if role in _WANTED[scope]]
    lasts = tuple(dict.fromkeys(_last(name) for name in targets))
    return lasts if sum(_last(name) in lasts for name in linears) == len(targets) else tuple(targets)


def adapted_shapes(model: nn.Module, scope: str) -> tuple[tuple[int, int], ...]:
    """[in, out] of each projection that LoRA adapts."""
    targets = find_targets(model, scope)
    linears = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return tuple((m.in_features, m.out_features) for name, m in linears if name in targets or _last(name) in targets)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _either(role: Role) -> str:
    return " or ".join(sorted(_NAMES[role]))
