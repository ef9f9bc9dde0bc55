"""AnnData in, AnnData out: fit, interpolate, evaluate, save and load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from .data.genes import GeneOptions, GenePanel, OnDuplicates, SymbolSource
from .data.growth_genes import Growth
from .data.latent_space import SpaceOptions, SubspaceMode
from .data.shared_subspace import SharedSubspace
from .data.times import TimeKey
from .fitted.fitting import (
    Reading,
    adapt_base,
    finetune_base,
    fit_from_scratch,
    name_of,
    refuse,
    space_options,
)
from .fitted.foundation import FOUNDATION_FILE, GENES_FILE, Foundation
from .fitted.record import FitRecord
from .model.checkpoint import locked, require_replaceable
from .model.errors import InputError, require_count, require_seed
from .model.hub import locate, origin, upload
from .model.modeling_cellmnn import CellMNNModel
from .model.torch_defaults import with_torch_defaults
from .questions.evaluation_queries import EvaluationQueries
from .questions.fate_queries import FateQueries
from .questions.grn.question import GRNQueries
from .questions.growth_queries import GrowthQueries
from .questions.queries import RECORD_FILE
from .training.adaptation import Start, of_dataset
from .training.configs import Preset
from .training.finetuning import DEFAULT_ANCHOR, DEFAULT_STEPS, FineTuningMode, finetuning_config

if TYPE_CHECKING:
    from anndata import AnnData

# what comes of files that somebody else may have written
_FOREIGN_ERRORS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError),
    *(OSError, OverflowError, RecursionError, SafetensorError),
)


class CellMNNPipeline(FateQueries, GrowthQueries, GRNQueries, EvaluationQueries):
    """From an AnnData time course to trajectories, in three lines.

    Snapshots are reduced to latent states z = E (x - μ); a [`CellMNNModel`] predicts at every state
    and time the linear ODE dz/dt = A z + b, which is solved in closed form; what it predicts comes
    back as AnnData in gene space.

    Without a model the pipeline is there to be fitted.

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

    @with_torch_defaults
    def fit(
        self,
        adata: AnnData | Mapping[str, AnnData],
        *,
        time_key: str | TimeKey,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int | None = None,
        subspace: SharedSubspace | str | Path | None = None,
        subspace_mode: SubspaceMode | None = None,
        symbols: SymbolSource = None,
        on_duplicates: OnDuplicates = "error",
        frame: bool = False,
        growth: Growth = False,
        batch_key: str | None = None,
        preset: Preset | None = None,
        mode: FineTuningMode | None = None,
        start: Start | str | None = None,
        anchor: float | None = None,
        steps: int | None = None,
        name: str | None = None,
        seed: int = 0,
        verdict: bool = True,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> CellMNNPipeline:
        """Fit a model; returns a new pipeline.

        Without a model: from scratch, to one time course. A pretrained pipeline fine-tunes itself
        and stays as it is: on one time course, for a model of that one; or on several, jointly, for
        a pipeline that knows these too, see :meth:`of_dataset`.

        Parameters
        ----------
        adata : AnnData, or mapping of AnnData by name
        time_key, use_rep, layer
            As for `TimeCourse.from_anndata`. An embedding is z-scored for the model.
        symbols : str or mapping, optional
            Column of `var` with human symbols, or a table from names to human symbols; found by
            rule if absent, see :func:`cellmnn_fm.data.genes.human_symbols`.
        on_duplicates : {"error", "sum", "mean", "first"}
            What becomes of genes with the same human symbol in mode "shared".
        n_dims, subspace, subspace_mode, frame, growth, preset
            Of a fit from scratch. At most so many dimensions; a subspace that data sets share, or
            the folder of one; own components, the shared space itself, or own components that are
            rotated to agree with it ("own", "shared", "aligned": the default with a subspace);
            whether the model works in the Gaussian frame; whether cells multiply and die, at rates
            that are learned (True), known (a column of `obs`, births less deaths per unit of time)
            or scored by genes (:class:`GrowthGenes`); "default", "sliced" (closest to held-out
            snapshots) or "paper".
        mode, start, anchor
            Of fine-tuning, see :func:`cellmnn_fm.training.finetuning.finetune`: "full" (the
            default), "embedding" or "lora"; the embedding to start from, "encoder", "mean"
            or that of a data set by name; how much the base counts.
        batch_key : str, optional
            Column of `obs` with batches, whose shifts and scales are taken off the latent states
            where times do not explain them.
        steps : int, optional
            Training steps in place of the default ones.
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

        Raises
        ------
        InputError
            On unusable input, before any training, and if the pipeline is fitted already.
        """
        from_scratch = {
            "n_dims": n_dims,
            "subspace": subspace,
            "subspace_mode": subspace_mode,
            "frame": frame or None,
            "growth": None if growth is False else growth,
            "preset": preset,
        }
        fine_tuning = {"mode": mode, "start": start, "anchor": anchor}
        require_seed(seed)
        if steps is not None:
            require_count("steps", steps, 0)
        if folder is not None:
            folder = Path(folder)
            require_replaceable(folder)
        common: dict[str, Any] = {
            "seed": seed,
            "verdict": verdict,
            "folder": folder,
            "progress": progress,
        }
        if self._model is None:
            refuse(fine_tuning, "a fit from scratch has no base", "fit a pretrained pipeline")
            if isinstance(adata, Mapping):
                raise InputError("adata", "one AnnData", "several", "fit a pretrained pipeline")
            options = space_options(subspace, subspace_mode, symbols, on_duplicates)
            fitted = fit_from_scratch(
                adata,
                Reading(time_key, use_rep, layer, options, n_dims, growth, batch_key),
                preset=preset or "default",
                frame=frame,
                steps=steps,
                name=name or name_of(adata),
                **common,
            )
            return CellMNNPipeline(*fitted)
        if self._foundation is None:
            raise InputError(
                "fit",
                "a pipeline without a model, or a pretrained one",
                "one that is fitted already",
                "call CellMNNPipeline().fit, or load the base again",
            )
        refuse(from_scratch, "a pretrained model has its own", "leave it out")
        if name is not None and isinstance(adata, Mapping):
            raise InputError("name", "none with several data sets", name, "they have theirs")
        adatas = adata if isinstance(adata, Mapping) else {name or name_of(adata): adata}
        genes = GeneOptions(symbols, on_duplicates)
        if verdict:
            for one in adatas.values():
                self.warn_if_seen(one)
        model, foundation = finetune_base(
            self.model,
            self._foundation,
            adatas,
            self._reading(time_key, use_rep, layer, genes, batch_key),
            mode=mode or "full",
            start=start or "encoder",
            anchor=DEFAULT_ANCHOR if anchor is None else anchor,
            training=finetuning_config(DEFAULT_STEPS if steps is None else steps),
            origin=self.origin,
            **common,
        )
        tuned = CellMNNPipeline(model, foundation=foundation)
        return tuned if isinstance(adata, Mapping) else tuned.of_dataset(next(iter(adatas)))

    @with_torch_defaults
    def adapt(
        self,
        adata: AnnData,
        *,
        time_key: str | TimeKey,
        use_rep: str | None = None,
        layer: str | None = None,
        symbols: SymbolSource = None,
        on_duplicates: OnDuplicates = "error",
        batch_key: str | None = None,
        start: Start | str = "encoder",
    ) -> CellMNNPipeline:
        """What a pretrained pipeline says of a data set, without any training: a new pipeline.

        Parameters
        ----------
        adata, time_key, use_rep, layer, symbols, on_duplicates, batch_key
            As for :meth:`fit`.
        start : {"encoder", "mean"} or the name of a data set
            The embedding of the data set: inferred from its snapshots, the mean of those that the
            model knows, or that of one of them.

        Raises
        ------
        InputError
            On unusable input, and if the pipeline is not a pretrained one.
        """
        genes = GeneOptions(symbols, on_duplicates)
        reading = self._reading(time_key, use_rep, layer, genes, batch_key)
        fitted = adapt_base(
            self.model,
            self.foundation,
            adata,
            reading,
            start=start,
            name=name_of(adata),
            origin=self.origin,
        )
        return CellMNNPipeline(*fitted)

    @with_torch_defaults
    def of_dataset(self, name: str) -> CellMNNPipeline:
        """What a pipeline of many data sets says of one of them, as a pipeline of that one.

        Raises
        ------
        InputError
            If it does not know the data set, or its genes.
        """
        if self._foundation is None:
            raise InputError(
                "data set", "a model of many", "a model of one, or none", "do not name a data set"
            )
        known = self._foundation.dataset(name)
        if known.panel is None or known.subspace is None:
            raise InputError(name, "a data set with genes", "one of coordinates", "take another")
        mode = self.foundation.subspace_mode
        record = known.record or FitRecord.of_entry(known.entry, mode, len(known.panel))
        model = of_dataset(self.model, known.row, known.subspace)
        return CellMNNPipeline(model, record, known.panel, origin=self.origin)

    def _reading(
        self,
        time_key: str | TimeKey,
        use_rep: str | None,
        layer: str | None,
        genes: GeneOptions,
        batch_key: str | None,
    ) -> Reading:
        """How a pretrained pipeline reads the cells of a new data set."""
        base = self.foundation
        options = SpaceOptions(base.subspace_mode, base.shared, genes)
        return Reading(time_key, use_rep, layer, options, batch_key=batch_key)

    def fitted_to(self, adata: AnnData, time_key: str | TimeKey | None) -> CellMNNPipeline:
        """Itself; or, with many data sets, what :meth:`adapt` makes of the cells.

        Raises
        ------
        InputError
            If the pipeline is a pretrained one and `time_key` is not given.
        """
        if self._foundation is None:
            return self
        if time_key is None:
            raise InputError(
                "time_key", "the column of times", "none", "name it: a pretrained model has none"
            )
        return self.adapt(adata, time_key=time_key)

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
        folder, revision = locate(name_or_path, **download)
        with locked(folder.parent, shared=True):  # so that all files are of one save
            loaded = cls._loaded(name_or_path, folder, revision)
        return loaded if dataset is None else loaded.of_dataset(dataset)

    @classmethod
    def _loaded(
        cls, name_or_path: str | Path, folder: Path, revision: str | None
    ) -> CellMNNPipeline:
        pretrained = (folder / FOUNDATION_FILE).is_file()
        record_file = FOUNDATION_FILE if pretrained else RECORD_FILE
        for name in ("config.json", record_file, GENES_FILE):
            if not (folder / name).is_file():
                raise InputError(
                    str(folder),
                    "a saved pipeline",
                    f"no {name}",
                    "fit one there, or correct the path",
                )
        try:
            base = origin(name_or_path, folder, revision)
            readme = folder / "README.md"
            card = readme.read_text() if readme.is_file() else None
            model = CellMNNModel.from_pretrained(folder)
            if pretrained:
                foundation = Foundation.load(folder, model)
                return cls(model, foundation=foundation, origin=base, card=card)
            record = FitRecord.load(folder / record_file)
            panel = GenePanel.load(folder / GENES_FILE)
            if len(panel) != model.config.num_genes:
                found = f"{model.config.num_genes} loadings for {len(panel)} genes"
                raise InputError(str(folder), "a loading for each gene", found, "save it again")
            return cls(model, record, panel, origin=base, card=card)
        except InputError:
            raise
        except _FOREIGN_ERRORS as error:
            raise InputError(
                str(folder),
                "a saved pipeline",
                f"files that do not load ({error})",
                "save it again",
            ) from error

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
