"""Is a fit worth having for this time course? Its own snapshots say, left out one at a time."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ..data.latent_space import space_options
from ..data.options import FitReading
from ..data.reading import read_times
from ..dynamics.snapshots import Dynamics, interpolate
from ..model.errors import listed
from .folds import (
    DEFAULT_SCORED_DIMS,
    MIN_HELD_OUT_CELLS,
    FitFold,
    Fold,
    held_out_times,
    read_folds,
)
from .metrics import ot_interpolate, wasserstein1

if TYPE_CHECKING:
    from anndata import AnnData

Outcome = Literal["better", "no better", "worse", "unknown"]

_MAX_CELLS = 2000  # of each time: a verdict costs the same however large the file is
_MAX_DRAWN = 250
_DRAWS = 40


@dataclass(frozen=True)
class Verdict:
    """How predictions of left-out snapshots compare with OT-Interpolate.

    Attributes
    ----------
    outcome : {"better", "no better", "worse", "unknown"}
        "better" or "worse" only where the whole interval is below or above 1.
    times : list of float
        The times that were left out, each with 15 or more cells; none if unknown.
    w1, baseline : list of float
        W1 of the fit and of OT-Interpolate at each of them, with as many cells for both.
    ratio : float, optional
        Of the sums of the two.
    interval : tuple of two floats, optional
        95 % of the ratio in single comparisons of as many cells, from random halves: it is wide
        rather than narrow.

    Examples
    --------
    >>> verdict = Verdict("better", [1.0, 2.0], [0.8, 1.0], [1.0, 1.0], 0.9, (0.86, 0.95))
    >>> print(verdict)  # doctest: +NORMALIZE_WHITESPACE
    Better than OT-Interpolate: the snapshots at 1, 2, left out and predicted from the others, came
    out 10 % closer to what was measured than with cells matched between the neighbouring snapshots
    and moved along straight lines (W1 0.90 against 1.00, ratio 0.90, 95 % interval 0.86 to 0.95).
    """

    outcome: Outcome
    times: list[float]
    w1: list[float]
    baseline: list[float]
    ratio: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.ratio is None or self.interval is None:
            return (
                f"No verdict: no time between two others has {MIN_HELD_OUT_CELLS} or more cells, "
                "so that no prediction can be checked."
            )
        percent = f"{100 * abs(1 - self.ratio):.0f} %"
        how = {
            "better": f"{percent} closer to",
            "worse": f"{percent} further from",
            "no better": "about as far from",
        }[self.outcome]
        than = "as" if self.outcome == "no better" else "than"
        low, high = self.interval
        return (
            f"{self.outcome.capitalize()} than OT-Interpolate: the snapshots at "
            f"{listed(self.times)}, left out and predicted from the others, came out {how} what "
            f"was measured {than} with cells matched between the neighbouring snapshots and moved "
            f"along straight lines (W1 {np.mean(self.w1):.2f} against "
            f"{np.mean(self.baseline):.2f}, ratio {self.ratio:.2f}, 95 % interval {low:.2f} to "
            f"{high:.2f})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, the sentence included."""
        interval = None if self.interval is None else list(self.interval)
        return {**asdict(self), "interval": interval, "sentence": str(self)}


def judge(
    adata: AnnData,
    fit: FitFold,
    reading: FitReading,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Verdict:
    """Leave out each interior time, fit without it (strictly), and compare the predictions.

    Parameters
    ----------
    adata : AnnData
        Of which at most 2,000 cells of each time are used.
    fit : callable
        (dynamics, steps) of (fold, seed).
    reading : FitReading
        That of the fit. W1 is taken in the 5 leading components.
    seed : int
        Of the fits and the cells that are compared.
    progress : bool
        Whether to show a progress bar.
    """
    rng = np.random.default_rng((seed, 3))
    options = space_options(reading)
    cell_times = read_times(adata, reading.time_key)
    kept = np.sort(np.concatenate([_some(cell_times, time, rng) for time in np.unique(cell_times)]))
    if len(kept) < len(cell_times):
        adata = adata[kept].to_memory()
        cell_times = cell_times[kept]
    times = held_out_times(cell_times)
    if not times:
        return Verdict("unknown", [], [], [])
    folds = read_folds(adata, cell_times, reading, options)
    w1, baseline = [], []
    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("checking on left-out times", total=len(times))
        for left_out in times:
            fold = folds(left_out, latent_dim=reading.n_dims, n_dims=DEFAULT_SCORED_DIMS)(seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said once, of the fit itself
                dynamics, _ = fit(fold, seed)
            compared = _compare(dynamics, fold, rng)
            w1.append(compared[0])
            baseline.append(compared[1])
            bar.advance(task)
    ours, theirs = np.array(w1), np.array(baseline)  # (times, draws)
    low, high = np.quantile(ours.sum(axis=0) / theirs.sum(axis=0), [0.025, 0.975]).tolist()
    outcome: Outcome = "better" if high < 1 else "worse" if low > 1 else "no better"
    means = ours.mean(axis=1).tolist(), theirs.mean(axis=1).tolist()
    return Verdict(outcome, times, *means, float(ours.sum() / theirs.sum()), (low, high))


def _some(cell_times: NDArray, at: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of at most so many cells of a time."""
    rows = np.flatnonzero(cell_times == at)
    return rows if len(rows) <= _MAX_CELLS else rng.choice(rows, _MAX_CELLS, replace=False)


def _compare(
    dynamics: Dynamics, fold: Fold, rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """W1 of the prediction and of OT-Interpolate to random halves of the truth.

    As many cells are drawn of both: a prediction from two snapshots has more, and W1 falls with
    the number of cells. The halves of a snapshot spread as whole snapshots do.
    """
    predicted_cells = interpolate(dynamics, fold.around, fold.time)
    earlier, later = fold.scored_around()
    straight = ot_interpolate(earlier, later, fold.share, rng)
    predicted, truth = fold.scored_in(predicted_cells.states), fold.scored_in(fold.truth)
    usable = int(np.count_nonzero(predicted_cells.weights))
    cells, half = min(len(straight), usable, _MAX_DRAWN), min(len(truth) // 2, _MAX_DRAWN)
    ours, others = [], []
    for _ in range(_DRAWS):
        target = rng.choice(truth, half, replace=False)
        drawn = rng.choice(predicted, cells, replace=False, p=predicted_cells.weights)
        ours.append(wasserstein1(drawn, target))
        others.append(wasserstein1(rng.choice(straight, cells, replace=False), target))
    return ours, others
