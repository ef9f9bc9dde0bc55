"""How far the mean of a predicted snapshot may be off, from how far it was on other data sets."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.time_course import TimeCourse
from ..dynamics.snapshots import Interpolation
from ..fitted.record import Recipe
from ..model.errors import InputError

CALIBRATION_FILE = Path(__file__).with_name("calibration.json")
"""Errors on left-out times of data sets that models had not seen (studies/calibrate.py)."""


@dataclass(frozen=True)
class MeanRegion:
    """A ball around the mean of a predicted snapshot that holds the mean of a measured one.

    Its radius is R = q s, where

        s² = 4 w (1 - w) ‖m_b - m_a‖² + ((1-w)² tr Σ_a / n_a + w² tr Σ_b / n_b) + tr Σ / n

    says how hard the prediction is: w is the share of the interval [a, b] that has gone by; m, Σ
    and n are mean, covariance and number of cells of the snapshots at its ends; and the last term
    is for the cells of the measured one, as many as at the ends. q is the quantile of (error / s)
    over left-out times of other data sets (split conformal prediction).

    Attributes
    ----------
    mean : (latent_dim,)
        Its centre, the predicted mean.
    radius : float
        In latent space, Euclidean.
    level : float
        How often the region holds what is measured.

    References
    ----------
    Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World (conformal prediction).
    """

    mean: NDArray[np.float64]
    radius: float
    level: float

    def margins(self, loadings: NDArray) -> NDArray[np.float64]:
        """How far the mean of each gene may be off, (genes,) for loadings (genes, latent_dim).

        The half-widths of the ball in the direction of each gene; they hold for all genes at once.
        """
        return self.radius * np.linalg.norm(loadings, axis=1)


def mean_region(
    course: TimeCourse, predicted: Interpolation, recipe: Recipe, level: float = 0.9
) -> MeanRegion | None:
    """The region of the mean of a prediction, between observed times two-sided.

    None before the first time, and beyond the last one where it is not known how far off such
    models are.

    Parameters
    ----------
    course : TimeCourse
        That was interpolated.
    predicted : Interpolation
        Two-sided; beyond the last time with the default damping.
    recipe : {"zero_shot", "fine_tuned", "scratch", "sliced", "blend"}
        How the model came about; each has errors of its own.
    level : float
        Between 0 and 1.

    Raises
    ------
    InputError
        On a level that is too high for as many errors as were measured.
    """
    difficulty = expected_error(course, predicted.time)
    errors = known_errors(recipe, beyond=predicted.time > course.times[-1])
    if difficulty is None or not len(errors):
        return None
    mean = predicted.weights @ predicted.states.astype(np.float64)
    return MeanRegion(mean, quantile(errors, level) * difficulty, level)


def expected_error(course: TimeCourse, at: float) -> float | None:
    """S of :class:`MeanRegion`, up to the factor q the error of the mean at time `at`."""
    times = course.times
    if at < times[0]:
        return None
    left = int(np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2))
    ends = [snapshot.astype(np.float64) for snapshot in course.snapshots[left : left + 2]]
    share = (at - times[left]) / (times[left + 1] - times[left])
    step2 = ((ends[1].mean(axis=0) - ends[0].mean(axis=0)) ** 2).sum()
    traces = np.array([snapshot.var(axis=0).sum() for snapshot in ends])
    cells = np.array([len(snapshot) for snapshot in ends])
    if share > 1:
        return math.sqrt((share - 1) ** 2 * step2 + 2 * traces[1] / cells[1])
    sides = np.array([1 - share, share])
    sampling = (sides**2 * traces / cells).sum() + sides @ traces * (1 / cells).mean()
    return math.sqrt(4 * share * (1 - share) * step2 + sampling)


def quantile(errors: NDArray, level: float) -> float:
    """The error that is not exceeded with probability `level` or more, by its rank.

    Of n errors the ⌈(n + 1) level⌉-th.
    """
    known = isinstance(level, (int, float)) and 0 < level < 1
    rank = math.ceil((len(errors) + 1) * level) if known else 0
    if not 0 < rank <= len(errors):
        highest = len(errors) / (len(errors) + 1)
        raise InputError(
            "level", f"above 0 and at most {highest:.3g}", level, f"{len(errors)} errors are known"
        )
    return float(np.sort(errors)[rank - 1])


@cache
def known_errors(recipe: Recipe, *, beyond: bool = False) -> NDArray[np.float64]:
    """(Error / s) on each left-out time of data sets that a model had not seen, or last ones."""
    known = json.loads(CALIBRATION_FILE.read_text())
    by_group = known["beyond" if beyond else "errors"].get(recipe, {})
    return np.array([error for errors in by_group.values() for error in errors])
