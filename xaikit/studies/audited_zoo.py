"""Does an audit find what a classifier uses, and only that? Classifiers of the drawn world, of which it is known.

Three sorts of case, each chosen by what redrawing shows of the classifier, never by what an audit says of it:

- *biased*: a cue was planted, and redrawing it flips `USES` of the answers or more, and more than any other factor.
  Either it agrees with the class in all training pictures, or, where networks would learn the class all the same (a
  word, a tool), it is what the labels were taken from, and agrees with the class in `FOLLOWED` of them;
- *unbiased*: trained on independent factors, the class learned, and no other factor flips `IGNORES` of the answers;
- *unlearned*: a cue agreed with the class in training, training broke it, and it flips fewer than `IGNORES`.

The rule, written down before it was run under seed 2026: the planted cue is claimed, and before any other, in 19 of 20
biased classifiers; nothing is claimed in 19 of 20 unbiased ones; the cue is not claimed in 5 of 5 unlearned ones. Once
on pictures as in training, and once on pictures in which all factors are independent. Under 2026 one audit of 70 broke
it: colours were moved by their mean, which made cars violet, and a classifier that does not use colours turned there.
They were matched level by level then, and the same happened under 2027, to another such classifier: a van's colours
make an odd car. Since then an exchange of colours has a second control, of colours as odd that mean nothing; 2028 kept
the rule. Patches have got a second control since, and are laid where pictures show them, so that all of it is run anew
under `SEED`:

    python -m xaikit.studies.audited_zoo acceptance
    python -m xaikit.studies.audited_zoo readings

Each takes the best part of an hour on two cores, and goes on where it was stopped, as classifiers are kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor, nn

from xaikit.audit.maps import shuffled
from xaikit.audit.questions import Concept, Effect, Seen, classify, effects
from xaikit.audit.readings import by_pictures, by_texts
from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.models.clip import load_from
from xaikit.storage.files import write_text
from xaikit.storage.paths import BUILD
from xaikit.storage.seeding import seed_for
from xaikit.storage.side_by_side import fetch_all
from xaikit.studies.zoo import Spec, Truth, classifier_of, logistic, network, truth_of, truths, zoo
from xaikit.studies.zoo_tasks import PIXELS, TAG, TAG_COLOUR, TASKS, Pictures, deal
from xaikit.texplain.mitigation import Recipe, fine_tune

SEED = 2030
READ_SEED = 2029
WANTED = {"biased": 20, "unbiased": 20, "unlearned": 5}
USES, IGNORES, FOLLOWED = 0.2, 0.1, 0.7
PICTURES = 200
TWINS = 8  # at most, of each
KINDS = ("resnet", "vit", "probe")  # two from scratch, one on a pretrained tower
PLANTED = {"birds": ("background", "tag"), "people": ("background",), "cars": ("colour",), "digits": ("colour",)}
LABELS_BY = {"cars": ("text",), "people": ("tool",)}


@dataclass(frozen=True, eq=False)
class Case:
    """A classifier of a sort, its planted cue (none of an unbiased one), and what redrawing shows of it."""

    sort: str
    spec: Spec
    cue: str
    model: nn.Module
    truth: Truth
    followed: bool = False

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        return self.spec.name + (f", labels by {self.cue}" if self.followed else "")


def cases(cfg: Settings, wanted: Mapping[str, int] = WANTED) -> Iterator[Case]:
    """Classifiers of each sort, as many as are wanted: twin by twin, the kinds and tasks of each in their order."""
    for sort, count in wanted.items():
        found = 0
        for twin in range(TWINS):
            if found >= count:
                break
            for case in _made(cfg, sort, twin):
                if found < count and _is(case):
                    found += 1
                    yield case


def _made(cfg: Settings, sort: str, twin: int) -> list[Case]:
    make = "unlearned" if sort == "unlearned" else "trained"
    cues = {task: ("",) for task in PLANTED} if sort == "unbiased" else PLANTED
    specs = [
        Spec(task, kind, ((cue, 1.0),) if cue else (), make, twin=twin)
        for kind in KINDS
        for task in cues
        for cue in cues[task]
    ]
    members = zoo(cfg, specs)
    known = truths(cfg, members)
    found = [Case(sort, spec, spec.shortcut, members[spec.name].classifier.model, known[spec.name]) for spec in specs]
    return found + (_followers(cfg, twin) if sort == "biased" else [])


def _followers(cfg: Settings, twin: int) -> list[Case]:
    """Classifiers whose labels were taken from a cue."""
    specs = {
        f"{task}, {kind}, {cue}, {twin}": Spec(task, kind, ((cue, FOLLOWED),), twin=twin)
        for kind in KINDS
        for task, cues in LABELS_BY.items()
        for cue in cues
    }
    jobs = {
        name: {
            "task": spec.task, "kind": spec.kind, "cue": spec.shortcut, "twin": twin, "n": cfg.learned_from,
            "seed": cfg.seed, "recipe": Recipe(**cfg[spec.kind]) if spec.kind != "probe" else None,
            "clip": dict(cfg.clip), "device": cfg.device,
        }
        for name, spec in specs.items()
    }  # fmt: skip
    states = fetch_all(_followed, jobs, label="labels by a cue", device=cfg.device)
    clip = load_from(cfg.clip, cfg.device)
    found = []
    for name, spec in specs.items():
        model = classifier_of(spec.kind, states[name], clip, cfg.device).model
        found.append(
            Case("biased", spec, spec.shortcut, model, truth_of(model, spec, cfg.tested, cfg.seed, cfg.device), True)
        )
    return found


def _followed(
    task: str, kind: str, cue: str, twin: int, n: int, seed: int, recipe: Recipe | None, clip: Mapping[str, str],
    device: str,
) -> dict[str, Tensor]:  # fmt: skip
    """The weights of one of them."""
    pictures = deal(TASKS[task], n, seed_for(seed, "followed", twin), "train", {cue: FOLLOWED})
    labels = torch.from_numpy(pictures.codes[:, TASKS[task].names.index(cue)].copy())
    images = pictures.pixels()
    if recipe is None:
        encoder = load_from(clip, device).image_encoder
        with torch.no_grad():
            features = torch.cat([encoder(part.to(device).float() / 255).cpu() for part in images.split(100)])
        return logistic(features, labels)
    own = seed_for(seed, "followed", task, kind, cue, twin)
    return dict(fine_tune(network(kind, own).to(device), images, labels, recipe, own, device=device).state_dict())


def _is(case: Case) -> bool:
    """Whether a classifier is of its sort, by redrawing."""
    own, *others = TASKS[case.spec.task].names
    flips = {name: case.truth.share(name) for name in others}
    if case.sort == "biased":
        cue = flips.pop(case.cue)
        return cue >= USES and cue > max(flips.values())
    if case.sort == "unlearned":
        return flips[case.cue] < IGNORES
    return case.truth.share(own) >= USES and max(flips.values()) < IGNORES


# --- auditing ---------------------------------------------------------------------------------------------------------


def concepts_of(task: str) -> list[Concept]:
    """What an audit asks of a task's classifiers: each factor that a change of the pictures can ask for."""
    side = TAG.stop - TAG.start
    tag = torch.tensor(TAG_COLOUR, dtype=torch.uint8)[:, None, None].expand(3, side, side)
    found = [Concept(TASKS[task].names[0], "thing", "hair" if task == "people" else "object", expected=True)]
    for factor in TASKS[task].factors[1:]:
        if factor.name in ("background", "ground"):
            found.append(Concept(factor.name, "background", "object"))
        elif factor.name == "colour":
            found.append(Concept("colour", "colour", "object"))
        elif factor.name in ("text", "tool", "clothing"):
            found.append(Concept(factor.name, "thing", factor.name))
    return [*found, Concept("tag", "patch", patch=tag, size=side / PIXELS)]


