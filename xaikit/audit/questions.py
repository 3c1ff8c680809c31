"""Does a classifier use a thing, a background, a colour, a patch? Its answers after a change, net of a control's.

Whatever is changed leaves seams and odd pictures, and these alone turn answers. So every change has a control that is
done in the same way to the same picture, and only lacks what is asked about:

- what comes from another picture (a background, a thing, a colour) comes once from one with *another answer*, and once
  from one with the *same answer*; of colours, which may then be the same, a second control takes those of the other
  answer with red, green and blue exchanged, which are as far from the own ones and as odd, and mean nothing (where
  there is no colour but grey, there is no such control, and it is brightness that is asked about);
- a patch is laid over the picture, and in its place the same patch in other colours (of grey ones the negative), and a
  piece of another picture in its shape; a word, and another word. Where pictures show the patch, mostly at one place,
  it is laid there.

The effect is the difference of the shares of answers that flip, and its p McNemar's, one-sided, adjusted for the number
of questions. A cue is claimed where that is at most 0.05 and the difference at least `LEAST`.
"""

import math
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.arguments import PositiveShare, public
from xaikit.audit.batches import in_batches
from xaikit.audit.changes import (
    PLACES,
    Filling,
    Place,
    box,
    on_background,
    with_colour,
    with_patch,
    with_thing,
    without,
    word_patch,
)
from xaikit.metrics.intervals import Interval, bootstrap_mean, proportion
from xaikit.storage.seeding import rng

ALPHA = 0.05
LEAST = 0.1  # of the answers: a smaller effect is shown, and not claimed
POWER = 0.8
ALIKE = 0.08  # root mean squared difference, of pixels in [0, 1], up to which a place looks like a patch
GREY = 0.08  # mean difference of the largest and the smallest channel, up to which a region has no colours
FEWEST = 10  # pictures that a question can be asked of
SHOWN = 3  # pictures that show a patch at one place, from which on it is laid there
IN_OTHER_COLOURS = "in other colours"

Kind = Literal["background", "thing", "colour", "patch", "text"]
KINDS: tuple[Kind, ...] = ("background", "thing", "colour", "patch", "text")
WHOLE = "picture"  # the region that is all of it


