"""Before anything starts: which files, weights, packages, memory and disk do the notebooks of a profile miss?

    xaikit run --check --profile paper

`xaikit run` asks the same first, and starts nothing where something is missing. All checks are quick ones: that files
are there, as many as there should be and of the size that they should have, and that small ones have their checksum.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil

from xaikit.companion import cost, download, profiles, towers
from xaikit.companion.cost import Card, Work
from xaikit.companion.sections import BIRDS, CARS, IDENPROF, NINE, sections
from xaikit.storage import paths, settings

State = Literal["there", "missing", "incomplete", "damaged", "to be fetched", "too little"]
EVERY = "all"  # in the place of a notebook's name
HASHED = 64_000_000  # bytes: larger files are known by their size alone
IMAGES = (".jpg", ".jpeg", ".png", ".parquet")


@dataclass(frozen=True)
class Item:
    """Something that a notebook needs: what it is, how it stands, and how to come by it."""

    notebook: str
    name: str
    kind: Literal["files", "weights", "package", "disk", "memory"]
    state: State
    note: str = ""
    size: float | None = None  # bytes, where it is known
    licence: str = ""
    command: str = ""

    @property
    def blocks(self) -> bool:
        """Whether a notebook would stop for it: weights are fetched on the way, memory is an upper bound."""
        return self.state not in ("there", "to be fetched") and self.kind != "memory"


@dataclass(frozen=True)
class Files:
    """Files below the data folder that a notebook reads: a folder with so many images, or single files."""

    entry: str  # of data/manifest.toml
    path: str
    images: int | None = None
    files: tuple[str, ...] = ()
    lines: int | None = None


@dataclass(frozen=True)
class Model:
    """Weights that a library fetches: the `loader` of the manifest, its argument, and a pinned revision."""

    loader: str
    argument: str
    revision: str | None = None


@dataclass(frozen=True)
class Report:
    """All that the chosen notebooks need under a profile, and what their sections take."""

    profile: str
    items: Sequence[Item]
    works: Mapping[str, Sequence[Work]] = field(default_factory=dict)

    @property
    def missing(self) -> list[Item]:
        """What is not there, whether a run would stop for it or fetch it."""
        return [item for item in self.items if item.state != "there"]

    @property
    def blocking(self) -> list[Item]:
        """What a run would stop for."""
        return [item for item in self.items if item.blocks]


def examine(names: Iterable[str], profile: str, folder: Path = profiles.FOLDER) -> Report:
    """What the named notebooks need under a profile, and how it stands; drawn data and stand-ins need nothing.

    Raises ValueError for an unknown profile.
    """
    profiles.check(profile, folder)
    own = settings.read(folder, profile)
    if own.get("common", {}).get("stand_ins", False):
        return Report(profile, [])
    items, works = [], {}
    for notebook in names:
        tables = {**own.get("common", {}), **own.get(notebook, {})}
        items += [_files(notebook, wanted, tables) for wanted in _data(tables)]
        items += [_weights(notebook, model) for model in dict.fromkeys(_models(tables))]
        items += _packages(notebook, tables)
        if found := sections(notebook, tables):
            works[notebook] = found
    return Report(profile, [*items, *_room(items, works)], works)


def require(
    names: Iterable[str],
    profile: str,
    folder: Path = profiles.FOLDER,
    *,
    skipping: Callable[[str], bool] = lambda name: False,
) -> None:
    """Raise RuntimeError, in a sentence, where something is missing without which a notebook would stop.

    Notebooks that are up to date need nothing: `skipping` says of a name whether it is, and is asked only where
    something is missing.
    """
    names = list(names)
    blocking = examine(names, profile, folder).blocking
    waiting = {name for name in names if not skipping(name)} if blocking else set()
    blocking = [item for item in blocking if item.notebook in waiting or (item.notebook == EVERY and waiting)]
    if not blocking:
        return
    first = blocking[0]
    more = f" and {len(blocking) - 1} more" if len(blocking) > 1 else ""
    verb = "are" if more else "is"
    raise RuntimeError(
        f"{first.notebook} cannot run under {profile}: {first.name} ({first.note or first.state}){more} {verb} not as "
        f"needed; `xaikit run --check --profile {profile}` lists all, with the commands that fetch them"
    )


# --- what is needed ---------------------------------------------------------------------------------------------------


def _data(tables: Mapping[str, Any]) -> Iterator[Files]:
    """The files that a notebook's settings name."""
    if tables.get("digits") in ("mnist", "emnist-mnist"):
        start = "" if tables["digits"] == "mnist" else f"{tables['digits']}-"
        kinds = ("images-idx3", "labels-idx1")
        splits = ("train", "t10k" if tables["digits"] == "mnist" else "test")
        names = tuple(f"{start}{split}-{kind}-ubyte.gz" for split in splits for kind in kinds)
        path = tables.get("folder", tables["digits"])
        yield Files(path.split("/")[0], path, files=names)
    if tables.get("data") in (None, "world"):
        return
    if "folders" in tables:
        yield Files("stanford_cars", tables["folders"]["cars"], sum(CARS.values()))
        yield Files("idenprof", tables["folders"]["occupation"], sum(IDENPROF.values()))
    if "imagenet" in tables:
        yield Files("imagenet_validation", tables["imagenet"], cost.IMAGENET)
    if "waterbirds" in tables:
        yield Files("waterbirds", tables["waterbirds"], sum(BIRDS.values()), ("metadata.csv",))
    if "segmentation" in tables:
        yield Files("imagenet_segmentation", tables["segmentation"])
    if "text_pools" in tables:
        for entry, name, lines in (
            ("text_pools", "image_descriptions_general.txt", 3_498),
            ("text_pool_common_words", "google_3498_english.txt", 3_498),
            ("text_pool_class_specific", "image_descriptions_per_class.txt", 28_767),
        ):
            yield Files(entry, f"{tables['text_pools']}/{name}", lines=lines)
    if "imagenet9" in tables:
        for variant in ("original", "only_bg_t"):
            yield Files("imagenet9", f"{tables['imagenet9']}/{variant}/val", NINE)
        yield Files("imagenet9", tables["in_to_in9"])
    if "coco" in tables:
        names = tuple(f"captions_{split}2017.json" for split in ("train", "val"))
        yield Files("coco2017_captions", f"{tables['coco']}/annotations", files=names)
        yield Files("coco2017_captions", f"{tables['coco']}/train2017", cost.COCO)
        yield Files("coco2017_captions", f"{tables['coco']}/val2017", 5_000)


