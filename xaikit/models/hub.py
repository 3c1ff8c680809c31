"""Models that do not ship: from a folder, or from one commit of a repository at the Hugging Face hub.

What a repository's branch holds may change, so a name is loaded at the commit that is pinned behind it
("owner/name@COMMIT"; in a profile the key `revision`). Where none is pinned, it is the commit that was seen here first:
it is kept among the data in `first-seen-models.json`, as is the sha256 of every file, and each later load is held
against both. Weights are safetensors, and code that comes with a model is refused (`cards.refuse_custom_code`).
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import open_clip
import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME

from xaikit.models.cards import RESTORE, check_folder, refuse_custom_code
from xaikit.storage import paths
from xaikit.storage.files import locked, write_text

FIRST_SEEN = "first-seen-models.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LAYER = re.compile(r"\b(layers?|blocks?|resblocks|resnets|attentions)\.\d+\.")


@dataclass(frozen=True)
class Source:
    """Where a model comes from: `name` for its library, the commit (None for a folder), and where its files lie."""

    name: str
    revision: str | None
    folder: Path
    asked: str  # with the commit, where one is pinned

    @property
    def options(self) -> dict[str, Any]:
        """What a library's from_pretrained is given beside the name."""
        return {} if self.revision is None else {"revision": self.revision}


def named(settings: Mapping[str, Any]) -> str:
    """The name in a profile's table, with the commit of its key `revision` behind it where it has one."""
    return f"{settings['name']}@{settings['revision']}" if settings.get("revision") else settings["name"]


def find(name: str | Path, first: str = "config.json") -> Source:
    """The source of a model: a folder that has the file `first`, or "owner/name" or "owner/name@COMMIT" at the hub.

    Of the hub's model `first` is downloaded where it is not here yet. Raises ValueError for a folder without that file
    or with files that are not its card's, a pin that is no commit, a repository that cannot be reached, files that are
    not those seen first, and a model that asks for code of its own.
    """
    folder = Path(name)
    if folder.is_absolute() or folder.is_dir():
        if not (folder / first).is_file():
            raise ValueError(f"{folder} holds no {first}, so no whole model; {RESTORE}.")
        check_folder(folder)
        return Source(str(folder), None, folder, str(folder))
    repository, _, pinned = str(name).partition("@")
    if pinned and not _COMMIT.fullmatch(pinned):
        raise ValueError(f"{name} pins {pinned!r}, which may move; pin a commit, 40 digits 0-9a-f.")
    seen = _seen().get(str(name), {})
    with said(f"The model {name}"):
        file = Path(hf_hub_download(repository, first, revision=pinned or seen.get("commit")))
    source = Source(repository, file.parent.name, file.parent, str(name))
    for each, digest in seen.get("files", {}).items():
        if (source.folder / each).is_file() and _sha256(source.folder / each) != digest:
            raise ValueError(
                f"{source.folder / each} is not the file that was first seen here; delete it, or its entry {name!r} in "
                f"{paths.DATASETS / FIRST_SEEN} if it may be another one."
            )
    refuse_custom_code(source.folder)
    return source


