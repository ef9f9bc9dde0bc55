"""How likely fates are: probabilities of many paths on systems whose fates are known.

    python -m studies.doubt                      # an hour on one core; resumable

1. Branchings: simulated systems (`cellmnn_fm.data.simulated_systems`) whose cells are in one group
   at first and in two at the end, with intrinsic noise of their own, 150 cells at each of 4 to 8
   times. Every cell of the first time is followed by the system itself, once: its group then is its
   fate. Predicted fates are those of a default fit and of `cellmnn-simulated`, which has learned
   from other systems of these families. The noise of paths is chosen on 30 systems (least
   calibration error and Brier score), and judged on 60 others: expected calibration error over ten
   bins, Brier score.
2. Interpolated cells of the same systems: how often the interval of a cell's own coordinates, 90 %,
   holds where the system has it at a time that was not measured.
3. A switch whose noise is known, and told: the largest error of the probability to end on the right
   from eleven places along it, against 100,000 simulated paths each.
4. Real time courses: the share of the earliest cells one of whose fates has P > 0.9.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.options import NOISE
from cellmnn_fm.data.simulated_systems import Family, draw_system
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
from cellmnn_fm.data.time_course import TimeCourse
from cellmnn_fm.dynamics.diffusion import Diffusion
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.questions.fates import fates_of_paths
from cellmnn_fm.questions.terminal_groups import TerminalGroups
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train

from .data_sets import DATA, Data
from .harness import Cell, run_cells
from .results import Results
from .tables import markdown

RESULTS = Results("doubt")
FAMILIES: tuple[Family, ...] = ("genes", "wells", "normal_forms", "landscape")
TRIED = (0.0, 0.3, 0.6, 1.0, 1.5)
DEVELOPMENT, CONFIRMATION = range(30), range(30, 90)
CELLS, PATHS, MOST_DIMS = 150, 30, 5
SWITCHES = [(noise, cells) for noise in (0.2, 0.4) for cells in (500, 2000)]
PLACES = np.linspace(-0.5, 0.5, 11)
REAL = {"hematopoiesis_larry": "cell_type", "mef_neuron": "cell_type", "ipsc_cardiomyocyte": 2}
MODELS = ("fit", "cellmnn-simulated")


def main(data: Data = DATA, processes: int = 1) -> None:
    """Run what is missing, and write the tables."""
    cells = [
        Cell(RESULTS, ("branching", str(number)), branching, (number,), 30)
        for number in [*DEVELOPMENT, *CONFIRMATION]
    ]
    cells += [
        Cell(RESULTS, ("switch", f"{noise:g}", str(count)), switch, (noise, count), 60)
        for noise, count in SWITCHES
    ]
    cells += [Cell(RESULTS, ("real", name), real, (name, data), 60) for name in REAL]
    run_cells(cells, processes=processes)
    report()


def dynamics_of(model: str, course: TimeCourse) -> Dynamics:
    """A fit from scratch, or what the network says that has learned from simulated systems."""
    if model == "fit":
        return train(course, *preset_configs("default", course)).dynamics
    base = CellMNNPipeline.from_pretrained(model).model
    return Dynamics(adapt(base, course), course.time_scale)


def component_axes(states: NDArray, dims: int) -> NDArray[np.float64]:
    """Principal axes (variables, dims) of `states` (cells, variables), the first of spread 1."""
    _, lengths, axes = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
    return axes[:dims].T / (lengths[0] / np.sqrt(len(states)))


class Branching(NamedTuple):
    """A system whose cells part, as an experiment and as it is."""

    course: TimeCourse
    labels: NDArray  # (cells,) at the last time
    fates: NDArray  # (cells,) of the cells of the first time
    half_way: float  # a time between the second and the third one
    moved: NDArray  # (cells, dims), where cells of the second time are then
    noise: float


def draw_branching(number: int) -> Branching:
    """The `number`-th of the systems that branch."""
    for attempt in range(1000):
        drawn = _drawn(1000 * number + attempt)
        if drawn is not None:
            return drawn
    raise AssertionError("no system that branches")


def _drawn(seed: int) -> Branching | None:
    """A system, if its cells are in one group at first and in two at the end."""
    rng = np.random.default_rng((seed, 99))
    dims = int(rng.integers(2, 7))
    system = replace(draw_system(1_000_000 + seed, dims, FAMILIES), growth=None)
    times = np.linspace(0, system.horizon, int(rng.integers(4, 9)))
    with np.errstate(all="ignore"):
        x = system.followed(times, CELLS, rng).states
    if not np.isfinite(x).all():
        return None
    flat = x.reshape(-1, x.shape[-1])
    axes = component_axes(flat, min(dims, MOST_DIMS))

    def seen(states: NDArray) -> NDArray[np.float32]:
        return ((states - flat.mean(axis=0)) @ axes).astype(np.float32)

    def continued(states: NDArray, until: float) -> NDArray[np.float32]:
        again = replace(system, draw_initial=lambda _, cells: np.tile(states, (cells // CELLS, 1)))
        return seen(again.followed(np.array([0.0, until]), CELLS, rng).states[1])

    z = seen(x)
    kmeans = KMeans(2, n_init=5, random_state=0).fit(z[-1])
    share = kmeans.labels_.mean()
    first = KMeans(2, n_init=5, random_state=0).fit_predict(z[0])
    if (
        min(share, 1 - share) < 0.1
        or silhouette_score(z[-1], kmeans.labels_) < 0.5
        or silhouette_score(z[0], first) > 0.5
    ):
        return None
    fates = kmeans.predict(continued(x[0], system.horizon))
    half_way = (times[1] + times[2]) / 2
    moved = continued(x[1], half_way - times[1])
    course = TimeCourse(list(z), times)
    return Branching(course, kmeans.labels_, fates, float(half_way), moved, system.noise)


def branching(number: int) -> dict[str, Any]:
    """Predicted and true fates, and how many coordinates lie in their intervals, by noise."""
    warnings.simplefilter("ignore")
    drawn = draw_branching(number)
    course, end = drawn.course, float(drawn.course.times[-1])
    groups = TerminalGroups.fit(course.snapshots[-1], drawn.labels.astype(str).tolist())
    outcome: dict[str, Any] = {"fates": drawn.fates.tolist(), "noise": drawn.noise}
    for model in MODELS:
        dynamics = dynamics_of(model, course)
        for noise in TRIED if number in DEVELOPMENT else (0.0, NOISE):
            diffusion = Diffusion.of(dynamics, course, noise)
            paths = PATHS if noise else 1
            start = course.snapshots[0]
            parts, _ = fates_of_paths(
                diffusion, start, np.zeros(len(start)), end, groups, n_paths=paths
            )
            predicted = parts["probabilities"][:, 1].round(4).tolist()
            outcome[f"{model} {noise:g}"] = predicted
            if noise:
                second = course.snapshots[1]
                to = diffusion.roll_out(
                    second, course.times[1], np.array([drawn.half_way]), n_paths=PATHS
                )
                of_cells = to.states[0].reshape(len(second), PATHS, -1)
                low, high = np.quantile(of_cells, [0.05, 0.95], axis=1)
                inside = (low <= drawn.moved) & (drawn.moved <= high)
                outcome[f"{model} {noise:g} inside"] = float(inside.mean())
    return outcome


def switch(noise: float, cells: int) -> dict[str, Any]:
    """Probabilities of ending on the right, true and of models that are told the noise."""
    warnings.simplefilter("ignore")
    system, rng = KNOWN_SYSTEMS["bistable"], np.random.default_rng(0)

    def followed(x: NDArray, duration: float, step: float = 0.01) -> NDArray:
        for _ in range(round(duration / step)):
            x = x + step * system.velocity(x) + noise * step**0.5 * rng.normal(size=x.shape)
        return x

    course = TimeCourse(
        [followed(system.draw_initial(rng, cells), time) for time in system.times],
        np.array(system.times),
    )
    places = np.stack([PLACES, 0 * PLACES], axis=1)
    end = system.times[-1]
    outcome: dict[str, Any] = {
        "true": [float((followed(np.tile(x, (100_000, 1)), end)[:, 0] > 0).mean()) for x in places]
    }
    for model in MODELS:
        dynamics = dynamics_of(model, course)
        diffusion = Diffusion(dynamics, course, noise**2 * np.eye(2))
        states = places.astype(np.float32)
        paths = diffusion.roll_out(states, 0.0, np.array([end]), n_paths=2000)
        outcome[model] = (paths.states[0, :, 0] > 0).reshape(len(places), -1).mean(axis=1).tolist()
    return outcome


def real(name: str, data: Path) -> dict[str, float]:
    """Share of the earliest cells one of whose fates has P > 0.9, along one path and along many."""
    warnings.simplefilter("ignore")
    adata = anndata.read_h5ad(data / f"{name}.h5ad")
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    cells = base.cells(adata, time_key="time")
    how: dict[str, Any] = {"groups": REAL[name], "start": float(cells.times.min())}
    tables = {"one path": base.fates(cells, **how)}
    tables["many paths"] = base.fates(cells, n_paths=PATHS, **how)
    return {
        key: float((table.probabilities.max(axis=1) > 0.9).mean()) for key, table in tables.items()
    }


# ---------------------------------------------------------------------------------------------
# Tables and figure


def calibration_error(predicted: NDArray, true: NDArray, bins: int = 10) -> float:
    """Mean distance of probabilities from how often they come true, over equal bins, (cells,).

    Of `predicted` (cells,) and `true` (cells,).
    """
    found = _binned(predicted, true, bins)
    return float(sum(share * abs(mean - often) for share, mean, often in found))


def _binned(predicted: NDArray, true: NDArray, bins: int) -> list[tuple[float, float, float]]:
    """Of each bin the share of cells, the mean probability, and how often it came true."""
    both = np.concatenate([predicted, 1 - predicted])
    came = np.concatenate([true, 1 - true])
    number = np.minimum((both * bins).astype(int), bins - 1)
    rows = [number == one for one in range(bins)]
    return [(row.mean(), both[row].mean(), came[row].mean()) for row in rows if row.any()]


def report() -> None:
    """Tables of all parts, and the figure of calibration."""
    kept = RESULTS.read()
    parts = []
    for numbers, title in ((DEVELOPMENT, "chosen on"), (CONFIRMATION, "confirmed on")):
        of = [kept["branching", str(number)] for number in numbers]
        true = np.concatenate([one["fates"] for one in of])
        rows = []
        for model in MODELS:
            for noise in TRIED:
                if (name := f"{model} {noise:g}") in of[0]:
                    predicted = np.concatenate([one[name] for one in of])
                    sure = (np.maximum(predicted, 1 - predicted) > 0.9).mean()
                    inside = [one[f"{name} inside"] for one in of] if noise else []
                    held = f"{np.mean(inside):.0%}" if inside else ""
                    error, brier = calibration_error(predicted, true), (predicted - true) ** 2
                    numbers_shown = [f"{error:.3f}", f"{brier.mean():.3f}", f"{sure:.0%}"]
                    rows.append([model, f"{noise:g}", *numbers_shown, held])
        head = [f"{title} {len(of)} systems", "noise", "calibration error", "Brier score"]
        parts.append(markdown([*head, "P > 0.9", "cells in their 90 %"], rows))
    rows = [
        [f"{noise:g}", str(count), *(f"{_largest(kept, noise, count, m):.3f}" for m in MODELS)]
        for noise, count in SWITCHES
    ]
    head = ["switch, noise", "cells at a time", *(f"{model}, largest error" for model in MODELS)]
    parts.append(markdown(head, rows))
    rows = [
        [name, *(f"{kept['real', name][k]:.0%}" for k in ("one path", "many paths"))]
        for name in REAL
    ]
    parts.append(markdown(["earliest cells with P > 0.9", "one path", "many paths"], rows))
    RESULTS.show("\n\n".join(parts))
    RESULTS.draw(_figure(kept))


def _largest(kept: dict, noise: float, count: int, model: str) -> float:
    """Error of a splitting probability."""
    found = kept["switch", f"{noise:g}", str(count)]
    return float(np.abs(np.array(found[model]) - found["true"]).max())


def _figure(kept: dict) -> Figure:
    """How often fates come true, by what was predicted; and the switch."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    of = [kept["branching", str(number)] for number in CONFIRMATION]
    true = np.concatenate([one["fates"] for one in of])
    left.plot([0, 1], [0, 1], color="0.7", lw=1)
    for noise, style in ((0.0, "--"), (NOISE, "-")):
        for model, colour in zip(MODELS, ("tab:orange", "tab:blue"), strict=True):
            predicted = np.concatenate([one[f"{model} {noise:g}"] for one in of])
            _, mean, often = zip(*_binned(predicted, true, 10), strict=True)
            label = f"{model}, {'many paths' if noise else 'one path'}"
            left.plot(mean, often, style, marker="o", ms=4, color=colour, label=label)
    left.set(xlabel="predicted probability", ylabel="how often it came true", aspect="equal")
    left.set_title("fates on 60 simulated branchings", fontsize=11)
    left.legend(frameon=False, fontsize=8)
    for (noise, count), colour in zip(SWITCHES[1::2], ("tab:green", "tab:purple"), strict=True):
        found = kept["switch", f"{noise:g}", str(count)]
        right.plot(PLACES, found["true"], color=colour, label=f"noise {noise:g}: true")
        for model, marker in zip(MODELS, ("o", "x"), strict=True):
            right.plot(PLACES, found[model], marker, ms=5, color=colour, label=model)
    right.set(xlabel="where a cell starts", ylabel="probability of ending on the right")
    right.set_title("a switch with known noise", fontsize=11)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    typer.run(main)
