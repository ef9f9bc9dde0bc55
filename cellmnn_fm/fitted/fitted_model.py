"""A fitted model: what it is asked about is read and projected once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.batches import BatchEffects
from ..data.genes import Coverage, GeneOptions, GenePanel
from ..data.latent_space import LatentSpace
from ..data.options import QuestionReading
from ..data.reading import Source, read_batches, read_source
from ..data.subspace import Subspace
from ..data.time_course import TimeCourse
from ..dynamics.snapshots import Dynamics, draw_cells, velocities
from ..model.errors import InputError
from ..model.modeling_cellmnn import CellMNNModel
from .foundation import GENES_FILE
from .record import FitRecord

if TYPE_CHECKING:
    from anndata import AnnData

RECORD_FILE = "pipeline.json"


@dataclass(frozen=True)
class FittedModel:
    """A model of one data set, z = (x - μ) E and dz/dt = A z + b, with what it needs to be asked.

    Parameters
    ----------
    model : CellMNNModel
        Whose weights, genes' loadings included, are those of the fit.
    record : FitRecord
        What it was fitted to, and how.
    panel : GenePanel
        The genes (or coordinates) that it reads and predicts.

    Examples
    --------
    >>> from cellmnn_fm import CellMNNPipeline
    >>> from cellmnn_fm.data.options import QuestionReading
    >>> from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
    >>> adata = KNOWN_SYSTEMS["linear"].to_anndata(cells=50, seed=0)
    >>> pipeline = CellMNNPipeline().fit(adata, time_key="time", steps=5, verdict=False)
    >>> pipeline.fitted.cells(adata, QuestionReading()).states.shape
    (450, 2)
    """

    model: CellMNNModel
    record: FitRecord
    panel: GenePanel

    def __repr__(self) -> str:
        record = self.record
        unit = record.time_unit or "units of time"
        verdict = (record.verdict or {}).get("sentence", "without a verdict on left-out times")
        name = record.name
        if record.beside is not None:
            name += ", {condition} beside {control}".format(**record.beside)
        return (
            f"of {name}: {sum(record.cells):,} cells, {len(self.panel):,} genes, "
            f"{len(record.times)} times from {record.times[0]:g} to {record.times[-1]:g} {unit}\n"
            f"{verdict}"
        )

    @cached_property
    def subspace(self) -> Subspace:
        """The map between genes and latent states, as stored with the weights."""
        names = [field.name for field in fields(Subspace)]
        return Subspace(**{name: getattr(self.model, name).cpu().numpy() for name in names})

    @property
    def latent_space(self) -> LatentSpace:
        """The same, with the genes."""
        record = self.record
        return LatentSpace(self.panel, self.subspace, record.coverage, record.subspace_mode)

    @property
    def dynamics(self) -> Dynamics:
        """The model, in the user's time."""
        return Dynamics(self.model, self.record.time_scale)

    def cells(self, adata: AnnData, options: QuestionReading) -> Cells:
        """Read and project the cells of a file, for all that is asked about them.

        Parameters
        ----------
        adata : AnnData
            With genes of the fit, in any order.
        options : QuestionReading
            What differs from the fit.

        Raises
        ------
        InputError
            On values, genes or times that the model cannot be asked about.

        Warns
        -----
        UserWarning
            If less than half of the genes match.
        """
        if options.condition_key is not None:
            raise InputError(
                "condition_key",
                "none, but of a base that reads a control",
                options.condition_key,
                "ask cellmnn-conditions, or select the cells yourself",
            )
        record = self.record
        elsewhere = options.use_rep is not None or options.layer is not None
        where = options if elsewhere else record
        source = read_source(adata, where.use_rep, where.layer)
        times = record.times_of(adata, options.time_key)
        genes = GeneOptions(
            options.symbols or record.gene_options.symbols,
            options.on_duplicates or record.gene_options.on_duplicates,
        )
        states, coverage = self.latent_space.project(source, genes)
        if coverage.matched == coverage.panel_genes:
            coverage = record.coverage  # of the fit by a base, where it came from one
        if options.batch_key is not None and record.batches is None:
            actual = f'"{options.batch_key}"'
            raise InputError("batch_key", "none: the fit had none", actual, "fit with batches")
        batches = read_batches(adata, options.batch_key or record.batch_key)
        if batches is not None and record.batches is not None:
            effects = BatchEffects.from_dict(record.batches)
            states = effects.removed(states, batches, times)
        return Cells(self, adata, source, genes, states, times, coverage)

    def drawn(self, cells: int = 200, seed: int = 0) -> tuple[NDArray, NDArray]:
        """States (times · cells, latent_dim) drawn from each distribution of a frame; their times.

        Raises
        ------
        InputError
            If the model has no frame.
        """
        if not self.model.config.frame:
            raise InputError("adata", "the data, since the model has no frame", "none", "give it")
        drawn = draw_cells(self.model, cells, seed=seed)
        model_times = self.model.frame_state().times.numpy(force=True)
        return drawn, np.repeat(self.record.time_scale.to_user(model_times), cells)

    def save(self, folder: Path, *, with_code: bool = False) -> None:
        """Save model, record and genes to a folder, see :meth:`CellMNNModel.save_pretrained`."""
        self.model.save_pretrained(folder, with_code=with_code)
        self.record.save(folder / RECORD_FILE)
        self.panel.save(folder / GENES_FILE)

    @classmethod
    def load(cls, folder: Path) -> FittedModel:
        """What :meth:`save` wrote.

        Raises
        ------
        InputError
            If genes and loadings are not of one fit.
        """
        model = CellMNNModel.from_pretrained(folder)
        record = FitRecord.load(folder / RECORD_FILE)
        panel = GenePanel.load(folder / GENES_FILE)
        if len(panel) != model.config.num_genes:
            actual = f"{model.config.num_genes} loadings for {len(panel)} genes"
            raise InputError(str(folder), "a loading for each gene", actual, "save it again")
        return cls(model, record, panel)


