"""The linear map between expression and the latent space: x̂ = μ + D z and z = (x - μ) E."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .moments import GeneMoments, Matrix, require_varying

_NEGLIGIBLE = 1e-6  # a score whose spread is below this part of the largest carries nothing
_MOST_FOR_ARPACK = 2**26  # values
_NOISE_FLOOR = 1e-6  # least noise of a gene in a ridge, as a part of the mean signal


@dataclass(frozen=True)
class Subspace:
    """Latent space of one data set: centre μ, loadings D and projection E.

    ``z = (x - μ) E`` and ``x̂ = μ + D z``, for log expression or for an embedding. Standardisation,
    scaling and rotation are part of D and E.

    Parameters
    ----------
    gene_mean : (genes,)
        μ.
    loadings : (genes, latent_dim)
        D, in units of expression.
    projection : (genes, latent_dim)
        E.
    noise_variance : (genes,)
        Of what the loadings leave over in each gene; weighs genes where some are missing.
    alignment : (latent_dim, latent_dim)
        T, from own z-scored principal components to latent states, z = (own scores) T; the
        identity where the latent states are these scores, or nothing of one's own.

    Examples
    --------
    >>> import numpy as np
    >>> from cellmnn_fm.data.subspace import Subspace
    >>> x = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    >>> subspace = Subspace.pca(x, n_dims=3)
    >>> bool(np.allclose(subspace.reconstruct(subspace.project(x)), x, atol=1e-5))
    True
    """

    gene_mean: NDArray[np.float32]
    loadings: NDArray[np.float32]
    projection: NDArray[np.float32]
    noise_variance: NDArray[np.float32]
    alignment: NDArray[np.float32]

    @classmethod
    def pca(cls, x: Matrix, n_dims: int, seed: int = 0) -> Subspace:
        """Z-scored principal components of `x` (cells, genes), at most `n_dims` of them.

        Fewer come back where there are fewer cells or genes, or where the rest has no variance.

        Raises
        ------
        InputError
            If all cells are equal.
        """
        from sklearn.decomposition import PCA

        wanted = min(n_dims, x.shape[0] - 1, x.shape[1])
        # random projections would depend on the order of the genes; arpack, which does not, takes
        # sparse input as it is, but finds no complete set of components
        complete = wanted >= min(x.shape)
        if isinstance(x, sparse.csr_array) and complete:
            x = x.toarray()
        solver = "full" if complete else "arpack"
        if not sparse.issparse(x) and x.shape[0] * x.shape[1] > _MOST_FOR_ARPACK:
            solver = "randomized"  # many times faster
        with np.errstate(invalid="ignore"):  # a share of no variance at all, refused below
            fit = PCA(wanted, svd_solver=solver, random_state=seed).fit(x)
        scale, noise = np.sqrt(fit.explained_variance_), np.full(x.shape[1], fit.noise_variance_)
        # a covariance is a difference of squares, in single precision
        rounding = 2 * np.sqrt(np.finfo(np.float32).eps) * np.abs(fit.mean_).max()
        scale = np.where(scale > rounding, scale, 0.0)
        return cls._of_scores(fit.mean_, fit.components_.T, scale, noise)

    @classmethod
    def of_moments(cls, moments: GeneMoments, n_dims: int) -> Subspace:
        """The same from moments of a data set that is read in chunks."""
        vectors, variances = moments.eigenvectors[:, :n_dims], moments.eigenvalues[:n_dims]
        # as scikit-learn does: the largest entry of a component is positive
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(len(variances))])
        left = moments.variance.sum() - variances.sum()
        noise = max(left, 0.0) / max(len(moments.mean) - len(variances), 1)
        noise = np.full(len(moments.mean), noise)
        return cls._of_scores(moments.mean, vectors, np.sqrt(variances), noise)

    @classmethod
    def standardized(cls, x: Matrix, n_dims: int | None = None) -> Subspace:
        """The first `n_dims` coordinates of an embedding `x` (cells, coordinates), z-scored."""
        x = x.toarray() if isinstance(x, sparse.csr_array) else x
        vectors = np.eye(x.shape[1], min(n_dims or x.shape[1], x.shape[1]))
        scale = (x @ vectors).std(axis=0, ddof=1)
        return cls._of_scores(x.mean(axis=0), vectors, scale, np.zeros(x.shape[1]))

    @classmethod
    def _of_scores(
        cls, mean: NDArray, vectors: NDArray, scale: NDArray, noise: NDArray
    ) -> Subspace:
        """From orthonormal `vectors` (genes, dims), and the spread of the scores along them."""
        spread = scale > _NEGLIGIBLE * scale.max()
        require_varying(spread)
        vectors, scale = vectors[:, spread], scale[spread]
        return cls.of_arrays(mean, vectors * scale, vectors / scale, noise, np.eye(len(scale)))

    @classmethod
    def of_arrays(cls, *arrays: NDArray) -> Subspace:
        """From the five arrays in their order, in any precision."""
        return cls(*(np.ascontiguousarray(array, dtype=np.float32) for array in arrays))

    @property
    def latent_dim(self) -> int:
        """How many dimensions the latent space has."""
        return self.loadings.shape[1]

    @property
    def own_loadings(self) -> NDArray[np.float64]:
        """Loadings of the own scores, whose squares are the variance that they keep."""
        return self.loadings.astype(np.float64) @ self.alignment.T.astype(np.float64)

    def project(self, x: Matrix) -> NDArray[np.float32]:
        """Latent states (cells, latent_dim) of `x` (cells, genes)."""
        if isinstance(x, sparse.csr_array):  # centring would densify it
            return (x @ self.projection - self.gene_mean @ self.projection).astype(np.float32)
        return ((x - self.gene_mean) @ self.projection).astype(np.float32)

    def reconstruct(self, z: NDArray) -> NDArray[np.float32]:
        """Expression (cells, genes) at latent states `z` (cells, latent_dim)."""
        return (self.gene_mean + z @ self.loadings.T).astype(np.float32)

    def spread(self, z: NDArray) -> NDArray[np.float64]:
        """Standard deviation of each gene (genes,) over cells at `z`, without forming them.

        Cells `z` (cells, latent_dim).
        """
        covariance = np.atleast_2d(np.cov(z, rowvar=False, bias=True))
        loadings = self.loadings.astype(np.float64)
        variance = np.einsum("gd,de,ge->g", loadings, covariance, loadings)
        return np.sqrt(np.maximum(variance, 0.0))

    def own_scores(self, z: NDArray) -> NDArray[np.float32]:
        """The data set's own z-scored principal components behind latent states `z`.

        Both are (cells, latent_dim), as `z` (cells, latent_dim).
        """
        return np.linalg.solve(self.alignment.T.astype(np.float64), z.T).T.astype(np.float32)

    def of_genes(self, rows: NDArray[np.int64]) -> Subspace:
        """With these genes only, in this order; each is projected as before.

        They are `rows` (genes,), indices or a mask.
        """
        parts = (self.gene_mean, self.loadings, self.projection, self.noise_variance)
        return self.of_arrays(*(part[rows] for part in parts), self.alignment)

    def restricted(self, columns: NDArray[np.int64]) -> Subspace:
        """The same latent space, projected to from some of the genes only, by a ridge.

        ``E = Ψ⁻¹ D (Dᵀ Ψ⁻¹ D + I)⁻¹`` over the genes that are there, with the noise variances Ψ:
        the posterior mean under probabilistic PCA, in which z has unit variance.

        Parameters
        ----------
        columns : (kept,)
            Indices of the genes.

        References
        ----------
        Tipping and Bishop 1999, J R Stat Soc B 61:611.
        """
        # the prior is that of the own scores, which have unit variance
        own_loadings = self.own_loadings
        floor = _NOISE_FLOOR * float(np.square(own_loadings).mean())
        noise = np.maximum(self.noise_variance[columns], floor)
        projection = ridge_projection(own_loadings[columns], noise) @ self.alignment
        return replace(self.of_genes(columns), projection=projection.astype(np.float32))

    def aligned(self, anchor: NDArray) -> Subspace:
        """The same space, rotated so that its dimensions agree with those of another projection.

        Orthogonal Procrustes between the own principal component scores and the scores that
        `anchor` gives the same cells, over as many dimensions as there are here; then each
        dimension is scaled to unit spread. The covariance of the two is known from the loadings,
        so that no cell is looked at.

        Parameters
        ----------
        anchor : (genes, dims)
            Projection of centred expression to another latent space; zero for genes that it does
            not know.
        """
        spread = np.linalg.norm(self.loadings.astype(np.float64), axis=0)
        covariance = spread[:, None] * (self.loadings.T @ anchor[:, : self.latent_dim])
        left, _, right = np.linalg.svd(covariance)
        rotated = spread[:, None] * (left @ right)
        return self._transformed(rotated / np.linalg.norm(rotated, axis=0))

    def signed_by_time(self, states: NDArray, cell_times: NDArray) -> Subspace:
        """The same space, in which no dimension goes down with time.

        Parameters
        ----------
        states : (cells, latent_dim)
            Of the cells that the signs are told by.
        cell_times : (cells,)
            When they were taken.
        """
        trend = (cell_times - cell_times.mean()) @ (states - states.mean(axis=0))
        return self._transformed(np.diag(np.where(trend < 0, -1.0, 1.0)))

    def _transformed(self, matrix: NDArray) -> Subspace:
        """With latent states times `matrix` (latent_dim, latent_dim)."""
        inverse = np.linalg.inv(matrix)
        return self.of_arrays(
            self.gene_mean,
            self.loadings @ inverse.T,
            self.projection @ matrix,
            self.noise_variance,
            self.alignment @ matrix,
        )

    def padded(self, latent_dim: int) -> Subspace:
        """The same space with dimensions that are always 0, `latent_dim` in all."""
        added = latent_dim - self.latent_dim
        alignment = np.eye(latent_dim)
        alignment[: self.latent_dim, : self.latent_dim] = self.alignment
        return self.of_arrays(
            self.gene_mean,
            np.pad(self.loadings, ((0, 0), (0, added))),
            np.pad(self.projection, ((0, 0), (0, added))),
            self.noise_variance,
            alignment,
        )

    def with_genes(self, chunks: Iterable[Matrix], states: NDArray) -> Subspace:
        """The same space with loadings for more genes, by ridge regression on latent states.

        Parameters
        ----------
        chunks : iterable of (some cells, more)
            Expression of the genes that are added, behind those that are there.
        states : (cells, latent_dim)
            Of the same cells, in the order of the chunks. Nothing is projected from the genes that
            are added: their rows of the projection are 0.
        """
        centred = (states - states.mean(axis=0)).astype(np.float64)
        gram, identity = centred.T @ centred, np.eye(states.shape[1])
        total: Any = 0.0
        squares: Any = 0.0
        cross: Any = 0.0
        start = 0
        for chunk in chunks:
            x = chunk.astype(np.float64)
            total = total + x.sum(axis=0)
            squares = squares + (x * x).sum(axis=0)
            cross = cross + x.T @ centred[start : start + x.shape[0]]
            start += x.shape[0]
        mean, squares = total / len(states), squares / len(states)
        loadings = np.linalg.solve(gram + identity, cross.T).T
        explained = np.einsum("gd,de,ge->g", loadings, gram + 2 * identity, loadings) / len(states)
        left = np.maximum(squares - mean**2 - explained, 0)
        return self.of_arrays(
            np.concatenate([self.gene_mean, mean]),
            np.concatenate([self.loadings, loadings]),
            np.pad(self.projection, ((0, len(mean)), (0, 0))),
            np.concatenate([self.noise_variance, left]),
            self.alignment,
        )


def ridge_projection(loadings: NDArray, noise_variance: NDArray) -> NDArray[np.float64]:
    """E of :meth:`Subspace.restricted`, (genes, latent_dim).

    Of `loadings` (genes, latent_dim), of which genes `noise_variance` (genes,) is not kept.
    """
    weighted = loadings / noise_variance[:, None]
    precision = loadings.T @ weighted + np.eye(loadings.shape[1])
    return np.linalg.solve(precision, weighted.T).T
