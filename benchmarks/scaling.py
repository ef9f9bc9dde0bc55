r"""How time and memory grow: with cells, latent dimensions, times, data sets and processes.

    python -m benchmarks.scaling               # about 15 minutes on 2 cores
    python -m benchmarks.scaling --quick       # smaller numbers: 2 minutes

Each point is a process of its own. Cells: a default fit and a two-sided interpolation of all cells,
5 dimensions, 4 times. Dimensions: a training step (forward, losses, backward, update), 4 times of
64 cells, without and in the Gaussian frame, and an interpolation of 10,000 cells. Times: a training
step. Data sets: a step of joint training with 12 tasks, by how many data sets the corpus has.
Processes: tasks of joint training a second. Slopes are of log time against log size; for dimensions
from 64 on, where constant costs no longer hide what grows.

Results: results/scaling.jsonl, .md and .png.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
from torch.utils.benchmark import Timer

from cellmnn_fm import CellMNNConfig, CellMNNModel, TimeCourse
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.synthetic import branching_course
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from cellmnn_fm.model.gaussian_frame import fit_frame
from cellmnn_fm.training.configs import TrainingConfig, preset_configs
from cellmnn_fm.training.loop import to_device
from cellmnn_fm.training.one_course import CourseStep, draw, train
from cellmnn_fm.training.pretraining import corpus_config, pretrain
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

CELLS = (1_000, 10_000, 100_000, 1_000_000)
DIMS = (5, 16, 32, 64, 128, 256, 512)
TIMES = (3, 6, 12, 24)
SETS = (4, 16, 64, 256)
PROCESSES = (1, 2)
SLOPE_FROM = 64  # dimensions
JOINT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "context_cells": 96,
}


def main(
    quick: Annotated[bool, typer.Option(help="Smaller numbers.")] = False,
    processes: Annotated[int, typer.Option(help="At a time, of one thread each.")] = 1,
) -> None:
    """Run the points that have no result yet, then print table and figure."""
    results = Results("scaling_quick" if quick else "scaling")
    axes: dict[str, tuple[Callable[..., dict[str, Any]], tuple[int, ...], float]] = {
        "cells": (of_cells, CELLS[:-1] if quick else CELLS, 10),
        "dims": (of_dims, DIMS[:-2] if quick else DIMS, 30),
        "times": (of_times, TIMES[:-1] if quick else TIMES, 10),
        "sets": (of_sets, SETS[:-1] if quick else SETS, 20),
        "processes": (of_processes, PROCESSES, 40),
    }
    cells = [
        Cell(results, (axis, str(size)), task, (size,), seconds)
        for axis, (task, sizes, seconds) in axes.items()
        for size in sizes
        # processes share the machine with nothing else
        if axis != "processes"
    ]
    run_cells(cells, processes=processes, apart=True)
    task, sizes, seconds = axes["processes"]
    run_cells([Cell(results, ("processes", str(n)), task, (n,), seconds) for n in sizes])
    report(results)


# ---------------------------------------------------------------------------------------------
# One point of each axis


def course_of(cells: int, dims: int, times: int) -> TimeCourse:
    """Snapshots of round clouds that drift."""
    rng = np.random.default_rng(0)
    snapshots = [
        rng.normal(size=(cells // times, dims)).astype(np.float32) + time / times
        for time in range(times)
    ]
    return TimeCourse(snapshots, np.arange(float(times)))


def of_cells(cells: int) -> dict[str, Any]:
    """A fit, and an interpolation of all cells."""
    course = course_of(cells, 5, 4)
    started = time.perf_counter()
    trained = train(course, *preset_configs("default", course))
    fitted = time.perf_counter()
    predicted = interpolate(trained.dynamics, course, 1.5)
    done = time.perf_counter()
    pushed = len(predicted.states)
    return {
        "fit": fitted - started,
        "interpolation": done - fitted,
        "microseconds_a_cell": 1e6 * (done - fitted) / pushed,
    }


def of_dims(dims: int) -> dict[str, Any]:
    """A step, without and in the frame, and an interpolation of 10,000 cells."""
    course = course_of(2_000, dims, 4)
    seconds = {f"step{'_in_frame' * frame}": step_seconds(course, frame) for frame in (False, True)}
    model = CellMNNModel(CellMNNConfig(latent_dim=dims, rank=min(4, dims))).eval()
    many = course_of(20_000, dims, 4)
    seconds["interpolation"] = seconds_of(
        lambda: interpolate(Dynamics(model, many.time_scale), many, 1.5)
    )
    return seconds


def of_times(times: int) -> dict[str, Any]:
    """A step: all snapshots are pushed to all times."""
    return {"step": step_seconds(course_of(200 * times, 5, times), False)}


def step_seconds(course: TimeCourse, frame: bool) -> float:
    """Median seconds of a whole training step of the default recipe."""
    config, training = preset_configs("default", course, frame=frame)
    torch.manual_seed(0)
    model = CellMNNModel(config).train()
    times = torch.from_numpy(course.model_times).float()
    state = None
    if frame:
        snapshots = [torch.from_numpy(snapshot) for snapshot in course.snapshots]
        state = fit_frame(snapshots, times)
    step = CourseStep(model, training, course.snapshots, times, frame=state)
    optimizer = torch.optim.AdamW(model.parameters())
    sizes, rng = [len(snapshot) for snapshot in course.snapshots], np.random.default_rng(0)

    def whole() -> None:
        rows = [to_device(draw(sizes, 64, rng), model.device) for _ in range(2)]
        optimizer.zero_grad()
        torch.stack(list(step(*rows).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return seconds_of(whole)


def seconds_of(call: Callable[[], Any]) -> float:
    """Median over two seconds or more."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=2.0).median


