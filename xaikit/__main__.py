"""The command `xaikit`: it reads what is asked for, has a function do it, and says in short what went wrong.

Whatever takes time to import is imported where it is used, so that `xaikit --help` answers at once.
"""

import ast
import logging
import os
import signal
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option
from typer.core import TyperGroup

# Before any library that computes is loaded: a thread that waits for another one sleeps. Spinning takes the core that
# the other one waits for: on two cores an audit of 47 s takes 64 s beside two busy loops, and spinning it took 754 s
# beside one and a notebook.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

OWN, RUN, DATA, TRAIN = "Your own classifier", "Notebooks", "The papers' own data", "Making anew what ships"

Names = Annotated[list[str] | None, Argument(metavar="NOTEBOOK", help="01_caption_driven, say; by default all.")]
Profile = Annotated[str, Option(help="Which models, data and sizes: mini, full or paper.")]
Seed = Annotated[int, Option(help="Of all random draws.")]

JOB = "As a job"  # the panel, and these its options: what `_submitted` takes off a command line
Executor = Annotated[
    Literal["slurm", "local"] | None, Option(help="Through SLURM, or here in the same way.", rich_help_panel=JOB)
]
Nodes = Annotated[int, Option(help="Machines.", rich_help_panel=JOB)]
Gpus = Annotated[int, Option(help="On each of them.", rich_help_panel=JOB)]
Hours = Annotated[float, Option(help="After which it is stopped and queued again.", rich_help_panel=JOB)]
Memory = Annotated[int | None, Option(metavar="GB", help="On each; else the cluster's.", rich_help_panel=JOB)]
Partition = Annotated[str | None, Option(help="Of the cluster.", rich_help_panel=JOB)]
JOB_OPTIONS = ("--executor", "--nodes", "--gpus", "--hours", "--memory", "--partition")

_asked: ContextVar[list[str]] = ContextVar("the command line")


class Guarded(TyperGroup):
    """Commands whose failures are a sentence on stderr and exit status 1; where they are interrupted it is 130."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As ever; the command line is kept, to be submitted as it is (`_submitted`)."""
        _asked.set(list(args))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that kernels are shut down
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # its tasks complain of the kernel's end
            print("interrupted: what was finished is kept, and nothing half-done", file=sys.stderr)
            raise typer.Exit(130) from None
        except (RuntimeError, ValueError, OSError, SyntaxError, ModuleNotFoundError) as error:
            print(error, file=sys.stderr)
            raise typer.Exit(1) from None
        finally:
            signal.signal(signal.SIGTERM, before)


