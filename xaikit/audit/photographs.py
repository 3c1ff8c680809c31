"""A user's own pictures: a folder a class, one folder, or COCO, with labels, masks, groups and captions beside them."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int64
from timm.data import ImageNetInfo
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.arguments import public
from xaikit.audit.questions import Seen
from xaikit.datasets.images import pictures_among, read_image
from xaikit.datasets.intake import Intake
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.files import read_json

OBJECT = "object"  # the region that masks are of where nothing else is said
NO_LABEL = -1
_IN_ORDER = "The classifier does not name its classes: they are taken to be"


@public
@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures as a classifier sees them, and what is known of them.

    `ids` name the files; `labels` are positions among the classifier's classes, -1 where there is none; `groups` has a
    column for each thing that is known of every picture, `captions` a text for each or nothing. `notes` say what was
    done on the way in, and what was left out.
    """

    seen: Seen
    ids: tuple[str, ...]
    labels: Int64[np.ndarray, " pictures"]
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    captions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@public
def read_pictures(
    folder: Path,
    look: Preprocessed,
    *,
    names: Sequence[str] = (),
    classes: int = 0,
    labels: Path | None = None,
    masks: Path | None = None,
    groups: Path | None = None,
    captions: Path | None = None,
    most: int | None = None,
) -> Pictures:
    """The pictures of a folder, whatever a camera or a program left there, as `look` makes them for a classifier.

    Each folder in it is a class; pictures that lie in it itself have no label, unless `labels`, a csv with the columns
    `file` and `label`, has one. Classes are the classifier's `names`, or WordNet ids of ImageNet's 1,000; without
    names, as many folders as it has `classes` are its classes in the order of their names, as torchvision has them.
    `masks` is a folder of pictures of the same names, white where the thing is, one folder a region where it has
    folders that are no classes; or COCO's json of instances, whose categories are regions. `groups` and `captions` are
    csv files with a column `file`. Of more than `most` pictures, evenly many of each class are taken, at even steps.
    Raises ValueError or FileNotFoundError, naming what is wrong, where nothing can be read.
    """
    listed = list_pictures(folder, names=names, classes=classes, labels=labels, most=most)
    return read_listed(listed, look, masks=masks, groups=groups, captions=captions)


@dataclass(frozen=True, eq=False)
class Listed:
    """The files of a folder that are to be read, their labels, and what was done so far; see `read_pictures`.

    A `part` is some of them: that it has no masks, say, does not mean that there are none.
    """

    folder: Path
    files: Sequence[Path]
    labels: Int64[np.ndarray, " files"]
    notes: tuple[str, ...]
    part: bool = False
    named: tuple[
        str, ...
    ] = ()  # the classes, where the classifier does not name them and the folders are taken for them

    @property
    def ids(self) -> tuple[str, ...]:
        """What the files are called."""
        return tuple(_id(self.folder, file) for file in self.files)

    def shard(self, number: int, count: int) -> "Listed":
        """Every `count`-th file, from `number` on: as many of each class as there can be."""
        every = slice(number, None, count)
        return Listed(self.folder, self.files[every], self.labels[every], self.notes, True, self.named)


