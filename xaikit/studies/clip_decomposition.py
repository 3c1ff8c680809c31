"""The experiments of paper 4: which parts of CLIP are taken out, and what its answers then are (Gandelsman et al.).

Contributions come shard by shard on the model's device. What is kept of a whole data set (answers, texts, bases, the
contributions of some heads) is on the CPU, as labels and pictures are.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Bool, Float, Int16, Int64, Shaped
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from torch import Tensor
from tqdm import tqdm

from xaikit.companion.profiles import Settings
from xaikit.companion.record import is_published
from xaikit.decomposition.decompose import Coefficients, Contributions, Readout, decompose
from xaikit.decomposition.heads import ablate, ablate_attention_cumulatively, replace_heads
from xaikit.decomposition.store import DecomposedDataset
from xaikit.decomposition.textspan import ContributionMoments, TextSpan, textspan
from xaikit.metrics.intervals import Interval, bootstrap, bootstrap_mean, cluster_bootstrap
from xaikit.metrics.segmentation import SegmentationScores
from xaikit.models.clip import Clip, load_from
from xaikit.storage.seeding import rng

Head = tuple[int, int]  # layer and head, both counted from 0


def name_of(head: Head) -> str:
    """The head as "L4.H2", counted from 0 as in the paper."""
    return f"L{head[0]}.H{head[1]}"


# --- models -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Backbone:
    """A CLIP that the experiments are made with; of several the first is looked into closely.

    `published_as` is what the paper's numbers that it stands beside are filed under in data/published.toml, None where
    there are none; `is_the_papers` that it is this very model. `about` says in the store where coefficients come from.
    """

    name: str
    clip: Clip
    published_as: str | None
    is_the_papers: bool
    about: dict[str, str]
    first: bool = True
    _embedded: dict[object, Tensor] = field(default_factory=dict, repr=False)

    def id(self, id: str) -> str:
        """The id of a number or claim of this model: as it is for the first one, with its name for the others."""
        return id if self.first else f"{id}.{self.name.lower()}"

    def classes(self, prompts: tuple[tuple[str, ...], ...]) -> Float[Tensor, "classes features"]:
        """The `class_embeddings` of some prompts, computed once."""
        if prompts not in self._embedded:
            self._embedded[prompts] = class_embeddings(self.clip, prompts)
        return self._embedded[prompts]


def model_settings(cfg: Settings) -> list[Settings]:
    """What a profile says of each of its models: `clip`, and `more_clips` where there are any."""
    return [cfg.clip, *cfg.get("more_clips", ())]


def name_of_model(settings: Mapping[str, str]) -> str:
    """open_clip's name of a model, or that of the weights that ship."""
    return settings.get("name") or settings["weights"]


def backbones(cfg: Settings, names: Sequence[str] = ()) -> list[Backbone]:
    """The models that a profile names, or those of some names among them."""
    found = []
    for number, settings in enumerate(model_settings(cfg)):
        name = name_of_model(settings)
        if names and name not in names:
            continue
        own = published_as(name, settings.get("pretrained"))
        beside = own or cfg.get("published_as")
        about = {"backbone": name, "revision": revision_of(settings)}
        clip = load_from(settings, cfg.device)
        found.append(Backbone(name, clip, beside, own is not None, about, first=not number))
    return found


def published_as(name: str, pretrained: str | None) -> str | None:
    """What the paper's numbers of an open_clip model are filed under: its name, if its weights are of LAION-2B."""
    known = is_published(f"gandelsman.table1.{name.lower()}.base") and (pretrained or "").startswith("laion2b")
    return name.lower() if known else None


def revision_of(settings: Mapping[str, str]) -> str:
    """The name of a model's weights, and the revision of the hub that they came from, where they did."""
    if "weights" in settings:
        return f"data/weights/{settings['weights']}"
    source = open_clip.get_pretrained_cfg(settings["name"], settings["pretrained"]) or {}
    if repository := source.get("hf_hub", "").strip("/"):
        for file in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
            if isinstance(path := try_to_load_from_cache(repository, file, revision=settings.get("revision")), str):
                return f"{settings['pretrained']}, {repository} at {Path(path).parent.name}"
    return settings["pretrained"]


