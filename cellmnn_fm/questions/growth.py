"""How many cells there are: what snapshots do not tell, from counts at some of the times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.errors import InputError, listed
from ..model.modeling_cellmnn import CellMNNModel


@dataclass(frozen=True)
class PopulationSize:
    """N(t), exponential between counts.

    Snapshots are shares of a population: they tell how much faster some cells multiply than others,
    g(z, t) with mean 0 over the cells of a time, and nothing of the rate that all of them have in
    common, d log N / dt. That comes from counts.

    Attributes
    ----------
    times : (counts,)
        When there are counts, ascending.
    counts : (counts,)

    Examples
    --------
    >>> import numpy as np
    >>> size = PopulationSize.of({0.0: 100, 2.0: 400})
    >>> size.at(np.array([1.0, 2.0])).round()
    array([200., 400.])
    >>> size.common_rate(np.array([1.0])).round(3)  # log(4) / 2
    array([0.693])
    """

    times: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, counts: Mapping[float, float] | None) -> PopulationSize:
        """From counts, in any unit, by time.

        Raises
        ------
        InputError
            Unless they are positive and at two or more times.
        """
        if counts is None or len(counts) < 2:
            raise InputError(
                "population",
                "how many cells there were at two or more times",
                "none" if not counts else f"one, at {listed(counts)}",
                "give counts: snapshots tell how much faster some cells multiply than others, "
                "not how fast all do",
            )
        times = np.array(sorted(counts), dtype=np.float64)
        found = np.array([counts[at] for at in sorted(counts)], dtype=np.float64)
        if not (np.isfinite(times).all() and np.isfinite(found).all() and (found > 0).all()):
            raise InputError("population", "positive counts", dict(counts), "correct them")
        return cls(times, found)

    def at(self, times: NDArray) -> NDArray[np.float64]:
        """N at `times` (times,); beyond the counts it goes on as in the nearest interval."""
        interval = self._interval(times)
        rate = self._rates[interval]
        return self.counts[interval] * np.exp(rate * (times - self.times[interval]))

    def common_rate(self, times: NDArray) -> NDArray[np.float64]:
        """The rate d log N / dt at `times`; at a count that of the interval that begins there."""
        return self._rates[self._interval(times)]

    @property
    def _rates(self) -> NDArray[np.float64]:
        return np.diff(np.log(self.counts)) / np.diff(self.times)

    def _interval(self, times: NDArray) -> NDArray[np.int64]:
        after = np.searchsorted(self.times, times, side="right")
        return np.clip(after - 1, 0, len(self.times) - 2)


def require_growth(model: CellMNNModel) -> None:
    """Refuse a model in which cells do not multiply."""
    if not model.config.growth:
        raise InputError("model", "one with growth", "one without", "fit it with growth=True")
