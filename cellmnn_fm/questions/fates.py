"""Where cells end up, which genes decide it, and what changes when genes are set by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..data.subspace import Subspace
from ..data.time_course import TimeScale
from ..dynamics.rollout import path
from ..dynamics.snapshots import padded
from ..model.errors import InputError, listed
from ..model.modeling_cellmnn import CellMNNModel

DEFAULT_STEPS = 4  # between two stops, see `roll_out`

_MIN_CELLS = 5  # of a terminal group
_DRAWS = 200
_CHUNK = 4_096  # cells followed at once, with all that their gradients need


@dataclass(frozen=True)
class TerminalGroups:
    """Groups of cells at the end, told apart by their latent states.

    A multinomial logistic regression, ``P_k(z) = softmax(W z + c)_k``.

    Attributes
    ----------
    names : tuple of str
    weights, intercept : (groups, latent_dim) and (groups,)
    accuracy : float
        Of the cells that it was fitted to.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    accuracy: float

    @classmethod
    def fit(cls, states: NDArray, labels: Sequence[str]) -> TerminalGroups:
        """Tell labelled cells (cells, latent_dim) apart.

        Raises
        ------
        InputError
            With less than two groups of 5 cells.
        """
        found = np.asarray(labels, dtype=str)
        names, counts = np.unique(found, return_counts=True)
        kept = names[counts >= _MIN_CELLS]
        if len(kept) < 2:
            sizes = listed(f"{name}: {n}" for name, n in zip(names, counts, strict=True))
            raise InputError(
                "terminal groups", f"2 or more of {_MIN_CELLS} or more cells", sizes, "merge some"
            )
        rows = np.isin(found, kept)
        spread = states[rows].std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        model = LogisticRegression(max_iter=2000).fit(states[rows] / spread, found[rows])
        weights, intercept = model.coef_ / spread, model.intercept_
        if len(kept) == 2:  # scikit-learn gives the odds of the second
            weights, intercept = (
                np.vstack([-weights, weights]) / 2,
                np.r_[-intercept, intercept] / 2,
            )
        accuracy = float(model.score(states[rows] / spread, found[rows]))
        return cls(tuple(map(str, model.classes_)), weights, intercept, accuracy)

    def probabilities(self, z: Tensor) -> Tensor:
        """P of every group, (..., groups), for latent states (..., latent_dim)."""
        dims = self.weights.shape[1]
        weights, intercept = (
            torch.as_tensor(part, dtype=z.dtype, device=z.device)
            for part in (self.weights, self.intercept)
        )
        return torch.softmax(z[..., :dims] @ weights.T + intercept, dim=-1)


def clusters(
    states: NDArray, subspace: Subspace, genes: Sequence[str], count: int, seed: int = 0
) -> list[str]:
    """k-means clusters of cells at the end, each named by the genes that mark it.

    Parameters
    ----------
    states : (cells, latent_dim)
    subspace : Subspace
        Over `genes`; cells are as far apart as their expression is.
    genes : sequence of str
    count : int
        How many clusters.
    seed : int

    Returns
    -------
    list of str
        For each cell, such as "1: HAND1 GATA4": the cluster, largest first, and the two genes that
        are highest in it over their mean, in standard deviations.

    Raises
    ------
    InputError
        Unless there are 2 or more clusters, of 5 or more cells on the mean.
    """
    if not 2 <= count <= len(states) // _MIN_CELLS:
        most = len(states) // _MIN_CELLS
        raise InputError("groups", f"2 to {most} clusters of the last cells", count, "change it")
    # distances of expression are those of Rz where D = QR
    _, triangle = np.linalg.qr(subspace.loadings.astype(np.float64))
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(states @ triangle.T)
    # expression is linear in the states: means of clusters need no matrix of cells and genes
    spread = np.maximum(subspace.spread(states), 1e-9)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    names = np.empty(count, dtype=object)
    for rank, cluster in enumerate(order):
        away = states[found == cluster].mean(axis=0) - states.mean(axis=0)
        marks = np.argsort(-(subspace.loadings @ away) / spread, kind="stable")[:2]
        names[cluster] = f"{rank + 1}: {' '.join(genes[gene] for gene in marks)}"
    return names[found].tolist()


