"""Which genes go together, beyond what the size of a cell explains: no direction is claimed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...data.subspace import Subspace
from ...model.errors import InputError
from .estimators import MIN_NETWORK_CELLS, CellStates
from .network import Factors, GeneRegulatoryNetwork

_MOST_FACTORS = 50
_POWER_ITERATIONS = 3


def association_network(
    cells: CellStates,
    subspace: Subspace,
    genes: tuple[str, ...],
    *,
    members: int = 0,
    seed: int = 0,
) -> GeneRegulatoryNetwork:
    """Correlation of genes, given how many are detected in a cell and how much of them.

    Both are regressed out of each gene; residuals of unit variance have covariance R, of which 50
    factors are kept. Edges are ranked by R, not by its size: genes that go together are linked more
    often than those that exclude each other. R is the same in both directions.

    Where detection follows time, what goes with time is taken out too.

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
    x = subspace.reconstruct(cells.states) if cells.expression is None else cells.expression
    x = np.asarray(x, dtype=np.float64)
    if len(x) < MIN_NETWORK_CELLS:
        raise InputError("cells", f"{MIN_NETWORK_CELLS} or more", len(x), "take more of them")
    everything = np.arange(len(x))
    rng = np.random.default_rng(seed)
    resampled = [_factors(x[rng.choice(everything, len(x))], seed) for _ in range(members)]
    spread = x.std(axis=0)
    return GeneRegulatoryNetwork(
        genes,
        *_factors(x, seed),
        x.mean(axis=0),
        np.where(spread > 0, spread, 1.0),
        resampled,
        {"estimator": "association", "cells": len(x)},
        by_value=True,
    )


def _factors(x: NDArray, seed: int) -> Factors:
    """R = left · right, of expression `x` (cells, genes)."""
    residuals = without_size(x)
    rank = min(*residuals.shape, _MOST_FACTORS)
    if rank < min(residuals.shape):
        from sklearn.utils.extmath import randomized_svd

        _, s, vt = randomized_svd(residuals, rank, n_iter=_POWER_ITERATIONS, random_state=seed)
    else:
        _, s, vt = np.linalg.svd(residuals, full_matrices=False)
    return vt.T * (s**2 / len(x)), vt


def without_size(x: NDArray) -> NDArray[np.float64]:
    """Expression (cells, genes) less what detection and mean of a cell explain, of variance 1.

    Of `x` (cells, genes); a gene that these explain wholly is 0.
    """
    detected = (x > x.min(axis=0)).mean(axis=1)
    size = np.stack([np.ones(len(x)), detected, x.mean(axis=1)], axis=1)
    residuals = x - size @ np.linalg.lstsq(size, x, rcond=None)[0]
    spread = residuals.std(axis=0)
    sound = spread > 1e-9 * max(float(x.std()), 1e-300)
    return np.where(sound, residuals / np.where(sound, spread, 1.0), 0.0)