app = typer.Typer(
    name="xaikit",
    cls=Guarded,
    help="Four papers on explaining vision models in words, rerun end to end: which of their claims survive?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(rich_help_panel=RUN)
def run(
    names: Names = None,
    profile: Profile = "mini",
    seed: Seed = 0,
    native: Annotated[bool, Option("--native", help="Let the CPU choose instructions and threads.")] = False,
    arithmetic: Annotated[str | None, Option(help="One of those of the bands, in place of the profile's.")] = None,
    force: Annotated[bool, Option("--force", help="Run even what is up to date.")] = False,
    timeout: Annotated[int | None, Option(help="Seconds for a notebook, in place of the profile's.")] = None,
    parameter: Annotated[
        list[str] | None, Option(metavar="NAME=VALUE", help="Of the notebook; again for more.")
    ] = None,
    check: Annotated[
        bool, Option("--check", help="Run nothing: list what is missing, and what it would take.")
    ] = False,
    card: Annotated[
        str | None, Option(help="With --check: the GPU of the hours, RTX 4090 say; else the one here.")
    ] = None,
    executor: Executor = None,
    nodes: Nodes = 1,
    gpus: Gpus = 0,
    hours: Hours = 24.0,
    memory: Memory = None,
    partition: Partition = None,
) -> None:
    """Run notebooks that are not up to date; after a run of all of them, the report.

    With --native it is faster on some machines, and the digits are others than elsewhere.
    """
    from xaikit.companion.run import jobs, run_notebooks
    from xaikit.storage.arithmetic import NATIVE

    if native and arithmetic not in (None, NATIVE):
        raise typer.BadParameter(f"--native and --arithmetic {arithmetic} exclude each other: leave one out")
    chosen = jobs(names or (), profile, seed, arithmetic=NATIVE if native else arithmetic)
    parameters = dict(map(_assignment, parameter or ()))
    if check:
        from xaikit.companion import preflight

        if preflight.check([job.name for job in chosen], profile, card).missing:
            raise typer.Exit(1)
        return
    if executor is not None:
        from xaikit.companion.preflight import require

        require([job.name for job in chosen], profile)  # now, and not when the queue comes to it
    if _submitted(executor, nodes, gpus, hours, memory, partition, shared=False):
        return
    failed = run_notebooks(chosen, force=force, timeout=timeout, parameters=parameters)
    if not names:
        from xaikit.companion.report import report

        report(chosen, parameters=parameters)
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


@app.command(rich_help_panel=RUN)
def smoke(names: Names = None) -> None:
    """Draw each notebook's first figure at the smallest sizes, into build/smoke/: a minute, and no result changes."""
    from xaikit.companion import smoke
    from xaikit.companion.run import jobs

    if failed := smoke.first_figures(jobs(names or (), smoke.PROFILE)):
        raise RuntimeError(f"failed: {', '.join(failed)}")


@app.command(rich_help_panel=RUN)
def report(
    names: Names = None,
    profile: Profile = "mini",
    seeds: Annotated[bool, Option("--seeds", help="Runs of other seeds and arithmetics in build/, too.")] = False,
) -> None:
    """Show what the last runs left: fresh or not; claims by verdict, numbers within and outside their bands.

    It ends with exit status 1 where the last run of a notebook failed.
    """
    from xaikit.companion.report import report
    from xaikit.companion.run import jobs

    if failed := report(jobs(names or (), profile), seeds=seeds):
        raise RuntimeError(f"failed: {', '.join(failed)}")


@app.command(rich_help_panel=RUN)
def review(
    profile: Profile = "mini",
    output: Annotated[Path | None, Option(help="The file; by default build/review.html.")] = None,
    committed: Annotated[
        bool, Option("--committed", help="Results made here count as the repository's: the same page everywhere.")
    ] = False,
) -> None:
    """Write one page: each table and figure of the papers beside its rerun, with every claim and its instruments."""
    from xaikit.companion import review

    print(f"The page is {review.write(profile, output, committed=committed)}")


@app.command(rich_help_panel=RUN)
def score(
    file: Annotated[Path, Argument(metavar="FILE", help="Registers a method, as docs/leaderboard.md shows.")],
    profile: Profile = "mini",
    seed: Seed = 0,
) -> None:
    """Rank a method of your own: how well does it tell what classifiers use? Minutes, the first time.

    With XAIKIT_SEALED set to any word, on classifiers that are made from it.
    """
    import pandas as pd

    from xaikit.studies.score_method import score

    with pd.option_context("display.width", 160, "display.max_columns", None, "display.precision", 2):
        print(score(file, profile, seed).to_string(index=False))


@app.command(rich_help_panel=RUN)
def notebooks(names: Names = None, profile: Profile = "mini") -> None:
    """Write the executed notebooks/*.ipynb, from runs that are up to date."""
    from xaikit.companion.run import jobs, write_pages

    write_pages(jobs(names or (), profile))


@app.command(rich_help_panel=RUN)
def course(
    names: Names = None,
    edition: Annotated[
        Literal["student", "solution", "slides"],
        Option(help="Cells to complete, solutions in their place, or slides without code and exercises."),
    ] = "student",
    output: Annotated[Path, Option("--output", "-o", metavar="FOLDER", help="Gets the notebooks and a list.")] = Path(
        "course"
    ),
) -> None:
    """Write the notebooks for a class: with their exercises, for students or for teachers, or as slides."""
    from xaikit.companion import course, slides
    from xaikit.companion.run import jobs

    chosen = jobs(names or (), "mini")
    print(*(slides.write(chosen, output) if edition == "slides" else course.write(chosen, edition, output)), sep="\n")


@app.command(rich_help_panel=RUN, context_settings={"ignore_unknown_options": True})
def lab(
    arguments: Annotated[list[str] | None, Argument(help="Handed on to JupyterLab: --port 9999, say.")] = None,
) -> None:
    """JupyterLab with the paired notebooks, in the arithmetic of the mini profile."""
    from xaikit.storage.arithmetic import PORTABLE, environment
    from xaikit.storage.paths import ROOT

    where = [f"--ServerApp.root_dir={ROOT}", "--LabApp.default_url=/lab/tree/notebooks"]
    command = [sys.executable, "-m", "jupyterlab", *where, *(arguments or ())]
    os.execve(sys.executable, command, environment(PORTABLE))


@app.command(rich_help_panel=OWN)
def audit(
    model: Annotated[
        str | None,
        Argument(
            metavar="MODEL",
            help="timm:NAME, torchvision:NAME, hf:ID, open_clip:NAME, FILE.pt2, FILE.onnx or FILE.py:FUNCTION.",
        ),
    ] = None,
    images: Annotated[Path | None, Option(metavar="FOLDER", help="A folder a class, or pictures alone.")] = None,
    labels: Annotated[Path | None, Option(metavar="CSV", help="With the columns file and label.")] = None,
    masks: Annotated[Path | None, Option(metavar="FOLDER", help="Of masks, or COCO's json of instances.")] = None,
    concepts: Annotated[Path | None, Option(metavar="TOML", help="What may be used; --init writes one.")] = None,
    groups: Annotated[Path | None, Option(metavar="CSV", help="What is known of each file, a column each.")] = None,
    captions: Annotated[Path | None, Option(metavar="CSV", help="With the columns file and caption.")] = None,
    classes: Annotated[Path | None, Option(metavar="TXT", help="The classes' names, a line each.")] = None,
    preprocessing: Annotated[str, Option(help="Of a FILE.pt2 or .onnx: imagenet, unit, or a JSON file.")] = "",
    clip: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Reads concepts' texts: NAME:WEIGHTS of open_clip, or mini; again."),
    ] = None,
    captioner: Annotated[
        str, Option(metavar="NAME", help="Tells of the features: a BLIP's id or folder, or mini.")
    ] = "",
    output: Annotated[Path, Option("--output", "-o", metavar="FOLDER", help="Gets the page and the tables.")] = Path(
        "report"
    ),
    most: Annotated[int, Option(help="Pictures that are taken, evenly from each class.")] = 400,
    quick: Annotated[bool, Option("--quick", help="About a minute: fewer pictures, no removals, no maps.")] = False,
    device: Annotated[str | None, Option(help="cpu or cuda; by default a GPU where there is one.")] = None,
    seed: Seed = 0,
    shards: Annotated[int, Option(help="Parts of the pictures that are in memory one at a time; 1000 each, say.")] = 1,
    shard: Annotated[int | None, Option(help="This one alone, from 0 on, and no page.")] = None,
    init: Annotated[bool, Option("--init", help="Write concepts.toml to start from, and nothing else.")] = False,
    example: Annotated[
        Path | None, Option(metavar="FOLDER", help="Make a classifier and pictures to try it on, and nothing else.")
    ] = None,
) -> None:
    """Audit a classifier of your own: which cues does it use, on which pictures, and how sure is that?

    What was stopped goes on where it was. With --shards, processes share them: torchrun --nproc-per-node N -m xaikit
    audit ..., or any machines that see the same folder, each with its --shard, and once more without.
    """
    if example is not None:
        from xaikit.studies.audit_example import write_example

        print("Now audit it:", *write_example(example, seed), sep="\n")
        return
    from xaikit.audit.run import initialise, run_audit

    if init:
        print(f"Wrote {initialise(concepts or Path('concepts.toml'))}: say there what the classifier may use.")
        return
    if model is None or images is None:
        raise typer.BadParameter("name a classifier and its pictures: xaikit audit MODEL --images FOLDER")
    found = run_audit(
        model, images, output, labels=labels, masks=masks, concepts=concepts, groups=groups, captions=captions,
        classes=classes, preprocessing=preprocessing, clip=clip or (), captioner=captioner, most=most, quick=quick,
        device=device, seed=seed, shards=shards, shard=shard,
    )  # fmt: skip
    if found is None:
        print(f"What this process had to do is done, and lies in {output / '.parts'}; another one writes the page.")
        return
    if shards > 1:
        print(f"The shards are kept in {output / '.parts'}: remove it when you need them no more.")
    print(*(f"Note: {each}" for each in (*found.pictures.notes, *found.notes)), sep="\n")
    print(*found.summary(), f"The page is {output / 'report.html'} ({found.seconds:.0f} s).", sep="\n")