_LOADERS = {"classifier": "timm", "captioner": "transformers", "generator": "diffusers"}


def _models(tables: Mapping[str, Any]) -> Iterator[Model]:
    """The weights that a notebook's settings name; those that ship are not among them."""
    for key in ("sentence_encoder", "plain_decoder"):
        if key in tables:
            name, _, revision = tables[key].partition("@")
            yield Model("transformers", name, revision or None)
    for key, value in tables.items():
        for table in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(table, Mapping):
                continue
            revision = table.get("revision")
            if "name" in table and "pretrained" in table:
                yield Model("open_clip", f"{table['name']}, pretrained {table['pretrained']}", revision)
            elif "name" in table and key in _LOADERS:
                yield Model(_LOADERS[key], table["name"], revision)
            elif "pretrained" in table:
                yield Model("torchvision", f"resnet50, weights {table['pretrained']}")


def pinned(profile: str, folder: Path = profiles.FOLDER) -> dict[str, str]:
    """The commits that a profile pins, by the repository at the hub."""
    found = {}
    for tables in settings.read(folder, profile).values():
        for model in _models(tables) if isinstance(tables, Mapping) else ():
            if model.revision:
                found[_repository(model, _entry(model))] = model.revision
    return found


# --- how it stands ----------------------------------------------------------------------------------------------------


def _files(notebook: str, wanted: Files, tables: Mapping[str, Any]) -> Item:
    entry = _entries().get(wanted.entry)
    path = paths.DATASETS / wanted.path
    state, note = _state(path, wanted, tables.get("subset"))
    folder = paths.DATASETS / entry.folder if entry else path.parent
    whole = [file for file in entry.files if _is_of(file, wanted, entry)] if entry else []
    if state == "there" and wanted.images is None:
        state, note = next(filter(None, (_damage(folder / file.name, file) for file in whole)), (state, note))
    elif state == "missing" and (archives := [file for file in whole if file.unpack and (folder / file.name).exists()]):
        state, note = next(
            filter(None, (_damage(folder / file.name, file) for file in archives)),
            (state, f"{archives[0].name} is there, but not unpacked"),
        )
    elif state == "missing" and any((folder / f"{file.name}.part").exists() for file in whole):
        note = "a download of it was broken off, and goes on where it was"
    sizes = [file.size for file in whole]
    by_hand = bool(whole) and any(not file.urls for file in whole)
    command = f"xaikit download --profile paper --only {wanted.entry}"
    if entry and by_hand:
        command = f"by hand, into {folder}: {' '.join(entry.by_hand.split())}; then {command}"
    if state == "damaged":
        command = f"delete it; then {command}"
    return Item(
        notebook, wanted.path, "files", state, note, sum(map(float, filter(None, sizes))) if any(sizes) else None,
        entry.licence if entry else "", "" if state == "there" else command,
    )  # fmt: skip


