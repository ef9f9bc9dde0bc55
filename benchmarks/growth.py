"""Growth rates of single cells where they are known, from snapshots and sizes of the population.

    python -m benchmarks.growth                  # 2 minutes on one core

Of the simulated system of the unbalanced transport literature (a switch of genes, 3,031 cells of 5
times, growth x2² / (1 + x2²)): Pearson's correlation of the rates of a default fit with the true
ones, over all cells and within each time, where the numbers of cells give the sizes. Published
over all cells: WFR-FM 0.991, TIGON 0.971, Action Matching 0.585. Settings of growth were chosen on
another system (GROWING_SWITCH, see pretraining/LOG.md), which is here for comparison.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import typer

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.synthetic import GROWING_SWITCH
from studies.data_sets import DATA, Data
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

RESULTS = Results("growth")
SEEDS = 3
SYSTEMS = ("growth_gene_simulation", "growing switch")


def main(data: Data = DATA, processes: int = 1) -> None:
    """Run what is missing, and write the table."""
    run_cells(
        [
            Cell(
                RESULTS,
                (system, str(counted), str(seed)),
                correlations,
                (system, counted, seed, data),
                20,
            )
            for system in SYSTEMS
            for counted in (True, False)
            for seed in range(SEEDS)
        ],
        processes=processes,
    )
    report()


def correlations(
    system: str, counted: bool, seed: int, data: Path
) -> dict[str, float | list[float]]:
    """Over all cells and within each time, with sizes of the population in the fit or without."""
    if system == "growing switch":
        adata = GROWING_SWITCH.to_anndata(cells=400, seed=0)
        truth = GROWING_SWITCH.growth(np.asarray(adata.X))
        first = GROWING_SWITCH.draw_initial(np.random.default_rng(1), 20_000)
        sizes = {
            time: float(np.exp(GROWING_SWITCH.followed(first, time)[1]).mean())
            for time in GROWING_SWITCH.times
        }
    else:
        adata = anndata.read_h5ad(data / "truth" / f"{system}.h5ad")
        truth = adata.obs["true_growth"].to_numpy(dtype=np.float64)
        sizes = adata.obs["time"].value_counts().to_dict()
    population = {float(time): float(size) for time, size in sizes.items()}
    how = {"time_key": "time", "growth": True, "verdict": False, "seed": seed}
    if counted:
        how["population"] = population
    pipeline = CellMNNPipeline().fit(adata, **how)
    rates = pipeline.growth(adata, population=None if counted else population).rates.to_numpy()
    times = adata.obs["time"].to_numpy()
    return {
        "all cells": float(np.corrcoef(rates, truth)[0, 1]),
        "by time": [
            float(np.corrcoef(rates[times == time], truth[times == time])[0, 1])
            for time in np.unique(times)
        ],
    }


def report() -> None:
    """Means over seeds."""
    kept = RESULTS.read()
    rows = []
    for system in SYSTEMS:
        for counted, what in (("True", "in the fit"), ("False", "afterwards")):
            found = [kept[system, counted, str(seed)] for seed in range(SEEDS)]
            whole = [each["all cells"] for each in found]
            by_time = np.mean([each["by time"] for each in found], axis=0)
            rows.append(
                [
                    f"{system}, sizes {what}",
                    f"{np.mean(whole):.3f} ({min(whole):.3f} to {max(whole):.3f})",
                    ", ".join(f"{value:.3f}" for value in by_time),
                ]
            )
    RESULTS.show(markdown(["correlation with true rates", "all cells", "within each time"], rows))


if __name__ == "__main__":
    typer.run(main)
