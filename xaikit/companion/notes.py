"""How a notebook writes intervals down: under the name of its paper, each with the values that it is the mean of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xaikit.companion.record import Protocol, Record
from xaikit.metrics.intervals import Interval, Runs, bootstrap_mean, cluster_bootstrap, proportion


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
        over: str = "",
    ) -> Interval:
        """Record an interval and, where they are given, the values that it is the mean of, one for each of `of`.

        What it is over is "runs" for `Runs`, else "images", unless it is said.
        """
        name, over = self.id(id), over or ("runs" if isinstance(interval, Runs) else "images")
        self.record.number(
            name, interval.value, low=interval.low, high=interval.high, n=interval.n, of=over,
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
        over: str = "images",
    ) -> Interval:
        """Record the mean of values with its interval, which is exact where all are right or wrong, and the values.

        Values [models, things] are of several models (trainings, starts) and the same things: the interval is over
        both, and the values that are kept are means over models.
        """
        each = np.asarray(values, dtype=np.float64)
        if each.ndim == 2:
            interval = cluster_bootstrap(each, seed=self.record.seed, crossed=True)
            if unit == "fraction":
                interval = interval.within(0.0, 1.0)
            return self(id, interval, item, protocol, unit, published, values=each.mean(0), of=of, over=over)
        verdicts = unit == "fraction" and np.isin(each, (0, 1)).all()
        interval = proportion(int(each.sum()), len(each)) if verdicts else bootstrap_mean(each, seed=self.record.seed)
        return self(id, interval, item, protocol, unit, published, values=each, of=of, over=over)
