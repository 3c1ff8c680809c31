"""`xaikit audit`: from names and folders to a page, at once or in shards."""

import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from xaikit.audit.auditing import QUICK, Audit, audited, concluded
from xaikit.audit.changes import PLACES
from xaikit.audit.concepts import EXAMPLE, concepts_for, read_concepts
from xaikit.audit.language import Language, load_language
from xaikit.audit.load import Loaded, load_classifier, outputs, weights_digest
from xaikit.audit.page import LIBRARIES
from xaikit.audit.parts import Parts
from xaikit.audit.photographs import Listed, Pictures, list_pictures, read_listed, region_names
from xaikit.audit.questions import FEWEST, WHOLE, Concept, Seen
from xaikit.audit.shards import counted_shard, fill, together
from xaikit.storage import keys
from xaikit.storage.arithmetic import VARIABLE
from xaikit.storage.files import read_json, write_text


def initialise(file: Path) -> Path:
    """Write concepts to start from. Raises ValueError where the file is there already."""
    if file.exists():
        raise ValueError(f"{file} is there already: remove it, or name another one with --concepts.")
    write_text(file, EXAMPLE)
    return file


def run_audit(
    model: str,
    images: Path,
    output: Path,
    *,
    labels: Path | None = None,
    masks: Path | None = None,
    concepts: Path | None = None,
    groups: Path | None = None,
    captions: Path | None = None,
    classes: Path | None = None,
    preprocessing: str = "",
    clip: Sequence[str] = (),
    captioner: str = "",
    most: int = 400,
    quick: bool = False,
    device: str | None = None,
    seed: int = 0,
    shards: int = 1,
    shard: int | None = None,
) -> Audit | None:
    """Audit a classifier and write the page and its tables; what each argument is, `xaikit audit --help` says.

    What is finished is kept in `output`/.parts, so that an audit that was stopped goes on where it was. Of several
    `shards` that is where each one is, for all processes that torchrun starts (RANK, WORLD_SIZE, LOCAL_RANK); the page
    is written by the first of them, and by none where one `shard` alone is asked for: the result is then None.
    """
    rank, world_size, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if shards < 1 or (shard is not None and not 0 <= shard < shards):
        raise ValueError(f"Shard {shard} of {shards}: shards count from 0, and there has to be one.")
    if world_size > 1 and shards == 1:
        raise ValueError(f"{world_size} processes share an audit by its shards: give --shards, {world_size} or more.")
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(local_rank % gpus)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = _lines(classes) if classes is not None else ()
    loaded = load_classifier(model, names, preprocessing=preprocessing, device=device)
    asked = read_concepts(concepts, loaded.look) if concepts is not None else None  # a slip should not cost minutes
    language = load_language(clip, captioner, device)
    listed = list_pictures(
        images, names=loaded.names, classes=outputs(loaded, device), labels=labels,
        most=min(most, QUICK) if quick else most,
    )  # fmt: skip
    loaded = replace(loaded, names=loaded.names or listed.named)
    beside: dict[str, Path | None] = {"masks": masks, "groups": groups, "captions": captions}
    given = {"labels": labels, **beside, "concepts": concepts, "classes": classes}
    words = ["xaikit", "audit", model, "--images", str(images)]
    words += [part for name, path in given.items() if path is not None for part in (f"--{name}", str(path))]
    words += ["--preprocessing", preprocessing] if preprocessing else []
    words += [part for name in clip for part in ("--clip", name)] + (["--captioner", captioner] if captioner else [])
    words += ["--most", str(most), "--seed", str(seed)] + (["--quick"] if quick else [])
    words += ["--shards", str(shards)] if shards > 1 else []
    options: dict[str, Any] = {"device": device, "seed": seed, "quick": quick}
    command = shlex.join([*words, "-o", str(output)])
    if shard is None and not rank:  # who writes the page
        _say_what_is_replaced(output, command)
    parts = Parts(
        output / ".parts",
        _key(loaded, listed, [labels, *beside.values()], asked, _digests(language), seed, quick, shards),
    )
    if shards == 1:
        pictures = read_listed(listed, loaded.look, **beside)
        found = audited(loaded, pictures, asked, language, **options, command=command, keep=parts.keep)
        found.save(output)
        parts.remove()
        return found

    began, chosen = time.monotonic(), _asked_of_shards(asked, listed, masks, shards)
    regions = [each.region for each in chosen if each.region not in ("", WHOLE, *PLACES)]

    def read(number: int) -> Pictures:
        return read_listed(listed.shard(number, shards), loaded.look, **beside, regions=regions)

    def make(number: int) -> dict[str, Any]:
        return counted_shard(loaded, read(number), chosen, **options, with_logits=number == 0)

    numbers = [f"shard {number} of {shards}" for number in range(shards)]
    if shard is not None:
        fill(parts, numbers[shard : shard + 1], lambda _: make(shard))
        return None
    fill(parts, numbers, make, rank=rank, world_size=world_size)
    if rank:
        return None
    held = [parts.keep(name, partial(make, number)) for number, name in enumerate(numbers)]
    every = together(held, read(0).seen)
    found = concluded(
        loaded, every.pictures, chosen, every.logits, every.answers, every.confidence, every.effects,
        every.removals, language=language, **options, command=command, began=began, keep=parts.keep,
    )  # fmt: skip
    found.save(output)
    return found


