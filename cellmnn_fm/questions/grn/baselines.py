"""Simple ways to a gene network from the same cells: what an estimator has to beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Baseline = Callable[[NDArray, NDArray, int], NDArray]


def pearson(x: NDArray, times: NDArray, seed: int = 0) -> NDArray:
    """Correlation, the same in both directions. Weights (targets, sources), as of all baselines.

    Parameters
    ----------
    x : (cells, genes)
        Expression.
    times : (cells,)
        When each cell was taken, in the user's time.
    seed : int
        Of nothing here; other baselines draw.
    """
    return np.corrcoef(_scaled(x).T)


def spearman(x: NDArray, times: NDArray, seed: int = 0) -> NDArray:
    """Correlation of ranks.

    Of `x` (cells, genes) at `times` (cells,).
    """
    from scipy.stats import rankdata

    return np.corrcoef(_scaled(rankdata(x, axis=0)).T)


def partial_correlation(x: NDArray, times: NDArray, seed: int = 0, ridge: float = 0.1) -> NDArray:
    """Correlation given all other genes, from a ridge inverse of the correlations.

    Of `x` (cells, genes) at `times` (cells,).
    """
    scaled = _scaled(x)
    inverse = np.linalg.inv(scaled.T @ scaled / len(x) + ridge * np.eye(x.shape[1]))
    scale = np.sqrt(np.diag(inverse))
    return -inverse / np.outer(scale, scale)


def trees(
    x: NDArray, times: NDArray, seed: int = 0, among: NDArray[np.bool_] | None = None
) -> NDArray:
    """Importance in a forest for each target, signed by correlation (as GENIE3).

    Of `x` (cells, genes) at `times` (cells,); of all genes, or of those that `among` (genes,) says.

    References
    ----------
    Huynh-Thu et al. 2010, PLoS ONE 5:e12776.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    scaled, genes = _scaled(x), x.shape[1]
    weights = np.zeros((genes, genes))
    sources = np.arange(genes) if among is None else np.flatnonzero(among)
    for target in range(genes):
        others = sources[sources != target]
        forest = ExtraTreesRegressor(
            100, max_features="sqrt", min_samples_leaf=5, random_state=seed
        ).fit(scaled[:, others], scaled[:, target])
        weights[target, others] = forest.feature_importances_
    return weights * np.sign(pearson(x, times))


def lagged_correlation(x: NDArray, times: NDArray, seed: int = 0) -> NDArray:
    """Correlation over time of mean expression with that of the target one snapshot later.

    Of `x` (cells, genes) at `times` (cells,).
    """
    means = np.stack([x[times == time].mean(axis=0) for time in np.unique(times)])
    if len(means) < 4:
        return np.zeros((x.shape[1],) * 2)
    earlier, later = _scaled(means[:-1]), _scaled(means[1:])
    return later.T @ earlier / len(earlier)


def scode(
    x: NDArray, times: NDArray, seed: int = 0, dims: int = 4, iterations: int = 100, runs: int = 10
) -> NDArray:
    """The operator of a linear ODE in few hidden dimensions, found by random search; mean of runs.

    Expression is W z(t) with z_d(t) = exp(b_d t); A = W diag(b) W⁺.

    Of `x` (cells, genes) at `times` (cells,).

    References
    ----------
    Matsumoto et al. 2017, Bioinformatics 33:2314.
    """
    span = times.max() - times.min()
    progress = (times - times.min()) / (span if span > 0 else 1.0)
    total = np.zeros((x.shape[1],) * 2)
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        low, high = -10.0, 2.0
        rates = rng.uniform(low, high, dims)
        best, error = _scode_fit(x, progress, rates)
        for _ in range(iterations):
            tried = rates.copy()
            tried[rng.integers(dims)] = rng.uniform(low, high)
            operator, tried_error = _scode_fit(x, progress, tried)
            if tried_error < error:
                rates, best, error = tried, operator, tried_error
        total += best @ np.diag(rates) @ np.linalg.pinv(best)
    return total / runs


def _scode_fit(x: NDArray, at: NDArray, rates: NDArray) -> tuple[NDArray, float]:
    """Operator and squared error of one draw of rates."""
    basis = np.exp(np.outer(at, rates))
    gram = basis.T @ basis + 1e-3 * np.eye(len(rates))
    weights = np.linalg.solve(gram, basis.T @ x).T
    return weights, float(np.square(x - basis @ weights.T).sum())


def _scaled(x: NDArray) -> NDArray:
    """Columns (cells, genes) with mean 0 and variance 1."""
    centred = x - x.mean(axis=0)
    spread = centred.std(axis=0)
    return centred / np.where(spread > 0, spread, 1.0) + 1e-12 * np.arange(len(x))[:, None] * (
        spread == 0
    )


BASELINES: dict[str, Baseline] = {
    "pearson": pearson,
    "spearman": spearman,
    "partial_correlation": partial_correlation,
    "trees": trees,
    "scode": scode,
    "lagged_correlation": lagged_correlation,
}
"""The baselines by name; functions of (expression, times, seed)."""
