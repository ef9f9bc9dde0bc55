"""AnnData in, AnnData out: fit, ask, evaluate, save and load, in one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from .data.genes import GenePanel
from .data.introduced import Introduced
from .data.options import (
    BELIEVED_BEYOND,
    NOISE,
    AskKeywords,
    Decay,
    Estimator,
    EvaluatedPreset,
    FineTuningMode,
    FitKeywords,
    FitReading,
    Part,
    Preset,
    Protocol,
    QuestionReading,
    ReadingKeywords,
    ReadingOptions,
    Response,
    Start,
)
from .data.subspace import Subspace
from .data.time_course import TimeCourse
from .dynamics.rollout import DEFAULT_TOLERANCE
from .evaluation.candidates import blend_candidate, foundation_candidate, preset_candidates
from .evaluation.evaluation import Evaluation, evaluate
from .fitted.card import card_of_fit, card_of_foundation
from .fitted.fitted_model import Cells, FittedModel
from .fitted.fitting import Run, adapt_base, dataset_of, finetune_base, fit_from_scratch, named
from .fitted.foundation import Foundation
from .fitted.loading import load_content
from .fitted.record import FitRecord
from .model.checkpoint import whole_or_nothing
from .model.errors import InputError, listed, require_count, require_seed
from .model.hub import upload
from .model.modeling_cellmnn import CellMNNModel
from .model.torch_defaults import with_torch_defaults
from .questions.annotation import annotation
from .questions.conditions import ConditionComparison, compare, require_columns
from .questions.fates import STEPS_TO_END, FateTable, fates
from .questions.grn.estimators import DEFAULT_RIDGE, CellStates
from .questions.grn.network import GeneRegulatoryNetwork
from .questions.grn.question import cell_states, consensus_network, network
from .questions.growth import GrowthTable, growth, require_growth
from .questions.interpolation import interpolation, times_asked
from .questions.perturbation import Perturbation, perturb
from .questions.result import require_cells_file
from .questions.screen import screen
from .questions.trajectory import trajectory
from .training.finetuning import DEFAULT_ANCHOR, DEFAULT_STEPS, finetuning_config
from .training.loop import remove_training_state

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class CellMNNPipeline(Introduced):
    """From an AnnData time course to trajectories, in three lines.

    Snapshots are reduced to latent states z = (x - μ) E; a [`CellMNNModel`] predicts at every state
    and time the linear ODE dz/dt = A z + b, which is solved in closed form; what it predicts comes
    back as AnnData in gene space.

    Without a model the pipeline is there to be fitted. One of a single data set answers questions
    about its cells, or others like them; a pretrained one, of many data sets, adapts itself to the
    cells that it is asked about. How cells are read, `**reading` of every question, are the
    keywords of :class:`cellmnn_fm.data.options.QuestionReading`. Who asks several questions reads
    once, by :meth:`cells`, and gives that in place of AnnData.

    Parameters
    ----------
    content : FittedModel or Foundation, optional
        A fitted model of one data set, or a pretrained one of many.
    origin : dict, optional
        Where it was loaded from: "name", "revision" on the Hub, "sha256" of the weights.
    card : str, optional
        The model card that it was loaded with, which goes on with it.

    Examples
    --------
    >>> from cellmnn_fm import CellMNNPipeline
    >>> from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
    >>> adata = KNOWN_SYSTEMS["linear"].to_anndata(cells=50, seed=0)
    >>> pipeline = CellMNNPipeline().fit(adata, time_key="time", steps=5)
    >>> pipeline.interpolate(adata, at=1.25)  # 50 cells pushed from t = 1, 50 from t = 1.5
    AnnData object with n_obs × n_vars = 100 × 2
        obs: 'time', 'weight', 'source_time', 'source_cell', 'stopped'
        var: 'cellmnn_mean', 'cellmnn_margin'
        uns: 'cellmnn'
        obsm: 'X_cellmnn', 'cellmnn_velocity'
        varm: 'cellmnn_loadings'
        layers: 'cellmnn_velocity'
    """

    def __init__(
        self,
        content: FittedModel | Foundation | None = None,
        origin: dict[str, str | None] | None = None,
        card: str | None = None,
    ):
        self._content, self.origin, self._card = content, origin, card

    def __repr__(self) -> str:
        return f"CellMNNPipeline {self._content or 'without a model: fit, or from_pretrained'}"

    @property
    def is_pretrained(self) -> bool:
        """Whether it is a pipeline of many data sets, that adapts itself to cells."""
        return isinstance(self._content, Foundation)

    @property
    def fitted(self) -> FittedModel:
        """The model of one data set, with its record and genes."""
        return self._required(FittedModel)

    @property
    def foundation(self) -> Foundation:
        """The model of many data sets, with these and the shared subspace."""
        return self._required(Foundation)

    @property
    def model(self) -> CellMNNModel:
        """The network with its weights."""
        return self._required(FittedModel | Foundation).model

    @property
    def record(self) -> FitRecord:
        """What the pipeline was fitted to, and how."""
        return self.fitted.record

    @property
    def panel(self) -> GenePanel:
        """The genes (or coordinates) that the pipeline reads and predicts."""
        return self.fitted.panel

    @property
    def subspace(self) -> Subspace:
        """The map between genes and latent states."""
        return self.fitted.subspace

    def _required(self, kind: Any) -> Any:
        """The content, of that kind; an error says what to call first."""
        if not isinstance(self._content, kind):
            raise InputError(
                "pipeline",
                "a fitted one (or a pretrained one, for what concerns many data sets)",
                "one without",
                "assign what fit, adapt, from_pretrained or of_dataset give back",
            )
        return self._content

    # --- from data to a model

    @with_torch_defaults
    def fit(
        self,
        adata: AnnData,
        *,
        preset: Preset = "default",
        frame: bool = False,
        steps: int | None = None,
        name: str | None = None,
        seed: int = 0,
        verdict: bool = True,
        folder: str | Path | None = None,
        progress: bool = False,
        **reading: Unpack[FitKeywords],
    ) -> CellMNNPipeline:
        """Fit a model to one time course, from scratch; returns a new pipeline.

        Parameters
        ----------
        adata : AnnData
            The time course, in memory or backed.
        preset : {"default", "sliced", "paper"}
            "sliced" is closest to held-out snapshots, "paper" is as published.
        frame : bool
            Whether the model works in the Gaussian frame.
        steps : int, optional
            Training steps in place of the preset's.
        name : str, optional
            Of the data set; `uns["name"]` or "course" by default.
        seed : int
            Of the principal components, the weights and the cells drawn.
        verdict : bool
            Whether to say at the end how good predictions of left-out times are, see
            :class:`cellmnn_fm.evaluation.verdict.Verdict`; one more fit for each of them. It is in
            `pipeline.record.verdict`.
        folder : path, optional
            Where the state of the training is kept, so that the same call resumes it.
        progress : bool
            Whether to show progress bars.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.FitReading`: time_key, use_rep, layer,
            symbols, on_duplicates, batch_key; n_dims, subspace, subspace_mode, growth,
            population. An embedding is z-scored for the model.

        Raises
        ------
        InputError
            On unusable input, before any training, and if the pipeline is fitted already.
        """
        if self._content is not None:
            raise InputError(
                "fit",
                "a pipeline without a model",
                "a pretrained one" if self.is_pretrained else "one that is fitted already",
                "call its finetune" if self.is_pretrained else "call CellMNNPipeline().fit",
            )
        if isinstance(adata, Mapping):
            raise InputError("adata", "one AnnData", "several", "fine-tune a pretrained pipeline")
        if steps is not None:
            require_count("steps", steps, 0)
        run = Run.checked(seed, verdict, folder, progress)
        how: dict[str, Any] = {"preset": preset, "frame": frame, "steps": steps, "name": name}
        return CellMNNPipeline(fit_from_scratch(adata, FitReading(**reading), run, **how))

    @with_torch_defaults
    def finetune(
        self,
        adata: AnnData | Mapping[str, AnnData],
        *,
        mode: FineTuningMode = "full",
        start: Start | str = "inferred",
        anchor: float = DEFAULT_ANCHOR,
        steps: int = DEFAULT_STEPS,
        name: str | None = None,
        seed: int = 0,
        verdict: bool = True,
        folder: str | Path | None = None,
        progress: bool = False,
        **reading: Unpack[ReadingKeywords],
    ) -> CellMNNPipeline:
        """Fine-tune a pretrained pipeline, which stays as it is; returns a new one.

        On one time course, for a model of that one; or on several, jointly, for a pipeline that
        knows these too, see :meth:`of_dataset`.

        Parameters
        ----------
        adata : AnnData, or mapping of AnnData by name
            One time course, or several that are learned jointly.
        mode : {"full", "embedding", "lora"}
            Change all, the new embedding alone, or the network at low rank; see
            :func:`cellmnn_fm.training.finetuning.finetune`.
        start : {"inferred", "mean"} or the name of a data set
            The embedding to start from, see :meth:`adapt`.
        anchor : float
            How much the base counts.
        steps : int
            Training steps.
        name : str, optional
            Of a single data set; by default `uns["name"]` or "course", with a number if the base
            has one of that name.
        seed, verdict, folder, progress
            As for :meth:`fit`.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.ReadingOptions`.

        Raises
        ------
        InputError
            On unusable input, before any training, and if the pipeline is not a pretrained one.

        Warns
        -----
        UserWarning
            If the base was pretrained on the same cells, which makes a verdict none.
        """
        base = self.foundation
        if name is not None and isinstance(adata, Mapping):
            raise InputError("name", "none with several data sets", name, "they have theirs")
        require_count("steps", steps, 0)
        run = Run.checked(seed, verdict, folder, progress)
        adatas = named(adata, name, base)
        if verdict:
            for course in adatas.values():
                base.warn_if_seen(course)
        tuned = CellMNNPipeline(
            finetune_base(
                base,
                adatas,
                ReadingOptions(**reading),
                run,
                mode=mode,
                start=start,
                anchor=anchor,
                training=finetuning_config(steps),
                origin=self.origin,
            )
        )
        return tuned if isinstance(adata, Mapping) else tuned.of_dataset(next(iter(adatas)))

    @with_torch_defaults
    def adapt(
        self,
        adata: AnnData,
        *,
        start: Start | str = "inferred",
        **reading: Unpack[AskKeywords],
    ) -> CellMNNPipeline:
        """What a pretrained pipeline says of a data set, without any training: a new pipeline.

        Parameters
        ----------
        adata : AnnData
            The time course; 2 or more times.
        start : {"inferred", "mean"} or the name of a data set
            The embedding of the data set: inferred from its snapshots, the mean of those that the
            model knows, or that of one of them.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.

        Raises
        ------
        InputError
            On unusable input, and if the pipeline is not a pretrained one.
        """
        options = QuestionReading(**reading)
        cells = adapt_base(self.foundation, adata, options, start=start, origin=self.origin)
        return CellMNNPipeline(cells.fitted)

    @with_torch_defaults
    def of_dataset(self, name: str) -> CellMNNPipeline:
        """What a pipeline of many data sets says of one of them, as a pipeline of that one.

        Parameters
        ----------
        name : str
            One of `foundation.datasets`.

        Raises
        ------
        InputError
            If it does not know the data set, or its genes.
        """
        if not isinstance(self._content, Foundation):
            raise InputError(
                "data set", "a model of many", "a model of one, or none", "do not name a data set"
            )
        return CellMNNPipeline(dataset_of(self._content, name), origin=self.origin)

    # --- questions

    @with_torch_defaults
    def cells(self, adata: AnnData | Cells, **reading: Unpack[AskKeywords]) -> Cells:
        """Read and project the cells of a file once, for all that is asked about them.

        Parameters
        ----------
        adata : AnnData or Cells
            The latter are given back as they are.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`. What a fit knows of its
            own file is taken from there where it is not given; a pretrained pipeline needs
            `time_key`.

        Returns
        -------
        Cells
            With the fitted model that they are asked of: that of the pipeline, or what a
            pretrained one makes of them.

        Raises
        ------
        InputError
            On values, genes or times that cannot be used.
        """
        options = QuestionReading(**reading)
        if isinstance(adata, Cells):
            if options.given:
                actual = listed(options.given)
                raise InputError("cells", "no keywords: they are read", actual, "leave them out")
            return adata
        if not isinstance(self._content, Foundation):
            return self.fitted.cells(adata, options)
        return adapt_base(self._content, adata, options, origin=self.origin)

    def time_course(self, adata: AnnData | Cells, **reading: Unpack[AskKeywords]) -> TimeCourse:
        """The latent time course of `adata`, which must hold genes of the fit, in any order.

        Parameters
        ----------
        adata, **reading
            As for :meth:`cells`.
        """
        return self.cells(adata, **reading).course

    @with_torch_defaults
    def annotate(
        self,
        adata: AnnData | Cells,
        *,
        layers: bool = True,
        ahead: bool = False,
        file: str | Path | None = None,
        **reading: Unpack[AskKeywords],
    ) -> AnnData:
        """Where observed cells are, and where they are going.

        Parameters
        ----------
        adata : AnnData or Cells
            Observed cells, with genes of the fit.
        layers : bool
            Whether to add what needs a dense array of cells and genes.
        ahead : bool
            Whether to say how far each cell is ahead of its time, or behind, see
            :func:`cellmnn_fm.questions.ahead.ahead`.
        file : path, optional
            Where to write the result (.h5ad or .zarr), a few cells at a time; what is returned then
            lacks the matrices of cells and genes, which would take much memory.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.

        Returns
        -------
        AnnData
            A copy, with `obsm["X_cellmnn"]` (latent states), `obsm["cellmnn_velocity"]` (dz/dt per
            unit of time), in a model with growth `obs["cellmnn_growth"]` (per unit of time,
            relative to the cells of the same time), with `ahead` `obs["cellmnn_ahead"]` (in units
            of time) and, unless the fit is to an embedding of `obsm`
            or to `.raw`, `varm["cellmnn_loadings"]`, `var["cellmnn_inferred"]` (genes that the fit
            did not have: their loadings are those of a regression), `layers["cellmnn_expression"]`
            (expression as the latent states have it) and `layers["cellmnn_velocity"]` (dx/dt).
        """
        require_cells_file(file)
        to_h5ad = file is not None and Path(file).suffix == ".h5ad"
        cells = self.cells(adata, **reading)
        how: dict[str, Any] = {"layers": layers, "with_ahead": ahead, "to_h5ad": to_h5ad}
        return annotation(cells, **how).given(file)

    @with_torch_defaults
    def interpolate(
        self,
        adata: AnnData | Cells,
        at: float | str | Sequence[float | str],
        *,
        two_sided: bool = True,
        n_steps: int = 1,
        level: float = 0.9,
        blend: bool = False,
        damping: float = BELIEVED_BEYOND,
        n_paths: int | None = None,
        noise: float = NOISE,
        seed: int = 0,
        file: str | Path | None = None,
        **reading: Unpack[AskKeywords],
    ) -> AnnData:
        """The predicted snapshot at time `at`, or at several.

        Parameters
        ----------
        adata : AnnData or Cells
            Observed cells around that time, with genes of the fit; what was not measured is
            made up for by the others.
        at : float, str or sequence of these
            In the user's time; or a label such as "day 3", where times have a unit.
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
            (`studies/recipe.py`). For models that come from a pretrained one.
        damping : float
            Beyond the observed times: the share of the movement that is believed, 1 for all. A
            quarter is what other data sets bear out; see
            :data:`cellmnn_fm.data.options.BELIEVED_BEYOND`.
        n_paths : int, optional
            Follow every cell along so many paths with noise, for where it may be as well.
        noise : float
            How far cells diffuse in the whole course, in spreads of the cells of one time, see
            :class:`cellmnn_fm.dynamics.diffusion.Diffusion`.
        seed : int
            Of the paths.
        file : path, optional
            Where to write the result, as for :meth:`annotate`.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.

        Returns
        -------
        AnnData
            One row for each pushed cell. `X`: expression (or coordinates); `obsm["X_cellmnn"]`:
            latent states; `obsm["cellmnn_velocity"]` and `layers["cellmnn_velocity"]`: dz/dt and
            dx/dt; `varm["cellmnn_loadings"]`; `obs`: "time", "weight" (sums to 1; nearer snapshots
            weigh more), "source_time" and "source_cell"; `uns["cellmnn"]`: settings and coverage.
            Where it is known how far such predictions are off (two-sided, not with preset "paper";
            beyond the last time with the default damping, and neither fine-tuned nor blended):
            `var["cellmnn_mean"]` and `var["cellmnn_margin"]`, the mean of each gene and how far
            off it may be, and `uns["cellmnn"]["mean_radius"]`. With
            `n_paths` `obsm["cellmnn_low"]` and `obsm["cellmnn_high"]`: where each cell is, by
            latent dimension, with probability `level`. Of several times all rows are in one, by
            `obs["time"]`; weights sum to 1 at each, and `varm["cellmnn_mean"]` and
            `varm["cellmnn_margin"]` have a column for each.

        Raises
        ------
        InputError
            On a blend of a model that was itself fitted from scratch.

        Warns
        -----
        UserWarning
            If less than half of the genes match, or `at` is outside the observed times.
        """
        times = times_asked(at)
        require_cells_file(file)
        how: dict[str, Any] = {"two_sided": two_sided, "n_steps": n_steps, "level": level}
        how |= {"blend": blend, "damping": damping}
        how |= {"n_paths": n_paths, "noise": noise, "seed": seed}
        return interpolation(self.cells(adata, **reading), times, **how).given(file)

    @with_torch_defaults
    def trajectory(
        self,
        adata: AnnData | Cells | None = None,
        times: Sequence[float] | None = None,
        *,
        start: float | None = None,
        cells: int | None = None,
        n_steps: int | None = None,
        rtol: float = DEFAULT_TOLERANCE,
        atol: float = DEFAULT_TOLERANCE,
        n_paths: int | None = None,
        noise: float = NOISE,
        seed: int = 0,
        file: str | Path | None = None,
        **reading: Unpack[AskKeywords],
    ) -> AnnData:
        """Follow cells through time.

        Parameters
        ----------
        adata : AnnData or Cells, optional
            Observed cells. Without it, cells are drawn from the distribution, mean and covariance,
            that a model with a Gaussian frame knows of its first time.
        times : sequence of float, optional
            When they are looked at, earlier or later; all observed times from `start` on by
            default.
        start : float, optional
            The time whose cells are followed; the first by default.
        cells : int, optional
            At most so many, drawn at random; all of a file, else 200.
        n_steps, rtol, atol
            See :func:`cellmnn_fm.dynamics.rollout.roll_out`.
        n_paths : int, optional
            So many paths of each cell, with noise: cells that are alike part. For observed cells;
            with 2 steps between observed times where `n_steps` does not say otherwise.
        noise : float
            See :meth:`interpolate`.
        seed : int
            Of the cells that are drawn, and of the paths.
        file : path, optional
            Where to write the result, as for :meth:`annotate`.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.

        Returns
        -------
        AnnData
            One row for each cell (or path) and time. `obs`: "time", "source_cell", with `n_paths`
            the number of the "path", with growth "descendants"
            (relative to the mean of the cells) and, where steps were chosen by tolerance, "error";
            `X`: expression; `obsm["X_cellmnn"]`,
            `obsm["cellmnn_velocity"]`, `layers["cellmnn_velocity"]`; `uns["cellmnn"]`: settings.

        Warns
        -----
        UserWarning
            If a time is outside the observed ones; names the distance.
        """
        require_cells_file(file)
        how: dict[str, Any] = {"n_steps": n_steps, "rtol": rtol, "atol": atol, "seed": seed}
        how |= {"n_paths": n_paths, "noise": noise}
        asked = self.fitted if adata is None else self.cells(adata, **reading)
        return trajectory(asked, times, start=start, cells=cells, **how).given(file)

    @with_torch_defaults
    def fates(
        self,
        adata: AnnData | Cells,
        groups: str | int,
        *,
        start: float | None = None,
        end: float | None = None,
        n_steps: int | None = None,
        n_paths: int | None = None,
        noise: float = NOISE,
        seed: int = 0,
        progress: bool = False,
        **reading: Unpack[AskKeywords],
    ) -> FateTable:
        """Follow cells to the end, and say in which group they are then.

        Parameters
        ----------
        adata : AnnData or Cells
            Observed cells.
        groups : str or int
            Column of `obs` with the groups at the end, such as cell types; cells without are left
            out there. Or how many clusters of them to make, see
            :func:`cellmnn_fm.questions.terminal_groups.clusters`.
        start : float, optional
            Only cells of this time are followed; all up to `end` by default.
        end : float, optional
            The time whose groups count; the last by default.
        n_steps : int, optional
            Between two stops, see :func:`cellmnn_fm.dynamics.rollout.roll_out`; 4, and 2 along
            many paths, which stop at all observed times.
        n_paths : int, optional
            Follow every cell along so many paths with noise: a fate is the share of its descendants
            that end there, and has an interval. Along the single path without noise most cells look
            decided; 30 paths give probabilities that come true on simulated systems.
        noise : float
            See :meth:`interpolate`.
        seed : int
            Of the paths.
        progress : bool
            Whether to show a progress bar.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.

        Raises
        ------
        InputError
            On a column that is not there, and with less than two groups of 5 cells at the end.
        """
        cells = self.cells(adata, **reading)
        how: dict[str, Any] = {"start": start, "end": end, "n_steps": n_steps}
        how |= {"n_paths": n_paths, "noise": noise, "seed": seed, "progress": progress}
        return fates(cells, groups, **how)

    @with_torch_defaults
    def perturb(
        self,
        adata: AnnData | Cells,
        genes: Mapping[str, float | str],
        groups: str | int,
        *,
        start: float | None = None,
        end: float | None = None,
        response: Response = "network",
        n_steps: int = STEPS_TO_END,
        seed: int = 0,
        **reading: Unpack[AskKeywords],
    ) -> Perturbation:
        """Set genes to values: how fates and expression at the end shift.

        Genes are held at these values from `start` on. What becomes of the others is the response
        of the network of production rates that :meth:`grn` finds, along each cell's own path; see
        :class:`cellmnn_fm.questions.network_response.NetworkResponse`. On simulated networks it has
        the sign of nine in ten shifts right (`benchmarks/knockouts.py`). It is a prediction of a
        model that knows associations, to be tested in cells.

        Parameters
        ----------
        adata, groups, start, end, n_steps, **reading
            As for :meth:`fates`; without `start` the cells of the first time are followed.
        genes : mapping
            For each gene its expression, or "knock-out" (its lowest value) or "over-express" (its
            99 % quantile).
        response : {"network", "flow"}
            "flow" moves cells at once by Σ E_j (value - x_j) and lets them go: the linear response
            of the model along their paths. There a gene that merely goes along with a fate shifts
            it too; genes that the fit did not have can be asked about, are placed by regression,
            and flagged.
        seed : int
            Of the resampled cells.

        Raises
        ------
        InputError
            On genes that are not there or do not vary, by name.
        """
        require_seed(seed)
        how: dict[str, Any] = {"start": start, "end": end, "n_steps": n_steps, "seed": seed}
        how["response"] = response
        return perturb(self.cells(adata, **reading), genes, groups, **how)

    @with_torch_defaults
    def screen(
        self,
        adata: AnnData | Cells,
        groups: str | int,
        regulators: Sequence[str] | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        n_steps: int = STEPS_TO_END,
        seed: int = 0,
        progress: bool = False,
        **reading: Unpack[AskKeywords],
    ) -> pd.DataFrame:
        """Knock out every regulator by itself, as :meth:`perturb` does, and test the shifts.

        Parameters
        ----------
        adata, groups, start, end, n_steps, **reading
            As for :meth:`perturb`.
        regulators : sequence of str, optional
            Genes of the model to be knocked out, such as its transcription factors; all by default.
        seed : int
            Of the shadows, see :func:`cellmnn_fm.questions.screen.screen`.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        DataFrame
            "gene", "group", "shift" of the group's share at the end, "p" against genes that
            regulate nothing, and "q" over all genes; the largest shift first.

        Raises
        ------
        InputError
            On regulators that the model does not have.
        """
        how: dict[str, Any] = {"start": start, "end": end, "n_steps": n_steps, "seed": seed}
        cells = self.cells(adata, **reading)
        return screen(cells, groups, regulators, progress=progress, **how)

    @with_torch_defaults
    def compare(
        self,
        adata: AnnData | Cells,
        condition: str,
        *,
        sample_key: str | None = None,
        groups: str | None = None,
        permutations: int = 200,
        seed: int = 0,
        progress: bool = False,
        **reading: Unpack[ReadingKeywords],
    ) -> ConditionComparison:
        """Where two conditions lead the same cells, with a permutation test.

        A pretrained pipeline adapts itself to the cells of either condition, in one latent space,
        and to those of every permutation, which takes no training. Samples are exchanged, where
        they are named; cells of a sample are no replicates of each other.

        Parameters
        ----------
        adata : AnnData or Cells
            Observed cells of both conditions.
        condition : str
            Column of `obs` with two values.
        sample_key : str, optional
            Column of `obs` with the donor, animal or culture of each cell, see
            :class:`cellmnn_fm.questions.replicates.Replicates`. One that has cells in both
            conditions is a pair.
        groups : str, optional
            Column of `obs` with the groups at the last time, for the fates.
        permutations, seed, progress
            See :func:`cellmnn_fm.questions.conditions.compare_conditions`.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.ReadingOptions`.

        Raises
        ------
        InputError
            On columns that are not there, and unless there are two conditions with two times in
            common, and enough samples.
        """
        require_seed(seed)
        require_count("permutations", permutations)
        require_columns(adata, condition, groups, sample_key)
        if not self.is_pretrained:
            raise InputError("compare", "a pretrained pipeline", "another one", "load cellmnn-base")
        how: dict[str, Any] = {"permutations": permutations, "seed": seed, "progress": progress}
        how |= {"groups": groups, "sample_key": sample_key}
        return compare(self.cells(adata, **reading), self.model, condition, **how)

    @with_torch_defaults
    def growth(
        self,
        adata: AnnData | Cells,
        groups: str | None = None,
        *,
        population: Mapping[float, float] | None = None,
        absolute: bool = False,
        **reading: Unpack[AskKeywords],
    ) -> GrowthTable:
        """How fast the cells of `adata` multiply.

        Rates of single cells are noisy; means of groups are what to read.

        Parameters
        ----------
        adata : AnnData or Cells
            Observed cells.
        groups : str, optional
            Column of `obs`, such as cell types, to take means over.
        population : mapping, optional
            How many cells there were at two or more times, in any unit, see
            :class:`cellmnn_fm.data.population.PopulationSize`; for absolute rates and sizes of
            groups. Those that the fit was told by default.
        absolute : bool
            Ask for absolute rates, which is an error without `population`.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.

        Raises
        ------
        InputError
            If the model was fitted without growth, and on columns or counts that cannot be used.

        Examples
        --------
        >>> from cellmnn_fm import CellMNNPipeline
        >>> from cellmnn_fm.data.synthetic import GROWING_SWITCH
        >>> adata = GROWING_SWITCH.to_anndata(cells=100, seed=0)
        >>> adata.obs["branch"] = (adata.X[:, 0] > 0).astype(str)
        >>> how = {"growth": True, "verdict": False, "steps": 20}  # 400 by default
        >>> pipeline = CellMNNPipeline().fit(adata, time_key="time", **how)
        >>> found = pipeline.growth(adata, "branch", population={0.0: 1000, 3.0: 1350})
        >>> list(found.groups.columns)
        ['time', 'group', 'rate', 'cells', 'share', 'size']
        """
        require_growth(self.model)
        cells = self.cells(adata, **reading)
        return growth(cells, groups, population=population, absolute=absolute)

    @with_torch_defaults
    def cell_states(
        self, adata: AnnData | Cells | None = None, **reading: Unpack[AskKeywords]
    ) -> CellStates:
        """Where cells are and where they are going, and their expression of the genes of the fit.

        Parameters
        ----------
        adata : AnnData or Cells, optional
            Observed cells, of which at most 10,000 are drawn. Without it 200 cells are drawn from
            each of the distributions, mean and covariance, that a model with a frame knows.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.
        """
        return cell_states(self.fitted if adata is None else self.cells(adata, **reading))

    @with_torch_defaults
    def grn(
        self,
        adata: AnnData | Cells | None = None,
        *,
        genes: Sequence[str] | None = None,
        consensus: bool = False,
        where: NDArray[np.bool_] | None = None,
        estimator: Estimator = "auto",
        decay: Decay = None,
        ridge: float = DEFAULT_RIDGE,
        around: str | None = None,
        part: Part = "learned",
        members: int = 0,
        seed: int = 0,
        **reading: Unpack[AskKeywords],
    ) -> GeneRegulatoryNetwork:
        """The gene regulatory network of some cells: of all, or of those of a time, type or branch.

        Parameters
        ----------
        adata : AnnData or Cells, optional
            Observed cells; see :meth:`cell_states` for what stands for them without, and `genes`.
        genes : sequence of str, optional
            Of a pretrained pipeline, without cells: the network of these genes (human symbols, or
            those of mice) in the data sets that it knows, see
            :func:`cellmnn_fm.questions.grn.consensus.consensus`.
        consensus : bool
            Add that mean to the network of the cells. It is that of this pipeline if it is a
            pretrained one that has networks, else of cellmnn-base. Data sets of the same cells, by
            ``adata.uns["name"]`` and ``["overlaps"]``, do not count.
        where : (cells,) mask, optional
            Those of them that the network is about, such as ``adata.obs["day"] == 3``; a
            pretrained model adapts itself to all.
        estimator : {"auto", "production", "association", "operator", "jacobian"}
            Production rates regressed on expression, which is right about most signs where all
            genes are seen; or correlation of ranks and velocities given the size of cells, which
            is ahead where there are many genes, see
            :func:`cellmnn_fm.questions.grn.association.association_network`. By default the first
            of up to 50 genes, without measured cells, and with `around` or `decay`, else the
            second; `record["chosen"]` says why. Or the operator of the paper, which mostly is right
            about neither, or its Jacobian.
        decay, ridge
            Of "production", see
            :func:`cellmnn_fm.questions.grn.estimators.production_network`.
        around : str, optional
            Name of a cell: the others count the less the farther they are from it.
        part : {"learned", "frame", "all"}
            Of "operator" and "jacobian", see
            :func:`cellmnn_fm.questions.grn.estimators.operator_network`.
        members : int
            How often cells are resampled for a confidence in each edge, of the first two; these
            then also say where they agree.
        seed : int
            Of the resampling.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.QuestionReading`.

        Raises
        ------
        InputError
            On unusable options, and for a fit to coordinates that have no genes.
        """
        how: dict[str, Any] = {"where": where, "estimator": estimator, "decay": decay}
        how |= {"ridge": ridge, "around": around, "part": part, "members": members, "seed": seed}
        shared = consensus or genes is not None
        if adata is None and shared and isinstance(self._content, Foundation):
            return consensus_network(self._content, genes=genes)
        asked = self.fitted if adata is None else self.cells(adata, **reading)
        if not shared:
            return network(asked, **how)
        return consensus_network(self._content, asked, genes, **how)

    # --- how far to trust it

    @with_torch_defaults
    def evaluate(
        self,
        adata: AnnData,
        *,
        protocol: Protocol = "strict",
        frame: bool = False,
        preset: EvaluatedPreset = "default",
        seeds: int = 3,
        progress: bool = False,
        **reading: Unpack[FitKeywords],
    ) -> Evaluation:
        """Leave each interior time out, fit without it, and compare the prediction with baselines.

        A pretrained pipeline adds what it says of the data set without any training, `zero_shot`,
        and half-way from there to a fit, `blend`; it evaluates in its own subspace.

        Parameters
        ----------
        adata : AnnData
            The time course; 3 or more times.
        protocol, seeds, progress
            See :func:`cellmnn_fm.evaluation.evaluation.evaluate`. Under "strict" a shared subspace
            is fitted anew without the held-out time, and without data sets that share cells with
            `adata`, where it knows them by `uns["name"]`.
        frame : bool
            Of the fits, as for :meth:`fit`.
        preset : {"default", "sliced", "paper", "leaky"}
            "sliced" adds fits by sliced W1 as method `sliced`; "paper" adds the published setting
            as method `paper`, stopped on its training loss; "leaky" adds it stopped on the
            held-out W1 too, as published (`paper_leaky`). Both take minutes.
        **reading
            Keywords of :class:`cellmnn_fm.data.options.FitReading`, as for :meth:`fit`; `n_dims`
            (5 by default) are those in which W1 is taken.

        Warns
        -----
        UserWarning
            If it was pretrained on the data set, or on one that shares cells with it.
        """
        require_count("seeds", seeds)
        options = FitReading(**reading)
        if options.n_dims is not None:
            require_count("n_dims", options.n_dims)
        candidates = preset_candidates(preset, frame=frame, growth=options.growth)
        if isinstance(self._content, Foundation):
            base = self._content
            if options.subspace is not None:
                raise InputError(
                    "subspace", "none: a pretrained model has its own", "one", "leave it out"
                )
            mode = base.subspace_mode
            options = replace(options, subspace=base.shared, subspace_mode=mode)
            base.warn_if_seen(adata)
            candidates += [foundation_candidate(self.model), blend_candidate(self.model)]
        evaluation = evaluate(
            adata, candidates, options, protocol=protocol, seeds=seeds, progress=progress
        )
        settings = {**evaluation.settings, "frame": frame, "preset": preset}
        settings["growth"] = options.growth is not False
        return replace(evaluation, settings=settings)

    # --- where it is kept

    @classmethod
    @with_torch_defaults
    def from_pretrained(
        cls, name_or_path: str | Path, dataset: str | None = None, **download: Any
    ) -> CellMNNPipeline:
        """Load a pipeline: from a folder, by a name that comes with the package, or from the Hub.

        Parameters
        ----------
        name_or_path : str or path
            Looked for in this order.
        dataset : str, optional
            One of the data sets that it knows, see :meth:`of_dataset`.
        **download
            Of a model of the Hub, as for `huggingface_hub.snapshot_download`: revision, token,
            cache_dir, local_files_only, force_download.

        Examples
        --------
        >>> from cellmnn_fm import CellMNNPipeline
        >>> base = CellMNNPipeline.from_pretrained("cellmnn-base")
        >>> base.of_dataset("hesc_endoderm").trajectory(times=[0.0, 1.5, 4.0], cells=10).n_obs
        30

        Raises
        ------
        InputError
            If a file of it is missing or does not load.
        """
        loaded = cls(*load_content(name_or_path, **download))
        return loaded if dataset is None else loaded.of_dataset(dataset)

    def save_pretrained(self, folder: str | Path, *, with_code: bool = False) -> None:
        """Save the model, its genes, its record and a model card to `folder`.

        Whole or not at all, see :func:`cellmnn_fm.model.checkpoint.whole_or_nothing`.

        Parameters
        ----------
        folder : path
            Made if need be; one that is there must be ours.
        with_code : bool
            Whether the modules of the model come along, see :meth:`CellMNNModel.save_pretrained`.
        """
        content = self._required(FittedModel | Foundation)
        many = isinstance(content, Foundation)
        with whole_or_nothing(folder) as staging:
            content.save(staging, with_code=with_code)
            card = card_of_foundation(content) if many else card_of_fit(content.record)
            (staging / "README.md").write_text(self._card or str(card))
        remove_training_state(Path(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the pipeline to the Hub, with its card and the modules of its model.

        Parameters
        ----------
        repo_id : str
            "user/name".
        **options
            See :func:`cellmnn_fm.model.hub.upload`: private, token, commit_message, revision.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        InputError
            Without a token that may write there, and if the Hub cannot be reached.
        """
        return upload(
            lambda folder: self.save_pretrained(folder, with_code=True), repo_id, **options
        )
