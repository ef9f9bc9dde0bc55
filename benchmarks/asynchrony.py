"""Which cells are ahead, where they have not started together.

    python -m benchmarks.asynchrony              # 3 minutes on one core; resumable

Simulated systems (`cellmnn_fm.data.simulated_systems`) of 4 to 7 snapshots of 150 cells, each of
which starts with a delay of its own, up to 35 % of the course: how far it has come is known. Given
is Spearman's correlation with that within snapshots, the mean over snapshots and then over systems.
Beside `ahead`: the same with the observed snapshots alone, without any model; the nearest point on
the path of the mean; and the first component.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import spearmanr

from cellmnn_fm.data.simulated_systems import draw_system
from cellmnn_fm.data.time_course import TimeCourse
from cellmnn_fm.dynamics.kernel_density import KernelDensity
from cellmnn_fm.evaluation.metrics import with_interval
from cellmnn_fm.questions.ahead import ahead_of
from studies.doubt import component_axes, dynamics_of
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

RESULTS = Results("asynchrony")
FAMILIES = ("smooth", "genes", "wells", "normal_forms", "landscape")
SYSTEMS, CELLS, MOST_DIMS, MOMENTS = 60, 150, 5, 40
LONGEST_DELAY = 0.35


def main(processes: int = 1) -> None:
    """Run what is missing, and write table and figure."""
    cells = [Cell(RESULTS, (str(seed),), correlations, (seed,), 3) for seed in range(SYSTEMS)]
    run_cells(cells, processes=processes)
    report()


def course(seed: int) -> tuple[TimeCourse, NDArray]:
    """A time course, and how far its cells (snapshots, cells) have come."""
    rng = np.random.default_rng((seed, 5))
    dims = int(rng.integers(2, 7))
    while True:
        system = draw_system(int(rng.integers(10**9)), dims, FAMILIES)
        system = replace(system, growth=None)
        moments = np.linspace(0, system.horizon, MOMENTS + 1)
        with np.errstate(all="ignore"):
            followed = system.followed(moments, CELLS, rng).states
        if np.isfinite(followed).all():
            break
    times = np.linspace(0, MOMENTS, int(rng.integers(4, 8))).round()
    delays = rng.uniform(0, LONGEST_DELAY * MOMENTS, size=(len(times), CELLS))
    come = np.clip(times[:, None] - delays, 0, None).round().astype(int)
    x = followed[come, np.arange(CELLS)]
    flat = x.reshape(-1, x.shape[-1])
    axes = component_axes(flat, min(dims, MOST_DIMS))
    return TimeCourse(list((x - flat.mean(axis=0)) @ axes), times), come


def correlations(seed: int) -> dict[str, float]:
    """Of every method, the mean over snapshots."""
    warnings.simplefilter("ignore")
    drawn, come = course(seed)
    states = np.concatenate(drawn.snapshots)
    cell_times = np.repeat(drawn.times, CELLS)
    models = {"cellmnn-simulated": "cellmnn-simulated", "default fit": "fit"}
    found = {
        name: ahead_of(dynamics_of(model, drawn), drawn, states, cell_times)
        for name, model in models.items()
    }
    weights = np.ones(CELLS)
    log_density = [KernelDensity.around(z, weights).log_density(states) for z in drawn.snapshots]
    found["observed snapshots alone"] = drawn.times @ softmax(np.array(log_density), axis=0)
    means = np.array([snapshot.mean(axis=0) for snapshot in drawn.snapshots])
    moments = np.linspace(drawn.times[0], drawn.times[-1], 101)
    path = np.stack([np.interp(moments, drawn.times, part) for part in means.T], axis=1)
    found["path of the mean"] = moments[np.square(states[:, None] - path).sum(-1).argmin(axis=1)]
    found["first component"] = states[:, 0] * np.sign(np.corrcoef(states[:, 0], cell_times)[0, 1])
    return {name: _within(values, come) for name, values in found.items()}


def _within(values: NDArray, come: NDArray) -> float:
    """Mean correlation over snapshots in which cells have come differently far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant values, which say nothing
        pairs = zip(values.reshape(come.shape), come, strict=True)
        found = [spearmanr(one, true).statistic for one, true in pairs if np.ptp(true)]
    return float(np.nan_to_num(found).mean())


def report() -> None:
    """The table, and the figure of one system."""
    kept = list(RESULTS.read().values())
    methods = [name for name, value in kept[0].items() if isinstance(value, float)]
    methods = [name for name in methods if not name.startswith("cell_")]
    rows = [[name, with_interval([one[name] for one in kept])] for name in methods]
    RESULTS.show(markdown([f"{len(kept)} systems", "correlation within snapshots (95 %)"], rows))
    RESULTS.draw(_figure(seed=int(np.argsort([one["default fit"] for one in kept])[-10])))


def _figure(seed: int) -> Figure:
    """Cells of one system by what is said and what is true."""
    drawn, come = course(seed)
    dynamics = dynamics_of("fit", drawn)
    times = np.repeat(drawn.times, CELLS)
    said = ahead_of(dynamics, drawn, np.concatenate(drawn.snapshots), times).reshape(come.shape)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = len(drawn.times) // 2
    others = np.concatenate(drawn.snapshots)
    left.scatter(*others[:, :2].T, s=4, color="0.85", rasterized=True)
    snapshot, most = drawn.snapshots[middle], np.abs(said[middle]).max()
    shown = left.scatter(
        *snapshot[:, :2].T, c=said[middle], s=12, cmap="coolwarm", vmin=-most, vmax=most
    )
    figure.colorbar(shown, ax=left, label="ahead of its time")
    title = f"cells of time {drawn.times[middle]:g}, and of other times in grey"
    left.set(xlabel="component 1", ylabel="component 2")
    left.set_title(title, fontsize=11)
    for time, values, true in list(zip(drawn.times, said, come, strict=True))[1:]:
        right.scatter(true, time + values, s=6, label=f"time {time:g}", rasterized=True)
    right.plot([0, MOMENTS], [0, MOMENTS], color="0.6", lw=1)
    right.set(xlabel="how far a cell has come", ylabel="where such cells are expected")
    right.legend(frameon=False, fontsize=8, markerscale=2)
    right.set_title("cells of all other times", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
