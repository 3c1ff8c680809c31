"""Segmentation by what is asked: pictures of several things, a text that names one of them, seven heatmaps.

Where a picture shows one thing, a map that knows no text can find it. Here each thing of a picture is asked for in
turn, so a map that is the same for every text has an AUC of one half in a picture of two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xaikit import world
from xaikit.companion.profiles import Settings
from xaikit.decomposition.decompose import Contributions, Readout, decompose
from xaikit.decomposition.heads import class_heatmaps
from xaikit.metrics.intervals import Interval, bootstrap_mean
from xaikit.metrics.ranking import auc
from xaikit.metrics.segmentation import average_precision
from xaikit.models.clip import Clip
from xaikit.saliency.vit import BASELINES, text_directions, upsample
from xaikit.storage.seeding import rng, seed_for
from xaikit.studies.clip_decomposition import Backbone
from xaikit.studies.clip_pictures import WORLD, photographs_with_masks, prompt_of

OURS = "ours"
# All heat maps that are compared, by their names, each with what it is called in ids.
METHODS = {
    OURS: "ours", "LRP": "lrp", "partial-LRP": "partial-lrp", "rollout": "rollout", "raw attention": "raw-attention",
    "GradCAM": "gradcam", "Chefer et al.": "chefer",
}  # fmt: skip
NO_TEXT = ("rollout", "raw attention")  # maps that are the same for every text
MEASURES = ("auc", "ap")


@dataclass(frozen=True, eq=False)
class Several:
    """Pictures in [0, 1] of several things of one family: the mask and the class of each, and the classes' prompts."""

    images: Float[Tensor, "pictures 3 height width"]
    masks: tuple[Bool[Tensor, "_ height width"], ...]
    classes: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        counts = [(len(masks), len(classes)) for masks, classes in zip(self.masks, self.classes, strict=True)]
        if len(counts) != len(self.images) or any(a != b or a < 2 for a, b in counts):
            raise ValueError(f"{len(self.images)} pictures of {counts} masks and classes: give two things or more.")
        if any(not masks.flatten(1).any(1).all() for masks in self.masks):
            raise ValueError("Of some thing nothing is to be seen: leave its picture out.")

    @property
    def asked(self) -> list[tuple[int, int]]:
        """Every thing, as the numbers of its picture and of it in the picture."""
        return [(picture, thing) for picture, own in enumerate(self.classes) for thing in range(len(own))]

    @property
    def there(self) -> list[int]:
        """For every thing its class."""
        return [self.classes[picture][thing] for picture, thing in self.asked]

    def elsewhere(self) -> list[int]:
        """For every thing the class of one that its picture does not show: the next of the classes."""
        count = len(self.prompts)
        found = []
        for picture, thing in self.asked:
            own = self.classes[picture]
            others = ((own[thing] + step) % count for step in range(1, count))
            found.append(next(each for each in others if each not in own))
        return found

    def of_others(self, step: int = 1) -> list[int]:
        """For every thing the class of a thing of another picture, `step` further on."""
        return [
            self.classes[after][thing % len(self.classes[after])]
            for picture, thing in self.asked
            for after in [(picture + step) % len(self.classes)]
        ]


