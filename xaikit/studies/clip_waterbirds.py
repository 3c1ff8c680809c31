"""The worst groups of paper 4: which heads are silenced, alone or with more, and which birds are then told right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from xaikit.companion.notes import Notes
from xaikit.companion.record import Protocol
from xaikit.decomposition.decompose import Contributions
from xaikit.metrics.groups import group_accuracy
from xaikit.metrics.intervals import Interval
from xaikit.studies.clip_decomposition import (
    Ablation,
    Backbone,
    Classes,
    ClassToken,
    Decomposed,
    Head,
    Labels,
    mean_worst_group,
    predictions,
    random_heads,
    with_role,
    worst_group_gain,
)
from xaikit.studies.clip_pictures import Labelled, published_heads, published_id
from xaikit.studies.clip_tables import Row, class_token_means, printed

# What is silenced: the name of the set of heads, "alone" or with the "recipe", and which draw of random heads stands
# for the set, -1 for the set itself.
Key = tuple[str, str, int]
BASE: Key = ("base", "", -1)
NO_HEADS = "no heads"
MEASURED, PUBLISHED_TEXTS, BY_HAND = "measured place heads", "place heads, texts as published", "published heads"


def place_variance(parts: Decomposed, places: Int64[Tensor, " images"], among: Sequence[Head]) -> dict[Head, float]:
    """The share of each head's variance that lies between places (`variance_explained`)."""
    content, heads = parts.variance_explained({"place": places})["place"].numpy(), parts.readout.heads.shape[1]
    return {head: content[head[0] * heads + head[1]] for head in among}


def sets_of_heads(
    model: Backbone, labels: Mapping[str, Labels], content: Mapping[Head, float], measured: int
) -> dict[str, tuple[Head, ...]]:
    """The sets of heads for places, among those that `content` measures, by name.

    By each draw of one-topic texts; the `measured` many with the most content; by the first draw of texts as published;
    and those that the authors chose by hand for this model, where there are any.
    """
    among = list(content)
    labelled = {kind: own.of_some(among) for kind, own in labels.items()}
    sets = {
        f"place heads, draw {number}": with_role(drawn, "place")
        for number, drawn in enumerate(labelled["one-topic"].draws, start=1)
    }
    sets[MEASURED] = tuple(sorted(sorted(among, key=content.__getitem__)[-measured:]))
    sets[PUBLISHED_TEXTS] = with_role(labelled["two-topic"].draws[0], "place")
    if chosen := published_heads(model):
        sets[BY_HAND] = chosen
    return sets


def settings(
    sets: Mapping[str, Sequence[Head]], among: Sequence[Head], draws: int, draw: np.random.Generator
) -> dict[Key, Ablation]:
    """What is silenced: nothing, the published recipe without heads, and each set both alone and with the recipe.

    The recipe takes the MLPs and the attention before the layers of `among` as well. Beside each set stand so many
    `draws` of random heads among those, the same for both.
    """
    recipe = {"mlps": True, "layers": tuple(range(among[0][0]))}
    found = {BASE: Ablation(), (NO_HEADS, "recipe", -1): Ablation(**recipe)}
    for name, chosen in sets.items():
        others = random_heads([head for head in chosen if head in among], among, draws, draw)
        for design, more in (("alone", {}), ("recipe", recipe)):
            found[name, design, -1] = Ablation(heads=tuple(chosen), **more)
            found |= {(name, design, number): Ablation(heads=each, **more) for number, each in enumerate(others)}
    return found


@dataclass(frozen=True, eq=False)
class Silenced:
    """Which birds are told right with each set of heads silenced, by whose means; and the group of each bird."""

    right: dict[Protocol, dict[Key, Bool[Tensor, " images"]]]
    groups: Int64[Tensor, " images"]
    seed: int

    @classmethod
    def of(
        cls,
        parts: Decomposed,
        classes: Classes,
        means: Mapping[Protocol, Contributions],
        ablations: Mapping[Key, Ablation],
        birds: Labelled,
        seed: int,
    ) -> "Silenced":
        """Silence all with means over other images; with those of the same, as published, what the paper does.

        That is the recipe, with random heads beside texts as published; where nothing is replaced, means are none.
        """
        right: dict[Protocol, dict[Key, Tensor]] = {}
        for protocol, mean in means.items():
            own = {
                key: each for key, each in ablations.items()
                if protocol == "corrected" or (key[1] == "recipe" and (key[2] < 0 or "as published" in key[0]))
            }  # fmt: skip
            given = predictions(parts, classes, mean, own)
            right[protocol] = {key: answers == birds.labels for key, answers in given.items()}
        assert birds.groups is not None
        return cls(right, birds.groups, seed)

    def draws(self, name: str, design: str, protocol: Protocol = "corrected") -> list[Bool[Tensor, " images"]]:
        """What is right with random heads in the place of a set, for each draw."""
        each = self.right[protocol].items()
        return [own for (set_of, how, number), own in each if (set_of, how) == (name, design) and number >= 0]

    def gain(self, name: str, design: str, over: str, protocol: Protocol = "corrected") -> Interval:
        """How much better the worst group is with a set silenced than with nothing ("base"), or "random" heads."""
        own, base = self.right[protocol][name, design, -1], self.right["corrected"][BASE]
        others = {"base": [base], "random": self.draws(name, design, protocol)}[over]
        return worst_group_gain(own, others, self.groups, self.seed)

    def gain_of_random(self, name: str, design: str) -> Interval:
        """How much better it is with random heads in the place of a set than with nothing silenced, on average."""
        return mean_worst_group(self.draws(name, design), self.groups, self.seed, over=self.right["corrected"][BASE])


