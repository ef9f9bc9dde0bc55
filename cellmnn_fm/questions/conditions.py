"""Two conditions of one time course compared: where the same cells would go, and in which group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ..data.introduced import Introduced
from ..data.time_course import TimeCourse
from ..dynamics.rollout import roll_out
from ..dynamics.snapshots import Dynamics
from ..fitted.fitted_model import Cells
from ..model.errors import InputError, listed
from ..model.modeling_cellmnn import CellMNNModel
from ..training.adaptation import adapt
from .replicates import Replicates
from .terminal_groups import TerminalGroups

if TYPE_CHECKING:
    from anndata import AnnData

FitCourse = Callable[[TimeCourse], CellMNNModel]

_MAX_START = 300  # cells that are followed in both conditions


@dataclass(frozen=True)
class ConditionComparison(Introduced):
    """Where two conditions differ.

    Attributes
    ----------
    conditions : (str, str)
        Their names, in order.
    trajectories : DataFrame
        By time: "distance", how far apart the models of the two conditions lead the same cell, mean
        over cells in standard deviations of the states, with "low" and "high" of resampled units
        (90 %); "null", its median where labels are exchanged; "p" (the share of arrangements with
        as large a distance at that time) and "p_adjusted" (at any time).
    fates : DataFrame, optional
        By terminal group: mean probability in the "first" and the "second" condition, their
        "difference" with "low" and "high" (90 %), and "p".
    replicates : Replicates
        What was exchanged, and resampled: samples, pairs, or cells. Its `sentence` says what p is
        about.
    """

    conditions: tuple[str, str]
    trajectories: pd.DataFrame
    fates: pd.DataFrame | None
    replicates: Replicates

    def __repr__(self) -> str:
        last, names = self.trajectories.iloc[-1], " and ".join(self.conditions)
        return (
            f"ConditionComparison of {names}: {last['distance']:.2f} sd apart at time "
            f"{last.name:g}, {last['null']:.2f} by chance, p = {last['p']:.3f}\n"
            f"{self.replicates.sentence}"
        )

    def _table(self) -> pd.DataFrame:
        """By time."""
        return self.trajectories


def compare_conditions(
    states: NDArray,
    times: NDArray,
    labels: NDArray,
    fit: FitCourse,
    *,
    samples: NDArray | None = None,
    groups: NDArray | None = None,
    permutations: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> ConditionComparison:
    """Fit both conditions, follow the same cells in either, and exchange the labels.

    Parameters
    ----------
    states : (cells, latent_dim)
        Latent states of the cells.
    times : (cells,)
        When each cell was taken, in the user's time.
    labels : (cells,)
        The condition of each cell, one of two.
    fit : callable
        A model of a time course; called twice for each arrangement.
    samples : (cells,), optional
        Donor, animal or culture of each cell, see :class:`Replicates`.
    groups : (cells,), optional
        Groups at the last time, for fates; empty where a cell has none.
    permutations : int
        How often labels are exchanged at random, at most, and how often samples are drawn again.
    seed : int
        Of the permutations and of the cells that are followed.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        Unless there are two conditions, with two times in common, and enough samples.
    """
    names = np.unique(labels)
    if len(names) != 2:
        raise InputError("conditions", "two", listed(names.tolist()), "select the cells of two")
    if permutations < 1:
        raise InputError("permutations", "at least 1", permutations, "ask for more")
    sizes = pd.crosstab(times, labels)
    common = sizes.index[(sizes >= 2).all(axis=1)].to_numpy()
    if len(common) < 2:
        raise InputError(
            "conditions",
            "two or more times with 2 or more cells of both",
            listed(common.tolist()) or "none",
            "compare others",
        )
    kept = np.isin(times, common)
    states, times, first = states[kept], times[kept], labels[kept] == names[0]
    replicates = Replicates(first, times, None if samples is None else samples[kept])
    rng = np.random.default_rng(seed)
    start = rng.permutation(states[times == common[0]])[:_MAX_START]
    spread = np.where(states.std(axis=0) > 0, states.std(axis=0), 1.0)
    terminal = None
    if groups is not None:
        last = (times == common[-1]) & (groups[kept] != "")
        terminal = TerminalGroups.fit(states[last], groups[kept][last].tolist())

    def outcome(rows: NDArray, mask: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
        """Distance (times,) and mean fates (2, groups) of two sides of some rows."""
        ends = []
        for side in (rows[mask], rows[~mask]):
            course = TimeCourse.from_cells(states[side], times[side])
            dynamics = Dynamics(fit(course), course.time_scale)
            ends.append(roll_out(dynamics, start, common[0], common[1:], n_steps=1).states)
        distance = np.linalg.norm((ends[0] - ends[1]) / spread, axis=-1).mean(axis=-1)
        if terminal is None:
            return distance, np.zeros((2, 0))
        last_states = [torch.from_numpy(end[-1]) for end in ends]
        shares = [terminal.probabilities(end).mean(0).numpy() for end in last_states]
        return distance, np.stack(shares)

    every = np.arange(len(states))
    exchanged = [(every, mask) for mask in replicates.relabelled(permutations, rng)]
    drawn = [(rows, first[rows]) for rows in replicates.resampled(permutations, rng)]
    outcomes = [
        outcome(*which)
        for which in track(
            [(every, first), *exchanged, *drawn],
            "exchanging and resampling",
            console=Console(stderr=True),
            disable=not progress,
        )
    ]
    # what was observed is one of the arrangements that are as likely
    distances, shares = (np.stack(part) for part in zip(*outcomes, strict=True))
    changes = shares[:, 0] - shares[:, 1]
    under_null, resampled = slice(0, 1 + len(exchanged)), slice(1 + len(exchanged), None)
    null, null_changes = distances[under_null], np.abs(changes[under_null])
    low, high = _interval(distances[resampled], distances[0])
    table = pd.DataFrame(
        {
            "distance": distances[0],
            "low": low,
            "high": high,
            "null": np.median(null, axis=0),
            "p": (null >= distances[0]).mean(axis=0),
            "p_adjusted": (null.max(axis=1)[:, None] >= distances[0]).mean(axis=0),
        },
        index=pd.Index(common[1:], name="time"),
    )
    fates = None
    if terminal is not None:
        low, high = _interval(changes[resampled], changes[0])
        fates = pd.DataFrame(
            {
                "first": shares[0, 0],
                "second": shares[0, 1],
                "difference": changes[0],
                "low": low,
                "high": high,
                "p": (null_changes >= null_changes[0]).mean(axis=0),
            },
            index=pd.Index(terminal.names, name="group"),
        )
    return ConditionComparison((str(names[0]), str(names[1])), table, fates, replicates)


def _interval(drawn: NDArray, observed: NDArray) -> tuple[NDArray, NDArray]:
    """90 % of what was `drawn` (draws, ...); unknown if nothing like `observed` (...) was."""
    if not len(drawn):
        return np.full_like(observed, np.nan), np.full_like(observed, np.nan)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    return low, high


def require_columns(adata: AnnData | Cells, *columns: str | None) -> None:
    """Refuse columns of `obs` that are not there, before anything is read; None is no column."""
    obs = adata.adata.obs if isinstance(adata, Cells) else adata.obs
    for column in columns:
        if column is not None and column not in obs:
            raise InputError("column", f"one of {listed(obs)}", column, "name one")


def compare(
    cells: Cells,
    base: CellMNNModel,
    condition: str,
    *,
    sample_key: str | None = None,
    groups: str | None = None,
    permutations: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> ConditionComparison:
    """Adapt a base to the cells of either condition, in one latent space.

    Parameters
    ----------
    cells : Cells
        Of both.
    base : CellMNNModel
        The pretrained model.
    condition, sample_key, groups : str
        Columns of `obs`, see :meth:`CellMNNPipeline.compare`.
    permutations, seed, progress
        See :func:`compare_conditions`.

    Raises
    ------
    InputError
        If a cell has no sample.
    """
    samples = None if sample_key is None else cells.labels(sample_key)
    if samples is not None and (samples == "").any():
        missing = f"none for {(samples == '').sum()} cells"
        raise InputError(str(sample_key), "a sample for every cell", missing, "name it")
    return compare_conditions(
        cells.states,
        cells.times,
        cells.adata.obs[condition].astype(str).to_numpy(),
        lambda course: adapt(base, course),
        samples=samples,
        groups=None if groups is None else cells.labels(groups),
        permutations=permutations,
        seed=seed,
        progress=progress,
    )