def beside(
    images: Float[Tensor, "things 3 side side"], masks: Bool[Tensor, "things side side"], *, flip: bool = False
) -> tuple[Float[Tensor, "3 side side"], Bool[Tensor, "things side side"]]:
    """Two or three pictures of one thing beside each other in one of their size, each with what is left of its mask.

    Of the first a window of half the width, around its thing; beside it of the second the same, or the second above the
    third, both at half their size. `flip` puts the first to the right. Raises ValueError for another number and for an
    odd side.
    """
    count, side = len(images), images.shape[-1]
    if count not in (2, 3) or side % 2:
        raise ValueError(f"There are {count} pictures of {side} pixels: give two or three of an even side.")

    def window(thing: int) -> tuple[Tensor, Tensor]:
        columns = masks[thing].any(0).nonzero()[:, 0]
        middle = (int(columns[0]) + int(columns[-1]) + 1) // 2 if len(columns) else side // 2
        start = min(max(middle - side // 4, 0), side // 2)
        return images[thing, :, :, start : start + side // 2], masks[thing, :, start : start + side // 2]

    def halved(thing: int) -> tuple[Tensor, Tensor]:
        smaller = F.avg_pool2d(images[thing][None], 2)[0]
        return smaller, F.avg_pool2d(masks[thing][None, None].float(), 2)[0, 0] > 0.5

    halves = [[window(0)], [window(1)] if count == 2 else [halved(1), halved(2)]]
    image = torch.zeros_like(images[0])
    found = torch.zeros(count, side, side, dtype=torch.bool, device=masks.device)
    thing = 0
    for half, parts in enumerate(halves):
        left = side // 2 * (half ^ flip)
        for row, (part, mask) in enumerate(parts):
            rows = slice(row * side // len(parts), (row + 1) * side // len(parts))
            image[:, rows, left : left + side // 2] = part
            found[thing, rows, left : left + side // 2] = mask
            thing += 1
    return image, found


def several(cfg: Settings, model: Backbone, seed: int) -> list[Several]:
    """Pictures of two and three things by family, as many of each number: drawn ones, or photographs put together.

    What is on a photograph is what the model says of it alone, as the paper does; such pictures ask for what the model
    knows. Their things have different classes. No family where nothing can be put together.
    """
    if cfg.data == WORLD:
        count = 3 * cfg.several
        root = seed_for(seed, "several")
        birds = world.birds(count, seed=root, split="test", alignment=0.5).replace(count=1)
        things = world.nine(count, seed=root, split="test", alignment=1 / 9)
        families = []
        for scenes, part in ((birds, "birds"), (things, "object")):
            names = tuple((prompt_of(str(name)),) for name in scenes.values(scenes.family.CLASS))
            labels = scenes.labels(scenes.family.CLASS)
            single = scenes.images(cfg.size), scenes.masks(part, cfg.size)
            families.append(put_together(*single, labels, names, cfg.several // 2, seed))
        return [each for each in families if each]
    images, masks, prompts = photographs_with_masks(cfg, seed, 3 * cfg.several)
    among = model.classes(prompts)
    embedded = torch.cat([model.clip.image_encoder(each.to(cfg.device)) for each in images.split(16)])
    labels = (embedded @ among.T).argmax(1).cpu()
    made = put_together(images, masks, labels, prompts, cfg.several, seed)
    return [made] if made else []


def put_together(
    images: Float[Tensor, "single 3 side side"],
    masks: Bool[Tensor, "single side side"],
    labels: Int64[Tensor, " single"],
    prompts: tuple[tuple[str, ...], ...],
    count: int,
    seed: int,
) -> Several | None:
    """`count` pictures, every other one of three things and the others of two, made of pictures of one thing each.

    Each serves once, or not at all where what is left would be of one class, or where nothing of it is to be seen; so
    there may be fewer pictures, and None where there are none.
    """
    draw = rng(seed, "put together", len(prompts))
    left = [int(row) for row in draw.permutation(len(images))]
    made, found, classes = [], [], []
    while len(made) < count:
        chosen: list[int] = []
        for row in left:
            if all(labels[row] != labels[each] for each in chosen):
                chosen.append(row)
            if len(chosen) == 2 + len(made) % 2:
                break
        else:
            break
        left = [row for row in left if row not in chosen]
        image, own = beside(images[chosen], masks[chosen], flip=bool(draw.integers(2)))
        if own.flatten(1).any(1).all():
            made.append(image)
            found.append(own)
            classes.append(tuple(labels[chosen].tolist()))
    return Several(torch.stack(made), tuple(found), tuple(classes), prompts) if made else None


# --- maps and scores ------------------------------------------------------------------------------------------------


def tokens_of(clip: Clip, readout: Readout, pictures: Several, batch: int) -> Contributions:
    """The decomposition of all pictures to their tokens, from which the maps for any texts are read."""
    device = readout.ones.device
    parts = [
        decompose(clip.image_encoder, images.to(device), "token", readout) for images in pictures.images.split(batch)
    ]
    joined = (torch.cat([getattr(part, name) for part in parts]) for name in ("attention", "mlps", "embedding"))
    return Contributions(*joined, "token")


def our_maps(
    tokens: Contributions, pictures: Several, among: Float[Tensor, "classes features"], wanted: Sequence[int]
) -> list[Float[Tensor, "height width"]]:
    """The decomposition's map for every thing of the pictures, of the class `wanted` there less the mean over all."""
    size, rows = tuple(pictures.images.shape[-2:]), [picture for picture, _ in pictures.asked]
    maps = []
    for some, chosen in zip(torch.tensor(rows).split(64), torch.tensor(list(wanted)).split(64), strict=True):
        parts = Contributions(tokens.attention[some], tokens.mlps[some], tokens.embedding[some], "token")
        maps += class_heatmaps(parts, among, size, chosen=chosen.to(among.device)).cpu().unbind()
    return maps


def baseline_maps(
    method: str,
    clip: Clip,
    pictures: Several,
    among: Float[Tensor, "classes features"],
    wanted: Sequence[int],
    batch: int,
) -> list[Float[Tensor, "height width"]]:
    """The same by one of the six baselines, each explaining the logit of that class less the mean over all."""
    size, rows, device = tuple(pictures.images.shape[-2:]), pictures.asked, among.device
    found: list[Tensor] = []
    for start in range(0, len(rows), batch):
        some = torch.tensor([picture for picture, _ in rows[start : start + batch]])
        which, back = some.unique(return_inverse=True)
        prepared, back = clip.image_encoder.prepare(pictures.images[which].to(device)), back.to(device)
        chosen = torch.tensor(list(wanted[start : start + batch]), device=device)
        directions = clip.logit_scale * text_directions(among, chosen, minus_mean=True)
        if method in NO_TEXT:  # one a picture is enough, whatever the directions
            maps = BASELINES[method](clip.image_encoder.model, prepared, directions[: len(prepared)])[back]
        else:
            maps = BASELINES[method](clip.image_encoder.model, prepared[back], directions)
        found += upsample(maps, size).cpu().unbind()
    return found


def maps_of_classes(
    clip: Clip,
    parts: Contributions,
    images: Float[Tensor, "batch 3 height width"],
    among: Float[Tensor, "classes features"],
    chosen: Int64[Tensor, " batch"],
    size: tuple[int, int],
) -> dict[str, Float[Tensor, "batch map_height map_width"]]:
    """Each method's maps of images in [0, 1] for the `chosen` class of each, less the mean over all, in CPU memory.

    `parts` are the images' contributions of level "token"; maps have `size` pixels.
    """
    tower = clip.image_encoder
    directions = clip.logit_scale * text_directions(among, chosen, minus_mean=True)
    prepared, found = tower.prepare(images), {OURS: class_heatmaps(parts, among, size, chosen=chosen).cpu()}
    for name in METHODS:
        if name != OURS:
            found[name] = upsample(BASELINES[name](tower.model, prepared, directions), size).cpu()
    return found


def scores(
    maps: Sequence[Float[Tensor, "height width"]], pictures: Several
) -> dict[str, Float[np.ndarray, " pictures"]]:
    """How well each picture's maps show what was asked for, the mean over its things.

    "auc": a pixel of the thing asked for against one of the other things; "ap": the average precision of its pixels
    among all of the picture.
    """
    found: dict[str, list[list[float]]] = {name: [[] for _ in pictures.classes] for name in MEASURES}
    for (picture, thing), heat in zip(pictures.asked, maps, strict=True):
        own, any_thing = pictures.masks[picture][thing], pictures.masks[picture].any(0)
        found["auc"][picture].append(float(auc(heat[any_thing].double().numpy(), own[any_thing].numpy())))
        precision = average_precision(heat.flatten()[None].double(), own.flatten()[None])
        found["ap"][picture].append(precision.item())
    return {name: np.array([np.mean(each) for each in values]) for name, values in found.items()}


def joined(
    parts: Mapping[str, Sequence[Mapping[str, Float[np.ndarray, " _"]]]],
) -> dict[str, dict[str, Float[np.ndarray, " pictures"]]]:
    """The `scores` of several sets of pictures by method, put together."""
    return {
        name: {measure: np.concatenate([part[measure] for part in found]) for measure in found[0]}
        for name, found in parts.items()
    }


def flatness(
    absent: Sequence[Float[Tensor, "height width"]], there: Sequence[Float[Tensor, "height width"]], pictures: Several
) -> Float[np.ndarray, " pictures"]:
    """How much maps for what is not there vary over a picture, as a part of how much those for what is there do."""
    found: list[list[float]] = [[] for _ in pictures.classes]
    for (picture, _), a, b in zip(pictures.asked, absent, there, strict=True):
        found[picture].append((a.double().std() / b.double().std().clamp_min(1e-12)).item())
    return np.array([np.mean(each) for each in found])


def lead(scored: Mapping[str, Mapping[str, np.ndarray]], measure: str, seed: int) -> tuple[Interval, str]:
    """How far `OURS` lies above the best of the others, with an interval over pictures, and which that is."""
    best = max((name for name in scored if name != OURS), key=lambda name: scored[name][measure].mean())
    return bootstrap_mean(scored[OURS][measure] - scored[best][measure], seed), best
