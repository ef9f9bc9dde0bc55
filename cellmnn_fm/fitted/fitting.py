"""From AnnData to fitted models: from scratch, adapted, or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from ..data.condition import read_condition
from ..data.corpus_sets import CorpusEntry, origin_of
from ..data.genes import GeneOptions
from ..data.growth_genes import GrowthGenes
from ..data.options import (
    FineTuningMode,
    FitReading,
    Preset,
    QuestionReading,
    ReadingOptions,
    Start,
)
from ..data.reading import read_source
from ..data.tasks import SamplingConfig
from ..data.time_course import ReadCourse, TimeCourse, read_course
from ..data.times import TimeKey
from ..dynamics.snapshots import Dynamics
from ..evaluation.candidates import fit_preset
from ..evaluation.folds import FitFold, Fold
from ..evaluation.verdict import judge
from ..model.checkpoint import require_replaceable
from ..model.errors import InputError, require_known, require_seed
from ..model.modeling_cellmnn import CellMNNModel
from ..training.adaptation import adapt, adapt_beside, extended, of_dataset, require_control
from ..training.configs import TrainingConfig, preset_configs
from ..training.finetuning import finetune
from ..training.one_course import train
from .fitted_model import Cells, FittedModel
from .foundation import Foundation, KnownDataset
from .record import FitRecord

if TYPE_CHECKING:
    from accelerate import Accelerator
    from anndata import AnnData


@dataclass(frozen=True)
class Run:
    """What fits have in common, whatever they start from.

    Parameters
    ----------
    seed : int
        Of the principal components, the weights and the cells drawn.
    verdict : bool
        Whether to compare predictions of left-out times with OT-Interpolate at the end.
    folder : Path, optional
        Where the state of the training is kept, so that the same call resumes it.
    progress : bool
        Whether to show progress bars.
    """

    seed: int = 0
    verdict: bool = True
    folder: Path | None = None
    progress: bool = False

    @classmethod
    def checked(cls, seed: int, verdict: bool, folder: str | Path | None, progress: bool) -> Run:
        """With a seed and a folder that can be used, before any computation."""
        require_seed(seed)
        if folder is not None:
            folder = Path(folder)
            require_replaceable(folder)
        return cls(seed, verdict, folder, progress)

    def judge(self, adata: AnnData, fit: FitFold, reading: FitReading) -> dict[str, Any] | None:
        """See :func:`cellmnn_fm.evaluation.verdict.judge`; None if nobody asked."""
        if not self.verdict:
            return None
        return judge(adata, fit, reading, seed=self.seed, progress=self.progress).to_dict()


def fit_from_scratch(
    adata: AnnData,
    reading: FitReading,
    run: Run,
    *,
    preset: Preset,
    frame: bool,
    steps: int | None,
    name: str | None,
) -> FittedModel:
    """A model of one time course that knows nothing else; see :meth:`CellMNNPipeline.fit`."""
    read = read_course(adata, reading, run.seed)
    growth = reading.growth
    config, training = preset_configs(preset, read.course, frame=frame, growth=growth)
    if steps is not None:
        training = replace(training, steps=steps)
    trained = train(
        read.course, config, training, seed=run.seed, folder=run.folder, progress=run.progress
    )
    record = _record(
        adata,
        reading,
        read,
        time_scale=trained.time_scale,
        settings={
            "preset": preset,
            "frame": frame,
            "growth": asdict(growth) if isinstance(growth, GrowthGenes) else growth,
            "population": reading.population and dict(reading.population),
            "seed": run.seed,
            **asdict(training),
        },
        losses=trained.losses,
        seconds=trained.seconds,
        name=name or name_of(adata),
        verdict=run.judge(adata, fit_preset(preset, frame, growth=growth, steps=steps), reading),
    )
    return FittedModel(trained.model, record, read.space.panel)


def adapt_base(
    base: Foundation,
    adata: AnnData,
    options: QuestionReading,
    *,
    start: str = "inferred",
    origin: dict[str, str | None] | None = None,
) -> Cells:
    """What a base says of a time course without any training: its cells, and a model of them.

    Beside a control these are the cells of the condition.
    """
    row, reading = _row(base, start), base.reading(options)
    beside = read_condition(adata, options)
    require_control(base.model, given=beside is not None)
    read = read_course(adata, reading)
    record = _record(
        adata,
        reading,
        read,
        settings={"start": start, "steps": 0},
        losses=[],
        seconds=0.0,
        name=name_of(adata),
        base=origin,
        beside=beside and {"condition": beside.condition, "control": beside.control},
    )
    states, times, source, genes = read.states, read.times.values, read.source, record.gene_options
    if beside is None:
        model = adapt(base.model, read.course, row)
    else:
        course, control = (
            TimeCourse.from_cells(states[rows], times[rows], read.space.subspace, least=least)
            for rows, least in ((beside.rows, 1), (beside.control_rows, 2))
        )
        model = adapt_beside(base.model, course, control)
        adata, states, times = adata[beside.rows], states[beside.rows], times[beside.rows]
        source = read_source(adata, options.use_rep, options.layer)
    fitted = FittedModel(model, record, read.space.panel)
    # the model may have more dimensions than the data set, whose states are 0 there
    padding = fitted.model.config.latent_dim - read.course.latent_dim
    states = np.pad(states, ((0, 0), (0, padding)))
    return Cells(fitted, adata, source, genes, states, times, record.coverage)


def finetune_base(
    base: Foundation,
    adatas: Mapping[str, AnnData],
    options: ReadingOptions,
    run: Run,
    *,
    mode: FineTuningMode,
    start: str,
    anchor: float,
    training: TrainingConfig,
    sampling: SamplingConfig | None = None,
    origin: dict[str, str | None] | None,
    accelerator: Accelerator | None = None,
) -> Foundation:
    """A base that knows these time courses too, all of them learned together.

    See :meth:`CellMNNPipeline.finetune` and :func:`cellmnn_fm.training.finetuning.finetune`.
    """
    for name in adatas:
        if not name.strip(". ") or not name.isprintable() or set(name) & set("/\\"):
            expected = "letters, digits and signs but / and \\"
            raise InputError("data set name", expected, repr(name), "rename it")
        if name in base.datasets:
            raise InputError("data set", "a new name", f"{name}, which the base has", "name it")
    require_known("mode", mode, get_args(FineTuningMode))
    how: dict[str, Any] = {
        "mode": mode,
        "start": _row(base, start),
        "anchor": anchor,
        "training": training,
        "sampling": sampling,
        "seed": run.seed,
        "accelerator": accelerator,
    }
    reading = base.reading(options)
    read = {name: read_course(adata, reading, run.seed) for name, adata in adatas.items()}
    courses = {name: read_one.course for name, read_one in read.items()}
    tuned = finetune(base.model, courses, folder=run.folder, progress=run.progress, **how)
    settings = {"mode": mode, "start": start, "anchor": anchor, "seed": run.seed}
    settings |= asdict(training)
    datasets = dict(base.datasets)
    for number, (name, read_one) in enumerate(read.items()):
        record = _record(
            adatas[name],
            reading,
            read_one,
            settings={**settings, "jointly_with": [other for other in courses if other != name]},
            losses=tuned.losses,
            seconds=tuned.seconds,
            name=name,
            base=origin,
            verdict=run.judge(
                adatas[name], _without_a_time(base.model, courses, name, how), reading
            ),
        )
        row = base.model.config.num_datasets + number
        entry = CorpusEntry(name, record.times, record.cells, read_one.course.latent_dim)
        subspace = read_one.space.subspace.padded(base.model.config.latent_dim)
        datasets[name] = KnownDataset(row, entry, read_one.space.panel, subspace, record)
    return replace(base, model=extended(base.model, tuned.model), datasets=datasets)


def dataset_of(base: Foundation, name: str) -> FittedModel:
    """What a base says of one of the data sets that it knows, as a model of that one.

    Raises
    ------
    InputError
        If it does not know the data set, or its genes.
    """
    known = base.dataset(name)
    if known.panel is None or known.subspace is None:
        raise InputError(name, "a data set with genes", "one of coordinates", "take another")
    record = known.record or FitRecord.of_entry(known.entry, base.subspace_mode, len(known.panel))
    return FittedModel(of_dataset(base.model, known.row, known.subspace), record, known.panel)


def _record(adata: AnnData, reading: FitReading, read: ReadCourse, **others: Any) -> FitRecord:
    """The record of a fit to a time course that was read from a file."""
    time_key = reading.time_key
    key = time_key if isinstance(time_key, TimeKey) else TimeKey(str(time_key))
    course, space = read.course, read.space
    return FitRecord(
        time_key=key.column,
        time_unit=read.times.unit,
        time_map=None if key.time_map is None else dict(key.time_map),
        use_rep=reading.use_rep,
        layer=reading.layer,
        subspace_mode=space.mode,
        gene_options=GeneOptions(reading.symbols, reading.on_duplicates or "error"),
        coverage=space.coverage,
        times=course.times.tolist(),
        cells=[len(snapshot) for snapshot in course.snapshots],
        batch_key=reading.batch_key,
        batches=None if space.batches is None else space.batches.to_dict(),
        about=origin_of(adata.uns),
        **{"time_scale": course.time_scale, **others},
    )


def _row(base: Foundation, start: str) -> Start | int:
    """A way to start, or the row of the data set of that name."""
    return cast(Start, start) if start in get_args(Start) else base.dataset(start).row


def _without_a_time(
    base: CellMNNModel,
    courses: Mapping[str, TimeCourse],
    name: str,
    options: Mapping[str, Any],
) -> FitFold:
    """The same fine-tuning, with a fold in place of one of the time courses."""

    def fit(fold: Fold, seed: int) -> tuple[Dynamics, int]:
        tuned = finetune(base, {**courses, name: fold.training}, **options)
        model = of_dataset(tuned.model, list(courses).index(name))
        return Dynamics(model, fold.training.time_scale), len(tuned.losses)

    return fit


def name_of(adata: AnnData) -> str:
    """What the file calls the data set, as a name."""
    named = str(adata.uns.get("name", "course"))
    name = "".join(sign if sign.isprintable() and sign not in "/\\" else "_" for sign in named)
    return name if name.strip(". ") else "course"


def named(
    adata: AnnData | Mapping[str, AnnData], name: str | None, base: Foundation
) -> Mapping[str, AnnData]:
    """Data sets by name; a single one by what its file calls it, if nobody says otherwise.

    With a number, if the base has another of that name.
    """
    if isinstance(adata, Mapping):
        return adata
    own_name, number = name_of(adata), 1
    while (free := own_name if number == 1 else f"{own_name}_{number}") in base.datasets:
        number += 1
    return {name or free: adata}
