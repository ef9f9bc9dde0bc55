"""From a fitted model to a gene regulatory network: operators, Jacobians, production rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ...data.options import Decay, Part
from ...data.subspace import Subspace
from ...data.time_course import TimeScale
from ...dynamics.snapshots import Dynamics, padded
from ...model.errors import InputError, listed, require_number
from ...model.modeling_cellmnn import CellMNNModel
from ..replicates import Replicates
from .network import Factors, GeneRegulatoryNetwork

DEFAULT_DECAY = 2.4  # per mean gap between snapshots
DEFAULT_RIDGE = 0.3
MIN_NETWORK_CELLS = 10
_MAX_RANK = 100
_POWER_ITERATIONS = 3
_DECAY_QUANTILE = 0.95
_CHUNK = 4096  # cells whose operators are formed at once
_MAX_COMPARED = 9_000_000  # edges, in a permutation test


@dataclass(frozen=True)
class CellStates:
    """Cells that a network is about.

    Attributes
    ----------
    states, velocity : (cells, latent_dim)
        z, and dz/dt per unit of the user's time.
    times : (cells,)
        In the user's time.
    expression : (cells, genes), optional
        As measured; what the states stand for if None.
    """

    states: NDArray
    velocity: NDArray
    times: NDArray
    expression: NDArray | None = None

    def __getitem__(self, rows: NDArray) -> CellStates:
        expression = None if self.expression is None else self.expression[rows]
        return CellStates(self.states[rows], self.velocity[rows], self.times[rows], expression)


def production_network(
    cells: CellStates,
    subspace: Subspace,
    genes: tuple[str, ...],
    time_scale: TimeScale,
    *,
    decay: Decay = None,
    ridge: float = DEFAULT_RIDGE,
    weights: NDArray | None = None,
    members: int = 0,
    seed: int = 0,
) -> GeneRegulatoryNetwork:
    """Regress the rate at which genes are produced on the expression of all genes.

    A gene is produced at the rate p = dx/dt + k x, since what is measured is production less decay;
    with standardised expression x and C the covariances over the cells,

        G = (C_vx + k C_xx) (λ + C_xx)⁻¹

    The operator of the latent dynamics misleads: cells relax, so that it is near -k, and then
    -k D E has the wrong sign exactly where genes are correlated.

    Parameters
    ----------
    cells : CellStates
        Those that the network is about.
    subspace : Subspace
        Over `genes`.
    genes : tuple of str
        Their names.
    time_scale : TimeScale
        Of the fit, for decay per mean gap.
    decay : float, mapping, "data" or None
        k of all genes per unit of the user's time; half-lives by gene in that unit (genes without
        have the median); for each gene the fastest decay that the velocities show, at least 1 per
        mean gap between snapshots; or 2.4 per mean gap, the measured default.
    ridge : float
        λ, in variances of a gene.
    weights : (cells,), optional
        Of the cells; for instance by their distance from an operating point.
    members : int
        How often the cells are resampled, for the confidence in edges.
    seed : int
        Of resampling and of the decomposition of many genes.
    """
    if require_number("ridge", ridge) <= 0:
        raise InputError("ridge", "a positive number", ridge, "give a weight, such as 0.3")
    x = expression_of(cells, subspace)
    # single precision is enough for the leading components of many genes
    x = np.asarray(x, dtype=np.float64 if min(x.shape) <= _MAX_RANK else np.float32)
    mass = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    mass = mass / mass.sum()
    mean = mass @ x
    scaled = x - mean.astype(x.dtype)
    spread = np.sqrt(np.einsum("c,cg,cg->g", mass.astype(x.dtype), scaled, scaled))
    spread = np.where(spread > 0, spread, 1.0)
    scaled /= spread
    velocity = cells.velocity.astype(np.float64)
    loadings = subspace.loadings / spread[:, None]
    rates = _decay_rates(decay, genes, time_scale, x, velocity, subspace)

    def factors(mass: NDArray) -> Factors:
        return production_factors(scaled, velocity, loadings, rates, ridge, mass, seed)

    rng = np.random.default_rng(seed)
    resampled = [factors(rng.multinomial(len(x), mass) / len(x)) for _ in range(members)]
    settings = {"estimator": "production", "ridge": ridge, "cells": len(x)}
    settings["decay"] = float(np.median(rates))
    return GeneRegulatoryNetwork(genes, *factors(mass), mean, spread, resampled, settings)


def expression_of(cells: CellStates, subspace: Subspace) -> NDArray:
    """Expression (cells, genes) as measured, or what the states stand for.

    Raises
    ------
    InputError
        On too few cells for a network.
    """
    x = subspace.reconstruct(cells.states) if cells.expression is None else cells.expression
    if len(x) < MIN_NETWORK_CELLS:
        raise InputError("cells", f"{MIN_NETWORK_CELLS} or more", len(x), "take more of them")
    return x


def leading_components(x: NDArray, most: int, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """u, s and vᵀ of `x` (cells, genes): all of them, or the `most` leading ones of many."""
    if most >= min(x.shape):
        return np.linalg.svd(x, full_matrices=False)
    from sklearn.utils.extmath import randomized_svd

    return randomized_svd(x, most, n_iter=_POWER_ITERATIONS, random_state=seed)


def production_factors(
    scaled: NDArray,
    velocity: NDArray,
    loadings: NDArray,
    rates: NDArray,
    ridge: float,
    mass: NDArray,
    seed: int,
) -> Factors:
    """G = (C_vx + k C_xx) (λ + C_xx)⁻¹ = left · right, in the components V of expression.

    Parameters
    ----------
    scaled : (cells, genes)
        Expression x of mean 0 and variance 1.
    velocity : (cells, latent_dim)
        dz/dt of the cells.
    loadings : (genes, latent_dim)
        From dz/dt to dx/dt.
    rates : (genes,)
        k.
    ridge : float
        λ.
    mass : (cells,)
        Weights of the cells, of sum 1.
    seed : int
        Of the decomposition of many genes.
    """
    root = np.sqrt(mass).astype(scaled.dtype)[:, None]
    centred = (scaled - mass.astype(scaled.dtype) @ scaled) * root
    moving = (velocity - mass @ velocity) * np.sqrt(mass)[:, None]
    u, s, vt = leading_components(centred, _MAX_RANK, seed)
    variances = s**2
    covariance = (moving.T @ u) * s  # of velocity with the components, (latent_dim, rank)
    left = loadings @ (covariance / (ridge + variances))
    left += rates[:, None] * (vt.T * (variances / (ridge + variances)))
    return left, vt


def _decay_rates(
    decay: Decay,
    genes: tuple[str, ...],
    time_scale: TimeScale,
    x: NDArray,
    velocity: NDArray,
    subspace: Subspace,
) -> NDArray[np.float64]:
    """Decay of every gene, per unit of the user's time."""
    if decay is None:
        return np.full(len(genes), DEFAULT_DECAY / time_scale.unit)
    if isinstance(decay, str):
        if decay != "data":
            raise InputError("decay", "a rate, half-lives, or data", decay, "choose one of those")
        high = np.where(x > np.median(x, axis=0), x, np.inf)
        moving = velocity @ subspace.loadings.T
        fastest = np.quantile(-moving / high, _DECAY_QUANTILE, axis=0)
        return fastest.clip(min=1 / time_scale.unit)  # snapshots do not show slower decay
    if isinstance(decay, Mapping):
        half_lives = np.array([decay.get(gene, np.nan) for gene in genes])
        if np.isnan(half_lives).all() or not (half_lives[~np.isnan(half_lives)] > 0).all():
            raise InputError(
                "half-lives", "positive ones, of some of the genes", "none", "correct the table"
            )
        known = np.where(np.isnan(half_lives), np.nanmedian(half_lives), half_lives)
        return np.log(2) / known
    if require_number("decay", decay) <= 0:
        raise InputError("decay", "a positive rate", decay, "give one per unit of time")
    return np.full(len(genes), float(decay))


