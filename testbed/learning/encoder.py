"""What the ground holds of the model: the part between the cuts, MiniLM's or another's."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from safetensors import safe_open
from torch import Tensor, nn

from testbed.errors import ScenarioError
from testbed.learning import minilm

_STANDARDISATION_EPSILON = 1e-5


POOLINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda hidden: hidden.mean(dim=1),
    "cls": lambda hidden: hidden[:, 0],
}
"""Hidden states [n, tokens, width] to one vector a sample: the mean over all tokens, or the first token's."""


class Encoder(nn.Module, ABC):
    """Transformer blocks with pooling and per-sample standardisation behind them.

    A stack's parameters are named as in the whole model of transformers, so that an adapter trained here fits it.
    Features are the mean over the tokens (or the first token), brought to mean 0 and variance 1 over their own values:
    a rule that needs nobody's data but the sample's, so that a satellite that runs the encoder on its own samples gets
    the bits that the ground gets.
    """

    def __init__(self, pooling: str = "mean") -> None:
        super().__init__()
        self._pool = POOLINGS[pooling]

    @abstractmethod
    def hidden(self, cut: Tensor) -> Tensor:
        """Cut tensors [n, tokens, width] to the model's last hidden states [n, tokens, width]."""

    def forward(self, cut: Tensor) -> Tensor:
        """Cut tensors [n, tokens, width] to features [n, width], with gradient."""
        pooled = self._pool(self.hidden(cut))
        return nn.functional.layer_norm(pooled, pooled.shape[-1:], eps=_STANDARDISATION_EPSILON)

    def features(self, cut: Tensor) -> Tensor:
        """Cut tensors [n, tokens, width] float32 to features [n, width] float32, without gradient.

        The bits depend on n: callers keep to the micro-batches of ``partition.micro_batches``.
        """
        with torch.no_grad():
            return self(cut)  # type: ignore[no-any-return]


class BertStack(Encoder):
    """The encoder of a ``transformers.BertModel``."""

    def __init__(self, encoder: nn.Module, pooling: str = "mean") -> None:
        super().__init__(pooling)
        self.encoder = encoder
        self.eval()

    def hidden(self, cut: Tensor) -> Tensor:
        return self.encoder(cut).last_hidden_state  # type: ignore[no-any-return]


def load_encoder(model_name: str, *, layers: int | None = None, pooling: str = "mean") -> Encoder:
    """The pretrained encoder of ``model_name`` in evaluation mode, the first ``layers`` layers of it if given.

    ScenarioError (field learning.model) for a name that is not known.
    """
    try:
        load = _ENCODERS[model_name]
    except KeyError:
        raise ScenarioError(
            "unknown model", field="learning.model", found=model_name, allowed=", ".join(sorted(_ENCODERS))
        ) from None
    return load(layers, pooling)


def _load_minilm(layers: int | None, pooling: str) -> Encoder:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
    # Imported here: 2 s of 1,500 modules that only the holder of an encoder needs.
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertEncoder

    folder = minilm.model_folder()
    config = BertConfig.from_json_file(folder / "config.json")
    config.num_hidden_layers = layers or config.num_hidden_layers
    config._attn_implementation = "sdpa"
    with torch.device("meta"):  # no time spent on a random start that the weights replace
        encoder = BertEncoder(config)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        state: Mapping[str, Tensor] = {name: weights.get_tensor(f"encoder.{name}") for name in encoder.state_dict()}
    encoder.load_state_dict(state, assign=True)
    return BertStack(encoder, pooling)


_ENCODERS: Mapping[str, Callable[[int | None, str], Encoder]] = {minilm.MODEL_NAME: _load_minilm}
