"""Groups that cells end in, and which cells are asked about them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.reading import observed_time
from ..data.subspace import Subspace
from ..dynamics.snapshots import as_shares
from ..fitted.fitted_model import Cells
from ..model.errors import InputError, listed, require_number

MIN_GROUP_CELLS = 5  # of a terminal group


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

    def resampled(
        self, states: NDArray, labels: NDArray, count: int, rng: np.random.Generator
    ) -> list[TerminalGroups]:
        """The same groups told apart on cells that are drawn with replacement, of each as many.

        Of `states` (cells, latent_dim) with `labels` (cells,).
        """
        groups = [np.flatnonzero(labels == name) for name in self.names]
        drawn = [
            np.concatenate([rng.choice(rows, len(rows)) for rows in groups]) for _ in range(count)
        ]
        return [TerminalGroups.fit(states[rows], labels[rows].tolist()) for rows in drawn]

    @classmethod
    def fit(cls, states: NDArray, labels: Sequence[str]) -> TerminalGroups:
        """Tell labelled cells (cells, latent_dim) apart.

        `states` (cells, latent_dim), with a label each.

        Raises
        ------
        InputError
            With less than two groups of 5 cells.
        """
        from sklearn.linear_model import LogisticRegression

        names_of_cells = np.asarray(labels, dtype=str)
        names, counts = np.unique(names_of_cells, return_counts=True)
        kept = names[counts >= MIN_GROUP_CELLS]
        if len(kept) < 2:
            sizes = listed(f"{name}: {n}" for name, n in zip(names, counts, strict=True))
            raise InputError(
                "terminal groups",
                f"2 or more of {MIN_GROUP_CELLS} or more cells",
                sizes,
                "merge some",
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
    from sklearn.cluster import KMeans

    if not 2 <= count <= len(states) // MIN_GROUP_CELLS:
        most = len(states) // MIN_GROUP_CELLS
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
    last : (last cells,)
        Rows of the cells that the groups were learned from.
    labels : (last cells,)
        Their groups.
    """

    cells: Cells
    rows: NDArray[np.int64]
    groups: TerminalGroups
    end: float
    last: NDArray[np.int64]
    labels: NDArray

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
    return FateQuestion(cells, rows, terminal, end, np.flatnonzero(last), np.array(labels))
