"""What is exchanged between two conditions to test them: cells, samples, or the halves of pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice, product

import numpy as np
from numpy.typing import NDArray

from ..evaluation.metrics import permuted_within
from ..model.errors import InputError, listed

_LEAST_CELLS = 2  # of either condition at every time
_ATTEMPTS = 200  # to draw an arrangement in which every time has cells of both


@dataclass(frozen=True)
class Replicates:
    """Cells of two conditions, and the samples (donors, animals, cultures) that they come from.

    Cells of one sample are alike for reasons that have nothing to do with the condition, so that
    samples are exchanged as a whole: those that were taken at one time with others of that time,
    those that were followed through several times with each other. A sample with cells in both
    conditions is a pair, whose two sides are exchanged. Without samples, cells are exchanged
    within their time, and the test is about these cells alone.

    Attributes
    ----------
    first : (cells,) bool
        Cells of the first of the conditions.
    times : (cells,)
        When they were taken.
    samples : (cells,), optional
        Where they come from.

    Raises
    ------
    InputError
        If samples can be exchanged in less than three ways.

    Examples
    --------
    >>> first = np.repeat([True, False], 6)
    >>> samples = np.repeat(["a", "b", "c", "d"], 3)
    >>> replicates = Replicates(first, np.zeros(12), samples)
    >>> replicates.unit, replicates.arrangements
    ('samples', 6)
    """

    first: NDArray[np.bool_]
    times: NDArray[np.float64]
    samples: NDArray | None = None

    def __post_init__(self) -> None:
        if self.samples is None or self.arrangements > 2:
            return
        ways = f"{listed(self._rows)}: {self.arrangements}"
        raise InputError("samples", "3 or more ways to exchange them", ways, "add some")

    @property
    def unit(self) -> str:
        """What is exchanged: "cells", "samples", "pairs", or "pairs and samples"."""
        if self.samples is None:
            return "cells"
        kinds = {"pairs": self._pairs, "samples": self._strata}
        return " and ".join(name for name, members in kinds.items() if members)

    @property
    def sentence(self) -> str:
        """What p values are about, for a table."""
        if self.samples is None:
            return (
                "cells were exchanged, which are no replicates: p says that these cells differ, "
                "not that conditions do; name the samples that they come from"
            )
        counts = [f"{len(self._pairs)} pairs"] if self._pairs else []
        if self._strata:
            sides = [self._is_first(name) for stratum in self._strata for name in stratum]
            counts.append(f"{sum(sides)} and {len(sides) - sum(sides)} samples")
        least = 1 / self.arrangements
        return f"{' and '.join(counts)} were exchanged: p is {least:.2g} at the least"

    @cached_property
    def arrangements(self) -> int:
        """In how many ways samples can be given to the conditions; as good as endless for cells."""
        if self.samples is None:
            return 2**62
        ways = [math.comb(len(stratum), self._firsts(stratum)) for stratum in self._strata]
        return 2 ** len(self._pairs) * math.prod(ways)

    def relabelled(self, count: int, rng: np.random.Generator) -> Iterator[NDArray[np.bool_]]:
        """Other ways to give cells to the first condition, (cells,) each.

        All that there are, if they are no more than `count`; else so many, drawn at random. In
        each, every time has cells of both conditions.
        """
        if self.samples is None:
            for _ in range(count):
                yield permuted_within(self.first, self.times, rng)
        elif self.arrangements - 1 <= count:
            usable = (mask for mask in self._every() if self._usable(np.arange(len(mask)), mask))
            yield from (mask for mask in usable if (mask != self.first).any())
        else:
            drawn = (self._drawn(rng) for _ in range(count * _ATTEMPTS))
            usable = (mask for mask in drawn if self._usable(np.arange(len(mask)), mask))
            yield from islice(usable, count)

    def resampled(self, count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Rows of cells of as many samples, drawn with replacement from those of a condition.

        Of `count` draws those in which every time has cells of both conditions.
        """
        for _ in range(count):
            for _ in range(_ATTEMPTS):
                rows = self._redrawn(rng)
                if self._usable(rows, self.first[rows]):
                    yield rows
                    break

    def _usable(self, rows: NDArray, mask: NDArray[np.bool_]) -> bool:
        """Whether every time has cells of both, for rows (n,) with the labels of a mask (n,)."""
        times = self.times[rows]
        return all(
            min((mask & (times == time)).sum(), (~mask & (times == time)).sum()) >= _LEAST_CELLS
            for time in np.unique(self.times)
        )

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        """Those of every sample."""
        assert self.samples is not None
        return {name: np.flatnonzero(self.samples == name) for name in np.unique(self.samples)}

    @cached_property
    def _pairs(self) -> list[str]:
        """Samples with cells in both conditions."""
        if self.samples is None:
            return []
        return [name for name, rows in self._rows.items() if len(np.unique(self.first[rows])) == 2]

    @cached_property
    def _strata(self) -> list[list[str]]:
        """The other samples, by the time that they are of; together where there are several."""
        strata: dict[float | None, list[str]] = {}
        for name, rows in self._rows.items():
            if name not in self._pairs:
                times = np.unique(self.times[rows])
                strata.setdefault(float(times[0]) if len(times) == 1 else None, []).append(name)
        return list(strata.values())

    def _is_first(self, name: str) -> bool:
        """Whether a sample is of the first condition."""
        return bool(self.first[self._rows[name][0]])

    def _firsts(self, stratum: Sequence[str]) -> int:
        """How many of these samples are of the first condition."""
        return sum(self._is_first(name) for name in stratum)

    def _mask(self, swapped: Sequence[bool], chosen: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
        """Labels of an arrangement: which pairs change sides, and who is first of each stratum."""
        mask = np.zeros_like(self.first)
        for name, swap in zip(self._pairs, swapped, strict=True):
            mask[self._rows[name]] = self.first[self._rows[name]] ^ swap
        for name in (name for names in chosen for name in names):
            mask[self._rows[name]] = True
        return mask

    def _every(self) -> Iterator[NDArray[np.bool_]]:
        """All arrangements."""
        swaps = product([False, True], repeat=len(self._pairs))
        chosen = product(*(combinations(names, self._firsts(names)) for names in self._strata))
        return (self._mask(*arrangement) for arrangement in product(swaps, chosen))

    def _drawn(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """A random arrangement."""
        chosen = [
            [names[index] for index in rng.permutation(len(names))[: self._firsts(names)]]
            for names in self._strata
        ]
        return self._mask((rng.random(len(self._pairs)) < 0.5).tolist(), chosen)

    def _redrawn(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of samples that are drawn with replacement; of cells where there are none."""
        if self.samples is None:
            groups = [
                np.flatnonzero((self.first == side) & (self.times == time))
                for side in (True, False)
                for time in np.unique(self.times)
            ]
            return np.concatenate([rng.choice(rows, len(rows)) for rows in groups])
        sides = [
            [name for name in names if self._is_first(name) == side]
            for names in self._strata
            for side in (True, False)
        ]
        return np.concatenate(
            [
                self._rows[names[index]]
                for names in [self._pairs, *sides]
                for index in rng.integers(len(names) or 1, size=len(names))
            ]
        )
