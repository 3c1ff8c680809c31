"""`xaikit world`: how hard the tasks of the drawn world are, and the figures of its page, `docs/world.md`."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import cv2
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from xaikit.companion import plots, tables
from xaikit.metrics.intervals import Interval, proportion
from xaikit.models.clip import load_from
from xaikit.perturbation.linear_probe import embed, train_head
from xaikit.storage.files import replacing
from xaikit.storage.paths import ROOT
from xaikit.world import TASKS, Drawing, Several, Task, several, task

PAGE = ROOT / "docs" / "world.md"
SEED, TEST, BATCH = 0, 500, 250
NOISE, PICTURES, SIZES = (0.0, 0.1, 0.2, 0.3, 0.4), (20, 50, 200, 800), ("large", "small", "tiny")
# What the figure shows: two things; three of them, under a sign that is right; a sign that is wrong, at night.
EXAMPLES = (
    Several(
        2, "lion", "sedan", colour1="white", pattern1="striped", colour2="red", order="132", depth1="middle",
        depth2="front", distractors=1,
    ),
    Several(
        4, "duck", "truck", "dog", colour1="yellow", colour2="blue", colour3="brown", pattern2="plain",
        pattern3="spotted", size1="small", depth1="front", depth2="back", depth3="middle", order="312",
        place="street", time="dusk", sign="duck",
    ),
    Several(
        5, "owl", "butterfly", "pickup", colour1="white", colour2="red", colour3="black", pattern2="spotted",
        size2="small", depth1="middle", depth2="front", depth3="back", order="213", place="farm", time="night",
        sign="lion", distractors=2,
    ),
)  # fmt: skip
_SHOWN = {"thing1": plots.ORANGE, "thing2": plots.SKY, "thing3": plots.PURPLE, "sign": plots.YELLOW}
_TASK_SCENE = 5  # of each task's test
_ENLARGED = 4  # pixels of the figure a side of a picture's pixel


def accuracy(asked: Task, encoder: nn.Module) -> Interval:
    """How often a linear probe on the encoder's embeddings, trained on the task's pictures, answers rightly."""
    found = {part: embed(encoder, asked.images(part).split(BATCH)) for part in ("train", "test")}
    head = train_head(found["train"], asked.labels("train"), len(asked.classes), seed=SEED)
    right = head(found["test"]).argmax(1) == asked.labels("test")
    return proportion(int(right.sum()), len(right))


def page_tables(names: Iterable[str] = TASKS) -> Mapping[str, str]:
    """The tables of the page, by name; of the tasks, and of what each knob does to them."""
    encoder = load_from({"weights": "clip-vit-mini"}, "cpu").image_encoder
    tasks, noise, pictures = [], [], []
    for name in names:
        preset = TASKS[name]
        default = task(name, seed=SEED, test=TEST)
        answered = accuracy(default, encoder)
        shown = f"{answered.value:.3f} [{answered.low:.2f}, {answered.high:.2f}]"
        tasks.append([name, f"{len(default.classes)}", f"{preset.n}", f"{preset.noise:g}", shown])
        row = [accuracy(task(name, seed=SEED, test=TEST, noise=level), encoder) for level in NOISE]
        noise.append([name, f"{preset.n}", *(f"{found.value:.2f}" for found in row)])
        row = [accuracy(task(name, seed=SEED, test=TEST, n=n), encoder) for n in PICTURES]
        pictures.append([name, f"{preset.noise:g}", *(f"{found.value:.2f}" for found in row)])
    return {
        "tasks": tables.markdown(
            ["task", "classes", "pictures to learn from", "noise", "accuracy [95 %]"], tasks, right=range(1, 5)
        ),
        "noise": tables.markdown(
            ["task", "pictures", *(f"noise {level:g}" for level in NOISE)], noise, right=range(1, 2 + len(NOISE))
        ),
        "pictures": tables.markdown(
            ["task", "noise", *(f"{n} pictures" for n in PICTURES)], pictures, right=range(1, 2 + len(PICTURES))
        ),
        "size": tables.markdown(["asked thing", *SIZES], _sizes(encoder), right=range(1, 1 + len(SIZES))),
    }


def _sizes(encoder: nn.Module) -> list[list[str]]:
    """The tasks among several things, where the asked thing is large, small or tiny."""
    rows = []
    for name, preset in TASKS.items():
        if preset.deal is several:
            row = []
            for size in SIZES:
                settings = {**preset.settings, "size": size}
                sets = [
                    several(n, seed=SEED, split=split, **settings) for n, split in ((preset.n, "train"), (TEST, "test"))
                ]
                row.append(f"{accuracy(Task(*sets, preset.factor, preset.noise), encoder).value:.2f}")
            rows.append([name, *row])
    return rows


# --- the figures ------------------------------------------------------------------------------------------------------


def enlarged(picture: UInt8[np.ndarray, "size size 3"], times: int = _ENLARGED) -> UInt8[np.ndarray, "large large 3"]:
    return cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_NEAREST)


def marked(drawing: Drawing) -> UInt8[np.ndarray, "large large 3"]:
    """A picture in grey, with the mask of each thing and of the sign in its colour, and boxes around them."""
    grey = np.repeat(drawing.image.mean(-1, keepdims=True), 3, -1)
    for part, colour in _SHOWN.items():
        mask = drawing.masks[part]
        grey[mask] = 0.45 * grey[mask] + 0.55 * 255 * np.array(to_rgb(colour))
    found = np.ascontiguousarray(enlarged(grey.astype(np.uint8)))
    for part, colour in _SHOWN.items():
        for box in drawing.boxes[part]:
            x0, y0, x1, y1 = (round(_ENLARGED * edge) for edge in box)
            cv2.rectangle(found, (x0, y0), (x1 - 1, y1 - 1), tuple(round(255 * c) for c in to_rgb(colour)), 2)
    return found


def several_figure(scenes: Sequence[Several] = EXAMPLES) -> Figure:
    """Each scene beside its masks and boxes, above its captions."""
    plots.use_style()
    figure, axes = plt.subplots(1, len(scenes), figsize=(4.2 * len(scenes), 3.9), squeeze=False)
    for ax, scene in zip(axes[0], scenes, strict=True):
        drawing = scene.draw(64)
        ax.imshow(np.hstack([enlarged(drawing.image), marked(drawing)]))
        ax.axis("off")
        said = ["\n   ".join(wrap(f"{k}. {text}", 56)) for k, text in enumerate(scene.captions, 1)]
        ax.text(0, -0.03, "\n".join(said), fontsize=9, va="top", transform=ax.transAxes)
    return figure


def tasks_figure() -> Figure:
    """A test picture of each task, as hard as it is asked."""
    plots.use_style()
    figure, axes = plt.subplots(1, len(TASKS), figsize=(2.1 * len(TASKS), 2.5))
    for ax, name in zip(axes, TASKS, strict=True):
        asked = task(name, seed=3, test=12, n=8)
        scene = asked.test[_TASK_SCENE]
        picture = asked.seen(asked.test[_TASK_SCENE:][:1])[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        ax.imshow(enlarged(picture))
        ax.axis("off")
        ax.set_title(f"{name}:\n{scene.factors[asked.factor]}", fontsize=10)
    return figure


FIGURES = {"world-several.png": several_figure, "world-tasks.png": tasks_figure}


def pixels_of(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """A figure as it is saved, without its white borders. Closes it."""
    saved = io.BytesIO()
    figure.savefig(saved, format="png", dpi=100, bbox_inches="tight", pad_inches=0.04)
    plt.close(figure)
    return np.asarray(Image.open(saved).convert("RGB"))


def write(file: Path = PAGE) -> None:
    """Bring the page's tables and figures up to date."""
    tables.fill(file, page_tables())
    for name, draw in FIGURES.items():
        with replacing(file.parent / name) as part:
            Image.fromarray(pixels_of(draw())).quantize(128).save(part, format="PNG", optimize=True)
