"""The snapshot at a time that was not measured, and how far its mean may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.options import BELIEVED_BEYOND, NOISE
from ..data.subspace import Subspace
from ..data.time_course import TimeCourse
from ..dynamics.diffusion import Diffusion, require_paths
from ..dynamics.snapshots import (
    Dynamics,
    Interpolation,
    blended,
    frame_alone,
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
    at: Sequence[float | str],
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
    """The predicted snapshots at some times; see :meth:`CellMNNPipeline.interpolate`.

    Parameters
    ----------
    cells : Cells
        Observed, around these times.
    at : sequence of float or str
        In the user's time, or labels of times.
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
    times = [record.time_at(time) for time in at]
    record.require_near("at", times)
    first, last = cells.observed_times[[0, -1]]
    if inside := [time for time in times if first <= time <= last]:
        warn_if_beyond(inside, record.times, "times of the fit")
    every_dynamics = [fitted.dynamics]
    if blend:
        if record.recipe in ("scratch", "sliced", None):
            pair = "a condition and its control"
            actual = "a fit from scratch" if record.beside is None else pair
            raise InputError("blend", "a model from a pretrained one", actual, "leave it out")
        every_dynamics.append(train(course, *preset_configs("sliced", course)).dynamics)
    if fitted.model.config.reads_control:  # half-way is closer (benchmarks/conditions.py)
        every_dynamics.append(frame_alone(fitted.dynamics))
    recipe: Recipe | None = "blend" if blend else record.recipe
    settings = {"two_sided": two_sided, "n_steps": n_steps, "blend": blend, "damping": damping}
    diffusion = None if n_paths is None else Diffusion.of(fitted.dynamics, course, noise, seed)
    snapshots = []
    for time in times:
        predicted = _predicted(cells, every_dynamics, time, two_sided, n_steps, damping)
        velocity = np.mean(
            [velocity_at(dynamics, predicted.states, time) for dynamics in every_dynamics], axis=0
        )
        snapshot = _in_gene_space(predicted, velocity, cells)
        snapshot.uns["cellmnn"] |= settings | (record.beside or {})
        if two_sided and recipe is not None and (time in inside or damping == BELIEVED_BEYOND):
            region = mean_region(course, predicted, recipe, level)
            if region is not None:
                _add_region(snapshot, region, fitted.subspace)
        if diffusion is not None and n_paths is not None:
            low, high = _intervals(predicted, course, diffusion, n_paths, level)
            snapshot.obsm["cellmnn_low"], snapshot.obsm["cellmnn_high"] = low, high
            snapshot.uns["cellmnn"] |= {"n_paths": n_paths, "noise": noise, "level": level}
        snapshots.append(snapshot)
    whole = snapshots[0] if len(snapshots) == 1 else _joined(snapshots)
    places = ("X",), ("layers", "cellmnn_velocity")
    return Result(whole, fitted.subspace, *places, floor=cells.source.floor)


def times_asked(at: float | str | Sequence[float | str]) -> list[float | str]:
    """One or more times that are asked about, numbers or labels, checked as far as they can be.

    Raises
    ------
    InputError
        On none, and on what is neither.
    """
    several = [at] if isinstance(at, str) or np.ndim(at) == 0 else list(at)  # type: ignore[arg-type]
    if not several:
        raise InputError("at", "one or more times", "none", "name some")
    return [time if isinstance(time, str) else require_number("at", time) for time in several]


def _predicted(
    cells: Cells,
    every_dynamics: Sequence[Dynamics],
    time: float,
    two_sided: bool,
    n_steps: int,
    damping: float,
) -> Interpolation:
    """Where cells are at a time, by one model or half-way between two."""
    course, observed_times = cells.course, cells.observed_times
    how: dict[str, Any] = {"two_sided": two_sided, "n_steps": n_steps, "observed": observed_times}
    predicted = reduce(
        blended, [interpolate(dynamics, course, time, **how) for dynamics in every_dynamics]
    )
    if observed_times[0] <= time <= observed_times[-1]:
        return predicted
    observed = course.snapshots[predicted.source_index[0]][predicted.source_cell]
    moved = np.float32(damping) * (predicted.states - observed)
    return replace(predicted, states=observed + moved)


def _joined(snapshots: Sequence[AnnData]) -> AnnData:
    """Snapshots of several times as one, what is said of genes with a column for each time."""
    import anndata

    whole = anndata.concat(snapshots, merge="same")
    whole.obs_names_make_unique()
    for key in ("mean", "margin"):
        by_time = {
            f"{snapshot.uns['cellmnn']['at']:g}": snapshot.var[f"cellmnn_{key}"]
            for snapshot in snapshots
            if f"cellmnn_{key}" in snapshot.var
        }
        if by_time:
            whole.varm[f"cellmnn_{key}"] = pd.DataFrame(by_time, index=whole.var_names)
    of_each = [snapshot.uns["cellmnn"] for snapshot in snapshots]
    whole.uns["cellmnn"] = {key: value for about in of_each for key, value in about.items()}
    for key in {"at", "mean_radius"} & set(whole.uns["cellmnn"]):
        whole.uns["cellmnn"][key] = np.array([about.get(key, np.nan) for about in of_each])
    return whole


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


def _in_gene_space(predicted: Interpolation, velocity: NDArray, cells: Cells) -> AnnData:
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
    return result


def _add_region(result: AnnData, region: MeanRegion, subspace: Subspace) -> None:
    """Add to a predicted snapshot how far its mean may be off, in place."""
    result.var["cellmnn_mean"] = subspace.reconstruct(region.mean[None])[0]
    result.var["cellmnn_margin"] = region.margins(subspace.loadings)
    result.uns["cellmnn"] |= {"mean_radius": region.radius, "level": region.level}
