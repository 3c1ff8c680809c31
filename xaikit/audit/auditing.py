"""An audit of one classifier on its user's pictures: what it uses, how sure that is, what could have been found."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

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
from xaikit.audit.questions import FEWEST, Concept, Effect, classify, effects, removals
from xaikit.audit.readings import readings_of
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
    began, notes = time.monotonic(), []
    if len(pictures) < FEWEST:
        raise ValueError(f"There are {len(pictures)} pictures, of which nothing can be said: give {FEWEST}.")
    model = classifier.model.to(device)
    logits = classify(model, pictures.seen, device)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"The classifier gives {tuple(logits.shape)}: give one with two classes or more.")
    if bad := int((~logits.isfinite().all(1)).sum()):
        first = pictures.ids[int((~logits.isfinite().all(1)).nonzero()[0])]
        raise ValueError(f"The logits of {bad} of {len(pictures)} pictures ({first}, …) are NaN or infinite: mend it.")
    answers = logits.argmax(1)
    chosen = tuple(concepts_for(pictures.seen) if concepts is None else concepts)
    if not chosen:
        raise ValueError("There is no concept to ask about: name one, or leave them out for those of any picture.")
    found = effects(model, pictures.seen, chosen, answers=answers, device=device, seed=seed)
    removed: list[Effect] = []
    maps = readings = None
    if quick:
        notes.append("A quick audit: no regions were removed, no maps were made, and no words were asked for.")
    else:
        asked = {own.region for own in chosen} & set(pictures.seen.masks)
        regions = [region for region in pictures.seen.masks if region in asked]
        if regions:
            removed = removals(model, pictures.seen, answers=answers, regions=regions, device=device, seed=seed)
        maps = maps_of(
            model, pictures.seen, answers, _mapped(pictures, seed), gradients=classifier.gradients, device=device,
            seed=seed,
        )  # fmt: skip
        readings = readings_of(classifier, pictures, chosen, language, logits, device=device, seed=seed)
    mends: list[Mend] = []
    if not quick:
        claimed = sorted((each for each in found if each.claimed), key=lambda each: -each.net.value)[:MENDED]
        wanted = [next(own for own in chosen if own.change and own.name == each.concept) for each in claimed]
        mends = [
            mend(model, pictures.seen, pictures.labels, own, chosen, answers.numpy(), device=device, seed=seed)
            for own in wanted
        ]
    known = pictures.labels != NO_LABEL
    words = pd.DataFrame(columns=["word", "of mistakes", "of right answers", "difference", "p"])
    if pictures.captions and known.any():
        texts = [pictures.captions[row] for row in np.flatnonzero(known)]
        words = keywords(texts, (answers.numpy() != pictures.labels)[known], seed)
    return Audit(
        classifier, pictures, chosen, logits.numpy(), tuple(found), tuple(removed), maps, readings, tuple(mends), words,
        seed, time.monotonic() - began, tuple(notes), command,
    )  # fmt: skip


def _mapped(pictures: Pictures, seed: int) -> list[int]:
    """Pictures to make maps of: at random, of those with an object where there are any."""
    rows = np.arange(len(pictures))
    if OBJECT in pictures.seen.masks:
        there = pictures.seen.masks[OBJECT].flatten(1).any(1).numpy()
        rows = rows[there] if there.sum() >= 4 else rows
    draw = rng(seed, "audit", "mapped")
    return sorted(draw.choice(rows, min(MAPPED, len(rows)), replace=False).tolist())