# --- contributions ------------------------------------------------------------------------------------------------

_NUMBERS_AT_ONCE = 2**24  # of contributions, 64 MiB in float32


@dataclass(frozen=True, eq=False)
class Decomposed:
    """The contributions of every head to the embeddings of a data set, rebuilt from the store as they are asked for."""

    store: DecomposedDataset
    readout: Readout
    what: str

    @classmethod
    def of(cls, clip: Clip, images: object, what: str, *, batch_size: int = 64, **store: Any) -> "Decomposed":
        """Decompose `images`, [i] -> [3, height, width] in [0, 1], with the image tower of a CLIP.

        What else is given, and what is raised, is that of `DecomposedDataset`.
        """
        shards = DecomposedDataset(clip.image_encoder, images, batch_size=batch_size, **store)
        return cls(shards, Readout.of(clip.image_encoder), what)

    def __iter__(self) -> Iterator[Contributions]:
        """The contributions of level "head", some images at a time."""
        layers, heads, _, features = self.readout.heads.shape
        images = max(1, _NUMBERS_AT_ONCE // (layers * heads * features))
        for shard in self._loaded():
            for start in range(0, len(shard), images):
                yield shard[start : start + images].contributions(self.readout, "head")

    def moments(self, heads: Sequence[Head], families: Int64[Tensor, " images"] | None = None) -> ContributionMoments:
        """Mean and covariance of some heads' contributions over all images.

        With `families`, one a image, the covariance is that within the families: what tells them apart does not count.
        """
        rows, columns = torch.tensor(heads).T
        basis = self.readout.heads[rows, columns]
        if families is None:
            families = torch.zeros(len(self.store.ids), dtype=torch.int64)
        each, start = {int(family): ContributionMoments(basis) for family in families.unique()}, 0
        for shard in self._loaded():
            written, own = shard.coordinates()[:, rows, columns], families[start : (start := start + len(shard))]
            for family in own.unique().tolist():
                each[family].add(written[(own == family).to(written.device)])
        if len(each) == 1:
            return next(iter(each.values()))
        joined = ContributionMoments(basis)
        joined.count = sum(one.count for one in each.values())
        joined.mean = sum(one.mean * (one.count / joined.count) for one in each.values())
        joined.scatter = sum(one.scatter for one in each.values())
        joined.precision = max(one.precision for one in each.values())
        joined.basis = next(iter(each.values())).basis
        return joined

    def of_heads(self, heads: Sequence[Head], first: int | None = None) -> Float[Tensor, "images heads features"]:
        """The contributions of some heads to all images, or to the first so many, in the CPU's memory."""
        rows, columns = torch.tensor(heads).T
        found, count = [], 0
        for part in self:
            found.append(part.attention[:, rows, columns].cpu())
            count += len(part.embedding)
            if first is not None and count >= first:
                break
        return torch.cat(found)[:first]

    def embeddings(self) -> Float[Tensor, "images features"]:
        """The unit embeddings of all images, in the CPU's memory."""
        return torch.cat([shard.embedding.cpu() for shard in self._loaded()])

    def variance_explained(self, factors: Mapping[str, Int64[Tensor, " images"]]) -> dict[str, Float[Tensor, " heads"]]:
        """`variance_explained` of every head, layer by layer, in one pass over the store."""
        to_lengths = with_lengths(self.readout)
        return variance_explained((to_lengths(shard) for shard in self._loaded()), factors)

    def _loaded(self) -> Iterator[Coefficients]:
        numbers = range(len(self.store))
        return (self.store[number] for number in tqdm(numbers, desc=f"decomposing {self.what}", leave=False))


def with_lengths(readout: Readout) -> Callable[[Coefficients], Float[Tensor, "batch heads rows"]]:
    """What turns coefficients into a few numbers a head, layer by layer, that differ as the contributions do.

    Their squared distances are those of the contributions, at a tenth of their size.
    """
    basis = readout.heads.flatten(0, 1).double()
    values, vectors = torch.linalg.eigh(basis @ basis.mT)
    to_lengths = vectors * values.clamp_min(0).sqrt()[:, None]
    return lambda found: torch.einsum("bhr,hrs->bhs", found.coordinates().flatten(1, 2).double(), to_lengths)


def last_heads(readout: Readout, layers: int) -> list[Head]:
    """The heads of the last so many layers."""
    total, heads = readout.heads.shape[:2]
    return [(layer, head) for layer in range(total - layers, total) for head in range(heads)]


def class_embeddings(clip: Clip, prompts: Sequence[Sequence[str]]) -> Float[Tensor, "classes features"]:
    """One unit vector a class: the mean of the unit embeddings of its prompts, normalised again."""
    return F.normalize(torch.stack([clip.encode_texts(list(texts)).mean(0) for texts in prompts]), dim=-1)


# --- ablations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablation:
    """What is replaced by its mean: z0 and the MLPs, the attention of whole layers, single heads."""

    mlps: bool = False
    layers: tuple[int, ...] = ()
    heads: tuple[Head, ...] = ()


@dataclass(frozen=True, eq=False)
class Classes:
    """The unit embeddings of the classes, and which classes each image is chosen among."""

    embeddings: Float[Tensor, "classes features"]
    choices: Bool[Tensor, "images classes"]

    @property
    def chance(self) -> float:
        """The accuracy of a blind choice."""
        return (1 / self.choices.sum(1).double()).mean().item()

    def with_choices(
        self, data: Iterable[Contributions]
    ) -> Iterator[tuple[Contributions, Callable[[Tensor], Int64[Tensor, "*replaced batch"]]]]:
        """The parts of a data set, in its order, each with what answers for embeddings [..., batch, features]."""
        start = 0
        for part in data:
            choices = self.choices[start : (start := start + len(part.embedding))]

            yield part, partial(self._answers, choices)

    def of_some(
        self, rows: Int64[Tensor, " some"], embeddings: Float[Tensor, "*replaced some features"]
    ) -> Int64[Tensor, "*replaced some"]:
        """The answers for embeddings of some of the images."""
        return self._answers(self.choices[rows], embeddings)

    def _answers(self, choices: Tensor, embeddings: Tensor) -> Tensor:
        cosines = embeddings @ self.embeddings.T.to(embeddings)
        return cosines.masked_fill(~choices.to(cosines.device), -torch.inf).argmax(-1).cpu()


def predictions(
    data: Iterable[Contributions], classes: Classes, means: Contributions, ablations: Mapping[str, Ablation]
) -> dict[str, Int64[Tensor, " images"]]:
    """The zero-shot answer to every image under each ablation, in one pass over the data."""
    answers: dict[str, list[Tensor]] = {name: [] for name in ablations}
    for part, answer in classes.with_choices(data):
        for name, ablation in ablations.items():
            answers[name].append(answer(ablate(part, means, **vars(ablation))))
    return {name: torch.cat(parts) for name, parts in answers.items()}


def cumulative_predictions(
    data: Iterable[Contributions], classes: Classes, means: Contributions
) -> Int64[Tensor, "replaced images"]:
    """The answers as the attention of the first 0, 1, …, L layers is replaced by its mean."""
    parts = [answer(ablate_attention_cumulatively(part, means)) for part, answer in classes.with_choices(data)]
    return torch.cat(parts, 1)


def reconstructed_predictions(
    data: Iterable[Contributions],
    classes: Classes,
    means: Contributions,
    heads: Sequence[Head],
    spans: Mapping[str, TextSpan],
    sizes: Sequence[int],
) -> dict[tuple[str, int], Int64[Tensor, " images"]]:
    """The answers with each of `heads` projected onto the first m texts of its basis, for each basis and size m.

    Attention of all other layers is replaced by its mean, the MLPs stay (as in the paper's Figure on pools). The nested
    bases make one pass enough.
    """
    kept = {layer for layer, _ in heads}
    others = tuple(layer for layer in range(means.attention.shape[1]) if layer not in kept)
    answers: dict[tuple[str, int], list[Tensor]] = {(name, m): [] for name in spans for m in sizes}
    rows, columns = torch.tensor(heads).T
    for part, answer in classes.with_choices(data):
        rest = dataclasses.replace(part, embedding=ablate(part, means, layers=others))
        contributions = part.attention[:, rows, columns]
        for name, m in answers:
            replaced = replace_heads(rest, heads, spans[name].reconstruct(contributions, m))
            answers[name, m].append(answer(replaced))
    return {key: torch.cat(parts) for key, parts in answers.items()}


@dataclass(frozen=True, eq=False)
class ClassToken:
    """What the class token's attention to itself adds to embeddings, all heads together, and what the MLPs add."""

    rows: Int64[Tensor, " some"]
    embeddings: Float[Tensor, "some features"]
    class_token: Float[Tensor, "some features"]
    mlps: Float[Tensor, "some features"]

    @classmethod
    def of(cls, clip: Clip, readout: Readout, images: Any, count: int, seed: int, batch: int = 32) -> "ClassToken":
        """Of so many images at random, or of all; each is decomposed to its tokens, which no store holds."""
        rows = rng(seed, "class token").permutation(len(images))[:count]
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(rows), batch):
            some = torch.stack([images[int(row)] for row in rows[start : start + batch]])
            found = decompose(clip.image_encoder, some.to(readout.heads.device), "token", readout)
            parts.append((found.embedding.cpu(), found.attention[:, 0].cpu(), found.mlps.sum(1).cpu()))
        return cls(torch.from_numpy(rows), *(torch.cat(each) for each in zip(*parts, strict=True)))

    def without(self, means: "ClassToken", *, mlps: bool = False) -> Float[Tensor, "some features"]:
        """The embeddings with the class token's term, and maybe the MLPs', replaced by the mean over other images.

        As the public code does it, which takes the means of the same images.
        """
        changed = self.embeddings - self.class_token + means.class_token.mean(0)
        return changed - self.mlps + means.mlps.mean(0) if mlps else changed