def list_pictures(
    folder: Path, *, names: Sequence[str] = (), classes: int = 0, labels: Path | None = None, most: int | None = None
) -> Listed:
    """Which files `read_pictures` would read, without reading them; raises as it does."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder: name one that has pictures, or a folder of them for each class."
        )
    intake, notes = Intake(folder), []
    found = _found(folder, intake)
    if not found:
        raise FileNotFoundError(f"{folder} holds no pictures (.jpg, .png, …): name the folder that has them.")
    kinds = _labels(folder, found, labels, notes)
    positions, said = _positions(kinds, names, classes)
    notes += [said] if said else []
    rows = _chosen(kinds, len(found), most)
    if len(rows) < len(found):
        notes.append(f"{len(rows)} of {len(found)} pictures were taken, evenly from each class.")
    if report := intake.report():
        notes.append(report)
    named = tuple(sorted({*filter(None, kinds)})) if said.startswith(_IN_ORDER) else ()
    return Listed(folder, [found[row] for row in rows], positions[rows], tuple(notes), named=named)


def read_listed(
    listed: Listed,
    look: Preprocessed,
    *,
    masks: Path | None = None,
    groups: Path | None = None,
    captions: Path | None = None,
    regions: Sequence[str] = (),
) -> Pictures:
    """The listed pictures; see `read_pictures`. Each of the `regions` is there, if need be as masks that are empty."""
    folder, intake, notes = listed.folder, Intake(listed.folder), list(listed.notes)
    pixels, kept, sizes, why = [], [], {}, {}
    for row, file in enumerate(tqdm(listed.files, desc="reading pictures", disable=None, leave=False)):
        try:
            image = read_image(file, intake=intake)
        except (ValueError, FileNotFoundError) as error:
            why.setdefault(str(error).removeprefix(f"{file} "), []).append(file)
            continue
        sizes[_id(folder, file)] = (image.shape[-2], image.shape[-1])
        pixels.append(look.prepare(image[None].float() / 255)[0].mul(255).round().byte())
        kept.append(row)
    for reason, paths in why.items():
        notes.append(f"{len(paths)} could not be read ({paths[0].name}{', …' if len(paths) > 1 else ''}): {reason}")
    if not kept:
        raise ValueError(f"None of {len(listed.files)} pictures in {folder} can be read: {next(iter(why), '')}")
    ids = tuple(_id(folder, listed.files[row]) for row in kept)
    if report := intake.report():
        notes.append(report)
    found = _masks(masks, ids, sizes, look, notes, listed.part) if masks is not None else {}
    for region in regions:
        found.setdefault(region, torch.zeros(1, *look.sides, dtype=torch.bool).expand(len(ids), -1, -1))
    table = _beside(groups, ids, "groups", notes, listed.part) if groups is not None else pd.DataFrame()
    texts = _beside(captions, ids, "captions", notes, listed.part) if captions is not None else pd.DataFrame()
    if len(texts.columns) > 1:
        raise ValueError(f"{captions} has {len(texts.columns)} columns beside file: keep the one with the captions.")
    return Pictures(
        Seen(torch.stack(pixels), found), ids, listed.labels[kept], table,
        tuple(texts.iloc[:, 0]) if len(texts.columns) else (), tuple(notes),
    )  # fmt: skip


def _found(folder: Path, intake: Intake) -> list[Path]:
    """All pictures of the folder and of those in it."""
    inside = sorted(folder.iterdir(), key=lambda path: path.name)
    found = []
    for each in [path for path in inside if path.is_dir() and not path.name.startswith(".")]:
        found += pictures_among(sorted(each.iterdir(), key=lambda path: path.name), intake)
    return found + pictures_among([path for path in inside if not path.is_dir()], intake)


def _id(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _labels(folder: Path, found: Sequence[Path], file: Path | None, notes: list[str]) -> list[str | None]:
    """What each picture is called: by a csv, or by its folder."""
    if file is None:
        return [path.parent.name if path.parent != folder else None for path in found]
    table = _read_csv(file)
    if "label" not in table:
        raise ValueError(f"{file} has no column label (it has {', '.join(table)}): name the columns file and label.")
    known = dict(zip(table["file"], table["label"], strict=True))
    ids = [_id(folder, path) for path in found]
    kinds = [known.get(each, known.get(Path(each).name)) for each in ids]
    used = {each for each in ids if each in known} | {Path(each).name for each in ids if each not in known}
    if lost := sorted(set(known) - used):
        notes.append(f"{file.name} has labels of {len(lost)} files that are not among the pictures ({lost[0]}, …).")
    if all(kind is None for kind in kinds):
        raise ValueError(
            f"{file} names none of the {len(ids)} pictures ({ids[0]}, …): write their names below {folder}."
        )
    return kinds


def _positions(kinds: Sequence[str | None], names: Sequence[str], classes: int) -> tuple[np.ndarray, str]:
    """The classifier's class of each label, and a note where that is not plain."""
    here = sorted({kind for kind in kinds if kind is not None})
    none = np.full(len(kinds), NO_LABEL)
    if not here:
        return none, "The pictures have no labels: what is right is not known, and only answers are compared."
    plain = {_plain(name): index for index, name in reversed(list(enumerate(names)))}
    known = {kind: plain[_plain(kind)] for kind in here if _plain(kind) in plain}
    note = ""
    if not known and all(re.fullmatch(r"n\d{8}", kind) for kind in here) and classes in (0, 1000):
        synsets = {label: index for index, label in enumerate(ImageNetInfo().label_names())}
        known = {kind: synsets[kind] for kind in here if kind in synsets}
    if not known and all(kind.isdigit() and int(kind) < classes for kind in here):
        known = {kind: int(kind) for kind in here}
    if not known and not names and len(here) == classes:
        known = {kind: index for index, kind in enumerate(here)}
        note = f"{_IN_ORDER} {', '.join(here)}, in this order (--classes names them otherwise)."
    if lost := [kind for kind in here if kind not in known]:
        some = f"; its classes are {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""
        note = (
            f"The classifier has no class for {len(lost)} of {len(here)} labels ({', '.join(lost[:5])}){some}: what is "
            "right is not known of their pictures, unless --classes or --labels names them alike."
        )
    return np.array([known.get(kind, NO_LABEL) for kind in kinds]), note


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.partition(",")[0]).strip().casefold()


