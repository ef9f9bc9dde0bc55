"""Which gene drives which, in the cells of a file or in those that a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ...data.options import Decay, Estimator, Part
from ...dynamics.snapshots import velocities
from ...fitted.fitted_model import Cells, FittedModel
from ...fitted.foundation import Foundation, names_of
from ...fitted.loading import load_content
from ...model.errors import InputError, listed, require_count, require_known, require_seed
from .association import association_network
from .consensus import consensus, seen_data_sets
from .estimators import DEFAULT_RIDGE, CellStates, kernel, operator_network, production_network
from .network import GeneRegulatoryNetwork

MAX_CELLS = 10_000  # more would not sharpen a network
FEW_GENES = 50  # so many can be told apart by their rates; see docs/networks.md


def cell_states(asked: Cells | FittedModel, where: NDArray[np.bool_] | None = None) -> CellStates:
    """Where cells are and where they are going, and their expression of the genes of the fit.

    Parameters
    ----------
    asked : Cells or FittedModel
        Observed cells, of which at most 10,000 are drawn; or a model, of whose distributions, mean
        and covariance at each time, 200 cells each are drawn where it has a frame.
    where : (cells,) mask, optional
        The cells that are meant; all by default.
    """
    if isinstance(asked, FittedModel):
        states, times = asked.drawn()
        return CellStates(states, velocities(asked.dynamics, states, times), times)
    kept = np.full(len(asked.states), True) if where is None else np.asarray(where, dtype=bool)
    if kept.shape != asked.times.shape or not kept.any():
        actual = f"{kept.sum()} of {len(kept)}"
        raise InputError("where", f"some of {len(asked.times)} cells", actual, "give a mask")
    if kept.sum() > MAX_CELLS:
        drawn = np.random.default_rng(0).choice(kept.sum(), MAX_CELLS, replace=False)
        kept[np.delete(np.flatnonzero(kept), drawn)] = False
    states, times = asked.states[kept], asked.times[kept]
    expression = asked.fitted.latent_space.expression(asked.source, asked.genes, kept)
    return CellStates(states, velocities(asked.fitted.dynamics, states, times), times, expression)


def network(
    asked: Cells | FittedModel,
    *,
    where: NDArray[np.bool_] | None = None,
    estimator: Estimator = "auto",
    decay: Decay = None,
    ridge: float = DEFAULT_RIDGE,
    around: str | None = None,
    part: Part = "learned",
    members: int = 0,
    seed: int = 0,
) -> GeneRegulatoryNetwork:
    """The gene regulatory network of some cells; see :meth:`CellMNNPipeline.grn`.

    The mask `where` (cells,) says which cells are meant.

    Parameters
    ----------
    asked : Cells or FittedModel
        See :func:`cell_states`.
    where, estimator, decay, ridge, around, part, members, seed
        See :meth:`CellMNNPipeline.grn`.

    Raises
    ------
    InputError
        On unusable options, and for a fit to coordinates that have no genes.
    """
    require_seed(seed)
    require_count("members", members, 0)
    require_known("estimator", estimator, get_args(Estimator))
    require_known("part", part, get_args(Part))
    if estimator not in ("production", "auto") and around is not None:
        raise InputError("estimator", "production with around", estimator, "leave it out")
    if members and estimator not in ("production", "association", "auto"):
        expected = "production or association with members"
        raise InputError("estimator", expected, estimator, "leave them out")
    require_genes(asked)
    why = None
    if estimator == "auto":
        estimator, why = _chosen(asked, of_rates=around is not None or decay is not None)
    cells = cell_states(asked, where)
    weights = None
    if around is not None:
        weights = kernel(cells.states, _position(asked, where, around))
    options: dict[str, Any] = {"decay": decay, "ridge": ridge, "seed": seed}
    edges = estimated(
        asked, cells, estimator, part=part, weights=weights, members=members, **options
    )
    if members and around is None:
        other: Estimator = "production" if estimator == "association" else "association"
        beside = estimated(asked, cells, other, **options)
        edges = replace(edges, beside={other: (beside.left, beside.right)})
    return edges if why is None else replace(edges, record={**edges.record, "chosen": why})


def consensus_network(
    content: Foundation | FittedModel | None,
    asked: Cells | FittedModel | None = None,
    genes: Sequence[str] | None = None,
    **how: Any,
) -> GeneRegulatoryNetwork:
    """Of what the data sets of a base know, with the network of some cells or without.

    Parameters
    ----------
    content : Foundation or FittedModel
        A base; cellmnn-base in place of one without networks, where cells are asked about.
    asked : Cells or FittedModel, optional
        Whose network comes first; data sets of the base with the same cells do not count.
    genes : sequence of str, optional
        Without it, see :func:`cellmnn_fm.questions.grn.consensus.consensus`.
    **how
        As for :func:`network`.

    Raises
    ------
    InputError
        On genes beside cells, and see there.
    """
    if asked is None:
        assert isinstance(content, Foundation)
        return consensus(content, genes=genes)
    if genes is not None:
        expected = "none with cells, whose genes a network has"
        raise InputError("genes", expected, listed(genes), "leave them out, or the cells")
    if not isinstance(content, Foundation) or not content.networks:
        content, *_ = load_content("cellmnn-base")
    assert isinstance(content, Foundation)
    fitted = asked if isinstance(asked, FittedModel) else asked.fitted
    names = {fitted.record.name}
    if isinstance(asked, Cells):
        names |= names_of(asked.adata)
    return consensus(content, network(asked, **how), without=seen_data_sets(content, names))


def require_genes(asked: Cells | FittedModel) -> None:
    """Refuse a fit to coordinates, which have no network."""
    if isinstance(asked, Cells) and asked.source.is_embedding:
        raise InputError("grn", "a fit to genes", f"one to {asked.source.name}", "fit one")


def estimated(
    asked: Cells | FittedModel,
    cells: CellStates,
    estimator: Estimator,
    *,
    decay: Decay = None,
    ridge: float = DEFAULT_RIDGE,
    part: Part = "learned",
    weights: NDArray | None = None,
    members: int = 0,
    seed: int = 0,
) -> GeneRegulatoryNetwork:
    """The network of cells that are read, by one estimator, not "auto".

    Parameters
    ----------
    asked : Cells or FittedModel
        Where they are from.
    cells : CellStates
        See :func:`cell_states`.
    estimator, decay, ridge, part, members, seed
        See :meth:`CellMNNPipeline.grn`.
    weights : (cells,), optional
        Of the cells, for "production".
    """
    fitted = asked if isinstance(asked, FittedModel) else asked.fitted
    about = (cells, fitted.subspace, fitted.panel.names)
    scale = fitted.record.time_scale
    if estimator == "association":
        edges = association_network(*about, scale, members=members, seed=seed)
    elif estimator == "production":
        how: dict[str, Any] = {"decay": decay, "ridge": ridge, "weights": weights}
        edges = production_network(*about, scale, **how, members=members, seed=seed)
    else:
        jacobian = estimator == "jacobian"
        edges = operator_network(fitted.dynamics, *about, part=part, jacobian=jacobian)
    return replace(edges, symbols=fitted.panel.symbols)


def _position(asked: Cells | FittedModel, where: NDArray | None, around: str) -> int:
    """Which of the cells that the mask `where` (cells,) means has the name `around`."""
    names = [] if isinstance(asked, FittedModel) else asked.adata.obs_names
    names = names if where is None else names[where]
    if around not in names:
        raise InputError("around", "the name of a cell", around, "choose one of adata")
    if len(names) > MAX_CELLS:
        actual = f"{len(names):,} cells"
        raise InputError("around", f"at most {MAX_CELLS:,} cells", actual, "select some")
    return list(names).index(around)


def _chosen(asked: Cells | FittedModel, *, of_rates: bool) -> tuple[Estimator, str]:
    """The estimator of "auto", and why; `of_rates` where something is asked of rates alone."""
    if of_rates:
        return "production", "production, for around or decay"
    if isinstance(asked, FittedModel):  # whose cells have no values but those of latent states
        return "production", "production, since there are no measured cells"
    genes = len(asked.fitted.panel)
    if genes <= FEW_GENES:
        return "production", f"production, of {genes:,} genes, up to {FEW_GENES}"
    return "association", f"association, of {genes:,} genes, more than {FEW_GENES}"