def accuracy(answers: Int64[Tensor, " images"], labels: Int64[Tensor, " images"], seed: int) -> Interval:
    """The share of right answers, with its interval over images."""
    return bootstrap_mean((answers == labels).double().numpy(), seed).within(0.0, 1.0)


def accuracy_change(
    answers: Int64[Tensor, " images"], before: Int64[Tensor, " images"], labels: Int64[Tensor, " images"], seed: int
) -> Interval:
    """How much more of the answers are right than `before`: the same images twice, with an interval over images."""
    gain = (answers == labels).double() - (before == labels).double()
    return bootstrap_mean(gain.numpy(), seed)


# --- texts and roles ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidate directions for TextSpan; random directions have no texts.

    `topics` says what each text is about, where a pool is made so; else its words do (`topics_of`).
    """

    embeddings: Float[Tensor, "texts features"]
    texts: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()

    @classmethod
    def of(cls, clip: Clip, texts: Iterable[str]) -> "Pool":
        """The unit embeddings of the different texts, each once."""
        different = tuple(dict.fromkeys(texts))
        return cls(clip.encode_texts(list(different)).cpu(), different)

    @classmethod
    def of_topics(cls, clip: Clip, texts: Mapping[str, Sequence[str]]) -> "Pool":
        """The unit embeddings of texts by their topic, none of which is there twice."""
        each = [(text, topic) for topic, own in texts.items() for text in own]
        return cls(clip.encode_texts([text for text, _ in each]).cpu(), *zip(*each, strict=True))

    def credits(self, topics: Sequence[str], words: Mapping[str, Sequence[str]]) -> Float[np.ndarray, "texts topics"]:
        """How much of a text goes to each topic: all to its own, or in equal parts to those that its `words` name."""
        named = [[topic] for topic in self.topics] or [topics_of(text, words) for text in self.texts]
        return np.array([[(topic in own) / max(len(own), 1) for topic in topics] for own in named])

    @classmethod
    def random(cls, count: int, features: int, draw: torch.Generator) -> "Pool":
        """Unit vectors in random directions."""
        return cls(F.normalize(torch.randn(count, features, generator=draw), dim=1))

    def span(self, contributions: ContributionMoments | Float[Tensor, "images heads features"], m: int) -> TextSpan:
        """TextSpan over this pool, of at most m texts."""
        found = textspan(contributions, self.embeddings, min(m, len(self.embeddings)), texts=self.texts or None)
        return TextSpan(**{name: values.cpu() for name, values in vars(found).items()})


@dataclass(frozen=True)
class Role:
    """What a head's first texts are about: the share of each topic in the variance that they explain."""

    head: Head
    texts: tuple[str, ...]
    explained: float  # by these texts, of the head's variance
    shares: dict[str, float]
    topic: str | None  # None is no clear role