def _is_of(file: download.File, wanted: Files, entry: download.Entry) -> bool:
    """Whether a file of the manifest is, or holds, what is wanted of it."""
    own, path = f"{entry.folder}/{file.unpack or file.name}", wanted.path
    return own == path or own.startswith(f"{path}/") or path.startswith(f"{own}/")


def _state(path: Path, wanted: Files, subset: int | None) -> tuple[State, str]:
    if not path.exists():
        return "missing", f"no {path.name}"
    if lost := [name for name in wanted.files if not (path / name).is_file()]:
        return "incomplete", f"no {lost[0]}"
    if empty := [name for name in wanted.files or ("",) if (path / name).is_file() and not _size(path / name)]:
        return "damaged", f"{empty[0] or path.name} is empty"
    if wanted.lines is not None:
        found = sum(bool(line.strip()) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
        if found < wanted.lines and subset is None:
            return "incomplete", f"{found:,} of {wanted.lines:,} texts"
    if wanted.images is None:
        return "there", ""
    found = _images(path)
    if not found and list(path.glob("*.tar")):
        return "there", "its archive; unpacked when it is read"
    if not found or (found < wanted.images and subset is None and not list(path.rglob("*.parquet"))):
        return "incomplete", f"{found:,} of {wanted.images:,} images"
    return "there", f"{found:,} images" if subset is None else f"{found:,} images, at most {subset:,} are read"


def _images(folder: Path) -> int:
    """How many pictures there are below a folder, however they are divided."""
    return sum(
        os.path.splitext(name)[1].lower() in IMAGES for _, _, names in os.walk(folder) for name in names
    )  # not Path.walk, which Python has since 3.12


def _size(path: Path) -> int:
    return path.stat().st_size


def _damage(path: Path, file: download.File) -> tuple[State, str] | None:
    """What is wrong with a file that is there, by the manifest's size and, where that is quick, its checksum."""
    if not path.is_file():
        return None
    if file.size is not None and _size(path) != file.size:
        return "damaged", f"{path.name} has {_size(path):,} bytes where {file.size:,} belong"
    if file.sha256 and _size(path) <= HASHED:
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                return "damaged", f"{path.name} does not have the sha256 of the manifest"
    return None


def _weights(notebook: str, model: Model) -> Item:
    entry = _entry(model)
    state, note = _in_cache(model, entry)
    if state == "missing" and os.environ.get("HF_HUB_OFFLINE", "").lower() not in ("1", "on", "true", "yes"):
        state, note = "to be fetched", "when the notebook asks for it"
    return Item(
        notebook, f"{model.loader}: {model.argument}", "weights", state, note, _about(model),
        entry.licence if entry else "", "" if state == "there" else _fetching(model, entry),
    )  # fmt: skip


def _entry(model: Model) -> download.Entry | None:
    """What the manifest says of it."""
    return next((e for e in _entries().values() if (e.loader, e.argument) == (model.loader, model.argument)), None)


_MAIN = {
    "open_clip": [("open_clip_model.safetensors", "open_clip_pytorch_model.bin")],
    "timm": [("model.safetensors", "pytorch_model.bin")],
    "transformers": [("config.json",), ("model.safetensors", "pytorch_model.bin")],
    "diffusers": [
        ("model_index.json",), ("unet/diffusion_pytorch_model.safetensors",),
        ("vae/diffusion_pytorch_model.safetensors",), ("text_encoder/model.safetensors",),
    ],
}  # fmt: skip


def _repository(model: Model, entry: download.Entry | None) -> str:
    if entry is not None and entry.repository:
        return entry.repository
    if model.loader == "open_clip":
        return ""  # only open_clip knows
    return f"timm/{model.argument}" if model.loader == "timm" else model.argument


def _in_cache(model: Model, entry: download.Entry | None) -> tuple[State, str]:
    """Whether a library would find the weights on this machine."""
    if model.loader == "torchvision":
        home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch").expanduser()
        found = sorted(Path(home, "hub", "checkpoints").glob("resnet50-*.pth"))
        return ("there", "") if found else ("missing", "not in torch's cache")
    repository = _repository(model, entry)
    if not repository:
        return "missing", "its repository is not in the manifest, so its cache is not looked for"

    from huggingface_hub import try_to_load_from_cache  # here, as mini needs none of it

    for names in _MAIN[model.loader]:
        found = [try_to_load_from_cache(repository, name, revision=model.revision) for name in names]
        here = next((Path(path) for path in found if isinstance(path, str)), None)
        if here is None:
            return "missing", f"{names[0]} is not in the hub's cache"
        if not _is_whole(here):
            return "damaged", f"{here.name} in the hub's cache was cut short"
    return "there", ""


def _is_whole(path: Path) -> bool:
    """Whether a file is not empty and, of safetensors, as long as its header says."""
    size = _size(path)
    if path.suffix != ".safetensors":
        return size > 0
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if 0 < length < size else {}
    except ValueError:
        return False
    ends = [table["data_offsets"][1] for name, table in header.items() if name != "__metadata__"]
    return bool(ends) and size == 8 + length + max(ends)


def _about(model: Model) -> float | None:
    """The bytes of a model's weights in float32, from its shapes; None where they are not known."""
    if model.loader == "open_clip":
        name = model.argument.partition(",")[0]
        try:
            return 4.0 * (towers.open_clip_tower(name).parameters + towers.open_clip_texts(name).parameters)
        except (ValueError, KeyError):
            return None
    vit, decoder = towers.VIT_B16_384.parameters, towers.Decoder()
    known = {
        "resnet50, weights IMAGENET1K_V2": towers.RESNET50.parameters,
        "vit_base_patch16_384.orig_in21k_ft_in1k": vit,
        "Salesforce/blip-image-captioning-base": vit + decoder.parameters,
        "google-bert/bert-base-uncased": 12 * 12 * 768**2 + 30_522 * 768,
        "stable-diffusion-v1-5/stable-diffusion-v1-5": towers.STABLE_DIFFUSION.parameters,
    }
    return 4.0 * known[model.argument] if model.argument in known else None


def _fetching(model: Model, entry: download.Entry | None) -> str:
    if model.loader == "torchvision":
        name, tag = model.argument.split(", weights ")
        return f"""python -c "import torchvision; torchvision.models.{name}(weights='{tag}')" """.strip()
    repository = _repository(model, entry)
    if not repository:
        return f"{model.loader} fetches it when the notebook loads it"
    names = " ".join(each[0] for each in _MAIN[model.loader][:1]) if model.loader == "open_clip" else ""
    pinned = f" --revision {model.revision}" if model.revision else ""
    return f"hf download {repository}{' ' + names if names else ''}{pinned}"


def _packages(notebook: str, tables: Mapping[str, Any]) -> Iterator[Item]:
    """What has to be installed for the files that the settings name."""
    wanted: list[tuple[str, str, str]] = []
    if "segmentation" in tables:
        wanted.append(("h5py", "pip install 'xaikit[paper]'", "reads ImageNet-Segmentation"))
    folders = tables.get("folders", {})
    if "occupation" in folders and not (paths.DATASETS / folders["occupation"] / "faces.json").is_file():
        command = "python -m pip install --no-deps facenet-pytorch==2.6.0"
        wanted.append(("facenet_pytorch", command, "finds the faces, as there is no faces.json"))
    for name, command, why in wanted:
        there = find_spec(name) is not None
        yield Item(notebook, name, "package", "there" if there else "missing", why, command="" if there else command)


def _room(items: Sequence[Item], works: Mapping[str, Sequence[Work]]) -> Iterator[Item]:
    """Whether disks and memory are large enough for what is to be fetched, kept and held."""
    if not works:
        return
    needed: dict[Path, float] = {}
    different = {item.name: item for item in items}.values()
    # What one archive holds is listed folder by folder. Beside the archives is what they hold.
    archives = {(item.command, item.size or 0.0) for item in different if item.kind == "files" and item.blocks}
    needed[paths.DATASETS] = 2 * sum(size for _, size in archives)
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    needed[hub] = sum(item.size or 0.0 for item in different if item.kind == "weights" and item.state != "there")
    needed[paths.CACHE] = sum(part.disk for parts in works.values() for part in parts)
    disks: dict[int, tuple[float, Path]] = {}
    for folder, count in needed.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        before, _ = disks.get(there.stat().st_dev, (0.0, there))
        disks[there.stat().st_dev] = before + count, there
    for count, folder in disks.values():
        free = shutil.disk_usage(folder).free
        note = f"about {cost.shown_bytes(count)} for data, weights and results; {cost.shown_bytes(free)} are free"
        state: State = "there" if count <= free else "too little"
        command = "" if count <= free else "XAIKIT_DATA, HF_HOME and XAIKIT_CACHE name other disks"
        yield Item(EVERY, f"disk of {folder}", "disk", state, note, count, command=command)
    most = max(((part.host, name, part.name) for name, parts in works.items() for part in parts), default=None)
    if most is not None:
        total = psutil.virtual_memory().total
        note = f"{most[1]}, {most[2]!r}, takes about {cost.shown_bytes(most[0])}; there are {cost.shown_bytes(total)}"
        yield Item(most[1], "memory", "memory", "there" if most[0] <= total else "too little", note, most[0])


@cache
def _entries() -> Mapping[str, download.Entry]:
    return {entry.name: entry for entry in download.read_manifest()}


# --- what is shown ----------------------------------------------------------------------------------------------------


def gpus() -> list[str]:
    """The names of this machine's GPUs, as the driver's own command says; none where there is no such command."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        said = subprocess.run(
            [command, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.stdout.splitlines() if line.strip()]


def check(
    names: Sequence[str], profile: str, card: str | None = None, folder: Path = profiles.FOLDER,
    say: Callable[..., None] = print,
) -> Report:  # fmt: skip
    """Print what the notebooks need under a profile, how it stands, and what their sections take on a card.

    The card is the first GPU here, or the one named (`cost.CARDS`); where there is none, an H100.
    Raises ValueError for an unknown card.
    """
    from rich.console import Console
    from rich.table import Table

    found = examine(names, profile, folder)
    if not found.items:
        why = "runs on stand-ins, which it writes first" if profiles.rehearses(profile, folder) else "has all it needs"
        say(f"The profile {profile} {why}.")
        return found
    console = Console(width=None if os.isatty(1) else 200, highlight=False)
    table = Table("notebook", "what", "state", "size", "licence", title=f"profile {profile}", row_styles=["", "dim"])
    for item in found.items:
        state = item.state + (f": {item.note}" if item.note else "")
        size = "not published" if item.size is None and item.kind == "files" else ""
        size = size if item.size is None else ("about " * (item.kind != "files") + cost.shown_bytes(item.size))
        table.add_row(item.notebook, item.name, state, size, item.licence)
    console.print(table)
    here = gpus()
    known = _card(card, here)
    machine = cost.machine_with(known)
    estimates = Table("notebook", "section", "GPU memory", "memory", "hours", "bound by", title="estimated, "
                      f"on {machine.name} of {cost.shown_bytes(known.memory)} with {machine.cores} cores")  # fmt: skip
    for notebook, parts in found.works.items():
        for part in parts:
            time = cost.estimate(part, machine)
            fits = "" if part.gpu <= known.memory else ": too much"
            estimates.add_row(notebook, part.name, cost.shown_bytes(part.gpu) + fits, cost.shown_bytes(part.host),
                              str(time), time.bound)  # fmt: skip
        estimates.add_row(notebook, "all", "", "", str(cost.estimate(parts, machine)), "", style="bold")
    console.print(estimates)
    commands = dict.fromkeys(item.command for item in found.missing if item.command)
    if commands:
        say("To come by what is missing:")
    for command in commands:
        say(f"  {command}")
    say(f"GPUs here: {', '.join(here) or 'none; the hours are those of the card named'}")
    fetched = sum(item.state == "to be fetched" for item in found.items)
    short = len(found.missing) - fetched
    said = f"{short} of {len(found.items)} are not as needed" if short else "Nothing is missing"
    say(said + (f"; fetched when a notebook asks for them: {fetched}." if fetched else "."))
    return found


def _card(name: str | None, here: Sequence[str]) -> Card:
    if name is not None:
        card = cost.card_named(name)
        if card is None:
            raise ValueError(f"the card {name!r} is not known: choose one of {', '.join(cost.CARDS)}")
        return card
    return next(filter(None, map(cost.card_named, here)), cost.CARDS["H100"])
