"""Fetch what the paper profile needs.

    xaikit download --profile paper [--only NAME] [--to FOLDER]

What there is to fetch, from where and with which checksum stands in `data/manifest.toml`. What comes is whole and what
was asked for, or is named: a file is continued only where it is still the same one, is as long as was said, is no web
page, and has its checksum. Where nobody publishes one, an archive is read to its end, and the checksum of what was
first seen here is kept in `checksums.json` and compared from then on.
"""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import stat
import struct
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from xaikit.companion import profiles
from xaikit.storage.files import locked, write_text
from xaikit.storage.paths import DATA, DATASETS

MANIFEST = DATA / "manifest.toml"
ATTEMPTS = 3
PAUSE = 2.0  # seconds before the second attempt, doubled before each later one
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 20
LARGEST = 25 * 10**9  # bytes of a file whose size the manifest does not say
# An archive that unpacks to more than so many times its size, and these bytes, is a bomb: pictures hardly shrink, text
# by a factor of ten at most.
RATIO, ALLOWANCE = 20, 1 << 24
MOST_MEMBERS = 2_000_000
RECORD = "checksums.json"
# What reading a damaged archive raises: the modules of tar and zip trust much of what they read.
_DAMAGES = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, RuntimeError, NotImplementedError, OverflowError),
)
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class _Refused(ValueError):
    """An archive is whole, and yet nothing to unpack."""


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
    Raises ValueError for an unknown profile or entry and, at the end, RuntimeError that names the entries that failed,
    and those that are missing as they are to be put there by hand.
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
    done = {entry.name: _fetch_entry(entry, to) for entry in entries if only in (None, entry.name)}
    wrong = [
        f"{what}: {', '.join(names)}"
        for what in ("failed", "missing, to be put there by hand")
        if (names := [name for name, outcome in done.items() if outcome == what])
    ]
    if wrong:
        raise RuntimeError("; ".join(wrong))


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
    if not path.exists() and not file.urls:
        raise FileNotFoundError(f"{path} is missing and has no address to download it from.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{file.name}.lock")
    with locked(path.with_name(f"{file.name}.part")):  # one process continues a part, others wait and find it done
        try:
            return _fetched(file, path)
        finally:
            with suppress(OSError):
                lock.unlink()


def _fetched(file: File, path: Path) -> str:
    present, folder = path.exists(), path.parent
    if present:
        if problem := _problem(path, file):
            raise ValueError(f"{path} {problem}; delete it and run again.")
    else:
        _download(file, path)
    if file.unpack and not (folder / file.unpack).exists():
        _unpack(path, folder, file.unpack)
    known = file.sha256 or file.md5 or file.name in _recorded(folder)
    if not known:
        _record(path)
    done = ["already there" if present else "downloaded", "verified" if known else "first seen here, checksum recorded"]
    return ", ".join(done + ["unpacked"] * bool(file.unpack))


def _download(file: File, path: Path) -> None:
    """Fetch `file` from the first of its addresses that gives the right bytes."""
    part = path.with_name(f"{path.name}.part")
    problems = []
    for url in file.urls:
        try:
            _receive_with_retries(url, part, file)
            if problem := _problem(part, file):
                _forget(part)
                raise ValueError(f"what came {problem} and was deleted")
        except (OSError, HTTPException, ValueError) as error:
            problems.append(f"{url}: {error}")
        else:
            os.replace(part, path)
            _forget(part)
            return
    raise RuntimeError(f"{file.name} could not be downloaded ({'; '.join(problems)}).")


def _receive_with_retries(url: str, part: Path, file: File) -> None:
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return _receive(url, part, file)
        except (OSError, HTTPException) as error:
            hopeless = isinstance(error, HTTPError) and error.code in (301, 302, 303, 307, 308, 401, 403, 404, 410)
            if hopeless or attempt == ATTEMPTS - 1:
                raise