def worst_groups(
    note: Notes, model: Backbone, silenced: Silenced, sets: Mapping[str, Sequence[Head]], names: Sequence[str]
) -> tuple[list[Row], list[Row]]:
    """The table "Waterbirds": the worst group with each set silenced and with random heads; and a table of all groups.

    `names` are those of the groups, by their numbers. Records the worst group, all groups and the accuracy of each row.
    """
    rows, group_rows, groups = [], [], silenced.groups
    for protocol, each in silenced.right.items():
        for (name, design, number), right in each.items():
            if number >= 0:
                continue
            slug, source = _slug(name, design), _source(model, name, design)
            row = _row(name, design, len(sets.get(name, ())), protocol)
            worst = group_accuracy(right.numpy(), groups.numpy()).worst
            note(f"waterbirds.worst-group.{slug}.{protocol}", worst, "Waterbirds", protocol, published=source)
            rows.append(row | vars(worst) | {"published": printed(source)})
            found = group_accuracy(right.numpy(), np.array(names)[groups.numpy()])
            note(f"waterbirds.accuracy.{slug}.{protocol}", found.overall, "Waterbirds", protocol,
                 values=right.numpy(), of="birds")  # fmt: skip
            for group, value in found.groups.items():
                id = f"waterbirds.groups.{slug}.{protocol}.{str(group).replace(' ', '-')}"
                note(id, value, "Waterbirds groups", protocol)
                group_rows.append(row | {"group": group} | vars(value))
            draws = silenced.draws(name, design, protocol)
            if draws and (design == "alone" or name in (MEASURED, PUBLISHED_TEXTS)):
                source = published_id(model, _PUBLISHED.format("random")) if _column(name, design) else None
                mean = mean_worst_group(draws, groups, silenced.seed)
                id = f"waterbirds.worst-group.random-for-{slug}.{protocol}"
                note(id, mean, "Waterbirds", protocol, published=source)
                row = row | {"silenced": f"random heads, as many as {name}"}
                rows.append(row | vars(mean) | {"published": printed(source)})
    return rows, group_rows


def without_class_token(
    note: Notes, classes: Classes, own: ClassToken, others: ClassToken, birds: Labelled
) -> list[Row]:
    """The worst group without what the class token's attention to itself adds, on a part of the birds.

    Its mean is that over `others`, or as published over its `own` images.
    """
    rows = []
    assert birds.groups is not None
    labels, groups = birds.labels[own.rows], birds.groups[own.rows]
    for protocol, means in class_token_means(own, others).items():
        changed = {"class token": own.without(means), "class token and MLPs": own.without(means, mlps=True)}
        if protocol == "corrected":
            changed = {"base, the same birds": own.embeddings} | changed
        for name, embeddings in changed.items():
            right = classes.of_some(own.rows, embeddings) == labels
            worst = group_accuracy(right.numpy(), groups.numpy()).worst
            slug = "class-token.base" if name.startswith("base") else _slug(name.lower(), "")
            note(f"waterbirds.worst-group.{slug}.{protocol}", worst, "Waterbirds", protocol)
            rows.append(_row(name, "alone", 0, protocol) | vars(worst) | {"published": np.nan})
    return rows


_PUBLISHED = "waterbirds.{{model}}.worst-group.{}"
_MORE = {"recipe": "MLPs, early layers", "alone": "nothing else", "": ""}


def _row(name: str, design: str, heads: int, protocol: Protocol) -> Row:
    return {"silenced": name, "and": _MORE[design], "heads": heads, "means": protocol}


def _slug(name: str, design: str) -> str:
    return "-".join(name.replace(",", "").split()) + (f".{design}" if design else "")


def _column(name: str, design: str) -> str | None:
    """The column of the paper's table that a row stands beside: it has nothing silenced, and its recipe."""
    if name == "base":
        return "base"
    return "ours" if design == "recipe" and name in (BY_HAND, PUBLISHED_TEXTS) else None


def _source(model: Backbone, name: str, design: str) -> str | None:
    column = _column(name, design)
    return published_id(model, _PUBLISHED.format(column)) if column else None
