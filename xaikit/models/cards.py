"""Model cards: what made the weights that ship, so that a test can say when they no longer fit their code."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from xaikit.storage.files import replacing, write_text
from xaikit.storage.sources import code_hash, modules_reached

CLIP_WEIGHTS = "open_clip_model.safetensors"
# Modules that only keep what others make, so that the weights do not depend on them.
_ONLY_KEEP = {"cache.py", "files.py", "paths.py", "sources.py"}


def recipe_hashes(module_file: str, config: dict) -> dict[str, str]:
    """The hashes that a card records: of the configuration, and of the training code with the data it draws on."""
    text = json.dumps(config, sort_keys=True)
    code = Path(module_file)
    made_by = [module for module in (code, *modules_reached(code)) if module.name not in _ONLY_KEEP]
    return {"config": hashlib.sha256(text.encode()).hexdigest(), "code_and_data": code_hash(made_by)}


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


def weights_digest(folder: Path) -> str:
    """The sha256 of the weights in a folder: its safetensors files, one after another in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def write_card(folder: Path, model: nn.Module, recipe: dict[str, str], **facts: object) -> None:
    """Write card.json: what the model in `folder` is for, what made it (`recipe_hashes`) and how good it is."""
    card = {
        "name": folder.name,
        **facts,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": weights_digest(folder),
        "torch": torch.__version__.split("+")[0],
        "recipe": recipe,
    }
    write_text(folder / "card.json", json.dumps(card, indent=2) + "\n")
