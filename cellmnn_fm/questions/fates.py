"""Where cells end up, and which genes decide it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..data.reading import observed_time
from ..data.subspace import Subspace
from ..dynamics.rollout import path
from ..dynamics.snapshots import Dynamics, as_shares, padded
from ..fitted.fitted_model import Cells
from ..model.errors import InputError, listed, require_count, require_number

STEPS_TO_END = 4  # between two stops, see `roll_out`

_MIN_CELLS = 5  # of a terminal group
_CHUNK = 4_096  # cells followed at once, with all that their gradients need


@dataclass(frozen=True)
class FateTable:
    """Where cells end up.

    Attributes
    ----------
    probabilities : DataFrame
        A row for each cell, a column for each terminal group.
    drivers : DataFrame
        A row for each gene: the mean change of each group's probability when the gene is one
        standard deviation higher, to first order.
    accuracy : float
        Of telling the terminal groups apart, on the cells that they were learned from.
    descendants : Series
        How many each cell has at the end, relative to the mean of the cells of its time; 1 in a
        model without growth.
    rows : (cells,)
        Which of the cells of the file these are.
    """

    probabilities: pd.DataFrame
    drivers: pd.DataFrame
    accuracy: float
    descendants: pd.Series
    rows: NDArray[np.int64]

    @property
    def shares(self) -> pd.Series:
        """Of the descendants at the end, those in each group."""
        weighted = self.probabilities.mul(self.descendants, axis=0)
        return weighted.sum() / self.descendants.sum()


@dataclass(frozen=True)
class TerminalGroups:
    """Groups of cells at the end, told apart by their latent states.

    A multinomial logistic regression, ``P_k(z) = softmax(W z + c)_k``.

    Attributes
    ----------
    names : tuple of str
        Of the groups.
    weights, intercept : (groups, latent_dim) and (groups,)
        W and c.
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

        `states` (cells, latent_dim), with a label each.

        Raises
        ------
        InputError
            With less than two groups of 5 cells.
        """
        names_of_cells = np.asarray(labels, dtype=str)
        names, counts = np.unique(names_of_cells, return_counts=True)
        kept = names[counts >= _MIN_CELLS]
        if len(kept) < 2:
            sizes = listed(f"{name}: {n}" for name, n in zip(names, counts, strict=True))
            raise InputError(
                "terminal groups", f"2 or more of {_MIN_CELLS} or more cells", sizes, "merge some"
            )
        rows = np.isin(names_of_cells, kept)
        spread = states[rows].std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        model = LogisticRegression(max_iter=2000).fit(states[rows] / spread, names_of_cells[rows])
        weights, intercept = model.coef_ / spread, model.intercept_
        if len(kept) == 2:  # scikit-learn gives the odds of the second
            weights, intercept = (
                np.vstack([-weights, weights]) / 2,
                np.r_[-intercept, intercept] / 2,
            )
        accuracy = float(model.score(states[rows] / spread, names_of_cells[rows]))
        return cls(tuple(map(str, model.classes_)), weights, intercept, accuracy)

    def probabilities(self, z: Tensor) -> Tensor:
        """P of every group, (..., groups), for latent states (..., latent_dim).

        `z` (..., latent_dim).
        """
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
        Latent states of the cells.
    subspace : Subspace
        Over `genes`; cells are as far apart as their expression is.
    genes : sequence of str
        Their names.
    count : int
        How many clusters.
    seed : int
        Of k-means.

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
    cluster_of_cell = KMeans(count, n_init=10, random_state=seed).fit_predict(states @ triangle.T)
    # expression is linear in the states: means of clusters need no matrix of cells and genes
    spread = np.maximum(subspace.spread(states), 1e-9)
    order = np.argsort(-np.bincount(cluster_of_cell, minlength=count), kind="stable")
    names = np.empty(count, dtype=object)
    for rank, cluster in enumerate(order):
        away = states[cluster_of_cell == cluster].mean(axis=0) - states.mean(axis=0)
        marks = np.argsort(-(subspace.loadings @ away) / spread, kind="stable")[:2]
        names[cluster] = f"{rank + 1}: {' '.join(genes[gene] for gene in marks)}"
    return names[cluster_of_cell].tolist()


@dataclass(frozen=True)
class Fates:
    """Where cells end up.

    Attributes
    ----------
    probabilities : (cells, groups)
        P of each group at the end.
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
    dynamics: Dynamics,
    states: NDArray,
    times: NDArray,
    groups: TerminalGroups,
    end: float,
    *,
    n_steps: int = STEPS_TO_END,
) -> Fates:
    """Follow cells to the end, and say which group they are in then.

    Parameters
    ----------
    dynamics : Dynamics
        Of one data set.
    states : (cells, latent_dim)
        Latent states of the cells.
    times : (cells,)
        When they were taken, in the user's time; none after `end`.
    groups : TerminalGroups
        Told apart by their states.
    end : float
        When the groups are looked at.
    n_steps : int
        Between two stops.
    """
    count, dims = states.shape
    probabilities = np.empty((count, len(groups.names)))
    gradient = np.empty((*probabilities.shape, dims))
    final = np.empty((count, dims), dtype=np.float32)
    log_growth = np.empty(count, dtype=np.float32)
    stopped = np.empty(count, dtype=bool)
    for rows, to_end in paths_to(dynamics, times, end, n_steps):
        z = padded(dynamics.model, states[rows]).requires_grad_(True)
        last, grown, out = to_end(z)
        shares = groups.probabilities(last)
        for group in range(shares.shape[1]):
            slope = torch.autograd.grad(shares[:, group].sum(), z, retain_graph=True)[0]
            gradient[rows, group] = slope[:, :dims].cpu().numpy()
        probabilities[rows] = shares.detach().cpu().numpy()
        final[rows] = last[:, :dims].detach().cpu().numpy()
        log_growth[rows] = grown.detach().cpu().numpy()
        stopped[rows] = out.cpu().numpy()
    return Fates(probabilities, gradient, final, log_growth, stopped)


