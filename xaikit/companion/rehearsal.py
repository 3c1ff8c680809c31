"""What a rehearsal runs on: stand-ins for data and weights, written once, and the variables that lead to them."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from filelock import FileLock

from xaikit.storage.files import write_text

MODEL_CONFIGS = "open_clip_configs"  # that open_clip reads in place of its own
VIT_LAYERS = 1
VERSION = 4  # of what is written: another one is written anew


def environment(build: Path) -> dict[str, str]:
    """Write the stand-ins below `build` where they are not there whole, and return the variables that lead to them.

    Written in a process of its own, as libraries read these variables when they are loaded. Takes about a minute, once.
    """
    folder = build / f"stand-ins-{VERSION}"
    build.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            print("writing stand-ins for the papers' data and weights: about a minute, once", flush=True)
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            subprocess.run([sys.executable, "-m", __name__, str(part)], check=True, stderr=subprocess.DEVNULL)
            part.rename(folder)
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    configs = folder / MODEL_CONFIGS
    cut = f"from xaikit.companion.rehearsal import cut_models\ncut_models({str(configs)!r})\n"
    write_text(startup / "00-stand-ins.py", cut)
    return {
        "XAIKIT_DATA": str(folder / "data"),
        "IPYTHONDIR": str(folder / "ipython"),
        **_libraries(folder / "weights"),
    }


def _libraries(weights: Path) -> dict[str, str]:
    return {"HF_HOME": str(weights / "hub"), "HF_HUB_OFFLINE": "1", "TORCH_HOME": str(weights / "torch")}


def cut_models(configs: str) -> None:
    """Have the libraries build fewer layers in this process, under the same names, as the stand-ins' weights have them.

    open_clip is given `configs`, a folder of its configurations; timm's ViT-B/16 of 384 pixels has `VIT_LAYERS`, not
    12 blocks, and torchvision's ResNets have one block in each of their four stages. `Remembering` keeps less.
    """
    import open_clip
    from timm.models import _registry
    from torchvision.models import resnet

    from xaikit.models import remembering

    remembering.MEMORY = 2**29
    if Path(configs).is_dir():
        open_clip.add_model_config(configs)
    name = "vit_base_patch16_384"
    _registry._model_entrypoints[name] = partial(_registry.model_entrypoint(name), depth=VIT_LAYERS)
    whole = resnet._resnet
    resnet._resnet = lambda block, layers, *rest, **options: whole(block, [1] * len(layers), *rest, **options)


def write(folder: Path) -> None:
    """Write all stand-ins into `folder`."""
    os.environ |= _libraries(folder / "weights")
    cut_models(str(folder / MODEL_CONFIGS))
    from xaikit.companion import stand_in_weights, stand_ins  # they load the libraries

    stand_ins.write_all(folder / "data")
    coco = folder / "data" / "coco2017" / "annotations"
    captions = [
        annotation["caption"]
        for file in sorted(coco.glob("captions_*.json"))
        for annotation in json.loads(file.read_text(encoding="utf-8"))["annotations"]
    ]
    words = {word for caption in captions for word in caption.lower().split()}
    stand_in_weights.write_all(folder / "weights", folder / MODEL_CONFIGS, words)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
