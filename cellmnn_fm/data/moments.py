"""What subspaces are fitted from: moments of genes, gathered in one pass over chunks of cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import eigsh

from ..model.errors import InputError

Matrix: TypeAlias = NDArray[np.floating] | sparse.csr_array

DEFAULT_RANK = 64
_MOST_EXACT = 4096  # genes whose scatter matrix is kept, 128 MB of it
_ALL_EIGENPAIRS = 1200  # up to here all of them take no longer than some
_ROUNDING = 1e-6  # a spread below this part of the mean is that of 32-bit numbers
_NEGLIGIBLE = 1e-10  # an eigenvalue below this part of the largest is rounding


@dataclass(frozen=True)
class GeneMoments:
    """Cells, means, variances and leading eigenpairs of one data set: all that is kept of it.

    The eigenpairs are those of the correlation matrix where the genes were `standardized`, else of
    the covariance matrix.

    Parameters
    ----------
    cells : int
        How many were seen.
    mean, variance : (genes,)
        The variance divides by cells - 1.
    eigenvalues : (rank,)
        Descending.
    eigenvectors : (genes, rank)
        Their directions, orthonormal.
    standardized : bool
        Whether these are of genes with unit variance.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
    >>> moments = GeneMoments.gather([x[:30], x[30:]], standardize=False)
    >>> bool(np.allclose(moments.eigenvalues, np.linalg.eigvalsh(np.cov(x.T))[::-1]))
    True
    """

    cells: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float32]
    standardized: bool

    @classmethod
    def gather(
        cls, chunks: Iterable[Matrix], *, rank: int = DEFAULT_RANK, standardize: bool = True
    ) -> GeneMoments:
        """One pass over chunks (cells, genes) of one data set, in any order.

        Means and variances are exact. So are the eigenpairs of up to 4,096 genes, whose scatter
        matrix is summed; and of more, if the data have at most `rank` dimensions or come in one
        chunk. Else each chunk is merged with the leading `rank` directions of those before it, and
        only what lies below those is lost. Memory is that of one chunk, dense, and of the scatter
        matrix or `rank` rows. A rank of 0 gathers means and variances alone.

        Raises
        ------
        InputError
            If there are fewer than 2 cells, or all cells are equal.

        References
        ----------
        Ross, Lim, Lin and Yang 2008, Int J Comput Vis 77:125 (merging with a mean that moves).
        """
        cells = 0
        mean = scatter = np.zeros(0)
        spread = _Spread(rank, standardize)
        for chunk in chunks:
            x = chunk.toarray() if isinstance(chunk, sparse.csr_array) else chunk
            if not len(x):
                continue
            if not cells:
                mean = scatter = np.zeros(x.shape[1])
            chunk_mean = x.mean(axis=0, dtype=np.float64)
            centred = (x - chunk_mean).astype(np.float32)
            shift = chunk_mean - mean
            total = cells + len(x)
            between = np.sqrt(cells * len(x) / total) * shift
            scatter = scatter + np.einsum("cg,cg->g", centred, centred, dtype=np.float64)
            scatter += between**2
            mean = mean + shift * (len(x) / total)
            cells = total
            scatter[scatter <= cells * (_ROUNDING * mean) ** 2] = 0.0
            if rank:
                spread.add(np.concatenate([centred, between[None].astype(np.float32)]), scatter)
        if cells < 2:
            raise InputError("cells", "at least 2", cells, "give more cells")
        require_varying(scatter)
        length = _nonzero(np.sqrt(scatter)) if standardize else np.full(len(mean), cells - 1) ** 0.5
        rows = spread.leading(length) if rank else np.zeros((0, len(mean)), np.float32)
        eigenvalues = np.square(rows, dtype=np.float64).sum(axis=1)
        kept = eigenvalues > _NEGLIGIBLE * eigenvalues.max(initial=0)
        vectors = (rows[kept] / np.sqrt(eigenvalues[kept, None])).T
        return cls(
            cells=cells,
            mean=mean,
            variance=scatter / (cells - 1),
            eigenvalues=eigenvalues[kept],
            eigenvectors=np.ascontiguousarray(vectors, dtype=np.float32),
            standardized=standardize,
        )

    @property
    def scale(self) -> NDArray[np.float64]:
        """Standard deviation of each gene, 1 for a gene that does not vary."""
        return _nonzero(np.sqrt(self.variance))

    def of_genes(self, kept: NDArray) -> GeneMoments:
        """Of some genes only, a mask or indices; exact where the others do not vary.

        They are the mask or the indices `kept` (genes,).
        """
        parts = (self.mean[kept], self.variance[kept], self.eigenvalues, self.eigenvectors[kept])
        return GeneMoments(self.cells, *parts, self.standardized)

    def times(self, matrix: NDArray) -> NDArray:
        """The correlation (or covariance) matrix times `matrix` (genes, columns).

        What the eigenpairs leave of each gene's variance is taken as that gene's own.
        """
        vectors = self.eigenvectors.astype(matrix.dtype, copy=False)
        values = self.eigenvalues[:, None].astype(matrix.dtype)
        own_variance = self._own_variance[:, None].astype(matrix.dtype)
        return vectors @ (values * (vectors.T @ matrix)) + own_variance * matrix

    @cached_property
    def _own_variance(self) -> NDArray[np.float64]:
        """What the kept components leave of each variance, (genes,)."""
        total = (self.variance > 0).astype(float) if self.standardized else self.variance
        return np.maximum(total - np.square(self.eigenvectors) @ self.eigenvalues, 0)


def require_varying(spread: NDArray) -> None:
    """Refuse cells that are all equal, whose `spread` is 0 in every gene or dimension.

    `spread` (genes,) is a standard deviation, or a variance.
    """
    if not spread.any():
        raise InputError(
            "expression",
            "cells that differ from each other",
            "all of them equal",
            "check that the matrix holds the measured values",
        )


class _Spread:
    """The scatter matrix of genes, in the least memory that keeps its leading directions.

    All centred rows while there are fewer than genes, then the matrix itself; of more genes than
    a matrix has room for, the leading directions of what came so far.
    """

    def __init__(self, rank: int, standardize: bool):
        self.rank, self.standardize = rank, standardize
        self._rows: list[NDArray[np.float32]] = []  # their Gram matrix of columns is the scatter
        self._matrix: NDArray[np.float64] | None = None

    def add(self, rows: NDArray[np.float32], scatter: NDArray[np.float64]) -> None:
        """Centred rows (cells, genes), with the squares (genes,) of all that came so far."""
        genes = rows.shape[1]
        if self._matrix is not None:
            self._matrix += rows.T @ rows
            return
        self._rows.append(rows)
        if genes > _MOST_EXACT:
            together = np.concatenate(self._rows)
            # which directions lead is judged by the standard deviations known so far
            scale = _nonzero(np.sqrt(scatter)) if self.standardize else np.ones(genes)
            leading = _leading((together / scale).astype(np.float32), self.rank)
            self._rows = [(leading * scale).astype(np.float32)]
        elif sum(map(len, self._rows)) > genes:
            self._matrix = np.zeros((genes, genes))
            for held in self._rows:
                self._matrix += held.T @ held
            self._rows = []

    def leading(self, length: NDArray[np.float64]) -> NDArray[np.float32]:
        """At most `rank` orthogonal rows, longest first, once genes are divided by `length`."""
        if self._matrix is None:
            return _leading((np.concatenate(self._rows) / length).astype(np.float32), self.rank)
        self._matrix /= length[:, None]
        self._matrix /= length
        return _lengths(*_top(self._matrix, self.rank))


def _leading(rows: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
    """At most `rank` orthogonal rows, longest first, with nearly the same Gram matrix of columns.

    They are s Vᵀ of the singular value decomposition, by way of the smaller Gram matrix.
    """
    if len(rows) <= rows.shape[1]:
        _, vectors = _top((rows @ rows.T).astype(np.float64), rank)
        return vectors.T.astype(np.float32) @ rows
    return _lengths(*_top((rows.T @ rows).astype(np.float64), rank))


def _lengths(values: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows s Vᵀ of eigenvalues s² and eigenvectors V."""
    return (np.sqrt(np.maximum(values, 0))[:, None] * vectors.T).astype(np.float32)


def _top(matrix: NDArray[np.float64], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `rank` eigenpairs of a symmetric matrix, the largest first."""
    if len(matrix) <= _ALL_EIGENPAIRS or rank > len(matrix) // 4:
        values, vectors = np.linalg.eigh(matrix)
    else:
        # without a start of its own one is drawn, and the last digits with it
        start = np.random.default_rng(0).normal(size=len(matrix))
        values, vectors = eigsh(matrix, rank, v0=start)
    return values[::-1][:rank], vectors[:, ::-1][:, :rank]


def _nonzero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spreads (genes,) to divide by: 1 where a gene does not vary."""
    return np.where(values > 0, values, 1.0)
