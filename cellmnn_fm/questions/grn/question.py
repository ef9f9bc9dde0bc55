"""Questions about gene regulation to a fitted model, about AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from ...data.reading import read_source
from ...data.times import TimeKey
from ...dynamics.snapshots import velocities
from ...model.errors import InputError, require_count, require_known, require_seed
from ...model.torch_defaults import with_torch_defaults
from ..queries import FittedQueries
from .estimators import (
    DEFAULT_RIDGE,
    CellStates,
    Decay,
    Estimator,
    Part,
    kernel,
    operator_network,
    production_network,
)
from .network import GeneRegulatoryNetwork

if TYPE_CHECKING:
    from anndata import AnnData


MAX_CELLS = 10_000  # more would not sharpen a network


class GRNQueries(FittedQueries):
    """Which gene drives which."""

    @with_torch_defaults
    def cell_states(
        self, adata: AnnData | None = None, time_key: str | TimeKey | None = None
    ) -> CellStates:
        """Where cells are and where they are going, and their expression of the genes of the fit.

        Parameters
        ----------
        adata : AnnData, optional
            Observed cells, of which at most 10,000 are drawn. Without it 200 cells are drawn from
            each of the distributions, mean and covariance, that a model with a frame knows.
        time_key : str, optional
            Column of times, where it differs from that of the fit.
        """
        if adata is None:
            return self._drawn_states()
        fitted = self.fitted_to(adata, time_key)
        source, states, cell_times, _ = fitted._read(adata, time_key)
        kept = np.full(len(states), True)
        if len(states) > MAX_CELLS:
            kept[:] = False
            kept[np.random.default_rng(0).choice(len(states), MAX_CELLS, replace=False)] = True
        states, cell_times = states[kept], cell_times[kept]
        velocity = velocities(fitted.model, states, cell_times, fitted.record.time_scale)
        found = fitted.latent_space.expression(source, fitted.record.gene_options, kept)
        return CellStates(states, velocity, cell_times, found)

    @with_torch_defaults
    def grn(
        self,
        adata: AnnData | None = None,
        *,
        time_key: str | TimeKey | None = None,
        estimator: Estimator = "production",
        decay: Decay = None,
        ridge: float = DEFAULT_RIDGE,
        around: str | None = None,
        part: Part = "learned",
        members: int = 0,
        seed: int = 0,
    ) -> GeneRegulatoryNetwork:
        """The gene regulatory network of some cells: of all, or of those of a time, type or branch.

        Parameters
        ----------
        adata : AnnData, optional
            The cells, such as ``adata[adata.obs["day"] == 3]``; see :meth:`cell_states`.
        time_key : str, optional
        estimator : {"production", "operator", "jacobian"}
            Production rates regressed on expression, which is right about most signs where the
            truth is known; or the operator of the paper, which mostly is not, or its Jacobian.
        decay, ridge
            Of "production", see :func:`cellmnn_fm.questions.grn.estimators.production_network`.
        around : str, optional
            Name of a cell: the others count the less the farther they are from it.
        part : {"learned", "frame", "all"}
            Of "operator" and "jacobian", see
            :func:`cellmnn_fm.questions.grn.estimators.operator_network`.
        members : int
            How often cells are resampled for a confidence in each edge ("production" only).
        seed : int

        Raises
        ------
        InputError
            On unusable options, and for a fit to coordinates that have no genes.
        """
        if adata is not None and self._foundation is not None:
            # ask the same adapted model for the states and for the rest
            return self.fitted_to(adata, time_key).grn(
                adata,
                estimator=estimator,
                decay=decay,
                ridge=ridge,
                around=around,
                part=part,
                members=members,
                seed=seed,
            )
        require_seed(seed)
        require_count("members", members, 0)
        require_known("estimator", estimator, get_args(Estimator))
        require_known("part", part, get_args(Part))
        if estimator != "production" and (around is not None or members):
            raise InputError(
                "estimator", "production with around or members", estimator, "leave them out"
            )
        record = self.record
        if adata is not None:
            source = read_source(adata, record.use_rep, record.layer)
            if source.is_embedding:
                raise InputError("grn", "a fit to genes", f"one to {source.name}", "fit one")
        cells = self.cell_states(adata, time_key)
        about = (cells, self.subspace, self.panel.names, record.time_scale)
        if estimator != "production":
            jacobian = estimator == "jacobian"
            return operator_network(self.model, *about, part=part, jacobian=jacobian)
        weights = None
        if around is not None:
            if adata is None or around not in adata.obs_names:
                raise InputError("around", "the name of a cell", around, "choose one of adata")
            if adata.n_obs > MAX_CELLS:
                found = f"{adata.n_obs:,} cells"
                raise InputError("around", f"at most {MAX_CELLS:,} cells", found, "select some")
            weights = kernel(cells.states, adata.obs_names.get_loc(around))
        return production_network(
            *about, decay=decay, ridge=ridge, weights=weights, members=members, seed=seed
        )