def topics_of(text: str, topics: Mapping[str, Sequence[str]]) -> list[str]:
    """The topics whose words occur in a text, as whole words, singular or plural."""
    words = set(text.lower().replace(",", " ").replace(".", " ").split())
    words |= {word.removesuffix("s") for word in words}
    return [topic for topic, known in topics.items() if words & set(known)]


def roles(
    span: TextSpan,
    heads: Sequence[Head],
    pool: Pool,
    topics: Mapping[str, Sequence[str]],
    *,
    first: int,
    least: float,
    margin: float = 0.0,
) -> list[Role]:
    """The role of each head, by a rule that no one has to read the texts for.

    The variance that each of its `first` texts adds is credited to the topics that the text names, in equal parts. The
    topic with the most is the head's role if it has at least the share `least` of what these texts explain, and
    `margin` more than the second. Where they explain nothing, no topic has a share, and the head no role.
    """
    names = list(topics)
    credits = pool.credits(names, topics)
    found = []
    for row, head in enumerate(heads):
        picks = [int(pick) for pick in span.picks[row, :first] if pick >= 0]
        gains = np.diff(span.explained[row, : len(picks)].cpu().numpy(), prepend=0.0)
        total = float(gains.sum())
        shares = gains @ credits[picks] / total if total > 0 else np.zeros(len(names))
        second, largest = np.sort(np.append(shares, 0.0))[-2:]
        clear = total > 0 and largest >= least and largest - second >= margin
        texts = tuple(pool.texts[pick] for pick in picks)
        by_name = dict(zip(names, map(float, shares), strict=True))
        found.append(Role(head, texts, total, by_name, names[int(shares.argmax())] if clear else None))
    return found


