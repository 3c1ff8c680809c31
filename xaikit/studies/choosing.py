"""Which pictures are taken where not all can be: at random, but as many of each class as there are."""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from xaikit.companion.profiles import Settings
from xaikit.storage.seeding import generator


def stratified(labels: Int64[Tensor, " n"], most: int, seed: int, *stream: str | int) -> Int64[Tensor, " chosen"]:
    """`most` positions at the most, in order: of each class as many as of the others, as far as it has them.

    Which ones of a class, and which classes have one more, is drawn. Raises ValueError for fewer than one.
    """
    if most < 1:
        raise ValueError(f"{most} positions are none: ask for at least one.")
    order = torch.randperm(len(labels), generator=generator(seed, "stratified", *stream))
    classes = labels[order].unique()
    classes = classes[torch.randperm(len(classes), generator=generator(seed, "stratified classes", *stream))]
    turns = [order[labels[order] == label] for label in classes]
    longest = max(map(len, turns), default=0)
    dealt = [turn[number] for number in range(longest) for turn in turns if number < len(turn)]
    return torch.stack(dealt[:most]).sort().values if dealt else torch.empty(0, dtype=torch.int64)


def part_of(data: Any, cfg: Settings, seed: int, *stream: str | int) -> Any:
    """At most `cfg.subset` of a data set, `stratified`, where the profile asks for a part; else all.

    Each of its groups counts as a class, where it has `groups`, else each of its `labels`.
    """
    most = cfg.get("subset")
    if most is None or len(data) <= most:
        return data
    return data.select(stratified(getattr(data, "groups", data.labels), most, seed, *stream).tolist())
