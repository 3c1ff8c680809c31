"""The downloader, against a server on this machine that behaves well, badly, and not at all."""

import hashlib
import io
import json
import shutil
import tarfile
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from xaikit.__main__ import app
from xaikit.companion import download, profiles
from xaikit.companion.download import Entry, File, fetch
from xaikit.storage import paths
from xaikit.storage.paths import ROOT

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves the dictionary of its server; the first folder of a path says how."""

    def do_GET(self) -> None:
        manner, name = self.path.strip("/").split("/")
        self.server.requests.append((self.path, self.headers.get("Range")))
        body = self.server.files.get(name)
        if manner in ("ftp", "http", "file", "here"):
            self.send_response(302)
            self.send_header("Location", self.server.targets[manner])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if manner in ("page", "hidden-page"):
            body = b"\n <!DOCTYPE html><title>Log in</title>"
        tag = f'"{hashlib.md5(body or b"").hexdigest()}"' if manner.startswith("tagged") else ""
        if manner == "tagged-weakly":
            tag = f"W/{tag}"
        condition = self.headers.get("If-Range")
        self.server.conditions.append(condition)
        if condition not in (None, tag) and manner != "tagged-wrongly":
            del self.headers["Range"]
        if body is None or manner == "gone":
            return self.send_error(404)
        if manner == "flaky" and len(self.server.requests) < 3:
            return self.send_error(503)
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if manner != "plain" else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        partial = "Range" in self.headers and manner != "plain"
        self.send_response(206 if partial else 200)
        if partial:
            shift = 1 if manner == "shifted" else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(body) - 1}/{len(body)}")
        if tag:
            self.send_header("ETag", tag)
        if manner == "page":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if manner == "gzipped":
            self.send_header("Content-Encoding", "gzip")
        said = len(body) - start + (10**12 if manner == "huge" else 0)
        if manner not in ("endless", "silent"):
            self.send_header("Content-Length", str(said))
        self.end_headers()
        rest = body[start:]
        if manner == "endless":
            rest = rest * 20
        self.wfile.write(rest[: len(rest) // 2] if manner == "broken" else rest)

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"data.bin": CONTENT}
        self.requests: list[tuple[str, str | None]] = []
        self.conditions: list[str | None] = []
        self.targets = {
            "ftp": "ftp://127.0.0.1/data.bin", "http": "http://example.invalid/data.bin", "file": "file:///etc/hostname",
            "here": self.url("good/data.bin"),
        }  # fmt: skip

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def file(self, manner: str = "good", **fields: object) -> File:
        return File("data.bin", urls=[self.url(f"{manner}/data.bin")], **fields)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files


def test_fresh_download_is_verified_and_leaves_no_part(server: Server, tmp_path: Path) -> None:
    file = server.file(size=len(CONTENT), sha256=SHA256)
    assert fetch(file, tmp_path / "new") == "downloaded, verified"
    assert (tmp_path / "new" / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["data.bin"]
    assert fetch(file, tmp_path / "new") == "already there, verified"
    assert len(server.requests) == 1


def test_part_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    fetch(server.file(sha256=SHA256), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=1000-"]


def test_complete_part_is_only_verified(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    fetch(server.file(sha256=SHA256), tmp_path)
    assert names(tmp_path) == ["data.bin"]


def test_part_that_is_too_long_is_begun_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    fetch(server.file(sha256=SHA256), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    fetch(server.file("plain", sha256=SHA256), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_server_that_sends_another_part_is_not_trusted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(RuntimeError, match="another part"):
        fetch(server.file("shifted", sha256=SHA256), tmp_path)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:1000]


def test_broken_connection_is_retried_and_keeps_what_came(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broke off after 8,960 of 10,240 bytes"):
        fetch(server.file("broken", sha256=SHA256), tmp_path)
    asked = [asked for _, asked in server.requests]
    assert asked == [None, "bytes=5120-", "bytes=7680-"]
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:8960]
    fetch(server.file(sha256=SHA256), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_busy_server_is_asked_three_times(server: Server, tmp_path: Path) -> None:
    fetch(server.file("flaky", sha256=SHA256), tmp_path)
    assert len(server.requests) == 3


def test_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    urls = [server.url("gone/data.bin"), server.url("good/data.bin")]
    fetch(File("data.bin", urls=urls, sha256=SHA256), tmp_path)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"sha256": "0" * 64}, "sha256 0000"),
        ({"md5": "0" * 32}, "md5 0000"),
        ({"size": 10_241}, "has 10,240 bytes where 10,241 belong"),
    ],
)
def test_wrong_file_is_deleted_and_said(server: Server, tmp_path: Path, expected, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        fetch(server.file(**expected), tmp_path)
    assert names(tmp_path) == []


def test_wrong_file_that_is_already_there_is_not_touched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match="delete it and run again"):
        fetch(server.file(sha256=SHA256), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"mine" and not server.requests


def test_unknown_checksum_is_recorded_and_holds_from_then_on(server: Server, tmp_path: Path) -> None:
    assert fetch(server.file(), tmp_path) == "downloaded, first seen here, checksum recorded"
    record = json.loads((tmp_path / "checksums.json").read_text())
    assert record == {"data.bin": {"size": len(CONTENT), "sha256": SHA256}}
    assert fetch(server.file(), tmp_path) == "already there, verified"
    (tmp_path / "data.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match="sha256"):
        fetch(server.file(), tmp_path)
    (tmp_path / "checksums.json").write_text("{")
    with pytest.raises(ValueError, match=r"checksums\.json is damaged"):
        fetch(server.file(), tmp_path)


# What a server may do


def interrupted(server: Server, folder: Path, manner: str) -> None:
    """A download of which a thousand bytes came before it was killed."""
    url = server.url(f"{manner}/data.bin")
    (folder / "data.bin.part").write_bytes(CONTENT[:1000])
    tag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
    (folder / "data.bin.part.json").write_text(json.dumps({"url": url, "validator": tag}))


def test_what_is_continued_is_still_the_same_file(server: Server, tmp_path: Path) -> None:
    interrupted(server, tmp_path, "tagged")
    fetch(server.file("tagged"), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests[0][1] == "bytes=1000-" and server.conditions == [f'"{hashlib.md5(CONTENT).hexdigest()}"']
    assert names(tmp_path) == ["checksums.json", "data.bin"]


def test_what_has_changed_meanwhile_is_begun_again(server: Server, tmp_path: Path) -> None:
    server.files["data.bin"] = CONTENT[::-1]
    interrupted(server, tmp_path, "tagged")
    fetch(server.file("tagged"), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT[::-1]


def test_a_server_that_continues_another_file_is_not_trusted(server: Server, tmp_path: Path) -> None:
    server.files["data.bin"] = CONTENT[::-1]
    interrupted(server, tmp_path, "tagged-wrongly")
    fetch(server.file("tagged-wrongly"), tmp_path)  # deleted and begun again
    assert (tmp_path / "data.bin").read_bytes() == CONTENT[::-1]
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize("manner", ["good", "tagged-weakly"])
def test_without_a_strong_validator_or_a_checksum_nothing_is_continued(
    server: Server, tmp_path: Path, manner: str
) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    fetch(server.file(manner), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None]
    assert download._strong(SimpleNamespace(headers={"ETag": 'W/"a"'})) == ""
    sent = "Tue, 15 Nov 1994 12:46:31 GMT"
    for changed, validator in (("Tue, 15 Nov 1994 12:46:01 GMT", ""), ("Tue, 15 Nov 1994 12:45:26 GMT", ...)):
        found = download._strong(SimpleNamespace(headers={"Last-Modified": changed, "Date": sent}))
        assert found == (changed if validator is ... else validator)


@pytest.mark.parametrize(
    ("manner", "sentence"),
    [
        ("page", r"a web page \(text/html\) came in its place"),
        ("hidden-page", "what came is a web page and was deleted"),
        ("gzipped", "it came as gzip, which was not asked for"),
        ("silent", "does not say how long it is"),
        ("huge", "bytes, more than the 25,000,000,000 that are taken unasked"),
        ("ftp", "it is redirected to ftp://127.0.0.1/data.bin, and only https is followed"),
        ("http", "it is redirected to http://example.invalid/data.bin, and only https is followed"),
        ("file", "Redirection to url 'file:///etc/hostname' is not allowed"),
    ],
)
def test_what_was_not_asked_for_is_refused_at_once(server: Server, tmp_path: Path, manner: str, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        fetch(server.file(manner), tmp_path)
    assert len(server.requests) == 1 and names(tmp_path) == []


def test_a_redirect_within_this_machine_is_followed(server: Server, tmp_path: Path) -> None:
    assert fetch(server.file("here", sha256=SHA256), tmp_path) == "downloaded, verified"


def test_no_more_bytes_come_than_belong(server: Server, tmp_path: Path) -> None:
    for size, sentence in ((len(CONTENT), "more than the 10,240 bytes came"), (99, "10,240 bytes where 99 belong")):
        with pytest.raises(RuntimeError, match=sentence):
            fetch(server.file("endless" if size > 99 else "good", size=size), tmp_path)
        assert (tmp_path / "data.bin.part").stat().st_size <= len(CONTENT) if size > 99 else True


def test_two_processes_download_once(server: Server, tmp_path: Path) -> None:
    done: list[str] = []
    threads = [threading.Thread(target=lambda: done.append(fetch(server.file(), tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == ["already there, verified"] * 2 + ["downloaded, first seen here, checksum recorded"]
    assert len(server.requests) == 1 and names(tmp_path) == ["checksums.json", "data.bin"]


def test_a_web_page_that_was_put_there_by_hand_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\xef\xbb\xbf<html><body>Sign in</body>")
    with pytest.raises(ValueError, match=r"data\.bin is a web page; delete it"):
        fetch(File("data.bin"), tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/data.bin"])
def test_other_protocols_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RuntimeError, match="only http and https"):
        fetch(File("data.bin", urls=[url]), tmp_path)
    assert names(tmp_path) == []


# Archives


def make_tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def make_zip(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_archives_are_unpacked_once(server: Server, tmp_path: Path, make) -> None:
    server.files["data.bin"] = make({"birds/a.txt": b"a", "birds/b/c.txt": b"c", "notes.txt": b"n"})
    assert fetch(server.file(unpack="birds"), tmp_path) == "downloaded, first seen here, checksum recorded, unpacked"
    assert (tmp_path / "birds" / "b" / "c.txt").read_bytes() == b"c"
    assert names(tmp_path) == ["birds", "checksums.json", "data.bin", "notes.txt"]
    (tmp_path / "data.bin").unlink()
    assert fetch(server.file(unpack="birds"), tmp_path) == "already there, unpacked"
    assert len(server.requests) == 1


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_archives_cannot_write_outside(server: Server, tmp_path: Path, make) -> None:
    server.files["data.bin"] = make({"birds/a.txt": b"a", "../../escaped.txt": b"!"})
    inner = tmp_path / "inner"
    with pytest.raises(
        RuntimeError, match=r"what came would write outside its folder \(../../escaped.txt\) and was del"
    ):
        fetch(server.file(unpack="birds"), inner)
    assert names(inner) == [] and names(tmp_path) == ["inner"]
    known = server.file(unpack="birds", sha256=hashlib.sha256(server.files["data.bin"]).hexdigest())
    with pytest.raises(
        ValueError, match=r"data\.bin would write outside its folder .*; delete it and download it again"
    ):
        fetch(known, inner)
    assert names(inner) == ["data.bin"] and names(tmp_path) == ["inner"]


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_damaged_archives_are_named(server: Server, tmp_path: Path, make) -> None:
    whole = make({"birds/a.txt": bytes(range(256)) * 100})
    server.files["data.bin"] = whole[: len(whole) // 2]
    with pytest.raises(RuntimeError, match=r"what came is damaged .* and was deleted"):
        fetch(server.file(unpack="birds"), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_no_flipped_bit_of_an_archive_gets_a_checksum(tmp_path: Path, make) -> None:
    """Above all those behind the last byte that tarfile reads."""
    whole = make({"birds/a.txt": bytes(range(256)) * 20, "birds/b.txt": b"b" * 99})
    path, wrong = tmp_path / "data.bin", 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            fetch(File("data.bin", unpack="birds"), tmp_path)
        except ValueError:
            wrong += 1
            continue
        # What gzip and zip say of times, systems and comments is in no checksum; what is unpacked is right.
        assert (tmp_path / "birds" / "a.txt").read_bytes() == bytes(range(256)) * 20
        shutil.rmtree(tmp_path / "birds")
        (tmp_path / "checksums.json").unlink()
    assert wrong > 0.75 * len(whole)
    path.write_bytes(
        whole[:-8] + bytes(8) if make is make_tar else whole[:-30]
    )  # the last bytes of gzip are its checksum
    with pytest.raises(ValueError, match="is damaged"):
        fetch(File("data.bin", unpack="birds"), tmp_path)
    assert names(tmp_path) == ["data.bin"]


def special(kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("birds/odd")
        info.type, info.linkname = kind, "a.txt"
        archive.addfile(info)
    return stream.getvalue()


def link_in_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("birds/odd")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "a.txt")
    return stream.getvalue()


HARMFUL = {
    "symlink": (special(tarfile.SYMTYPE), "holds birds/odd, which is a link or a device"),
    "hard link": (special(tarfile.LNKTYPE), "holds birds/odd, which is a link or a device"),
    "device": (special(tarfile.BLKTYPE), "holds birds/odd, which is a link or a device"),
    "pipe": (special(tarfile.FIFOTYPE), "holds birds/odd, which is a link or a device"),
    "link in a zip": (link_in_zip(), "holds birds/odd, which is a link or a device"),
    "absolute": (make_tar({"/birds/a.txt": b"a"}), "would write outside its folder"),
    "absolute in a zip": (make_zip({"/birds/a.txt": b"a"}), "would write outside its folder"),
    "backslashes": (make_zip({"..\\birds.txt": b"a"}), "would write outside its folder"),
    "a drive": (make_zip({"C:/birds.txt": b"a"}), "would write outside its folder"),
    "bomb": (make_tar({"birds/a.txt": bytes(40_000_000)}), "is a bomb: it unpacks to more than"),
    "no archive": (b"only text", "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_archives_are_refused(server: Server, tmp_path: Path, name: str) -> None:
    server.files["data.bin"], sentence = HARMFUL[name]
    with pytest.raises(RuntimeError, match=f"what came {sentence}.* and was deleted"):
        fetch(server.file(unpack="birds"), tmp_path)
    (tmp_path / "data.bin").write_bytes(server.files["data.bin"])  # put there by hand
    with pytest.raises(ValueError, match=sentence):
        fetch(File("data.bin", unpack="birds"), tmp_path)
    assert names(tmp_path) == ["data.bin"]


def test_a_bomb_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("birds/a.txt", bytes(40_000_000))
    with pytest.raises(ValueError, match="is a bomb"):
        fetch(File("data.bin", unpack="birds"), tmp_path)


def test_an_archive_that_was_cut_while_it_was_unpacked_is_unpacked_again(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(make_tar({"birds/a.txt": b"a"}))
    (tmp_path / ".unpacking-killed").mkdir()
    assert fetch(File("data.bin", unpack="birds"), tmp_path).endswith("unpacked")
    assert names(tmp_path) == ["birds", "checksums.json", "data.bin"]


def test_a_disk_that_is_too_small_is_said_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(RuntimeError, match=r"data\.bin takes 10,240 bytes, and the disk of .* has 9 left"):
        fetch(server.file(sha256=SHA256), tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "data.bin").write_bytes(make_zip({"birds/a.txt": b"a" * 99}))
    with pytest.raises(ValueError, match="takes 99 bytes, and the disk"):
        fetch(File("data.bin", unpack="birds"), tmp_path)


def test_archive_without_what_it_should_leave_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["data.bin"] = make_tar({"cats/a.txt": b"a"})
    with pytest.raises(ValueError, match="does not hold birds"):
        fetch(server.file(unpack="birds"), tmp_path)
    assert names(tmp_path) == ["data.bin"]


def test_unpacking_overwrites_no_folder(server: Server, tmp_path: Path) -> None:
    server.files["data.bin"] = make_tar({"birds/a.txt": b"a", "extra/b.txt": b"b"})
    (tmp_path / "extra").mkdir()
    with pytest.raises(FileExistsError, match="in the way"):
        fetch(server.file(unpack="birds"), tmp_path)
    assert names(tmp_path) == ["data.bin", "extra"]


# Command line


@pytest.fixture
def entries(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    common = {"used_by": ["01_caption_driven"], "licence": "none", "status": "test"}
    entries = [
        Entry("digits", kind="data", folder="d", files=[server.file(sha256=SHA256)], **common),
        Entry("cars", kind="data", folder="c", by_hand="copy it", files=[File("cars.tgz")], **common),
        Entry("gone", kind="data", folder="g", files=[server.file("gone")], **common),
        Entry("clip", kind="weights", loader="open_clip", argument="RN50", **common),
    ]
    monkeypatch.setattr(download, "read_manifest", lambda path: entries)
    return entries


def command(*options: str) -> Result:
    return CliRunner().invoke(app, ["download", *options])


def test_mini_has_nothing_to_download(tmp_path: Path) -> None:
    done = command("--to", str(tmp_path))
    assert done.exit_code == 0
    assert done.stdout == "The mini profile has nothing to download: --profile paper has.\n"
    assert names(tmp_path) == []


def test_paper_says_what_it_did_with_each(entries: list[Entry], tmp_path: Path) -> None:
    done = command("--profile", "paper", "--to", str(tmp_path))
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "digits: data.bin: downloaded, verified",
        f"cars: cars.tgz: by hand, into {tmp_path / 'c'}: copy it",
        "clip: open_clip fetches it when a notebook loads RN50",
    ]
    assert "error: gone: data.bin could not be downloaded" in done.stderr
    assert done.stderr.splitlines()[-1] == "failed: gone; missing, to be put there by hand: cars"


def test_only_one_entry(entries: list[Entry], tmp_path: Path) -> None:
    assert command("--profile", "paper", "--only", "digits", "--to", str(tmp_path)).exit_code == 0
    assert names(tmp_path) == ["d"]
    for asked, sentence in (
        (("--profile", "paper", "--only", "dogs"), "'dogs' is none of digits, cars, gone, clip."),
        (("--profile", "huge"), "unknown profile 'huge': choose one of full, mini, paper, rehearsal, smoke"),
    ):
        refused = command(*asked, "--to", str(tmp_path))
        assert (refused.exit_code, refused.stdout, refused.stderr) == (1, "", f"{sentence}\n")
    assert names(tmp_path) == ["d"]


def test_data_go_where_the_environment_says(
    entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "DATASETS", tmp_path / "disk")  # as XAIKIT_DATA does, before anything is imported
    assert command("--profile", "paper", "--only", "digits").exit_code == 0
    assert names(tmp_path / "disk") == ["d"]


# The manifest itself


def test_manifest_is_complete_and_consistent() -> None:
    entries = download.read_manifest()
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.kind in ("data", "weights") and entry.used_by and entry.licence and entry.status
        assert bool(entry.files) == (entry.kind == "data") == bool(entry.folder) != bool(entry.loader)
        assert bool(entry.loader) == bool(entry.argument)
        for file in entry.files:
            assert file.urls or entry.by_hand, f"{file.name}: neither an address nor instructions"
            assert all(url.startswith(("http://", "https://")) for url in file.urls)
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
            assert file.md5 is None or len(bytes.fromhex(file.md5)) == 16
            assert file.sha256 or file.md5 or ("checksum" in entry.status and "unknown" in entry.status)


def test_what_is_fetched_is_read_and_nothing_else() -> None:
    """Each folder of data is named in the paper profile by its notebooks, each file by settings or code."""
    settings = tomllib.loads((profiles.FOLDER / "paper.toml").read_text())
    code = {
        path: path.read_text() for folder in ("datasets", "studies") for path in (ROOT / "xaikit" / folder).glob("*.py")
    }
    text, read = "\n".join(code.values()), set()
    for entry in download.read_manifest():
        if entry.kind == "data":
            asked = [json.dumps(settings[notebook]) for notebook in entry.used_by]
            assert all(entry.folder in each for each in asked), entry.name
            read.add(entry.folder)
            for file in entry.files:
                left = (file.unpack or file.name).removesuffix("-idx3-ubyte.gz").replace("_trainval2017", "")
                known = any(f"{entry.folder}/{left}" in each for each in asked)
                stem = left.removesuffix("2017").removesuffix(".tar")
                assert known or stem in text, f"{entry.name}: nothing reads {left}"
    assert read == {"emnist", "waterbirds", "imagenet9", "coco2017", "idenprof", "stanford_cars", "imagenet",
                    "imagenet_segmentation", "text_pools"}  # fmt: skip


def test_every_paper_has_what_it_needs() -> None:
    used = {notebook for entry in download.read_manifest() for notebook in entry.used_by}
    assert used == {"01_caption_driven", "02_texplain", "03_vlm_explanations", "04_clip_decomposition"}


def test_manifest_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text('[[entry]]\nname = "a"\ncolour = "red"\n')
    assert tomllib.loads(path.read_text())["entry"]
    with pytest.raises(ValueError, match="not of the manifest's form"):
        download.read_manifest(path)
