"""Cuts any transformers encoder in two by looking at it while it runs, without knowing its name.

The transformer blocks are the one list of like modules that holds most parameters. Whatever the model's forward does
before the first block is the embedding; the blocks, and the modules that turn the last block's output into
``last_hidden_state``, are the backbone. Poolers and heads are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from testbed.errors import BugError, ScenarioError
from testbed.learning.attention import attention_width
from testbed.learning.encoder import Encoder

_HIDDEN = "hidden_states"
"""What blocks of transformers call their first argument."""


@dataclass
class Anatomy:
    """Where the parts of a model are, as observed in one forward pass."""

    blocks: str
    """Path of the list of blocks."""
    before: set[str] = field(default_factory=set)
    """Paths of the modules that were called before the first block."""
    after: list[str] = field(default_factory=list)
    """Paths of the modules that are applied to the last block's output, in order."""
    settings: list[dict[str, Any]] = field(default_factory=list)
    """What each block was called with besides hidden states."""
    tokens: int = 0
    width: int = 0
    last_hidden_state: Tensor = field(default_factory=lambda: torch.empty(0))
    embedding_flops: float = 0.0
    """Of the observed pass."""
    backbone_flops: float = 0.0
    """Of the observed pass."""


def find_blocks(model: nn.Module) -> str:
    """The path of the list of transformer blocks in ``model``. ScenarioError (field learning.model) without one."""
    sizes = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    }
    if not sizes or not max(sizes.values()):
        _refuse("no list of transformer blocks was found in the model", type(model).__name__)
    return str(max(sizes, key=lambda name: sizes[name]))


class _Observer:
    """Hooks on every module of a model for one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.anatomy = Anatomy(find_blocks(model))
        self._model = model
        self._blocks: nn.ModuleList = model.get_submodule(self.anatomy.blocks)  # type: ignore[assignment]
        self._begun = self._done = False
        self._later: list[tuple[str, Tensor, Tensor]] = []
        """Calls of modules after the blocks: path, what went in, what came out."""
        self._end: Tensor | None = None

    def watch(self, inputs: Mapping[str, Any]) -> Anatomy:
        """One forward pass on ``inputs``."""
        hooks = [self._blocks[0].register_forward_pre_hook(self._enter)]
        for block in self._blocks:
            hooks += [
                block.register_forward_pre_hook(self._call, with_kwargs=True),
                block.register_forward_hook(self._leave),
            ]
        within = f"{self.anatomy.blocks}."
        for name, module in self._model.named_modules():
            hooks.append(module.register_forward_hook(self._count))
            if not name.startswith(within):
                hooks += [self._before(name, module), self._after(name, module)]
        try:
            with torch.no_grad():
                output = self._model(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self._trace(output.last_hidden_state)
        return self.anatomy

    def _before(self, name: str, module: nn.Module) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:
            if not self._begun:
                self.anatomy.before.add(name)

        return module.register_forward_pre_hook(hook)

    def _after(self, name: str, module: nn.Module) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if self._done and arguments and isinstance(arguments[0], Tensor) and isinstance(output, Tensor):
                self._later.append((name, arguments[0], output))

        return module.register_forward_hook(hook)

    def _enter(self, block: nn.Module, arguments: Any) -> None:
        self._begun = True

    def _call(self, block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        named = dict(named)
        hidden = arguments[0] if arguments else named.pop(_HIDDEN)
        others = [*arguments[1:], *named.values()]
        if any(isinstance(one, (Tensor, tuple, list)) for one in others):
            _refuse("the model's blocks need more than hidden states", type(block).__name__)
        self.anatomy.settings.append({"arguments": arguments[1:], "named": named})
        _, self.anatomy.tokens, self.anatomy.width = hidden.shape

    def _leave(self, block: nn.Module, arguments: Any, output: Any) -> None:
        self._end = _first(output)
        self._done = len(self.anatomy.settings) == len(self._blocks)
        self.anatomy.backbone_flops += 4.0 * self.anatomy.tokens**2 * len(self._end) * attention_width(block)

    def _count(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """Two FLOPs for each multiply-add of a linear layer or a convolution."""
        if isinstance(module, nn.Linear):
            flops = 2.0 * output.numel() * module.in_features
        elif isinstance(module, nn.Conv2d):
            flops = 2.0 * output.numel() * module.weight[0].numel()
        else:
            return
        if not self._begun:
            self.anatomy.embedding_flops += flops
        elif not self._done:
            self.anatomy.backbone_flops += flops

    def _trace(self, last: Tensor) -> None:
        """Follows the last block's output to ``last``, module by module."""
        at = self._end
        for name, given, made in self._later:
            if at is last:
                break
            if given is at:
                self.anatomy.after.append(name)
                at = made
        if at is not last or not self._done:
            _refuse("the model does not end in its blocks and a norm", type(self._model).__name__)
        self.anatomy.last_hidden_state = last


