"""AnnData in, AnnData out: fit, interpolate, evaluate, save and load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from .errors import InputError
from .evaluation import (
    Candidate,
    Evaluation,
    Fold,
    Prediction,
    Protocol,
    evaluate,
    wasserstein1,
)
from .fit_record import FitRecord
from .gene_panel import Coverage, GenePanel, OnDuplicates
from .latent_space import GeneOptions, LatentSpace, SpaceOptions, SubspaceMode, SymbolSource
from .modeling_cellmnn import CellMNNModel
from .optimisation import remove_training_state
from .reading import Source, read_source, read_times
from .recipes import Preset, preset_configs
from .results import add_genes, annotated, predicted_snapshot
from .shared_subspace import SharedSubspace
from .subspace import Subspace
from .time_course import TimeCourse, TimeScale
from .training import train
from .trajectories import interpolate, velocity_at

if TYPE_CHECKING:
    from anndata import AnnData

EvaluatedPreset = Literal["default", "paper", "leaky"]

_RECORD_FILE = "pipeline.json"
_GENES_FILE = "gene_panel.json"


class CellMNNPipeline:
    """From an AnnData time course to trajectories, in three lines.

    Snapshots are reduced to latent states z = E (x - μ); a [`CellMNNModel`] predicts at every state
    and time the linear ODE dz/dt = A z + b, which is solved in closed form; what it predicts comes
    back as AnnData in gene space.

    Parameters
    ----------
    model : CellMNNModel, optional
    record : FitRecord, optional
    panel : GenePanel, optional
        What a fitted pipeline consists of; without them the pipeline is there to be fitted.

    Examples
    --------
    >>> from cellmnn_fm import CellMNNPipeline
    >>> from cellmnn_fm.synthetic import KNOWN_SYSTEMS
    >>> adata = KNOWN_SYSTEMS["linear"].to_anndata(cells=50, seed=0)
    >>> pipeline = CellMNNPipeline().fit(adata, time_key="time", steps=5)
    >>> pipeline.interpolate(adata, at=1.25)  # 50 cells pushed from t = 1, 50 from t = 1.5
    AnnData object with n_obs × n_vars = 100 × 2
        obs: 'time', 'weight', 'source_time', 'source_cell'
        uns: 'cellmnn'
        obsm: 'X_cellmnn', 'cellmnn_velocity'
        varm: 'cellmnn_loadings'
        layers: 'cellmnn_velocity'
    """

    def __init__(
        self,
        model: CellMNNModel | None = None,
        record: FitRecord | None = None,
        panel: GenePanel | None = None,
    ):
        self._model, self._record, self._panel = model, record, panel

    @property
    def model(self) -> CellMNNModel:
        """The fitted model."""
        return self._fitted(self._model)

    @property
    def record(self) -> FitRecord:
        """What the pipeline was fitted to, and how."""
        return self._fitted(self._record)

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

    def fit(
        self,
        adata: AnnData,
        *,
        time_key: str,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int | None = None,
        subspace: SharedSubspace | str | Path | None = None,
        subspace_mode: SubspaceMode | None = None,
        symbols: SymbolSource = None,
        on_duplicates: OnDuplicates = "error",
        frame: bool = False,
        preset: Preset = "default",
        steps: int | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> CellMNNPipeline:
        """Fit a model from scratch; returns a new pipeline.

        Parameters
        ----------
        adata, time_key, use_rep, layer, n_dims
            As for `TimeCourse.from_anndata`. An embedding is z-scored for the model.
        subspace : SharedSubspace or path, optional
            A subspace that data sets share, or the folder of one.
        subspace_mode : {"own", "shared", "aligned"}, optional
            Own components; the shared space itself; or own components that are rotated to agree
            with it. By default "aligned" with a subspace, "own" without.
        symbols : str or mapping, optional
            Column of `var` with human symbols, or a table from names to human symbols; found by
            rule if absent, see :func:`cellmnn_fm.gene_panel.human_symbols`.
        on_duplicates : {"error", "sum", "mean", "first"}
            What becomes of genes with the same human symbol in mode "shared".
        frame : bool
            Whether the model works in the Gaussian frame.
        preset : {"default", "paper"}
        steps : int, optional
            Training steps in place of the preset's.
        seed : int
            Of the principal components, the weights and the cells drawn.
        folder : path, optional
            Where the state of the training is kept, so that the same call resumes it.
        progress : bool
            Whether to show a progress bar.

        Raises
        ------
        InputError
            On unusable input, before any training.
        """
        source = read_source(adata, use_rep, layer)
        cell_times = read_times(adata, time_key)
        options = _space_options(subspace, subspace_mode, symbols, on_duplicates)
        space = LatentSpace.fit(source, cell_times, options, n_dims=n_dims, seed=seed)
        states, _ = space.project(source, options.genes)
        course = TimeCourse.from_cells(states, cell_times, space.subspace)
        config, training = preset_configs(preset, course, frame=frame)
        if steps is not None:
            training = replace(training, steps=steps)
        folder = None if folder is None else Path(folder)
        trained = train(course, config, training, seed=seed, folder=folder, progress=progress)
        record = FitRecord(
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            subspace_mode=space.mode,
            gene_options=options.genes,
            coverage=space.coverage,
            time_scale=trained.time_scale,
            times=course.times.tolist(),
            cells=[len(snapshot) for snapshot in course.snapshots],
            settings={"preset": preset, "frame": frame, "seed": seed, **asdict(training)},
            losses=trained.losses,
            seconds=trained.seconds,
        )
        return CellMNNPipeline(trained.model, record, space.panel)

    def time_course(self, adata: AnnData, time_key: str | None = None) -> TimeCourse:
        """The latent time course of `adata`, which must hold genes of the fit, in any order."""
        _, states, cell_times, _ = self._read(adata, time_key)
        return TimeCourse.from_cells(states, cell_times)

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
        source, states, cell_times, coverage = self._read(adata, time_key)
        velocity = np.empty_like(states)
        for time in np.unique(cell_times):
            at = cell_times == time
            velocity[at] = velocity_at(self.model, states[at], time, self.record.time_scale)
        result = annotated(adata, states, velocity, coverage)
        if source.var.index.equals(adata.var.index):
            subspace, inferred = self.latent_space.over_genes(
                source, states, self.record.gene_options
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
        _, states, cell_times, coverage = self._read(adata, time_key)
        course = TimeCourse.from_cells(states, cell_times)
        time_scale = self.record.time_scale
        predicted = interpolate(
            self.model, course, at, time_scale, two_sided=two_sided, n_steps=n_steps
        )
        velocity = velocity_at(self.model, predicted.states, predicted.time, time_scale)
        names = [adata.obs_names[cell_times == time] for time in course.times]
        result = predicted_snapshot(
            predicted, velocity, course.times, names, self.panel, self.subspace, coverage
        )
        result.uns["cellmnn"] |= {"two_sided": two_sided, "n_steps": n_steps}
        return result

    def evaluate(
        self,
        adata: AnnData,
        *,
        time_key: str,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int = 5,
        subspace: SharedSubspace | str | Path | None = None,
        subspace_mode: SubspaceMode | None = None,
        symbols: SymbolSource = None,
        on_duplicates: OnDuplicates = "error",
        protocol: Protocol = "strict",
        frame: bool = False,
        preset: EvaluatedPreset = "default",
        seeds: int = 3,
        progress: bool = False,
    ) -> Evaluation:
        """Leave each interior time out, fit without it, and compare the prediction with baselines.

        Parameters
        ----------
        adata, time_key, use_rep, layer, n_dims, protocol, seeds, progress
            See :func:`cellmnn_fm.evaluation.evaluate`.
        subspace, subspace_mode, symbols, on_duplicates
            As for :meth:`fit`. Under "strict" the shared subspace is fitted anew without the
            held-out time, and without data sets that share cells with `adata`, where it knows them
            by `uns["name"]`.
        frame : bool
            Whether the fits work in the Gaussian frame.
        preset : {"default", "paper", "leaky"}
            "paper" adds the published setting as method `paper`, stopped on its training loss;
            "leaky" adds it stopped on the held-out W1 too, as published (`paper_leaky`). Both
            take minutes.
        """
        if preset not in get_args(EvaluatedPreset):
            raise InputError("preset", "default, paper or leaky", preset, "choose one of the three")
        candidates = [
            Candidate(
                _fit_preset("default", frame),
                {name: name for name in get_args(Prediction)},
            ),
            Candidate(_fit_preset("default", True, steps=0), {"untrained_two_sided": "two_sided"}),
        ]
        if preset in ("paper", "leaky"):
            candidates.append(Candidate(_fit_preset("paper"), {"paper": "forward"}))
        if preset == "leaky":
            candidates.append(
                Candidate(_fit_preset("paper", leaky=True), {"paper_leaky": "forward"})
            )
        options = _space_options(subspace, subspace_mode, symbols, on_duplicates)
        evaluation = evaluate(
            adata,
            candidates,
            options=options,
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            n_dims=n_dims,
            protocol=protocol,
            seeds=seeds,
            progress=progress,
        )
        settings = {**evaluation.settings, "frame": frame, "preset": preset}
        return replace(evaluation, settings=settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model, its genes and its record to `folder`."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.record.save(folder / _RECORD_FILE)
        self.panel.save(folder / _GENES_FILE)
        remove_training_state(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CellMNNPipeline:
        """Load a pipeline that was saved to `folder`.

        Raises
        ------
        InputError
            If a file of it is missing or does not load.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", _RECORD_FILE, _GENES_FILE):
            if not (folder / name).is_file():
                raise InputError(
                    str(folder),
                    "a saved pipeline",
                    f"no {name}",
                    "fit one there, or correct the path",
                )
        try:
            panel = GenePanel.load(folder / _GENES_FILE)
            record = FitRecord.load(folder / _RECORD_FILE)
            return cls(CellMNNModel.from_pretrained(folder), record, panel)
        except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
            raise InputError(
                str(folder),
                "a saved pipeline",
                f"files that do not load ({error})",
                "save it again",
            ) from error

    @staticmethod
    def _fitted(part):
        if part is None:
            raise InputError(
                "pipeline", "a fitted one", "one without a model", "call fit, or from_pretrained"
            )
        return part


