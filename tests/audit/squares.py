"""A folder of drawn pictures with masks, groups and captions, and a classifier in a file that looks at the ground."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from xaikit.audit.run import run_audit

SIZE = 32
MINE = """
import torch
from torch import nn
from xaikit import Preprocessed

class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-2.0, -9.0], [2.0, 9.0]]))
            self.head.bias.copy_(torch.tensor([5.5, -5.5]))

    def forward(self, images):
        return self.head(torch.stack([images[:, :, 14:18, 14:18].mean((1, 2, 3)), images[:, :, :4].mean((1, 2, 3))], 1))

def model():
    return Preprocessed(Reads(), 32, (0.0,) * 3, (1.0,) * 3)
"""


def written(folder: Path, count: int = 80) -> Path:
    """Bright and dark squares on grounds that mostly go with them, and a classifier that looks at the ground."""
    draw = np.random.default_rng(0)
    groups = []
    for number in range(count):
        label = number % 2
        ground = label if draw.random() < 0.75 else 1 - label
        pixels = np.full((SIZE, SIZE, 3), 50 + 130 * ground) + draw.integers(0, 25, (SIZE, SIZE, 3))
        pixels[9:23, 9:23] = 50 + 130 * label + draw.integers(0, 25, (14, 14, 3))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[9:23, 9:23] = 255
        name = f"{('dark', 'bright')[label]}/{number}.png"
        for place, drawn in (("pictures", pixels.astype(np.uint8)), ("masks", mask)):
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(folder / place / name)
        groups.append({"file": name, "ground": ("low", "high")[ground], "day": number % 3})
    pd.DataFrame(groups).to_csv(folder / "groups.csv", index=False)
    words = [f"a square, {row['ground']} ground, {row['file'].partition('/')[0]}" for row in groups]
    pd.DataFrame({"file": [row["file"] for row in groups], "caption": words}).to_csv(
        folder / "captions.csv", index=False
    )
    (folder / "mine.py").write_text(MINE)
    (folder / "classes.txt").write_text("dark\nbright\n")
    return folder


def run(folder: Path, **options: Any) -> Any:
    """An audit of them, which writes to `report`."""
    return run_audit(
        f"{folder / 'mine.py'}:model", folder / "pictures", folder / "report", masks=folder / "masks",
        classes=folder / "classes.txt", groups=folder / "groups.csv", captions=folder / "captions.csv", **options
    )  # fmt: skip