def with_role(found: Iterable[Role], topic: str) -> tuple[Head, ...]:
    """The heads with one role."""
    return tuple(role.head for role in found if role.topic == topic)


def agreed(draws: Sequence[Sequence[Role]]) -> dict[Head, str | None]:
    """The role that each head has by more than half of several draws of the texts, None where there is none."""
    found: dict[Head, str | None] = {}
    for same in zip(*draws, strict=True):
        counts = Counter(role.topic for role in same if role.topic is not None)
        topic, count = counts.most_common(1)[0] if counts else (None, 0)
        found[same[0].head] = topic if 2 * count > len(same) else None
    return found


@dataclass(frozen=True, eq=False)
class Labels:
    """What several draws of texts say of the same heads: the pools, what spans each head, and the roles by each."""

    heads: tuple[Head, ...]
    pools: tuple[Pool, ...]
    spans: tuple[TextSpan, ...]
    draws: tuple[tuple[Role, ...], ...]

    @classmethod
    def of(
        cls,
        pools: Sequence[Pool],
        moments: ContributionMoments,
        heads: Sequence[Head],
        topics: Mapping[str, Sequence[str]],
        m: int,
        **rule: Any,
    ) -> "Labels":
        """TextSpan of m texts from each pool, and `roles` by the rule."""
        spans = tuple(pool.span(moments, m) for pool in pools)
        draws = (tuple(roles(span, heads, pool, topics, **rule)) for span, pool in zip(spans, pools, strict=True))
        return cls(tuple(heads), tuple(pools), spans, tuple(draws))

    def of_some(self, heads: Sequence[Head]) -> "Labels":
        """The same for some of the heads."""
        rows = [self.heads.index(head) for head in heads]
        spans = (TextSpan(**{name: values[rows] for name, values in vars(span).items()}) for span in self.spans)
        return Labels(tuple(heads), self.pools, tuple(spans), tuple(tuple(d[row] for row in rows) for d in self.draws))

    @property
    def agreed(self) -> dict[Head, str]:
        """The heads to which more than half of the draws give the same role, with that role."""
        return {head: topic for head, topic in agreed(self.draws).items() if topic is not None}


