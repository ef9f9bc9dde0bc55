"""Left-out snapshots in gene space, inner and last ones, as scTimeBench has them.

    python -m benchmarks.gene_space              # 15 minutes on one core; resumable
    python -m benchmarks.gene_space --peers      # and methods of others that are installed; hours

After its protocol (Osakwe et al. 2026, bioRxiv 2026.03.16.712069), on the gene-level sets of the
catalogue: "easy" leaves one inner time out, "medium" the last one, "hard" the last two. Distances
are its: Sinkhorn divergence (p = 2, blur 0.05) over the number of genes, here half of the
exact squared W2, which geomloss's is 1 to 3 % below; and the energy distance. Values are what the
package reads, counts included, on a natural log scale; at most 300 cells of a snapshot.

Ours is cellmnn-simulated, which has seen no real data (cellmnn-base has seen most of these sets),
and a sliced fit. Beside it: the previous snapshot; the same moved on as the mean moved before; and,
of inner times, OT-Interpolate on genes. Ours is given twice: as the command gives it, which is what
components hold, and with what they leave out of each cell added again ("whole"). Beyond the last
time shares of the movement are tried; the package's was chosen on the development sets alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anndata
import numpy as np
import typer
from numpy.typing import NDArray

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.evaluation.metrics import energy, ot_interpolate
from studies.data_sets import DATA, DEVELOPMENT, Data, chosen, groups_of
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

from .peers import fit_peer, index_of, installed

RESULTS = Results("gene_space")
MOST_CELLS, MOST_INNER = 300, 2
DAMPING = (0.0, 0.25, 0.5, 1.0)


PEERS = ("mioflow",)


def main(
    data: Data = DATA,
    processes: int = 1,
    peers: Annotated[bool, typer.Option("--peers", help="Also run methods of others.")] = False,
) -> None:
    """Run what is missing, and write the tables."""
    groups = groups_of(data)
    cells = [
        Cell(
            RESULTS, (name, task, f"{at:g}", values), distances, (name, task, at, values, data), 15
        )
        for name in groups
        for task, at, values in tasks(data / f"{name}.h5ad")
    ]
    if peers:
        cells += [
            Cell(RESULTS, (name, task, f"{at:g}", method), peer_distances, (*key, method, data), 90)
            for method in PEERS
            if method in installed()
            for key in one_of_each(cells)
            for name, task, at in [key]
        ]
    run_cells(cells, processes=processes)
    report(groups)


def one_of_each(cells: Sequence[Cell]) -> list[tuple[str, str, float]]:
    """Data set, difficulty and time: of each set the first inner one and the last, from `X`."""
    wanted: dict[tuple[str, str], float] = {}
    for cell in cells:
        name, task, time, values, _ = cell.arguments
        if values == "X" and task != "hard":
            wanted.setdefault((name, task), time)
    return [(*key, time) for key, time in wanted.items()]


def tasks(file: Path) -> list[tuple[str, float, str]]:
    """What is predicted of a file of genes: difficulty, left-out time, and from which values."""
    adata = anndata.read_h5ad(file, backed="r")
    if adata.uns.get("space") == "pca" or adata.n_vars < 40:
        return []
    cell_times = read_times(adata, "time")
    times = np.unique(cell_times)
    found = [("easy", time) for time in chosen(cell_times, MOST_INNER)]
    if len(times) >= 4:
        found.append(("medium", float(times[-1])))
    if len(times) >= 5:
        found += [("hard", float(time)) for time in times[-2:]]
    known = ("X", "counts") if "counts" in adata.layers else ("X",)
    return [(*task, values) for task in found for values in known]


def distances(name: str, task: str, time: float, values: str, data: Path) -> dict[str, float]:
    """Sinkhorn divergence and energy distance of every prediction of one left-out snapshot.

    From `X` or from the raw "counts"; distances are on the log scale that the package reads.
    """
    warnings.simplefilter("ignore")
    adata = read(data / f"{name}.h5ad", values)
    reading = {"time_key": "time", "layer": None if values == "X" else values}
    seen, truth = split(adata, task, time)
    times, x = seen.obs["time"].to_numpy(), np.asarray(seen.X)
    earlier = np.unique(times[times < time])
    last = x[times == earlier[-1]]
    predicted: dict[str, tuple[NDArray, NDArray | None]] = {"previous": (last, None)}
    if len(earlier) > 1:
        before = x[times == earlier[-2]]
        speed = (last.mean(axis=0) - before.mean(axis=0)) / (earlier[-1] - earlier[-2])
        predicted["mean moved on"] = (last + (time - earlier[-1]) * speed, None)
    if task == "easy":
        later = times[times > time].min()
        share = (time - earlier[-1]) / (later - earlier[-1])
        rng = np.random.default_rng(0)
        between = ot_interpolate(last, x[times == later], share, rng)
        predicted["OT-Interpolate"] = (between, None)
    zero_shot = CellMNNPipeline.from_pretrained("cellmnn-simulated")
    fit = CellMNNPipeline().fit(seen, verdict=False, preset="sliced", **reading)
    for method, pipeline in {"zero-shot": zero_shot, "fit": fit}.items():
        cells = pipeline.cells(seen, **reading)
        for damping in (1.0,) if task == "easy" else DAMPING:
            label = method if task == "easy" else f"{method}, {damping:g}"
            result = pipeline.interpolate(cells, time, damping=damping)
            weights = result.obs["weight"].to_numpy()
            predicted[label] = (np.asarray(result.X), weights)
            predicted[f"{label}, whole"] = (whole(seen, cells.states, result), weights)
    if task == "easy":
        result = zero_shot.interpolate(seen, time, blend=True, **reading)
        predicted["half-way"] = (np.asarray(result.X), result.obs["weight"].to_numpy())
    outcome = {"largest": float(max(np.abs(each).max() for each, _ in predicted.values()))}
    outcome["largest_seen"] = float(np.abs(np.asarray(adata.X)).max())
    for label, (expression, weights) in predicted.items():
        outcome[f"sinkhorn {label}"] = sinkhorn(expression, truth, weights)
        outcome[f"energy {label}"] = energy(expression, truth, weights)
    return outcome


def split(
    adata: anndata.AnnData, task: str, time: float
) -> tuple[anndata.AnnData, NDArray[np.float32]]:
    """What methods see, and the genes of the left-out snapshot (cells, genes)."""
    times = adata.obs["time"].to_numpy()
    out = np.unique(times)[-2:] if task == "hard" else [time]
    return adata[~np.isin(times, out)].copy(), np.asarray(adata.X)[times == time]


def peer_distances(name: str, task: str, time: float, method: str, data: Path) -> dict[str, float]:
    """The same of a method of others, which sees the components that ours sees."""
    warnings.simplefilter("ignore")
    seen, truth = split(read(data / f"{name}.h5ad"), task, time)
    base = CellMNNPipeline.from_pretrained("cellmnn-simulated")
    cells = base.cells(seen, time_key="time")
    course = cells.course
    index = index_of(course, time)
    before = int(np.searchsorted(course.times, time)) - 1
    pushed = fit_peer(method, course, seed=0)(course.snapshots[before], float(before), index)
    subspace = cells.fitted.subspace
    padding = subspace.loadings.shape[1] - pushed.shape[1]
    expression = subspace.reconstruct(np.pad(pushed, ((0, 0), (0, padding))))
    return {
        f"sinkhorn {method}": sinkhorn(expression, truth),
        f"energy {method}": energy(expression, truth),
        "largest": float(np.abs(expression).max()),
    }


def read(file: Path, values: str = "X") -> anndata.AnnData:
    """At most 300 cells of each snapshot; `X` on a log scale as the package reads the values."""
    adata = anndata.read_h5ad(file)
    matrix = read_source(adata, layer=None if values == "X" else values).matrix()
    adata.X = (matrix.toarray() if hasattr(matrix, "toarray") else matrix).astype(np.float32)
    adata.obs["time"] = read_times(adata, "time")
    adata.uns["log1p"] = {}  # so that they are not read for anything else again
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(adata.obs["time"] == time) for time in np.unique(adata.obs["time"])]
    return adata[np.sort(np.concatenate([rng.permutation(of)[:MOST_CELLS] for of in rows]))].copy()


def whole(seen: anndata.AnnData, states: NDArray, result: anndata.AnnData) -> NDArray:
    """Predicted cells with what components leave out of the cells that they come from.

    Those have latent `states` (cells, latent_dim).
    """
    rows = seen.obs_names.get_indexer(result.obs["source_cell"])
    loadings = result.varm["cellmnn_loadings"]
    dims = loadings.shape[1]
    moved = (result.obsm["X_cellmnn"][:, :dims] - states[rows, :dims]) @ loadings.T
    return np.asarray(seen[:, result.var_names].X)[rows] + moved


def sinkhorn(x: NDArray, y: NDArray, weights: NDArray | None = None) -> float:
    """Half of the exact squared W2 over the number of genes, of `x` and `y` (cells, genes).

    Cells of `x` have `weights` (cells,), or the same.
    """
    import ot

    mass = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
    cost = ot.dist(x.astype(np.float64), y.astype(np.float64)) / 2
    return float(ot.emd2(mass, ot.unif(len(y)), cost, numItermax=10_000_000) / x.shape[1])


# ---------------------------------------------------------------------------------------------
# The tables


def report(groups: dict[str, str]) -> None:
    """Ratios to the previous snapshot, geometric means over groups of sets, by difficulty."""
    # what has no answer, such as a course of two times without one of them, says so
    kept = {key: outcome for key, outcome in RESULTS.read().items() if "skipped" not in outcome}
    development = {groups[name] for name in DEVELOPMENT}
    parts = []
    raw = {key: outcome for key, outcome in kept.items() if key[3] == "counts"}
    peers = {key: outcome for key, outcome in kept.items() if key[3] in PEERS}
    kept = {key: outcome for key, outcome in kept.items() if key[3] == "X"}
    for task in ("easy", "medium", "hard"):
        for chosen_on in (True, False):
            of_task = {
                key: outcome
                for key, outcome in kept.items()
                if key[1] == task and (groups[key[0]] in development) == chosen_on
            }
            sets = "development sets" if chosen_on else "other sets"
            parts.append(f"{task}, {sets}\n\n{table(of_task, groups)}")
    for task in ("easy", "medium", "hard"):
        of_task = {key: outcome for key, outcome in raw.items() if key[1] == task}
        parts.append(f"{task}, raw counts\n\n{table(of_task, groups)}")
    for task in ("easy", "medium"):
        beside: dict[tuple, dict[str, float]] = {}
        for key, outcome in peers.items():
            if key[1] == task and (*key[:3], "X") in kept:
                both = beside.setdefault(key[:3], dict(kept[*key[:3], "X"]))
                both |= {name: outcome[name] for name in outcome if name != "largest"}
        if beside:
            parts.append(f"{task}, where others were run\n\n{table(beside, groups)}")
    worst, of_counts = (
        max(outcome["largest"] / outcome["largest_seen"] for outcome in outcomes.values())
        for outcomes in (kept, raw)
    )
    parts.append(
        f"Largest predicted value over the largest observed one: {worst:.2f}, of raw counts "
        f"{of_counts:.2f}."
    )
    RESULTS.show("\n\n".join(parts))


def table(outcomes: dict[tuple, dict[str, float]], groups: dict[str, str]) -> str:
    """Of one difficulty: a row for each method."""
    names = [name for name in next(iter(outcomes.values())) if name.startswith("sinkhorn ")]
    rows = []
    for name in names:
        row = [name.removeprefix("sinkhorn ")]
        for score in ("sinkhorn", "energy"):
            by_group: dict[str, list[float]] = {}
            for key, outcome in outcomes.items():
                of = outcome.get(f"{score} {row[0]}", np.nan)
                if np.isfinite(of):  # the energy of a single cell that was not stopped is none
                    ratio = max(of, 1e-9) / max(outcome[f"{score} previous"], 1e-9)
                    by_group.setdefault(groups[key[0]], []).append(np.log(ratio))
            logs = [float(np.mean(values)) for values in by_group.values()]
            row.append(f"{np.exp(np.mean(logs)):.3f} ({np.mean(np.array(logs) < 0):.0%})")
        rows.append(row)
    head = [f"over the previous snapshot, {len(by_group)} groups (share below it)"]
    return markdown([*head, "Sinkhorn", "energy distance"], rows)


if __name__ == "__main__":
    typer.run(main)
