"""Fetch what the paper profile needs.

    xaikit download --profile paper [--only NAME] [--to FOLDER]

What there is to fetch, from where and with which checksum stands in `data/manifest.toml`.
"""

import hashlib
import json
import os
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from xaikit.companion import profiles
from xaikit.storage.paths import DATA, DATASETS

MANIFEST = DATA / "manifest.toml"
ATTEMPTS = 3
PAUSE = 2.0  # seconds before the second attempt, doubled before each later one
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 20


@dataclass(frozen=True)
class File:
    """A file of an entry: its addresses, how to know it, and the folder that unpacking it leaves."""

    name: str
    urls: Sequence[str] = ()
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    unpack: str = ""


@dataclass(frozen=True)
class Entry:
    """A data set (`files` under `folder`) or a model that a library (`loader`) fetches under `argument`."""

    name: str
    used_by: Sequence[str]
    kind: str
    licence: str
    status: str
    folder: str = ""
    by_hand: str = ""
    files: Sequence[File] = ()
    loader: str = ""
    argument: str = ""
    repository: str = ""  # at the Hugging Face hub, where the argument does not name it


def download(profile: str, *, only: str | None = None, to: Path = DATASETS) -> None:
    """Fetch what a profile needs, or its entry `only`, into the folder `to`, and say, a line a file, what was done.

    A failure is said on stderr, and the other entries are fetched all the same.
    Raises ValueError for an unknown profile or entry and, at the end, RuntimeError that names the entries that failed.
    """
    profiles.check(profile)
    if profile == "mini":
        print("The mini profile has nothing to download: --profile paper has.")
        return
    if profiles.rehearses(profile):
        print(f"The profile {profile} runs on stand-ins, which it writes first: there is nothing to download.")
        return
    entries = read_manifest(MANIFEST)
    names = [entry.name for entry in entries]
    if only is not None and only not in names:
        raise ValueError(f"{only!r} is none of {', '.join(names)}.")
    failed = [entry.name for entry in entries if only in (None, entry.name) and not _fetch_entry(entry, to)]
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


