"""Distances between snapshots, and the baseline that all methods are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..training.losses import energy_distance


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


def energy(x: NDArray, y: NDArray, x_weights: NDArray | None = None) -> float:
    """Energy distance between two snapshots (cells, dims), as a U-statistic.

    W1 falls if a prediction of few cells is drawn together, towards the middle of what may be; this
    does not: its estimate is unbiased, and least where the distributions are the same.

    Of `x` and `y` (cells, dims); `x_weights` (cells,) are equal by default. See
    :func:`cellmnn_fm.training.losses.energy_distance`.
    """
    one, other = (torch.from_numpy(cells.astype(np.float64)) for cells in (x, y))
    weights = None if x_weights is None else torch.from_numpy(x_weights.astype(np.float64))
    return float(energy_distance(one, other, weights))


def random_halves(snapshot: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Two random halves of a `snapshot` (cells, dims).

    Their distance is what sampling alone costs, overstated for few cells.
    """
    order = rng.permutation(len(snapshot))
    half = len(snapshot) // 2
    return snapshot[order[:half]], snapshot[order[half : 2 * half]]


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