@app.command(rich_help_panel=DATA)
def download(
    profile: Profile = "mini",
    only: Annotated[str | None, Option(metavar="NAME", help="This entry of data/manifest.toml alone.")] = None,
    to: Annotated[Path | None, Option(metavar="FOLDER", help="In place of XAIKIT_DATA or data/downloads.")] = None,
) -> None:
    """Fetch and check what a profile needs; mini needs nothing."""
    from xaikit.companion.download import download
    from xaikit.storage.paths import DATASETS

    download(profile, only=only, to=to or DATASETS)


@app.command(rich_help_panel=DATA)
def extract(
    profile: Profile = "paper",
    data: Annotated[
        list[str] | None, Option(metavar="NAME", help="classification or waterbirds; by default both.")
    ] = None,
    model: Annotated[
        list[str] | None, Option(metavar="NAME", help="Of the profile's (ViT-B-16); again for more; by default all.")
    ] = None,
    seed: Seed = 0,
    batch: Annotated[int | None, Option(help="Images a forward pass, in place of the profile's.")] = None,
    workers: Annotated[int | None, Option(help="Threads that read images, a process.")] = None,
    executor: Executor = None,
    nodes: Nodes = 1,
    gpus: Gpus = 0,
    hours: Hours = 24.0,
    memory: Memory = None,
    partition: Partition = None,
) -> None:
    """Decompose the images of paper 4 beforehand, into the stores that its notebook reads (and else fills).

    On N GPUs: torchrun --nproc-per-node N -m xaikit extract ... What was stopped goes on where it was. Machines that
    share a folder share the work, if XAIKIT_CACHE names it.
    """
    if _submitted(executor, nodes, gpus, hours, memory, partition, shared=True):
        return
    from xaikit.companion import profiles, rehearsal
    from xaikit.storage import arithmetic
    from xaikit.storage.paths import BUILD

    # As the notebook's kernel is started, so that both ask for the same stores.
    wanted, found = dict(os.environ), profiles.arithmetic(profile)
    if arithmetic.VARIABLE not in os.environ and found != arithmetic.NATIVE:
        wanted = arithmetic.environment(found)
    if profiles.rehearses(profile) and "stand-ins" not in os.environ.get("IPYTHONDIR", ""):
        wanted |= rehearsal.environment(BUILD / profile)
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", "xaikit", *sys.argv[1:]], wanted)
    from xaikit.studies.extract import extract

    extract(profile, data=data or (), model=model or (), seed=seed, batch=batch, workers=workers)


