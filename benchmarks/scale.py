r"""A set inflated to 250,000 cells: who can be fitted at all, in what time and memory.

    python -m benchmarks.scale                    # about 20 minutes on 2 cores
    python -m benchmarks.scale --cells 20000      # a minute

Cells of embryoid_body_pca are drawn with replacement and moved by noise, a tenth of the spread of
each component, until there are as many as asked for; the middle time is held out, and Laplacian
MMD, W1 and energy distance are taken to its measured cells. A method that takes more than --minutes
or --gigabytes is ended, which is what the table then says. OT-CFM with exact plans means plans
between whole snapshots, as in the scale experiment of the Cell-MNN paper; mini-batch OT-CFM draws
128 cells of each.

Results: results/scale_CELLS.jsonl and .md.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import anndata
import numpy as np
import torch
import typer
from rich.progress import track

from cellmnn_fm import TimeCourse
from cellmnn_fm.dynamics.snapshots import interpolate
from cellmnn_fm.evaluation.metrics import ot_interpolate, wasserstein1
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.losses import energy_distance, mmd2
from cellmnn_fm.training.one_course import train
from studies.data_sets import Data
from studies.harness import machine, within_limits
from studies.results import Results
from studies.tables import markdown

from .peers import fit_cfm, fit_peer, index_of, installed
from .runaway import DATA

N_DIMS = 5
NOISE = 0.1  # of the spread of a component
SCORED = 2000  # cells that distances are taken between
METHODS = ("ours", "ot_interpolate", "ot_cfm", "ot_cfm_exact", "i_cfm")
LABELS = {
    "ours": "ours",
    "ot_interpolate": "OT-Interpolate",
    "ot_cfm": "OT-CFM, mini-batches",
    "ot_cfm_exact": "OT-CFM, exact plans",
    "i_cfm": "I-CFM, mini-batches",
}


def main(
    data: Data = DATA,
    cells: Annotated[int, typer.Option(help="Of the inflated set.")] = 250_000,
    minutes: Annotated[float, typer.Option(help="At most, for each method.")] = 5.0,
    gigabytes: Annotated[float, typer.Option(help="At most, for each method.")] = 16.0,
) -> None:
    """Run the methods that have no result yet, each in a process of its own, within limits."""
    results = Results(f"scale_{cells}")
    there = [name for name in METHODS if "cfm" not in name or "ot_cfm" in installed()]
    done = results.read()
    missing = [name for name in there if (name,) not in done]
    print(f"{len(missing)} methods to go, at most {minutes * len(missing):.0f} minutes")
    for name in track(missing, "methods"):
        arguments = (name, str(data.resolve() / "embryoid_body_pca.h5ad"), cells)
        outcome = within_limits(run, *arguments, seconds=60 * minutes, gigabytes=gigabytes)
        limits = {"limit_minutes": minutes, "limit_gb": gigabytes}
        results.keep({"method": name, **outcome, **limits, **machine()}, name)
    report(results, cells)


def inflated(file: str, cells: int) -> tuple[TimeCourse, float, np.ndarray]:
    """The course without its middle time, that time, and the measured cells of it.

    Components are scaled by the cells that are left, and the held-out ones are as measured.
    """
    adata = anndata.read_h5ad(file)
    times = adata.obs["time"].to_numpy(float)
    states = np.asarray(adata.X[:, :N_DIMS], dtype=np.float64)
    observed = np.unique(times)
    left_out = float(observed[len(observed) // 2])
    seen = times != left_out
    states = (states - states[seen].mean(axis=0)) / states[seen].std(axis=0)
    rng = np.random.default_rng(0)
    kept = [time for time in observed if time != left_out]
    snapshots = []
    for time_of in kept:
        cells_then = states[times == time_of]
        drawn = cells_then[rng.integers(len(cells_then), size=cells // len(kept))]
        snapshots.append(drawn + NOISE * cells_then.std(axis=0) * rng.normal(size=drawn.shape))
    return TimeCourse(snapshots, np.array(kept)), left_out, states[~seen]


def run(method: str, file: str, cells: int) -> dict[str, Any]:
    """Fit, push the snapshot before the held-out time, and compare."""
    torch.set_num_threads(1)
    course, left_out, truth = inflated(file, cells)
    before = int(np.searchsorted(course.times, left_out)) - 1
    source, start = course.snapshots[before], float(course.times[before])
    share = (left_out - start) / (course.times[before + 1] - start)
    started = time.perf_counter()
    if method == "ours":
        trained = train(course, *preset_configs("default", course))
        fitted = time.perf_counter() - started
        states = interpolate(trained.dynamics, course, left_out, two_sided=False).states
    elif method == "ot_interpolate":
        rng = np.random.default_rng(0)
        states = ot_interpolate(source, course.snapshots[before + 1], share, rng)
        fitted = time.perf_counter() - started
    else:
        if method == "ot_cfm_exact":
            push = fit_cfm("ot_cfm", course, np.random.default_rng(0), batch=None)
        else:
            push = fit_peer(method, course, 0)
        fitted = time.perf_counter() - started
        states = push(source, index_of(course, start), index_of(course, left_out))
    seconds = time.perf_counter() - started
    return {"fit_seconds": round(fitted, 2), "fit_and_push_seconds": round(seconds, 2)} | distances(
        states, truth
    )


def distances(states: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Between at most 2,000 cells of each."""
    rng = np.random.default_rng(1)
    scored = states if len(states) <= SCORED else rng.choice(states, SCORED, replace=False)
    x, y = (torch.as_tensor(cells, dtype=torch.float64) for cells in (scored, truth))
    return {
        "cells_pushed": len(states),
        "mmd": float(mmd2(x, y).clamp_min(0).sqrt()),
        "w1": wasserstein1(scored, truth),
        "energy": float(energy_distance(x, y)),
    }


def report(results: Results, cells: int) -> None:
    """One row for each method."""
    rows, outcomes = [], {name: outcome for (name,), outcome in results.read().items()}
    for name, label in LABELS.items():
        if name not in outcomes:
            continue
        outcome = outcomes[name]
        values = [
            f"{outcome[key]:.3f}" if key in outcome else "" for key in ("mmd", "w1", "energy")
        ]
        took = f"{outcome['fit_seconds']:.1f}" if "fit_seconds" in outcome else outcome["outcome"]
        memory = f"{outcome['peak_gb']:.2f}" if "peak_gb" in outcome else ""
        rows.append([label, took, memory, *values])
    header = ["method", "fit, s", "GB beyond imports", "MMD", "W1", "energy distance"]
    limits = next(iter(outcomes.values()))
    text = (
        f"{cells:,} cells, {N_DIMS} components, one thread, from the snapshot before; "
        f"at most {limits['limit_minutes']:g} minutes and {limits['limit_gb']:g} GB each.\n\n"
    )
    results.show(text + markdown(header, rows))


if __name__ == "__main__":
    typer.run(main)
