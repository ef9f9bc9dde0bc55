"""A time course, snapshots of different cells at known times: the border of files and models."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from .errors import InputError
from .subspace import Matrix, Subspace

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS = 2  # a spread needs two cells
DEFAULT_LATENT_DIM = 10


@dataclass(frozen=True)
class TimeScale:
    """Between the user's time and model time, in which n observed times span 0 to n - 1.

    Uneven gaps keep their proportions.

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
        """The scale of ascending observed `times`."""
        return cls(float(times[0]), float(times[-1] - times[0]) / (len(times) - 1))

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
        _require_times(times, [len(snapshot) for snapshot in snapshots])
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
            _require_finite(snapshot, f"snapshot at time {time:g}")

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

    @classmethod
    def from_cells(
        cls, states: NDArray, cell_times: NDArray, subspace: Subspace | None = None
    ) -> TimeCourse:
        """Group `states` (cells, latent_dim) by the time of each cell (cells,)."""
        times = np.unique(cell_times)
        return cls([states[cell_times == time] for time in times], times, subspace)

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        *,
        time_key: str,
        use_rep: str | None = None,
        layer: str | None = None,
        n_dims: int | None = None,
        subspace: Subspace | None = None,
        seed: int = 0,
    ) -> TimeCourse:
        """Read a time course from AnnData.

        Genes are reduced to `n_dims` principal components, scaled to unit spread. An embedding is
        taken as it is, unless a `subspace` is given to project it with.

        Parameters
        ----------
        adata : AnnData
            Cells in rows; `X` (or `layer`) on a logarithmic scale.
        time_key : str
            Column of `obs` with a numeric time for each cell, in any unit and from any origin.
        use_rep : str, optional
            Key of `obsm` with an embedding to use in place of genes, or "X" if `X` is one. A file
            with `uns["space"] == "pca"` is read as "X".
        layer : str, optional
            Layer to use in place of `X`.
        n_dims : int, optional
            At most so many dimensions; all of an embedding, 10 components of genes by default.
        subspace : Subspace, optional
            Fitted before, to project with.
        seed : int
            Of the principal components.

        Raises
        ------
        InputError
            On times or values that cannot be used, before any computation.
        """
        use_rep = resolve_representation(adata, use_rep, layer)
        cell_times = read_times(adata, time_key)
        matrix = read_matrix(adata, use_rep, layer)
        if use_rep is not None and subspace is None:
            states = matrix.toarray() if isinstance(matrix, sparse.csr_array) else matrix
            return cls.from_cells(states[:, :n_dims], cell_times)
        subspace = subspace or fit_subspace(matrix, use_rep, n_dims, seed)
        return cls.from_cells(subspace.project(matrix), cell_times, subspace)


def resolve_representation(adata: AnnData, use_rep: str | None, layer: str | None) -> str | None:
    """What to read: an `obsm` key, "X" for coordinates in `X`, None for genes."""
    if use_rep is not None and layer is not None:
        raise InputError(
            "input", "use_rep or layer", f"use_rep={use_rep!r} and layer={layer!r}", "give one"
        )
    if use_rep is None and layer is None and adata.uns.get("space") == "pca":
        return "X"
    return use_rep


def fit_subspace(
    matrix: Matrix, use_rep: str | None, n_dims: int | None, seed: int = 0
) -> Subspace:
    """Principal components of genes, or the scaled coordinates of an embedding."""
    if n_dims is not None and n_dims < 1:
        raise InputError("n_dims", "at least 1", n_dims, "ask for more dimensions")
    if use_rep is None:
        return Subspace.pca(matrix, n_dims or DEFAULT_LATENT_DIM, seed)
    return Subspace.standardized(matrix, n_dims)


def read_times(adata: AnnData, time_key: str) -> NDArray[np.float64]:
    """The time of each cell, validated: numeric, finite, 2 or more times of 2 or more cells."""
    column = f'time column "{time_key}"'
    if time_key not in adata.obs:
        raise InputError(
            column,
            "a column of obs",
            f"columns {_listed(adata.obs.columns) or '(none)'}",
            "name the column that holds the time of each cell",
        )
    values = adata.obs[time_key]
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if missing := int(values.isna().sum()):
        raise InputError(
            column, "a time for every cell", f"{missing} of {len(values)} without", "remove those"
        )
    if not np.isfinite(numbers).all():
        labels = pd.unique(values[~np.isfinite(numbers)])
        raise InputError(
            column,
            "finite numbers",
            _listed(labels),
            "replace the labels by numbers in one unit, such as days",
        )
    times, counts = np.unique(numbers, return_counts=True)
    _require_times(times, counts.tolist())
    return numbers


def read_matrix(
    adata: AnnData, use_rep: str | None = None, layer: str | None = None
) -> NDArray[np.float32] | sparse.csr_array:
    """The values (cells, genes) to model, validated; sparse where they are sparse."""
    source = adata.layers if layer is not None else adata.obsm
    key = layer if layer is not None else use_rep
    if key is None or (layer is None and key == "X"):
        name, values = "X", adata.X
    else:
        name = f'{"layers" if layer is not None else "obsm"}["{key}"]'
        if key not in source:
            raise InputError(
                name, "an array", f"keys {_listed(source) or '(none)'}", "name one of those"
            )
        values = source[key]
    if values is None or 0 in values.shape:
        found = "nothing" if values is None else f"{values.shape[0]} cells, {values.shape[1]} genes"
        raise InputError(
            name, "values of cells and genes", found, "check how the file was filtered"
        )
    if hasattr(values, "to_memory"):  # backed files
        values = values.to_memory()
    if sparse.issparse(values):
        matrix = sparse.csr_array(values, dtype=np.float32)
        _require_finite(matrix.data, name)
        return matrix
    dense = np.asarray(values, dtype=np.float32)
    _require_finite(dense, name)
    return dense


def read_var_names(adata: AnnData, use_rep: str | None, count: int) -> list[str]:
    """Names of what :func:`read_matrix` reads: genes, or the coordinates of an embedding."""
    if use_rep is not None and use_rep != "X":
        return [f"{use_rep}_{index}" for index in range(count)]
    names = adata.var_names.astype(str)
    if duplicated := names[names.duplicated()].unique().tolist():
        raise InputError(
            "var_names",
            "unique names",
            f"{_listed(duplicated)} repeated",
            "call var_names_make_unique",
        )
    return names.tolist()


def _require_times(times: NDArray, counts: list[int]) -> None:
    if len(times) < 2:
        raise InputError(
            "times",
            "2 or more different ones",
            f"{len(times)} ({_listed(times)})",
            "dynamics need snapshots at different times",
        )
    small = [f"{n} at {time:g}" for time, n in zip(times, counts, strict=True) if n < MIN_CELLS]
    if small:
        raise InputError(
            "cells", f"{MIN_CELLS} or more at every time", ", ".join(small), "remove those times"
        )


def _require_finite(values: NDArray, name: str) -> None:
    if bad := int(values.size - np.isfinite(values).sum()):
        raise InputError(
            name,
            "finite values",
            f"{bad} of {values.size} NaN or infinite",
            "remove or impute them",
        )


def _listed(items: Sequence[Hashable] | NDArray | pd.Index, most: int = 8) -> str:
    names = [f"{item:g}" if isinstance(item, float) else str(item) for item in items]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
