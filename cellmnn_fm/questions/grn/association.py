"""Which genes go together, beyond what the size of a cell explains: no direction is claimed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...data.subspace import Subspace
from .estimators import CellStates, expression_of, leading_components
from .network import Factors, GeneRegulatoryNetwork

_MOST_FACTORS = 50


def association_network(
    cells: CellStates,
    subspace: Subspace,
    genes: tuple[str, ...],
    *,
    members: int = 0,
    seed: int = 0,
) -> GeneRegulatoryNetwork:
    """Correlation of genes, given how many are detected in a cell and how much of them.

    Both are regressed out of each gene, as far as they differ between cells of the same time: what
    follows time may be the process itself. Residuals of unit variance have covariance R, of which
    50 factors are kept. Edges are ranked by R, not by its size: genes that go together are linked
    more often than those that exclude each other. R is the same in both directions.

    Parameters
    ----------
    cells : CellStates
        Those that the network is about.
    subspace : Subspace
        Over `genes`.
    genes : tuple of str
        Their names.
    members : int
        How often the cells are resampled, for the confidence in edges.
    seed : int
        Of resampling and of the decomposition of many genes.

    Raises
    ------
    InputError
        On too few cells.
    """
    x, times = np.asarray(expression_of(cells, subspace), dtype=np.float64), cells.times
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(x), len(x)) for _ in range(members)]
    resampled = [_factors(x[drawn], times[drawn], seed) for drawn in draws]
    spread = x.std(axis=0)
    return GeneRegulatoryNetwork(
        genes,
        *_factors(x, times, seed),
        x.mean(axis=0),
        np.where(spread > 0, spread, 1.0),
        resampled,
        {"estimator": "association", "cells": len(x)},
        by_value=True,
    )


def _factors(x: NDArray, times: NDArray, seed: int) -> Factors:
    """R = left · right, of expression `x` (cells, genes) at `times` (cells,)."""
    _, s, vt = leading_components(without_size(x, times), _MOST_FACTORS, seed)
    return vt.T * (s**2 / len(x)), vt


def without_size(x: NDArray, times: NDArray) -> NDArray[np.float64]:
    """Expression (cells, genes) less what detection and mean of a cell explain, of variance 1.

    Of `x` (cells, genes) at `times` (cells,), around whose means both are taken; a gene that these
    explain wholly is 0.
    """
    detected = (x > x.min(axis=0)).mean(axis=1)
    size = np.stack([detected, x.mean(axis=1)], axis=1)
    for time in np.unique(times):
        size[times == time] -= size[times == time].mean(axis=0)
    size = np.column_stack([np.ones(len(x)), size])
    residuals = x - size @ np.linalg.lstsq(size, x, rcond=None)[0]
    spread = residuals.std(axis=0)
    sound = spread > 1e-9 * max(float(x.std()), 1e-300)
    return np.where(sound, residuals / np.where(sound, spread, 1.0), 0.0)
