"""How a notebook writes intervals down: under the name of its paper, each with the values that it is the mean of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xaikit.companion.record import Protocol, Record
from xaikit.metrics.intervals import Interval, bootstrap_mean, proportion


@dataclass(frozen=True)
class Notes:
    """The intervals of one notebook: `note(id, interval, item)` is recorded as the number `paper.id`, and handed on.

    With a `model`, of several that a notebook looks at, it is `paper.id.model`, and its values are of that model too.
    """

    record: Record
    paper: str
    model: str = ""

    def id(self, id: str) -> str:
        """The whole id of a number."""
        return f"{self.paper}.{id}" + (f".{self.model}" if self.model else "")

    def __call__(
        self,
        id: str,
        interval: Interval,
        item: str,
        protocol: Protocol = "corrected",
        unit: str = "fraction",
        published: str | None = None,
        *,
        values: ArrayLike | None = None,
        of: str = "pictures",
    ) -> Interval:
        """Record an interval and, where they are given, the values that it is the mean of, one for each of `of`."""
        name = self.id(id)
        self.record.number(
            name, interval.value, low=interval.low, high=interval.high, n=interval.n,
            unit=unit, item=item, protocol=protocol, published=published,
        )  # fmt: skip
        if values is not None:
            self.record.values(name, values, of=f"{of} of {self.model.replace('-', ' ')}" if self.model else of)
        return interval

    def mean(
        self,
        id: str,
        values: ArrayLike,
        item: str,
        protocol: Protocol = "corrected",
        unit: str = "fraction",
        published: str | None = None,
        *,
        of: str = "pictures",
    ) -> Interval:
        """Record the mean of values with its interval, which is exact where all are right or wrong, and the values."""
        each = np.asarray(values)
        verdicts = unit == "fraction" and np.isin(each, (0, 1)).all()
        interval = proportion(int(each.sum()), len(each)) if verdicts else bootstrap_mean(values, seed=self.record.seed)
        return self(id, interval, item, protocol, unit, published, values=values, of=of)
