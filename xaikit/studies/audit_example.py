"""Something to audit: drawn birds, and a classifier of them that learned the water instead of the duck."""

from pathlib import Path

import pandas as pd
from PIL import Image
from safetensors.torch import save_file

from xaikit.companion import profiles
from xaikit.storage.files import replacing, write_text
from xaikit.storage.seeding import seed_for
from xaikit.studies.audited_zoo import seen_of
from xaikit.studies.zoo import Spec, zoo
from xaikit.studies.zoo_tasks import TASKS, deal

PICTURES, AGREE = 200, 0.8  # ducks on water and crows on land, in so many pictures
SPEC = Spec("birds", "resnet", (("background", 1.0),))
CLASSIFIER = '''"""A small ResNet that tells ducks from crows, or so it seems."""

from pathlib import Path

from safetensors.torch import load_file

from xaikit.studies.zoo import network


def model():
    net = network("resnet", 0)
    net.load_state_dict(load_file(Path(__file__).with_name("weights.safetensors")))
    return net
'''
CONCEPTS = """# What the classifier may use.

[background]
change = "background"
region = "object"

["colour of the bird"]
change = "colour"
region = "object"

["a word"]
change = "text"
text = "DUCK"
place = "upper left"

[bird]
change = "thing"
region = "object"
expected = true

# In words, which a CLIP reads (--clip mini).
["water, in words"]
texts = ["a photo of a bird on water"]
against = ["a photo of a bird on land"]

["blue, in words"]
texts = ["a photo of a blue bird"]
against = ["a photo of a red bird"]
"""


def write_example(folder: Path, seed: int = 0) -> list[str]:
    """Draw pictures and masks, train a classifier with a shortcut, and give the lines that audit it: half a minute.

    Raises ValueError where the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a folder that is, or a new one.")
    cfg = profiles.load("full", "05_which_explanation", seed)
    pictures = deal(TASKS[SPEC.task], PICTURES, seed_for(seed, "example"), "test", {"background": AGREE})
    seen = seen_of(pictures)
    names = TASKS[SPEC.task].factors[0].values
    rows = []
    for number, (pixels, mask, codes) in enumerate(zip(seen.pixels, seen.masks["object"], pictures.codes, strict=True)):
        file = f"{names[codes[0]]}/{number:03}.png"
        for place, drawn in (("pictures", pixels.permute(1, 2, 0)), ("masks", mask.byte() * 255)):
            with replacing(folder / place / file) as part:
                Image.fromarray(drawn.numpy()).save(part, "png")
        values = [factor.values[code] for factor, code in zip(TASKS[SPEC.task].factors, codes, strict=True)]
        rows.append({"file": file, **dict(zip(TASKS[SPEC.task].names[1:], values[1:], strict=True))})
    write_text(folder / "groups.csv", pd.DataFrame(rows).to_csv(index=False))
    with replacing(folder / "weights.safetensors") as part:
        save_file(zoo(cfg, [SPEC])[SPEC.name].state, part)
    write_text(folder / "classifier.py", CLASSIFIER)
    write_text(folder / "classes.txt", "\n".join(map(str, names)) + "\n")
    write_text(folder / "concepts.toml", CONCEPTS)
    options = ("masks", "concepts.toml", "groups.csv", "classes.txt")
    named = " ".join(f"--{Path(each).stem} {folder / each}" for each in options)
    return [
        f"xaikit audit {folder / 'classifier.py'}:model --images {folder / 'pictures'} {named} "
        "--clip mini --captioner mini -o report"
    ]
