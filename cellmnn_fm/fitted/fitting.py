"""From AnnData to fitted models: from scratch, adapted, or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from accelerate import Accelerator

from ..data.batches import BatchEffects
from ..data.corpus_sets import CorpusEntry
from ..data.genes import GeneOptions, GenePanel, OnDuplicates, SymbolSource
from ..data.growth_genes import Growth, GrowthGenes, read_growth
from ..data.latent_space import LatentSpace, SpaceOptions, SubspaceMode
from ..data.reading import read_batches, read_source, read_times, time_unit
from ..data.shared_subspace import SharedSubspace
from ..data.tasks import SamplingConfig
from ..data.time_course import TimeCourse, TimeScale
from ..data.times import TimeKey
from ..evaluation.candidates import fit_preset
from ..evaluation.folds import FitFold, Fold
from ..evaluation.verdict import Verdict, judge
from ..model.errors import InputError, require_known
from ..model.modeling_cellmnn import CellMNNModel
from ..training.adaptation import Start, adapt, extended, of_dataset
from ..training.configs import Preset, TrainingConfig, preset_configs
from ..training.finetuning import FineTuningMode, finetune
from ..training.one_course import train
from .foundation import Foundation, KnownDataset
from .record import FitRecord

if TYPE_CHECKING:
    from anndata import AnnData


_ABOUT = ("publication", "source", "licence", "species")  # of uns


@dataclass(frozen=True)
class Reading:
    """How the cells of a file become latent states.

    Parameters
    ----------
    time_key, use_rep, layer
        As for `TimeCourse.from_anndata`.
    options : SpaceOptions
    n_dims : int, optional
        As for :meth:`LatentSpace.fit`.
    growth : bool, str or GrowthGenes
        See :func:`cellmnn_fm.data.reading.read_growth`.
    batch_key : str, optional
        Column of `obs`, see :class:`cellmnn_fm.data.batches.BatchEffects`.
    """

    time_key: str | TimeKey
    use_rep: str | None
    layer: str | None
    options: SpaceOptions
    n_dims: int | None = None
    growth: Growth = False
    batch_key: str | None = None

    def course(self, adata: AnnData, seed: int = 0) -> tuple[TimeCourse, LatentSpace]:
        """The time course of a file, in a latent space that is fitted to it."""
        source, cell_times = (
            read_source(adata, self.use_rep, self.layer),
            read_times(adata, self.time_key),
        )
        space = LatentSpace.fit(source, cell_times, self.options, n_dims=self.n_dims, seed=seed)
        growth = read_growth(adata, self.growth, self.layer, self.options.genes.symbols)
        states, _ = space.project(source, self.options.genes)
        batches = read_batches(adata, self.batch_key)
        if batches is not None:
            effects = BatchEffects.fit(states, cell_times, batches)
            states = effects.removed(states, batches, cell_times)
            space = replace(space, batches=effects)
        return TimeCourse.from_cells(states, cell_times, space.subspace, growth), space

    def record(
        self, adata: AnnData, course: TimeCourse, space: LatentSpace, **others: Any
    ) -> FitRecord:
        """The record of a fit to a time course that was read in this way."""
        key = self.time_key if isinstance(self.time_key, TimeKey) else TimeKey(self.time_key)
        labelled, stated = time_unit(adata, key)
        time_map = None if key.time_map is None else dict(key.time_map)
        return FitRecord(
            time_key=key.column,
            time_unit=labelled or stated,
            time_map=time_map,
            use_rep=self.use_rep,
            layer=self.layer,
            subspace_mode=space.mode,
            gene_options=self.options.genes,
            coverage=space.coverage,
            times=course.times.tolist(),
            cells=[len(snapshot) for snapshot in course.snapshots],
            batch_key=self.batch_key,
            batches=None if space.batches is None else space.batches.to_dict(),
            about={key: str(adata.uns[key]) for key in _ABOUT if key in adata.uns},
            **{"time_scale": course.time_scale, **others},
        )

    def judge(self, adata: AnnData, fit: FitFold, *, seed: int, progress: bool) -> Verdict:
        """See :func:`cellmnn_fm.evaluation.verdict.judge`."""
        return judge(
            adata,
            fit,
            time_key=self.time_key,
            use_rep=self.use_rep,
            layer=self.layer,
            options=self.options,
            latent_dim=self.n_dims,
            growth=self.growth,
            batch_key=self.batch_key,
            seed=seed,
            progress=progress,
        )


Fitted = tuple[CellMNNModel, FitRecord, GenePanel]


def fit_from_scratch(
    adata: AnnData,
    reading: Reading,
    *,
    preset: Preset,
    frame: bool,
    steps: int | None,
    seed: int,
    verdict: bool,
    name: str,
    folder: Path | None,
    progress: bool,
) -> Fitted:
    """A model of one time course that knows nothing else; see :meth:`CellMNNPipeline.fit`."""
    course, space = reading.course(adata, seed)
    growth = reading.growth
    config, training = preset_configs(preset, course, frame=frame, growth=growth)
    if steps is not None:
        training = replace(training, steps=steps)
    trained = train(course, config, training, seed=seed, folder=folder, progress=progress)
    found = None
    if verdict:
        fit = fit_preset(preset, frame, growth=growth, steps=steps)
        found = reading.judge(adata, fit, seed=seed, progress=progress).to_dict()
    record = reading.record(
        adata,
        course,
        space,
        time_scale=trained.time_scale,
        settings={
            "preset": preset,
            "frame": frame,
            "growth": asdict(growth) if isinstance(growth, GrowthGenes) else growth,
            "seed": seed,
            **asdict(training),
        },
        losses=trained.losses,
        seconds=trained.seconds,
        name=name,
        verdict=found,
    )
    return trained.model, record, space.panel


def adapt_base(
    base: CellMNNModel,
    foundation: Foundation,
    adata: AnnData,
    reading: Reading,
    *,
    start: str,
    name: str,
    origin: dict[str, str | None] | None,
) -> Fitted:
    """What a base says of a time course without any training."""
    row = _row(foundation, start)
    course, space = reading.course(adata)
    settings = {"start": start, "steps": 0}
    record = reading.record(
        adata, course, space, settings=settings, losses=[], seconds=0.0, name=name, base=origin
    )
    return adapt(base, course, row), record, space.panel


def finetune_base(
    base: CellMNNModel,
    foundation: Foundation,
    adatas: Mapping[str, AnnData],
    reading: Reading,
    *,
    mode: FineTuningMode,
    start: str,
    anchor: float,
    training: TrainingConfig,
    sampling: SamplingConfig | None = None,
    seed: int,
    verdict: bool,
    origin: dict[str, str | None] | None,
    accelerator: Accelerator | None = None,
    folder: Path | None,
    progress: bool,
) -> tuple[CellMNNModel, Foundation]:
    """A base that knows these time courses too, all of them learned together.

    See :meth:`CellMNNPipeline.fit` and :func:`cellmnn_fm.training.finetuning.finetune`.
    """
    for name in adatas:
        if not name.strip(". ") or not name.isprintable() or set(name) & set("/\\"):
            expected = "letters, digits and signs but / and \\"
            raise InputError("data set name", expected, repr(name), "rename it")
        if name in foundation.datasets:
            raise InputError("data set", "a new name", f"{name}, which the base has", "name it")
    require_known("mode", mode, get_args(FineTuningMode))
    options: dict[str, Any] = {
        "mode": mode,
        "start": _row(foundation, start),
        "anchor": anchor,
        "training": training,
        "sampling": sampling,
        "seed": seed,
        "accelerator": accelerator,
    }
    read = {name: reading.course(adata, seed) for name, adata in adatas.items()}
    courses = {name: course for name, (course, _) in read.items()}
    tuned = finetune(base, courses, folder=folder, progress=progress, **options)
    settings = {"mode": mode, "start": start, "anchor": anchor, "seed": seed, **asdict(training)}
    datasets = dict(foundation.datasets)
    for number, (name, (course, space)) in enumerate(read.items()):
        found = None
        if verdict:
            fit = _without_a_time(base, courses, name, options)
            found = reading.judge(adatas[name], fit, seed=seed, progress=progress).to_dict()
        record = reading.record(
            adatas[name],
            course,
            space,
            settings={**settings, "jointly_with": [other for other in courses if other != name]},
            losses=tuned.losses,
            seconds=tuned.seconds,
            name=name,
            base=origin,
            verdict=found,
        )
        row = base.config.num_datasets + number
        entry = CorpusEntry(name, record.times, record.cells, course.latent_dim)
        subspace = space.subspace.padded(base.config.latent_dim)
        datasets[name] = KnownDataset(row, entry, space.panel, subspace, record)
    return extended(base, tuned.model), replace(foundation, datasets=datasets)


def _row(foundation: Foundation, start: str) -> Start | int:
    """A way to start, or the row of the data set of that name."""
    return cast(Start, start) if start in get_args(Start) else foundation.dataset(start).row


def _without_a_time(
    base: CellMNNModel,
    courses: Mapping[str, TimeCourse],
    name: str,
    options: Mapping[str, Any],
) -> FitFold:
    """The same fine-tuning, with a fold in place of one of the time courses."""

    def fit(fold: Fold, seed: int) -> tuple[CellMNNModel, TimeScale, int]:
        tuned = finetune(base, {**courses, name: fold.training}, **options)
        model = of_dataset(tuned.model, list(courses).index(name))
        return model, fold.training.time_scale, len(tuned.losses)

    return fit


def refuse(options: Mapping[str, Any], why: str, fix: str) -> None:
    """Refuse options that are given, not None."""
    for name, value in options.items():
        if value is not None:
            raise InputError(name, f"none: {why}", str(value), fix)


def space_options(
    subspace: SharedSubspace | str | Path | None,
    mode: SubspaceMode | None,
    symbols: SymbolSource,
    on_duplicates: OnDuplicates,
) -> SpaceOptions:
    """Options of the latent space; the shared subspace may be in a folder."""
    if isinstance(subspace, (str, Path)):
        subspace = SharedSubspace.load(subspace)
    mode = mode or ("own" if subspace is None else "aligned")
    return SpaceOptions(mode, subspace, GeneOptions(symbols, on_duplicates))


def name_of(adata: AnnData) -> str:
    """What the file calls the data set, as a name."""
    named = str(adata.uns.get("name", "course"))
    found = "".join(one if one.isprintable() and one not in "/\\" else "_" for one in named)
    return found if found.strip(". ") else "course"
