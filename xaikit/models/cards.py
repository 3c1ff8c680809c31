"""Model cards: what made the weights that ship, so that a test can say when they no longer fit their code."""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from xaikit.storage import canonical
from xaikit.storage.files import replacing, write_text
from xaikit.storage.paths import WEIGHTS
from xaikit.storage.sources import weights_hash

CARD, CLIP_WEIGHTS = "card.json", "open_clip_model.safetensors"
RESTORE = "restore it from the repository or run `make models`"
_LARGEST_CONFIGURATION = 2**20  # bytes: what is larger is a vocabulary
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
    (folder / CARD).unlink(missing_ok=True)  # it is of the weights that are about to go
    tokenizer.save_pretrained(folder)
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")
    # Counters of batches are whole numbers and stay as they are.
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in model.state_dict().items()
    }
    with replacing(folder / CLIP_WEIGHTS) as part:
        save_file(state, part)


def shipped(name: str) -> Path:
    """The folder of weights that ship under `name`, which has its card. Raises ValueError where it is not there."""
    folder = WEIGHTS / name
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} has no {CARD}, so nothing says what it holds; {RESTORE}.")
    return folder


def check_folder(folder: Path) -> None:
    """Raise ValueError unless the files in a folder are those that its card describes; without a card nothing is known.

    Every file counts: weights, configuration, tokenizer. With a card or without, a model that comes with code of its
    own is refused.
    """
    card = folder / CARD
    if card.is_file():
        try:
            described = json.loads(card.read_text(encoding="utf-8"))
            said = described.get("sha256") if isinstance(described, dict) else None
            if found := _links_out_of(folder):
                raise ValueError(f"{found} is a link out of it")
            if said != weights_hash(folder):
                raise ValueError(_damage(folder) or "a file is missing, changed or not of its card")
        except (ValueError, OSError) as error:
            raise ValueError(f"{folder} is damaged ({error}); {RESTORE}.") from error
    refuse_custom_code(folder)


def refuse_custom_code(folder: Path) -> None:
    """Raise ValueError if a configuration in a folder of a model asks for code that comes with it; none is ever run."""
    for file in sorted({*folder.glob("*.json"), *folder.glob("*/*.json")}):
        if file.name == CARD or file.stat().st_size > _LARGEST_CONFIGURATION:
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder} is damaged ({file.name}: {error}); {RESTORE}.") from error
        if wanted := _custom_code(content):
            raise ValueError(
                f"{file} asks for code of its own ({wanted}), and code that comes with a model is never run here; "
                "give a model that the library knows by itself."
            )


def _custom_code(content: object) -> str:
    """What in a configuration makes its library run code that is not the library's; "" for nothing."""
    if isinstance(content, list):
        return next(filter(None, map(_custom_code, content)), "")
    if not isinstance(content, dict):
        return ""
    for key in ("auto_map", "custom_pipelines", "trust_remote_code"):
        if content.get(key):
            return key
    if "_diffusers_version" in content:  # a pipeline names the library and the class of each part
        for key, value in content.items():
            named = value[0] if isinstance(value, list) and len(value) == 2 else "diffusers"
            if named in ("diffusers", "transformers", None) or not isinstance(value[1], str):
                continue
            if not (str(named).isidentifier() and find_spec(f"diffusers.pipelines.{named}")):
                return f"{key} of {named}"
    return next(filter(None, map(_custom_code, content.values())), "")


def _links_out_of(folder: Path) -> str:
    home = folder.resolve()
    links = (path for path in sorted(folder.rglob("*")) if path.is_symlink())
    return next((path.name for path in links if not path.resolve().is_relative_to(home)), "")


def _damage(folder: Path) -> str:
    """What can be seen to be wrong in a folder whose files are not its card's; "" where nothing can."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if not path.exists():
            return f"{name} is a link to nothing"
        if path.suffix in (".part", ".incomplete", ".crdownload", ".tmp"):
            return f"{name} is half of a download"
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
        except (SafetensorError, ValueError) as error:
            return f"{name} breaks off or is no such file: {error}"
    return ""


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
    write_text(folder / CARD, json.dumps(card, indent=2) + "\n")