def _receive(url: str, part: Path, file: File) -> None:
    """Append what `part` lacks of `url`; begin again where the server cannot continue, or has another file by now."""
    start, validator = _continued(url, part, file)
    try:
        response = _open(url, start, validator)
    except HTTPError as error:
        if error.code != 416:  # the server has no byte beyond those in hand
            raise
        if _range(error) == f"bytes */{start}" and _still(error, validator):
            return
        response = _open(url, 0)
    with response:
        if response.status == 206 and not _range(response).startswith(f"bytes {start}-"):
            raise OSError("the server sent another part than the one asked for")
        if response.status == 206 and not _still(response, validator):
            _forget(part)
            raise OSError("the server has another file by now: what came of the first one was deleted")
        if response.status != 206:  # it knows no ranges, or has another file, and sends everything
            start = 0
        total = _total(response, start, file)
        _must_fit((total or 0) - start, part.parent, file.name)
        if not start:
            part.unlink(missing_ok=True)  # before another file's validator stands beside it
            write_text(_origin(part), json.dumps({"url": url, "validator": _strong(response)}) + "\n")
        most = file.size or total or LARGEST
        with (
            part.open("ab" if start else "wb") as sink,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while block := response.read(BLOCK):
                if sink.tell() + len(block) > most:
                    raise ValueError(f"more than the {most:,} bytes came that belong to it")
                bar.update(sink.write(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection broke off after {part.stat().st_size:,} of {total:,} bytes")


def _total(response: HTTPResponse, start: int, file: File) -> int | None:
    """How long the file is in the end; raises ValueError for an answer that cannot be the file."""
    kind = response.headers.get_content_type()
    if "html" in kind and not file.name.endswith((".html", ".htm")):
        raise ValueError(f"a web page ({kind}) came in its place, as where one has to log in")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError(f"it came as {response.headers['Content-Encoding']}, which was not asked for")
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    if total is None and not (file.size or file.sha256 or file.md5 or file.unpack):
        raise ValueError("the server does not say how long it is, so nothing would tell that it is whole")
    if total is not None and total != (file.size or total):
        raise ValueError(f"it has {total:,} bytes where {file.size:,} belong")
    if total is not None and total > (file.size or LARGEST):
        raise ValueError(f"it has {total:,} bytes, more than the {LARGEST:,} that are taken unasked")
    return total


def _continued(url: str, part: Path, file: File) -> tuple[int, str]:
    """Where to go on with `part`, and the validator that tells whether the server still has the same file.

    Without one only a checksum would tell in the end; without that either it is begun again.
    """
    try:
        origin = json.loads(_origin(part).read_text(encoding="utf-8"))
        validator = str(origin["validator"]) if origin["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        validator = ""
    start = part.stat().st_size if part.exists() else 0
    return (start, validator) if validator or file.sha256 or file.md5 else (0, "")


def _strong(response: Any) -> str:
    """The strong validator of what a server sends: its ETag, or a date well before it was sent; "" for none."""
    tag = response.headers.get("ETag", "")
    if tag:
        return "" if tag.startswith("W/") else tag
    try:
        changed, sent = (parsedate_to_datetime(response.headers[name]) for name in ("Last-Modified", "Date"))
        return response.headers["Last-Modified"] if (sent - changed).total_seconds() >= 60 else ""
    except (TypeError, ValueError):
        return ""


def _still(response: Any, validator: str) -> bool:
    found = response.headers.get("Last-Modified" if validator and validator[0] not in '"' else "ETag", validator)
    return not validator or found == validator


def _origin(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _origin(part).unlink(missing_ok=True)


class _OnlyHttps(HTTPRedirectHandler):
    """Follows redirects to https, and on this machine itself to http."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        target = urlsplit(newurl)
        if target.scheme != "https" and not (target.scheme == "http" and _is_this_machine(target.hostname)):
            raise ValueError(f"it is redirected to {newurl}, and only https is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_this_machine(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _open(url: str, start: int, validator: str = "") -> HTTPResponse:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https addresses are fetched")
    headers = {"User-Agent": "xaikit", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    return build_opener(_OnlyHttps).open(Request(url, headers=headers), timeout=TIMEOUT)


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
    if _is_web_page(path) and not file.name.endswith((".html", ".htm")):
        return "is a web page"
    if file.unpack and not (file.sha256 or file.md5 or recorded):
        try:
            _survey(path)
        except ValueError as error:
            return str(error)
    return ""


def _is_web_page(path: Path) -> bool:
    beginning = _begins(path, 1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return beginning.startswith((b"<!doctype html", b"<html"))


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    record = folder / RECORD
    try:
        found = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if not all(isinstance(each, dict) for each in found.values()):
            raise ValueError("it is no record")
        return found
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{record} is damaged; delete it and run again.") from error


def _record(path: Path) -> None:
    seen = {path.name: {"size": path.stat().st_size, "sha256": _digest(path, "sha256")}}
    write_text(path.with_name(RECORD), json.dumps(_recorded(path.parent) | seen, indent=2, sort_keys=True) + "\n")


def _unpack(archive: Path, folder: Path, leaves: str) -> None:
    """Unpack in a scratch folder and move all into `folder`, `leaves` last: that it exists means done."""
    for left in folder.glob(".unpacking-*"):  # of a process that was killed
        shutil.rmtree(left)
    try:
        needed = _survey(archive)
    except ValueError as error:
        raise ValueError(f"{archive.name} {error}; delete it and download it again.") from error
    _must_fit(needed, folder, archive.name)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as stream:
                stream.extractall(scratch)
        else:
            with tarfile.open(archive) as stream:
                stream.extractall(scratch, filter="data")
        if not (Path(scratch) / leaves).exists():
            raise ValueError(f"{archive.name} does not hold {leaves}; delete it and download it again.")
        for source in sorted(Path(scratch).iterdir(), key=lambda path: path.name == leaves):
            target = folder / source.name
            if target.is_dir():
                raise FileExistsError(f"{target} is in the way of what {archive.name} holds; move it away.")
            os.replace(source, target)


def _must_fit(needed: int, folder: Path, name: str) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        raise ValueError(f"{name} takes {needed:,} bytes, and the disk of {folder} has {free:,} left")


def _is_zip(archive: Path) -> bool:
    return _begins(archive, 2) == b"PK"


def _survey(archive: Path) -> int:
    """Read an archive to its end, checksums among it, and return how many bytes it unpacks to.

    Raises ValueError where it is damaged, cut short or a bomb, and where a member is no file or folder, or leaves the
    folder that it is unpacked in.
    """
    most, total = RATIO * archive.stat().st_size + ALLOWANCE, 0
    survey = _zip_members(archive) if _is_zip(archive) else _tar_members(archive, most)
    try:
        for count, (member, is_ordinary, size) in enumerate(survey, 1):
            path, total = PurePosixPath(member.replace("\\", "/")), total + size
            if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
                raise _Refused(f"would write outside its folder ({member})")
            if not is_ordinary:
                raise _Refused(f"holds {member}, which is a link or a device")
            if total > most or count > MOST_MEMBERS:
                raise _Refused(f"is a bomb: it unpacks to more than {most:,} bytes, or to too many files")
    except _Refused:
        raise
    except _DAMAGES as error:
        raise ValueError(f"is damaged ({error})") from error
    return total


def _zip_members(archive: Path) -> Iterator[tuple[str, bool, int]]:
    with zipfile.ZipFile(archive) as stream:
        for info in stream.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            yield info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), info.file_size
        if bad := stream.testzip():  # all sizes are known to be harmless by now
            raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")


def _tar_members(archive: Path, most: int) -> Iterator[tuple[str, bool, int]]:
    beginning = _begins(archive, 6)
    opened = next((open for magic, open in _COMPRESSED.items() if beginning.startswith(magic)), open)
    with opened(archive, "rb") as stream:
        counted = _Counted(stream, most + MOST_MEMBERS * tarfile.BLOCKSIZE)
        with tarfile.open(fileobj=counted, mode="r|") as members:
            for member in members:
                yield member.name, member.isreg() or member.isdir(), member.size
        while counted.read(BLOCK):  # to the checksum at the end, which tarfile does not look at
            pass
    if counted.last.strip(b"\0") or len(counted.last) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off")


def _begins(path: Path, length: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(length)


class _Counted:
    """A stream that keeps its last block and ends with an error where it gives too much."""

    def __init__(self, stream: Any, most: int) -> None:
        self.stream, self.left, self.last = stream, most, b""

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.left -= len(block)
        self.last = (self.last + block)[-tarfile.BLOCKSIZE :] if block else self.last
        if self.left < 0:
            raise _Refused("is a bomb: it unpacks to far more than it is")
        return block


def _fetch_entry(entry: Entry, root: Path) -> str:
    """Fetch the files of one entry, reporting each; return whether all are there, or what is wrong."""
    if entry.loader:
        print(f"{entry.name}: {entry.loader} fetches it when a notebook loads {entry.argument}")
        return "there"
    folder, outcome = root / entry.folder, "there"
    for file in entry.files:
        try:
            print(f"{entry.name}: {file.name}: {fetch(file, folder)}")
        except FileNotFoundError:
            print(f"{entry.name}: {file.name}: by hand, into {folder}: {entry.by_hand}")
            outcome = "missing, to be put there by hand" if outcome == "there" else outcome
        except (OSError, RuntimeError, ValueError) as error:
            print(f"error: {entry.name}: {error}", file=sys.stderr)
            outcome = "failed"
    return outcome
