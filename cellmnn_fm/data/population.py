"""How many cells there are, which snapshots alone do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.errors import InputError, listed


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
        Of cells, in any unit.

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
        sizes = np.array([counts[time] for time in sorted(counts)], dtype=np.float64)
        if not (np.isfinite(times).all() and np.isfinite(sizes).all() and (sizes > 0).all()):
            raise InputError("population", "positive counts", dict(counts), "correct them")
        return cls(times, sizes)

    def at(self, times: NDArray) -> NDArray[np.float64]:
        """N at `times` (times,); beyond the counts it goes on as in the nearest interval."""
        interval = self._interval(times)
        rate = self._rates[interval]
        return self.counts[interval] * np.exp(rate * (times - self.times[interval]))

    def common_rate(self, times: NDArray) -> NDArray[np.float64]:
        """The rate d log N / dt at `times`; at a count that of the interval that begins there.

        `times` (times,).
        """
        return self._rates[self._interval(times)]

    @property
    def _rates(self) -> NDArray[np.float64]:
        """The rates d log N / dt between counts, (counts - 1,)."""
        return np.diff(np.log(self.counts)) / np.diff(self.times)

    def _interval(self, times: NDArray) -> NDArray[np.int64]:
        """Between which counts times (times,) lie; beyond them the nearest."""
        after = np.searchsorted(self.times, times, side="right")
        return np.clip(after - 1, 0, len(self.times) - 2)


def read_population(counts: Sequence[str]) -> dict[float, float]:
    """Counts by time from "TIME=CELLS", as a command line has them."""
    try:
        return {float(time): float(cells) for time, cells in (pair.split("=") for pair in counts)}
    except ValueError:
        raise InputError("population", "TIME=CELLS", listed(counts), "give two numbers") from None
