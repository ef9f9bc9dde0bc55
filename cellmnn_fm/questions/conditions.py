"""Two conditions of one time course compared: where the same cells would go, and in which group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ..data.time_course import TimeCourse
from ..dynamics.rollout import roll_out
from ..dynamics.snapshots import Dynamics
from ..evaluation.metrics import permuted_within
from ..fitted.fitted_model import Cells
from ..model.errors import InputError, listed
from ..model.modeling_cellmnn import CellMNNModel
from ..training.adaptation import adapt
from .fates import TerminalGroups

FitCourse = Callable[[TimeCourse], CellMNNModel]

_MAX_START = 300  # cells that are followed in both conditions


@dataclass(frozen=True)
class ConditionComparison:
    """Where two conditions differ.

    Attributes
    ----------
    conditions : (str, str)
        Their names, in order.
    trajectories : DataFrame
        By time: "distance", how far apart the models of the two conditions lead the same cell, mean
        over cells in standard deviations of the states; "p" (the share of permutations with as
        large a distance at that time) and "p_adjusted" (at any time).
    fates : DataFrame, optional
        By terminal group: mean probability in the "first" and the "second" condition, their
        "difference" and "p".
    """

    conditions: tuple[str, str]
    trajectories: pd.DataFrame
    fates: pd.DataFrame | None


def compare_conditions(
    states: NDArray,
    times: NDArray,
    labels: NDArray,
    fit: FitCourse,
    *,
    groups: NDArray | None = None,
    permutations: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> ConditionComparison:
    """Fit both conditions, follow the same cells in either, and permute the labels.

    Parameters
    ----------
    states : (cells, latent_dim)
        Latent states of the cells.
    times : (cells,)
        When each cell was taken, in the user's time.
    labels : (cells,)
        The condition of each cell, one of two.
    fit : callable
        A model of a time course; called twice for each permutation.
    groups : (cells,), optional
        Groups at the last time, for fates; empty where a cell has none.
    permutations : int
        How often cells change conditions at random, within their times.
    seed : int
        Of the permutations and of the cells that are followed.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        Unless there are two conditions, with two times in common.
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
    rng = np.random.default_rng(seed)
    start = rng.permutation(states[times == common[0]])[:_MAX_START]
    spread = np.where(states.std(axis=0) > 0, states.std(axis=0), 1.0)
    terminal = None
    if groups is not None:
        last = (times == common[-1]) & (groups[kept] != "")
        terminal = TerminalGroups.fit(states[last], groups[kept][last].tolist())

    def difference(mask: NDArray[np.bool_]) -> tuple[NDArray, list[NDArray]]:
        ends = []
        for side in (mask, ~mask):
            course = TimeCourse.from_cells(states[side], times[side])
            model = fit(course)
            followed = roll_out(
                Dynamics(model, course.time_scale), start, common[0], common[1:], n_steps=1
            )
            ends.append(followed.states)
        distance = np.linalg.norm((ends[0] - ends[1]) / spread, axis=-1).mean(axis=-1)
        if terminal is None:
            return distance, []
        last_states = [torch.from_numpy(end[-1]) for end in ends]
        return distance, [terminal.probabilities(end).mean(0).numpy() for end in last_states]

    distance, shares = difference(first)
    change = shares[0] - shares[1] if shares else np.zeros(0)
    as_large, any_as_large = np.ones(len(distance)), np.ones(len(distance))
    as_different = np.ones(len(change))
    rounds = track(
        range(permutations), "permuting", console=Console(stderr=True), disable=not progress
    )
    for _ in rounds:
        permuted, other = difference(permuted_within(first, times, rng))
        as_large += permuted >= distance
        any_as_large += permuted.max() >= distance
        if shares:
            as_different += np.abs(other[0] - other[1]) >= np.abs(change)
    table = pd.DataFrame(
        {
            "distance": distance,
            "p": as_large / (permutations + 1),
            "p_adjusted": any_as_large / (permutations + 1),
        },
        index=pd.Index(common[1:], name="time"),
    )
    fates = None
    if terminal is not None:
        fates = pd.DataFrame(
            {
                "first": shares[0],
                "second": shares[1],
                "difference": change,
                "p": as_different / (permutations + 1),
            },
            index=pd.Index(terminal.names, name="group"),
        )
    return ConditionComparison((str(names[0]), str(names[1])), table, fates)


def compare(
    cells: Cells,
    base: CellMNNModel,
    condition: str,
    *,
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
    condition, groups : str
        Columns of `obs`, see :meth:`CellMNNPipeline.compare`.
    permutations, seed, progress
        See :func:`compare_conditions`.
    """
    return compare_conditions(
        cells.states,
        cells.times,
        cells.adata.obs[condition].astype(str).to_numpy(),
        lambda course: adapt(base, course),
        groups=None if groups is None else cells.labels(groups),
        permutations=permutations,
        seed=seed,
        progress=progress,
    )
