"""Questions about fates to a fitted model, about AnnData."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..data.reading import Source, observed_time
from ..data.times import TimeKey
from ..dynamics.snapshots import as_shares
from ..model.errors import InputError, listed, require_count, require_number, require_seed
from ..model.torch_defaults import with_torch_defaults
from ..training.adaptation import adapt
from .conditions import ConditionComparison, compare_conditions
from .fates import (
    DEFAULT_STEPS,
    Fates,
    LinearResponse,
    Perturbation,
    TerminalGroups,
    cell_fates,
    clusters,
    compared,
    driver_genes,
    linear_response,
)
from .queries import FittedQueries

if TYPE_CHECKING:
    from anndata import AnnData

_OVER_EXPRESSED = 0.99  # quantile of a gene's expression


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
class _Question:
    """The cells of a file, those that are followed, and the groups that they may end in."""

    source: Source
    every_state: NDArray
    rows: NDArray[np.int64]
    times: NDArray
    groups: TerminalGroups
    end: float

    @property
    def states(self) -> NDArray:
        """Of the cells that are followed."""
        return self.every_state[self.rows]

    def only(self, followed: NDArray[np.bool_]) -> _Question:
        """Without the cells that run away, with a warning."""
        if followed.all():
            return self
        lost = int((~followed).sum())
        if lost == len(followed):
            raise InputError("cells", "some that can be followed", "none", "fit in a frame")
        warnings.warn(
            f"{lost} of {len(followed)} cells run away in this model, and are left out",
            stacklevel=3,
        )
        return replace(self, rows=self.rows[followed], times=self.times[followed])

    def relative(self, log_growth: NDArray) -> NDArray[np.float64]:
        """Descendants of the cells that are followed, relative to the mean of their time."""
        found = np.empty(len(log_growth))
        for time in np.unique(self.times):
            at = self.times == time
            found[at] = as_shares(log_growth[at]) * at.sum()
        return found


class FateQueries(FittedQueries):
    """Fates of cells, and what changes them."""

    @with_torch_defaults
    def fates(
        self,
        adata: AnnData,
        groups: str | int,
        *,
        time_key: str | TimeKey | None = None,
        start: float | None = None,
        end: float | None = None,
        n_steps: int = DEFAULT_STEPS,
    ) -> FateTable:
        """Follow cells to the end, and say in which group they are then.

        Parameters
        ----------
        adata : AnnData
            Observed cells.
        groups : str or int
            Column of `obs` with the groups at the end, such as cell types; cells without are left
            out there. Or how many clusters of them to make, see
            :func:`cellmnn_fm.questions.fates.clusters`.
        time_key : str, optional
            Column of times, where it differs from that of the fit.
        start : float, optional
            Only cells of this time are followed; all up to `end` by default.
        end : float, optional
            The time whose groups count; the last by default.
        n_steps : int
            Between two stops, see :func:`cellmnn_fm.dynamics.rollout.roll_out`.

        Raises
        ------
        InputError
            On a column that is not there, and with less than two groups of 5 cells at the end.
        """
        require_count("n_steps", n_steps)
        fitted = self.fitted_to(adata, time_key)
        asked = _ask(fitted, adata, groups, time_key, start, end)
        found = cell_fates(
            fitted.model,
            asked.states,
            asked.times,
            asked.groups,
            asked.end,
            fitted.record.time_scale,
            n_steps=n_steps,
        )
        kept = found.followed
        asked, found = asked.only(kept), Fates(*(part[kept] for part in vars(found).values()))
        spread = fitted.subspace.spread(asked.states)
        drivers = driver_genes(found, asked.groups, fitted.subspace, fitted.panel.names, spread)
        names = list(asked.groups.names)
        index = adata.obs_names[asked.rows]
        probabilities = pd.DataFrame(found.probabilities, index=index, columns=names)
        descendants = pd.Series(asked.relative(found.log_growth), index=index, name="descendants")
        accuracy = asked.groups.accuracy
        return FateTable(probabilities, drivers, accuracy, descendants, asked.rows)

    @with_torch_defaults
    def perturb(
        self,
        adata: AnnData,
        genes: Mapping[str, float | str],
        groups: str | int,
        *,
        time_key: str | TimeKey | None = None,
        start: float | None = None,
        end: float | None = None,
        n_steps: int = DEFAULT_STEPS,
        seed: int = 0,
    ) -> Perturbation:
        """Set genes to values: how fates and expression at the end shift.

        Cells are moved in latent space by Σ E_j (value - x_j); what becomes of that until the end
        is the linear response of the model along each cell's own path. A prediction of a model that
        knows associations, so that a gene which merely goes along with a fate shifts it too: to be
        tested in cells.

        Parameters
        ----------
        adata, groups, time_key, start, end, n_steps
            As for :meth:`fates`; without `start` the cells of the first time are followed.
        genes : mapping
            For each gene its expression, or "knock-out" (its lowest value) or "over-express" (its
            99 % quantile). Genes that the fit did not have are placed by regression, and flagged.
        seed : int
            Of the resampled cells.

        Raises
        ------
        InputError
            On genes that are not there or do not vary, by name.
        """
        require_seed(seed)
        require_count("n_steps", n_steps)
        fitted = self.fitted_to(adata, time_key)
        start = fitted.record.times[0] if start is None else start
        asked = _ask(fitted, adata, groups, time_key, start, end)
        moves, inferred = _moves(fitted, asked, genes)
        found = linear_response(
            fitted.model,
            asked.states,
            moves,
            asked.times,
            asked.end,
            fitted.record.time_scale,
            n_steps=n_steps,
        )
        kept = found.followed
        asked, found = asked.only(kept), LinearResponse._make(part[kept] for part in found)
        before, after = found.final, found.final + found.moved
        # moved cells may have more descendants, relative to as many before
        grown = np.exp(found.log_growth_moved)
        weights = asked.relative(found.log_growth), asked.relative(found.log_growth) * grown
        shares = [
            asked.groups.probabilities(torch.from_numpy(one)).numpy() for one in (before, after)
        ]
        shifts = compared(shares[0], shares[1], asked.groups.names, seed, weights)
        ends = [fitted.subspace.reconstruct(one) for one in (before, after)]
        changes = compared(ends[0], ends[1], fitted.panel.names, seed, weights)
        order = changes["shift"].abs().sort_values(ascending=False, kind="stable").index
        return Perturbation(shifts, changes.loc[order], inferred)

    @with_torch_defaults
    def compare(
        self,
        adata: AnnData,
        condition: str,
        *,
        time_key: str | TimeKey,
        groups: str | None = None,
        permutations: int = 200,
        seed: int = 0,
        progress: bool = False,
    ) -> ConditionComparison:
        """Where two conditions lead the same cells, with a permutation test.

        A pretrained pipeline adapts itself to the cells of either condition, in one latent space,
        and to those of every permutation, which takes no training.

        Parameters
        ----------
        adata : AnnData
        condition : str
            Column of `obs` with two values.
        time_key : str
        groups : str, optional
            Column of `obs` with the groups at the last time, for the fates.
        permutations, seed, progress
            See :func:`cellmnn_fm.questions.conditions.compare_conditions`.

        Raises
        ------
        InputError
            On columns that are not there, and unless there are two conditions with two times in
            common.
        """
        require_seed(seed)
        require_count("permutations", permutations)
        for column in (condition, *(() if groups is None else (groups,))):
            if column not in adata.obs:
                raise InputError("column", f"one of {listed(adata.obs)}", column, "name one")
        if self._foundation is None:
            raise InputError("compare", "a pretrained pipeline", "another one", "load cellmnn-base")
        base = self.model
        _, states, times, _ = self.fitted_to(adata, time_key)._read(adata, time_key)
        labels = adata.obs[condition].astype(str).to_numpy()
        named = None
        if groups is not None:
            named = adata.obs[groups].astype(object).where(adata.obs[groups].notna(), "")
            named = named.astype(str).to_numpy()
        return compare_conditions(
            states,
            times,
            labels,
            lambda course: adapt(base, course),
            groups=named,
            permutations=permutations,
            seed=seed,
            progress=progress,
        )


def _ask(
    fitted: FittedQueries,
    adata: AnnData,
    groups: str | int,
    time_key: str | TimeKey | None,
    start: float | None,
    end: float | None,
) -> _Question:
    if isinstance(groups, str) and groups not in adata.obs:
        found = f"{groups}; columns {listed(adata.obs)}"
        raise InputError("groups", "a column of obs, or how many clusters", found, "name one")
    source, states, times, _ = fitted._read(adata, time_key)
    last_time = float(times.max())
    end = last_time if end is None else observed_time(require_number("end", end), times, "end")
    last = times == end
    if isinstance(groups, int):
        labels = clusters(states[last], fitted.subspace, fitted.panel.names, groups)
    else:
        last &= adata.obs[groups].notna().to_numpy()
        labels = adata.obs[groups][last].astype(str).tolist()
    terminal = TerminalGroups.fit(states[last], labels)
    start = None if start is None else observed_time(require_number("start", start), times, "start")
    rows = np.flatnonzero(times <= end if start is None else times == start)
    return _Question(source, states, rows, times[rows], terminal, end)


def _moves(
    fitted: FittedQueries, asked: _Question, genes: Mapping[str, float | str]
) -> tuple[NDArray[np.float32], list[str]]:
    """How far each cell is moved, Σ E_j (value - x_j), and the genes whose E is a regression."""
    if not genes:
        raise InputError("genes", "one or more", "none", "name those to be set")
    subspace, panel = fitted.subspace, list(fitted.panel.names)
    source, states = asked.source, asked.every_state
    columns = list(source.names)
    if unknown := [gene for gene in genes if gene not in columns]:
        raise InputError("genes", "genes of the data", listed(unknown), "correct them")
    moves, inferred = np.zeros_like(states), []
    for gene, wanted in genes.items():
        x = source.column(columns.index(gene))
        if x.var() == 0:
            raise InputError("genes", "genes that vary between cells", gene, "leave it out")
        if gene in panel:
            direction = subspace.projection[panel.index(gene)]
        else:
            inferred.append(gene)
            direction = (states - states.mean(axis=0)).T @ (x - x.mean()) / len(x) / x.var()
        if not np.abs(direction).max() > 0:
            raise InputError("genes", "genes with loadings", gene, "leave it out")
        moves += np.outer(_value(gene, wanted, x) - x, direction).astype(states.dtype)
    return moves[asked.rows], inferred


def _value(gene: str, wanted: float | str, x: NDArray) -> float:
    if isinstance(wanted, str):
        named = {
            "knock-out": float(x.min()),
            "over-express": float(np.quantile(x, _OVER_EXPRESSED)),
        }
        if wanted not in named:
            raise InputError(gene, "a value, knock-out or over-express", wanted, "correct it")
        return named[wanted]
    return require_number(f"value of {gene}", wanted)


def read_settings(settings: Sequence[str]) -> dict[str, float | str]:
    """Genes and values from "GENE=value", as a command line has them."""
    found: dict[str, float | str] = {}
    for one in settings:
        gene, _, value = one.partition("=")
        try:
            found[gene] = float(value)
        except ValueError:
            found[gene] = value or "knock-out"
    return found
