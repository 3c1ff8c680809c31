"""`xaikit audit`: from names and folders to a page."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from xaikit.audit.auditing import QUICK, Audit, audit
from xaikit.audit.concepts import EXAMPLE, read_concepts
from xaikit.audit.language import load_language
from xaikit.audit.load import load_classifier, outputs
from xaikit.audit.photographs import read_pictures
from xaikit.storage.files import write_text


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
) -> Audit:
    """Audit a classifier and write the page and its tables; what each argument is, `xaikit audit --help` says."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = _lines(classes) if classes is not None else ()
    loaded = load_classifier(model, names, preprocessing=preprocessing, device=device)
    asked = (
        read_concepts(concepts, loaded.look) if concepts is not None else None
    )  # soon: a slip should not cost minutes
    language = load_language(clip, captioner, device)
    pictures = read_pictures(
        images, loaded.look, names=loaded.names, classes=outputs(loaded, device), labels=labels, masks=masks,
        groups=groups, captions=captions, most=min(most, QUICK) if quick else most,
    )  # fmt: skip
    paths = {"labels": labels, "masks": masks, "concepts": concepts, "groups": groups, "captions": captions,
             "classes": classes}  # fmt: skip
    words = ["xaikit", "audit", model, "--images", str(images)]
    words += [part for name, path in paths.items() if path is not None for part in (f"--{name}", str(path))]
    words += ["--preprocessing", preprocessing] if preprocessing else []
    words += [part for name in clip for part in ("--clip", name)] + (["--captioner", captioner] if captioner else [])
    words += ["--most", str(most), "--seed", str(seed)] + (["--quick"] if quick else []) + ["-o", str(output)]
    found = audit(
        loaded, pictures, asked, language=language, device=device, seed=seed, quick=quick, command=shlex.join(words)
    )
    found.save(output)
    return found


def _lines(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: write the classes' names into it, a line each.")
    return tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