# --- what heads truly carry ---------------------------------------------------------------------------------------


def variance_explained(
    batches: Iterable[Float[Tensor, "_ heads features"]], factors: Mapping[str, Int64[Tensor, " images"]]
) -> dict[str, Float[Tensor, " heads"]]:
    """The share of each head's variance that lies between the values of a factor (η², the one-way R²), for each factor.

    Contributions come batch by batch; labels of all images lie on the CPU, -1 where an image has no such factor, and
    such images do not count for it. What is kept is a sum for each value, in float64. 0 for a head that never varies.
    Raises ValueError for a factor that no image has, and for labels of another number of images.
    """
    if empty := [name for name, labels in factors.items() if not (labels >= 0).any()]:
        raise ValueError(f"No image has the factor {empty[0]!r}, so it explains nothing: leave it out.")
    counts = {name: torch.bincount(labels[labels >= 0]) for name, labels in factors.items()}
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    origin, start = torch.zeros(()), 0
    for batch in batches:
        x = batch.double()
        if not start:
            origin = x.mean(0)  # near the mean, so that little cancels below
            sums = {name: x.new_zeros(len(count), *x.shape[1:]) for name, count in counts.items()}
            squares = {name: x.new_zeros(x.shape[1]) for name in counts}
        x = x - origin
        for name, labels in factors.items():
            own = labels[start : start + len(x)].to(x.device)
            has = own >= 0
            sums[name].index_add_(0, own[has], x[has])
            squares[name] += x[has].square().sum((0, 2))
        start += len(batch)
    if wrong := [name for name, labels in factors.items() if len(labels) != start]:
        raise ValueError(f"{wrong[0]!r} has labels of {len(factors[wrong[0]])} images, and there are {start}.")
    found = {}
    for name, count in counts.items():
        each, own = count[count > 0].to(origin), sums[name][count.to(origin.device) > 0]
        between = (own.square().sum(2) / each[:, None]).sum(0)
        of_mean = own.sum(0).square().sum(1) / each.sum()
        total = squares[name] - of_mean
        least = 1e-24 * each.sum() * origin.square().sum(1)  # below it a difference is rounding
        found[name] = torch.where(total > least, (between - of_mean) / total, 0.0).cpu()
    return found


def chance_of_variance_explained(values: int, images: int) -> float:
    """What a factor that a head knows nothing about explains on average: (values − 1) / (images − 1).

    Raises ValueError unless some images share a value: else the values explain everything, whatever they are.
    """
    if not 1 <= values < images:
        raise ValueError(f"{values} values of {images} images: give a factor that some images have in common.")
    return (values - 1) / (images - 1)


# --- worst groups -------------------------------------------------------------------------------------------------


_RESAMPLES = 500  # of many draws of heads, for a variance: one has them all