@dataclass(frozen=True)
class Fates:
    """Where cells end up.

    Attributes
    ----------
    probabilities : (cells, groups)
    gradient : (cells, groups, latent_dim)
        ∂ P/∂z of the cells where they are now.
    final : (cells, latent_dim)
        Their states at the end.
    log_growth : (cells,)
        Log of how many descendants each has at the end, up to a constant for each time; 0 in a
        model without growth.
    stopped : (cells,) bool
        Those that would leave what the snapshots show.
    """

    probabilities: NDArray[np.float64]
    gradient: NDArray[np.float64]
    final: NDArray[np.float32]
    log_growth: NDArray[np.float32]
    stopped: NDArray[np.bool_]

    @property
    def followed(self) -> NDArray[np.bool_]:
        """Cells (cells,) that do not run away to where no model knows anything."""
        return ~self.stopped & np.isfinite(self.gradient).all(axis=(1, 2))


def cell_fates(
    model: CellMNNModel,
    states: NDArray,
    times: NDArray,
    groups: TerminalGroups,
    end: float,
    time_scale: TimeScale,
    *,
    n_steps: int = DEFAULT_STEPS,
) -> Fates:
    """Follow cells to the end, and say which group they are in then.

    Parameters
    ----------
    model : CellMNNModel
        Of one data set.
    states : (cells, latent_dim)
    times : (cells,)
        When they were taken, in the user's time; none after `end`.
    groups : TerminalGroups
    end : float
        When the groups are looked at.
    time_scale : TimeScale
    n_steps : int
        Between two stops.
    """
    count, dims = states.shape
    probabilities = np.empty((count, len(groups.names)))
    gradient = np.empty((*probabilities.shape, dims))
    final = np.empty((count, dims), dtype=np.float32)
    log_growth = np.empty(count, dtype=np.float32)
    stopped = np.empty(count, dtype=bool)
    for rows, to_end in _paths(model, times, end, time_scale, n_steps):
        z = padded(model, states[rows]).requires_grad_(True)
        last, grown, out = to_end(z)
        found = groups.probabilities(last)
        for group in range(found.shape[1]):
            slope = torch.autograd.grad(found[:, group].sum(), z, retain_graph=True)[0]
            gradient[rows, group] = slope[:, :dims].cpu().numpy()
        probabilities[rows] = found.detach().cpu().numpy()
        final[rows] = last[:, :dims].detach().cpu().numpy()
        log_growth[rows] = grown.detach().cpu().numpy()
        stopped[rows] = out.cpu().numpy()
    return Fates(probabilities, gradient, final, log_growth, stopped)


