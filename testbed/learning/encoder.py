"""What the ground holds of the model: MiniLM's encoder, the part between the cuts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch
from safetensors import safe_open
from torch import Tensor, nn

from testbed.errors import ScenarioError
from testbed.learning import minilm

_STANDARDISATION_EPSILON = 1e-5


class Encoder(nn.Module):
    """A stack of transformer layers with mean pooling and per-sample standardisation behind it.

    The stack's parameters are named ``encoder.layer.N...`` as in ``transformers.BertModel``, so that an adapter
    trained here fits the whole model. Features are the mean over the tokens, brought to mean 0 and variance 1 over
    their own 384 values: a rule that needs nobody's data but the sample's, so that a satellite that runs the
    encoder on its own samples gets the bits that the ground gets.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.eval()

    def forward(self, cut: Tensor) -> Tensor:
        """Cut tensors [n, tokens, width] to features [n, width], with gradient."""
        pooled = self.encoder(cut).last_hidden_state.mean(dim=1)
        return nn.functional.layer_norm(pooled, pooled.shape[-1:], eps=_STANDARDISATION_EPSILON)

    def features(self, cut: Tensor) -> Tensor:
        """Cut tensors [n, tokens, width] float32 to features [n, width] float32, without gradient.

        The bits depend on n: callers keep to the micro-batches of ``partition.micro_batches``.
        """
        with torch.no_grad():
            return self(cut)  # type: ignore[no-any-return]


def load_encoder(model_name: str, *, layers: int | None = None) -> Encoder:
    """The pretrained encoder of ``model_name`` in evaluation mode, the first ``layers`` layers of it if given.

    ScenarioError (field learning.model) for a name that is not known.
    """
    try:
        load = _ENCODERS[model_name]
    except KeyError:
        raise ScenarioError(
            "unknown model", field="learning.model", found=model_name, allowed=", ".join(sorted(_ENCODERS))
        ) from None
    return load(layers)


def _load_minilm(layers: int | None) -> Encoder:
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
    return Encoder(encoder)


_ENCODERS: Mapping[str, Callable[[int | None], Encoder]] = {minilm.MODEL_NAME: _load_minilm}
