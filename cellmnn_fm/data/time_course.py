"""A time course, snapshots of different cells at known times: the border of files and models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..model.errors import InputError
from .batches import BatchEffects
from .growth_genes import read_growth
from .latent_space import LatentSpace, space_options
from .options import FitReading
from .population import PopulationSize
from .reading import (
    CellTimes,
    Source,
    read_batches,
    read_cell_times,
    read_source,
    read_times,
    require_finite,
    require_times,
)
from .subspace import Subspace
from .times import TimeKey

if TYPE_CHECKING:
    from anndata import AnnData


_MOST_MODEL_TIME = 15


@dataclass(frozen=True)
class TimeScale:
    """Between the user's time and model time, in which n observed times span 0 to n - 1.

    Uneven gaps keep their proportions. Many times span 0 to 15: where model time is large, so are
    the rates of a network that has not been trained.

    Parameters
    ----------
    origin : float
        First observed time.
    unit : float
        Mean gap between observed times; rates per unit of model time divided by it are rates in
        the user's time.

    Examples
    --------
    >>> TimeScale.of([2.0, 4.0, 8.0]).to_model(8.0)
    2.0
    """

    origin: float
    unit: float

    @classmethod
    def of(cls, times: Sequence[float] | NDArray) -> TimeScale:
        """The scale of ascending observed `times`.

        Of `times` (times,).
        """
        longest = min(len(times) - 1, _MOST_MODEL_TIME)
        return cls(float(times[0]), float(times[-1] - times[0]) / longest)

    def to_model(self, times):
        """Model time of the user's `times`, a number or an array."""
        return (times - self.origin) / self.unit

    def to_user(self, model_times):
        """The user's time of `model_times`, a number or an array."""
        return self.origin + model_times * self.unit


@dataclass(frozen=True)
class TimeCourse:
    """Snapshots of cells at known times.

    Parameters
    ----------
    snapshots : sequence of (cells, latent_dim)
        One array of states for each time; at least 2, each with at least 2 cells.
    times : (snapshots,)
        Real times, ascending.
    subspace : Subspace, optional
        The map behind the states, where they are scores.
    growth : sequence of (cells,), optional
        What is known of how fast the cells of each snapshot multiply: net rates per unit of time,
        or scores, see :func:`cellmnn_fm.data.reading.read_growth`.
    sizes : (snapshots,), optional
        Of the population at each time, in any unit, where they are known.
    least : int
        Times that it must have: 1 of a condition that is seen beside a control.

    Raises
    ------
    InputError
        If times or states cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> course = TimeCourse([rng.normal(size=(20, 3)) + t for t in (0, 1, 4)], [0.0, 1.0, 4.0])
    >>> course
    TimeCourse(3 snapshots of 20 to 20 cells, times 0 to 4, 3 dimensions)
    >>> course.model_times  # 0 to 2, uneven gaps keep their proportions
    array([0. , 0.5, 2. ])
    """

    snapshots: Sequence[NDArray[np.float32]]
    times: NDArray[np.float64]
    subspace: Subspace | None = field(default=None, repr=False)
    growth: Sequence[NDArray[np.float32]] | None = field(default=None, repr=False)
    sizes: NDArray[np.float64] | None = field(default=None, repr=False)
    least: int = field(default=2, repr=False)

    def __post_init__(self) -> None:
        snapshots = [
            np.ascontiguousarray(snapshot, dtype=np.float32) for snapshot in self.snapshots
        ]
        times = np.asarray(self.times, dtype=np.float64)
        object.__setattr__(self, "snapshots", snapshots)
        object.__setattr__(self, "times", times)
        if len(times) != len(snapshots):
            raise InputError(
                "time course", f"{len(snapshots)} times", len(times), "give one for each snapshot"
            )
        require_times(times, [len(snapshot) for snapshot in snapshots], self.least)
        if (np.diff(times) <= 0).any():
            raise InputError("times", "ascending", times.tolist(), "sort the snapshots by time")
        for time, snapshot in zip(times, snapshots, strict=True):
            shape = snapshots[0].shape[1:]
            if snapshot.ndim != 2 or snapshot.shape[1:] != shape or 0 in snapshot.shape:
                raise InputError(
                    f"snapshot at time {time:g}",
                    f"an array (cells, {shape[0] if shape else 'latent_dim'})",
                    f"shape {snapshot.shape}",
                    "give every snapshot the same dimensions",
                )
            require_finite(snapshot, f"snapshot at time {time:g}")
        if self.sizes is not None:
            sizes = np.asarray(self.sizes, dtype=np.float64)
            if sizes.shape != times.shape or not (np.isfinite(sizes) & (sizes > 0)).all():
                raise InputError(
                    "sizes", "a positive one for each snapshot", self.sizes, "correct them"
                )
            object.__setattr__(self, "sizes", sizes)

    def __repr__(self) -> str:
        sizes = [len(snapshot) for snapshot in self.snapshots]
        return (
            f"TimeCourse({len(sizes)} snapshots of {min(sizes)} to {max(sizes)} cells, "
            f"times {self.times[0]:g} to {self.times[-1]:g}, {self.latent_dim} dimensions)"
        )

    @property
    def latent_dim(self) -> int:
        """How many dimensions the states have."""
        return self.snapshots[0].shape[1]

    @property
    def time_scale(self) -> TimeScale:
        """Between real time and model time."""
        return TimeScale.of(self.times)

    @property
    def model_times(self) -> NDArray[np.float64]:
        """The observed times in model time, from 0 to n - 1."""
        return self.time_scale.to_model(self.times)

    def thinned(self, most: int, seed: int = 0) -> TimeCourse:
        """With at most so many cells of each snapshot, drawn at random."""
        if max(len(snapshot) for snapshot in self.snapshots) <= most:
            return self
        rng = np.random.default_rng(seed)
        some = [
            snapshot[np.sort(rng.permutation(len(snapshot))[:most])] for snapshot in self.snapshots
        ]
        return TimeCourse(some, self.times, self.subspace)

    @classmethod
    def from_cells(
        cls,
        states: NDArray,
        cell_times: NDArray,
        subspace: Subspace | None = None,
        growth: NDArray | None = None,
        least: int = 2,
    ) -> TimeCourse:
        """Group `states` (cells, latent_dim) by the time of each cell (cells,).

        `cell_times` (cells,) says when, and `growth` (cells,) what is known of it, if anything;
        there must be `least` times.
        """
        times = np.unique(cell_times)
        rows = [cell_times == time for time in times]
        known = None if growth is None else [growth[mask].astype(np.float32) for mask in rows]
        return cls([states[mask] for mask in rows], times, subspace, known, least=least)

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        *,
        time_key: str | TimeKey,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int | None = None,
        latent_space: LatentSpace | None = None,
        seed: int = 0,
    ) -> TimeCourse:
        """Read a time course from AnnData.

        Genes are reduced to `n_dims` principal components, scaled to unit spread. An embedding is
        taken as it is, unless a `latent_space` is given to project it with.

        Parameters
        ----------
        adata : AnnData
            Cells in rows, in memory or backed; `X` (or `layer`) on a logarithmic scale.
        time_key : str or TimeKey
            Column of `obs` with the time of each cell, from any origin: numbers, or labels such as
            day3, E8.5 or 48h; see :class:`cellmnn_fm.data.times.TimeKey`.
        use_rep : str, optional
            Key of `obsm` with an embedding to use in place of genes, or "X" if `X` is one. A file
            with `uns["space"] == "pca"` is read as "X".
        layer : str, optional
            Layer to use in place of `X`; "raw" for `adata.raw`.
        n_dims : int, optional
            At most so many dimensions; all of an embedding, 10 components of genes by default.
        latent_space : LatentSpace, optional
            Fitted before, to project with.
        seed : int
            Of the principal components.

        Raises
        ------
        InputError
            On times or values that cannot be used, before any computation.
        """
        source = read_source(adata, use_rep, layer)
        cell_times = read_times(adata, time_key)
        if source.is_embedding and latent_space is None:
            matrix = source.matrix()
            states = matrix.toarray() if isinstance(matrix, sparse.csr_array) else matrix
            return cls.from_cells(states[:, :n_dims], cell_times)
        if latent_space is None:
            latent_space = LatentSpace.fit(source, cell_times, n_dims=n_dims, seed=seed)
        states, _ = latent_space.project(source)
        return cls.from_cells(states, cell_times, latent_space.subspace)