def _space_options(
    subspace: SharedSubspace | str | Path | None,
    mode: SubspaceMode | None,
    symbols: SymbolSource,
    on_duplicates: OnDuplicates,
) -> SpaceOptions:
    if isinstance(subspace, (str, Path)):
        subspace = SharedSubspace.load(subspace)
    mode = mode or ("own" if subspace is None else "aligned")
    return SpaceOptions(mode, subspace, GeneOptions(symbols, on_duplicates))


def _fit_preset(
    preset: Preset, frame: bool = False, *, steps: int | None = None, leaky: bool = False
) -> Callable[[Fold, int], tuple[CellMNNModel, TimeScale, int]]:
    def fit(fold: Fold, seed: int) -> tuple[CellMNNModel, TimeScale, int]:
        def held_out_w1(model: CellMNNModel, time_scale: TimeScale) -> float:
            predicted = interpolate(model, fold.around, fold.time, time_scale, two_sided=False)
            return wasserstein1(predicted.states, fold.truth)

        config, training = preset_configs(preset, fold.training, frame=frame)
        if steps is not None:
            training = replace(training, steps=steps)
        validate = held_out_w1 if leaky else None
        trained = train(fold.training, config, training, seed=seed, validate=validate)
        return trained.model, trained.time_scale, len(trained.losses)

    return fit
