"""Questions to a fitted model, about AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ..data.batches import BatchEffects
from ..data.genes import Coverage, GenePanel
from ..data.latent_space import LatentSpace
from ..data.reading import Source, observed_time, read_batches, read_source
from ..data.subspace import Subspace
from ..data.time_course import TimeCourse
from ..data.times import TimeKey
from ..dynamics.rollout import DEFAULT_TOLERANCE, roll_out
from ..dynamics.snapshots import (
    blended,
    draw_cells,
    growth_rates,
    interpolate,
    velocities,
    velocity_at,
    warn_if_beyond,
)
from ..fitted.card import card_of_fit, card_of_foundation
from ..fitted.foundation import GENES_FILE, Foundation
from ..fitted.record import FitRecord, Recipe
from ..model.checkpoint import whole_or_nothing
from ..model.errors import InputError, require_count, require_number, require_seed
from ..model.modeling_cellmnn import CellMNNModel
from ..model.torch_defaults import with_torch_defaults
from ..training.configs import preset_configs
from ..training.loop import remove_training_state
from ..training.one_course import train
from .grn.estimators import CellStates
from .result import add_region, annotated, followed_cells, predicted_snapshot, require_cells_file
from .uncertainty import known_errors, mean_region, quantile

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
    card : str, optional
        The model card that it was loaded with, which goes on with it.
    """

    def __init__(
        self,
        model: CellMNNModel | None = None,
        record: FitRecord | None = None,
        panel: GenePanel | None = None,
        foundation: Foundation | None = None,
        origin: dict[str, str | None] | None = None,
        card: str | None = None,
    ):
        self._model, self._record, self._panel = model, record, panel
        self._foundation, self.origin, self._card = foundation, origin, card

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
    def is_pretrained(self) -> bool:
        """Whether it is a pipeline of many data sets, that adapts itself to cells."""
        return self._foundation is not None

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

    def time_course(self, adata: AnnData, time_key: str | TimeKey | None = None) -> TimeCourse:
        """The latent time course of `adata`, which must hold genes of the fit, in any order."""
        _, states, cell_times, _ = self.fitted_to(adata, time_key)._read(adata, time_key)
        return TimeCourse.from_cells(states, cell_times)

    def fitted_to(self, adata: AnnData, time_key: str | TimeKey | None) -> Self:
        """The pipeline that answers questions about `adata`: itself, or one adapted to it."""
        return self

    def _read(
        self, adata: AnnData, time_key: str | TimeKey | None
    ) -> tuple[Source, NDArray, NDArray, Coverage]:
        """Values, latent state and time of every cell, and how many genes were found."""
        record = self.record
        source = read_source(adata, record.use_rep, record.layer)
        cell_times = record.times_of(adata, time_key)
        states, coverage = self.latent_space.project(source, record.gene_options)
        if coverage.matched == coverage.panel_genes:
            coverage = record.coverage  # of the fit by a base, where it came from one
        batches = read_batches(adata, record.batch_key)
        if batches is not None and record.batches is not None:
            effects = BatchEffects.from_dict(record.batches)
            states = effects.removed(states, batches, cell_times)
        return source, states, cell_times, coverage

    @with_torch_defaults
    def annotate(
        self,
        adata: AnnData,
        *,
        time_key: str | TimeKey | None = None,
        layers: bool = True,
        file: str | Path | None = None,
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
        file : path, optional
            Where to write the result (.h5ad or .zarr), a few cells at a time; what is returned then
            lacks the matrices of cells and genes, which would take much memory.

        Returns
        -------
        AnnData
            A copy, with `obsm["X_cellmnn"]` (latent states), `obsm["cellmnn_velocity"]` (dz/dt per
            unit of time), in a model with growth `obs["cellmnn_growth"]` (per unit of time,
            relative to the cells of the same time) and, unless the fit is to an embedding of `obsm`
            or to `.raw`, `varm["cellmnn_loadings"]`, `var["cellmnn_inferred"]` (genes that the fit
            did not have: their loadings are those of a regression), `layers["cellmnn_expression"]`
            (expression as the latent states have it) and `layers["cellmnn_velocity"]` (dx/dt).
        """
        require_cells_file(file)
        fitted = self.fitted_to(adata, time_key)
        source, states, cell_times, coverage = fitted._read(adata, time_key)
        about = (fitted.model, states, cell_times, fitted.record.time_scale)
        growth = growth_rates(*about) if fitted.model.config.growth else None
        genes = None
        if source.var.index.equals(adata.var.index):
            genes = fitted.latent_space.over_genes(source, states, fitted.record.gene_options)
        result = annotated(
            adata,
            states,
            velocities(*about),
            growth,
            coverage,
            genes,
            layers=layers,
            to_h5ad=file is not None and Path(file).suffix == ".h5ad",
        )
        return result.given(file)

    @with_torch_defaults
    def interpolate(
        self,
        adata: AnnData,
        at: float,
        *,
        time_key: str | TimeKey | None = None,
        two_sided: bool = True,
        n_steps: int = 1,
        level: float = 0.9,
        blend: bool = False,
        file: str | Path | None = None,
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
        level : float
            How often the region of the mean shall hold what is measured, see
            :class:`cellmnn_fm.questions.uncertainty.MeanRegion`.
        blend : bool
            Whether to fit a model from scratch too, in a second or two, and to predict every cell
            half-way between where the two push it: the closest prediction that is known
            (`benchmarks/recipe.py`). For models that come from a pretrained one.
        file : path, optional
            Where to write the result, as for :meth:`annotate`.

        Returns
        -------
        AnnData
            One row for each pushed cell. `X`: expression (or coordinates); `obsm["X_cellmnn"]`:
            latent states; `obsm["cellmnn_velocity"]` and `layers["cellmnn_velocity"]`: dz/dt and
            dx/dt; `varm["cellmnn_loadings"]`; `obs`: "time", "weight" (sums to 1; nearer snapshots
            weigh more), "source_time" and "source_cell"; `uns["cellmnn"]`: settings and coverage.
            Where it is known how far such predictions are off (two-sided, between observed times,
            not with preset "paper"): `var["cellmnn_mean"]` and `var["cellmnn_margin"]`, the mean
            of each gene and how far off it may be, and `uns["cellmnn"]["mean_radius"]`.

        Raises
        ------
        InputError
            On a blend of a model that was itself fitted from scratch.

        Warns
        -----
        UserWarning
            If less than half of the genes match, or `at` is outside the observed times.
        """
        at = require_number("at", at)
        require_cells_file(file)
        quantile(known_errors("scratch"), level)  # refuses what is no level
        fitted = self.fitted_to(adata, time_key)
        fitted.record.require_near("at", [at])
        _, states, cell_times, coverage = fitted._read(adata, time_key)
        course = TimeCourse.from_cells(states, cell_times)
        if course.times[0] <= at <= course.times[-1]:
            warn_if_beyond([at], fitted.record.times, "times of the fit")
        models = [(fitted.model, fitted.record.time_scale)]
        if blend:
            if fitted.record.recipe in ("scratch", "sliced", None):
                raise InputError(
                    "blend", "a model from a pretrained one", "a fit from scratch", "give a base"
                )
            beside = train(course, *preset_configs("sliced", course))
            models.append((beside.model, beside.time_scale))
        predicted = reduce(
            blended,
            [
                interpolate(model, course, at, time_scale, two_sided=two_sided, n_steps=n_steps)
                for model, time_scale in models
            ],
        )
        velocity = np.mean(
            [velocity_at(model, predicted.states, at, time_scale) for model, time_scale in models],
            axis=0,
        )
        names = [adata.obs_names[cell_times == time] for time in course.times]
        result = predicted_snapshot(
            predicted, velocity, course.times, names, fitted.panel, fitted.subspace, coverage
        )
        result.cells.uns["cellmnn"] |= {"two_sided": two_sided, "n_steps": n_steps, "blend": blend}
        recipe: Recipe | None = "blend" if blend else fitted.record.recipe
        if two_sided and recipe is not None:
            region = mean_region(course, predicted, recipe, level)
            if region is not None:
                add_region(result.cells, region, fitted.subspace)
        return result.given(file)

    @with_torch_defaults
    def trajectory(
        self,
        adata: AnnData | None = None,
        times: Sequence[float] | None = None,
        *,
        time_key: str | TimeKey | None = None,
        start: float | None = None,
        cells: int | None = None,
        n_steps: int | None = None,
        rtol: float = DEFAULT_TOLERANCE,
        atol: float = DEFAULT_TOLERANCE,
        seed: int = 0,
        file: str | Path | None = None,
    ) -> AnnData:
        """Follow cells through time.

        Parameters
        ----------
        adata : AnnData, optional
            Observed cells. Without it, cells are drawn from the distribution, mean and covariance,
            that a model with a Gaussian frame knows of its first time.
        times : sequence of float, optional
            When they are looked at, earlier or later; all observed times from `start` on by
            default.
        time_key : str, optional
            Column of times, where it differs from that of the fit.
        start : float, optional
            The time whose cells are followed; the first by default.
        cells : int, optional
            At most so many, drawn at random; all of a file, else 200.
        n_steps, rtol, atol
            See :func:`cellmnn_fm.dynamics.rollout.roll_out`.
        seed : int
            Of the cells that are drawn.
        file : path, optional
            Where to write the result, as for :meth:`annotate`.

        Returns
        -------
        AnnData
            One row for each cell and time. `obs`: "time", "source_cell", with growth "descendants"
            (relative to the mean of the cells) and, where steps were chosen by tolerance, "error";
            `X`: expression; `obsm["X_cellmnn"]`,
            `obsm["cellmnn_velocity"]`, `layers["cellmnn_velocity"]`; `uns["cellmnn"]`: settings.

        Warns
        -----
        UserWarning
            If a time is outside the observed ones; names the distance.
        """
        require_seed(seed)
        require_cells_file(file)
        if cells is not None:
            require_count("cells", cells)
        fitted = self if adata is None else self.fitted_to(adata, time_key)
        record, rng = fitted.record, np.random.default_rng(seed)
        start = record.times[0] if start is None else require_number("start", start)
        wanted_times = None if times is None else np.atleast_1d(times).tolist()
        if wanted_times is not None:
            if not wanted_times:
                raise InputError("times", "one or more", "none", "name some, or leave them out")
            wanted_times = [require_number("times", at) for at in wanted_times]
            fitted.record.require_near("times", wanted_times)
        if adata is None:
            start = observed_time(start, np.array(record.times[:1]), "start without data")
            wanted = 200 if cells is None else cells
            states = fitted._drawn_states(wanted, seed).states[:wanted]
            names = [f"cell{at}" for at in range(wanted)]
        else:
            _, states, cell_times, _ = fitted._read(adata, time_key)
            start = observed_time(start, cell_times, "start")
            rows = np.flatnonzero(cell_times == start)
            if cells is not None and cells < len(rows):
                rows = np.sort(rng.choice(rows, cells, replace=False))
            states, names = states[rows], adata.obs_names[rows].tolist()
        if wanted_times is None:
            wanted_times = [at for at in record.times if at >= start]
            wanted_times = wanted_times if wanted_times else [start]
        warn_if_beyond(wanted_times, record.times)
        found = roll_out(
            fitted.model,
            states,
            start,
            np.asarray(wanted_times, dtype=np.float64),
            record.time_scale,
            n_steps=n_steps,
            rtol=rtol,
            atol=atol,
        )
        settings = {"dataset": record.name, "rtol": rtol, "atol": atol}
        if n_steps is not None:
            settings = {"dataset": record.name, "n_steps": n_steps}
        result = followed_cells(found, names, fitted.panel, fitted.subspace, settings)
        return result.given(file)

    def _drawn_states(self, cells: int = 200, seed: int = 0) -> CellStates:
        scale = self.record.time_scale
        if not self.model.config.frame:
            raise InputError("adata", "the data, since the model has no frame", "none", "give it")
        drawn = draw_cells(self.model, cells, seed=seed)
        times = np.repeat(scale.to_user(self.model.frame_state().times.numpy(force=True)), cells)
        return CellStates(drawn, velocities(self.model, drawn, times, scale), times)

    def save_pretrained(self, folder: str | Path, *, with_code: bool = False) -> None:
        """Save the model, its genes, its record and a model card to `folder`.

        Whole or not at all, see :func:`cellmnn_fm.model.checkpoint.whole_or_nothing`.

        Parameters
        ----------
        folder : path
        with_code : bool
            Whether the modules of the model come along, see :meth:`CellMNNModel.save_pretrained`.
        """
        model = self.model
        with whole_or_nothing(folder) as staging:
            if self._foundation is not None:
                self._foundation.save(staging, model, with_code=with_code)
                card = str(card_of_foundation(self._foundation))
            else:
                model.save_pretrained(staging, with_code=with_code)
                self.record.save(staging / RECORD_FILE)
                self.panel.save(staging / GENES_FILE)
                card = str(card_of_fit(self.record))
            (staging / "README.md").write_text(self._card or card)
        remove_training_state(Path(folder))

    @staticmethod
    def _fitted(part):
        if part is None:
            raise InputError(
                "pipeline",
                "a fitted one (or a pretrained one, for what concerns many data sets)",
                "one without",
                "call fit, adapt, from_pretrained, or of_dataset for one that it knows",
            )
        return part
