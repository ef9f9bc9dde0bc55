"""Times, values and genes of cells, out of an AnnData in memory or on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..model.errors import InputError, listed
from .genes import require_unique
from .moments import Matrix
from .notices import notice
from .times import TimeKey, unit_named

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS = 2  # a spread needs two cells
_FEW_CELLS = 6

Scale = Literal["log", "linear", "counts"]

_COUNTS_PER_CELL = 10_000
_LOOKED_AT = 256  # cells, to tell what values are
_MOST_COUNTS = 1e6  # of a gene in a cell; more are multiples of a rounding error
_MOST_OF_ONES = 3  # smaller integers may be flags
_MOST_ON_LOG_SCALE = 100  # e^100 molecules are in no cell
_DOUBTFUL = 20  # base 2 and e reach about as far
_LEAST_TOTALS = 5  # cells, to call their sums equal
_MOST = 1e15  # whose square is far from the end of 32 bits
_SAME_TIME = 1e-6  # of the range: what rounding does to equal times
_MOST_TIME = 1e30
_CHUNK_CELLS = 1024
_CHUNK_VALUES = 2**22  # of a chunk of cells or of genes, 16 MB when dense


@dataclass(frozen=True)
class Source:
    """The values of cells and genes (or coordinates) that are modelled, wherever they lie.

    Attributes
    ----------
    name : str
        Where in the AnnData.
    values : array, sparse matrix or a dataset on disk, (cells, genes)
        As they lie in the file, before any scale is taken into account.
    var : DataFrame
        The genes, in rows.
    is_embedding : bool
        Whether these are coordinates and not genes.
    scale : {"log", "linear", "counts"}
        What the values are; all are given out on a logarithmic scale: log1p of linear ones, and of
        counts per 10,000 of a cell.
    """

    name: str
    values: Any
    var: pd.DataFrame
    is_embedding: bool
    scale: Scale = "log"

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.values.shape

    @property
    def on_disk(self) -> bool:
        """Whether the values are read from a file when they are needed."""
        return not isinstance(self.values, np.ndarray) and not sparse.issparse(self.values)

    @property
    def names(self) -> list[str]:
        """Unique names of the genes, or of the coordinates."""
        names = self.var.index.astype(str).tolist()
        require_unique(names, "var_names", "call var_names_make_unique")
        return names

    def matrix(self) -> Matrix:
        """All values in memory, 32-bit; sparse where they are sparse.

        Raises
        ------
        InputError
            On NaN or infinite values.
        """
        values = self.values
        if self.on_disk:
            values = values.to_memory() if hasattr(values, "to_memory") else loaded(values[:])
        return self._checked(values)

    @cached_property
    def floor(self) -> float | None:
        """0 where no value is below it, as in counts and their logarithms; None for coordinates.

        Of what is on disk only the first cells are looked at.
        """
        if self.is_embedding:
            return None
        chunk = next(self.chunks())
        least = chunk.min() if isinstance(chunk, np.ndarray) else chunk.data.min(initial=0.0)
        return 0.0 if least >= 0 else None

    def column(self, index: int) -> NDArray[np.float64]:
        """The values of one gene, (cells,)."""
        parts = []
        for chunk in self.chunks():
            picked = chunk[:, [index]]
            dense = picked if isinstance(picked, np.ndarray) else picked.toarray()
            parts.append(dense[:, 0].astype(np.float64))
        return np.concatenate(parts)

    def chunks(self, rows: NDArray[np.bool_] | None = None) -> Iterator[Matrix]:
        """The values of all cells, or of those in a mask, in chunks of cells in their order.

        What is on disk is never in memory as a whole, whatever its layout.

        The mask is `rows` (cells,).

        Raises
        ------
        InputError
            On NaN or infinite values.
        """
        cells, genes = self.shape
        size = int(np.clip(_CHUNK_VALUES // genes, 1, _CHUNK_CELLS))
        bounds = [slice(start, start + size) for start in range(0, cells, size)]
        if getattr(self.values, "format", None) == "csc":
            parts = _rows_of_csc(self.values, bounds)
        else:
            parts = (self.values[bound] for bound in bounds)
        for bound, part in zip(bounds, parts, strict=True):
            if rows is None:
                yield self._checked(part)
            elif rows[bound].any():
                yield self._checked(part[rows[bound]])

    def _checked(self, values: Any) -> Matrix:
        """A chunk (cells, genes) on a logarithmic scale, finite and in range."""
        matrix: Any
        values = loaded(values)
        if sparse.issparse(values):
            matrix = sparse.csr_array(values, dtype=np.float32)
            require_finite(matrix.data, self.name)
        else:
            matrix = np.asarray(values, dtype=np.float32)
            require_finite(matrix, self.name)
        numbers = matrix.data if sparse.issparse(matrix) else matrix
        largest = max(numbers.max(), -numbers.min()) if numbers.size else 0.0
        if largest > _MOST:
            actual = f"{largest:.2g}"
            raise InputError(self.name, f"values up to {_MOST:g}", actual, "rescale them")
        if self.scale == "log":
            return matrix
        if self.scale == "counts":
            totals = np.asarray(matrix.sum(axis=1)).ravel()
            # cells without any count stay without
            factors = np.float32(_COUNTS_PER_CELL) / np.where(totals > 0, totals, 1)
            diagonal = sparse.dia_array((factors[None], [0]), shape=(len(factors),) * 2)
            matrix = diagonal.tocsr() @ matrix
        return matrix.log1p() if sparse.issparse(matrix) else np.log1p(matrix)


def read_source(adata: AnnData, use_rep: str | None = None, layer: str | None = None) -> Source:
    """The values to model: genes of `X`, of a layer or of `.raw`, or an embedding.

    Parameters
    ----------
    adata : AnnData
        In memory or backed.
    use_rep : str, optional
        Key of `obsm` with an embedding, or "X" if `X` is one; a file with
        `uns["space"] == "pca"` is read as "X".
    layer : str, optional
        A layer in place of `X`. "raw" is `adata.raw`, unless there is a layer of that name.

    Raises
    ------
    InputError
        If there is nothing to read.
    """
    if use_rep is not None and layer is not None:
        raise InputError(
            "input", "use_rep or layer", f"use_rep={use_rep!r} and layer={layer!r}", "give one"
        )
    if use_rep is None and layer is None and adata.uns.get("space") == "pca":
        use_rep = "X"
    var = adata.var
    if layer == "raw" and layer not in adata.layers and adata.raw is not None:
        name, values, var = "raw.X", adata.raw.X, adata.raw.var
    elif layer is not None:
        name, values = f'layers["{layer}"]', _item(adata.layers, layer, f'layers["{layer}"]')
    elif use_rep is not None and use_rep != "X":
        name, values = f'obsm["{use_rep}"]', _item(adata.obsm, use_rep, f'obsm["{use_rep}"]')
        values = _embedding(values, name)
        var = pd.DataFrame(index=[f"{use_rep}_{index}" for index in range(values.shape[1])])
    else:
        name, values = "X", adata.X
    if values is None or 0 in values.shape:
        actual = (
            "nothing" if values is None else f"{values.shape[0]} cells, {values.shape[1]} genes"
        )
        raise InputError(
            name, "values of cells and genes", actual, "check how the file was filtered"
        )
    if use_rep is not None:
        return Source(name, values, var, is_embedding=True)
    return Source(name, values, var, False, _scale_of(name, values, adata))


def _embedding(values: Any, name: str) -> Any:
    """An entry of `obsm`, which may hold tables and ragged arrays, as numbers (cells, dims)."""
    matrix = values.to_numpy() if isinstance(values, pd.DataFrame) else values
    dtype = getattr(matrix, "dtype", None)
    if (
        getattr(matrix, "ndim", 0) != 2
        or not isinstance(dtype, np.dtype)
        or dtype.kind not in "biuf"
    ):
        raise InputError(
            name, "numbers, cells by dimensions", type(values).__name__, "name another embedding"
        )
    return matrix


def _scale_of(name: str, values: Any, adata: AnnData) -> Scale:
    """What values are, from some of them; with a notice where that is not plain."""
    if name == "X" and "log1p" in adata.uns:  # scanpy was here; of layers and raw it says nothing
        return "log"
    sample, whole_cells = _some_cells(values)
    values_seen = sample.data if sparse.issparse(sample) else np.asarray(sample).ravel()
    values_seen = values_seen[np.isfinite(values_seen)]
    if not len(values_seen) or not values_seen.any():
        return "log"
    highest, least = float(values_seen.max()), float(values_seen[values_seen != 0].min())
    scale: Scale = "log"
    if values_seen.min() < 0:
        reading = "has negative values: taken as scaled, and left as it is"
    elif highest >= _MOST_OF_ONES and (values_seen == np.round(values_seen)).all():
        reading, scale = "holds counts: taken per 10,000 of a cell, log1p", "counts"
    elif _MOST_OF_ONES <= highest / least < _MOST_COUNTS and np.allclose(
        values_seen / least, np.round(values_seen / least), atol=1e-3
    ):
        reading, scale = (
            f"holds counts times {least:.4g}: taken per 10,000 of a cell, log1p",
            "counts",
        )
    elif highest > _MOST_ON_LOG_SCALE:
        reading, scale = f"goes up to {highest:.4g}: taken as linear, log1p", "linear"
    elif whole_cells and highest >= _MOST_OF_ONES and _equal(sample.sum(axis=1)):
        reading, scale = "has the same sum in every cell: taken as linear, log1p", "linear"
    elif highest > _DOUBTFUL and not (whole_cells and _equal(np.expm1(sample).sum(axis=1))):
        reading = f"goes up to {highest:.4g}: taken as logarithms"
    else:
        return "log"
    flag = ' (uns["log1p"] says that it is on a log scale)' if name == "X" else ""
    notice(f"{name} {reading}{flag}")
    return scale


def _some_cells(values: Any) -> tuple[Any, bool]:
    """Some of the values, and whether these are whole cells."""
    on_disk = not isinstance(values, np.ndarray) and not sparse.issparse(values)
    if on_disk and getattr(values, "format", None) == "csc":
        return values[:, :_LOOKED_AT], False  # rows would go through the whole file
    if on_disk:
        return loaded(values[:_LOOKED_AT]), True
    return values[:: max(1, values.shape[0] // _LOOKED_AT)], True


def _equal(totals: Any) -> bool:
    """Whether sums of cells are the same, rounding aside."""
    totals = np.asarray(totals, dtype=np.float64).ravel()
    totals = totals[totals > 0]
    return len(totals) >= _LEAST_TOTALS and totals.std() < 1e-3 * totals.mean()


def loaded(part: Any) -> Any:
    """Some rows or columns in memory, of whatever they were taken: dask computes them now."""
    part = part.compute() if hasattr(part, "compute") else part
    return part if isinstance(part, np.ndarray) or sparse.issparse(part) else np.asarray(part)


@dataclass(frozen=True)
class CellTimes:
    """When cells were taken.

    Attributes
    ----------
    values : (cells,)
        In the unit of the labels.
    labelled, stated : str, optional
        The unit of the labels, and the one that the file states in `uns["time_unit"]`.
    """

    values: NDArray[np.float64]
    labelled: str | None
    stated: str | None

    @property
    def unit(self) -> str | None:
        """That of the labels goes first."""
        return self.labelled or self.stated


def read_cell_times(
    adata: AnnData, time_key: str | TimeKey | None, *, dynamics: bool = True
) -> CellTimes:
    """The time of each cell, validated: finite; 2 or more times of 2 or more cells.

    Without `dynamics` any times of any number of cells will do. Of times with 2 to 5 cells there is
    a warning.

    Parameters
    ----------
    adata : AnnData
        With the column in `obs`.
    time_key : str or TimeKey
        Column of `obs`; see :class:`cellmnn_fm.data.times.TimeKey` for what labels may be.
    dynamics : bool
        Whether they are those of a time course.

    Raises
    ------
    InputError
        On a column that is not named or not there, and on times that cannot be used.
    """
    if time_key is None:
        fix = "name it: no fit says which it is"
        raise InputError("time_key", "the column of times", "none", fix)
    key = TimeKey(time_key) if isinstance(time_key, str) else time_key
    if not isinstance(adata.obs, pd.DataFrame):
        fix = "call its to_memory()"
        raise InputError("adata", "one whose obs is in memory", "one that is read lazily", fix)
    if key.column not in adata.obs:
        raise InputError(
            f'time column "{key.column}"',
            "a column of obs",
            f"columns {listed(adata.obs.columns) or '(none)'}",
            "name the column that holds the time of each cell",
        )
    read = key.read(adata.obs[key.column])
    times = same_times(read.values, f'time column "{key.column}"')
    if dynamics:
        distinct, counts = np.unique(times, return_counts=True)
        require_times(distinct, counts.tolist())
        for time, cells in zip(distinct, counts, strict=True):
            if cells < _FEW_CELLS:
                notice(f"{cells} cells at time {time:g}: too few to tell much of it")
    return CellTimes(times, read.unit, unit_named(adata.uns.get("time_unit", "")))


def read_times(adata: AnnData, time_key: str | TimeKey | None) -> NDArray[np.float64]:
    """As :func:`read_cell_times`, the values (cells,) of a time course alone."""
    return read_cell_times(adata, time_key).values


def same_times(times: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """The times (cells,), where those that differ by rounding alone are one, with a notice.

    Raises
    ------
    InputError
        On times that are too large, or too close, for numbers to tell apart.
    """
    distinct = np.unique(times)
    if not len(distinct):
        return times
    span = float(distinct[-1]) - float(distinct[0])
    if np.abs(distinct).max() > _MOST_TIME or 0 < span < 1 / _MOST_TIME:
        actual, expected = f"{distinct[0]:g} to {distinct[-1]:g}", f"at most {_MOST_TIME:g}"
        raise InputError(name, f"times, and 1 over their range, of {expected}", actual, "rescale")
    starts = np.r_[True, np.diff(distinct) > _SAME_TIME * span]
    if starts.all():
        return times
    kept = distinct[starts]
    merged = listed([f"{time!r}" for time in distinct[~starts].tolist()])
    notice(f"{name}: {merged} taken as the time just before, by rounding")
    return kept[(np.cumsum(starts) - 1)[np.searchsorted(distinct, times)]]


def observed_time(wanted: float, times: NDArray, what: str) -> float:
    """The observed time that is meant, rounding aside.

    One of `times` (cells,).

    Raises
    ------
    InputError
        If there is none; names those that are there.
    """
    distinct = np.unique(times)
    span = float(distinct[-1] - distinct[0]) or max(abs(float(distinct[0])), 1.0)
    nearest = float(distinct[np.abs(distinct - wanted).argmin()]) if np.isfinite(wanted) else np.nan
    if not abs(nearest - wanted) <= _SAME_TIME * span:
        observed = listed(distinct.tolist())
        raise InputError(what, f"one of {observed}", wanted, "choose an observed time")
    return nearest


def read_column(adata: AnnData, key: str, name: str) -> pd.Series:
    """A column of `obs`, called `name` in the error if there is none."""
    if key not in adata.obs:
        columns = listed(adata.obs.columns) or "(none)"
        raise InputError(name, "a column of obs", f"columns {columns}", "name one")
    return adata.obs[key]


def read_batches(adata: AnnData, batch_key: str | None) -> NDArray | None:
    """The batch of each cell, (cells,), if there is a column of them.

    Raises
    ------
    InputError
        On a column that is not there, and on cells without a batch.
    """
    if batch_key is None:
        return None
    name = f'batch column "{batch_key}"'
    labels = read_column(adata, batch_key, name)
    if missing := int(labels.isna().sum()):
        raise InputError(name, "a batch for every cell", f"{missing} without", "name theirs")
    return labels.astype(str).to_numpy()


def require_times(times: NDArray, counts: list[int], least: int = 2) -> None:
    """Refuse fewer than `least` times, and times of fewer than 2 cells.

    Of distinct `times` (times,) with their `counts`.
    """
    if len(times) < least:
        raise InputError(
            "times",
            f"{least} or more different ones",
            f"{len(times)} ({listed(times)})",
            "dynamics need snapshots at different times",
        )
    small = [f"{n} at {time:g}" for time, n in zip(times, counts, strict=True) if n < MIN_CELLS]
    if small:
        raise InputError(
            "cells", f"{MIN_CELLS} or more at every time", ", ".join(small), "remove those times"
        )


def require_finite(values: NDArray, name: str) -> None:
    """Refuse NaN and infinite values, and count them.

    Of `values` (...,), whatever their shape.
    """
    if bad := int(values.size - np.isfinite(values).sum()):
        raise InputError(
            name,
            "finite values",
            f"{bad} of {values.size} NaN or infinite",
            "remove or impute them",
        )


def _item(mapping: Any, key: str, name: str) -> Any:
    """A part of the AnnData by its key; an error names those that are there."""
    if key not in mapping:
        raise InputError(
            name, "an array", f"keys {listed(mapping) or '(none)'}", "name one of those"
        )
    return mapping[key]


def _rows_of_csc(values: Any, bounds: Sequence[slice]) -> Iterator[sparse.csr_array]:
    """Chunks of rows of a matrix that is stored by columns.

    On disk its columns are read once, and each block of them is cut by rows into temporary files:
    reading rows directly would go through the whole file for every chunk.
    """
    if sparse.issparse(values):
        by_rows = sparse.csr_array(values)
        yield from (by_rows[bound] for bound in bounds)
        return
    cells, genes = values.shape
    width = int(np.clip(2 * _CHUNK_VALUES // cells, 1, genes))
    starts = range(0, genes, width)
    with tempfile.TemporaryDirectory() as folder:
        for block, start in enumerate(starts):
            columns = sparse.csr_array(values[:, start : start + width])
            for number, bound in enumerate(bounds):
                piece = Path(folder, f"{number}_{block}.npz")
                sparse.save_npz(piece, columns[bound], compressed=False)
        for number in range(len(bounds)):
            pieces = [
                sparse.load_npz(Path(folder, f"{number}_{block}.npz"))
                for block in range(len(starts))
            ]
            yield sparse.csr_array(sparse.hstack(pieces))
