"""The linear map between expression and the latent space: x̂ = μ + V diag(s) z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

from .errors import InputError

Matrix: TypeAlias = NDArray[np.floating] | sparse.csr_array

_NEGLIGIBLE = 1e-6  # a score whose spread is below this part of the largest carries nothing


@dataclass(frozen=True)
class Subspace:
    """Loadings V, centre μ and score scales s, so that every latent dimension has unit spread.

    ``z = (x - μ) V / s`` and ``x̂ = μ + (s z) Vᵀ``, for log expression or for an embedding.

    Parameters
    ----------
    gene_mean : (genes,)
    loadings : (genes, latent_dim)
        Orthonormal columns.
    score_scale : (latent_dim,)
        Standard deviation of each score over the cells of the fit.

    Examples
    --------
    >>> import numpy as np
    >>> from cellmnn_fm.subspace import Subspace
    >>> x = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    >>> subspace = Subspace.pca(x, n_dims=3)
    >>> bool(np.allclose(subspace.reconstruct(subspace.project(x)), x, atol=1e-5))
    True
    """

    gene_mean: NDArray[np.float32]
    loadings: NDArray[np.float32]
    score_scale: NDArray[np.float32]

    @classmethod
    def pca(cls, x: Matrix, n_dims: int, seed: int = 0) -> Subspace:
        """Principal components of `x` (cells, genes), at most `n_dims` of them.

        Fewer come back where there are fewer cells or genes, or where the rest has no variance.

        Raises
        ------
        InputError
            If all cells are equal.
        """
        wanted = min(n_dims, x.shape[0] - 1, x.shape[1])
        # arpack takes sparse input as it is, but finds no complete set of components
        if isinstance(x, sparse.csr_array) and wanted >= min(x.shape):
            x = x.toarray()
        solver = "arpack" if sparse.issparse(x) else "auto"
        with np.errstate(invalid="ignore"):  # a share of no variance at all, refused below
            fit = PCA(wanted, svd_solver=solver, random_state=seed).fit(x)
        return cls._of_spread_dims(fit.mean_, fit.components_.T, np.sqrt(fit.explained_variance_))

    @classmethod
    def standardized(cls, x: Matrix, n_dims: int | None = None) -> Subspace:
        """The first `n_dims` coordinates of an embedding `x` (cells, coordinates), z-scored."""
        x = x.toarray() if isinstance(x, sparse.csr_array) else x
        loadings = np.eye(x.shape[1], min(n_dims or x.shape[1], x.shape[1]))
        scale = (x @ loadings).std(axis=0, ddof=1)
        return cls._of_spread_dims(x.mean(axis=0), loadings, scale)

    @classmethod
    def _of_spread_dims(cls, mean: NDArray, loadings: NDArray, scale: NDArray) -> Subspace:
        spread = scale > _NEGLIGIBLE * scale.max()
        if not spread.any():
            raise InputError(
                "expression",
                "cells that differ from each other",
                "all of them equal",
                "check that the matrix holds the measured values",
            )
        parts = (mean, loadings[:, spread], scale[spread])
        return cls(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts))

    @property
    def latent_dim(self) -> int:
        """How many dimensions the latent space has."""
        return self.loadings.shape[1]

    def project(self, x: Matrix) -> NDArray[np.float32]:
        """Latent states (cells, latent_dim) of `x` (cells, genes)."""
        if isinstance(x, sparse.csr_array):  # centring would densify it
            scores = x @ self.loadings - self.gene_mean @ self.loadings
        else:
            scores = (x - self.gene_mean) @ self.loadings
        return (scores / self.score_scale).astype(np.float32)

    def reconstruct(self, z: NDArray) -> NDArray[np.float32]:
        """Expression (cells, genes) at latent states `z` (cells, latent_dim)."""
        return (self.gene_mean + (z * self.score_scale) @ self.loadings.T).astype(np.float32)