def _chosen(kinds: Sequence[str | None], n: int, most: int | None) -> list[int]:
    if most is None or n <= most:
        return list(range(n))
    groups: dict[str | None, list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(row)
    each = max(1, most // len(groups))
    taken = [[rows[round(i * (len(rows) - 1) / max(1, each - 1))] for i in range(each)] for rows in groups.values()]
    return sorted({row for rows in taken for row in rows})


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)  # "none" and "NA" are words
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read ({error}): give a csv with a column file.") from error
    if "file" not in table:
        raise ValueError(f"{file} has no column file (it has {', '.join(map(str, table))}): name the pictures in one.")
    if table["file"].duplicated().any():
        twice = table["file"][table["file"].duplicated()].iloc[0]
        raise ValueError(f"{file} has {twice} twice: give each picture one line.")
    return table


def _beside(file: Path, ids: Sequence[str], what: str, notes: list[str], part: bool) -> pd.DataFrame:
    """The columns of a csv in the order of the pictures; those that it lacks are empty, and said."""
    table = _read_csv(file).set_index("file")
    rows = [each if each in table.index else Path(each).name for each in ids]
    if lacking := [each for each in rows if each not in table.index]:
        if len(lacking) == len(rows) and not part:
            raise ValueError(f"{file} names none of the {len(ids)} pictures ({ids[0]}, …): write their names in file.")
        notes.append(f"{file.name} has no {what} of {len(lacking)} pictures ({lacking[0]}, …).")
    return table.reindex(rows).fillna("").reset_index(drop=True)


# --- masks ------------------------------------------------------------------------------------------------------------


def _masks(
    source: Path, ids: Sequence[str], sizes: Mapping[str, tuple[int, int]], look: Preprocessed, notes: list[str],
    part: bool,
) -> dict[str, Bool[Tensor, "pictures height width"]]:  # fmt: skip
    """The masks of each region as the classifier sees them, empty where a picture has none."""
    same: dict[str, Any] = {"resize": look.resize, "scale": look.scale, "floor": look.floor}
    nearest = Preprocessed(nn.Identity(), look.sides, (0.0,) * 3, (1.0,) * 3, interpolation="nearest", **same)
    if source.is_dir():
        drawn = _drawn_masks(source, ids)
    elif source.is_file():
        drawn = _coco_masks(source, ids, notes)
    else:
        raise FileNotFoundError(f"{source} is missing: name a folder of masks, or COCO's json of instances.")
    found: dict[str, Bool[Tensor, "pictures height width"]] = {}
    for region, row, mask in drawn:
        size = sizes[ids[row]]
        if tuple(mask.shape) != size:
            raise ValueError(
                f"The mask of {ids[row]} ({region}) has {mask.shape[0]} x {mask.shape[1]} pixels, the picture "
                f"{size[0]} x {size[1]}: make them alike."
            )
        if region not in found:
            found[region] = torch.zeros(len(ids), *look.sides, dtype=torch.bool)
        seen = nearest.prepare(torch.from_numpy(mask)[None, None].float().expand(1, 3, -1, -1))[0, 0] > 0.5
        found[region][row] |= seen
    if not found and not part:
        raise ValueError(f"{source} has no mask of any of the {len(ids)} pictures ({ids[0]}, …): name them alike.")
    counts = {region: int(masks.flatten(1).any(1).sum()) for region, masks in found.items()}
    order = sorted(counts, key=lambda region: (region != OBJECT, -counts[region], region))
    said = [f"{counts[region]} of {region}" for region in order[:8]] + ([f"{len(order) - 8} more"] if order[8:] else [])
    notes.append(f"Of {len(ids)} pictures, masks are there of: {', '.join(said)}.")
    return {region: found[region] for region in order}


def region_names(source: Path, ids: Iterable[str]) -> list[str]:
    """The regions that a folder of masks, or COCO's json, may have masks of."""
    if source.is_dir():
        return list(_places(source, ids))
    try:
        return [OBJECT, *(each["name"] for each in read_json(source)["categories"])]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source} is no COCO json of instances ({error!r} is not as it should be).") from error