@dataclass(frozen=True)
class ReadCourse:
    """A time course as it was read from a file, in a latent space that was fitted to it.

    Attributes
    ----------
    source : Source
        The values of the file.
    times : CellTimes
        When its cells were taken.
    space : LatentSpace
        That was fitted to it.
    states : (cells, latent_dim)
        In the order of the file.
    course : TimeCourse
        The states, grouped by time.
    """

    source: Source
    times: CellTimes
    space: LatentSpace
    states: NDArray[np.float32]
    course: TimeCourse


def read_course(adata: AnnData, reading: FitReading, seed: int = 0) -> ReadCourse:
    """Read a file for a fit, once: values, times, latent space, batches, growth.

    Parameters
    ----------
    adata : AnnData
        The file, in memory or backed.
    reading : FitReading
        How.
    seed : int
        Of the principal components.

    Raises
    ------
    InputError
        On what cannot be used, before any training.
    """
    options = space_options(reading)
    source = read_source(adata, reading.use_rep, reading.layer)
    times = read_cell_times(adata, reading.time_key)
    space = LatentSpace.fit(source, times.values, options, n_dims=reading.n_dims, seed=seed)
    growth = read_growth(adata, reading.growth, reading.layer, options.genes.symbols)
    states, _ = space.project(source, options.genes)
    batches = read_batches(adata, reading.batch_key)
    if batches is not None:
        effects = BatchEffects.fit(states, times.values, batches)
        states = effects.removed(states, batches, times.values)
        space = replace(space, batches=effects)
    course = TimeCourse.from_cells(states, times.values, space.subspace, growth)
    if reading.population is not None:
        if reading.growth is False:
            raise InputError(
                "population", "a fit with growth", "none", "set growth, or leave it out"
            )
        course = replace(course, sizes=PopulationSize.of(reading.population).at(course.times))
    return ReadCourse(source, times, space, states, course)