def _paths(
    model: CellMNNModel, times: NDArray, end: float, time_scale: TimeScale, n_steps: int
) -> Iterator[tuple[NDArray[np.int64], Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]]:
    """Rows of cells of the same time, and what becomes of them until the end, as a function.

    States, log growth, and whether they were stopped.
    """
    if (times > end).any():
        raise InputError("cells", f"none after time {end:g}", f"{times.max():g}", "leave them out")
    wanted = np.array([time_scale.to_model(end)])
    for time in np.unique(times):
        start = time_scale.to_model(float(time))
        every = np.flatnonzero(times == time)
        for rows in np.array_split(every, -(-len(every) // _CHUNK)):

            def to_end(z: Tensor, start: float = start) -> tuple[Tensor, Tensor, Tensor]:
                followed = path(model, z, start, wanted, n_steps)
                return followed.states[0], followed.log_growth[0], followed.stopped[0]

            yield rows, to_end


def driver_genes(
    fates: Fates,
    groups: TerminalGroups,
    subspace: Subspace,
    genes: Sequence[str],
    spread: NDArray,
) -> pd.DataFrame:
    """Genes by how much they push cells towards each group.

    Parameters
    ----------
    fates : Fates
    groups : TerminalGroups
    subspace : Subspace
        Over `genes`.
    genes : sequence of str
    spread : (genes,)
        Standard deviation of their expression.

    Returns
    -------
    DataFrame
        For each gene (index) and group (column) the mean change of the probability when the gene
        is one standard deviation higher, to first order; an association, not shown to be a cause.
    """
    slope = fates.gradient.mean(axis=0)  # (groups, latent_dim)
    effect = subspace.projection @ slope.T * spread[:, None]
    return pd.DataFrame(effect, index=list(genes), columns=list(groups.names))


class LinearResponse(NamedTuple):
    """What becomes of cells until the end, and of small moves of them."""

    final: NDArray[np.float32]  # (cells, latent_dim)
    moved: NDArray[np.float32]  # (cells, latent_dim)
    log_growth: NDArray[np.float32]  # (cells,)
    log_growth_moved: NDArray[np.float32]  # (cells,)
    stopped: NDArray[np.bool_]  # (cells,)

    @property
    def followed(self) -> NDArray[np.bool_]:
        """As in :class:`Fates`."""
        return ~self.stopped & np.isfinite(self.moved).all(axis=1)


def linear_response(
    model: CellMNNModel,
    states: NDArray,
    moves: NDArray,
    times: NDArray,
    end: float,
    time_scale: TimeScale,
    *,
    n_steps: int = DEFAULT_STEPS,
) -> LinearResponse:
    """Where cells are at the end, and how far they are moved then if they are moved now.

    To first order: the model is asked where cells were observed, since far from them it knows
    nothing.

    Parameters
    ----------
    model, states, times, end, time_scale, n_steps
        As for :func:`cell_fates`.
    moves : (cells, latent_dim)
    """
    dims = states.shape[1]
    count = len(states)
    found = LinearResponse(
        final=np.empty(states.shape, dtype=np.float32),
        moved=np.empty(states.shape, dtype=np.float32),
        log_growth=np.empty(count, dtype=np.float32),
        log_growth_moved=np.empty(count, dtype=np.float32),
        stopped=np.empty(count, dtype=bool),
    )
    for rows, to_end in _paths(model, times, end, time_scale, n_steps):
        z, move = (padded(model, part[rows]) for part in (states, moves))

        def moving(z: Tensor, to_end: Any = to_end) -> tuple[tuple[Tensor, Tensor], Tensor]:
            states, log_growth, stopped = to_end(z)
            return (states, log_growth), stopped

        both: Any = torch.func.jvp(moving, (z,), (move,), has_aux=True)
        (final, grown), (moved, grown_more), out = both
        parts = (final[:, :dims], moved[:, :dims], grown, grown_more, out)
        for whole, part in zip(found, parts, strict=True):
            whole[rows] = part.detach().cpu().numpy()
    return found


@dataclass(frozen=True)
class Perturbation:
    """What changes when genes are set to values: a prediction, to be tested in cells.

    Attributes
    ----------
    fates : DataFrame
        By group: mean probability "before" and "after", the "shift", and its 95 % interval over
        resampled cells ("low", "high"). With growth, cells count as their descendants at the end.
    genes : DataFrame
        By gene the same for mean expression at the end; the largest shifts first.
    inferred : list of str
        Genes that the subspace does not have: how they move the latent states is a regression.
    """

    fates: pd.DataFrame
    genes: pd.DataFrame
    inferred: list[str]


def compared(
    before: NDArray,
    after: NDArray,
    names: Sequence[str],
    seed: int = 0,
    weights: tuple[NDArray, NDArray] | None = None,
) -> pd.DataFrame:
    """Means of columns before and after, their shift, and its 95 % interval over cells.

    `weights` of the cells (cells,) are two, since they may change too.
    """
    cells = len(before)
    both = weights or (np.ones(cells), np.ones(cells))

    def means(counts: NDArray) -> tuple[NDArray, NDArray]:
        first, second = (
            (counts * weight) @ values / (counts @ weight)[:, None]
            for weight, values in zip(both, (before, after), strict=True)
        )
        return first, second

    rng = np.random.default_rng(seed)
    resampled = means(rng.multinomial(cells, np.full(cells, 1 / cells), size=_DRAWS))
    low, high = np.quantile(resampled[1] - resampled[0], [0.025, 0.975], axis=0)
    first, second = (part[0] for part in means(np.ones((1, cells))))
    return pd.DataFrame(
        {
            "before": first,
            "after": second,
            "shift": second - first,
            "low": low,
            "high": high,
        },
        index=list(names),
    )
