"""Choices that users make, by name, and how cells of a file are read: each once, nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from .growth_genes import Growth
    from .shared_subspace import SharedSubspace
    from .times import TimeKey

OnDuplicates = Literal["error", "sum", "mean", "first"]
SubspaceMode = Literal["own", "shared", "aligned"]
SymbolSource = str | Mapping[str, str] | None
Preset = Literal["default", "sliced", "paper"]
EvaluatedPreset = Literal["default", "sliced", "paper", "leaky"]
FineTuningMode = Literal["embedding", "full", "lora"]
Start = Literal["inferred", "mean"]
Protocol = Literal["strict", "published"]
Estimator = Literal["production", "association", "auto", "operator", "jacobian"]
Part = Literal["learned", "frame", "all"]
Response = Literal["network", "flow"]
Decay = float | Mapping[str, float] | Literal["data"] | None


BELIEVED_BEYOND = 0.25
"""Share of the movement of cells beyond the observed times that is believed.

What moved cells until the last snapshot rarely goes on: see `benchmarks/gene_space.py`.
"""

NOISE = 0.6
"""How far cells diffuse in the course of their time, in spreads of the cells of one time.

Snapshots do not tell; it is what makes probabilities of fates right on simulated systems, see
`studies/doubt.py`.
"""


class ReadingKeywords(TypedDict, total=False):
    """Keywords of :class:`ReadingOptions`, for signatures that take them flat."""

    time_key: str | TimeKey | None
    use_rep: str | None
    layer: str | None
    symbols: SymbolSource
    on_duplicates: OnDuplicates | None
    batch_key: str | None


class AskKeywords(ReadingKeywords, total=False):
    """Keywords of :class:`QuestionReading`."""

    condition_key: str | None
    condition: str | None
    control: str | None


class FitKeywords(ReadingKeywords, total=False):
    """Keywords of :class:`FitReading`."""

    n_dims: int | None
    subspace: SharedSubspace | str | Path | None
    subspace_mode: SubspaceMode | None
    growth: Growth
    population: Mapping[float, float] | None


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How the cells of a file are read; what is None is as in the fit, or found by rule.

    Parameters
    ----------
    time_key : str or TimeKey, optional
        Column of `obs` with the time of each cell, see :class:`cellmnn_fm.data.times.TimeKey`. A
        fit has none to go by, and a pretrained model neither: they need it.
    use_rep : str, optional
        Key of `obsm` with an embedding in place of genes, or "X" if `X` is one.
    layer : str, optional
        In place of `X`; "raw" for `.raw`.
    symbols : str or mapping, optional
        Column of `var` with human symbols, or a table from names to human symbols, see
        :func:`cellmnn_fm.data.genes.human_symbols`.
    on_duplicates : {"error", "sum", "mean", "first"}, optional
        What becomes of genes with the same human symbol, where symbols must be unique.
    batch_key : str, optional
        Column of `obs` with batches, whose shifts and scales are taken off the latent states where
        times do not explain them.
    """

    time_key: str | TimeKey | None = None
    use_rep: str | None = None
    layer: str | None = None
    symbols: SymbolSource = None
    on_duplicates: OnDuplicates | None = None
    batch_key: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class QuestionReading(ReadingOptions):
    """How the cells are read that a question is about.

    Parameters
    ----------
    condition_key : str, optional
        Column of `obs` with conditions, for a base that reads a control ("cellmnn-conditions"):
        the question is about the cells of one of them, beside those of another.
    condition : str, optional
        The one that is asked about; it needs cells of one time at least.
    control : str, optional
        The other one; if there are only two, it is known.
    """

    condition_key: str | None = None
    condition: str | None = None
    control: str | None = None


@dataclass(frozen=True, kw_only=True)
class FitReading(ReadingOptions):
    """How the cells of a file become the time course that a model is fitted to.

    Parameters
    ----------
    n_dims : int, optional
        At most so many latent dimensions.
    subspace : SharedSubspace or path, optional
        One that data sets share, or the folder of one.
    subspace_mode : {"own", "shared", "aligned"}, optional
        Own components, the shared space itself, or own components that are rotated to agree with
        it: the default where there is a subspace.
    growth : bool, str or GrowthGenes
        Whether cells multiply and die, at rates that are learned (True), known (a column of `obs`,
        births less deaths per unit of time) or scored by genes
        (:class:`cellmnn_fm.data.growth_genes.GrowthGenes`).
    population : mapping, optional
        With growth: how many cells there were, by time, at two or more times and in any unit. Rates
        are absolute then; snapshots alone tell their differences.
    """

    n_dims: int | None = None
    subspace: SharedSubspace | str | Path | None = None
    subspace_mode: SubspaceMode | None = None
    growth: Growth = False
    population: Mapping[float, float] | None = None
