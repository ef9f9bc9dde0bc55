"""Cells followed through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..data.reading import observed_time
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
    seed: int = 0,
) -> Result:
    """Follow cells through time; see :meth:`CellMNNPipeline.trajectory`.

    Parameters
    ----------
    asked : Cells or FittedModel
        Observed cells; or a model with a Gaussian frame, from whose first distribution cells are
        drawn.
    times, start, cells, n_steps, rtol, atol, seed
        See there.
    """
    require_seed(seed)
    if cells is not None:
        require_count("cells", cells)
    fitted = asked.fitted if isinstance(asked, Cells) else asked
    record, rng = fitted.record, np.random.default_rng(seed)
    start = record.times[0] if start is None else require_number("start", start)
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
    followed = roll_out(
        fitted.dynamics,
        states,
        start,
        np.asarray(wanted_times, dtype=np.float64),
        n_steps=n_steps,
        rtol=rtol,
        atol=atol,
    )
    settings: dict[str, Any] = {"dataset": record.name, "rtol": rtol, "atol": atol}
    if n_steps is not None:
        settings = {"dataset": record.name, "n_steps": n_steps}
    return _followed_cells(followed, names, fitted, settings)


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
    trajectory: Trajectory, names: Sequence[str], fitted: FittedModel, settings: dict[str, Any]
) -> Result:
    """In gene space: one row for each cell and time, cells by their names."""
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
        obs=obs,
        var=pd.DataFrame(index=pd.Index(fitted.panel.names)),
        obsm={"X_cellmnn": flat, "cellmnn_velocity": velocity},
        varm={"cellmnn_loadings": fitted.subspace.loadings},
        uns={"cellmnn": {"source_time": trajectory.source_time, **settings}},
    )
    result.obs_names_make_unique()
    return Result(result, fitted.subspace, ("X",), ("layers", "cellmnn_velocity"))
