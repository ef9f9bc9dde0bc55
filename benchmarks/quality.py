r"""Time and memory to quality: W1 on a held-out time against seconds of training.

    python -m benchmarks.quality            # two sets, about 15 minutes on 2 cores
    python -m benchmarks.quality --slow     # scDiffEq too, half an hour more

Every method has a process of its own, so that its memory can be told, and one thread; seconds are
of the processor and without the evaluations on the way. How long a method takes to its own final W1
is when it first came within 1 % of it and stayed there; beside it how long ours took to be as
close, at each number of steps a fit of its own. Two-sided where a method can. Strict.

Results: results/quality.jsonl, .md and .png.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anndata
import matplotlib.pyplot as plt
import typer

from cellmnn_fm.data.latent_space import SpaceOptions
from cellmnn_fm.data.reading import read_source
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.evaluation.candidates import fit_preset
from cellmnn_fm.evaluation.folds import Fold, held_out_fold
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train
from pretraining.build_corpus import GENES
from studies.bases import base_cells, pipeline_of
from studies.data_sets import Data, chosen, groups_of, times_of
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

from .comparison import LABELS
from .interpolation import OWN, SECONDS, fitted, pushed_by_models, pushed_by_peer
from .peers import PACKAGES, Push, fit_peer, installed
from .runaway import DATA

RESULTS = Results("quality")
SETS = ("embryoid_body_pca", "hesc_endoderm")
OURS = ("untrained", "zero_shot", "fine_tuned", "blend", "default")
PEERS = ("paper", "ot_cfm", "i_cfm", "sb_cfm", "mioflow", "scdiffeq")
STEPS = (10, 25, 50, 100, 150)
CHECKS = 12  # of the published setting, evenly spread
CLOSE = 1.01


def main(
    data: Data = DATA,
    bases: Annotated[Path, typer.Option(help="Folder of models.")] = Path("bases"),
    slow: Annotated[bool, typer.Option(help="scDiffEq too.")] = False,
    processes: Annotated[int, typer.Option(help="At a time, of one thread each.")] = 2,
) -> None:
    """Run what has no result yet, then print table and figure."""
    data, aligned = data.resolve(), bases.resolve() / "aligned"
    groups = groups_of(data)
    run_cells(base_cells(data, aligned, groups, SETS), processes=processes)
    methods = [
        method
        for method in (*OURS, *PEERS)
        if (method not in PACKAGES or method in installed()) and (slow or method != "scdiffeq")
    ]
    cells = [
        Cell(
            RESULTS,
            (name, method),
            follow,
            (data / f"{name}.h5ad", aligned / groups[name], method),
            SECONDS[method] * (3 if "cfm" in method else 1) + 5,
        )
        for name in SETS
        for method in methods
    ]
    run_cells(cells, processes=processes, apart=True)
    report()


# ---------------------------------------------------------------------------------------------
# One method


class Trace:
    """W1 against seconds of the processor, evaluations left out."""

    def __init__(self, fold: Fold):
        self.fold, self.points = fold, []
        self._left_out, self._started = 0.0, time.process_time()

    def note(self, steps: int, found: dict[str, tuple]) -> None:
        """Keep how close a prediction is."""
        now = time.process_time()
        states, weights = found.get("two_sided") or found["forward"]
        seconds = now - self._started - self._left_out
        w1 = self.fold.w1(states, weights)
        self.points.append({"steps": steps, "seconds": seconds, "w1": w1})
        self._left_out += time.process_time() - now


def follow(file: Path, base: Path, method: str) -> dict[str, Any]:
    """The trace of a method on the first time that can be held out."""
    warnings.simplefilter("ignore")
    cell_times = times_of(file)
    pipeline, options, latent_dim = None, SpaceOptions(), 5
    if method not in OWN:
        pipeline = pipeline_of(base)
        options = SpaceOptions("aligned", pipeline.foundation.shared, GENES)
        latent_dim = None
    left_out = chosen(cell_times, 1)[0]
    source = read_source(anndata.read_h5ad(file))
    fold = held_out_fold(source, cell_times, left_out, options, latent_dim=latent_dim, n_dims=5)(0)
    trace = Trace(fold)
    if method == "default":
        for steps in STEPS:
            trace = add(trace, follow_fit(fold, steps))
    elif method == "paper":
        follow_paper(fold, trace)
    elif method in PACKAGES:

        def observe(steps: int, push: Push) -> None:
            # the last one is noted below
            trace.note(steps, pushed_by_peer(push, fold, method))

        push = fit_peer(method, fold.training, 0, observe)
        if not trace.points:
            trace.note(0, pushed_by_peer(push, fold, method))
    else:
        trace.note(0, pushed_by_models(fitted(method, fold, pipeline, file.stem, 0), fold))
    return {"dataset": file.stem, "method": method, "time": left_out, "trace": trace.points}


def follow_fit(fold: Fold, steps: int) -> Trace:
    """A default fit of so many steps, from its start."""
    trace = Trace(fold)
    dynamics, _ = fit_preset("default", steps=steps)(fold, 0)
    trace.note(steps, pushed_by_models([dynamics], fold))
    return trace


def add(trace: Trace, other: Trace) -> Trace:
    """The points of both."""
    trace.points.extend(other.points)
    return trace


def follow_paper(fold: Fold, trace: Trace) -> None:
    """The published setting, looked at on the way."""
    config, training = preset_configs("paper", fold.training)
    every = training.steps // CHECKS
    taken = 0

    def look(dynamics: Dynamics) -> float:
        nonlocal taken
        taken += every
        # from the snapshot before alone, as it is published
        predicted = pushed_by_models([dynamics], fold)
        trace.note(taken, {"forward": predicted["forward"]})
        return 0.0

    train(fold.training, config, replace(training, check_every=every, patience=0), validate=look)


# ---------------------------------------------------------------------------------------------
# All of them


def report() -> None:
    """Table by data set and method, and the figure of all traces."""
    outcomes = list(RESULTS.read().values())
    rows = []
    figure, axes = plt.subplots(
        1, len(SETS), figsize=(4.2 * len(SETS), 3.6), layout="constrained", squeeze=False
    )
    for name, ax in zip(SETS, axes[0], strict=True):
        by_method = {
            outcome["method"]: outcome for outcome in outcomes if outcome["dataset"] == name
        }
        ours = [
            point for method in OURS if method in by_method for point in by_method[method]["trace"]
        ]
        for method in [method for method in (*OURS, *PEERS) if method in by_method]:
            outcome = by_method[method]
            points = outcome["trace"]
            final = points[-1]["w1"]
            took = settled(points)
            others = [point["seconds"] for point in ours if point["w1"] <= CLOSE * final]
            as_close = min(others) if others else None
            rows.append(
                [
                    name,
                    LABELS[method],
                    f"{final:.3f}",
                    f"{points[-1]['seconds']:.2f}",
                    f"{took:.2f}",
                    "" if method in OURS else "never" if as_close is None else f"{as_close:.2f}",
                    "" if method in OURS or as_close is None else f"{took / as_close:.0f}",
                    f"{outcome['cell_peak_gb']:.2f}",
                ]
            )
            seconds, w1 = ([max(point[key], 1e-2) for point in points] for key in ("seconds", "w1"))
            style = "o-" if method in OURS else "s--"
            ax.plot(seconds, w1, style, ms=3, lw=1, label=LABELS[method])
        ax.set(xscale="log", xlabel="seconds, one core", ylabel="W1, held-out time", title=name)
    axes[0][-1].legend(frameon=False, fontsize=6)
    header = [
        *("data set", "method", "final W1", "s in all", "s to its final W1"),
        *("s ours to the same", "times faster", "GB"),
    ]
    RESULTS.show(markdown(header, rows))
    RESULTS.draw(figure)
    plt.close(figure)


def settled(points: list[dict[str, float]]) -> float:
    """Seconds from which on W1 stays within 1 % of its last value, or below."""
    final = points[-1]["w1"]
    far = [index for index, point in enumerate(points) if point["w1"] > CLOSE * final]
    return points[far[-1] + 1 if far else 0]["seconds"]


if __name__ == "__main__":
    typer.run(main)