@dataclass(frozen=True)
class Cells:
    """The cells of a file as a fitted model sees them; questions about them are functions of this.

    Attributes
    ----------
    fitted : FittedModel
        That they are asked of.
    adata : AnnData
        The file they are of.
    source : Source
        Their values.
    genes : GeneOptions
        How their genes were read.
    states : (cells, latent_dim)
        z = (x - μ) E, in the order of the file.
    times : (cells,)
        In the user's time.
    coverage : Coverage
        How many genes of the model the file has.
    """

    fitted: FittedModel
    adata: AnnData
    source: Source
    genes: GeneOptions
    states: NDArray[np.float32]
    times: NDArray[np.float64]
    coverage: Coverage

    @cached_property
    def course(self) -> TimeCourse:
        """Grouped by time; an error unless there are two times of two cells.

        Beside a control one time will do.
        """
        least = 2 if self.fitted.record.beside is None else 1
        return TimeCourse.from_cells(self.states, self.times, least=least)

    @property
    def observed_times(self) -> NDArray[np.float64]:
        """Between which a prediction is none beyond what was seen: those of a control, too."""
        record = self.fitted.record
        return self.course.times if record.beside is None else np.array(record.times)

    @property
    def first_time(self) -> float:
        """Whose cells are followed, if nobody says otherwise: of the condition beside a control."""
        record = self.fitted.record
        return record.times[0] if record.beside is None else float(self.times.min())

    @cached_property
    def velocity(self) -> NDArray[np.float32]:
        """dz/dt per unit of the user's time, (cells, latent_dim)."""
        return velocities(self.fitted.dynamics, self.states, self.times)

    @cached_property
    def time_names(self) -> dict[float, str]:
        """Each time as people call it: by its label in the file, where that is no number."""
        names = {float(time): f"{time:g}" for time in np.unique(self.times)}
        labels = self.adata.obs.get(self.fitted.record.time_key)
        if labels is None or pd.api.types.is_numeric_dtype(labels):
            return names
        return names | dict(zip(self.times.tolist(), labels.astype(str), strict=True))

    def labels(self, column: str) -> NDArray:
        """Strings (cells,) of a column of `obs`, empty where a cell has none."""
        labels = self.adata.obs[column].astype(object)
        return labels.where(labels.notna(), "").astype(str).to_numpy()
