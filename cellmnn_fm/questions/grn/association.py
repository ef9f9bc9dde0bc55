"""Which genes go together, and which come first: a network of ranks, given the size of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...data.subspace import Subspace
from ...data.time_course import TimeScale
from .estimators import CellStates, expression_of, production_factors
from .network import Factors, GeneRegulatoryNetwork

_DECAY = 5.0  # per mean gap between snapshots
_RIDGE, _LEAST_RIDGE = 0.2, 100.0  # the former of the number of genes
_BLOCK = 512  # genes that are ranked at once, which bounds the memory


def association_network(
    cells: CellStates,
    subspace: Subspace,
    genes: tuple[str, ...],
    time_scale: TimeScale,
    *,
    decay: float = _DECAY,
    ridge: float | None = None,
    members: int = 0,
    seed: int = 0,
) -> GeneRegulatoryNetwork:
    """Correlation of the ranks of genes, given the size of cells, and of ranks with velocities.

    With R the correlation of the ranks that :func:`without_size` leaves, C_vr the covariance of
    velocities with them, k a rate and λ a number of variances,

        G = (R + C_vr / k) (1 + R / λ)⁻¹

    Velocities add to a correlation and do not make the network: where cells of different times
    hardly differ, G is the same in both directions. λ takes some of the weight from what all genes
    share. The defaults of both were chosen on simulated counts and on some of the real sets, see
    docs/networks.md.

    Edges are ranked by G, not by its size: genes that go together are linked more often than those
    that exclude each other.

    Parameters
    ----------
    cells : CellStates
        Those that the network is about.
    subspace : Subspace
        Over `genes`.
    genes : tuple of str
        Their names.
    time_scale : TimeScale
        Of the fit, for k per mean gap.
    decay : float
        k, per mean gap between snapshots.
    ridge : float, optional
        λ; a fifth of the number of genes and 100 at least by default.
    members : int
        How often the cells are resampled, for the confidence in edges.
    seed : int
        Of resampling and of the decomposition of many genes.

    Raises
    ------
    InputError
        On too few cells.
    """
    x = np.asarray(expression_of(cells, subspace))
    ranks = without_size(x, cells.times)
    velocity = cells.velocity.astype(np.float64)
    spread = x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    told_apart = np.abs(ranks).max(axis=0) > 0
    loadings = np.where(told_apart[:, None], subspace.loadings / spread[:, None], 0.0)
    rates = np.full(len(genes), decay / time_scale.unit)
    ridge = ridge_of(len(genes)) if ridge is None else ridge

    def factors(mass: NDArray) -> Factors:
        left, right = production_factors(ranks, velocity, loadings, rates, ridge, mass, seed)
        return left * (ridge / rates[0]), right

    rng, even = np.random.default_rng(seed), np.full(len(x), 1 / len(x))
    resampled = [factors(rng.multinomial(len(x), even) / len(x)) for _ in range(members)]
    record = {"estimator": "association", "cells": len(x)}
    mean = x.mean(axis=0, dtype=np.float64)
    return GeneRegulatoryNetwork(
        genes, *factors(even), mean, spread, resampled, record, by_value=True
    )


def ridge_of(genes: int) -> float:
    """λ of a network of so many genes."""
    return max(_RIDGE * genes, _LEAST_RIDGE)


def without_size(x: NDArray, times: NDArray) -> NDArray[np.float32]:
    """Ranks of cells in each gene, less what detection and mean of a cell explain, of variance 1.

    Of `x` (cells, genes) at `times` (cells,). Detection and mean are taken as far as they differ
    between cells of the same time: what follows time may be the process itself. A gene that they
    explain wholly is 0.
    """
    from scipy.stats import rankdata

    detected = (x > x.min(axis=0)).mean(axis=1)
    size = np.stack([detected, x.mean(axis=1, dtype=np.float64)], axis=1)
    for time in np.unique(times):
        size[times == time] -= size[times == time].mean(axis=0)
    explained, _ = np.linalg.qr(np.column_stack([np.ones(len(x)), size]))
    residuals = np.empty(x.shape, dtype=np.float32)
    for start in range(0, x.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        ranks = rankdata(x[:, columns], axis=0) / len(x)
        ranks -= explained @ (explained.T @ ranks)
        spread = ranks.std(axis=0)
        sound = spread > 1e-9
        residuals[:, columns] = np.where(sound, ranks / np.where(sound, spread, 1.0), 0.0)
    return residuals
