"""Is anything lost, or said that is not so, where processes are killed, disks are full, and folders are not one's own?

    make chaos

Works in a checkout in small, below a temporary folder, and needs Linux. What wants more rights than one has is skipped
with the reason. Prints a table at its end and ends with exit status 1 where something was wrong. Takes 5 to 20 minutes.
"""

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from small_notebook import CLAIMS, NOTEBOOK  # noqa: E402

NAME = "01_small"
CASES: dict[str, Callable[[Path, int], str]] = {}


class Wrong(Exception):
    """Something was lost, or said that is not so."""


class Skipped(Exception):
    """What cannot be tried here."""


def case(function: Callable[[Path, int], str]) -> Callable[[Path, int], str]:
    """A case takes an empty folder and how often to kill; it returns what was seen, or raises Wrong or Skipped."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


def must(condition: object, otherwise: str) -> None:
    if not condition:
        raise Wrong(otherwise)


# --- a checkout, and what runs in it --------------------------------------------------------------------------------


def checkout(folder: Path, notebook: str = NOTEBOOK) -> Path:
    root = folder / "checkout"
    shutil.copytree(ROOT / "xaikit", root / "xaikit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("notebooks", "data", "build"):
        (root / name).mkdir()
    (root / "notebooks" / f"{NAME}.py").write_text(notebook, encoding="utf-8")
    (root / "data" / "claims.toml").write_text(CLAIMS, encoding="utf-8")
    (root / "requirements.lock").write_text("numpy==2.0.0\n", encoding="utf-8")
    profiles = root / "xaikit" / "companion" / "profiles"
    profiles.joinpath("mini.toml").write_text(f"[{NAME}]\nimages = 3\n", encoding="utf-8")
    profiles.joinpath("paper.toml").write_text(f"[{NAME}]\nimages = 300\n", encoding="utf-8")
    return root


def start(command: list[str], cwd: Path, *prefix: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, *command], cwd=cwd, env={**os.environ, "PYTHONPATH": str(cwd), **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def xaikit(root: Path, *arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    return start([sys.executable, "-m", "xaikit", *arguments], root, *prefix, **environment)


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        raise Wrong(f"it did not end within {seconds:.0f} s") from None
    return process.returncode, output


def kill(process: subprocess.Popen[str]) -> None:
    """At once, with all that it started in its own session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def results(root: Path) -> dict[str, bytes]:
    folder = root / "figures" / "mini" / NAME
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


def values(root: Path) -> list[object]:
    """What a record says, but for how long it took and where."""
    return [(each["id"], each["value"]) for each in json.loads(results(root)["numbers.json"])["numbers"]]


def line_with(pattern: str, output: str) -> str:
    lines = [line for line in output.splitlines() if re.search(pattern, line)]
    must(lines, f"nothing says {pattern!r}: {output[-300:]}")
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/chaos-\w+/", "", lines[0])


def no_trace(output: str) -> None:
    must("Traceback (most recent call last)" not in output, f"a traceback in place of a sentence: {output[-300:]}")


def orphans(root: Path) -> list[int]:
    """Processes that work in a checkout."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(root):
                found.append(int(process.name))
    return found


# --- kills ----------------------------------------------------------------------------------------------------------


@case
def kills_of_figures(folder: Path, kills: int) -> str:
    root = checkout(folder)
    begin = time.monotonic()
    status, output = ended(xaikit(root, "run", NAME))
    seconds = time.monotonic() - begin
    must(status == 0 and results(root), f"the first run failed: {output[-300:]}")
    reference = values(root)
    hit = 0
    for _ in range(kills):
        before = results(root)
        process = xaikit(root, "run", NAME, "--force")
        time.sleep(random.uniform(0, seconds))
        hit += process.poll() is None
        kill(process)
        now = results(root)
        must(now.keys() == before.keys(), f"after a kill {sorted(now)} were there in place of {sorted(before)}")
        must(values(root) == reference, "after a kill the record had other numbers")
    end = time.monotonic() + 30
    while orphans(root) and time.monotonic() < end:
        time.sleep(0.5)
    must(not orphans(root), f"processes stayed behind: {orphans(root)}")
    status, output = ended(xaikit(root, "run", NAME))
    must(status == 0 and values(root) == reference, f"the run after the kills: {output[-300:]}")
    left = sorted(path.name for path in (root / "figures" / "mini").iterdir())
    must(left == [NAME], f"figures/mini holds {left}")
    return f"{hit} of {kills} hit; results whole after each, the same numbers after all"


def killed_worker(folder: Path, kills: int, what: str, *others: str) -> str:
    """Kill a worker again and again in one folder; it must end with what it ends with undisturbed."""
    command = [sys.executable, str(Path(__file__).with_name("workers.py")), what]
    undisturbed = start([*command, str(folder / "whole"), *others], ROOT)
    must(undisturbed.stdout.readline() == "begun\n", "the worker did not begin")
    begin = time.monotonic()
    status, expected = ended(undisturbed)
    seconds = time.monotonic() - begin
    must(status == 0, f"undisturbed it failed: {expected[-300:]}")
    hit, place = 0, folder / "killed"
    for _ in range(kills):
        process = start([*command, str(place), *others], ROOT)
        must(process.stdout.readline() == "begun\n", "the worker did not begin again")
        time.sleep(random.uniform(0, seconds / 2))
        hit += process.poll() is None
        kill(process)
    status, output = ended(start([*command, str(place), *others], ROOT))
    digest = output.splitlines()[-1] if output else ""
    must(status == 0 and digest == expected.splitlines()[-1], f"it ended with {output[-200:]}, not {expected[-200:]}")
    left = [path.name for path in place.rglob("*") if path.name.endswith(".part") or ".unpacking" in path.name]
    return f"{hit} of {kills} hit; the same result to the bit" + (f"; left behind: {len(left)} parts" if left else "")


@case
def kills_of_extract(folder: Path, kills: int) -> str:
    return killed_worker(folder, kills, "extract")


@case
def kills_of_training(folder: Path, kills: int) -> str:
    return killed_worker(folder, kills, "train")


@contextmanager
def slow_server(content: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(match[1]) if match and self.headers.get("If-Range") in (None, '"tag"') else 0
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("ETag", '"tag"')
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", '"tag"')
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            with suppress(OSError):
                for place in range(first, len(content), 1 << 18):
                    self.wfile.write(content[place : place + (1 << 18)])
                    time.sleep(0.02)

        def log_message(self, *arguments: object) -> None:
            """Keep the output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/data.bin"
        server.shutdown()