@app.command(rich_help_panel=DATA)
def train_translator(
    output: Annotated[Path, Argument(metavar="FOLDER", help="Gets the translator, its losses and checkpoints.")],
    shards: Annotated[list[str] | None, Option(metavar="PATTERN", help="Of web pairs; again for more.")] = None,
    pairs: Annotated[int, Option(help="How many pairs of the shards make an epoch.")] = 0,
    coco: Annotated[Path | None, Option(metavar="FOLDER", help="COCO of 2017, for the second stage.")] = None,
    classifier: Annotated[str, Option(help="timm's name of it.")] = "vit_base_patch16_384.orig_in21k_ft_in1k",
    layer: Annotated[str, Option(help="The module of it that gives the features.")] = "norm",
    language: Annotated[str, Option(help="A BLIP of transformers.")] = "Salesforce/blip-image-captioning-base",
    prompt: Annotated[str, Option(help="What is put before every caption.")] = "a picture of",
    longest: Annotated[int, Option(help="Tokens of a caption, prompt and end included; the rest is cut off.")] = 40,
    variant: Annotated[Literal["token", "bottleneck", "flat"], Option(help="Of the translator.")] = "token",
    epochs: Annotated[tuple[int, int] | None, Option(help="Of both stages, in place of the paper's.")] = None,
    learning_rates: Annotated[tuple[float, float] | None, Option(help="In place of the paper's.")] = None,
    batch: Annotated[int, Option(help="Images a step, of all processes together.")] = 512,
    workers: Annotated[int, Option(help="Processes that read images, for each that trains.")] = 4,
    seed: Seed = 0,
    executor: Executor = None,
    nodes: Nodes = 1,
    gpus: Gpus = 0,
    hours: Hours = 24.0,
    memory: Memory = None,
    partition: Partition = None,
) -> None:
    """Train paper 2's translator: on webdataset shards of web pairs, cc3m/{00000..00331}.tar, then on COCO.

    On all GPUs: accelerate launch -m xaikit train-translator ... What was stopped goes on from its checkpoint.
    """
    if _submitted(executor, nodes, gpus, hours, memory, partition, shared=True):
        return
    from xaikit.studies.train_translator import train_translator

    train_translator(
        output, shards=shards or (), pairs=pairs, coco=coco, classifier=classifier, layer=layer, language=language,
        prompt=prompt, longest=longest, variant=variant, epochs=epochs, learning_rates=learning_rates, batch=batch,
        workers=workers, seed=seed,
    )  # fmt: skip


