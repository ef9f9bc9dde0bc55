r"""A base where the truth is known: simulated systems, known systems, growth; and its speed.

    python -m studies.simulated                            # cellmnn-simulated, about 5 minutes
    python -m studies.simulated --base cellmnn-base

Velocities of systems that no training drew, zero-shot, beside the untrained frame and a default fit
of the one system; the known systems of the demo with 100 and 1,000 cells, beside a fit of 600
steps; growth rates of a published simulation; seconds on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path
from typing import Annotated

import anndata
import numpy as np
import torch
import typer
from numpy.typing import NDArray

from cellmnn_fm import CellMNNModel, CellMNNPipeline
from cellmnn_fm.data.simulated_systems import FAMILIES
from cellmnn_fm.data.simulated_tasks import SimulatedBatch, SimulatedTasks, SimulationConfig
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
from cellmnn_fm.data.time_course import TimeCourse
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate, velocity_at
from cellmnn_fm.evaluation.recovery import recover
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train

from .data_sets import DATA, Data
from .results import Results

SEED = 2**31 + 1  # neither of a training nor of a validation
SYSTEMS = 8  # of each family
KNOWN_CELLS = (100, 1000)
SIZES = (1_000, 100_000)


def main(
    base: Annotated[str, typer.Option(help="A pretrained model.")] = "cellmnn-simulated",
    data: Data = DATA,
    systems: Annotated[int, typer.Option(help="Of each family.")] = SYSTEMS,
) -> None:
    """All that has no result yet, then the table."""
    model = CellMNNPipeline.from_pretrained(base).foundation.model
    results = Results(f"simulated_{Path(base).name}")
    parts: dict[str, Callable[[], dict]] = {
        **{family: lambda family=family: unseen(model, family, systems) for family in FAMILIES},
        **{f"known {name}": lambda name=name: known(model, name) for name in KNOWN_SYSTEMS},
        "growth": lambda: growth(model, data / "truth" / "growth_gene_simulation.h5ad"),
        "speed": lambda: speed(model),
    }
    for name, part in parts.items():
        if (name,) not in results.read():
            results.keep(part(), name)
            print(name, results.read()[(name,)], flush=True)
    report(results)


# ---------------------------------------------------------------------------------------------
# What is measured


def unseen(model: CellMNNModel, family: str, systems: int) -> dict[str, list[float]]:
    """Velocity errors of systems of a family: zero-shot, of the frame, and of a fit of each."""
    errors: dict[str, list[float]] = {"zero_shot": [], "frame": [], "fit": []}
    fresh = CellMNNModel(model.config)
    for batch in systems_of(family, systems):
        course = course_of(batch)
        fitted = train(course, *preset_configs("default", course), seed=0)
        for name, dynamics in {
            "zero_shot": adapted(model, course),
            "frame": adapted(fresh, course),
            "fit": fitted.dynamics,
        }.items():
            errors[name].append(velocity_error(dynamics, batch))
    return errors


def systems_of(family: str, systems: int) -> Iterator[SimulatedBatch]:
    """Systems of a family that no training drew, one by one."""
    config = SimulationConfig(tasks=1, families=(family,))  # type: ignore[arg-type]
    tasks = SimulatedTasks(config, SEED, 64 * systems)
    for number in range(systems):
        yield tasks[64 * number]  # steps that are near share systems


def course_of(batch: SimulatedBatch) -> TimeCourse:
    """The snapshots that are shown of a single system."""
    snapshots = [
        cells[shown].numpy() for cells, shown in zip(batch.context[0], batch.shown[0], strict=True)
    ]
    return TimeCourse(snapshots, batch.frame.times[0].numpy().astype(float))


def adapted(model: CellMNNModel, course: TimeCourse) -> Dynamics:
    """What a base says of a time course, zero-shot."""
    return Dynamics(adapt(model, course), course.time_scale)


def velocity_error(dynamics: Dynamics, batch: SimulatedBatch) -> float:
    """‖predicted - true‖ / ‖true‖ over the cells that are asked about."""
    predicted = np.stack(
        [
            velocity_at(dynamics, states.numpy(), float(at))
            for states, at in zip(batch.query[0], batch.query_times[0], strict=True)
        ]
    )
    return relative(predicted, batch.velocity[0].numpy())


def known(model: CellMNNModel, name: str) -> dict[str, dict[str, float]]:
    """A known system, with few cells and with many."""
    system, outcome = KNOWN_SYSTEMS[name], {}
    for cells in KNOWN_CELLS:
        course = system.course(cells, 0)
        kept = course.times != system.times[system.held_out]
        seen = TimeCourse(list(compress(course.snapshots, kept)), course.times[kept])
        dynamics = adapted(model, seen)
        predicted = [
            velocity_at(dynamics, snapshot, at)
            for snapshot, at in zip(course.snapshots, course.times, strict=True)
        ]
        true = system.velocity(np.concatenate(course.snapshots))
        outcome[str(cells)] = {
            "zero_shot": relative(np.concatenate(predicted), true),
            "fit": recover(system, cells=cells).velocity_error,
        }
    return outcome


def growth(model: CellMNNModel, file: Path) -> dict[str, float]:
    """Correlation of growth rates with the true ones, over all cells and by time."""
    adata = anndata.read_h5ad(file)
    times = adata.obs["time"].to_numpy()
    z = np.asarray(adata.X, dtype=np.float32)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    course = TimeCourse.from_cells(z, times)
    adapted = adapt(model, course)
    memory, true = adapted.memory(), adata.obs["true_growth"].to_numpy()
    rates = np.empty(len(z))
    with torch.no_grad():
        for at in course.times:
            rows = times == at
            model_time = torch.tensor([[course.time_scale.to_model(float(at))]]).float()
            points = torch.nn.functional.pad(
                torch.from_numpy(z[rows]), (0, adapted.config.latent_dim - z.shape[1])
            )
            forward = torch.ones_like(model_time, dtype=torch.bool)
            raw = adapted.hypernetwork(memory, points[None, None], model_time, forward)
            rates[rows] = raw["growth"][0, 0].numpy()
    by_time = [np.corrcoef(rates[times == at], true[times == at])[0, 1] for at in course.times]
    return {
        "all_cells": float(np.corrcoef(rates, true)[0, 1]),
        "mean_by_time": float(np.mean(by_time)),
    }


def speed(model: CellMNNModel) -> dict[str, float]:
    """Seconds to read a new data set and predict a snapshot of it, by its number of cells."""
    seconds = {}
    for cells in SIZES:
        rng = np.random.default_rng(0)
        snapshots = [rng.normal(size=(cells // 4, 5)).astype(np.float32) + i for i in range(4)]
        course = TimeCourse(snapshots, np.arange(4.0))
        spent = []
        for _ in range(3):
            started = time.perf_counter()
            interpolate(adapted(model, course), course, 1.5)
            spent.append(time.perf_counter() - started)
        seconds[str(cells)] = min(spent)
    return seconds


def relative(predicted: NDArray, true: NDArray) -> float:
    """Of (..., d): the length of the error over that of the truth."""
    return float(np.linalg.norm(predicted - true) / np.linalg.norm(true))


# ---------------------------------------------------------------------------------------------
# The table


def report(results: Results) -> None:
    """Print the tables, and write them as Markdown beside the results."""
    found = {key[0]: outcome for key, outcome in results.read().items()}
    lines = [
        "| simulated systems, unseen | systems | zero-shot | untrained frame | default fit "
        "| zero-shot over fit | better than the fit |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    pooled: dict[str, list[float]] = {"zero_shot": [], "frame": [], "fit": []}
    for family in FAMILIES:
        for name, errors in found[family].items():
            pooled[name] += errors
        lines.append(_row(family.replace("_", " "), found[family]))
    lines.append(_row("**all**", pooled))
    lines += ["", "Medians of the error of velocities over their length."]
    lines += ["", "| known system | cells | zero-shot | fit of 600 steps |", "|---|---:|---:|---:|"]
    for name in KNOWN_SYSTEMS:
        for cells, errors in found[f"known {name}"].items():
            lines.append(f"| {name} | {cells} | {errors['zero_shot']:.3f} | {errors['fit']:.3f} |")
    rates, seconds = found["growth"], found["speed"]
    lines += [
        "",
        f"Growth rates: correlation with the true ones {rates['all_cells']:.3f} over all cells, "
        f"{rates['mean_by_time']:.3f} within a time, on the mean.",
        "",
        "Seconds to read a new data set and predict a snapshot: "
        + ", ".join(f"{float(s):.2g} for {int(cells):,} cells" for cells, s in seconds.items())
        + f" ({torch.get_num_threads()} thread(s)).",
    ]
    results.show("\n".join(lines))


def _row(label: str, errors: dict[str, list[float]]) -> str:
    """A line of the table."""
    medians = [np.median(errors[name]) for name in ("zero_shot", "frame", "fit")]
    better = np.mean(np.array(errors["zero_shot"]) < np.array(errors["fit"]))
    cells = [f"{median:.3f}" for median in (*medians, medians[0] / medians[2])]
    return f"| {label} | {len(errors['fit'])} | " + " | ".join([*cells, f"{better:.0%}"]) + " |"


if __name__ == "__main__":
    typer.run(main)
