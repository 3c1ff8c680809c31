"""The paper profile in small: every notebook on stand-ins for its data and weights, on a pretended GPU.

    python tests/device/rehearse.py [NOTEBOOK ...]

First the translator of paper 2 is trained on stand-ins for its shards, so that its notebook finds one. Prints seconds
and memory by section, and leaves them in build/rehearsal/sections.md. Fails where a notebook stops, where a pretended
GPU refused something, and where a figure or table of the committed run in small is neither there nor skipped with a
reason. Nothing is read of the cache of other runs.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROFILE = "rehearsal"
BESIDE = 2  # notebooks at once
WARNED = "does not have a deterministic implementation"  # what a GPU says of an operation where it may go on


@dataclass
class Sections:
    """Seconds, seconds of a CPU and the most memory in MiB of each section of a run; of a process and all below it."""

    process: psutil.Process
    found: dict[str, list[float]] = field(default_factory=dict)
    name: str = "the start"
    began: float = field(default_factory=time.monotonic)
    cpu: float = 0.0  # so far
    cpu_before: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def enter(self, name: str) -> None:
        """A section begins, and the one before it has ended."""
        self.measure()
        entry, now = self.found[self.name], time.monotonic()
        entry[0] += now - self.began
        entry[1] += self.cpu - self.cpu_before
        self.name, self.began, self.cpu_before = name, now, self.cpu

    def measure(self) -> None:
        """Look at the memory and the clocks. Workers share most of their pages, which count once."""
        own, shared, cpu = 0, 0, 0.0
        with suppress(psutil.Error):  # one of them has just ended
            for process in (self.process, *self.process.children(recursive=True)):
                memory = process.memory_full_info()
                own, shared = own + memory.uss, max(shared, memory.rss - memory.uss)
                times = process.cpu_times()  # with those of its own that have ended
                cpu += times.user + times.system + times.children_user + times.children_system
        entry = self.found.setdefault(self.name, [0.0, 0.0, 0.0])
        self.cpu, entry[2] = max(self.cpu, cpu), max(entry[2], (own + shared) / 2**20)

    def watch(self) -> None:
        """Look again and again."""
        while not self.ended.wait(0.2):
            self.measure()


def followed(command: Sequence[str], environment: Mapping[str, str], name: str) -> tuple[int, dict[str, list[float]]]:
    """Run a command that prints `name`, seconds and a heading where a section begins; its status, and its sections."""
    heading = re.compile(rf"{re.escape(name)}\s+\d+ s  (.+)")
    with subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        sections = Sections(psutil.Process(child.pid))
        watcher = threading.Thread(target=sections.watch)
        watcher.start()
        for line in child.stdout or ():
            if begun := heading.match(line):
                sections.enter(begun[1].strip())
            else:
                print(line, end="", flush=True)
        child.wait()
        sections.ended.set()
        watcher.join()
        sections.enter("the end")
    return child.returncode, {key: value for key, value in sections.found.items() if key != "the end"}


def missing(name: str) -> list[str]:
    """The figures and tables of the committed run in small that a rehearsal has neither made nor skipped, by reason."""
    here, small = (
        json.loads((ROOT / "figures" / profile / name / "numbers.json").read_text(encoding="utf-8"))
        for profile in (PROFILE, "mini")
    )
    skipped = here.get("skipped", {})
    for artefact, reason in skipped.items():
        print(f"{name}: without {artefact}: {reason}")
    made = {Path(file).stem for file in here["artefacts"]} | skipped.keys()
    return sorted({Path(file).stem for file in small["artefacts"]} - made)


def table(name: str, sections: Mapping[str, Sequence[float]]) -> list[str]:
    """The rows of one notebook."""
    seconds, cpu, memory = zip(*sections.values(), strict=True)
    whole = {**sections, "**all**": (sum(seconds), sum(cpu), max(memory))}
    return [f"| {name} | {key} | {each[0]:.0f} | {each[1]:.0f} | {each[2]:,.0f} |" for key, each in whole.items()]


@contextmanager
def environment(build: Path):
    """The variables of a process with a pretended GPU, a cache of its own, and stand-ins for what libraries fetch."""
    sys.path[:0] = [str(ROOT)]
    from xaikit.companion import rehearsal

    cache = build / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    path = os.pathsep.join(map(str, (HERE / "startup", HERE, ROOT)))
    try:
        yield {
            **os.environ, **rehearsal.environment(build), "XAIKIT_PRETEND_GPU": "kernel", "PYTHONPATH": path,
            "XAIKIT_CACHE": str(cache),
        }  # fmt: skip
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def train(data: Path, variables: Mapping[str, str]) -> tuple[int, dict[str, list[float]]]:
    """`xaikit train-translator` for an epoch of the shards and one of COCO, into the data folder."""
    from xaikit.companion.rehearsal import MODEL_CONFIGS

    output = data / "texplain"
    shutil.rmtree(output, ignore_errors=True)
    arguments = [
        "train-translator", str(output), "--shards", str(data / "shards" / "*.tar"), "--pairs", "8",
        "--coco", str(data / "coco2017"), "--epochs", "1", "1", "--batch", "8", "--workers", "2",
    ]  # fmt: skip
    code = (
        f"from xaikit.companion.rehearsal import cut_models; cut_models({str(data.parent / MODEL_CONFIGS)!r})\n"
        f"from xaikit.__main__ import app; app({arguments!r})"
    )
    variables = {**variables, "XAIKIT_PRETEND_GPU": "1"}
    return followed([sys.executable, "-c", code], variables, "train-translator")


def rehearsed(name: str, variables: Mapping[str, str], build: Path) -> tuple[list[str], list[str]]:
    """Run one notebook, paper 2's after its translator: the rows of the table, and what failed."""
    rows, failed = [], []
    if name == "02_texplain":
        status, sections = train(Path(variables["XAIKIT_DATA"]), variables)
        rows += table("train-translator", sections)
        failed += ["train-translator"] if status else []
    command = [sys.executable, "-m", "xaikit", "run", name, "--profile", PROFILE, "--force"]
    status, sections = followed(command, variables, name)
    log = build / f"{name}.log"
    warned = log.read_text(encoding="utf-8").count(WARNED) if log.exists() else 0
    lacking = [] if status else missing(name)
    print(f"{name}: {'failed' if status else 'every cell ran'}, {warned} refusals", flush=True)
    if lacking:
        print(f"{name}: neither made nor skipped: {', '.join(lacking)}", file=sys.stderr)
    return [*rows, *table(name, sections)], [*failed, *([name] if status or warned or lacking else [])]


def main(names: Sequence[str]) -> int:
    from xaikit.companion.run import jobs

    build, start = ROOT / "build" / PROFILE, time.monotonic()
    chosen = names or [job.name for job in jobs((), PROFILE)]
    lines, failed = ["| notebook | section | seconds | of a CPU | peak MiB |", "|---|---|---|---|---|"], []
    # Small networks on two threads wait for each other: two notebooks on one thread each are done sooner.
    with environment(build) as variables, ThreadPoolExecutor(BESIDE) as beside:
        variables |= {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // BESIDE))}
        for rows, problems in beside.map(lambda name: rehearsed(name, variables, build), chosen):
            lines += rows
            failed += problems
    text = "\n".join([*lines, "", f"{time.monotonic() - start:.0f} seconds in all"]) + "\n"
    (build / "sections.md").write_text(text, encoding="utf-8")
    print(text)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
