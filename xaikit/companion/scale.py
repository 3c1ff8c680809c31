"""`xaikit cost`: what the long jobs take on a laptop, one card, eight, and four nodes; `docs/scale.md` holds it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xaikit.companion import profiles, tables
from xaikit.companion.cost import (
    CLIPS,
    COCO,
    COCO_EPOCHS,
    CONTEXT,
    CORES_A_CARD,
    CPU_PAIRS,
    DECODE,
    MACHINES,
    ONE,
    PAIR,
    PREPARE,
    PROCESS,
    REACHED,
    SAMPLING,
    SLACK,
    WEB_EPOCHS,
    WEB_PAIRS,
    Card,
    Work,
    cpu_rate,
    estimate,
    extraction,
    shown_bytes,
    translator_training,
)
from xaikit.companion.sections import sections
from xaikit.storage import settings
from xaikit.storage.paths import ROOT

PAGE = ROOT / "docs" / "scale.md"
PROFILE = "paper"


@dataclass(frozen=True)
class Job:
    """A row: parts that are done one after the other, by all cards of a machine or, not `shared`, by one of them."""

    name: str
    parts: tuple[Work, ...]
    shared: bool


def jobs() -> list[Job]:
    """The long jobs: extraction, the translator's training, and each notebook under the paper profile."""
    found = [Job(f"`extract --model {name}`", (extraction(name),), True) for name in CLIPS]
    stages = translator_training(), translator_training(COCO, COCO_EPOCHS)
    found.append(Job(f"`train-translator`, {WEB_PAIRS:,} pairs × {WEB_EPOCHS} and COCO × {COCO_EPOCHS}", stages, True))
    own = settings.read(profiles.FOLDER, PROFILE)
    common = own.pop("common", {})
    for notebook in sorted(name for name, table in own.items() if isinstance(table, Mapping)):
        parts = tuple(sections(notebook, {**common, **own[notebook]}))
        found.append(Job(f"`run {notebook}`", parts, False))
    return found


def job_table(rows: Iterable[Job]) -> str:
    """The jobs by machine, in Markdown."""
    headings = ["job", "GPU memory", "memory", *(machine.name for machine in MACHINES), "bound by, on one H100"]
    found = []
    for job in rows:
        hours = [
            "as one H100" if machine.cards > 1 and not job.shared else f"{estimate(job.parts, machine)}"
            for machine in MACHINES
        ]
        gpu, host = (shown_bytes(max(getattr(part, name) for part in job.parts)) for name in ("gpu", "host"))
        found.append([job.name, gpu, host, *hours, estimate(job.parts, ONE).bound])
    return tables.markdown(headings, found, right=range(1, 3 + len(MACHINES)))


def section_table(rows: Iterable[Job]) -> str:
    """The sections of the notebooks, in Markdown."""
    found = [
        [job.name.strip("`").removeprefix("run "), part.name, shown_bytes(part.gpu), shown_bytes(part.host),
         str(estimate(part, ONE)), estimate(part, ONE).bound]
        for job in rows if not job.shared for part in job.parts
    ]  # fmt: skip
    headings = ["notebook", "section", "GPU memory", "memory", "one H100", "bound by"]
    return tables.markdown(headings, found, right=range(2, 5))


def input_table(card: Card = ONE.card) -> str:
    """What the other tables are made of, in Markdown."""
    rows: list[Sequence[str]] = [
        ("peak of an H100, float32 without TF32", f"{card.float32 / 1e12:.0f} TFLOP/s", "NVIDIA's data sheet"),
        ("peak of an H100, bfloat16", f"{card.bfloat16 / 1e12:.0f} TFLOP/s", "the same, without sparsity"),
        *((f"share of that which is reached, {name}", f"{share:.0%}", "assumed") for name, share in REACHED.items()),
        ("the same, of float32, where sentences are sampled", f"{SAMPLING:.0%}", "assumed"),
        ("cores beside a card", f"{CORES_A_CARD}", "a DGX H100 has 112 for 8"),
        ("a core without a card", f"{cpu_rate() / 1e9:.0f} GFLOP/s",
         f"measured: {CPU_PAIRS} pairs a second on two threads of a server (`benchmarks/texplain/translator.py`)"),
        ("to decode a photograph of ImageNet", f"{1e3 * DECODE:.1f} ms of a core", "measured there"),
        ("to resize and crop it", f"{1e3 * PREPARE:.1f} ms of a core", "measured there"),
        ("to decode one of 640 × 480, as of web pairs", f"{1e3 * PAIR:.1f} ms of a core", "measured; cards crop it"),
        ("CUDA's own memory on a card", shown_bytes(CONTEXT), "assumed"),
        ("what an allocator holds above what is asked for", f"{SLACK - 1:.0%}", "assumed"),
        ("a process's memory beside its data", shown_bytes(PROCESS), "assumed"),
    ]  # fmt: skip
    return tables.markdown(["input", "value", "from"], rows, right=[1])


def page_tables() -> Mapping[str, str]:
    """The tables of the page, by name."""
    rows = jobs()
    return {"jobs": job_table(rows), "sections": section_table(rows), "inputs": input_table()}


def write(file: Path = PAGE) -> None:
    """Bring the page up to date."""
    tables.fill(file, page_tables())
