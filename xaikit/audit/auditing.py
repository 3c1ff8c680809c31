"""An audit of one classifier on its user's pictures: what it uses, how sure that is, what could have been found."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from torch import Tensor

from xaikit.arguments import Device, Seed, public
from xaikit.audit import page
from xaikit.audit.concepts import concepts_for
from xaikit.audit.findings import Findings, removal_table
from xaikit.audit.language import Language
from xaikit.audit.load import Loaded
from xaikit.audit.maps import maps_of
from xaikit.audit.measures import keywords
from xaikit.audit.mends import Mend, mend
from xaikit.audit.photographs import NO_LABEL, OBJECT, Pictures
from xaikit.audit.questions import (
    FEWEST,
    Concept,
    Effect,
    Keep,
    Seen,
    classify,
    counted,
    decided,
    made_now,
    removals,
)
from xaikit.audit.readings import readings_of
from xaikit.metrics.intervals import proportion
from xaikit.storage.files import write_text
from xaikit.storage.seeding import rng

MAPPED = 16  # pictures that maps are made of
QUICK = 120  # pictures of a quick audit
MENDED = 3  # cues for which a mend is tried


@dataclass(frozen=True, eq=False)
class Audit(Findings):
    """What an audit found: `table()` is a row a question, `to_html()` the page, and `save(folder)` writes all of it."""

    def to_html(self) -> str:
        """The page, with all that it shows in it."""
        return page.render(self)

    def save(self, folder: Path) -> Path:
        """Write report.html, audit.json, effects.csv, removals.csv and answers.csv; gives the page's path."""
        write_text(folder / "audit.json", json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")
        write_text(folder / "effects.csv", self.table().to_csv(index=False))
        write_text(folder / "removals.csv", removal_table(self.removals).to_csv(index=False))
        write_text(folder / "answers.csv", self.answer_table().to_csv(index=False))
        write_text(folder / "report.html", self.to_html())
        return folder / "report.html"


@public
def audit(
    classifier: Loaded,
    pictures: Pictures,
    concepts: Sequence[Concept] | None = None,
    *,
    language: Language | None = None,
    device: Device = "cpu",
    seed: Seed = 0,
    quick: bool = False,
    command: str = "",
) -> Audit:
    """Ask what a classifier uses, on pictures that `read_pictures` gives or that are made from tensors (`Pictures`).

    `concepts` say what may be used; by default what can be asked of any picture (`concepts_for`). `language` has CLIPs
    and a captioner (`load_language`), for what is asked in words. `quick` leaves out removals, maps and words.
    Raises ValueError for fewer than ten pictures, and logits that are not finite or of one class.
    """
    return audited(
        classifier, pictures, concepts, language, device=device, seed=seed, quick=quick, command=command, keep=made_now
    )


def audited(
    classifier: Loaded, pictures: Pictures, concepts: Sequence[Concept] | None, language: Language | None, *,
    device: str, seed: int, quick: bool, command: str, keep: Keep,
) -> Audit:  # fmt: skip
    """An `audit` whose steps are given to `keep`, one by one."""
    began = time.monotonic()
    if len(pictures) < FEWEST:
        raise ValueError(f"There are {len(pictures)} pictures, of which nothing can be said: give {FEWEST}.")
    chosen = tuple(concepts_for(pictures.seen) if concepts is None else concepts)
    logits = keep("answers", lambda: answered(classifier, pictures, device))
    found, removed = turned(classifier, pictures, chosen, logits, device=device, seed=seed, quick=quick, keep=keep)
    return concluded(
        classifier, pictures, chosen, logits, logits.argmax(1).numpy(), confidence(logits), found, removed,
        language=language, device=device, seed=seed, quick=quick, command=command, began=began, keep=keep,
    )  # fmt: skip


def answered(classifier: Loaded, pictures: Pictures, device: str) -> Float[Tensor, "pictures classes"]:
    """The logits of the pictures. Raises ValueError for those of one class, and where they are no numbers."""
    logits = classify(classifier.model.to(device), pictures.seen, device)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"The classifier gives {tuple(logits.shape)}: give one with two classes or more.")
    if bad := int((~logits.isfinite().all(1)).sum()):
        first = pictures.ids[int((~logits.isfinite().all(1)).nonzero()[0])]
        raise ValueError(f"The logits of {bad} of {len(pictures)} pictures ({first}, …) are NaN or infinite: mend it.")
    return logits


