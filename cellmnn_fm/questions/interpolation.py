"""The snapshot at a time that was not measured, and how far its mean may be off."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.options import BELIEVED_BEYOND
from ..data.subspace import Subspace
from ..dynamics.snapshots import Interpolation, blended, interpolate, velocity_at, warn_if_beyond
from ..fitted.fitted_model import Cells
from ..fitted.record import Recipe
from ..model.errors import InputError, require_number
from ..training.configs import preset_configs
from ..training.one_course import train
from .result import Result, written_coverage
from .uncertainty import MeanRegion, known_errors, mean_region, quantile

if TYPE_CHECKING:
    from anndata import AnnData


def interpolation(
    cells: Cells,
    at: float,
    *,
    two_sided: bool = True,
    n_steps: int = 1,
    level: float = 0.9,
    blend: bool = False,
    damping: float = BELIEVED_BEYOND,
) -> Result:
    """The predicted snapshot at time `at`; see :meth:`CellMNNPipeline.interpolate`.

    Parameters
    ----------
    cells : Cells
        Observed, around that time.
    at : float
        In the user's time.
    two_sided, n_steps, level, blend, damping
        See there.

    Raises
    ------
    InputError
        On a blend of a model that was itself fitted from scratch.
    """
    quantile(known_errors("scratch"), level)  # refuses what is no level
    if not 0 <= require_number("damping", damping) <= 1:
        raise InputError("damping", "a share from 0 to 1", damping, "1 believes the model")
    fitted, course, record = cells.fitted, cells.course, cells.fitted.record
    record.require_near("at", [at])
    inside = course.times[0] <= at <= course.times[-1]
    if inside:
        warn_if_beyond([at], record.times, "times of the fit")
    every_dynamics = [fitted.dynamics]
    if blend:
        if record.recipe in ("scratch", "sliced", None):
            raise InputError(
                "blend", "a model from a pretrained one", "a fit from scratch", "give a base"
            )
        every_dynamics.append(train(course, *preset_configs("sliced", course)).dynamics)
    predicted = reduce(
        blended,
        [
            interpolate(dynamics, course, at, two_sided=two_sided, n_steps=n_steps)
            for dynamics in every_dynamics
        ],
    )
    if not inside:
        observed = course.snapshots[predicted.source_index[0]][predicted.source_cell]
        moved = np.float32(damping) * (predicted.states - observed)
        predicted = replace(predicted, states=observed + moved)
    velocity = np.mean(
        [velocity_at(dynamics, predicted.states, at) for dynamics in every_dynamics], axis=0
    )
    result = _predicted_snapshot(predicted, velocity, cells)
    settings = {"two_sided": two_sided, "n_steps": n_steps, "blend": blend, "damping": damping}
    result.cells.uns["cellmnn"] |= settings
    recipe: Recipe | None = "blend" if blend else record.recipe
    if two_sided and recipe is not None:
        region = mean_region(course, predicted, recipe, level)
        if region is not None:
            _add_region(result.cells, region, fitted.subspace)
    return result


def _predicted_snapshot(predicted: Interpolation, velocity: NDArray, cells: Cells) -> Result:
    """In gene space: one row for each pushed cell, with its velocity (cells, latent_dim)."""
    import anndata

    fitted, times = cells.fitted, cells.course.times
    names = [cells.adata.obs_names[cells.times == time] for time in times]
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
        obs=obs,
        var=pd.DataFrame(index=pd.Index(fitted.panel.names)),
        obsm={"X_cellmnn": predicted.states, "cellmnn_velocity": velocity},
        varm={"cellmnn_loadings": fitted.subspace.loadings},
        uns={"cellmnn": {"at": predicted.time, "coverage": written_coverage(cells.coverage)}},
    )
    result.obs_names_make_unique()
    return Result(result, fitted.subspace, ("X",), ("layers", "cellmnn_velocity"))


def _add_region(result: AnnData, region: MeanRegion, subspace: Subspace) -> None:
    """Add to a predicted snapshot how far its mean may be off, in place."""
    result.var["cellmnn_mean"] = subspace.reconstruct(region.mean[None])[0]
    result.var["cellmnn_margin"] = region.margins(subspace.loadings)
    result.uns["cellmnn"] |= {"mean_radius": region.radius, "level": region.level}
