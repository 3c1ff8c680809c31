"""Model cards: what made the weights that ship, so that a test can say when they no longer fit their code."""

import hashlib
import json
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from xaikit.storage import canonical
from xaikit.storage.files import replacing, write_text
from xaikit.storage.sources import weights_hash

CLIP_WEIGHTS = "open_clip_model.safetensors"
# The functions of a recipe's module by which weights are made; loading and running a model is no part of its recipe.
_MADE_BY = ("train", "config", "tokenizer", "save")


def recipe_hashes(module: ModuleType, config: dict) -> dict[str, str]:
    """The hashes that a card records: of the configuration, and of what the code does that trains and saves the model.

    The code is that of the module's `train`, `config`, `tokenizer` and, where it has one, `save`, with all that they
    reach, the data they draw among it (`storage.canonical`).
    """
    text = json.dumps(config, sort_keys=True)
    file = Path(module.__file__ or "").resolve()
    code = canonical.read_with(file).digest(file, [name for name in _MADE_BY if hasattr(module, name)])
    return {"config": hashlib.sha256(text.encode()).hexdigest(), "code_and_data": code}


def save_clip(folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerFast, config: dict) -> None:
    """Write a CLIP, in half precision, as a folder that open_clip loads with "local-dir:"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").unlink(missing_ok=True)  # it is of the weights that are about to go
    tokenizer.save_pretrained(folder)
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")
    # Counters of batches are whole numbers and stay as they are.
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in model.state_dict().items()
    }
    with replacing(folder / CLIP_WEIGHTS) as part:
        save_file(state, part)


def check_folder(folder: Path) -> None:
    """Raise ValueError unless the files in a folder are those that its card describes; without a card nothing is known.

    Every file counts: weights, configuration, tokenizer.
    """
    card = folder / "card.json"
    try:
        if card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("sha256") != weights_hash(folder):
            raise ValueError("its files are not those of its card")
    except ValueError as error:
        message = f"{folder} is damaged ({error}); restore it from the repository or run `make models`."
        raise ValueError(message) from error


def write_card(folder: Path, model: nn.Module, recipe: dict[str, str], **facts: object) -> None:
    """Write card.json: what the model in `folder` is for, what made it (`recipe_hashes`) and how good it is."""
    card = {
        "name": folder.name,
        **facts,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": weights_hash(folder),
        "torch": torch.__version__.split("+")[0],
        "recipe": recipe,
    }
    write_text(folder / "card.json", json.dumps(card, indent=2) + "\n")
