"""Cells followed through time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..data.options import NOISE
from ..data.reading import observed_time
from ..dynamics.diffusion import STEPS, Diffusion, require_paths
from ..dynamics.rollout import DEFAULT_TOLERANCE, Trajectory, roll_out
from ..dynamics.snapshots import as_shares, warn_if_beyond
from ..fitted.fitted_model import Cells, FittedModel
from ..model.errors import InputError, require_count, require_number, require_seed
from .result import Result

DEFAULT_CELLS = 200  # that are drawn where there are none


def trajectory(
    asked: Cells | FittedModel,
    times: Sequence[float] | None = None,
    *,
    start: float | None = None,
    cells: int | None = None,
    n_steps: int | None = None,
    rtol: float = DEFAULT_TOLERANCE,
    atol: float = DEFAULT_TOLERANCE,
    n_paths: int | None = None,
    noise: float = NOISE,
    seed: int = 0,
) -> Result:
    """Follow cells through time; see :meth:`CellMNNPipeline.trajectory`.

    Parameters
    ----------
    asked : Cells or FittedModel
        Observed cells; or a model with a Gaussian frame, from whose first distribution cells are
        drawn.
    times, start, cells, n_steps, rtol, atol, n_paths, noise, seed
        See there.

    Raises
    ------
    InputError
        On cells or times that are not there, and on many paths without observed cells.
    """
    require_seed(seed)
    if cells is not None:
        require_count("cells", cells)
    require_paths(n_paths, noise)
    if n_paths is not None and not isinstance(asked, Cells):
        raise InputError("adata", "observed cells, for many paths", "none", "give them")
    fitted = asked.fitted if isinstance(asked, Cells) else asked
    record, rng = fitted.record, np.random.default_rng(seed)
    if start is None:
        start = asked.first_time if isinstance(asked, Cells) else record.times[0]
    start = require_number("start", start)
    wanted_times = _wanted_times(fitted, times)
    if isinstance(asked, Cells):
        start = observed_time(start, asked.times, "start")
        rows = np.flatnonzero(asked.times == start)
        if cells is not None and cells < len(rows):
            rows = np.sort(rng.choice(rows, cells, replace=False))
        states, names = asked.states[rows], asked.adata.obs_names[rows].tolist()
    else:
        start = observed_time(start, np.array(record.times[:1]), "start without data")
        count = DEFAULT_CELLS if cells is None else cells
        states = fitted.drawn(count, seed)[0][:count]
        names = [f"cell{number}" for number in range(count)]
    if wanted_times is None:
        wanted_times = [time for time in record.times if time >= start] or [start]
    warn_if_beyond(wanted_times, record.times)
    targets = np.asarray(wanted_times, dtype=np.float64)
    settings: dict[str, Any] = {"dataset": record.name, **record.named_unit}
    floor = asked.source.floor if isinstance(asked, Cells) else None
    if n_paths is not None and isinstance(asked, Cells):
        steps = STEPS if n_steps is None else n_steps
        diffusion = Diffusion.of(fitted.dynamics, asked.course, noise, seed)
        followed = diffusion.roll_out(states, start, targets, n_paths=n_paths, n_steps=steps)
        settings |= {"n_steps": steps, "n_paths": n_paths, "noise": noise}
        return replace(_followed_cells(followed, names, fitted, settings, n_paths), floor=floor)
    settings |= {"rtol": rtol, "atol": atol} if n_steps is None else {"n_steps": n_steps}
    followed = roll_out(
        fitted.dynamics, states, start, targets, n_steps=n_steps, rtol=rtol, atol=atol
    )
    return replace(_followed_cells(followed, names, fitted, settings), floor=floor)


def _wanted_times(fitted: FittedModel, times: Sequence[float] | None) -> list[float] | None:
    """Numbers near the times of the fit; None for all of these."""
    if times is None:
        return None
    wanted_times = np.atleast_1d(times).tolist()
    if not wanted_times:
        raise InputError("times", "one or more", "none", "name some, or leave them out")
    wanted_times = [require_number("times", time) for time in wanted_times]
    fitted.record.require_near("times", wanted_times)
    return wanted_times


def _followed_cells(
    trajectory: Trajectory,
    names: Sequence[str],
    fitted: FittedModel,
    settings: dict[str, Any],
    n_paths: int | None = None,
) -> Result:
    """In gene space: one row for each cell and time, or path and time, cells by their names."""
    import anndata

    count, cells, dims = trajectory.states.shape
    flat, velocity = (part.reshape(-1, dims) for part in (trajectory.states, trajectory.velocity))
    sources = np.repeat(names, n_paths or 1)
    labels = sources
    if n_paths is not None:
        numbers = np.tile(np.arange(n_paths), len(names))
        labels = np.array([f"{name}/{path}" for name, path in zip(sources, numbers, strict=True)])
    obs = pd.DataFrame(
        {"time": np.repeat(trajectory.times, cells), "source_cell": np.tile(sources, count)},
        index=[f"{label}@{time:g}" for time in trajectory.times for label in labels],
    )
    if n_paths is not None:
        obs["path"] = np.tile(numbers, count)
    if trajectory.log_growth.any():
        obs["descendants"] = (cells * as_shares(trajectory.log_growth)).ravel()
    obs["stopped"] = trajectory.stopped.ravel()
    if trajectory.error is not None:
        obs["error"] = trajectory.error.ravel()
    result = anndata.AnnData(
        obs=obs,
        var=pd.DataFrame(index=pd.Index(fitted.panel.names)),
        obsm={"X_cellmnn": flat, "cellmnn_velocity": velocity},
        varm={"cellmnn_loadings": fitted.subspace.loadings},
        uns={"cellmnn": {"source_time": trajectory.source_time, **settings}},
    )
    result.obs_names_make_unique()
    return Result(result, fitted.subspace, ("X",), ("layers", "cellmnn_velocity"))