def operator_network(
    dynamics: Dynamics,
    cells: CellStates,
    subspace: Subspace,
    genes: tuple[str, ...],
    *,
    part: Part = "learned",
    jacobian: bool = False,
) -> GeneRegulatoryNetwork:
    """The mean operator of the latent dynamics, seen in genes: G = D A E.

    Parameters
    ----------
    dynamics : Dynamics
        Of one data set.
    cells : CellStates
        Those that the network is about.
    subspace, genes, time_scale
        As for :func:`production_network`.
    part : {"learned", "frame", "all"}
        With a Gaussian frame: what the network learned, how the whole cloud stretches (a gauge, not
        regulation), or both.
    jacobian : bool
        ∂ velocity/∂z, through the network too, in place of A.
    """
    total = np.zeros((cells.states.shape[1],) * 2)
    for _, operators in _by_chunk(dynamics, cells, part, jacobian):
        total += operators.sum(axis=0)
    operator = total / len(cells.states)
    x = subspace.reconstruct(cells.states).astype(np.float64)
    spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    left = subspace.loadings.astype(np.float64) @ operator / spread[:, None]
    right = subspace.projection.T.astype(np.float64) * spread
    settings = {"estimator": "jacobian" if jacobian else "operator", "part": part, "cells": len(x)}
    return GeneRegulatoryNetwork(genes, left, right, x.mean(axis=0), spread, record=settings)


