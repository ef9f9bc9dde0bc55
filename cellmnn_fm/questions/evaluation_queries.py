"""How good predictions of left-out times are, of a fit or of a pretrained model."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.genes import OnDuplicates, SymbolSource
from ..data.growth_genes import Growth
from ..data.latent_space import SubspaceMode
from ..data.shared_subspace import SharedSubspace
from ..data.times import TimeKey
from ..evaluation.candidates import (
    EvaluatedPreset,
    blend_candidate,
    foundation_candidate,
    preset_candidates,
)
from ..evaluation.evaluation import Evaluation, evaluate
from ..evaluation.folds import Protocol
from ..fitted.fitting import space_options
from ..model.errors import InputError, require_count
from ..model.torch_defaults import with_torch_defaults
from .queries import FittedQueries

if TYPE_CHECKING:
    from anndata import AnnData


class EvaluationQueries(FittedQueries):
    """How far to trust it."""

    @with_torch_defaults
    def evaluate(
        self,
        adata: AnnData,
        *,
        time_key: str | TimeKey,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int = 5,
        subspace: SharedSubspace | str | Path | None = None,
        subspace_mode: SubspaceMode | None = None,
        symbols: SymbolSource = None,
        on_duplicates: OnDuplicates = "error",
        protocol: Protocol = "strict",
        frame: bool = False,
        growth: Growth = False,
        batch_key: str | None = None,
        preset: EvaluatedPreset = "default",
        seeds: int = 3,
        progress: bool = False,
    ) -> Evaluation:
        """Leave each interior time out, fit without it, and compare the prediction with baselines.

        Parameters
        ----------
        adata, time_key, use_rep, layer, n_dims, protocol, seeds, progress
            See :func:`cellmnn_fm.evaluation.evaluation.evaluate`.
        subspace, subspace_mode, symbols, on_duplicates
            As for :meth:`CellMNNPipeline.fit`. Under "strict" the shared subspace is fitted anew
            without the held-out time, and without data sets that share cells with `adata`, where it
            knows them by `uns["name"]`.
        frame, growth, batch_key
            Of the fits, as for :meth:`CellMNNPipeline.fit`.
        preset : {"default", "sliced", "paper", "leaky"}
            "sliced" adds fits by sliced W1 as method `sliced`; "paper" adds the published setting
            as method `paper`, stopped on its training loss; "leaky" adds it stopped on the
            held-out W1 too, as published (`paper_leaky`). Both
            take minutes.

        A pretrained pipeline adds what it says of the data set without any training, `zero_shot`,
        and half-way from there to a fit, `blend`; it evaluates in its own subspace.

        Warns
        -----
        UserWarning
            If it was pretrained on the data set, or on one that shares cells with it.
        """
        require_count("seeds", seeds)
        require_count("n_dims", n_dims)
        candidates = preset_candidates(preset, frame=frame, growth=growth)
        if self._foundation is not None:
            if subspace is not None:
                raise InputError(
                    "subspace", "none: a pretrained model has its own", "one", "leave it out"
                )
            subspace, subspace_mode = self._foundation.shared, self._foundation.subspace_mode
            self.warn_if_seen(adata)
            candidates += [foundation_candidate(self.model), blend_candidate(self.model)]
        options = space_options(subspace, subspace_mode, symbols, on_duplicates)
        evaluation = evaluate(
            adata,
            candidates,
            options=options,
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            n_dims=n_dims,
            growth=growth,
            batch_key=batch_key,
            protocol=protocol,
            seeds=seeds,
            progress=progress,
        )
        settings = {**evaluation.settings, "frame": frame, "preset": preset}
        settings["growth"] = growth is not False
        return replace(evaluation, settings=settings)

    def warn_if_seen(self, adata: AnnData) -> None:
        """Warn of cells that a pretrained model was trained on."""
        same_cells = [str(adata.uns.get("name", "")), *map(str, adata.uns.get("overlaps", ()))]
        if seen := [name for name in same_cells if name in self.foundation.datasets]:
            warnings.warn(
                f"the model was pretrained on {', '.join(seen)}, held-out times included: "
                "what it predicts here is no test of it",
                stacklevel=3,
            )
