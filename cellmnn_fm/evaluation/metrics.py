"""Distances between snapshots, and the baseline that all methods are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def wasserstein1(
    x: NDArray,
    y: NDArray,
    x_weights: NDArray | None = None,
    y_weights: NDArray | None = None,
) -> float:
    """Exact 1-Wasserstein distance between two snapshots, Euclidean.

    Parameters
    ----------
    x, y : (cells, dims)
        The two clouds.
    x_weights, y_weights : (cells,), optional
        Only their proportions matter; equal by default.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(10, 2))
    >>> round(wasserstein1(x, x + [3, 4]), 4)
    5.0
    """
    import ot

    masses = [
        np.full(len(cells), 1 / len(cells)) if weights is None else weights / weights.sum()
        for cells, weights in ((x, x_weights), (y, y_weights))
    ]
    cost = ot.dist(x.astype(np.float64), y.astype(np.float64), metric="euclidean")
    return float(ot.emd2(*masses, cost, numItermax=10_000_000))


def ot_interpolate(
    earlier: NDArray, later: NDArray, share: float, rng: np.random.Generator
) -> NDArray:
    """OT-Interpolate: every earlier cell goes a `share` of the way to its transport partner.

    Parameters
    ----------
    earlier, later : (cells, dims)
        Snapshots around the time.
    share : float
        0 is the earlier time, 1 the later, linear in real time.
    rng : numpy.random.Generator
        Draws one partner where the exact plan splits a cell.
    """
    import ot

    cost = ot.dist(earlier.astype(np.float64), later.astype(np.float64))
    plan = ot.emd(ot.unif(len(earlier)), ot.unif(len(later)), cost, numItermax=10_000_000)
    cumulative = plan.cumsum(axis=1)
    level = rng.random((len(earlier), 1)) * cumulative[:, -1:]
    partner = (cumulative < level).sum(axis=1)
    return (1 - share) * earlier + share * later[partner]


def half_split_floor(snapshot: NDArray, rng: np.random.Generator) -> float:
    """W1 between random halves: what sampling alone costs, overstated for few cells.

    Of a `snapshot` (cells, dims).
    """
    order = rng.permutation(len(snapshot))
    half = len(snapshot) // 2
    return wasserstein1(snapshot[order[:half]], snapshot[order[half : 2 * half]])


def permuted_within(labels: NDArray, times: NDArray, rng: np.random.Generator) -> NDArray:
    """Labels (cells,) in another order within each time; over all where no time has several.

    Of `labels` (cells,) and `times` (cells,).
    """
    rows = [np.flatnonzero(times == time) for time in np.unique(times)]
    mixed = [group for group in rows if len(np.unique(labels[group])) > 1]
    permuted = labels.copy()
    for group in mixed or [np.arange(len(labels))]:
        permuted[group] = rng.permutation(labels[group])
    return permuted


def with_interval(values: Sequence[float]) -> str:
    """Mean over data sets with a 95 % bootstrap interval, as tables have it."""
    from scipy.stats import bootstrap

    interval = bootstrap((np.array(values),), np.mean, rng=np.random.default_rng(0))
    low, high = interval.confidence_interval
    return f"{np.mean(values):.3f} ({low:.3f} to {high:.3f})"