def cell_operators(
    dynamics: Dynamics,
    cells: CellStates,
    *,
    part: Part = "learned",
    jacobian: bool = False,
) -> NDArray[np.float64]:
    """The operator of every cell, (cells, latent_dim, latent_dim), per unit of the user's time.

    Parameters are those of :func:`operator_network`.
    """
    dims = cells.states.shape[1]
    every_operator = np.empty((len(cells.states), dims, dims))
    for rows, operators in _by_chunk(dynamics, cells, part, jacobian):
        every_operator[rows] = operators
    return every_operator


def _by_chunk(
    dynamics: Dynamics, cells: CellStates, part: Part, jacobian: bool
) -> Iterator[tuple[NDArray, NDArray]]:
    """Rows, and the operators of these cells per unit of the user's time."""
    dims, find = cells.states.shape[1], _jacobians if jacobian else _operators
    for time in np.unique(cells.times):
        every = np.flatnonzero(cells.times == time)
        for rows in np.array_split(every, -(-len(every) // _CHUNK)):
            model_time = dynamics.time_scale.to_model(float(time))
            operators = find(dynamics.model, cells.states[rows], model_time, part)
            yield rows, operators[:, :dims, :dims] / dynamics.time_scale.unit


@torch.no_grad()
def _operators(model: CellMNNModel, states: NDArray, time: float, part: Part) -> NDArray:
    """A of every cell, (cells, latent_dim, latent_dim), per unit of model time."""
    z = padded(model, states)[None]
    model_time = torch.tensor([time], dtype=z.dtype, device=z.device)
    if not model.config.frame:
        if part == "frame":
            raise InputError("part", "learned or all", part, "the model has no frame")
        return model.linear_ode(z, model_time)[0].operator()[0].cpu().numpy()
    frame, sides = model.frame_state(), []
    later = torch.ones_like(model_time, dtype=torch.bool)
    ode, _ = model.linear_ode(z, model_time, forward=later)
    for forward in (True, False):  # rates jump at observed times: the mean of both sides
        if not forward and model.config.context_cells:  # other networks do not know of sides
            ode, _ = model.linear_ode(z, model_time, forward=~later)
        offset = torch.zeros_like(z) if ode.offset is None else ode.offset
        learned, gauge, _ = frame.instantaneous(ode.operator(), offset, model_time, forward=forward)
        gauge = gauge.expand_as(learned)
        sides.append({"learned": learned, "frame": gauge, "all": learned + gauge}[part])
    return ((sides[0] + sides[1]) / 2)[0].cpu().numpy()


def _jacobians(model: CellMNNModel, states: NDArray, time: float, part: Part) -> NDArray:
    """∂ velocity/∂z of every cell, (cells, latent_dim, latent_dim), per unit of model time."""
    z = padded(model, states)[None].requires_grad_(True)
    model_time = torch.tensor([time], dtype=z.dtype, device=z.device)
    output = model(z, model_time, model_time)
    velocity = {
        "learned": output.learned_velocity,
        "frame": output.velocity - output.learned_velocity,
        "all": output.velocity,
    }[part][0, 0]
    rows = [
        torch.autograd.grad(velocity[:, dim].sum(), z, retain_graph=True)[0][0]
        for dim in range(velocity.shape[-1])
    ]
    return torch.stack(rows, dim=1).detach().cpu().numpy()


def differences(
    cells: CellStates,
    in_first: NDArray[np.bool_],
    subspace: Subspace,
    genes: tuple[str, ...],
    time_scale: TimeScale,
    *,
    samples: NDArray | None = None,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    permutations: int = 200,
    top_k: int = 100,
    decay: Decay = None,
    ridge: float = DEFAULT_RIDGE,
    seed: int = 0,
) -> pd.DataFrame:
    """Edges that differ most between two groups of cells, with a permutation test.

    Parameters
    ----------
    cells : CellStates
        Of both groups, times or types for instance.
    in_first : (cells,) mask
        Those of the first group.
    subspace, genes, time_scale, decay, ridge
        As for :func:`production_network`.
    samples : (cells,), optional
        Donor, animal or culture of each cell: these change groups as a whole, see
        :class:`cellmnn_fm.questions.replicates.Replicates`. Without them cells do, within their
        times where a time has both groups; p then says that these cells differ.
    sources, targets : sequence of str, optional
        All genes by default; at most 3,000 by 3,000 are compared.
    permutations : int
        How often groups are changed at random, at most.
    top_k : int
        How many edges are returned.
    seed : int
        Of the permutations.

    Returns
    -------
    DataFrame
        "source", "target", "first", "second", "difference", "p" (the share of permutations with as
        large a difference of that edge) and "p_adjusted" (with as large a difference of any).
    """
    if min(in_first.sum(), (~in_first).sum()) < MIN_NETWORK_CELLS:
        actual, least = f"{in_first.sum()} and {(~in_first).sum()}", MIN_NETWORK_CELLS
        raise InputError("groups", f"{least} or more cells in both", actual, "compare others")
    position = {gene: index for index, gene in enumerate(genes)}
    if missing := [gene for gene in (*(sources or ()), *(targets or ())) if gene not in position]:
        raise InputError("genes", "genes of the network", listed(missing), "correct them")
    columns = np.array([position[gene] for gene in sources or genes])
    rows = np.array([position[gene] for gene in targets or genes])
    if len(rows) * len(columns) > _MAX_COMPARED:
        actual = f"{len(columns):,} sources by {len(rows):,} targets"
        raise InputError("genes", "3,000 by 3,000 at most", actual, "name sources or targets")

    replicates = Replicates(in_first, cells.times, samples)

    def difference(first: NDArray[np.bool_]) -> tuple[NDArray, NDArray, NDArray]:
        of_groups = []
        for group in (np.flatnonzero(first), np.flatnonzero(~first)):
            network = production_network(
                cells[group], subspace, genes, time_scale, decay=decay, ridge=ridge, seed=seed
            )
            of_groups.append(network.left[rows] @ network.right[:, columns])
        change = of_groups[0] - of_groups[1]
        change[rows[:, None] == columns] = 0.0
        return change, *of_groups

    rng = np.random.default_rng(seed)
    change, first, second = difference(in_first)
    size = np.abs(change)
    edges = np.argsort(-size, axis=None, kind="stable")[:top_k]
    row, column = np.unravel_index(edges, size.shape)
    as_large, any_as_large, arrangements = np.ones(len(row)), np.ones(len(row)), 1
    for exchanged in replicates.relabelled(permutations, rng):
        arrangements += 1
        actual = np.abs(difference(exchanged)[0])
        as_large += actual[row, column] >= size[row, column]
        any_as_large += actual.max() >= size[row, column]
    names = np.array(genes)
    return pd.DataFrame(
        {
            "source": names[columns[column]],
            "target": names[rows[row]],
            "first": first[row, column],
            "second": second[row, column],
            "difference": change[row, column],
            "p": as_large / arrangements,
            "p_adjusted": any_as_large / arrangements,
        }
    )


def kernel(states: NDArray, at: int) -> NDArray[np.float64]:
    """Weights of cells by their distance from one of them, a tenth of them within one width.

    `states` (cells, latent_dim), of which row `at` is that cell.
    """
    distance = np.linalg.norm(states - states[at], axis=1)
    width = max(float(np.quantile(distance, 0.1)), 1e-9)
    return np.exp(-0.5 * (distance / width) ** 2)
