"""Questions to a fitted model, about AnnData."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .fit_record import FitRecord
from .foundation import GENES_FILE, Foundation
from .gene_panel import Coverage, GenePanel
from .latent_space import LatentSpace
from .model_card import card_of_fit, card_of_foundation
from .modeling_cellmnn import CellMNNModel
from .optimisation import remove_training_state
from .reading import Source, read_source, read_times
from .results import add_genes, annotated, predicted_snapshot
from .subspace import Subspace
from .time_course import TimeCourse
from .trajectories import interpolate, velocity_at

if TYPE_CHECKING:
    from anndata import AnnData

RECORD_FILE = "pipeline.json"


class FittedQueries:
    """What can be asked of a fitted model: where cells are, where they go, what is in between.

    Parameters
    ----------
    model : CellMNNModel, optional
    record : FitRecord, optional
    panel : GenePanel, optional
        What a fitted pipeline consists of; without them the pipeline is there to be fitted.
    foundation : Foundation, optional
        What a pipeline of many data sets has in place of the latter two. It adapts itself to the
        cells that a question is about.
    origin : dict, optional
        Where it was loaded from: "name", "revision" on the Hub, "sha256" of the weights.
    """

    def __init__(
        self,
        model: CellMNNModel | None = None,
        record: FitRecord | None = None,
        panel: GenePanel | None = None,
        foundation: Foundation | None = None,
        origin: dict[str, str | None] | None = None,
    ):
        self._model, self._record, self._panel = model, record, panel
        self._foundation, self.origin = foundation, origin

    @property
    def model(self) -> CellMNNModel:
        """The fitted model."""
        return self._fitted(self._model)

    @property
    def record(self) -> FitRecord:
        """What the pipeline was fitted to, and how."""
        return self._fitted(self._record)

    @property
    def foundation(self) -> Foundation:
        """Data sets and subspace of a pretrained pipeline."""
        return self._fitted(self._foundation)

    @property
    def panel(self) -> GenePanel:
        """The genes (or coordinates) that the pipeline reads and predicts."""
        return self._fitted(self._panel)

    @property
    def subspace(self) -> Subspace:
        """The map between genes and latent states, as stored in the checkpoint."""
        names = [field.name for field in fields(Subspace)]
        return Subspace(**{name: getattr(self.model, name).cpu().numpy() for name in names})

    @property
    def latent_space(self) -> LatentSpace:
        """The same, with the genes."""
        record = self.record
        return LatentSpace(self.panel, self.subspace, record.coverage, record.subspace_mode)

    def time_course(self, adata: AnnData, time_key: str | None = None) -> TimeCourse:
        """The latent time course of `adata`, which must hold genes of the fit, in any order."""
        _, states, cell_times, _ = self._fitted_to(adata, time_key)._read(adata, time_key)
        return TimeCourse.from_cells(states, cell_times)

    def _fitted_to(self, adata: AnnData, time_key: str | None) -> FittedQueries:
        """The one that answers questions about `adata`."""
        return self

    def _read(
        self, adata: AnnData, time_key: str | None
    ) -> tuple[Source, NDArray, NDArray, Coverage]:
        """Values, latent state and time of every cell, and how many genes were found."""
        record = self.record
        source = read_source(adata, record.use_rep, record.layer)
        cell_times = read_times(adata, time_key or record.time_key)
        states, coverage = self.latent_space.project(source, record.gene_options)
        return source, states, cell_times, coverage

    def annotate(
        self, adata: AnnData, *, time_key: str | None = None, layers: bool = True
    ) -> AnnData:
        """Where observed cells are, and where they are going.

        Parameters
        ----------
        adata : AnnData
            Observed cells, with genes of the fit.
        time_key : str, optional
            Column of times, where it differs from that of the fit.
        layers : bool
            Whether to add what needs a dense array of cells and genes.

        Returns
        -------
        AnnData
            A copy, with `obsm["X_cellmnn"]` (latent states), `obsm["cellmnn_velocity"]` (dz/dt per
            unit of time) and, unless the fit is to an embedding of `obsm` or to `.raw`,
            `varm["cellmnn_loadings"]`, `var["cellmnn_inferred"]` (genes that the fit did not have:
            their loadings are those of a regression), `layers["cellmnn_expression"]` (expression
            as the latent states have it) and `layers["cellmnn_velocity"]` (dx/dt).
        """
        fitted = self._fitted_to(adata, time_key)
        source, states, cell_times, coverage = fitted._read(adata, time_key)
        velocity = np.empty_like(states)
        for time in np.unique(cell_times):
            at = cell_times == time
            velocity[at] = velocity_at(fitted.model, states[at], time, fitted.record.time_scale)
        result = annotated(adata, states, velocity, coverage)
        if source.var.index.equals(adata.var.index):
            subspace, inferred = fitted.latent_space.over_genes(
                source, states, fitted.record.gene_options
            )
            add_genes(result, subspace, inferred, layers=layers)
        return result

    def interpolate(
        self,
        adata: AnnData,
        at: float,
        *,
        time_key: str | None = None,
        two_sided: bool = True,
        n_steps: int = 1,
    ) -> AnnData:
        """The predicted snapshot at time `at`.

        Parameters
        ----------
        adata : AnnData
            Observed cells around that time, with genes of the fit; what was not measured is
            made up for by the others.
        at : float
            In the user's time.
        time_key : str, optional
            Column of times, where it differs from that of the fit.
        two_sided : bool
            Whether the snapshots before and after are both pushed to `at`, or only the one before.
        n_steps : int
            Steps on the way, with a new operator at each.

        Returns
        -------
        AnnData
            One row for each pushed cell. `X`: expression (or coordinates); `obsm["X_cellmnn"]`:
            latent states; `obsm["cellmnn_velocity"]` and `layers["cellmnn_velocity"]`: dz/dt and
            dx/dt; `varm["cellmnn_loadings"]`; `obs`: "time", "weight" (sums to 1; nearer snapshots
            weigh more), "source_time" and "source_cell"; `uns["cellmnn"]`: settings and coverage.

        Warns
        -----
        UserWarning
            If less than half of the genes match, or `at` is outside the observed times.
        """
        fitted = self._fitted_to(adata, time_key)
        _, states, cell_times, coverage = fitted._read(adata, time_key)
        course = TimeCourse.from_cells(states, cell_times)
        model, time_scale = fitted.model, fitted.record.time_scale
        predicted = interpolate(model, course, at, time_scale, two_sided=two_sided, n_steps=n_steps)
        velocity = velocity_at(model, predicted.states, predicted.time, time_scale)
        names = [adata.obs_names[cell_times == time] for time in course.times]
        result = predicted_snapshot(
            predicted, velocity, course.times, names, fitted.panel, fitted.subspace, coverage
        )
        result.uns["cellmnn"] |= {"two_sided": two_sided, "n_steps": n_steps}
        return result

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model, its genes, its record and a stub of a model card to `folder`."""
        folder = Path(folder)
        if self._foundation is not None:
            self._foundation.save(folder, self.model)
            card = card_of_foundation(self._foundation)
        else:
            self.model.save_pretrained(folder)
            self.record.save(folder / RECORD_FILE)
            self.panel.save(folder / GENES_FILE)
            card = card_of_fit(self.record)
        card.save(folder / "README.md")
        remove_training_state(folder)

    @staticmethod
    def _fitted(part):
        if part is None:
            raise InputError(
                "pipeline",
                "a fitted one (or a pretrained one, for what concerns many data sets)",
                "one without",
                "call fit, adapt or from_pretrained",
            )
        return part