def remember(source: Source) -> None:
    """Record, now that all is loaded, the commit and the files of a model of the hub that were not seen before."""
    if source.revision is None:
        return
    refuse_custom_code(source.folder)  # of what came since
    path = paths.DATASETS / FIRST_SEEN
    try:
        with locked(path):
            records = _seen()
            known = records.setdefault(source.asked, {"commit": source.revision, "files": {}})["files"]
            files = (file for file in sorted(source.folder.rglob("*")) if file.is_file())
            new = {file.relative_to(source.folder).as_posix(): file for file in files}
            new = {name: _sha256(file) for name, file in new.items() if name not in known}
            if new:
                known.update(new)
                write_text(path, json.dumps(records, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        warnings.warn(f"That {source.asked} was seen here cannot be recorded in {path}: {error}", stacklevel=3)


def load_whole(kind: Any, source: Source, *, may_lack: str = "", **options: Any) -> Any:
    """`kind.from_pretrained` of transformers or diffusers, which has all weights that its configuration asks for.

    The libraries make up what is missing and leave out layers that the configuration does not count. `may_lack` is a
    part of the names of weights that are to be new. Raises ValueError where another one is missing or a layer is left.
    """
    pickled = source.revision is not None and "subfolder" not in options and _only_pickled(source)
    try:
        model, report = kind.from_pretrained(
            source.folder if pickled else source.name,  # by its name, it would ask the hub to convert them
            **({} if pickled else source.options),
            **options,
            use_safetensors=not pickled,  # transformers has `weights_only` by default
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # it is said here, in a sentence
        )
    except UnpicklingError as error:
        raise ValueError(
            f"The weights of {source.asked} hold more than tensors, which may be code that runs when it is read: it "
            "was not; restore or download them again."
        ) from error
    lacks = sorted(name for name in report["missing_keys"] if not may_lack or may_lack not in name)
    wrong = sorted(str(each[0] if isinstance(each, tuple | list) else each) for each in report["mismatched_keys"])
    left = sorted(name for name in report["unexpected_keys"] if _LAYER.search(name))
    for names, what in (
        (lacks, "lack"),
        (wrong, "have another size of"),
        (left, "have, and its configuration has not,"),
    ):
        if names:
            others = f" and {len(names) - 1} others" if len(names) > 1 else ""
            raise ValueError(
                f"Weights and configuration of {source.asked} do not belong together: the weights {what} "
                f"{names[0]}{others}; restore or download both again."
            )
    return model


def _only_pickled(source: Source) -> bool:
    """Whether a repository has no safetensors, but torch's own file, which is here then."""
    for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME):
        try:
            hf_hub_download(source.name, file, revision=source.revision)
        except EntryNotFoundError:
            continue
        return file == WEIGHTS_NAME
    return False


def timm_model(name: str, *, pretrained: bool = True, revision: str | None = None, **options: Any) -> nn.Module:
    """`timm.create_model`, with the weights of the one commit of their repository that `find` names.

    Raises ValueError for a name that timm does not know, and as `find` does.
    """
    scheme, _, own = name.rpartition(":")
    if scheme == "local-dir":
        check_folder(Path(own))
        repository, pinned = "", ""
    else:
        own, _, pinned = own.partition("@")
        known = None if scheme or not pretrained else timm.get_pretrained_cfg(own)
        repository = own if scheme else known.hf_hub_id if known else ""
    with said(f"The timm model {name!r}"):
        if not repository:
            return timm.create_model(f"{scheme}:{own}" if scheme else own, pretrained=pretrained, **options)
        commit = revision or pinned
        source = find(f"{repository}@{commit}" if commit else repository)
        at = f"{source.name}@{source.revision}"
        if scheme:
            model = timm.create_model(f"{scheme}:{at}", pretrained=pretrained, **options)
        else:
            model = timm.create_model(own, pretrained=True, pretrained_cfg_overlay={"hf_hub_id": at}, **options)
    remember(source)
    return model


@contextmanager
def said(what: str) -> Iterator[None]:
    """Raise ValueError in a sentence for what libraries raise of a folder or repository that they cannot load."""
    try:
        yield
    except (OSError, EntryNotFoundError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ValueError) and len(str(error).splitlines()) == 1:
            raise
        if isinstance(error, URLError):
            raise ValueError(
                f"{what} cannot be fetched ({error.reason}): fetch it where its server can be reached, or name a file."
            ) from error
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{what} cannot be loaded: {reason}") from error


@contextmanager
def clip_weights(name: str, pretrained: str | None, revision: str | None) -> Iterator[None]:
    """Inside, open_clip finds the weights of a tag in the one commit of their repository, as `find` has it.

    A tag of which no repository is known is left to open_clip, which checks a sha256 there. Raises ValueError as `find`
    does, and for a `revision` where there is no repository.
    """
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained and ":" not in name else {}
    if not tag.get("hf_hub") or "file" in tag:
        if revision:
            raise ValueError(f"{name} with the weights {pretrained!r} has no repository whose revision can be pinned.")
        yield
        return
    repository, _, file = tag["hf_hub"].rpartition("/")
    source = _clip_source(f"{repository}@{revision}" if revision else repository, file)
    tag["file"] = str(next(path for path in map(source.folder.joinpath, _clip_files(file)) if path.is_file()))
    try:
        yield
    finally:
        del tag["file"]
    remember(source)


def _clip_files(file: str) -> list[str]:
    return [open_clip.constants.HF_SAFE_WEIGHTS_NAME, file or open_clip.constants.HF_WEIGHTS_NAME]


def _clip_source(name: str, file: str) -> Source:
    """Safetensors where the repository has them, else what open_clip reads as nothing but tensors."""
    safe, other = _clip_files(file)
    try:
        return find(name, safe)
    except ValueError as error:
        if not isinstance(error.__cause__, EntryNotFoundError):
            raise
        return find(name, other)


def _seen() -> dict[str, dict[str, Any]]:
    path = paths.DATASETS / FIRST_SEEN
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and what is loaded next counts as first.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
