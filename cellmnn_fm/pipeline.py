"""AnnData in, AnnData out: fit, interpolate, evaluate, save and load."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from safetensors import SafetensorError

from .adaptation import Start, adapt
from .candidates import EvaluatedPreset, foundation_candidate, preset_candidates
from .configuration_cellmnn import bundled
from .errors import InputError
from .evaluation import Evaluation, Protocol, evaluate
from .fit_record import FitRecord
from .foundation import FOUNDATION_FILE, load_foundation
from .gene_panel import GenePanel, OnDuplicates
from .latent_space import GeneOptions, LatentSpace, SpaceOptions, SubspaceMode, SymbolSource
from .modeling_cellmnn import CellMNNModel
from .queries import GENES_FILE, RECORD_FILE, FittedQueries
from .reading import read_source, read_times
from .recipes import Preset, preset_configs
from .results import pushed_cells
from .shared_subspace import SharedSubspace
from .time_course import TimeCourse
from .training import train
from .trajectories import follow

if TYPE_CHECKING:
    from anndata import AnnData


class CellMNNPipeline(FittedQueries):
    """From an AnnData time course to trajectories, in three lines.

    Snapshots are reduced to latent states z = E (x - μ); a [`CellMNNModel`] predicts at every state
    and time the linear ODE dz/dt = A z + b, which is solved in closed form; what it predicts comes
    back as AnnData in gene space.

    Without a model the pipeline is there to be fitted.

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
        if self._foundation is not None:
            raise InputError(
                "fit",
                "a pipeline without a pretrained model",
                "one with",
                "call adapt, which needs no training, or CellMNNPipeline().fit",
            )
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

    def adapt(
        self,
        adata: AnnData,
        *,
        time_key: str,
        use_rep: str | None = None,
        layer: str | None = None,
        symbols: SymbolSource = None,
        on_duplicates: OnDuplicates = "error",
        start: Start | str = "encoder",
    ) -> CellMNNPipeline:
        """What a pretrained pipeline says of a data set, without any training: a new pipeline.

        Parameters
        ----------
        adata, time_key, use_rep, layer, symbols, on_duplicates
            As for :meth:`fit`.
        start : {"encoder", "mean"} or the name of a data set
            The embedding of the data set: inferred from its snapshots, the mean of those that the
            model knows, or that of one of them.

        Raises
        ------
        InputError
            On unusable input, and if the pipeline is not a pretrained one.
        """
        base = self.foundation
        source, cell_times = read_source(adata, use_rep, layer), read_times(adata, time_key)
        genes = GeneOptions(symbols, on_duplicates)
        space = LatentSpace.fit(
            source, cell_times, SpaceOptions(base.subspace_mode, base.shared, genes)
        )
        states, _ = space.project(source, genes)
        course = TimeCourse.from_cells(states, cell_times, space.subspace)
        row: Start | int = base.dataset(start).row if start not in get_args(Start) else start  # type: ignore[assignment]
        record = FitRecord(
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            subspace_mode=space.mode,
            gene_options=genes,
            coverage=space.coverage,
            time_scale=course.time_scale,
            times=course.times.tolist(),
            cells=[len(snapshot) for snapshot in course.snapshots],
            settings={"start": start, "steps": 0},
            losses=[],
            seconds=0.0,
        )
        return CellMNNPipeline(adapt(self.model, course, row), record, space.panel)

    def trajectory(
        self,
        dataset: str,
        times: Sequence[float] | None = None,
        *,
        cells: int = 200,
        seed: int = 0,
    ) -> AnnData:
        """Cells of a data set that the pipeline was pretrained on, followed through time.

        Its file is not needed: they are drawn from the distribution at its first observed time that
        the model knows, mean and covariance.

        Parameters
        ----------
        dataset : str
        times : sequence of float, optional
            When they are looked at, in the unit of the data set; its observed times by default.
        cells : int
        seed : int

        Returns
        -------
        AnnData
            Rows are cells by time. `obs`: "time", "cell"; `obsm["X_cellmnn"]`: latent states; `X`
            and `var`: expression, where the data set has genes, else the states again.
        """
        known = self.foundation.dataset(dataset)
        wanted = np.asarray(known.entry.times if times is None else times, dtype=np.float64)
        states = follow(self.model, known.row, wanted, known.time_scale, cells=cells, seed=seed)
        return pushed_cells(states, wanted, known.panel, known.subspace, name=dataset)

    def interpolate(
        self,
        adata: AnnData,
        at: float,
        *,
        time_key: str | None = None,
        two_sided: bool = True,
        n_steps: int = 1,
    ) -> AnnData:
        """See :meth:`FittedQueries.interpolate`; a pretrained pipeline adapts itself first."""
        if self._foundation is None:
            return super().interpolate(
                adata, at, time_key=time_key, two_sided=two_sided, n_steps=n_steps
            )
        if time_key is None:
            raise InputError(
                "time_key", "the column of times", "none", "name it: a pretrained model has none"
            )
        adapted = self.adapt(adata, time_key=time_key)
        return adapted.interpolate(adata, at, two_sided=two_sided, n_steps=n_steps)

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

        A pretrained pipeline adds what it says of the data set without any training, `zero_shot`,
        and evaluates in its own subspace.

        Warns
        -----
        UserWarning
            If it was pretrained on the data set, or on one that shares cells with it.
        """
        candidates = preset_candidates(preset, frame=frame)
        if self._foundation is not None:
            if subspace is not None:
                raise InputError(
                    "subspace", "none: a pretrained model has its own", "one", "leave it out"
                )
            subspace, subspace_mode = self._foundation.shared, self._foundation.subspace_mode
            same_cells = [str(adata.uns.get("name", "")), *map(str, adata.uns.get("overlaps", ()))]
            if seen := [name for name in same_cells if name in self._foundation.datasets]:
                warnings.warn(
                    f"the model was pretrained on {', '.join(seen)}, held-out times included: "
                    "zero_shot is no test of it here",
                    stacklevel=2,
                )
            candidates.append(foundation_candidate(self.model))
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

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> CellMNNPipeline:
        """Load a pipeline: from a folder, by a name that comes with the package, or from the Hub.

        Parameters
        ----------
        name_or_path : str or path
            Looked for in this order.

        Examples
        --------
        >>> from cellmnn_fm import CellMNNPipeline
        >>> base = CellMNNPipeline.from_pretrained("cellmnn-base")
        >>> base.trajectory("hesc_endoderm", [0.0, 1.5, 4.0], cells=10).n_obs
        30

        Raises
        ------
        InputError
            If a file of it is missing or does not load.
        """
        folder = _found(name_or_path)
        pretrained = (folder / FOUNDATION_FILE).is_file()
        record_file = FOUNDATION_FILE if pretrained else RECORD_FILE
        for name in ("config.json", "model.safetensors", record_file, GENES_FILE):
            if not (folder / name).is_file():
                raise InputError(
                    str(folder),
                    "a saved pipeline",
                    f"no {name}",
                    "fit one there, or correct the path",
                )
        try:
            model = CellMNNModel.from_pretrained(folder)
            if pretrained:
                return cls(model, foundation=load_foundation(folder, model))
            return cls(
                model, FitRecord.load(folder / record_file), GenePanel.load(folder / GENES_FILE)
            )
        except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
            raise InputError(
                str(folder),
                "a saved pipeline",
                f"files that do not load ({error})",
                "save it again",
            ) from error


def _found(name_or_path: str | Path) -> Path:
    """The folder of a saved pipeline, downloaded from the Hub if it is nowhere else."""
    folder = Path(bundled(name_or_path))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name_or_path)))
    except (OSError, ValueError) as error:  # whatever the client says of names and networks
        raise InputError(
            str(name_or_path),
            "a folder, cellmnn-base, or a model of the Hub",
            f"none of them ({error})",
            "correct the name",
        ) from error


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
