"""How much of a data set its latent spaces keep: genes, and variance of expression."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.genes import Coverage, GeneOptions
from ..data.latent_space import LatentSpace, SpaceOptions
from ..data.moments import GeneMoments
from ..data.options import SubspaceMode
from ..data.reading import Source
from ..data.shared_subspace import SharedSubspace


@dataclass(frozen=True)
class SubspaceReport:
    """What the latent spaces of as many dimensions keep of one data set.

    Attributes
    ----------
    cells : int
        Of the data set.
    n_dims : int
        That are compared.
    coverage : Coverage
        Of the data set by the shared subspace.
    variance_shared, variance_aligned, variance_own_pca : float
        Parts of the variance of expression, over all measured genes, that the shared subspace, the
        own components aligned with it and the own components keep. Own components keep the most
        that as many dimensions can.
    """

    cells: int
    n_dims: int
    coverage: Coverage
    variance_shared: float
    variance_aligned: float
    variance_own_pca: float

    def to_dict(self) -> dict[str, Any]:
        """Flat, ready for JSON; "coverage" is the matched part of the measured genes."""
        genes = asdict(self.coverage)
        return {
            "cells": self.cells,
            "n_dims": self.n_dims,
            "genes": genes["data_genes"],
            "genes_matched": genes["matched"],
            "panel_genes": genes["panel_genes"],
            "coverage": genes["matched"] / genes["data_genes"],
            "variance_of_matched": genes["variance_share"],
            "variance_shared": self.variance_shared,
            "variance_aligned": self.variance_aligned,
            "variance_own_pca": self.variance_own_pca,
        }


def report_subspaces(
    source: Source,
    cell_times: NDArray,
    shared: SharedSubspace,
    genes: GeneOptions | None = None,
    n_dims: int | None = None,
) -> SubspaceReport:
    """Compare the latent spaces of a data set.

    Parameters
    ----------
    source : Source
        Values of the cells.
    cell_times : (cells,)
        When each cell was taken.
    shared : SharedSubspace
        The one to report on.
    genes : GeneOptions, optional
        How genes are read.
    n_dims : int, optional
        Dimensions of each space; those of the shared subspace by default.

    Raises
    ------
    InputError
        If there is no gene in common.
    """
    genes = genes or GeneOptions()
    n_dims = n_dims or shared.latent_dim
    total = float(GeneMoments.gather(source.chunks(), rank=0).variance.sum())
    modes: tuple[SubspaceMode, ...] = ("shared", "aligned")
    spaces = {
        mode: LatentSpace.fit(source, cell_times, SpaceOptions(mode, shared, genes), n_dims=n_dims)
        for mode in modes
    }
    kept = {mode: space.explained_variance(source, genes) for mode, space in spaces.items()}
    return SubspaceReport(
        cells=source.shape[0],
        n_dims=n_dims,
        coverage=spaces["aligned"].coverage,
        variance_shared=kept["shared"] / total,
        variance_aligned=kept["aligned"] / total,
        variance_own_pca=float(np.square(spaces["aligned"].subspace.own_loadings).sum()) / total,
    )
