"""AnnData in, AnnData out: fit, interpolate, evaluate, save and load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
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
from .modeling_cellmnn import CellMNNModel
from .recipes import Preset, preset_configs
from .subspace import Subspace
from .time_course import (
    TimeCourse,
    TimeScale,
    fit_subspace,
    read_matrix,
    read_times,
    read_var_names,
    resolve_representation,
)
from .training import remove_training_state, train
from .trajectories import interpolate

if TYPE_CHECKING:
    from anndata import AnnData

EvaluatedPreset = Literal["default", "paper", "leaky"]

_RECORD_FILE = "pipeline.json"
_GENES_FILE = "gene_panel.json"


@dataclass(frozen=True)
class FitRecord:
    """What a fitted pipeline remembers beside its weights.

    Attributes
    ----------
    time_key : str
    use_rep, layer : str, optional
        Where times and values were read.
    time_scale : TimeScale
    times : list of float
        Observed times of the training data.
    cells : list of int
        Cells at each of them.
    settings : dict
        Preset, seed and training configuration.
    losses : list of dict
        Parts of the loss at every step.
    seconds : float
        Of the training.
    """

    time_key: str
    use_rep: str | None
    layer: str | None
    time_scale: TimeScale
    times: list[float]
    cells: list[int]
    settings: dict
    losses: list[dict[str, float]]
    seconds: float


class CellMNNPipeline:
    """From an AnnData time course to trajectories, in three lines.

    Snapshots are reduced to latent states z = E (x - μ); a [`CellMNNModel`] predicts at every state
    and time the linear ODE dz/dt = A z + b, which is solved in closed form; what it predicts comes
    back as AnnData in gene space.

    Parameters
    ----------
    model : CellMNNModel, optional
    record : FitRecord, optional
    genes : list of str, optional
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
        obsm: 'X_cellmnn'
        varm: 'cellmnn_loadings'
    """

    def __init__(
        self,
        model: CellMNNModel | None = None,
        record: FitRecord | None = None,
        genes: list[str] | None = None,
    ):
        self._model, self._record, self._genes = model, record, genes

    @property
    def model(self) -> CellMNNModel:
        """The fitted model."""
        return self._fitted(self._model)

    @property
    def record(self) -> FitRecord:
        """What the pipeline was fitted to, and how."""
        return self._fitted(self._record)

    @property
    def genes(self) -> list[str]:
        """Names of the genes (or coordinates) that the pipeline reads and predicts."""
        return self._fitted(self._genes)

    @property
    def subspace(self) -> Subspace:
        """The map between genes and latent states, as stored in the checkpoint."""
        names = [field.name for field in fields(Subspace)]
        return Subspace(**{name: getattr(self.model, name).cpu().numpy() for name in names})

    def fit(
        self,
        adata: AnnData,
        *,
        time_key: str,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int | None = None,
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
        use_rep = resolve_representation(adata, use_rep, layer)
        cell_times = read_times(adata, time_key)
        matrix = read_matrix(adata, use_rep, layer)
        genes = read_var_names(adata, use_rep, matrix.shape[1])
        subspace = fit_subspace(matrix, use_rep, n_dims, seed)
        course = TimeCourse.from_cells(subspace.project(matrix), cell_times, subspace)
        config, training = preset_configs(preset, course, frame=frame)
        if steps is not None:
            training = replace(training, steps=steps)
        folder = None if folder is None else Path(folder)
        trained = train(course, config, training, seed=seed, folder=folder, progress=progress)
        record = FitRecord(
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            time_scale=trained.time_scale,
            times=course.times.tolist(),
            cells=[len(snapshot) for snapshot in course.snapshots],
            settings={"preset": preset, "frame": frame, "seed": seed, **asdict(training)},
            losses=trained.losses,
            seconds=trained.seconds,
        )
        return CellMNNPipeline(trained.model, record, genes)

    def time_course(self, adata: AnnData, time_key: str | None = None) -> TimeCourse:
        """The latent time course of `adata`, which must hold the genes of the fit, in any order."""
        return TimeCourse.from_cells(*self._read(adata, time_key))

    def _read(self, adata: AnnData, time_key: str | None) -> tuple[NDArray, NDArray]:
        """Latent state and time of every cell."""
        record = self.record
        matrix = read_matrix(adata, record.use_rep, record.layer)
        names = pd.Index(read_var_names(adata, record.use_rep, matrix.shape[1]))
        order = names.get_indexer(pd.Index(self.genes))
        if absent := [gene for gene, at in zip(self.genes, order, strict=True) if at < 0]:
            raise InputError(
                "genes",
                f"the {len(self.genes)} that the model was fitted to",
                f"{len(absent)} of them missing, such as {', '.join(absent[:3])}",
                "give data with the same genes, or fit a new model",
            )
        states = self.subspace.project(matrix[:, order])
        return states, read_times(adata, time_key or record.time_key)

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
            Observed cells around that time, with the genes of the fit.
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
            latent states; `varm["cellmnn_loadings"]`; `obs`: "time", "weight" (sums to 1; nearer
            snapshots weigh more), "source_time" and "source_cell"; `uns["cellmnn"]`: settings.
        """
        import anndata

        states, cell_times = self._read(adata, time_key)
        course = TimeCourse.from_cells(states, cell_times)
        time_scale = self.record.time_scale
        predicted = interpolate(
            self.model, course, at, time_scale, two_sided=two_sided, n_steps=n_steps
        )
        names = [adata.obs_names[cell_times == time].to_numpy() for time in course.times]
        pairs = zip(predicted.source_index, predicted.source_cell, strict=True)
        source_cell = [str(names[index][cell]) for index, cell in pairs]
        obs = pd.DataFrame(
            {
                "time": np.full(len(source_cell), predicted.time),
                "weight": predicted.weights,
                "source_time": course.times[predicted.source_index],
                "source_cell": source_cell,
            },
            index=[f"{name}@{predicted.time:g}" for name in source_cell],
        )
        subspace = self.subspace
        result = anndata.AnnData(
            subspace.reconstruct(predicted.states),
            obs=obs,
            var=pd.DataFrame(index=pd.Index(self.genes)),
            obsm={"X_cellmnn": predicted.states},
            varm={"cellmnn_loadings": subspace.loadings},
            uns={"cellmnn": {"at": predicted.time, "two_sided": two_sided, "n_steps": n_steps}},
        )
        result.obs_names_make_unique()
        return result

    def evaluate(
        self,
        adata: AnnData,
        *,
        time_key: str,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int = 5,
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
        evaluation = evaluate(
            adata,
            candidates,
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
        record = {**vars(self.record), "time_scale": asdict(self.record.time_scale)}
        (folder / _RECORD_FILE).write_text(json.dumps(record, indent=1))
        (folder / _GENES_FILE).write_text(json.dumps(self.genes))
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
            record = json.loads((folder / _RECORD_FILE).read_text())
            record["time_scale"] = TimeScale(**record["time_scale"])
            genes = json.loads((folder / _GENES_FILE).read_text())
            return cls(CellMNNModel.from_pretrained(folder), FitRecord(**record), genes)
        except (ValueError, TypeError, OSError, SafetensorError) as error:
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