def observe(model: nn.Module, inputs: Mapping[str, Any]) -> Anatomy:
    """The anatomy of ``model``, from one forward pass on ``inputs``, which may be on the meta device.

    ScenarioError (field learning.model) where it has not the parts that splitting needs.
    """
    try:
        return _Observer(model).watch(inputs)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ScenarioError(
            f"the model cannot run on these samples: {error}", field="learning.model", found=type(model).__name__
        ) from error


class Blocks(Encoder):
    """The backbone of any model: its blocks and what follows them, under the paths they have in the whole model."""

    def __init__(self, model: nn.Module, anatomy: Anatomy, pooling: str = "mean") -> None:
        super().__init__(pooling)
        self._settings = anatomy.settings
        self._after = tuple(anatomy.after)
        self._path = anatomy.blocks
        for path in (anatomy.blocks, *anatomy.after):
            _plant(self, path, model.get_submodule(path))
        self.eval()

    def hidden(self, cut: Tensor) -> Tensor:
        blocks: Any = self.get_submodule(self._path)
        for block, setting in zip(blocks, self._settings, strict=True):
            cut = _first(block(cut, *setting["arguments"], **setting["named"]))
        for path in self._after:
            cut = self.get_submodule(path)(cut)
        return cut


class _ReachedError(Exception):
    """Ends a model's forward where its first block would begin."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _End(nn.Module):
    """Stands in place of the blocks."""

    def forward(self, *arguments: Any, **named: Any) -> NoReturn:
        raise _ReachedError(arguments[0] if arguments else named[_HIDDEN])


class Front(nn.Module):
    """A model of which only that is left which runs before its blocks. ``model`` is changed in place."""

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        super().__init__()
        _replace(model, anatomy.blocks, nn.ModuleList([_End()]))
        for name, _ in list(model.named_children()):
            _strip(model, name, anatomy)
        self.model = model.eval()

    def forward(self, **inputs: Any) -> Tensor:
        """The model's inputs to cut tensors [n, tokens, width]."""
        try:
            self.model(**inputs)
        except _ReachedError as reached:
            return reached.hidden
        raise BugError("a model's forward did not reach its blocks")


def _strip(model: nn.Module, path: str, anatomy: Anatomy) -> None:
    """Removes what is below ``path`` and was not called before the blocks."""
    module = model.get_submodule(path)
    if path == anatomy.blocks:
        return
    needed = {*anatomy.before, anatomy.blocks}
    if not any(name == path or name.startswith(f"{path}.") for name in needed):
        _replace(model, path, nn.Identity())
        return
    for name, _ in list(module.named_children()):
        _strip(model, f"{path}.{name}", anatomy)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _plant(root: nn.Module, path: str, module: nn.Module) -> None:
    """Puts ``module`` at ``path`` below ``root``, with empty modules on the way."""
    *above, name = path.split(".")
    for part in above:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(name, module)


def _first(output: Any) -> Tensor:
    """The hidden states of what a block returned: older versions return a tuple."""
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


def _refuse(message: str, found: str) -> NoReturn:
    raise ScenarioError(
        message,
        field="learning.model",
        found=found,
        allowed="an encoder such as BERT, RoBERTa, ViT, DeiT, DINOv2, ViT-MAE",
    )
