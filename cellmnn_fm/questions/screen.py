"""Every regulator knocked out by itself: which of them decide where cells end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ..data.subspace import Subspace
from ..evaluation.metrics import permuted_within
from ..fitted.fitted_model import Cells
from ..model.errors import InputError, listed, require_count, require_seed
from .fates import STEPS_TO_END
from .grn.estimators import production_network
from .grn.question import cell_states
from .network_response import NetworkResponse
from .perturbation import FollowedGenes, followed_genes
from .terminal_groups import fate_question

_LEAST_SHADOWS = 400  # whose shifts p values are made of, from all rounds


def screen(
    cells: Cells,
    groups: str | int,
    regulators: Sequence[str] | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    n_steps: int = STEPS_TO_END,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Knock every regulator out, and compare with shadows of genes that regulate nothing.

    The shadow of a gene has its values, given to other cells of the same time. It is offered to the
    network as one more regulator, and knocked out as its gene is. p is the share of all shadows
    that shift the fate as far, q the false discovery rate (Benjamini and Hochberg 1995) over genes.
    They say that a gene goes along with others, within times; one that merely follows those that
    decide does so, too. What to read is the size of the shift, of genes with a small q
    (`benchmarks/knockouts.py` has how often that is right).

    Parameters
    ----------
    cells : Cells
        Observed, as a fitted model reads them.
    groups, regulators, start, end, n_steps, seed, progress
        See :meth:`CellMNNPipeline.screen`.

    Raises
    ------
    InputError
        On regulators that the model does not have.
    """
    require_seed(seed)
    require_count("n_steps", n_steps)
    fitted = cells.fitted
    panel = list(fitted.panel.names)
    names = panel if regulators is None else list(dict.fromkeys(regulators))
    if unknown := [name for name in names if name not in panel]:
        raise InputError("regulators", "genes of the model", listed(unknown), "leave them out")
    if not names:
        raise InputError("regulators", "one or more", "none", "name some, or leave them out")
    start = cells.first_time if start is None else start
    wild = followed_genes(fate_question(cells, groups, start, end), n_steps)
    observed = cell_states(cells)
    if observed.expression is None or cells.source.is_embedding:
        raise InputError("screen", "a fit to genes", f"one to {cells.source.name}", "fit one")
    expression = np.asarray(observed.expression, dtype=np.float64)
    lowest, rows = expression.min(axis=0), [panel.index(name) for name in names]
    away = {row: lowest[row] - wild.gene(fitted, row) for row in rows}
    rng, rounds = np.random.default_rng(seed), math.ceil(_LEAST_SHADOWS / len(rows))

    def knock_outs() -> Iterator[NDArray[np.float64]]:
        """The shift by every gene, and then by the shadows of all genes, round after round."""
        about = (fitted.subspace, tuple(panel), fitted.record.time_scale)
        response = NetworkResponse(production_network(observed, *about), wild.times)
        yield from (_shift(response, row, away[row], wild) for row in rows)
        shadows = tuple(f"shadow of {name}" for name in names)
        about = (_with_silent(fitted.subspace, len(rows)), (*about[1], *shadows), about[2])
        for _ in range(rounds):
            # all of them by one order: they regulate nothing, but know each other as genes do
            order = permuted_within(np.arange(len(expression)), observed.times, rng)
            joined = np.hstack([expression, expression[order][:, rows]])
            offered = production_network(replace(observed, expression=joined), *about, seed=seed)
            response = NetworkResponse(offered, wild.times)
            for number, row in enumerate(rows, start=len(panel)):
                given = away[row][rng.permutation(len(away[row]))]
                yield _shift(response, number, given, wild)

    every = track(
        knock_outs(),
        "knock-outs",
        total=len(rows) * (1 + rounds),
        console=Console(stderr=True),
        disable=not progress,
    )
    shifts = np.array(list(every))
    shadows = shifts[len(rows) :]
    return _table(names, shifts[: len(rows)], shadows, list(wild.asked.groups.names))


def _shift(
    response: NetworkResponse, gene: int, away: NDArray, wild: FollowedGenes
) -> NDArray[np.float64]:
    """By how much each fate (groups,) shifts with a gene that is held `away` (cells, times)."""
    panel = wild.asked.cells.fitted.subspace.projection
    moved = response.deviations([gene], away[..., None])[:, : len(panel)]
    after = wild.final + (moved @ panel).astype(np.float32)
    groups = wild.asked.groups
    before, then = (groups.probabilities(torch.from_numpy(z)).numpy() for z in (wild.final, after))
    shares = wild.asked.relative(wild.log_growth)
    return (then - before).T @ (shares / shares.sum())


def _with_silent(subspace: Subspace, count: int) -> Subspace:
    """The map of a subspace with so many genes more, in which nothing of it is seen."""
    none = np.zeros((count, subspace.loadings.shape[1]), dtype=subspace.loadings.dtype)
    return replace(
        subspace,
        gene_mean=np.append(subspace.gene_mean, np.zeros(count, subspace.gene_mean.dtype)),
        loadings=np.vstack([subspace.loadings, none]),
        projection=np.vstack([subspace.projection, none]),
    )


def _table(
    names: Sequence[str], shifts: NDArray, shadows: NDArray, groups: Sequence[str]
) -> pd.DataFrame:
    """A row for each gene and group, the largest shift first.

    Of `shifts` (genes, groups) and `shadows` (shadows, groups).
    """
    from scipy.stats import false_discovery_control

    parts = []
    for number, group in enumerate(groups):
        null = np.abs(shadows[:, number])
        p = [(1 + (null >= abs(shift)).sum()) / (1 + len(null)) for shift in shifts[:, number]]
        columns = {"gene": names, "group": group, "shift": shifts[:, number], "p": p}
        parts.append(pd.DataFrame({**columns, "q": false_discovery_control(p)}))
    table = pd.concat(parts, ignore_index=True)
    order = table["shift"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)
