"""Instruments of paper 4: what each of its measures finds where the answer is known, and where there is nothing."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xaikit import world
from xaikit.decomposition.decompose import Contributions, Readout, coefficients
from xaikit.decomposition.heads import ablate
from xaikit.decomposition.textspan import ContributionMoments, TextSpan
from xaikit.metrics.intervals import Interval
from xaikit.models.clip import Clip
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.seeding import generator, rng, seed_for
from xaikit.studies.clip_decomposition import (
    Ablation,
    Classes,
    Head,
    Pool,
    accuracy_change,
    agreed,
    roles,
    with_lengths,
)
from xaikit.world import SceneSet

# --- what heads truly carry, by intervention ---------------------------------------------------------------------

# The factors that are redrawn for each topic, by family. Clothes and tools follow the profession.
REDRAWN: dict[str, dict[str, tuple[str, ...]]] = {
    "object": {
        "birds": ("species",), "nine": ("category",), "people": ("profession",), "cars": ("make", "model")
    },
    "colour": {"birds": ("colour",), "nine": ("colour",), "cars": ("colour",)},
    "count": {"birds": ("count",)},
    "place": {
        "birds": ("background", "scenery"), "nine": ("background",), "people": ("background",), "cars": ("background",)
    },
    "pattern": {"nine": ("pattern",)},
    "looks": {"people": ("presentation",)},
    "text": {"cars": ("text",)},
}  # fmt: skip
REST = "the rest"  # pose, position, light, noise: all that the seed of a scene decides


def unconfounded(count: int, seed: int) -> dict[str, SceneSet]:
    """`count` scenes of each family, in which no factor goes with another, each cue set by itself."""
    root = seed_for(seed, "redrawn")
    sets = {
        "birds": world.birds(count, seed=root, split="test", alignment=0.5),
        "nine": world.nine(count, seed=root, split="test", alignment=1 / 9),
        "people": world.people(count, seed=root, split="test", alignment=0.5, workplace=0.1),
        "cars": world.cars(count, seed=root, split="test", written=0.5, alignment=0.25),
    }
    # People without a place of their own are at that of their profession: say which, so that it stays.
    people = [scene.replace(background=scene.factors["background"]) for scene in sets["people"]]
    return sets | {"people": SceneSet.of(people)}


def redrawn(scenes: SceneSet, factors: Sequence[str], draw: np.random.Generator) -> SceneSet:
    """The same scenes with these factors, or all that is no factor, taken from other scenes of the set at random."""
    order = draw.permutation(len(scenes))
    if not factors:
        return SceneSet(scenes.family, scenes.seeds[order], scenes.codes)
    return SceneSet(scenes.family, scenes.seeds, scenes.codes | {name: scenes.codes[name][order] for name in factors})


Writer = Callable[[SceneSet], Float[Tensor, "scenes heads numbers"]]


def heads_of(clip: Clip, readout: Readout, size: int, batch: int = 64) -> Writer:
    """What the heads of a CLIP write about scenes, layer by layer, up to a turn."""
    lengths = with_lengths(readout)

    def written(scenes: SceneSet) -> Tensor:
        device, images = readout.heads.device, scenes.images(size)
        found = [lengths(coefficients(clip.image_encoder, each.to(device))) for each in images.split(batch)]
        return torch.cat(found).cpu()

    return written


def planted_carriers(seed: int) -> tuple[list[str], Writer]:
    """One head for each topic that writes the value of its factors, and a little that only the scene's seed decides.

    It writes nothing about families without them. So it is known what moves it.
    """
    topics = list(REDRAWN)

    def written(scenes: SceneSet) -> Tensor:
        (family,) = (name for name, each in world.FAMILIES.items() if each is scenes.family)
        found = torch.zeros(len(scenes), len(topics), 32, dtype=torch.float64)
        noise = torch.stack([torch.randn(32, generator=generator(int(own), seed)) for own in scenes.seeds])
        for head, topic in enumerate(topics):
            for place, factor in enumerate(REDRAWN[topic].get(family, ())):
                codes = torch.from_numpy(scenes.codes[factor]) + 16 * place
                found[torch.arange(len(scenes)), head, codes] += 1
            found[:, head] += 0.02 * noise
        return found

    return topics, written


def total_effects(written: Writer, sets: Mapping[str, SceneSet], seed: int) -> dict[str, Float[np.ndarray, " heads"]]:
    """How much of each head's variance is there because of a topic: what redrawing it alone changes.

    With c' a head's contribution after the factors of the topic were drawn anew, and nothing else, it is
    E ‖c − c'‖² / (2 Var c), over the families that have them (Jansen's estimate of Sobol's total index). Where factors
    act together they share what they do, so these may add up to more than 1.
    """
    before = {family: written(scenes) for family, scenes in sets.items()}
    variance = {family: found.var(0, correction=0).sum(-1) * len(found) for family, found in before.items()}
    effects = {}
    for topic, by_family in {**REDRAWN, REST: {family: () for family in sets}}.items():
        draw = rng(seed, "redrawn", topic)
        moved, there = 0.0, 0.0
        for family, factors in by_family.items():
            after = written(redrawn(sets[family], factors, draw))
            moved = moved + (after - before[family]).square().sum((0, 2))
            there = there + variance[family]
        effects[topic] = (moved / (2 * there)).numpy()
    return effects


def most_moved(effects: Mapping[str, np.ndarray], topics: Sequence[str]) -> list[str]:
    """For each head the topic whose redrawing moves its output most."""
    return [topics[row] for row in np.stack([effects[topic] for topic in topics]).argmax(0)]


# --- ablation -----------------------------------------------------------------------------------------------------

Place = Literal["mlps", "early"]


def exchanged(part: Contributions, place: Place, kept: int) -> Contributions:
    """The same embeddings, with what the attention of layers `kept` and later writes in the `place` of other terms.

    These, z0 and the MLPs or the attention of the layers before, are where it was. So it is known where the answer is.
    """
    attention, mlps = part.attention.clone(), part.mlps
    written = attention[:, kept:].sum((1, 2))
    if place == "mlps":
        others = mlps.sum(1)
        mlps = (written / mlps.shape[1])[:, None].expand_as(mlps)
    else:
        others = attention[:, :kept].sum((1, 2))
        attention[:, :kept] = (written / attention[0, :kept, :, 0].numel())[:, None, None]
    attention[:, kept:] = (others / attention[0, kept:, :, 0].numel())[:, None, None]
    return dataclasses.replace(part, attention=attention, mlps=mlps)


def of_others(part: Contributions, place: Place, kept: int, draw: np.random.Generator) -> Contributions:
    """The embeddings that the images would have with the terms at a `place` of other images: they say nothing of it."""
    order = torch.from_numpy(draw.permutation(len(part.embedding))).to(part.embedding.device)
    attention, mlps = part.attention.clone(), part.mlps
    if place == "mlps":
        mlps = mlps[order]
    else:
        attention[:, :kept] = attention[order, :kept]
    moved = (attention - part.attention).sum((1, 2)) + (mlps - part.mlps).sum(1)
    return dataclasses.replace(part, attention=attention, mlps=mlps, embedding=part.embedding + moved)


def ablation_controls(
    data: Iterable[Contributions],
    classes: Classes,
    means: Contributions,
    labels: Int64[Tensor, " images"],
    kept: int,
    seed: int,
) -> dict[str, Interval]:
    """How accuracy changes without the MLPs, and without the layers before `kept`, where it is known what that costs.

    "planted-in-mlps", "planted-early": the last layers' attention is there, so much is lost; "shuffled-mlps",
    "shuffled-early": terms of other images are, so nothing is.
    """
    draw = rng(seed, "terms of others")
    ablations = {"mlps": Ablation(mlps=True), "early": Ablation(layers=tuple(range(kept)))}
    planted: dict[Place, Contributions] = {place: exchanged(means, place, kept) for place in ("mlps", "early")}
    answers: dict[str, list[list[Tensor]]] = {}
    for part, answer in classes.with_choices(data):
        for place, ablation in ablations.items():
            cases = {
                f"planted-{'in-' * (place == 'mlps')}{place}": (exchanged(part, place, kept), planted[place]),
                f"shuffled-{place}": (of_others(part, place, kept, draw), means),
            }
            for name, (changed, own_means) in cases.items():
                pair = changed.embedding, ablate(changed, own_means, **vars(ablation))
                answers.setdefault(name, []).append([answer(each) for each in pair])
    found = {}
    for name, pairs in answers.items():
        before, after = (torch.cat(each) for each in zip(*pairs, strict=True))
        found[name] = accuracy_change(after, before, labels, seed)
    return found


# --- texts and roles -----------------------------------------------------------------------------------------------


def planted_heads(
    texts: Pool, topics: Sequence[str], images: int, seed: int
) -> tuple[list[str], Float[Tensor, "images planted features"]]:
    """What heads planted for a topic write: into each image a random text of it, and half as much one of another.

    There is one for each topic beside every other one, so four fifths of its variance are of its topic; the topics of
    the planted heads come first. The texts are the pool's, by its topics. Raises ValueError for a topic of which it has
    none, or one alone.
    """
    draw, of_topic = rng(seed, "planted heads"), {}
    for topic in topics:
        rows = [row for row, own in enumerate(texts.topics) if own == topic]
        if len(rows) < 2:
            raise ValueError(f"The pool has {len(rows)} texts on {topic!r}, two or more vary: leave that topic out.")
        centred = texts.embeddings[rows] - texts.embeddings[rows].mean(0)
        of_topic[topic] = centred / centred.square().sum(1).mean().sqrt()
    pairs = [(topic, other) for topic in topics for other in topics if other != topic]
    written = []
    for pair in pairs:
        own, noise = (of_topic[each][draw.integers(len(of_topic[each]), size=images)] for each in pair)
        written.append(own + noise / 2)
    return [topic for topic, _ in pairs], torch.stack(written, 1)


def planted_found(
    pools: Sequence[Pool],
    held_out: Sequence[Pool],
    topics: Mapping[str, Sequence[str]],
    *,
    images: int,
    seed: int,
    **rule: Any,
) -> tuple[list[str], Bool[np.ndarray, " planted"]]:
    """The topic of every planted head, and whether it got that role; heads write what the pool of their draw lacks.

    The role is that of one draw, as no head writes the texts that three lack.
    """
    names: list[str] = []
    found: list[bool] = []
    for number, (pool, others) in enumerate(zip(pools, held_out, strict=True)):
        enough = [topic for topic in topics if others.topics.count(topic) > 1]
        planted, written = planted_heads(others, enough, images, seed_for(seed, "draw", number))
        heads = [(0, number) for number in range(len(planted))]
        got = roles(pool.span(written, rule["first"]), heads, pool, topics, **rule)
        names += planted
        found += [role.topic == topic for role, topic in zip(got, planted, strict=True)]
    return names, np.array(found)


def dealt_anew(
    spans: Sequence[TextSpan],
    heads: Sequence[Head],
    pools: Sequence[Pool],
    topics: Mapping[str, Sequence[str]],
    *,
    deals: int,
    seed: int,
    topic: str = "place",
    **rule: Any,
) -> tuple[Float[np.ndarray, " heads"], Float[np.ndarray, " heads"]]:
    """In how many of some deals of each pool's texts over its embeddings the draws agree on a role, for each head.

    Beside it in how many they agree on `topic`.
    """
    draw, any_role, of_topic = rng(seed, "texts dealt anew"), np.zeros(len(heads)), np.zeros(len(heads))
    for _ in range(deals):
        found = []
        for span, pool in zip(spans, pools, strict=True):
            order = draw.permutation(len(pool.texts))
            texts, own = (tuple(column[i] for i in order) if column else () for column in (pool.texts, pool.topics))
            found.append(roles(span, heads, Pool(pool.embeddings, texts, own), topics, **rule))
        said = list(agreed(found).values())
        any_role += [each is not None for each in said]
        of_topic += [each == topic for each in said]
    return any_role / deals, of_topic / deals


def turned(pool: Pool, seed: int) -> Pool:
    """The pool with all embeddings turned in one random way: as alike as before, and about nothing."""
    features = pool.embeddings.shape[1]
    directions = torch.randn(features, features, generator=generator(seed, "turned pool"), dtype=torch.float64)
    return Pool((pool.embeddings.double() @ torch.linalg.qr(directions).Q).float(), pool.texts)


def principal(moments: ContributionMoments, m: int) -> TextSpan:
    """Each head's first m principal directions, with no text: no m directions keep more of its variance.

    Where a head's span has fewer the others are zero, as in TextSpan.
    """
    basis = moments.basis
    axes: list[Tensor] = []
    explained: list[Tensor] = []
    mean = moments.mean if basis is None else torch.einsum("hr,hrf->hf", moments.mean, basis)
    for head, scatter in enumerate(moments.scatter):
        root = torch.linalg.eigh(scatter)
        half = root.eigenvectors * root.eigenvalues.clamp_min(0).sqrt()
        half = half.T if basis is None else half.T @ basis[head]
        _, singular, directions = torch.linalg.svd(half, full_matrices=False)
        lacking = max(0, m - len(singular))
        kept = torch.cat([singular.square(), singular.new_zeros(lacking)]).cumsum(0)[:m]
        axes.append(torch.cat([directions[:m], directions.new_zeros(lacking, directions.shape[1])]))
        explained.append(kept / singular.square().sum())
    none = torch.full((len(axes), m), -1)
    return TextSpan(none, torch.stack(explained).cpu(), mean.cpu(), torch.stack(axes).cpu())


def untrained(clip: Clip, seed: int) -> Clip:
    """The same architecture before it has learned anything: new random weights, norms that do nothing, no biases."""
    model, draw = copy.deepcopy(clip.model), generator(seed, "untrained CLIP")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                inputs = parameter.shape[0] if name.endswith(("proj", "text_projection")) else parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * inputs**-0.5)
            elif name.endswith("class_embedding"):
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * len(parameter) ** -0.5)
            elif parameter.ndim:
                parameter.fill_(float(name.endswith(("weight", "gamma"))))
    model.eval().requires_grad_(False)
    return dataclasses.replace(clip, model=model, image_encoder=Preprocessed.of(model.visual))


def written_by_heads(
    clip: Clip, images: Any, heads: Sequence[Head], count: int, batch: int
) -> Float[Tensor, "images heads features"]:
    """The contributions of some heads of a CLIP to the first `count` images, or to all if there are not so many."""
    readout = Readout.of(clip.image_encoder)
    rows, columns = torch.tensor(heads).T
    found = []
    for some in _batches(images, count, batch):
        parts = coefficients(clip.image_encoder, some.to(readout.heads.device)).contributions(readout)
        found.append(parts.attention[:, rows, columns].cpu())
    return torch.cat(found)


def _batches(images: Any, count: int, batch: int) -> Iterator[Tensor]:
    last = min(count, len(images))
    for start in range(0, last, batch):
        yield torch.stack([images[index] for index in range(start, min(start + batch, last))])
