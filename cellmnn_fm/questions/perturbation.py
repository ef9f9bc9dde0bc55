"""What changes when genes are set by hand."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..data.introduced import Introduced
from ..data.options import Response
from ..data.reading import Source
from ..dynamics.rollout import roll_out
from ..dynamics.snapshots import Dynamics, padded
from ..fitted.fitted_model import Cells, FittedModel
from ..model.errors import (
    InputError,
    listed,
    require_count,
    require_known,
    require_number,
    require_seed,
)
from .fates import STEPS_TO_END, paths_to
from .grn.question import network
from .network_response import NetworkResponse
from .terminal_groups import FateQuestion, fate_question

_DRAWS = 200
_LITTLE = 0.1  # of the standard deviation of a gene, by which it is changed
_OVER_EXPRESSED = 0.99  # quantile of a gene's expression


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
    dynamics: Dynamics,
    states: NDArray,
    moves: NDArray,
    times: NDArray,
    end: float,
    *,
    n_steps: int = STEPS_TO_END,
) -> LinearResponse:
    """Where cells are at the end, and how far they are moved then if they are moved now.

    To first order: the model is asked where cells were observed, since far from them it knows
    nothing.

    `states` (cells, latent_dim) at `times` (cells,).

    Parameters
    ----------
    dynamics, states, times, end, n_steps
        As for :func:`cell_fates`.
    moves : (cells, latent_dim)
        How far each cell is moved now.
    """
    dims = states.shape[1]
    count = len(states)
    response = LinearResponse(
        final=np.empty(states.shape, dtype=np.float32),
        moved=np.empty(states.shape, dtype=np.float32),
        log_growth=np.empty(count, dtype=np.float32),
        log_growth_moved=np.empty(count, dtype=np.float32),
        stopped=np.empty(count, dtype=bool),
    )
    for rows, to_end in paths_to(dynamics, times, end, n_steps):
        z, move = (padded(dynamics.model, part[rows]) for part in (states, moves))

        def moving(z: Tensor, to_end: Any = to_end) -> tuple[tuple[Tensor, Tensor], Tensor]:
            states, log_growth, stopped = to_end(z)
            return (states, log_growth), stopped

        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels know no forward derivatives
            pushed: Any = torch.func.jvp(moving, (z,), (move,), has_aux=True)
        (final, grown), (moved, grown_more), out = pushed
        parts = (final[:, :dims], moved[:, :dims], grown, grown_more, out)
        for whole, part in zip(response, parts, strict=True):
            whole[rows] = part.detach().cpu().numpy()
    return response


@dataclass(frozen=True)
class Perturbation(Introduced):
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

    def __repr__(self) -> str:
        shifts = ", ".join(
            f"{group} {row['shift']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            for group, row in self.fates.iterrows()
        )
        most = ", ".join(map(str, self.genes.index[:5]))
        return f"Perturbation that shifts fates by {shifts}\nand genes such as {most}; fates, genes"

    def _table(self) -> pd.DataFrame:
        """Of the fates."""
        return self.fates


def compared(
    before: NDArray,
    after: NDArray,
    names: Sequence[str],
    seed: int = 0,
    weights: tuple[NDArray, NDArray] | None = None,
) -> pd.DataFrame:
    """Means of columns before and after, their shift, and its 95 % interval over cells.

    `weights` of the cells (cells,) are two, since they may change too.

    `before` (cells, columns) and `after` (cells, columns).
    """
    cells = len(before)
    before_and_after = weights or (np.ones(cells), np.ones(cells))

    def means(counts: NDArray) -> tuple[NDArray, NDArray]:
        first, second = (
            (counts * weight) @ values / (counts @ weight)[:, None]
            for weight, values in zip(before_and_after, (before, after), strict=True)
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


def perturb(
    cells: Cells,
    genes: Mapping[str, float | str],
    groups: str | int,
    *,
    start: float | None = None,
    end: float | None = None,
    response: Response = "network",
    n_steps: int = STEPS_TO_END,
    seed: int = 0,
) -> Perturbation:
    """Set genes to values: how fates and expression at the end shift.

    Parameters
    ----------
    cells : Cells
        Observed, as a fitted model reads them.
    genes, groups, start, end, response, n_steps, seed
        See :meth:`CellMNNPipeline.perturb`.

    Raises
    ------
    InputError
        On genes that are not there or do not vary, by name.

    Warns
    -----
    UserWarning
        If a gene is near its value in these cells anyway.
    """
    require_seed(seed)
    require_count("n_steps", n_steps)
    require_known("response", response, get_args(Response))
    fitted = cells.fitted
    start = cells.first_time if start is None else start
    if not genes:
        raise InputError("genes", "one or more", "none", "name those to be set")
    asked = fate_question(cells, groups, start, end)
    inferred: list[str] = []
    if response == "network":
        expression_of = _expression(cells.source, genes)
        values = [_value(gene, genes[gene], x) for gene, x in expression_of.items()]
        if missing := [gene for gene in genes if gene not in fitted.panel.names]:
            actual = f"{listed(missing)}, which it was not fitted to"
            raise InputError("genes", "genes of the model", actual, 'take response="flow"')
        wild = followed_genes(asked, n_steps)
        by_network = NetworkResponse(network(cells, estimator="production"), wild.times)
        held = [by_network.network.genes.index(gene) for gene in genes]
        each = [value - wild.gene(fitted, gene) for value, gene in zip(values, held, strict=True)]
        away = np.stack(each, axis=-1)
        _warn_if_held_already(cells, expression_of, away)
        moved = by_network.deviations(held, away)
        before, asked = wild.final, wild.asked
        # a gene that is low does not make another fate of a cell whose other genes are as before
        after = before + np.float32(moved @ fitted.subspace.projection)
        moved[:, held] = away[:, -1]
        log_growth, more = wild.log_growth, 0 * wild.log_growth
    else:
        moves, inferred = _moves(asked, genes)
        linear = linear_response(
            fitted.dynamics, asked.states, moves, asked.times, asked.end, n_steps=n_steps
        )
        kept = linear.followed
        asked, linear = asked.only(kept), LinearResponse._make(part[kept] for part in linear)
        before, after = linear.final, linear.final + linear.moved
        moved = np.float64(linear.moved) @ fitted.subspace.loadings.T
        log_growth, more = linear.log_growth, linear.log_growth_moved
    # moved cells may have more descendants, relative to as many before
    descendants = asked.relative(log_growth)
    weights = descendants, descendants * np.exp(more)
    shares = [
        asked.groups.probabilities(torch.from_numpy(states)).numpy() for states in (before, after)
    ]
    shifts = compared(shares[0], shares[1], asked.groups.names, seed, weights)
    expression = fitted.subspace.reconstruct(before)
    changes = compared(expression, expression + moved, fitted.panel.names, seed, weights)
    order = changes["shift"].abs().sort_values(ascending=False, kind="stable").index
    return Perturbation(shifts, changes.loc[order], inferred)


class FollowedGenes(NamedTuple):
    """Cells that nothing was done to, until the end."""

    asked: FateQuestion  # without those that run away
    times: NDArray[np.float64]  # (times,) at which they are looked at
    states: NDArray[np.float32]  # (times, cells, latent_dim)
    log_growth: NDArray[np.float32]  # (cells,) at the last one

    @property
    def final(self) -> NDArray[np.float32]:
        """Their states at the end, (cells, latent_dim)."""
        return self.states[-1]

    def gene(self, fitted: FittedModel, number: int) -> NDArray[np.float64]:
        """Its expression in every cell, (cells, times)."""
        loadings = fitted.subspace.loadings[number].astype(np.float64)
        return (self.states @ loadings).T + float(fitted.subspace.gene_mean[number])


def followed_genes(asked: FateQuestion, n_steps: int = STEPS_TO_END) -> FollowedGenes:
    """Follow the cells of a question, all of one time, through the observed times."""
    fitted, start = asked.cells.fitted, float(asked.times[0])
    between = [time for time in fitted.record.times if start < time < asked.end]
    times = np.array([start, *between, asked.end])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that are stopped are left out, with a warning
        followed = roll_out(fitted.dynamics, asked.states, start, times, n_steps=n_steps)
    kept = np.array(~followed.stopped.any(axis=0))
    states, log_growth = followed.states[:, kept], followed.log_growth[-1, kept]
    return FollowedGenes(asked.only(kept), times, states, log_growth)


def _warn_if_held_already(cells: Cells, expression: Mapping[str, NDArray], away: NDArray) -> None:
    """Say of which genes there is little to change in `away` (cells, times, genes)."""
    changes = np.abs(away).mean(axis=(0, 1))
    for (gene, x), change in zip(expression.items(), changes, strict=True):
        if change < _LITTLE * x.std():
            means = [x[cells.times == time].mean() for time in cells.course.times]
            highest = cells.course.times[int(np.argmax(means))]
            warnings.warn(
                f"{gene} is near that value in the cells that are followed: little changes; its "
                f"mean is highest at time {highest:g}",
                stacklevel=4,
            )


def _expression(source: Source, genes: Iterable[str]) -> dict[str, NDArray]:
    """Of every gene (cells,); they must be there, and vary."""
    columns = list(source.names)
    if unknown := [gene for gene in genes if gene not in columns]:
        raise InputError("genes", "genes of the data", listed(unknown), "correct them")
    expression = {gene: source.column(columns.index(gene)) for gene in genes}
    if still := [gene for gene, x in expression.items() if x.var() == 0]:
        raise InputError("genes", "genes that vary between cells", listed(still), "leave it out")
    return expression


def _moves(
    asked: FateQuestion, genes: Mapping[str, float | str]
) -> tuple[NDArray[np.float32], list[str]]:
    """How far each cell is moved, Σ E_j (value - x_j), and the genes whose E is a regression."""
    fitted, source, states = asked.cells.fitted, asked.cells.source, asked.cells.states
    subspace, panel = fitted.subspace, list(fitted.panel.names)
    moves, inferred = np.zeros_like(states), []
    for gene, x in _expression(source, genes).items():
        if gene in panel:
            direction = subspace.projection[panel.index(gene)]
        else:
            inferred.append(gene)
            direction = (states - states.mean(axis=0)).T @ (x - x.mean()) / len(x) / x.var()
        if not np.abs(direction).max() > 0:
            raise InputError("genes", "genes with loadings", gene, "leave it out")
        moves += np.outer(_value(gene, genes[gene], x) - x, direction).astype(states.dtype)
    return moves[asked.rows], inferred


def _value(gene: str, wanted: float | str, x: NDArray) -> float:
    """The expression that a gene is set to."""
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
    values: dict[str, float | str] = {}
    for setting in settings:
        gene, _, value = setting.partition("=")
        try:
            values[gene] = float(value)
        except ValueError:
            values[gene] = value or "knock-out"
    return values
