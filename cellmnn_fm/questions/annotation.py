"""Observed cells with their latent states, velocities and growth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..dynamics.snapshots import growth_rates
from ..fitted.fitted_model import Cells
from .ahead import ahead
from .result import Result, written_coverage

if TYPE_CHECKING:
    from anndata import AnnData


def annotation(
    cells: Cells, *, layers: bool = True, with_ahead: bool = False, to_h5ad: bool = False
) -> Result:
    """Where observed cells are, and where they are going; see :meth:`CellMNNPipeline.annotate`.

    Parameters
    ----------
    cells : Cells
        Observed.
    layers : bool
        Whether to add matrices of cells and genes: expression and velocity.
    with_ahead : bool
        Whether to say how far each cell is ahead of its time.
    to_h5ad : bool
        Whether matrices of a file on disk stay there, to be copied from file to file.
    """
    import anndata

    fitted, adata, source = cells.fitted, cells.adata, None
    genes = None  # of an embedding, or of `.raw`, the file has no place for them
    if cells.source.var.index.equals(adata.var.index):  # read before `to_memory` closes the file
        genes = fitted.latent_space.over_genes(cells.source, cells.states, cells.genes)
    if not adata.isbacked:
        result = adata.copy()
    elif to_h5ad and not adata.is_view:
        source = Path(adata.filename)
        parts = {name: dict(getattr(adata, name)) for name in ("obsm", "varm")}
        uns = dict(adata.uns)
        result = anndata.AnnData(obs=adata.obs.copy(), var=adata.var.copy(), uns=uns, **parts)
    else:
        result = adata.to_memory()
    result.obs["cellmnn_time"] = cells.times
    result.obsm["X_cellmnn"] = cells.states
    result.obsm["cellmnn_velocity"] = cells.velocity
    if fitted.model.config.growth:
        rates = growth_rates(fitted.dynamics, cells.states, cells.times)
        result.obs["cellmnn_growth"] = rates
    if with_ahead:
        result.obs["cellmnn_ahead"] = ahead(cells)
    about = {"coverage": written_coverage(cells.coverage)}
    result.uns["cellmnn"] = {**about, **fitted.record.named_unit}
    if genes is None:
        return Result(result, None, source=source)
    subspace, inferred = genes
    result.varm["cellmnn_loadings"] = subspace.loadings
    result.var["cellmnn_inferred"] = inferred
    if not layers:
        return Result(result, subspace, source=source)
    places = ("layers", "cellmnn_expression"), ("layers", "cellmnn_velocity")
    return Result(result, subspace, *places, source=source)


def states_alone(cells: Cells) -> AnnData:
    """Where observed cells are, for figures of them: no matrix of genes, and no velocity.

    A large file stays on disk.

    Parameters
    ----------
    cells : Cells
        Observed.
    """
    import anndata

    adata, fitted = cells.adata, cells.fitted
    return anndata.AnnData(
        obs=adata.obs.assign(cellmnn_time=cells.times),
        var=pd.DataFrame(index=pd.Index(fitted.panel.names)),
        obsm={**dict(adata.obsm), "X_cellmnn": cells.states},
        varm={"cellmnn_loadings": fitted.subspace.loadings},
        uns={"cellmnn": fitted.record.named_unit},
    )