def paths_to(
    dynamics: Dynamics, times: NDArray, end: float, n_steps: int
) -> Iterator[tuple[NDArray[np.int64], Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]]:
    """Rows of cells of the same time, and what becomes of them until the end, as a function.

    States, log growth, and whether they were stopped.

    Cells were taken at `times` (cells,).
    """
    if (times > end).any():
        raise InputError("cells", f"none after time {end:g}", f"{times.max():g}", "leave them out")
    wanted = np.array([dynamics.time_scale.to_model(end)])
    for time in np.unique(times):
        start = dynamics.time_scale.to_model(float(time))
        every = np.flatnonzero(times == time)
        for rows in np.array_split(every, -(-len(every) // _CHUNK)):

            def to_end(z: Tensor, start: float = start) -> tuple[Tensor, Tensor, Tensor]:
                followed = path(dynamics.model, z, start, wanted, n_steps)
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
        Of cells that were followed.
    groups : TerminalGroups
        Told apart by their states.
    subspace : Subspace
        Over `genes`.
    genes : sequence of str
        Their names.
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


@dataclass(frozen=True)
class FateQuestion:
    """Which cells are followed, and the groups that they may end in.

    Attributes
    ----------
    cells : Cells
        All of a file.
    rows : (followed,)
        Those that are followed.
    groups : TerminalGroups
        Told apart by their states.
    end : float
        When the groups count.
    """

    cells: Cells
    rows: NDArray[np.int64]
    groups: TerminalGroups
    end: float

    @property
    def states(self) -> NDArray[np.float32]:
        """Of the cells that are followed, (followed, latent_dim)."""
        return self.cells.states[self.rows]

    @property
    def times(self) -> NDArray[np.float64]:
        """Of the cells that are followed, (followed,)."""
        return self.cells.times[self.rows]

    def only(self, kept: NDArray[np.bool_]) -> FateQuestion:
        """Without the cells that run away, which are not in the mask (followed,); with a warning.

        The mask is `kept` (followed,).

        Raises
        ------
        InputError
            If none is left.
        """
        if kept.all():
            return self
        lost = int((~kept).sum())
        if lost == len(kept):
            raise InputError("cells", "some that can be followed", "none", "fit in a frame")
        warnings.warn(
            f"{lost} of {len(kept)} cells run away in this model, and are left out",
            stacklevel=3,
        )
        return replace(self, rows=self.rows[kept])

    def relative(self, log_growth: NDArray) -> NDArray[np.float64]:
        """Descendants of the cells that are followed, relative to the mean of their time.

        Both (followed,); from the log of their numbers.

        `log_growth` (followed,).
        """
        descendants = np.empty(len(log_growth))
        for time in np.unique(self.times):
            same = self.times == time
            descendants[same] = as_shares(log_growth[same]) * same.sum()
        return descendants


def fate_question(
    cells: Cells, groups: str | int, start: float | None, end: float | None
) -> FateQuestion:
    """Find the cells that are followed and the groups at the end, see :func:`fates`.

    Raises
    ------
    InputError
        On a column or time that is not there, and with less than two groups of 5 cells at the end.
    """
    fitted, times, obs = cells.fitted, cells.times, cells.adata.obs
    if isinstance(groups, str) and groups not in obs:
        actual = f"{groups}; columns {listed(obs)}"
        raise InputError("groups", "a column of obs, or how many clusters", actual, "name one")
    end = float(
        times.max() if end is None else observed_time(require_number("end", end), times, "end")
    )
    last = times == end
    if isinstance(groups, int):
        labels = clusters(cells.states[last], fitted.subspace, fitted.panel.names, groups)
    else:
        last &= obs[groups].notna().to_numpy()
        labels = obs[groups][last].astype(str).tolist()
    terminal = TerminalGroups.fit(cells.states[last], labels)
    if start is not None:
        start = observed_time(require_number("start", start), times, "start")
    rows = np.flatnonzero(times <= end if start is None else times == start)
    return FateQuestion(cells, rows, terminal, end)


def fates(
    cells: Cells,
    groups: str | int,
    *,
    start: float | None = None,
    end: float | None = None,
    n_steps: int = STEPS_TO_END,
) -> FateTable:
    """Follow cells to the end, and say in which group they are then.

    Parameters
    ----------
    cells : Cells
        Observed, as a fitted model reads them.
    groups, start, end, n_steps
        See :meth:`CellMNNPipeline.fates`.

    Raises
    ------
    InputError
        On a column that is not there, and with less than two groups of 5 cells at the end.
    """
    require_count("n_steps", n_steps)
    fitted, asked = cells.fitted, fate_question(cells, groups, start, end)
    ends = cell_fates(
        fitted.dynamics, asked.states, asked.times, asked.groups, asked.end, n_steps=n_steps
    )
    kept = ends.followed
    asked, ends = asked.only(kept), Fates(*(part[kept] for part in vars(ends).values()))
    spread = fitted.subspace.spread(asked.states)
    drivers = driver_genes(ends, asked.groups, fitted.subspace, fitted.panel.names, spread)
    index = cells.adata.obs_names[asked.rows]
    return FateTable(
        probabilities=pd.DataFrame(
            ends.probabilities, index=index, columns=list(asked.groups.names)
        ),
        drivers=drivers,
        accuracy=asked.groups.accuracy,
        descendants=pd.Series(asked.relative(ends.log_growth), index=index, name="descendants"),
        rows=asked.rows,
    )
