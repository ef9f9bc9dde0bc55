"""Cells that default fits would let run away, on every data set.

    python -m benchmarks.runaway    # half an hour on 2 cores

A default fit of each file in $CELLMNN_DATA (at most 4,000 of its cells); up to 300 cells of the
first time are followed to the last, and back, by tolerance, in 1 and in 8 steps an interval, and
a snapshot is interpolated in 8 steps. Counted are rows that are not finite, which there must be
none of, and cells that are stopped where the snapshots end (`cellmnn_fm.dynamics.trust_region`).

Results: results/runaway.jsonl and .md.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import typer
from rich.progress import track

from cellmnn_fm import CellMNNPipeline
from studies.results import Results

RESULTS = Results("runaway")
DATA = Path(os.environ.get("CELLMNN_DATA", Path(__file__).parents[2] / "shared" / "data"))
MOST_CELLS = 4_000
FOLLOWED = 300
OPTIONS: dict[str, dict[str, int]] = {
    "by tolerance": {},
    "1 step": {"n_steps": 1},
    "8 steps": {"n_steps": 8},
}


def main() -> None:
    """Fit, follow, count."""
    warnings.simplefilter("ignore")
    rows = []
    for entry in track(json.loads((DATA / "catalog.json").read_text()), "data sets"):
        adata = anndata.read_h5ad(DATA / entry["file"])
        if adata.n_obs > MOST_CELLS:
            kept = np.random.default_rng(0).choice(adata.n_obs, MOST_CELLS, replace=False)
            adata = adata[np.sort(kept)].copy()
        rows.append({"data_set": entry["name"], **count(adata)})
        print(rows[-1])
    RESULTS.replace({row["data_set"]: row for row in rows})
    RESULTS.show(table(rows))


def count(adata: anndata.AnnData) -> dict[str, Any]:
    """Of one data set: rows that are not finite, and the largest share of stopped cells."""
    fitted = CellMNNPipeline().fit(adata, time_key="time", verdict=False)
    times = fitted.record.times
    counts: dict[str, Any] = {"not_finite": 0, "largest_state": 0.0}
    for direction, start in (("forward", times[0]), ("backward", times[-1])):
        for name, options in OPTIONS.items():
            cells = fitted.trajectory(adata, times, start=start, cells=FOLLOWED, **options)
            counts["not_finite"] += int((~np.isfinite(cells.X)).any(axis=1).sum())
            largest = float(np.abs(cells.obsm["X_cellmnn"]).max())
            counts["largest_state"] = round(max(counts["largest_state"], largest), 1)
            stopped = cells.obs.groupby("source_cell", observed=True)["stopped"].any().mean()
            counts[f"{direction}, {name}"] = round(float(stopped), 3)
    between = fitted.interpolate(adata, sum(times[:2]) / 2, n_steps=8)
    counts["not_finite"] += int((~np.isfinite(between.X)).any(axis=1).sum())
    counts["interpolated"] = round(float(between.obs["stopped"].mean()), 3)
    return counts


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown; shares of cells that are stopped on their way."""
    names = [name for name in rows[0] if name != "data_set"]
    heads = ["data set", *(name.replace("_", " ") for name in names)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(f"{row[name]}" for name in ["data_set", *names]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