def seen_of(pictures: Pictures) -> Seen:
    """Pictures of a task with the masks that a user would have: of the object, and of things."""
    masks = dict(zip(pictures.task.names, pictures.masks(), strict=True))
    behind = masks["ground" if pictures.task.name == "digits" else "background"]
    tag = torch.zeros(PIXELS, PIXELS, dtype=torch.bool)
    tag[TAG, TAG] = True
    own = {name: masks[name] for name in ("text", "tool", "clothing") if name in masks}
    if pictures.task.name == "people":
        own["hair"] = masks["presentation"]
    return Seen(pictures.pixels(), {"object": ~behind & ~tag, **own})


def audited(case: Case, seed: int, device: str = "cpu", *, independent: bool = False) -> list[Effect]:
    """The effects of all concepts of a classifier's task on its answers, on pictures that it was not trained on."""
    shares = {} if independent else dict(case.spec.agreement)
    pictures = deal(TASKS[case.spec.task], PICTURES, seed_for(seed, "audited"), "test", shares)
    seen = seen_of(pictures)
    answers = classify(case.model, seen, device).argmax(1)
    return effects(case.model, seen, concepts_of(case.spec.task), answers=answers, device=device, seed=seed)


def table(cfg: Settings, wanted: Mapping[str, int] = WANTED) -> pd.DataFrame:
    """A row for each case and way of choosing pictures: what was planted, what redrawing shows, what is claimed."""
    rows = []
    for case in cases(cfg, wanted):
        flips = {name: case.truth.share(name) for name in TASKS[case.spec.task].names[1:]}
        for independent in (False, True) if case.spec.agreement else (True,):
            found = audited(case, cfg.seed, cfg.device, independent=independent)
            claimed = sorted((each for each in found if each.claimed), key=lambda each: -each.net.value)
            names = [each.concept for each in claimed]
            right = {"biased": names[:1] == [case.cue], "unbiased": not names, "unlearned": case.cue not in names}
            rows.append({
                "sort": case.sort, "classifier": case.name, "cue": case.cue,
                "pictures": "independent" if independent else "as in training",
                "redrawn": flips[case.cue] if case.cue else max(flips.values()),
                "claimed": ", ".join(names), "right": right[case.sort],
                **{f"net {each.concept}": np.nan if each.why else each.net.value for each in found},
            })  # fmt: skip
    return pd.DataFrame(rows)