def worst_group(correct: Shaped[np.ndarray, "*draws images"], groups: np.ndarray) -> Any:
    """The accuracy of the group with the lowest: `correct` is 0 or 1, `groups` [images] numbers the groups.

    One value for each of several draws of answers; groups without an image are left out.
    Raises ValueError for no image.
    """
    if not groups.size:
        raise ValueError("There is no image, so no group is the worst: give at least one.")
    members = np.asarray(groups)[:, None] == np.unique(groups)
    return (np.asarray(correct, float) @ members / members.sum(0)).min(-1)


def worst_group_gain(
    correct: Bool[Tensor, " images"],
    others: Sequence[Bool[Tensor, " images"]],
    groups: Int64[Tensor, " images"],
    seed: int,
) -> Interval:
    """How much better the worst group is than those of the `others` (draws) are on average.

    The interval is over images, the same for all, and over the draws where there are several.
    """
    tables = [_small(correct, other, groups) for other in others]
    if len(tables) == 1:

        def of_one(table: np.ndarray) -> float:
            return float(worst_group(table[:, 0], table[:, 2]) - worst_group(table[:, 1], table[:, 2]))

        return bootstrap(of_one, tables[0], seed=seed)

    def gain(drawn: np.ndarray) -> float:
        of_draws = worst_group(drawn[:, :, 1], drawn[0, :, 2])
        return float(worst_group(drawn[0, :, 0], drawn[0, :, 2]) - of_draws.mean())

    return cluster_bootstrap(tables, gain, seed=seed, crossed=True, resamples=_RESAMPLES)


def mean_worst_group(
    draws: Sequence[Bool[Tensor, " images"]],
    groups: Int64[Tensor, " images"],
    seed: int,
    *,
    over: Bool[Tensor, " images"] | None = None,
) -> Interval:
    """The mean over draws of the worst group's accuracy, with an interval over draws and images.

    With `over`, of how much higher it is than with those answers.
    """
    tables = [_small(draw, groups, draw if over is None else over) for draw in draws]

    def mean(drawn: np.ndarray) -> float:
        members = drawn[0, :, 1]
        found = worst_group(drawn[:, :, 0], members).mean()
        return float(found - (0.0 if over is None else worst_group(drawn[0, :, 2], members)))

    return cluster_bootstrap(tables, mean, seed=seed, crossed=True, resamples=_RESAMPLES)


def _small(*columns: Tensor) -> Int16[np.ndarray, "images columns"]:
    """Verdicts and groups beside each other, small, as they are resampled many times."""
    return torch.stack([column.to(torch.int16) for column in columns], 1).numpy()


def random_heads(
    heads: Sequence[Head], among: Sequence[Head], draws: int, draw: np.random.Generator
) -> list[tuple[Head, ...]]:
    """Random sets of other heads, each with as many of every layer as `heads`.

    Of a layer most of whose heads are silenced there are not as many others: then all others are. Raises ValueError
    where a head is not `among` those that there are.
    """
    if missing := [head for head in heads if head not in among]:
        raise ValueError(f"The head {name_of(missing[0])} is not among those to draw from.")
    found: list[tuple[Head, ...]] = []
    layers = Counter(layer for layer, _ in heads)
    for _ in range(draws):
        chosen: list[Head] = []
        for layer, count in sorted(layers.items()):
            others = [head for head in among if head[0] == layer and head not in heads]
            order = draw.permutation(len(others))[:count]
            chosen += [others[i] for i in sorted(order)]
        found.append(tuple(chosen))
    return found


# --- segmentation -------------------------------------------------------------------------------------------------


def segmentation_lead(scores: Mapping[str, SegmentationScores], ours: str, seed: int) -> dict[str, Interval]:
    """For each measure, how far `ours` lies above the best of the others, with an interval over images."""
    lead = {}
    for measure in SegmentationScores.MEASURES:
        others = {name: score.interval(measure, seed).value for name, score in scores.items() if name != ours}
        best = max(others, key=lambda name: others[name])
        lead[measure] = scores[ours].minus(scores[best], measure, seed)
    return lead
