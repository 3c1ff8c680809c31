"""What may be used: concepts from a file that a user writes, and those that can be asked of any picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from xaikit.arguments import public
from xaikit.audit.changes import PLACES
from xaikit.audit.photographs import read_pictures
from xaikit.audit.questions import KINDS, WHOLE, Concept, Seen
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.files import read_toml

EXAMPLE = """# What the classifier may use. Each table is a question: what happens to its answers if this is changed?
# `xaikit audit MODEL --images FOLDER --concepts concepts.toml -o report`

# All but a region, put in place of another picture's. `region` names masks (--masks): a folder of them, or a category
# of COCO; where there is one folder of masks alone, it is called "object".
[background]
change = "background"
region = "object"

# The region's colours, of another picture. "picture" is all of it; so are "upper left", "centre", … a quarter.
[colours]
change = "colour"
region = "picture"

# A thing that comes with the pictures, exchanged with another picture's.
# [collar]
# change = "thing"
# region = "collar"

# A patch laid over the picture: a logo, a marker, a hospital's stamp. `size` is its height, of the picture's.
# [logo]
# change = "patch"
# picture = "logo.png"
# place = "lower right"
# size = 0.15

# A word written on it.
[word]
change = "text"
text = "SALE"
place = "lower left"
size = 0.12

# What no change stands for can be given in words, with those of its absence, and is read by a CLIP (--clip); or by two
# folders of pictures, of those that have it and those that have not. Whether it goes with the answers is then told, and
# nothing is claimed.
# [snow]
# texts = ["a photo of snow", "a snowy field"]
# against = ["a photo of grass"]
# [stripes]
# pictures = "striped"
# without = "plain"

# What the classes are about: shown for comparison, and never called a shortcut.
[object]
change = "thing"
region = "object"
expected = true
"""
REGIONS, ENOUGH = 4, 20  # that are asked about where nobody says what, and the pictures that have to have each
_KNOWN = {"change", "region", "picture", "text", "place", "size", "expected", "texts", "against", "pictures", "without"}
_MOST = 200  # pictures of a folder that are looked at


@public
def read_concepts(file: Path, look: Preprocessed | None = None) -> list[Concept]:
    """The concepts of a TOML file, a table each; patches and folders of pictures are read from beside it.

    `look` is the classifier's (`Loaded.look`), which pictures need. Raises ValueError, naming the table, for what is
    unknown or lacking, and as `Concept` does.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: xaikit audit --init writes one to start from.")
    tables, found = read_toml(file), []
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ValueError(f"{file}: {name} stands outside of a table; write it below a [name].")
        if odd := sorted(set(table) - _KNOWN):
            raise ValueError(f"{file}, [{name}]: {odd[0]!r} is unknown; choose from {', '.join(sorted(_KNOWN))}.")
        if not {"change", "texts", "pictures"} & set(table):
            raise ValueError(
                f"{file}, [{name}] does not say what to change ({', '.join(KINDS)}), and has no texts and no pictures."
            )
        own: dict[str, Any] = {key: value for key, value in table.items() if key not in ("picture", "pictures")}
        if "picture" in table:
            own["patch"] = _patch(file.parent / str(table["picture"]), name)
        for key, folder in (("shown", "pictures"), ("without", "without")):
            if folder in table:
                own[key] = _pictures(file.parent / str(table[folder]), name, look)
        try:
            found.append(Concept(name, **own))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}, [{name}]: {error}") from error
    if not found:
        raise ValueError(f"{file} has no table: xaikit audit --init writes one to start from.")
    return found


def _patch(file: Path, name: str) -> Tensor:
    try:
        with Image.open(file) as image:
            return torch.from_numpy(np.array(image.convert("RGBA"))).permute(2, 0, 1).contiguous()
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"The patch of [{name}], {file}, cannot be read ({error}): name a picture.") from error


def _pictures(folder: Path, name: str, look: Preprocessed | None) -> Tensor:
    """The pictures of a folder, as the classifier sees them."""
    if look is None:
        raise ValueError(f"[{name}] has pictures, and how the classifier sees them is not said: give its `look`.")
    try:
        return read_pictures(folder, look, most=_MOST).seen.pixels
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"The pictures of [{name}] cannot be read: {error}") from error


def common_regions(seen: Seen) -> list[str]:
    """The regions that enough pictures have, at most `REGIONS`: each further question asks more of all others."""
    counts = {region: int(masks.flatten(1).any(1).sum()) for region, masks in seen.masks.items()}
    enough = sorted((region for region in counts if counts[region] >= ENOUGH), key=lambda region: -counts[region])
    return enough[:REGIONS]


def concepts_for(seen: Seen) -> list[Concept]:
    """What can be asked where nobody says what: colours, corners, and of each region its background and itself."""
    regions = common_regions(seen)
    found = [] if regions else [Concept("colours of the picture", "colour", WHOLE)]
    for region in regions:
        about = region == "object"
        if about:
            found.append(Concept("background", "background", region))
        found.append(Concept(f"the {region}", "thing", region, expected=about))
        found.append(Concept(f"colour of the {region}", "colour", region))
    return found + [Concept(f"{place} corner", "thing", place) for place in PLACES if place != "centre"]
