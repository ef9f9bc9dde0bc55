"""Where cells end up, and which genes decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..data.introduced import Introduced
from ..data.options import NOISE
from ..data.subspace import Subspace
from ..dynamics.diffusion import STEPS, Diffusion, require_paths
from ..dynamics.rollout import path
from ..dynamics.snapshots import Dynamics, padded
from ..fitted.fitted_model import Cells
from ..model.errors import InputError, require_count, require_seed
from .terminal_groups import TerminalGroups, fate_question

if TYPE_CHECKING:
    from anndata import AnnData

STEPS_TO_END = 4  # between two stops, see `roll_out`

_SURE = 0.9
_CHUNK = 4_096  # cells followed at once, with all that their gradients need
_MOST_SLOPES = 2_000  # cells that tell which genes drive fates
_PATHS = 16_384  # followed between two steps of a progress bar
_RESAMPLED = 100  # cells at the end, for the doubt about their groups


@dataclass(frozen=True)
class FateTable(Introduced):
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
    low, high : DataFrame, optional
        Of cells that were followed along many paths: where each probability is with other paths
        and other cells at the end (90 %).
    """

    probabilities: pd.DataFrame
    drivers: pd.DataFrame
    accuracy: float
    descendants: pd.Series
    rows: NDArray[np.int64]
    low: pd.DataFrame | None = None
    high: pd.DataFrame | None = None

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        sure = (self.probabilities.max(axis=1) > _SURE).mean()
        doubt = "along one path each" if self.low is None else "along many paths, with low and high"
        return (
            f"FateTable of {len(self.probabilities):,} cells, {doubt}: {shares}\n"
            f"{sure:.0%} have P > {_SURE:g} for one of them; probabilities, drivers, descendants"
        )

    @property
    def with_intervals(self) -> pd.DataFrame:
        """The probabilities, and "GROUP low" and "GROUP high" beside them, where there are any."""
        if self.low is None or self.high is None:
            return self.probabilities
        ends = [self.low.add_suffix(" low"), self.high.add_suffix(" high")]
        return self.probabilities.join(ends)

    def add_to(self, adata: AnnData, key_added: str = "cellmnn_fates") -> None:
        """Write the fates into AnnData, as other packages look for them.

        `obsm[key_added]`: a column for each fate, NaN for cells that were not followed;
        `obs[key_added]`: the likeliest one; `varm[f"{key_added}_drivers"]`: a column for each,
        where the genes are those of the file.

        Parameters
        ----------
        adata : AnnData
            The file that was asked about, or its copy from `CellMNNPipeline.annotate`.
        key_added : str
            Where to.

        Raises
        ------
        InputError
            If these are other cells.
        """
        names = adata.obs_names
        if self.rows.max() >= len(names) or not names[self.rows].equals(self.probabilities.index):
            raise InputError("adata", "the cells of these fates", "others", "give the same file")
        groups = self.probabilities.columns
        values = np.full((len(names), len(groups)), np.nan)
        values[self.rows] = self.probabilities
        likeliest = np.full(len(names), -1)
        likeliest[self.rows] = values[self.rows].argmax(axis=1)
        adata.obsm[key_added] = pd.DataFrame(values, names, groups)
        adata.obs[key_added] = pd.Categorical.from_codes(likeliest, groups)
        if self.drivers.index.isin(adata.var_names).any():
            adata.varm[f"{key_added}_drivers"] = self.drivers.reindex(adata.var_names)

    @property
    def shares(self) -> pd.Series:
        """Of the descendants at the end, those in each group."""
        weighted = self.probabilities.mul(self.descendants, axis=0)
        return weighted.sum() / self.descendants.sum()

    def _table(self) -> pd.DataFrame:
        """Of the cells."""
        return self.with_intervals


@dataclass(frozen=True)
class Fates:
    """Where cells end up.

    Attributes
    ----------
    probabilities : (cells, groups)
        P of each group at the end.
    slope : (groups, latent_dim)
        ∂ P/∂z of cells where they are now, on the mean of at most 2,000 that are followed.
    final : (cells, latent_dim)
        Their states at the end.
    log_growth : (cells,)
        Log of how many descendants each has at the end, up to a constant for each time; 0 in a
        model without growth.
    followed : (cells,) bool
        Those that do not run away to where no model knows anything.
    """

    probabilities: NDArray[np.float64]
    slope: NDArray[np.float64]
    final: NDArray[np.float32]
    log_growth: NDArray[np.float32]
    followed: NDArray[np.bool_]