@case
def kills_of_download(folder: Path, kills: int) -> str:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=0) as archive:
        for number in range(20):
            info = tarfile.TarInfo(f"birds/{number}.bin")
            info.size = 1 << 20
            archive.addfile(info, io.BytesIO(random.Random(number).randbytes(1 << 20)))
    with slow_server(stream.getvalue()) as url:
        return killed_worker(folder, kills, "fetch", url)


# --- what the machine may do ----------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise Skipped(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@case
def a_full_disk_for_results(folder: Path, kills: int) -> str:
    root = checkout(folder)
    status, output = ended(xaikit(root, "run", NAME))
    must(status == 0, output[-300:])
    reference = results(root)
    kept = root / "kept"
    shutil.copytree(root / "figures", kept)
    with small_disk(root / "figures", "100k") as disk:
        shutil.copytree(kept, disk, dirs_exist_ok=True)
        (disk / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - 4096)))
        status, output = ended(xaikit(root, "run", NAME, "--force"))
        must(status != 0, "it said that all went well")
        must(results(root) == reference, "what was there is gone")
        no_trace(output)
        sentence = line_with("cannot be put into", output)
        (disk / "ballast").unlink()
        status, output = ended(xaikit(root, "run", NAME, "--force"))
        must(status == 0, f"with room again: {output[-300:]}")
        must(values(root), "no numbers")
    return f"what was there stayed, exit 1: {sentence!r}; with room again it ran"


@case
def build_and_figures_on_two_file_systems(folder: Path, kills: int) -> str:
    root = checkout(folder)
    with small_disk(root / "build", "50m"):
        for _ in range(2):
            status, output = ended(xaikit(root, "run", NAME, "--force"))
            must(status == 0 and results(root), output[-300:])
        status, output = ended(xaikit(root, "run", NAME))
        must("up to date" in output, f"it is not up to date afterwards: {output[-300:]}")
    return "ran twice, up to date afterwards"


@case
def a_clock_that_was_turned_back(folder: Path, kills: int) -> str:
    root = checkout(folder)
    ended(xaikit(root, "run", NAME))
    future = time.time() + 10 * 86_400
    for file in root.rglob("*"):
        if file.is_file():
            os.utime(file, (future, future))
    status, output = ended(xaikit(root, "run", NAME))
    must(status == 0 and "up to date" in output, f"files of the future: {output[-300:]}")
    script = root / "notebooks" / f"{NAME}.py"
    script.write_text(script.read_text(encoding="utf-8").replace("0.5 + seed", "0.55 + seed"), encoding="utf-8")
    os.utime(script, (1, 1))  # older than all that was made of it
    status, output = ended(xaikit(root, "run", NAME))
    must(status == 0 and "up to date" not in output, "an edit with an old time was not seen")
    must(dict(values(root))["small.value"] == 0.55, "the numbers are not those of the edit")
    return "up to date by content; an edit with an old time was run"


@case
def two_runs_at_once(folder: Path, kills: int) -> str:
    root = checkout(folder)
    both = [xaikit(root, "run", NAME) for _ in range(2)]
    done = [ended(process) for process in both]
    must([status for status, _ in done] == [0, 0], f"{[output[-200:] for _, output in done]}")
    runs = (root / "build" / "runs.txt").read_text(encoding="utf-8").splitlines()
    must(len(runs) == 1, f"the notebook ran {len(runs)} times")
    return "one ran, the other waited and found it up to date"