def _places(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Where the masks of each region lie: in folders of their names, or all in one."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    classes = {each.partition("/")[0] for each in ids if "/" in each}
    return {path.name: path for path in inside if path.name not in classes} or {OBJECT: folder}


def _drawn_masks(folder: Path, ids: Sequence[str]) -> Iterable[tuple[str, int, np.ndarray]]:
    """(region, picture, mask) of files named as the pictures: in the folder itself, or in one for each region."""
    for name, place in _places(folder, ids).items():
        files = {
            path.relative_to(place).with_suffix("").as_posix(): path for path in place.rglob("*") if path.is_file()
        }
        for row, each in enumerate(ids):
            own = Path(each).with_suffix("")
            if path := files.get(own.as_posix(), files.get(own.name)):
                yield name, row, (read_image(path, exif=False).amax(0) > 127).numpy()


def _coco_masks(file: Path, ids: Sequence[str], notes: list[str]) -> Iterable[tuple[str, int, np.ndarray]]:
    """(category, picture, mask), and of all of a picture's categories together as "object"."""
    held = read_json(file)
    try:
        names = {each["id"]: each["name"] for each in held["categories"]}
        images = {each["id"]: each for each in held["images"]}
        things = held["annotations"]
        rows, crowds = {name: row for row, each in enumerate(ids) for name in (each, Path(each).name)}, []
        for thing in things:
            image = images.get(thing["image_id"])
            if image is None or (row := rows.get(image["file_name"])) is None:
                continue
            if thing.get("iscrowd"):
                crowds.append(names[thing["category_id"]])
                continue
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for polygon in thing["segmentation"]:
                cv2.fillPoly(mask, [np.asarray(polygon).reshape(-1, 2).round().astype(np.int32)], 1)
            for region in (names[thing["category_id"]], OBJECT):
                yield region, row, mask.astype(bool)
        if crowds:
            kinds = ", ".join(dict.fromkeys(crowds))
            notes.append(f"{len(crowds)} crowds have no outlines and are left out ({kinds}): they count as background.")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no COCO json of instances ({error!r} is not as it should be).") from error