def cell_fates(
    dynamics: Dynamics,
    states: NDArray,
    times: NDArray,
    groups: TerminalGroups,
    end: float,
    *,
    n_steps: int = STEPS_TO_END,
    progress: bool = False,
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
    progress : bool
        Whether to show a progress bar.
    """
    count, dims = states.shape
    probabilities = np.empty((count, len(groups.names)))
    slopes, steep = np.zeros((len(groups.names), dims)), 0
    final = np.empty((count, dims), dtype=np.float32)
    log_growth = np.empty(count, dtype=np.float32)
    followed = np.empty(count, dtype=bool)
    # slopes take most of the time, and a mean needs no more cells
    with_slopes = np.random.default_rng(0).permutation(count) < _MOST_SLOPES
    parts = [
        (of_kind, to_end, kind)
        for rows, to_end in paths_to(dynamics, times, end, n_steps)
        for kind in (True, False)
        if len(of_kind := rows[with_slopes[rows] == kind])
    ]
    for rows, to_end, sloped in track(
        parts, "fates", console=Console(stderr=True), disable=not progress, transient=True
    ):
        with torch.set_grad_enabled(sloped):
            z = padded(dynamics.model, states[rows]).requires_grad_(sloped)
            last, grown, out = to_end(z)
            shares = groups.probabilities(last)
        probabilities[rows] = shares.detach().cpu().numpy()
        final[rows] = last[:, :dims].detach().cpu().numpy()
        log_growth[rows] = grown.detach().cpu().numpy()
        followed[rows] = ~out.cpu().numpy() & np.isfinite(probabilities[rows]).all(axis=1)
        if sloped:
            slopes_but_one = [
                torch.autograd.grad(share.sum(), z, retain_graph=True)[0][:, :dims].cpu()
                for share in shares.T[:-1]
            ]
            # probabilities sum to 1, and their slopes to 0
            slopes_of_all = [*slopes_but_one, -sum(slopes_but_one, torch.zeros(len(rows), dims))]
            each = torch.stack(slopes_of_all, dim=1).numpy()
            followed[rows] &= np.isfinite(each).all(axis=(1, 2))
            slopes += each[followed[rows]].sum(axis=0, dtype=np.float64)
            steep += int(followed[rows].sum())
    return Fates(probabilities, slopes / max(steep, 1), final, log_growth, followed)


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
    effect = subspace.projection @ fates.slope.T * spread[:, None]
    return pd.DataFrame(effect, index=list(genes), columns=list(groups.names))


def fates(
    cells: Cells,
    groups: str | int,
    *,
    start: float | None = None,
    end: float | None = None,
    n_steps: int | None = None,
    n_paths: int | None = None,
    noise: float = NOISE,
    seed: int = 0,
    progress: bool = False,
) -> FateTable:
    """Follow cells to the end, and say in which group they are then.

    Parameters
    ----------
    cells : Cells
        Observed, as a fitted model reads them.
    groups, start, end, n_steps, n_paths, noise, seed, progress
        See :meth:`CellMNNPipeline.fates`.

    Raises
    ------
    InputError
        On a column that is not there, and with less than two groups of 5 cells at the end.
    """
    require_seed(seed)
    if n_steps is not None:
        require_count("n_steps", n_steps)
    require_paths(n_paths, noise)
    fitted, asked = cells.fitted, fate_question(cells, groups, start, end)
    to_end = (asked.times, asked.groups, asked.end)
    steps = n_steps or STEPS_TO_END
    ends = cell_fates(fitted.dynamics, asked.states, *to_end, n_steps=steps, progress=progress)
    asked = asked.only(ends.followed)
    spread = fitted.subspace.spread(asked.states)
    drivers = driver_genes(ends, asked.groups, fitted.subspace, fitted.panel.names, spread)
    index, names = cells.adata.obs_names[asked.rows], list(asked.groups.names)
    tables: dict[str, NDArray] = {"probabilities": ends.probabilities[ends.followed]}
    log_growth = ends.log_growth[ends.followed].astype(np.float64)
    if n_paths is not None:
        diffusion = Diffusion.of(fitted.dynamics, cells.course, noise, seed)
        others = asked.groups.resampled(
            cells.states[asked.last], asked.labels, _RESAMPLED, np.random.default_rng(seed)
        )
        followed = (asked.states, asked.times, asked.end, asked.groups)
        how: dict[str, Any] = {"n_paths": n_paths, "n_steps": n_steps or STEPS}
        how["progress"] = progress
        parts, log_growth = fates_of_paths(diffusion, *followed, others=others, **how)
        tables |= parts
    return FateTable(
        drivers=drivers,
        accuracy=asked.groups.accuracy,
        descendants=pd.Series(asked.relative(log_growth), index=index, name="descendants"),
        rows=asked.rows,
        **{name: pd.DataFrame(part, index, names) for name, part in tables.items()},
    )


def fates_of_paths(
    diffusion: Diffusion,
    states: NDArray,
    times: NDArray,
    end: float,
    groups: TerminalGroups,
    *,
    others: Sequence[TerminalGroups] = (),
    n_paths: int,
    n_steps: int = STEPS,
    progress: bool = False,
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Fates as shares of the descendants along many paths.

    Parameters
    ----------
    diffusion : Diffusion
        Of one data set.
    states : (cells, latent_dim)
        Latent states of the cells.
    times : (cells,)
        When they were taken, in the user's time; none after `end`.
    end : float
        When the groups are looked at.
    groups : TerminalGroups
        Told apart by their states.
    others : sequence of TerminalGroups
        The same, of other cells at the end: how far that is in doubt.
    n_paths, n_steps : int
        For each cell, and between two stops.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    parts : dict of (cells, groups)
        "probabilities"; and with `others` "low" and "high" of 90 %, where paths are drawn again
        too.
    log_growth : (cells,)
        Log of the mean number of descendants of each cell.
    """
    rng = np.random.default_rng(diffusion.seed)
    parts = {"probabilities": np.empty((len(states), len(groups.names)))}
    if others:
        parts |= {name: np.empty_like(parts["probabilities"]) for name in ("low", "high")}
    log_growth = np.empty(len(states))
    chunks = [
        rows
        for of_time in (np.flatnonzero(times == time) for time in np.unique(times))
        for rows in np.array_split(of_time, -(-len(of_time) * n_paths // _PATHS))
    ]
    bar = track(chunks, "paths", console=Console(stderr=True), disable=not progress)
    for part, rows in enumerate(bar):
        paths = diffusion.roll_out(
            states[rows],
            float(times[rows[0]]),
            np.array([end]),
            n_paths=n_paths,
            n_steps=n_steps,
            part=part,
        )
        shape = (len(rows), n_paths)
        # of paths that leave what snapshots show nobody knows where they end
        out = paths.stopped[0].reshape(shape)
        mass = np.exp(paths.log_growth[0].reshape(shape).astype(np.float64))
        mass = np.where(out & ~out.all(axis=1, keepdims=True), 0.0, mass)
        log_growth[rows] = np.log(mass.sum(axis=1) / (mass > 0).sum(axis=1))
        last = torch.from_numpy(paths.states[0].astype(np.float64)).unflatten(0, shape)
        parts["probabilities"][rows] = _shares(mass, groups, last)
        if others:
            drawn = []
            for other in others:
                times_drawn = rng.multinomial(n_paths, np.full(n_paths, 1 / n_paths), len(rows))
                again = mass * times_drawn
                drawn.append(
                    _shares(np.where(again.any(axis=1, keepdims=True), again, mass), other, last)
                )
            parts["low"][rows], parts["high"][rows] = np.quantile(drawn, [0.05, 0.95], axis=0)
    return parts, log_growth


def _shares(mass: NDArray, groups: TerminalGroups, last: Tensor) -> NDArray[np.float64]:
    """Mean probability (cells, groups) of paths of some `mass` (cells, paths).

    That end at `last` (cells, paths, latent_dim).
    """
    probabilities = groups.probabilities(last).numpy()
    return np.einsum("cp,cpg->cg", mass / mass.sum(axis=1, keepdims=True), probabilities)