@app.command(rich_help_panel=DATA)
def cost(
    write: Annotated[bool, Option("--write", help="Into docs/scale.md, too.")] = False,
) -> None:
    """Estimate hours and memory of the long jobs, on a laptop and on GPUs."""
    from xaikit.companion import scale
    from xaikit.storage.paths import ROOT, must_be_checkout

    if write:
        must_be_checkout(ROOT, "docs/scale.md is written")
        scale.write()
    print("estimated; how is said in docs/scale.md", *scale.page_tables().values(), sep="\n\n")


@app.command(rich_help_panel=TRAIN)
def train_models(
    names: Annotated[list[str] | None, Argument(metavar="MODEL", help="clip-vit-mini, say; by default all.")] = None,
) -> None:
    """Train the mini models in data/weights from nothing: hours."""
    from xaikit.studies.train_models import train_models

    train_models(names or ())


@app.command(rich_help_panel=TRAIN)
def towers(
    write: Annotated[bool, Option("--write", help="Into docs/towers.md, too.")] = False,
) -> None:
    """Try which image towers can be decomposed and explained, over all configurations of open_clip: a minute."""
    from xaikit.companion import known_towers
    from xaikit.storage.paths import ROOT, must_be_checkout

    if write:
        must_be_checkout(ROOT, "docs/towers.md is written")
        known_towers.write()
    print(*known_towers.page_tables().values(), sep="\n\n")


@app.command(rich_help_panel=TRAIN)
def world() -> None:
    """Write docs/world.md's tables, how hard the world's tasks are, and its figures: some minutes."""
    from xaikit.companion import world_page
    from xaikit.storage.paths import ROOT, must_be_checkout

    must_be_checkout(ROOT, "docs/world.md is written")
    world_page.write()


@app.command(rich_help_panel=TRAIN)
def states() -> None:
    """Write what README and docs say of runs and verdicts, from the records of mini, of rehearsals and of GPUs."""
    from xaikit.companion import states
    from xaikit.storage.paths import ROOT, must_be_checkout

    must_be_checkout(ROOT, "README.md and docs are written")
    states.write()


@app.command(rich_help_panel=TRAIN)
def accept(
    names: Names = None,
    profile: Profile = "mini",
    variants: Annotated[int | None, Option(help="So many more, in place of what is missing of eight.")] = None,
) -> None:
    """Accept the present numbers, with bands from runs under eight seeds and arithmetics: hours.

    Each run is kept as it ends; those that the present source has made are not made again.
    """
    from xaikit.companion.accept import accept

    print(f"wrote {accept(profile, names or (), more=variants)}")


def _submitted(
    executor: Literal["slurm", "local"] | None,
    nodes: int,
    gpus: int,
    hours: float,
    memory: int | None,
    partition: str | None,
    *,
    shared: bool,
) -> bool:
    """Whether the command was submitted as a job, which then does what was asked for."""
    if executor is None:
        if nodes != 1 or gpus or memory or partition:
            raise typer.BadParameter("nodes, GPUs, memory and partition are of a job: name its --executor")
        return False
    from xaikit.companion.submit import Resources, submit, without

    arguments = without(_asked.get(), JOB_OPTIONS)
    print(submit(arguments, executor, Resources(nodes, gpus, hours, memory, partition), shared=shared))
    return True


def _assignment(text: str) -> tuple[str, Any]:
    """`name=value`; the value as a Python literal where it is one, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not of the form name=value")
    if name in ("profile", "seed"):
        raise typer.BadParameter(f"give the {name} as --{name}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    app(prog_name="xaikit")
