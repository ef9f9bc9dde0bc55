"""What a model says, as AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .gene_panel import Coverage, GenePanel
from .rollout import Trajectory
from .subspace import Subspace
from .trajectories import Interpolation, as_shares
from .uncertainty import MeanRegion

if TYPE_CHECKING:
    from anndata import AnnData


def predicted_snapshot(
    predicted: Interpolation,
    velocity: NDArray,
    times: NDArray,
    names: Sequence[pd.Index],
    panel: GenePanel,
    subspace: Subspace,
    coverage: Coverage,
) -> AnnData:
    """A predicted snapshot, in gene space.

    Parameters
    ----------
    predicted : Interpolation
    velocity : (cells, latent_dim)
        Of the predicted cells.
    times : (snapshots,)
        Observed times.
    names : sequence of Index
        Names of the observed cells at each of them.
    panel : GenePanel
    subspace : Subspace
    coverage : Coverage
        Of the panel by the observed cells.
    """
    import anndata

    pairs = zip(predicted.source_index, predicted.source_cell, strict=True)
    source_cell = [str(names[index][cell]) for index, cell in pairs]
    obs = pd.DataFrame(
        {
            "time": np.full(len(source_cell), predicted.time),
            "weight": predicted.weights,
            "source_time": times[predicted.source_index],
            "source_cell": source_cell,
            "stopped": predicted.stopped,
        },
        index=[f"{name}@{predicted.time:g}" for name in source_cell],
    )
    result = anndata.AnnData(
        subspace.reconstruct(predicted.states),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(panel.names)),
        obsm={"X_cellmnn": predicted.states, "cellmnn_velocity": velocity},
        varm={"cellmnn_loadings": subspace.loadings},
        layers={"cellmnn_velocity": velocity @ subspace.loadings.T},
        uns={"cellmnn": {"at": predicted.time, "coverage": _written(coverage)}},
    )
    result.obs_names_make_unique()
    return result


def add_region(result: AnnData, region: MeanRegion, subspace: Subspace) -> None:
    """Add to a predicted snapshot how far its mean may be off, in place."""
    result.var["cellmnn_mean"] = subspace.reconstruct(region.mean[None])[0]
    result.var["cellmnn_margin"] = region.margins(subspace.loadings)
    result.uns["cellmnn"] |= {"mean_radius": region.radius, "level": region.level}


def followed_cells(
    trajectory: Trajectory,
    names: Sequence[str],
    panel: GenePanel,
    subspace: Subspace,
    settings: dict[str, Any],
) -> AnnData:
    """Cells that were followed through time, in gene space: one row for each cell and time.

    Parameters
    ----------
    trajectory : Trajectory
    names : sequence of str
        Of the cells.
    panel : GenePanel
    subspace : Subspace
    settings : dict
        For `uns["cellmnn"]`.
    """
    import anndata

    count, cells, dims = trajectory.states.shape
    flat, velocity = (part.reshape(-1, dims) for part in (trajectory.states, trajectory.velocity))
    obs = pd.DataFrame(
        {"time": np.repeat(trajectory.times, cells), "source_cell": np.tile(names, count)},
        index=[f"{name}@{time:g}" for time in trajectory.times for name in names],
    )
    if trajectory.log_growth.any():
        obs["descendants"] = (cells * as_shares(trajectory.log_growth)).ravel()
    obs["stopped"] = trajectory.stopped.ravel()
    if trajectory.error is not None:
        obs["error"] = trajectory.error.ravel()
    result = anndata.AnnData(
        subspace.reconstruct(flat),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(panel.names)),
        obsm={"X_cellmnn": flat, "cellmnn_velocity": velocity},
        varm={"cellmnn_loadings": subspace.loadings},
        layers={"cellmnn_velocity": velocity @ subspace.loadings.T},
        uns={"cellmnn": {"source_time": trajectory.source_time, **settings}},
    )
    result.obs_names_make_unique()
    return result


def annotated(
    adata: AnnData,
    states: NDArray,
    velocity: NDArray,
    growth: NDArray | None,
    coverage: Coverage,
) -> AnnData:
    """A copy of `adata` with states and velocities (cells, latent_dim) and growth (cells,)."""
    if adata.isbacked:  # to_memory would close the file
        import anndata

        in_memory = anndata.read_h5ad(adata.filename)
        result = in_memory[adata.obs_names, adata.var_names].copy()
    else:
        result = adata.copy()
    result.obsm["X_cellmnn"] = states
    result.obsm["cellmnn_velocity"] = velocity
    if growth is not None:
        result.obs["cellmnn_growth"] = growth
    result.uns["cellmnn"] = {"coverage": _written(coverage)}
    return result


def add_genes(
    result: AnnData, subspace: Subspace, inferred: NDArray[np.bool_], *, layers: bool
) -> None:
    """Add what the latent states and velocities mean for genes, in place.

    Parameters
    ----------
    result : AnnData
        From :func:`annotated`.
    subspace : Subspace
        Over its genes.
    inferred : (genes,) mask
        Genes whose loadings are those of a regression.
    layers : bool
        Whether to add dense arrays of cells and genes: expression and velocity.
    """
    result.varm["cellmnn_loadings"] = subspace.loadings
    result.var["cellmnn_inferred"] = inferred
    if layers:
        states, velocity = result.obsm["X_cellmnn"], result.obsm["cellmnn_velocity"]
        result.layers["cellmnn_expression"] = subspace.reconstruct(states)
        result.layers["cellmnn_velocity"] = velocity @ subspace.loadings.T


def _written(coverage: Coverage) -> dict[str, float]:
    """As it goes into a file, which has no place for what is not known."""
    return {name: value for name, value in asdict(coverage).items() if value is not None}
