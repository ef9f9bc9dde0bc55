"""Seconds and memory of the fates of many cells, beside moscot and CellRank.

    python -m benchmarks.atlas                      # the methods whose packages are installed
    python -m benchmarks.atlas --cells 5000 --cells 20000

A path that forks in 8 dimensions, at 5 times; two groups of the last cells; the probability of both
for every cell. Ours: `cellmnn-base` adapts itself to the cells, and follows each along one path.
moscot: its plan between each two neighbouring times, with its defaults, and pushed to the end.
CellRank: its real-time kernel of these plans, and probabilities of being absorbed. Each in a
process of its own, that is stopped after 10 minutes, or when it takes more than 16 GB.

Results: results/atlas.jsonl and atlas.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
import psutil
import typer

from cellmnn_fm import CellMNNPipeline
from studies.results import Results

RESULTS = Results("atlas")
SIZES = [5_000, 20_000, 50_000, 500_000]
DIMS, TIMES = 8, 5
MOST_SECONDS, MOST_GB = 600, 16
METHODS = {
    "cellmnn-base": ("cellmnn_fm",),
    "moscot": ("moscot",),
    "moscot and CellRank": ("moscot", "cellrank"),
}


def main(
    cells: Annotated[list[int] | None, typer.Option(help="How many; repeat.")] = None,
    method: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Each method at each number of cells; one process of the benchmark with --method."""
    sizes = cells or SIZES
    if method is not None:
        started = time.perf_counter()
        correct = run(method, sizes[0])
        print(json.dumps({"seconds": time.perf_counter() - started, "correct": correct}))
        return
    for name, packages in METHODS.items():
        if not all(map(find_spec, packages)):
            continue
        for size in sizes:
            if (name, str(size)) not in RESULTS.read():
                RESULTS.keep(watched(name, size), name, size)
            if "stopped" in RESULTS.read()[name, str(size)]:
                break
    RESULTS.show(table())


def course(cells: int) -> anndata.AnnData:
    """Cells that fork half-way, and where they would end if they ended as they are."""
    rng = np.random.default_rng(0)
    times = np.arange(cells) % TIMES
    side = rng.choice([-1.0, 1.0], cells)
    centre = np.zeros((cells, DIMS))
    centre[:, 0] = times
    centre[:, 1] = side * np.maximum(times - 2, 0)
    states = centre + 0.3 * rng.normal(size=(cells, DIMS))
    obs = pd.DataFrame({"time": times.astype(float), "end": np.where(side > 0, "up", "down")})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(
        states.astype(np.float32), obs=obs, obsm={"X_pca": states.astype(np.float32)}
    )


def run(method: str, cells: int) -> float:
    """The share of cells at the last but one time that are given the end of their side."""
    adata = course(cells)
    if method == "cellmnn-base":
        base = CellMNNPipeline.from_pretrained("cellmnn-base")
        up = base.fates(adata, "end", time_key="time", use_rep="X_pca").probabilities["up"]
    else:
        up = of_moscot(adata, with_cellrank="CellRank" in method)
    asked = adata.obs[adata.obs["time"] == TIMES - 2]
    return float(((up.reindex(asked.index) > 0.5) == (asked["end"] == "up")).mean())


def of_moscot(adata: anndata.AnnData, *, with_cellrank: bool) -> pd.Series:
    """P of one end for every cell, by its plans."""
    from moscot.problems.time import TemporalProblem

    adata.obs["day"] = adata.obs["time"].astype("category")
    problem = TemporalProblem(adata).prepare(time_key="day", joint_attr="X_pca")
    problem = problem.solve(epsilon=1e-2, scale_cost="mean")
    if with_cellrank:
        import cellrank

        kernel = cellrank.kernels.RealTimeKernel.from_moscot(problem)
        kernel.compute_transition_matrix(self_transitions="all", conn_weight=0.2)
        late = adata.obs["time"] == TIMES - 1
        ends = {
            name: list(adata.obs_names[late & (adata.obs["end"] == name)])
            for name in ("up", "down")
        }
        estimator = cellrank.estimators.GPCCA(kernel)
        estimator.set_terminal_states(ends)
        estimator.compute_fate_probabilities(use_petsc=False)
        return pd.Series(estimator.fate_probabilities["up"].X.ravel(), adata.obs_names)
    times = adata.obs["time"].to_numpy()
    up = (adata.obs["end"] == "up").to_numpy().astype(np.float64)
    for early in range(TIMES - 2, -1, -1):
        solution = problem[early, early + 1].solution
        now, then = (np.flatnonzero(times == time) for time in (early, early + 1))
        mass = np.stack([up[then], 1 - up[then]], axis=1).astype(np.float32)
        pulled = np.asarray(solution.pull(mass))
        up[now] = pulled[:, 0] / pulled.sum(axis=1)
    return pd.Series(up, adata.obs_names)


def watched(method: str, cells: int) -> dict[str, Any]:
    """Seconds and peak memory of a process, or why it was stopped."""
    words = ["-m", "benchmarks.atlas", "--method", method, "--cells", str(cells)]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    seen, peak, started = psutil.Process(process.pid), 0.0, time.perf_counter()
    while process.poll() is None:
        try:
            peak = max(peak, seen.memory_info().rss / 1e9)
        except psutil.NoSuchProcess:
            break
        late = time.perf_counter() - started > MOST_SECONDS
        if late or peak > MOST_GB:
            process.kill()
            return {"stopped": f"after {MOST_SECONDS} s" if late else f"beyond {MOST_GB} GB"}
        time.sleep(0.1)
    output = process.communicate()[0]
    if process.returncode:
        return {"stopped": f"exit code {process.returncode}"}
    found = json.loads(output.strip().splitlines()[-1])
    rounded = {name: round(value, 3) for name, value in found.items()}
    return {**rounded, "peak_gb": round(peak, 2)}


def table() -> str:
    """A row for each method, a column for each number of cells."""
    results = RESULTS.read()
    sizes = sorted({int(size) for _, size in results})
    lines = [
        "Fates of all cells of a course of 5 times in 8 dimensions: seconds, peak GB, and the "
        "share of cells just before the end that are given theirs.",
        "",
        "| method | " + " | ".join(f"{size:,} cells" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for method in dict.fromkeys(name for name, _ in results):
        cells = [shown(results.get((method, str(size)))) for size in sizes]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(outcome: dict[str, Any] | None) -> str:
    """An outcome in a cell of the table."""
    if outcome is None:
        return ""
    if "stopped" in outcome:
        return f"stopped {outcome['stopped']}"
    return f"{outcome['seconds']:.0f} s, {outcome['peak_gb']:.1f} GB, {outcome['correct']:.1%}"


if __name__ == "__main__":
    typer.run(main)
