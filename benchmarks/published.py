"""Courses for which others have published hold-one-out distances, in the components that they used.

    python -m benchmarks.published               # 5 minutes on one core; resumable

Each interior time is left out in turn, and predicted from the others: by fits from scratch, by
cellmnn-base without training, and half-way between it and a sliced fit. W1 (exact, Euclidean, all
cells) is taken in the coordinates as they are given, which nothing rescales; a fit z-scores them by
the cells that it sees. Forward is from the snapshot before alone, as the published figures are;
two-sided is ours. The published figures are those of the data catalogue.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import typer

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.evaluation.metrics import ot_interpolate, random_halves, wasserstein1
from studies.data_sets import DATA, Data
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

RESULTS = Results("published")
SEEDS = 3
COURSES = {  # file, components
    "emt_10d": ("truth/emt_10d.h5ad", 10),
    "dyngen_tree": ("truth/dyngen_tree.h5ad", 5),
    "embryoid_body_5": ("embryoid_body_pca.h5ad", 5),
    "embryoid_body_50": ("embryoid_body_pca.h5ad", 50),
}
PUBLISHED = {"emt_10d": "WFR-FM 0.298, VGFM 0.301, DeepRUOT 0.323, TIGON 0.360"}


def main(data: Data = DATA, processes: int = 1) -> None:
    """Run what is missing, and write the table."""
    cells = [
        Cell(RESULTS, (name, f"{time:g}", str(seed)), distances, (name, time, seed, data), 20)
        for name in COURSES
        for time in interior_times(name, data)
        for seed in range(SEEDS)
    ]
    run_cells(cells, processes=processes)
    report()


def course(name: str, data: Path) -> anndata.AnnData:
    """States in `X` and times in `obs["time"]`."""
    file, dims = COURSES[name]
    adata = anndata.read_h5ad(data / file)[:, :dims].copy()
    adata.X = np.asarray(adata.X, dtype=np.float32)
    return adata


def interior_times(name: str, data: Path) -> list[float]:
    """All but the first and the last."""
    return np.unique(course(name, data).obs["time"])[1:-1].tolist()


def distances(name: str, time: float, seed: int, data: Path) -> dict[str, float]:
    """W1 of every prediction of a left-out time, by method and side."""
    adata = course(name, data)
    times = adata.obs["time"].to_numpy()
    truth, seen = np.asarray(adata.X)[times == time], adata[times != time].copy()
    earlier, later = times[times < time].max(), times[times > time].min()
    before, after = (np.asarray(adata.X)[times == at] for at in (earlier, later))
    share = (time - earlier) / (later - earlier)
    rng = np.random.default_rng(seed)
    w1 = {
        "previous": wasserstein1(before, truth),
        "OT-Interpolate": wasserstein1(ot_interpolate(before, after, share, rng), truth),
        "half against half": wasserstein1(*random_halves(truth, rng)),
    }
    reading = {"time_key": "time", "use_rep": "X"}
    how = {"verdict": False, "seed": seed, "n_dims": truth.shape[1], **reading}
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    for method, pipeline, blend in (
        ("default fit", CellMNNPipeline().fit(seen, **how), False),
        ("sliced fit", CellMNNPipeline().fit(seen, preset="sliced", **how), False),
        ("cellmnn-base", base, False),
        ("half-way between", base, True),
    ):
        for side in ("forward", "two-sided"):
            sides = {"two_sided": side == "two-sided", "blend": blend}
            predicted = pipeline.interpolate(seen, time, **sides, **reading)
            weights = predicted.obs["weight"].to_numpy()
            w1[f"{method}, {side}"] = wasserstein1(np.asarray(predicted.X), truth, weights)
    return w1


def report() -> None:
    """Mean W1 over the interior times, and its spread over seeds, by course and method."""
    kept = RESULTS.read()
    methods = [
        name
        for name, value in next(iter(kept.values())).items()
        if isinstance(value, float) and not name.startswith("cell_")
    ]
    rows = []
    for method in methods:
        row = [method]
        for name in COURSES:
            by_seed = [
                np.mean([w1[method] for key, w1 in kept.items() if key[::2] == (name, str(seed))])
                for seed in range(SEEDS)
            ]
            row.append(f"{np.mean(by_seed):.3f} ± {np.std(by_seed):.3f}")
        rows.append(row)
    rows.append(["published, forward", *(PUBLISHED.get(name, "") for name in COURSES)])
    RESULTS.show(markdown(["mean W1 of the interior times", *COURSES], rows))


if __name__ == "__main__":
    typer.run(main)
