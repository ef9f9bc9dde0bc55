"""Snapshots under a condition that were not measured, beside a control that was.

    python -m benchmarks.conditions               # half an hour on one core; resumable

Pairs of courses, of which the control is shown whole and the condition at some times: one in the
middle, or the second and the last but one. All its other snapshots are predicted.

Simulated: systems of the families that `cellmnn-conditions` has learned from, drawn anew
(`cellmnn_fm.data.simulated_systems.perturbed`); gene networks and Boolean models without a gene,
which it has not. Real: dendritic cells with LPS and with PAM in the 15 genes of both sets, and
neural differentiation of two species, each once as the condition. That species is the condition
means that everything in which the cell lines differ counts as its effect.

Half-way between where the expected frame and the network put each cell is what
`pipeline.interpolate` gives. The rule that makes the frame, and half-way, were chosen on the first
12 and 24 of the families, gene networks of seed 0, Boolean models with their second gene and the
real pairs; the others are the second table.

W1 in five principal components of what is shown, over that of the control as it is; the geometric
mean over snapshots whose control is at least 1.5 times as far as other cells of the snapshot are,
and over the others by themselves.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cellmnn_fm import CellMNNModel, CellMNNPipeline
from cellmnn_fm.data.boolean_networks import BooleanNetwork
from cellmnn_fm.data.gene_networks import GeneNetwork
from cellmnn_fm.data.simulated_systems import draw_system, perturbed
from cellmnn_fm.data.time_course import TimeCourse, TimeScale
from cellmnn_fm.dynamics.snapshots import Dynamics, blended, frame_alone, mixture
from cellmnn_fm.evaluation.metrics import ot_interpolate, random_halves, wasserstein1
from cellmnn_fm.training.adaptation import adapt, adapt_beside
from studies.data_sets import DATA, Data
from studies.doubt import component_axes
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

RESULTS = Results("conditions")
CELLS, TIMES, DIMS = 120, 6, 5
DIFFERENT = 1.5  # W1 of the control over that of other cells of the snapshot
FAMILY_PAIRS, NETWORK_SEEDS = 40, (0, 1)
BOOLEAN = ("mCAD", "BF", "BFC", "HSC", "GSD", "TF")
SOURCES = ("families", "gene networks", "Boolean models", "real")
REAL = {
    "PAM beside LPS": ("dendritic_lps", "dendritic_pam"),
    "LPS beside PAM": ("dendritic_pam", "dendritic_lps"),
    "cynomolgus beside human": ("ipsc_neural_human", "ipsc_neural_cynomolgus"),
    "human beside cynomolgus": ("ipsc_neural_cynomolgus", "ipsc_neural_human"),
    "gorilla beside human": ("ipsc_neural_human", "ipsc_neural_gorilla"),
    "human beside gorilla": ("ipsc_neural_gorilla", "ipsc_neural_human"),
}
METHODS = (
    "control and its mean shift",
    "condition alone, OT-Interpolate",
    "condition alone, cellmnn-simulated",
    "expected frame",
    "network",
    "cellmnn-conditions, half-way",
)


class Pair(NamedTuple):
    """A control and a condition at the same times, in the same genes."""

    times: NDArray  # (times,)
    control: list[NDArray]  # (cells, genes) at each time
    condition: list[NDArray]
    others: list[NDArray] | None = None  # more cells under the condition, where there are any


def main(data: Data = DATA, processes: int = 1) -> None:
    """Run what is missing, and write the tables."""
    keys = [("families", str(seed)) for seed in range(FAMILY_PAIRS)]
    for topology in ("linear", "cyclic", "bifurcating", "trifurcating"):
        keys += [
            ("gene networks", f"{topology} {seed} without G{gene}")
            for seed in NETWORK_SEEDS
            for gene in (1, 2, 4)
        ]
    keys += [
        ("Boolean models", f"{name} without {gene}")
        for name in BOOLEAN
        for gene in BooleanNetwork.named(name).names[1:4]
    ]
    keys += [("real", name) for name in REAL]
    run_cells([Cell(RESULTS, key, judged, (*key, data), 15) for key in keys], processes=processes)
    report()


def judged(source: str, name: str, data: Path) -> dict[str, Any]:
    """W1 of every method at every snapshot that is not shown, for each choice of those that are."""
    warnings.simplefilter("ignore")
    pair, rng = read_pair(source, name, data), np.random.default_rng(0)
    count = len(pair.times)
    rows = []
    for seen in ([count // 2], [1, count - 2] if count > 4 else [0, 2]):
        shown = np.concatenate([*pair.control, *(pair.condition[number] for number in seen)])
        axes = component_axes(shown, DIMS)

        place = partial(_projected, centre=shown.mean(axis=0), axes=axes)
        control, condition = place(pair.control), place(pair.condition)
        predictions = predicted(control, condition, pair.times, seen, rng)
        for number, by_method in predictions.items():
            target = condition[number]
            if pair.others is not None:
                noise = wasserstein1(place(pair.others)[number], target)
            else:  # of halves, as if they were whole: it goes with the root of their size
                noise = wasserstein1(*random_halves(target, rng)) / np.sqrt(2)
            inside = min(seen) < number < max(seen)
            rows.append(
                {
                    "kind": "between" if inside else "beyond",
                    "noise": noise,
                    "control": wasserstein1(control[number], target),
                    **{
                        method: wasserstein1(cells, target, weights)
                        for method, (cells, weights) in by_method.items()
                    },
                }
            )
    return {"rows": rows}


def _projected(snapshots: list[NDArray], centre: NDArray, axes: NDArray) -> list[NDArray]:
    """Of snapshots (cells, genes) the components along `axes` (genes, d), from a `centre`."""
    return [((cells - centre) @ axes).astype(np.float32) for cells in snapshots]


Cloud = tuple[NDArray, NDArray | None]  # cells (cells, d), and their weights (cells,)


def predicted(
    control: list[NDArray],
    condition: list[NDArray],
    times: NDArray,
    seen: list[int],
    rng: np.random.Generator,
) -> dict[int, dict[str, Cloud]]:
    """Snapshots of the condition that are not `seen`, by number and method."""
    beside = TimeCourse(control, times)
    shown = TimeCourse([condition[number] for number in seen], times[seen], least=1)
    scale, base = TimeScale.of(times), bundled("cellmnn-conditions")
    network = Dynamics(adapt_beside(base, shown, beside), scale)
    frame = frame_alone(network)
    alone = None
    if len(seen) > 1:
        alone = Dynamics(adapt(bundled("cellmnn-simulated"), shown), shown.time_scale)
    shift = np.stack([condition[number].mean(0) - control[number].mean(0) for number in seen])
    outcome: dict[int, dict[str, Cloud]] = {}
    for number in set(range(len(times))) - set(seen):
        at, after = float(times[number]), int(np.searchsorted(seen, number))
        shift_then = [np.interp(at, times[seen], column) for column in shift.T]
        moved = (control[number] + np.array(shift_then)).astype(np.float32)
        nearest = condition[seen[min(after, len(seen) - 1)] if after == 0 else seen[after - 1]]
        by_method: dict[str, Cloud] = {
            METHODS[0]: (moved, None),
            METHODS[1]: (nearest, None),
            METHODS[2]: (nearest, None),
        }
        if 0 < after < len(seen):
            before, behind = seen[after - 1], seen[after]
            share = (at - times[before]) / (times[behind] - times[before])
            between = ot_interpolate(condition[before], condition[behind], share, rng)
            assert alone is not None
            by_method[METHODS[1]] = (between, None)
            pushed = mixture(alone, shown, at)
            by_method[METHODS[2]] = (pushed.states, pushed.weights)
        snapshots = [mixture(of_pair, shown, at) for of_pair in (frame, network)]
        snapshots.append(blended(*snapshots))
        for method, snapshot in zip(METHODS[3:], snapshots, strict=True):
            by_method[method] = (snapshot.states, snapshot.weights)
        outcome[number] = by_method
    return outcome


def bundled(name: str) -> CellMNNModel:
    """The network of a pretrained model."""
    return CellMNNPipeline.from_pretrained(name).model


def read_pair(source: str, name: str, data: Path) -> Pair:
    """A pair, simulated or read."""
    if source == "families":
        return family_pair(int(name))
    if source == "real":
        return real_pair(*(data / f"{part}.h5ad" for part in REAL[name]))
    network: GeneNetwork | BooleanNetwork
    of, gene = name.split(" without ")
    if source == "gene networks":
        topology, seed = of.split(" ")
        network = GeneNetwork.make(topology, seed=int(seed))  # type: ignore[arg-type]
        times = 0.8 * np.arange(TIMES)
    else:
        network = BooleanNetwork.named(of)
        times = (np.arange(TIMES) + 0.5) * network.duration / TIMES
    without = network.without(gene)
    simulated = [
        list(which.simulate(tuple(times) if source == "gene networks" else times, CELLS, seed))
        for which, seed in ((network, 0), (without, 50), (without, 51))
    ]
    return Pair(times, *simulated)


def family_pair(seed: int) -> Pair:
    """A system and itself under a condition, which no training drew."""
    for attempt in range(1000):
        rng = np.random.default_rng((seed, attempt, 2_000_000))
        system = draw_system(2_000_000 + 1000 * seed + attempt, int(rng.integers(2, 9)))
        times = np.linspace(0, system.horizon, TIMES)
        with np.errstate(all="ignore"):
            other = perturbed(system, rng)
            drawn = [of.followed(times, CELLS, rng).states for of in (system, other, other)]
        if all(map(_is_seen, drawn)):
            return Pair(times, *map(list, drawn))
    raise AssertionError("no system that stays where it can be seen")


def _is_seen(x: NDArray) -> bool:
    """Whether no cell of `x` (times, cells, variables) runs away, and no snapshot is a point."""
    if not np.isfinite(x).all() or np.abs(x).max() > 20 * x.std():
        return False
    return x.std(axis=1).mean(axis=-1).min() > 0.02 * x.std(axis=(0, 1)).mean()


def real_pair(control: Path, condition: Path) -> Pair:
    """Two files in the genes that both have, at the times that both have."""
    files = [anndata.read_h5ad(file) for file in (control, condition)]
    genes = files[0].var_names.intersection(files[1].var_names)
    times = np.intersect1d(*(file.obs["time"].unique() for file in files))
    snapshots = [
        [file[file.obs["time"] == time, genes].to_df().to_numpy() for time in times]
        for file in files
    ]
    return Pair(times, *snapshots)


def report() -> None:
    """Write the tables, and the figure."""
    rows = [
        {"source": source, "chosen on": _chosen_on(source, name), **row}
        for (source, name), result in RESULTS.read().items()
        for row in result["rows"]
    ]
    for row in rows:
        row["differs"] = row["control"] >= DIFFERENT * row["noise"]
    kinds = {
        "Snapshots that differ from the control": lambda row: row["differs"],
        "Of these, those on which nothing was chosen": lambda row: (
            row["differs"] and not row["chosen on"]
        ),
        "Snapshots that do not differ": lambda row: not row["differs"],
    }
    parts = [f"{title}:\n\n{_table(list(filter(which, rows)))}" for title, which in kinds.items()]
    RESULTS.show("\n\n".join(parts))
    RESULTS.draw(_figure([row for row in rows if row["differs"]]))


def _chosen_on(source: str, name: str) -> bool:
    """Whether a pair was looked at before the rules were settled."""
    if source == "families":
        return int(name) < 24
    if source == "gene networks":
        return " 0 without" in name
    if source == "Boolean models":
        of, gene = name.split(" without ")
        return gene == BooleanNetwork.named(of).names[1]
    return True


def _ratios(rows: list[dict[str, Any]], source: str, kind: str, method: str) -> NDArray:
    """W1 over that of the control (snapshots,)."""
    return np.array(
        [
            row[method] / row["control"]
            for row in rows
            if row["source"] == source and row["kind"] == kind
        ]
    )


def _table(rows: list[dict[str, Any]]) -> str:
    """Geometric means, by method; how many snapshots."""
    columns = [(source, kind) for source in SOURCES for kind in ("between", "beyond")]
    columns = [which for which in columns if len(_ratios(rows, *which, METHODS[0]))]
    lines = [
        [
            method,
            *(f"{np.exp(np.log(_ratios(rows, *which, method)).mean()):.2f}" for which in columns),
        ]
        for method in METHODS
    ]
    lines.append(["snapshots", *(f"{len(_ratios(rows, *which, METHODS[0]))}" for which in columns)])
    return markdown(["W1 over the control's", *(", ".join(which) for which in columns)], lines)


def _figure(rows: list[dict[str, Any]]) -> Figure:
    """The first table, with intervals of resampled snapshots (90 %)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    colors = ("0.75", "0.55", "#56b4e9", "#e69f00", "#cc79a7", "#0072b2")
    rng = np.random.default_rng(0)
    for axis, kind in zip(axes, ("between", "beyond"), strict=True):
        for number, source in enumerate(SOURCES):
            for offset, (method, color) in enumerate(zip(METHODS, colors, strict=True)):
                logs = np.log(_ratios(rows, source, kind, method))
                drawn = rng.choice(logs, (1000, len(logs))).mean(axis=1)
                low, high = np.exp(np.quantile(drawn, [0.05, 0.95]))
                y = -number + 0.12 * (2.5 - offset)
                axis.plot([low, high], [y, y], color=color, lw=1.2)
                label = method if number == 0 else None
                axis.plot(np.exp(logs.mean()), y, "o", ms=4.5, color=color, label=label)
        axis.axvline(1, color="0.7", lw=0.8, zorder=0)
        axis.set(xscale="log", title=f"{kind} the times of the condition")
        axis.set_xticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("W1 over that of the control")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks([-number for number in range(len(SOURCES))], SOURCES)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    typer.run(main)