@public
@dataclass(frozen=True, eq=False)
class Concept:
    """Something that a classifier may use, and the change that asks for it.

    `change`: "background" (all but `region` from another picture), "thing" (`region` from another picture), "colour"
    (the colours of `region` from another picture), "patch" or "text" (laid over the picture at `place`, `size` of
    its height high). `region` names masks that came with the pictures, one of the places, or "picture". What is
    `expected` (the thing itself that a class is about) is shown, and never claimed as a shortcut.
    What no change stands for may be given in words, `texts`, with those of its absence, `against`, for a CLIP to read;
    or by pictures that have it, `shown`, and pictures that have not, `without`, as the classifier sees them: of these
    it is told what goes with the logits, and nothing is claimed.
    Raises ValueError for a change that lacks what it needs, and a concept that has none of the three.
    """

    name: str
    change: Kind | None = None
    region: str = ""
    patch: UInt8[Tensor, "channels rows columns"] | None = None
    text: str = ""
    place: Place = "lower right"
    size: PositiveShare = 0.2
    expected: bool = False
    texts: Sequence[str] = ()
    against: Sequence[str] = ()
    shown: UInt8[Tensor, "shown 3 height width"] | None = None
    without: UInt8[Tensor, "without 3 height width"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or isinstance(self.against, str):
            raise ValueError(f"{self.name}: its texts are one string; give a list of texts.")
        if self.against and not self.texts:
            raise ValueError(f"{self.name}: there are texts of its absence and none of it; give texts.")
        if (self.shown is None) != (self.without is None):
            raise ValueError(f"{self.name}: pictures that have it are compared with some that have not; give both.")
        for pictures in (self.shown, self.without):
            if pictures is not None and len(pictures) < FEWEST:
                raise ValueError(f"{self.name}: {len(pictures)} pictures say nothing of it; give {FEWEST} of each.")
        if self.change is None and (self.texts or self.shown is not None):
            return
        if self.change not in KINDS:  # of a file: what comes from Python is looked at before
            raise ValueError(f"{self.name}: unknown change {self.change!r}; choose one of {', '.join(KINDS)}.")
        if self.place not in PLACES or not 0 < self.size <= 1:
            known = ", ".join(PLACES)
            raise ValueError(
                f"{self.name}: place {self.place!r}, size {self.size}; give a size in (0, 1], and one of {known}."
            )
        if self.change in ("background", "thing", "colour") and not self.region:
            raise ValueError(f"{self.name}: a change of {self.change} needs a region; name masks, or a place.")
        if self.change == "patch" and self.patch is None:
            raise ValueError(f"{self.name}: a patch needs a picture; name its file.")
        if self.change == "text" and not self.text.strip():
            raise ValueError(f"{self.name}: there is no text to write; give a word.")


@dataclass(frozen=True, eq=False)
class Effect:
    """What a change does to the answers, and what its controls do.

    `flips` and `controls` [pictures] say which answers change; `shares` have their shares with exact intervals, "the
    change" first. `net` is the change's share less that of the control which flips more. `p` is one-sided, and the
    larger of the two where there are two controls; `adjusted` allows for all questions. `detectable` is the smallest
    difference that would have been found in 4 of 5 audits of as many pictures. `towards` counts the answers after the
    change, of those that flipped. Of a patch, `shown` is how many other pictures show it, and
    `where_shown` whether it was laid where they do. `why` says why nothing could be asked.
    """

    concept: str
    change: str
    rows: Int64[np.ndarray, " pictures"] = field(default_factory=lambda: np.zeros(0, np.int64))
    flips: Bool[np.ndarray, " pictures"] = field(default_factory=lambda: np.zeros(0, bool))
    controls: dict[str, Bool[np.ndarray, " pictures"]] = field(default_factory=dict)
    towards: dict[int, int] = field(default_factory=dict)
    expected: bool = False
    seed: int = 0
    shown: int | None = None
    where_shown: bool = False
    questions: int = 1
    adjusted: float = 1.0
    why: str = ""

    @property
    def unseen(self) -> bool:
        """Whether it is a patch that no picture shows."""
        return self.shown == 0

    @property
    def said(self) -> str:
        """What a reader has to know of how it was asked."""
        if self.shown is None:
            return ""
        where = ", laid where they show it" if self.where_shown else ", here and there"
        return f"{self.shown} other pictures show it{where}" if self.shown else "none of the pictures shows it"

    @property
    def shares(self) -> dict[str, Interval]:
        """The share of flips of the change and of each control."""
        every = {"the change": self.flips, **self.controls}
        return {name: proportion(int(each.sum()), len(each)) for name, each in every.items()}

    @property
    def strongest(self) -> str:
        """The control that flips most."""
        return max(self.controls, key=lambda name: self.controls[name].sum())

    @property
    def net(self) -> Interval:
        """The share of flips beyond the strongest control's."""
        difference = self.flips.astype(float) - self.controls[self.strongest]
        return bootstrap_mean(difference, self.seed).within(-1.0, 1.0)

    @property
    def p(self) -> float:
        """One-sided, by McNemar's test, and the larger one of two controls: each has to be beaten."""
        return max((beyond(self.flips, other) for other in self.controls.values()), default=1.0)

    @property
    def claimed(self) -> bool:
        """Whether the classifier is said to use it, and need not be expected to."""
        return not self.why and not self.expected and self.adjusted <= ALPHA and self.net.value >= LEAST

    @property
    def detectable(self) -> float:
        """The smallest difference that is claimed with a probability of 0.8; NaN where none of any size would be."""
        if self.why:
            return float("nan")
        backwards = float((~self.flips & self.controls[self.strongest]).mean())
        return smallest_effect(len(self.rows), max(backwards, 1 / len(self.rows)), ALPHA / self.questions, LEAST)


def beyond(first: Bool[np.ndarray, " pairs"], second: Bool[np.ndarray, " pairs"]) -> float:
    """McNemar's exact p that the first is no more often true than the second."""
    more, less = int((first & ~second).sum()), int((~first & second).sum())
    return float(stats.binom.sf(more - 1, more + less, 0.5)) if more + less else 1.0


def smallest_effect(n: int, backwards: float, alpha: float = ALPHA, least: float = 0.0, power: float = POWER) -> float:
    """The smallest net share that McNemar's one-sided test of `n` pairs finds with a probability of `power`.

    `backwards` is the share of pairs in which the control alone flips; what is found has to be `least` or more, too.
    NaN where not even all the others would do. By the exact distribution: the number of unlike pairs is binomial, and
    so is the share of them that go one way.
    """
    for net in np.arange(0.01, 1 - backwards + 1e-9, 0.01):
        unlike = net + 2 * backwards
        if unlike > 1:
            break
        counts = np.arange(n + 1)
        counts = counts[np.abs(counts - n * unlike) <= 6 * (n * unlike * (1 - unlike)) ** 0.5 + 1]
        critical = stats.binom.isf(alpha, counts, 0.5) + 1  # the first count whose tail is at most alpha
        critical = np.maximum(critical, np.ceil((counts + least * n) / 2 - 1e-9))
        found = stats.binom.pmf(counts, n, unlike) @ stats.binom.sf(critical - 1, counts, (net + backwards) / unlike)
        if found >= power:
            return float(net)
    return float("nan")


# --- asking -----------------------------------------------------------------------------------------------------------


@public
@dataclass(frozen=True, eq=False)
class Seen:
    """Pictures as the model sees them, with masks of regions by name; where a mask is empty there is no such thing."""

    pixels: UInt8[Tensor, "pictures 3 height width"]
    masks: dict[str, Bool[Tensor, "pictures height width"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return (self.pixels.shape[-2], self.pixels.shape[-1])

    def images(self, rows: Tensor | slice, device: str | torch.device = "cpu") -> Float[Tensor, "rows 3 height width"]:
        """Some of them in [0, 1]."""
        return self.pixels[rows].to(device).float().div_(255)

    def region(self, name: str, rows: Tensor | slice) -> Bool[Tensor, "rows height width"]:
        """The masks of a region: those of that name, a box near a place, or all of the picture.

        Raises ValueError for an unknown name.
        """
        if name in self.masks:
            return self.masks[name][rows]
        mask = torch.zeros(self.pixels.shape[-2:], dtype=torch.bool)
        if name == WHOLE:
            mask[:] = True
        elif name in PLACES:
            size = (mask.shape[0] // 4, mask.shape[1] // 4)
            mask[box(name, size, (mask.shape[0], mask.shape[1]))] = True
        else:
            known = ", ".join([*self.masks, WHOLE, *PLACES])
            raise ValueError(f"There are no masks of a region {name!r}: name one of {known}.")
        return mask.expand(len(self.pixels[rows]), -1, -1)


def classify(
    model: nn.Module, seen: Seen, device: str = "cpu", batch: int | None = None
) -> Float[Tensor, "pictures classes"]:
    """The logits of all pictures, on the CPU; `batch` at once, or as many as there is memory for."""

    def logits(rows: Tensor) -> Tensor:
        return model(seen.images(rows, device)).float().cpu()

    with torch.no_grad():
        return torch.cat(in_batches(logits, len(seen), model, seen.sides, device, batch))


def donors(
    answers: Int64[np.ndarray, " pictures"], able: Bool[np.ndarray, " pictures"], seed: int
) -> tuple[Int64[np.ndarray, " pictures"], Int64[np.ndarray, " pictures"]]:
    """For each picture another one with the same answer, and one with another answer, at random; -1 where none is.

    The able pictures lie in order, and by answer. The k-th of those with the same answer is found by counting past the
    picture itself, the k-th of the others by counting past those with the same answer: no pool is ever written down.
    """
    kinds, rows = np.unique(answers, return_inverse=True)[1], np.flatnonzero(able)
    if not len(rows):
        return np.full(len(answers), -1), np.full(len(answers), -1)
    by_kind = np.argsort(kinds[rows], kind="stable")  # positions among `rows`
    begins = np.searchsorted(kinds[rows[by_kind]], np.arange(kinds.max() + 1))
    alike = np.bincount(kinds[rows], minlength=kinds.max() + 1)[kinds]
    place = np.arange(len(rows)) - begins[kinds[rows[by_kind]]]  # of each of `by_kind` among those of its answer
    pools = np.stack([alike - able, len(rows) - alike], 1)
    found = np.full(pools.shape, -1)
    # Picture by picture, first of its answer and then of others: the same stream as one draw after the other.
    found[pools > 0] = rng(seed, "audit", "donors").integers(pools[pools > 0])
    same, other = found.T
    own = np.full(len(answers), len(answers))  # beyond any of its answer, where the picture itself is not able
    own[rows[by_kind]] = place
    has = same >= 0
    same[has] = rows[by_kind[begins[kinds[has]] + same[has] + (same[has] >= own[has])]]
    # Before the j-th able picture of an answer lie its position less j others; these counts only grow with j.
    past = kinds[rows[by_kind]] * (len(rows) + 1) + by_kind - place
    has = other >= 0
    skipped = np.searchsorted(past, kinds[has] * (len(rows) + 1) + other[has], side="right") - begins[kinds[has]]
    other[has] = rows[other[has] + skipped]
    return same, other


Keep = Callable[[str, Callable[[], Any]], Any]  # gives what has that name, and makes it where it is not there yet


def made_now(_name: str, make: Callable[[], Any]) -> Any:
    """Nothing is kept."""
    return make()


@public
def effects(
    model: nn.Module,
    seen: Seen,
    concepts: Sequence[Concept],
    *,
    answers: Int64[Tensor, " pictures"],
    device: str = "cpu",
    seed: int = 0,
    batch: int | None = None,
) -> list[Effect]:
    """The effect of each concept's change on the answers, with p adjusted for their number (Holm, 1979)."""
    found = counted(model, seen, concepts, answers=answers, device=device, seed=seed, batch=batch)
    return decided(found, answers.numpy())


def counted(
    model: nn.Module,
    seen: Seen,
    concepts: Sequence[Concept],
    *,
    answers: Int64[Tensor, " pictures"],
    device: str = "cpu",
    seed: int = 0,
    batch: int | None = None,
    keep: Keep = made_now,
) -> list[Effect]:
    """The answers that each concept's change turns, of however few pictures; nothing is `decided` of them yet.

    Concepts without a change are passed over.
    """
    found, concepts = [], [each for each in concepts if each.change]
    for concept in tqdm(concepts, desc="changing pictures", leave=False, disable=None):
        question = _Question(seen, concept, concepts, seed)

        def ask(question: "_Question" = question) -> list[Effect]:
            return [_effect(model, question, answers.numpy(), device, batch)]

        found += keep(f"change {concept.name}", ask)
    return found


def decided(found: Sequence[Effect], answers: Int64[np.ndarray, " pictures"]) -> list[Effect]:
    """What was `counted`, with p adjusted for the number of questions; of few pictures, why nothing can be asked."""
    enough = [each if len(each.rows) >= FEWEST else _too_few(each, answers) for each in found]
    asked = [each for each in enough if not each.why and not each.expected]
    adjusted = dict(zip(map(id, asked), holm([each.p for each in asked]), strict=True))
    return [replace(each, questions=max(1, len(asked)), adjusted=adjusted.get(id(each), each.p)) for each in enough]


def _too_few(effect: Effect, answers: np.ndarray) -> Effect:
    one = len(np.unique(answers)) == 1
    few = f"{len(effect.rows)} pictures have what it takes, and {FEWEST} are needed"
    why = "all answers are the same, so that there is nothing to exchange" if one else few
    return Effect(effect.concept, effect.change, expected=effect.expected, seed=effect.seed, why=why)


def joined(parts: Sequence[Sequence[Effect]], sizes: Sequence[int]) -> list[Effect]:
    """The same questions of several sets of pictures as questions of all of them, set after set; see `counted`.

    Where the pictures of one set have no colours there, and so lack the control whose colours are exchanged, that
    would have been the change itself.
    """
    starts, found = np.cumsum([0, *sizes]), []
    names = {(each.concept, each.change): each for part in parts for each in part}
    for key, first in names.items():
        both = [(start, each) for start, part in zip(starts, parts, strict=False) for each in part
                if (each.concept, each.change) == key]  # fmt: skip
        alike, own = [each for _, each in both], [(start, each) for start, each in both if len(each.rows)]
        if not own:
            found.append(first)
            continue
        controls = dict.fromkeys(name for _, each in own for name in each.controls)
        towards: dict[int, int] = {}
        for _, each in own:
            for label, count in each.towards.items():
                towards[label] = towards.get(label, 0) + count
        found.append(replace(
            first, rows=np.concatenate([start + each.rows for start, each in own]),
            flips=np.concatenate([each.flips for _, each in own]),
            controls={name: np.concatenate([each.controls.get(name, each.flips) for _, each in own])
                      for name in controls},
            towards=dict(sorted(towards.items())),
            shown=None if first.shown is None else sum(each.shown or 0 for each in alike),
            where_shown=any(each.where_shown for each in alike),
        ))  # fmt: skip
    return found


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values, adjusted so that one of them below 0.05 is chance in at most 1 of 20 families (Holm, 1979)."""
    order, worst, adjusted = np.argsort(ps, kind="stable"), 0.0, [1.0] * len(ps)
    for place, which in enumerate(order):
        worst = max(worst, min(1.0, (len(ps) - place) * ps[which]))
        adjusted[which] = worst
    return adjusted


def _effect(model: nn.Module, question: "_Question", answers: np.ndarray, device: str, batch: int | None) -> Effect:
    concept = question.concept
    none = Effect(concept.name, concept.change, expected=concept.expected, seed=question.seed, **question.told)
    rows, donor = question.sources(answers)
    if not len(rows):
        return none

    def given(part: Tensor) -> dict[str, Tensor]:
        changed = question.variants(rows[part.numpy()], donor, device)
        return {name: model(images).argmax(1).cpu() for name, images in changed}

    with torch.no_grad():
        parts = in_batches(given, len(rows), model, question.seen.sides, device, batch)
    after = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    flips = {name: given != answers[rows] for name, given in after.items()}
    turned = after["the change"][flips["the change"]]
    towards = {int(label): int(count) for label, count in zip(*np.unique(turned, return_counts=True), strict=True)}
    return replace(none, rows=rows, flips=flips.pop("the change"), controls=flips, towards=towards)


@dataclass(frozen=True, eq=False)
class _Question:
    """One concept of several, asked of some pictures: which of them, from where each takes what, and the change.

    What is asked by itself stays as it is while something larger is exchanged: a logo, a tool, a corner does not go
    with the background, and hair that the classes are about is not covered by another's clothes. So an effect is of
    what its name says, and not of what happens to lie there too.
    """

    seen: Seen
    concept: Concept
    concepts: Sequence[Concept]
    seed: int

    def sources(
        self, answers: Int64[np.ndarray, " pictures"]
    ) -> tuple[Int64[np.ndarray, " rows"], dict[str, Int64[np.ndarray, " pictures"]]]:
        """The pictures that can be asked, and from which other picture each takes what it is given."""
        seen, concept = self.seen, self.concept
        able = np.ones(len(seen), bool)
        if concept.change == "patch":
            able = ~self.showing[0]
        elif concept.region:
            parts = [seen.region(concept.region, slice(i, i + 100)) for i in range(0, len(seen), 100)]
            able = np.concatenate([part.flatten(1).any(1).numpy() for part in parts])
        if concept.change in ("text", "patch"):
            other, rows = np.zeros(len(seen), np.int64), np.flatnonzero(able)
            other[rows] = np.roll(rng(self.seed, "audit", "pieces").permutation(rows), 1)
            return rows, {"other": other}
        same, other = donors(answers, able, self.seed)
        return np.flatnonzero(able & (same >= 0) & (other >= 0)), {"same": same, "other": other}

    def variants(
        self, rows: Int64[np.ndarray, " rows"], donor: dict[str, Int64[np.ndarray, " pictures"]], device: str = "cpu"
    ) -> Iterator[tuple[str, Float[Tensor, "rows 3 height width"]]]:
        """The pictures `rows` after the change, and after each control."""
        seen, concept = self.seen, self.concept
        own = torch.from_numpy(rows)
        images = seen.images(own, device)
        if concept.change in ("patch", "text"):
            for name, patch in self.laid.items():
                yield name, with_patch(images, patch.to(device).float() / 255, self.place)
            opaque, laid = images.new_zeros(1, 1, *images.shape[-2:]), self.laid["the change"]
            opaque[:, :, *self.box] = laid[3].to(device).float() / 255 if len(laid) == 4 else 1.0
            others = seen.images(torch.from_numpy(donor["other"][rows]), device)
            yield "a piece of another picture", torch.lerp(images, others, opaque)
            return
        regions, held = seen.region(concept.region, own).to(device), self.held(own).to(device)
        for name, which in (("the change", "other"), ("from the same answer", "same")):
            chosen = torch.from_numpy(donor[which][rows])
            others, theirs = seen.images(chosen, device), seen.region(concept.region, chosen).to(device)
            if concept.change == "background":
                yield name, on_background(images, regions | held, others, theirs | self.held(chosen).to(device))
            else:
                change = with_thing if concept.change == "thing" else with_colour
                yield name, torch.where(held[:, None], images, change(images, regions, others, theirs))
            if concept.change == "colour" and which == "other" and not self.grey:
                found = with_colour(images, regions, _turned(images, regions, others, theirs), theirs)
                yield IN_OTHER_COLOURS, torch.where(held[:, None], images, found)

    @cached_property
    def grey(self) -> bool:
        """Whether the region has no colours, so that to exchange red, green and blue would change nothing."""
        some = slice(0, 100)
        images, regions = self.seen.images(some), self.seen.region(self.concept.region, some)
        apart = (images.amax(1) - images.amin(1))[regions]
        return len(apart) == 0 or float(apart.mean()) < GREY

    @cached_property
    def laid(self) -> dict[str, UInt8[Tensor, "channels rows columns"]]:
        """What is laid over the pictures: the patch, or the word and another word."""
        concept, size = self.concept, (self.seen.pixels.shape[-2], self.seen.pixels.shape[-1])
        height = round(concept.size * size[0])
        if concept.change == "patch":
            assert concept.patch is not None
            patch = _fitting(_sized(concept.patch, height), size)
            return {"the change": patch, IN_OTHER_COLOURS: _recoloured(patch)}
        words = {"the change": concept.text, "another word": _another_word(concept.text, self.seed)}
        return {name: _fitting(word_patch(word, max(6, height)), size) for name, word in words.items()}

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """Where the patch or word lies."""
        patch = self.laid["the change"]
        return box(self.place, (patch.shape[-2], patch.shape[-1]), self.seen.sides)

    @cached_property
    def showing(self) -> tuple[Bool[np.ndarray, " pictures"], tuple[int, int] | None]:
        """Which pictures show the patch, and where most of them do (row, column); None where no place stands out."""
        shows, places = _shows(self.seen, self.laid["the change"])
        if not shows.any():
            return shows, None
        found, counts = np.unique(places[shows], axis=0, return_counts=True)
        most = int(counts.max())
        stands_out = most >= SHOWN and 2 * most >= shows.sum()
        row, column = found[counts.argmax()].tolist()
        return shows, (row, column) if stands_out else None

    @property
    def place(self) -> Place | tuple[int, int]:
        """Where the patch or word is laid: where the pictures show it, or where the concept says."""
        shown = self.showing[1] if self.concept.change == "patch" else None
        return self.concept.place if shown is None else shown

    @property
    def told(self) -> dict[str, Any]:
        """What an `Effect` says of where its patch was laid."""
        if self.concept.change != "patch":
            return {}
        return {"shown": int(self.showing[0].sum()), "where_shown": self.showing[1] is not None}

    @cached_property
    def boxes(self) -> dict[str, tuple[slice, slice]]:
        """Where the patches lie that other questions are of: looked for in all pictures, and so once."""
        patches = [each for each in self.concepts if each.change == "patch"]
        return {each.name: _Question(self.seen, each, (), self.seed).box for each in patches}

    def held(self, rows: Tensor) -> Bool[Tensor, "rows height width"]:
        """What stays as it is, as another question is of it."""
        own = self.seen.region(self.concept.region, rows)
        found = torch.zeros_like(own)
        for other in self.concepts:
            if other is self.concept or other.region in (self.concept.region, WHOLE) or other.change in (None, "text"):
                continue
            if other.change == "patch":
                if self.concept.change == "background":
                    found[:, *self.boxes[other.name]] = True
            elif self.concept.change == "background" or (
                self.concept.region in self.seen.masks and other.expected and other.region in self.seen.masks
            ):
                theirs = self.seen.region(other.region, rows)
                inside = (own & _boxed(theirs)).flatten(1).sum(1) * 2 > own.flatten(1).sum(1)
                found |= theirs & ~(inside & (self.concept.change != "background"))[:, None, None]
        return found if self.concept.change == "background" else found & ~own


def examples(
    seen: Seen,
    concept: Concept,
    concepts: Sequence[Concept],
    answers: Int64[np.ndarray, " pictures"],
    rows: ArrayLike,
    seed: int,
) -> dict[str, Float[Tensor, "rows 3 height width"]]:
    """Some pictures after the change, and after each control, as they were when it was asked."""
    question = _Question(seen, concept, concepts, seed)
    return dict(question.variants(np.asarray(rows, np.int64), question.sources(answers)[1]))


def askable(
    seen: Seen, concept: Concept, answers: Int64[np.ndarray, " pictures"], seed: int
) -> Int64[np.ndarray, " rows"]:
    """The pictures that a concept can be asked of."""
    return _Question(seen, concept, (concept,), seed).sources(answers)[0]


def _turned(images: Tensor, regions: Tensor, others: Tensor, theirs: Tensor) -> Tensor:
    """The others with red, green and blue exchanged in a ring, that way round which is further from the own colours."""

    def mean(of: Tensor, where: Tensor) -> Tensor:
        inside = where[:, None].to(of)
        return (of * inside).sum((2, 3)) / inside.sum((2, 3)).clamp_min(1)

    rings = [others.roll(steps, 1) for steps in (1, 2)]
    first, second = ((mean(ring, theirs) - mean(images, regions)).norm(dim=1) for ring in rings)
    return torch.where((first >= second)[:, None, None, None], *rings)


def _boxed(masks: Bool[Tensor, "rows height width"]) -> Bool[Tensor, "rows height width"]:
    """The box around each mask."""
    rows, columns = masks.any(2), masks.any(1)

    def between(hit: Tensor) -> Tensor:
        return (hit.cumsum(1) > 0) & (hit.flip(1).cumsum(1).flip(1) > 0)

    return between(rows)[:, :, None] & between(columns)[:, None]


def _recoloured(patch: UInt8[Tensor, "channels rows columns"]) -> UInt8[Tensor, "channels rows columns"]:
    """The patch with red, green and blue exchanged in a ring, the way round that is further; a grey one's negative."""
    colours = patch[:3].float() / 255
    seen = patch[3] > 0 if len(patch) == 4 else torch.ones_like(patch[0], dtype=torch.bool)
    if not seen.any() or float((colours.amax(0) - colours.amin(0))[seen].mean()) < GREY:
        found = 1 - colours
    else:
        rings = [colours.roll(steps, 0) for steps in (1, 2)]
        found = max(rings, key=lambda ring: float((ring - colours)[:, seen].square().sum()))
    return torch.cat([found.mul(255).round().byte(), patch[3:]])


def _shows(
    seen: Seen, patch: UInt8[Tensor, "channels rows columns"]
) -> tuple[Bool[np.ndarray, " pictures"], Int64[np.ndarray, "pictures 2"]]:
    """Which pictures show the patch already, of that size and anywhere, and at which row and column it fits best.

    To lay it over them would change nothing. By the mean squared difference, weighted by how opaque the patch is, at
    every place.
    """
    opaque = patch[3:].float() / 255 if len(patch) == 4 else torch.ones(1, *patch.shape[1:])
    wanted = patch[:3].float() / 255
    weight, product = opaque.expand(3, -1, -1)[None], (opaque * wanted)[None]
    total = (opaque.expand(3, -1, -1) * wanted.square()).sum()
    found, places = [], []
    for start in range(0, len(seen), 50):
        images = seen.images(slice(start, start + 50))
        apart = F.conv2d(images.square(), weight) - 2 * F.conv2d(images, product) + total
        least, at = apart.flatten(1).min(1)
        found.append((least / weight.sum() < ALIKE**2).numpy())
        places.append(torch.stack([at // apart.shape[-1], at % apart.shape[-1]], 1).numpy())
    return np.concatenate(found), np.concatenate(places)


def _another_word(word: str, seed: int) -> str:
    """As many other letters."""
    letters = [each for each in string.ascii_uppercase if each not in word.upper()] or list(string.ascii_uppercase)
    return "".join(rng(seed, "audit", "word").choice(letters, len(word)))


def _sized(patch: Tensor, height: int) -> Tensor:
    """A patch of that height, in its proportions."""
    size = [max(1, height), max(1, round(patch.shape[-1] * height / patch.shape[-2]))]
    return F.interpolate(patch[None].float(), size, mode="bilinear", antialias=True)[0].round().byte()


def _fitting(patch: Tensor, within: Sequence[int]) -> Tensor:
    """The patch, made smaller where it is larger than the picture."""
    ratio = min(1.0, within[0] / patch.shape[-2], within[1] / patch.shape[-1])
    return patch if ratio == 1 else _sized(patch, int(patch.shape[-2] * ratio))


# --- taking away ------------------------------------------------------------------------------------------------------

FILLINGS: tuple[Filling, ...] = ("mean", "blur")
REMOVED = 200  # pictures of each region, at random


def removals(
    model: nn.Module,
    seen: Seen,
    *,
    answers: Int64[Tensor, " pictures"],
    regions: Sequence[str] = (),
    fillings: Sequence[Filling] = FILLINGS,
    device: str = "cpu",
    seed: int = 0,
    batch: int | None = None,
    fewest: int = FEWEST,
    keep: Keep = made_now,
) -> list[Effect]:
    """What is lost with each of the `regions` (by default all), and with all but it, beside two masks of no meaning.

    These are the mask of another picture, the one of the nearest area, and its own mask elsewhere in the picture,
    moved around its edges. Nothing is claimed of it: a large region is hit by any other large mask, so that this finds
    less than an exchange does, and it cannot say whether a thing was used or only missed. Regions that fewer than
    `fewest` pictures have are left out.
    """
    found = []
    for name, side in [(name, side) for name in regions or seen.masks for side in ("", "all but ")]:
        there = np.flatnonzero(seen.masks[name].flatten(1).any(1).numpy())
        if len(there) < max(2, fewest):
            continue

        def ask(name: str = name, side: str = side, there: np.ndarray = there) -> list[Effect]:
            draw = rng(seed, "audit", "elsewhere", name)
            rows = np.sort(draw.permutation(there)[:REMOVED])
            own = seen.masks[name][torch.from_numpy(rows)]
            area = own.flatten(1).float().mean(1)
            apart = (area[:, None] - area).abs().fill_diagonal_(math.inf)
            moved = torch.stack([_rolled(mask, draw) for mask in own])
            masks = {
                "the change": own, "another picture's mask": own[apart.argmin(1)], "its own mask elsewhere": moved,
            }  # fmt: skip
            masks = {which: ~mask if side else mask for which, mask in masks.items()}
            return [
                _removed(model, seen, f"{side}{name}", rows, masks, filling, answers.numpy(), device, seed, batch)
                for filling in fillings
            ]

        found += keep(f"without {side}{name}", ask)
    return found


def _removed(
    model: nn.Module, seen: Seen, name: str, rows: np.ndarray, masks: dict[str, Tensor], filling: Filling,
    answers: np.ndarray, device: str, seed: int, batch: int | None,
) -> Effect:  # fmt: skip
    """What one way of filling does to the answers, with each of the masks."""

    def given(part: Tensor) -> dict[str, Tensor]:
        images = seen.images(torch.from_numpy(rows)[part], device)
        changed = ((which, without(images, mask[part].to(device), filling)) for which, mask in masks.items())
        return {which: model(each).argmax(1).cpu() for which, each in changed}

    with torch.no_grad():
        parts = in_batches(given, len(rows), model, seen.sides, device, batch)
    flips = {which: torch.cat([part[which] for part in parts]).numpy() != answers[rows] for which in masks}
    own = flips.pop("the change")
    return Effect(name, f"removed: {filling}", rows, own, flips, {}, True, seed)


def _rolled(mask: Tensor, draw: np.random.Generator) -> Tensor:
    """A mask moved by a quarter of the picture at least, along both axes, around the edges."""
    steps = [int(draw.integers(side // 4, max(side // 4 + 1, 3 * side // 4))) for side in mask.shape]
    return mask.roll(steps, (0, 1))