def read_manifest(path: Path = MANIFEST) -> list[Entry]:
    """The entries of a manifest. Raises ValueError where one has a field too many or too few."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["entry"]
    try:
        return [Entry(**{**table, "files": [File(**file) for file in table.get("files", ())]}) for table in tables]
    except TypeError as error:
        raise ValueError(f"{path} has an entry that is not of the manifest's form: {error}.") from error


def fetch(file: File, folder: Path) -> str:
    """Bring `file` into `folder`, verified and unpacked, and return what was done in a few words.

    A checksum that nobody publishes is recorded in `checksums.json` at first sight and holds from then on.
    Raises RuntimeError where no address gives the right file, ValueError where the one in `folder` is wrong
    or damaged, FileNotFoundError where it has no address, FileExistsError where unpacking would overwrite.
    """
    if file.unpack and (folder / file.unpack).exists():
        return "already there, unpacked"
    path = folder / file.name
    present = path.exists()
    if present:
        if problem := _problem(path, file):
            raise ValueError(f"{path} {problem}; delete it and run again.")
    elif file.urls:
        folder.mkdir(parents=True, exist_ok=True)
        _download(file, path)
    else:
        raise FileNotFoundError(f"{path} is missing and has no address to download it from.")
    if file.unpack:
        _unpack(path, folder, file.unpack)
    known = file.sha256 or file.md5 or file.name in _recorded(folder)
    if not known:
        _record(path)
    done = ["already there" if present else "downloaded", "verified" if known else "checksum recorded"]
    return ", ".join(done + ["unpacked"] * bool(file.unpack))


def _download(file: File, path: Path) -> None:
    """Fetch `file` from the first of its addresses that gives the right bytes."""
    part = path.with_name(f"{path.name}.part")
    problems = []
    for url in file.urls:
        try:
            _receive_with_retries(url, part)
            if problem := _problem(part, file):
                part.unlink()
                raise ValueError(f"what came {problem} and was deleted")
        except (OSError, HTTPException, ValueError) as error:
            problems.append(f"{url}: {error}")
        else:
            os.replace(part, path)
            return
    raise RuntimeError(f"{file.name} could not be downloaded ({'; '.join(problems)}).")


def _receive_with_retries(url: str, part: Path) -> None:
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return _receive(url, part)
        except (OSError, HTTPException) as error:
            hopeless = isinstance(error, HTTPError) and error.code in (401, 403, 404, 410)
            if hopeless or attempt == ATTEMPTS - 1:
                raise


def _receive(url: str, part: Path) -> None:
    """Append what `part` lacks of `url`; begin again where the server cannot continue."""
    start = part.stat().st_size if part.exists() else 0
    try:
        response = _open(url, start)
    except HTTPError as error:
        if error.code != 416:  # the server has no byte beyond those in hand
            raise
        if _range(error) == f"bytes */{start}":
            return
        response = _open(url, 0)
    with response:
        if response.status == 206 and not _range(response).startswith(f"bytes {start}-"):
            raise OSError("the server sent another part than the one asked for")
        if response.status != 206:  # it knows no ranges, and sends everything
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            part.open("ab" if start else "wb") as sink,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while block := response.read(BLOCK):
                bar.update(sink.write(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection broke off after {part.stat().st_size:,} of {total:,} bytes")


def _open(url: str, start: int) -> HTTPResponse:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https addresses are fetched")
    headers = {"User-Agent": "xaikit"} | ({"Range": f"bytes={start}-"} if start else {})
    return urlopen(Request(url, headers=headers), timeout=TIMEOUT)


def _range(response: HTTPResponse | HTTPError) -> str:
    return response.headers.get("Content-Range", "")


def _problem(path: Path, file: File) -> str:
    """What is wrong with `path` by the manifest, or else by the record of its folder; "" for nothing."""
    recorded = _recorded(path.parent).get(file.name, {})
    size, found = file.size or recorded.get("size"), path.stat().st_size
    if size and found != size:
        return f"has {found:,} bytes where {size:,} belong"
    for algorithm, expected in (("sha256", file.sha256 or recorded.get("sha256")), ("md5", file.md5)):
        if expected and _digest(path, algorithm) != expected:
            return f"does not have the {algorithm} {expected}"
    return ""


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _recorded(folder: Path) -> dict[str, dict]:
    record = folder / "checksums.json"
    try:
        return json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    except ValueError as error:
        raise ValueError(f"{record} is damaged; delete it and run again.") from error


def _record(path: Path) -> None:
    records = _recorded(path.parent)
    records[path.name] = {"size": path.stat().st_size, "sha256": _digest(path, "sha256")}
    part = path.with_name("checksums.json.part")
    part.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path.with_name("checksums.json"))


def _unpack(archive: Path, folder: Path, leaves: str) -> None:
    """Unpack in a scratch folder and move all into `folder`, `leaves` last: that it exists means done."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        _extract(archive, Path(scratch))
        if not (Path(scratch) / leaves).exists():
            raise ValueError(f"{archive.name} does not hold {leaves}; delete it and download it again.")
        for source in sorted(Path(scratch).iterdir(), key=lambda path: path.name == leaves):
            target = folder / source.name
            if target.is_dir():
                raise FileExistsError(f"{target} is in the way of what {archive.name} holds; move it away.")
            os.replace(source, target)


def _extract(archive: Path, scratch: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as stream:
                names = [PurePosixPath(name.replace("\\", "/")) for name in stream.namelist()]
                if strays := [name for name in names if name.is_absolute() or ".." in name.parts]:
                    raise ValueError(f"{archive.name} would write outside its folder ({strays[0]}); delete it.")
                stream.extractall(scratch)
        else:
            with tarfile.open(archive) as stream:
                stream.extractall(scratch, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(f"{archive.name} would write outside its folder ({error}); delete it.") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive.name} is damaged ({error}); delete it and download it again.") from error


def _fetch_entry(entry: Entry, root: Path) -> bool:
    """Fetch the files of one entry, reporting each; return whether none failed."""
    if entry.loader:
        print(f"{entry.name}: {entry.loader} fetches it when a notebook loads {entry.argument}")
        return True
    folder, well = root / entry.folder, True
    for file in entry.files:
        try:
            print(f"{entry.name}: {file.name}: {fetch(file, folder)}")
        except FileNotFoundError:
            print(f"{entry.name}: {file.name}: by hand, into {folder}: {entry.by_hand}")
        except (OSError, RuntimeError, ValueError) as error:
            print(f"error: {entry.name}: {error}", file=sys.stderr)
            well = False
    return well
