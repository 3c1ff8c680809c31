"""Heads of paper 4 looked into one by one: those that say most of a topic, and the pictures that they find alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xaikit.companion.notes import Notes
from xaikit.decomposition.heads import heatmaps, precision_at_k
from xaikit.decomposition.textspan import TextSpan
from xaikit.metrics.intervals import bootstrap_mean
from xaikit.studies.clip_decomposition import Decomposed, Head, Labels, Pool, name_of
from xaikit.studies.clip_pictures import Labelled
from xaikit.studies.clip_tables import Row

BY_HEAD, BY_EMBEDDING = "the head", "the whole embedding"


@dataclass(frozen=True)
class Chosen:
    """A head that is looked into for a topic, with the first of its texts.

    `clear` says whether the topic is its role; `papers` that the paper named this head for the topic.
    """

    topic: str
    head: Head
    text: str
    clear: bool = True
    papers: bool = False

    @property
    def name(self) -> str:
        """The topic, and whether the paper chose the head."""
        return f"{self.topic} (paper)" if self.papers else self.topic


def most_about(labels: Labels, topics: Sequence[str], named: Mapping[str, Sequence[Head]]) -> list[Chosen]:
    """For each topic the head of whose variance its texts on it explain most, by the first draw of texts.

    Topics that no head's texts name are left out. After them, for those that the paper `named` another head of these
    for, that head.
    """
    roles = labels.draws[0]
    first = {role.head: role.texts[0] if role.texts else "" for role in roles}
    found = {}
    for topic in topics:
        best = max(roles, key=lambda role: role.shares[topic] * role.explained)
        if best.shares[topic] > 0:
            found[topic] = Chosen(topic, best.head, first[best.head], best.topic == topic)
    papers = []
    for topic, heads in named.items():
        others = [head for head in heads if head in first and topic in found and head != found[topic].head]
        papers += [Chosen(topic, others[0], first[others[0]], papers=True)] if others else []
    return [*found.values(), *papers]


def written_by(parts: Decomposed, chosen: Sequence[Chosen]) -> dict[str, Float[Tensor, "images features"]]:
    """What each of the heads wrote about all images, by its name here; in one pass over the store."""
    if not chosen:
        return {}
    heads = list(dict.fromkeys(one.head for one in chosen))
    found = parts.of_heads(heads)
    return {one.name: found[:, heads.index(one.head)] for one in chosen}


def with_topic(data: Labelled, topic: str) -> tuple[Int64[Tensor, " some"], Int64[Tensor, " images"] | None]:
    """The images that have a topic, and its value in each image; all of them and None, where no one has said."""
    values = data.factors.get(topic)
    return (torch.arange(len(data)) if values is None else (values >= 0).nonzero()[:, 0]), values


def retrieved(
    note: Notes,
    one: Chosen,
    found: Mapping[str, Int64[Tensor, "some k"]],
    has: Int64[Tensor, " some"],
    values: Int64[Tensor, " images"] | None,
) -> list[Row]:
    """The figure "retrieval" for one head: how often the topic's value is that of the query among its k neighbours.

    `found` are the neighbours, as rows of `has`, by the head and by the whole embedding; beside them stands chance.
    Where nobody has said what pictures share there is a row without a value.
    """
    if values is None:
        return [_row(one, BY_HEAD) | {"value": np.nan, "n": len(has)}]
    rows, shared = [], values[has]
    for by, nearest in found.items():
        precision = precision_at_k(nearest, shared, shared).numpy()
        interval = bootstrap_mean(precision, note.record.seed).within(0.0, 1.0)
        id = f"retrieval.{one.topic}{'.paper' if one.papers else ''}.{by.split()[-1]}"
        note(id, interval, "retrieval", values=precision, of=f"pictures with {one.topic}")
        rows.append(_row(one, by) | vars(interval))
    if not one.papers:
        chance = (torch.bincount(shared).double() / len(has)).square().sum().item()
        rows.append({"topic": one.topic, "by": "chance", "head": "", "value": chance, "n": len(has)})
    return rows


def _row(one: Chosen, by: str) -> Row:
    return {"topic": one.name, "by": by, "head": name_of(one.head)}


@dataclass(frozen=True, eq=False)
class HeadTexts:
    """The texts of some heads: what spans each of them, and the pool that the texts are from."""

    heads: tuple[Head, ...]
    span: TextSpan
    pool: Pool

    @classmethod
    def of(cls, labels: Labels) -> "HeadTexts":
        """Those of the first draw."""
        return cls(labels.heads, labels.spans[0], labels.pools[0])

    def first(self, head: Head) -> tuple[str, Float[Tensor, " features"]]:
        """A head's first text and its embedding."""
        pick = int(self.span.picks[self.heads.index(head), 0])
        return self.pool.texts[pick], self.pool.embeddings[pick]

    def closest(
        self, head: Head, tokens: Float[Tensor, "tokens features"], among: int, size: tuple[int, int]
    ) -> tuple[str, Float[Tensor, "height width"]]:
        """Of the head's first texts, so many, the one most like what it wrote about a picture, and that text's map.

        `tokens` are the head's contributions at each image token; the map has a picture's size in pixels.
        """
        row = self.heads.index(head)
        picks = self.span.picks[row]
        picks = picks[picks >= 0][:among]
        candidates = self.pool.embeddings[picks]
        pick = int((candidates @ (tokens.sum(0) - self.span.mean[row].float())).argmax())
        return self.pool.texts[picks[pick]], heatmaps(tokens[None], candidates[pick][None], size)[0, 0]
