"""The snapshot at a time that was not measured, and how far its mean may be off."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.options import BELIEVED_BEYOND, NOISE
from ..data.subspace import Subspace
from ..data.time_course import TimeCourse
from ..dynamics.diffusion import Diffusion, require_paths
from ..dynamics.snapshots import (
    Interpolation,
    blended,
    interpolate,
    push,
    velocity_at,
    warn_if_beyond,
)
from ..fitted.fitted_model import Cells
from ..fitted.record import Recipe
from ..model.errors import InputError, require_number, require_seed
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
    n_paths: int | None = None,
    noise: float = NOISE,
    seed: int = 0,
) -> Result:
    """The predicted snapshot at time `at`; see :meth:`CellMNNPipeline.interpolate`.

    Parameters
    ----------
    cells : Cells
        Observed, around that time.
    at : float
        In the user's time.
    two_sided, n_steps, level, blend, damping, n_paths, noise, seed
        See there.

    Raises
    ------
    InputError
        On a blend of a model that was itself fitted from scratch.
    """
    quantile(known_errors("scratch"), level)  # refuses what is no level
    if not 0 <= require_number("damping", damping) <= 1:
        raise InputError("damping", "a share from 0 to 1", damping, "1 believes the model")
    require_seed(seed)
    require_paths(n_paths, noise)
    fitted, course, record = cells.fitted, cells.course, cells.fitted.record
    record.require_near("at", [at])
    inside = cells.observed_times[0] <= at <= cells.observed_times[-1]
    if inside:
        warn_if_beyond([at], record.times, "times of the fit")
    every_dynamics = [fitted.dynamics]
    if blend:
        if record.recipe in ("scratch", "sliced", None):
            actual = (
                "a fit from scratch" if record.beside is None else "a condition and its control"
            )
            raise InputError("blend", "a model from a pretrained one", actual, "leave it out")
        every_dynamics.append(train(course, *preset_configs("sliced", course)).dynamics)
    predicted = reduce(
        blended,
        [
            interpolate(
                dynamics,
                course,
                at,
                two_sided=two_sided,
                n_steps=n_steps,
                observed=cells.observed_times,
            )
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
    result.cells.uns["cellmnn"] |= settings | (record.beside or {})
    recipe: Recipe | None = "blend" if blend else record.recipe
    if two_sided and recipe is not None and (inside or damping == BELIEVED_BEYOND):
        region = mean_region(course, predicted, recipe, level)
        if region is not None:
            _add_region(result.cells, region, fitted.subspace)
    if n_paths is not None:
        diffusion = Diffusion.of(fitted.dynamics, course, noise, seed)
        low, high = _intervals(predicted, course, diffusion, n_paths, level)
        result.cells.obsm["cellmnn_low"], result.cells.obsm["cellmnn_high"] = low, high
        result.cells.uns["cellmnn"] |= {"n_paths": n_paths, "noise": noise, "level": level}
    return result


def _intervals(
    predicted: Interpolation,
    course: TimeCourse,
    diffusion: Diffusion,
    n_paths: int,
    level: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each predicted cell is, of so many paths, by dimension, (cells, latent_dim) twice.

    As far from where it is predicted as paths are from the one without noise.
    """
    ends = np.stack([predicted.states, predicted.states])
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    for index in np.unique(predicted.source_index):
        rows = predicted.source_index == index
        states = course.snapshots[index][predicted.source_cell[rows]]
        start, at = float(course.times[index]), np.array([predicted.time])
        paths = diffusion.roll_out(states, start, at, n_paths=n_paths, part=int(index)).states[0]
        alone = push(diffusion.dynamics, states, start, predicted.time)
        away = paths.reshape(len(states), n_paths, -1) - alone[:, None]
        ends[:, rows] += np.quantile(away, tails, axis=1).astype(np.float32)
    return ends[0], ends[1]


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
    floor = cells.source.floor
    return Result(result, fitted.subspace, ("X",), ("layers", "cellmnn_velocity"), floor)


def _add_region(result: AnnData, region: MeanRegion, subspace: Subspace) -> None:
    """Add to a predicted snapshot how far its mean may be off, in place."""
    result.var["cellmnn_mean"] = subspace.reconstruct(region.mean[None])[0]
    result.var["cellmnn_margin"] = region.margins(subspace.loadings)
    result.uns["cellmnn"] |= {"mean_radius": region.radius, "level": region.level}