def _asked_of_shards(
    concepts: Sequence[Concept] | None, listed: Listed, masks: Path | None, shards: int
) -> tuple[Concept, ...]:
    """What every shard is asked. Raises ValueError where shards would ask different things, or are too small."""
    if len(listed.files) < shards * FEWEST:
        raise ValueError(
            f"{len(listed.files)} pictures make no {shards} shards of {FEWEST} or more: give fewer, or a larger --most."
        )
    if concepts is None and masks is not None:
        raise ValueError("Each shard would choose what to ask by its own masks: say it to all of them by --concepts.")
    if concepts is None:
        return tuple(concepts_for(Seen(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))))
    known = [WHOLE, *PLACES, *(region_names(masks, listed.ids) if masks is not None else ())]
    for each in concepts:
        if each.region and each.region not in known:
            raise ValueError(f"There are no masks of a region {each.region!r}: name one of {', '.join(known)}.")
    return tuple(concepts)


def _key(loaded: Loaded, listed: Listed, beside: Iterable[Path | None], *settings: Any) -> str:
    """All that the parts of an audit are made from: code, libraries, weights, files by size and time, and settings."""
    files = {*listed.files}
    for path in beside:
        files |= set() if path is None else {path} if path.is_file() else {*path.rglob("*")}
    found = [f"{file} {(about := file.stat()).st_size} {about.st_mtime_ns}" for file in sorted(files)]
    code = [file.read_bytes() for file in _written(loaded.source)]
    libraries = [version(name) for name in LIBRARIES]
    looks = [{name: value for name, value in vars(each).items() if not name.startswith("_")}
             for each in (loaded.look, loaded.model)]  # fmt: skip
    return keys.digest((
        keys.code_of(run_audit), code, libraries, os.environ.get(VARIABLE), loaded.digest, loaded.source, looks,
        "\n".join(found), listed.labels, settings,
    ))  # fmt: skip


def _digests(language: Language | None) -> dict[str, str]:
    """What pictures are read with, by its weights: a name may come to mean others."""
    if language is None:
        return {}
    towers = {name: clip.image_encoder for name, clip in language.clips.items() if clip.image_encoder is not None}
    found = {name: weights_digest(tower) for name, tower in towers.items()}
    if (captioner := language.captioner) is not None:
        found |= {
            "what it sees": weights_digest(captioner.image_encoder),
            "says": weights_digest(captioner.language.decoder),
        }
    return found


def _say_what_is_replaced(output: Path, command: str) -> None:
    """Say before minutes pass that the folder has the page of another audit."""
    with suppress(OSError, ValueError, AttributeError):
        before = read_json(output / "audit.json").get("command", "")
        if before != command:
            print(f"{output} has the page of another audit, which this one replaces: {before or 'of no command'}",
                  file=sys.stderr)  # fmt: skip


def _written(source: str) -> list[Path]:
    """The code that a user's classifier is made by, where that is known: the file, and those beside it."""
    file = Path(source.rpartition(":")[0] if ".py:" in source else source)
    if file.suffix == ".py":
        return sorted(file.parent.glob("*.py"))
    return [file] if file.is_file() else []


def _lines(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: write the classes' names into it, a line each.")
    return tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