def of_sets(sets: int) -> dict[str, Any]:
    """A step of joint training on a corpus on disk."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder, "corpus"), sets)
        config = corpus_config(corpus, **JOINT)
        return {"step": joint_seconds(corpus, config, 20)}


def make_corpus(folder: Path, sets: int) -> Corpus:
    """Synthetic branching courses of 8 dimensions."""
    corpus = Corpus.create(folder, latent_dim=8)
    for seed in range(sets):
        corpus.add_course(f"set{seed:03d}", branching_course(seed, 8, cells=100))
    return corpus


def joint_seconds(corpus: Corpus, config: CellMNNConfig, steps: int) -> float:
    """Seconds of a step, its start left out."""
    sampling = SamplingConfig(tasks=12)
    trained = pretrain(corpus, config, TrainingConfig(steps=5), sampling)
    warm = trained.seconds
    trained = pretrain(corpus, config, TrainingConfig(steps=5 + steps), sampling)
    return max(trained.seconds - warm, 1e-9) / steps


def of_processes(count: int) -> dict[str, Any]:
    """Seconds of a step with 12 tasks for each process, one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder, "corpus"), 8)
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)),
            *("--master-port", str(port), "-m", "benchmarks.scaling", "--worker", folder),
        ]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        seconds = json.loads(Path(folder, "seconds.json").read_text())
    return {"step": seconds, "tasks_a_second": 12 * count / seconds}


def work(folder: str) -> None:
    """What each process of :func:`of_processes` does."""
    corpus = Corpus(Path(folder, "corpus"))
    world = int(os.environ["WORLD_SIZE"])
    sampling = SamplingConfig(tasks=12 * world)
    config = corpus_config(corpus, **JOINT)
    warm = pretrain(corpus, config, TrainingConfig(steps=5), sampling).seconds
    whole = pretrain(corpus, config, TrainingConfig(steps=65), sampling).seconds
    if os.environ["RANK"] == "0":
        Path(folder, "seconds.json").write_text(json.dumps((whole - warm) / 60))


# ---------------------------------------------------------------------------------------------
# All of them


def report(results: Results) -> None:
    """Slopes and values by axis."""
    points: dict[str, dict[int, dict[str, float]]] = {}
    for (axis, size), point in results.read().items():
        points.setdefault(axis, {})[int(size)] = point
    rows, figure = [], plt.figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    shown = {"cells": axes[0], "dims": axes[1], "sets": axes[2]}
    for axis in ("cells", "dims", "times", "sets", "processes"):
        sizes = sorted(points.get(axis, {}))
        if not sizes:
            continue
        measures = [
            key
            for key, value in points[axis][sizes[0]].items()
            if isinstance(value, float) and not key.startswith("cell_")
        ]
        for measure in measures:
            values = [points[axis][size][measure] for size in sizes]
            steep = [size for size in sizes if axis != "dims" or size >= SLOPE_FROM]
            known = [points[axis][size][measure] for size in steep]
            slope = f"{np.polyfit(np.log(steep), np.log(known), 1)[0]:.2f}" if steep[1:] else ""
            written = ", ".join(
                f"{size:,}: {value:.3g}" for size, value in zip(sizes, values, strict=True)
            )
            rows.append([axis, measure.replace("_", " "), written, slope])
            if axis in shown and measure in ("fit", "step", "step_in_frame", "interpolation"):
                shown[axis].loglog(sizes, values, "o-", label=measure.replace("_", " "))
    for axis, ax in shown.items():
        ax.set(xlabel=axis, ylabel="seconds")
        ax.legend(frameon=False, fontsize=7)
    memory = {
        size: point["cell_peak_gb"] for size, point in sorted(points.get("cells", {}).items())
    }
    header = ["axis", "what", "seconds (or as it says) by size", "slope"]
    text = markdown(header, rows) + "\n\n"
    text += f"Slopes of dimensions from {SLOPE_FROM} on. Memory of a fit beyond what it had at the "
    text += "start, GB by cells: " + ", ".join(f"{n:,}: {gb:.2f}" for n, gb in memory.items())
    results.show(text)
    results.draw(figure)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        typer.run(main)
