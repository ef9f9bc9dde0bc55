"""Where cells are drawn: in an embedding of the file, or in components of its expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..model.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

_NEIGHBOURS = 15
_COMPONENTS = "components"


@dataclass(frozen=True)
class Placing:
    """Two dimensions in which cells are drawn, observed ones and others.

    Attributes
    ----------
    placed : (cells, 2)
        Observed cells.
    labels : (str, str)
        Of the two axes.
    states : (cells, latent_dim)
        Of the observed cells.
    centre, axes : (latent_dim,) and (latent_dim, 2), optional
        Where the two dimensions are components, which are linear; an embedding is not.
    """

    placed: NDArray[np.float64]
    labels: tuple[str, str]
    states: NDArray[np.float64] = field(repr=False)
    centre: NDArray[np.float64] | None = None
    axes: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, adata: AnnData, basis: str | None = None) -> Placing:
        """That of annotated cells.

        Parameters
        ----------
        adata : AnnData
            From `CellMNNPipeline.annotate`.
        basis : str, optional
            Key of `obsm`, with or without ``X_``. By default a UMAP if there is one, and else
            "components": the first two principal components of expression as the model has it.

        Raises
        ------
        InputError
            On cells without latent states, and without such an embedding.
        """
        if "X_cellmnn" not in adata.obsm:
            raise InputError(
                "adata", "annotated cells", "ones without X_cellmnn", "call pipeline.annotate"
            )
        states = np.asarray(adata.obsm["X_cellmnn"], dtype=np.float64)
        if basis is None:
            basis = "X_umap" if "X_umap" in adata.obsm else _COMPONENTS
        key = basis if basis in adata.obsm else f"X_{basis}"
        if key not in adata.obsm and basis == _COMPONENTS:
            return cls._in_components(adata, states)
        if key not in adata.obsm or adata.obsm[key].shape[1] < 2:
            actual = listed(adata.obsm) or "none"
            raise InputError(f'obsm["{basis}"]', "an embedding of 2 dimensions", actual, "name one")
        placed = np.asarray(adata.obsm[key], dtype=np.float64)[:, :2]
        name = key.removeprefix("X_")
        name = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PC"}.get(name, name)
        labels = f"{name} 1", f"{name} 2"
        return cls(placed, labels, states)

    @classmethod
    def _in_components(cls, adata: AnnData, states: NDArray[np.float64]) -> Placing:
        """The first two principal components of reconstructed expression, or of states."""
        centre, root = states.mean(axis=0), np.eye(states.shape[1])
        if "cellmnn_loadings" in adata.varm:
            # distances of expression are those of Rz where D = QR
            root = np.linalg.qr(np.asarray(adata.varm["cellmnn_loadings"], dtype=np.float64))[1].T
        _, lengths, axes = np.linalg.svd((states - centre) @ root, full_matrices=False)
        shares = np.square(lengths) / np.square(lengths).sum()
        axes = np.pad(root @ axes[:2].T, ((0, 0), (0, max(0, 2 - len(axes)))))
        labels = tuple(
            f"component {number + 1} ({share:.0%})" for number, share in enumerate(shares[:2])
        )
        placed = (states - centre) @ axes
        return cls(placed, (*labels, "")[:2], states, centre, axes)  # type: ignore[arg-type]

    @property
    def has_scale(self) -> bool:
        """Whether distances mean something, so that ticks are drawn."""
        return self.axes is not None

    def of_states(self, states: NDArray) -> NDArray[np.float64]:
        """Where other cells (cells, 2) are drawn: exactly in components, else among their likes.

        In an embedding that is the mean of the places of the nearest observed cells, the nearer the
        more. Of latent `states` (cells, latent_dim).
        """
        states = np.asarray(states, dtype=np.float64)
        if self.axes is not None:
            return (states - self.centre) @ self.axes
        distances, nearest = self._nearest(states, min(_NEIGHBOURS, len(self.states)))
        scale = np.maximum(distances[:, [-1]], 1e-12)
        weights = np.exp(-np.square(2 * distances / scale))
        return (weights[..., None] * self.placed[nearest]).sum(axis=1) / weights.sum(
            axis=1, keepdims=True
        )

    def of_velocity(self, velocity: NDArray, neighbours: int = 30) -> NDArray[np.float64]:
        """Velocities (cells, 2) of the observed cells, as they are drawn.

        In an embedding by the linear map from states around each cell, by least squares with a
        small ridge. Of dz/dt `velocity` (cells, latent_dim), with so many `neighbours`.
        """
        velocity = np.asarray(velocity, dtype=np.float64)
        if self.axes is not None:
            return velocity @ self.axes
        _, around = self._nearest(self.states, min(neighbours, len(self.states) - 1) + 1)
        steps = self.states[around] - self.states[:, None]  # (cells, neighbours, latent_dim)
        moves = self.placed[around] - self.placed[:, None]
        square = np.einsum("cni,cnj->cij", steps, steps)
        dims = self.states.shape[1]
        ridge = 1e-3 * np.trace(square, axis1=1, axis2=2)[:, None, None] / dims * np.eye(dims)
        maps = np.linalg.solve(square + ridge, np.einsum("cni,cnj->cij", steps, moves))
        return np.einsum("ci,cij->cj", velocity, maps)

    def _nearest(self, states: NDArray, count: int) -> tuple[NDArray, NDArray[np.int64]]:
        """Distances and numbers of the nearest observed cells, (cells, count) twice.

        Of `states` (cells, latent_dim).
        """
        from sklearn.neighbors import NearestNeighbors

        return NearestNeighbors(n_neighbors=count).fit(self.states).kneighbors(states)