def confidence(logits: Float[Tensor, "pictures classes"]) -> Float[np.ndarray, " pictures"]:
    """The probability of each answer."""
    return logits.softmax(1).amax(1).numpy()


def turned(
    classifier: Loaded, pictures: Pictures, concepts: Sequence[Concept], logits: Float[Tensor, "pictures classes"], *,
    device: str, seed: int, quick: bool, fewest: int = FEWEST, keep: Keep = made_now,
) -> tuple[list[Effect], list[Effect]]:  # fmt: skip
    """What changes and removals turn; of the changes nothing is decided yet."""
    if not concepts:
        raise ValueError("There is no concept to ask about: name one, or leave them out for those of any picture.")
    model, seen, answers = classifier.model.to(device), pictures.seen, logits.argmax(1)
    found = counted(model, seen, concepts, answers=answers, device=device, seed=seed, keep=keep)
    asked = {own.region for own in concepts} & set(seen.masks)
    regions = [region for region in seen.masks if region in asked]
    if quick or not regions:
        return found, []
    removed = removals(
        model, seen, answers=answers, regions=regions, device=device, seed=seed, fewest=fewest, keep=keep
    )
    return found, removed


def concluded(
    classifier: Loaded, pictures: Pictures, concepts: tuple[Concept, ...], logits: Float[Tensor, "first classes"],
    answers: Int64[np.ndarray, " pictures"], sure: Float[np.ndarray, " pictures"], found: Sequence[Effect],
    removed: Sequence[Effect], *, language: Language | None, device: str, seed: int, quick: bool, command: str,
    began: float, keep: Keep,
) -> Audit:  # fmt: skip
    """What follows from what was `turned`: what is used, maps, what words say, mends, and the words of mistakes.

    The pixels of `pictures`, and so the maps, mends and what words say, may be of the first of them alone.
    """
    model, seen, first = classifier.model.to(device), pictures.seen, slice(0, len(pictures.seen))
    effects, notes = decided(found, answers), []
    maps, readings, mends = None, None, []
    if quick:
        notes.append("A quick audit: no regions were removed, no maps were made, and no words were asked for.")
    else:
        if not classifier.gradients:
            notes.append("The classifier gives no gradients: its maps are of random masks (RISE), not searched for.")
        maps = keep("maps", lambda: maps_of(
            model, seen, logits.argmax(1), _mapped(seen, seed), gradients=classifier.gradients, device=device,
            seed=seed,
        ))  # fmt: skip
        shown = Pictures(seen, pictures.ids[first], pictures.labels[first], captions=pictures.captions[first])
        readings = keep("words", lambda: readings_of(
            classifier, shown, concepts, language, logits, device=device, seed=seed
        ))  # fmt: skip
        claimed = sorted((each for each in effects if each.claimed), key=lambda each: -each.net.value)[:MENDED]
        for wanted in [next(own for own in concepts if own.change and own.name == each.concept) for each in claimed]:

            def tried(wanted: Concept = wanted) -> Mend:
                labels = pictures.labels[first]
                return mend(model, seen, labels, wanted, concepts, answers[first], device=device, seed=seed)

            mends.append(keep(f"mend {wanted.name}", tried))
    known = pictures.labels != NO_LABEL
    right, kinds = int((answers == pictures.labels)[known].sum()), len(np.unique(pictures.labels[known]))
    if known.any() and kinds > 1 and proportion(right, int(known.sum())).high < 1 / kinds:
        notes.append("It is right less often than by guessing: are its classes in another order (--classes)?")
    words = pd.DataFrame(columns=["word", "of mistakes", "of right answers", "difference", "p"])
    if pictures.captions and known.any():
        texts = [pictures.captions[row] for row in np.flatnonzero(known)]
        words = keywords(texts, (answers != pictures.labels)[known], seed)
    return Audit(
        classifier, pictures, concepts, logits.numpy(), answers, sure, tuple(effects), tuple(removed), maps,
        readings, tuple(mends), words, seed, time.monotonic() - began, tuple(notes), command,
    )  # fmt: skip


def _mapped(seen: Seen, seed: int) -> list[int]:
    """Pictures to make maps of: at random, of those with an object where there are any."""
    rows = np.arange(len(seen))
    if OBJECT in seen.masks:
        there = seen.masks[OBJECT].flatten(1).any(1).numpy()
        rows = rows[there] if there.sum() >= 4 else rows
    draw = rng(seed, "audit", "mapped")
    return sorted(draw.choice(rows, min(MAPPED, len(rows)), replace=False).tolist())