@case
def a_read_only_checkout(folder: Path, kills: int) -> str:
    root = checkout(folder)
    done = subprocess.run(["mount", "--bind", str(root), str(root)], capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"nothing may be mounted here: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
        status, output = ended(xaikit(root, "run", NAME))
        must(status != 0, "it said that all went well")
        no_trace(output)
        must("read-only" in output.lower(), f"it does not say why: {output[-300:]}")
        status, told = ended(xaikit(root, "report"))
        no_trace(told)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=False)
    return f"{line_with('can be written', output)!r}"


@case
def another_user(folder: Path, kills: int) -> str:
    """Root's rights over files are given up: what is not writable by its mode is another one's."""
    root = checkout(folder)
    without = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    if os.geteuid() == 0 and (not shutil.which("setpriv") or ended(start(["true"], folder, *without))[0]):
        raise Skipped("root's rights cannot be given up here")
    prefix = without if os.geteuid() == 0 else ()
    for name in ("build", "."):
        (root / name).chmod(0o555)
    try:
        status, output = ended(xaikit(root, "run", NAME, prefix=prefix))
        must(status != 0, "it said that all went well")
        no_trace(output)
        must("ermission denied" in output, f"it does not say why: {output[-300:]}")
    finally:
        for name in ("build", "."):
            (root / name).chmod(0o755)
    cache = root / "shared-cache"
    cache.mkdir()
    (root / "user.py").write_text(
        "import sys\nfrom xaikit.storage import cache\n\ndef made(n):\n    print('made')\n    return {'n': n}\n\n"
        "if __name__ == '__main__':\n    import user\n    print(cache.fetch(user.made, n=3))\n",
        encoding="utf-8",
    )
    first = ended(start([sys.executable, "user.py"], root, XAIKIT_CACHE=str(cache)))
    cache.chmod(0o555)
    for file in cache.iterdir():
        file.chmod(0o444)
    second = ended(start([sys.executable, "user.py"], root, *prefix, XAIKIT_CACHE=str(cache)))
    cache.chmod(0o755)
    must(first[0] == second[0] == 0, f"{first[1][-200:]} {second[1][-200:]}")
    must("made" in first[1] and "made" not in second[1], f"the other one's cache was not read: {second[1][-200:]}")
    return f"{line_with('can be written', output)!r}; another one's cache is read"


@case
def spaces_and_umlauts_in_the_path(folder: Path, kills: int) -> str:
    place = folder / "Käse & Brot [1] „ü“"
    place.mkdir()
    root = checkout(place)
    status, output = ended(xaikit(root, "run", NAME))
    must(status == 0 and values(root), output[-400:])
    status, output = ended(xaikit(root, "run", NAME))
    must("up to date" in output, output[-300:])
    return "ran, up to date afterwards"


@case
def no_home(folder: Path, kills: int) -> str:
    root = checkout(folder)
    gone = ("env", "-u", "HOME", "-u", "XDG_CACHE_HOME", "-u", "USER")
    status, output = ended(xaikit(root, "run", NAME, prefix=gone))
    must(status == 0 and values(root), f"without HOME: {output[-400:]}")
    status, output = ended(xaikit(root, "run", NAME, "--force", HOME="/nonexistent"))
    must(status == 0 and values(root), f"with a HOME that is not there: {output[-400:]}")
    return "ran without HOME, and with one that is not there"


@case
def too_little_memory(folder: Path, kills: int) -> str:
    hungry = NOTEBOOK.replace('print("drew it")', "import numpy as np\nnp.ones(10**9)")
    root = checkout(folder, hungry)
    limit = str(6 * 10**6)  # kilobytes of address space
    status, output = ended(xaikit(root, "run", NAME, prefix=("bash", "-c", f'ulimit -v {limit}; exec "$@"', "-")))
    must(status != 0 and not results(root), "it said that all went well")
    must("asked for more memory than it could have: there are" in output, f"it does not say why: {output[-400:]}")
    killed = NOTEBOOK.replace('print("drew it")', "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    (root / "notebooks" / f"{NAME}.py").write_text(killed, encoding="utf-8")
    status, output_of_killed = ended(xaikit(root, "run", NAME))
    must(status != 0 and "perhaps for want of memory: there are" in output_of_killed, output_of_killed[-400:])
    return "a refused allocation and a killed kernel are both a sentence, with the section and the memory there is"


def main() -> int:
    """Run the cases, or those whose names hold one of the words given, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only cases whose names hold one of these")
    parser.add_argument("--kills", type=int, default=10, help="of each of figures, extract, training and download")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which is killed")
    given = parser.parse_args()
    random.seed(given.seed)
    table = []
    for name, function in CASES.items():
        if given.words and not any(word in name for word in given.words):
            continue
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            try:
                outcome, seen = "right", function(Path(folder), given.kills)
            except Skipped as reason:
                outcome, seen = "skipped", str(reason)
            except Wrong as what:
                outcome, seen = "WRONG", str(what)
        table.append((name, outcome, f"{time.monotonic() - begin:.0f} s", " ".join(seen.split())))
        print(" | ".join(table[-1]), flush=True)
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    print("\n" + "\n".join("  ".join((*map(str.ljust, row[:3], widths), row[3])) for row in table))
    return int(any(outcome == "WRONG" for _, outcome, *_ in table))


if __name__ == "__main__":
    sys.exit(main())