# --- concepts in words and by pictures --------------------------------------------------------------------------------


def readings_table(cfg: Settings, wanted: Mapping[str, int]) -> pd.DataFrame:
    """A row for each case, factor and way of giving it (texts, pictures): its p, and whether its controls pass.

    On pictures in which all factors are independent, and the mini CLIP reads. The rule, written down before it was run
    under `READ_SEED`, of 20 biased and 20 unbiased classifiers: of those whose planted cue can be given in a way, it
    passes in 0.8; and of the factors that redrawing says are ignored (`IGNORES`), the class aside, 0.05 pass at most.
    """
    clip = load_from(cfg.clip, cfg.device)
    rows = []
    for case in cases(cfg, wanted):
        task = TASKS[case.spec.task]
        pictures = deal(task, PICTURES, seed_for(cfg.seed, "read"), "test")
        apart = deal(task, PICTURES, seed_for(cfg.seed, "read", "apart"), "test")
        seen, null = Seen(pictures.pixels()), shuffled(case.model, cfg.seed)
        logits, others = (classify(model, seen, cfg.device) for model in (case.model, null))
        answers = logits.argmax(1).numpy()
        worded = [
            Concept(factor.name, texts=factor.texts[1:], against=factor.texts[:1])
            for factor in task.factors
            if len(factor.texts) == 2
        ]
        shown = []
        for column, name in enumerate(task.names):
            has = torch.from_numpy(apart.codes[:, column] == 1)
            shown.append(Concept(name, shown=apart.pixels()[has], without=apart.pixels()[~has]))
        options = {"device": cfg.device, "seed": cfg.seed}
        found = pd.concat([
            by_texts(seen, worded, clip, logits, others, answers, **options),
            by_pictures(case.model, null, shown, np.unique(answers), **options),
        ])  # fmt: skip
        for row in found.to_dict("records"):
            rows.append({
                "sort": case.sort, "classifier": case.name, "cue": case.cue, "factor": row["concept"],
                "own class": row["concept"] == task.names[0], "given by": row["given by"],
                "redrawn": case.truth.share(row["concept"]), "found": row["found"], "p": row["p"],
                "passes": not row["why"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def main(
    what: Annotated[
        Literal["acceptance", "readings"], typer.Argument(help="changes of pictures, or words and pictures")
    ],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="the csv; build/<what>-<seed>.csv by default")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="another one than was decided on")] = None,
) -> None:
    """Audit classifiers of which it is known what they use, write a table of all and say what the rule asks for."""
    trial, wanted, usual = {
        "acceptance": (table, WANTED, SEED),
        "readings": (readings_table, {"biased": 20, "unbiased": 20}, READ_SEED),
    }[what]
    chosen = usual if seed is None else seed
    found = trial(profiles.load("full", "05_which_explanation", chosen), wanted)
    file = out or BUILD / f"{what}-{chosen}.csv"
    write_text(file, found.to_csv(index=False, float_format="%.3f", lineterminator="\n"))
    if what == "acceptance":
        said = found.groupby(["sort", "pictures"]).right.agg(["sum", "size"])
    else:
        planted, ignored = found.factor == found.cue, (found.redrawn < IGNORES) & ~found["own class"]
        kind = np.select([planted, ignored], ["planted cue", "ignored"], "other")
        said = found.assign(kind=kind).groupby(["kind", "given by"]).passes.agg(["sum", "size"])
    print(said.to_string(), f"wrote {file}", sep="\n")


if __name__ == "__main__":
    typer.run(main)
