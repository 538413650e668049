"""What a checkpoint says of itself: a model card for people, a configuration for programs. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.learning.models import open_model
from testbed.learning.placement import dataset
from testbed.scenario import Scenario

HEAD = "head.safetensors"
EMBEDDING = "embedding.safetensors"
CONFIG = "skyrack.json"
"""Not ``config.json``, by which transformers knows its own models."""
README = "README.md"

_LOAD_BASE = """\
from transformers import AutoModel

model = AutoModel.from_pretrained("{base}", add_pooling_layer=False).eval()
"""
_LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModel
model = PeftModel.from_pretrained(AutoModel.from_pretrained("{base}", add_pooling_layer=False), "{folder}").eval()
"""
_SCORES = {
    "minilm": """\
## From pixels to class scores

```python
import torch
from safetensors.torch import load_file

embedding, head = load_file("{folder}/embedding.safetensors"), load_file("{folder}/head.safetensors")

def scores(pixels):  # [n, 9, 4] uint8: 3 x 3 pixels in four bands
    bands = (pixels.float() - embedding["means"]) / embedding["deviations"]
    tokens = bands @ embedding["bands.weight"].T + embedding["bands.bias"]
    pooled = model(inputs_embeds=tokens).last_hidden_state.mean(dim=1)
    features = torch.nn.functional.layer_norm(pooled, pooled.shape[-1:], eps=1e-5)
    return features @ head["linear.weight"].T + head["linear.bias"]  # [n, classes]
```

"""
}
"""What to do with the parts, by model; of others the embedding is the model's own."""
_TRAINS_ADAPTER = frozenset({"u-shaped"})
"""Modes after which there is an adapter beside the head."""


def config(scenario: Scenario) -> dict[str, Any]:
    """What a program must know to use the weights."""
    learning = scenario.learning
    return {
        "base_model": open_model(learning).base_name,
        "mode": learning.mode,
        "dataset": dataset(learning).name,
        "classes": list(dataset(learning).classes),
        "codec": learning.codec,
    }


def model_card(scenario: Scenario, folder: str, facts: Mapping[str, object]) -> str:
    """A model card in the hub's form (YAML between rules, then Markdown). ``facts`` are shown in order, by name."""
    learning, data = scenario.learning, dataset(scenario.learning)
    base = open_model(learning).base_name
    adapter = learning.mode in _TRAINS_ADAPTER
    load = (_LOAD_ADAPTER if adapter else _LOAD_BASE).format(base=base, folder=folder)
    what = "LoRA adapter and classification head" if adapter else "Classification head on the frozen encoder"
    shown = {
        "base model": base,
        "trained": f"{what} (mode {learning.mode})",
        "data": f"{data.name}: {len(data.classes)} classes ({', '.join(data.classes)})",
        "partition over satellites": learning.partition,
        "scenario": scenario.name,
        "seed": scenario.seed,
        **facts,
    }
    rows = "\n".join(f"| {name} | {str(value).replace('|', '/')} |" for name, value in shown.items())
    return (
        f"---\nbase_model: {base}\nlibrary_name: {'peft' if adapter else 'safetensors'}\n"
        f"tags:\n- skyrack\n- federated-learning\n{'- lora' if adapter else '- linear-probe'}\n---\n\n"
        f"# {scenario.name}, {folder}\n\n"
        f"{what}, fine-tuned by the satellites of a Skyrack run.\n\n| | |\n|---|---|\n{rows}\n\n"
        f"## Loading\n\nBeside this folder, with the base model from the hub or from a folder of it:\n\n"
        f"```python\n{load}```\n\n{_SCORES.get(learning.model, '').format(folder=folder)}"
        f"Embeddings and features were rounded to {learning.codec} on their way over links while this was trained and "
        f"scored.\n"
    )
