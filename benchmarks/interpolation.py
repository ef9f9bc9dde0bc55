r"""Held-out snapshots, ours beside the methods of others: who is closest, and who is fastest.

    python -m benchmarks.interpolation --tier quick       # 2 sets, 1 time: 10 minutes on 2 cores
    python -m benchmarks.interpolation                    # all sets, 2 times, 1 seed: 2 hours
    python -m benchmarks.interpolation --tier full        # all times, 3 seeds: days
    python -m benchmarks.interpolation --protocol published
    python -m benchmarks.interpolation --only ot_cfm --only default    # some methods
    python -m benchmarks.interpolation --tables           # tables and figure of what is there

Of a data set, interior times are held out, each in turn (of many the first and the last, but in the
full tier); every method is fitted to the others and predicts it. Under "strict" nothing has seen
the held-out time, components and scales included. Methods of others (benchmarks.peers) run if their
packages are installed. Bases never saw a cell of the group of data sets that they are evaluated on;
they are made once, in --bases, 1 minute each.

W1 is exact, in 5 z-scored components of the cells that are not held out, at most 1,000 cells a
snapshot. A prediction from both neighbouring snapshots has the cells of two, and W1 falls with the
number of cells that stand for a distribution: "as many cells" is a draw of as many as the previous
snapshot has, which is what "forward" has. Seconds are of the processor, one thread.

What is in results/interpolation_PROTOCOL_TIER.jsonl is not made again.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import anndata
import numpy as np
import typer

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.data.latent_space import SpaceOptions
from cellmnn_fm.data.options import Protocol, Start
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.dynamics.snapshots import Dynamics, blended, interpolate
from cellmnn_fm.evaluation.candidates import fit_preset
from cellmnn_fm.evaluation.folds import Fold, held_out_fold
from cellmnn_fm.evaluation.metrics import ot_interpolate, random_halves, wasserstein1
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.finetuning import finetune, finetuning_config
from pretraining.build_corpus import GENES, read_list
from studies.bases import base_cells, pipeline_of
from studies.data_sets import Data, Prediction, chosen, groups_of, mixed, times_of
from studies.harness import Cell, console, run_cells
from studies.joint_against_separate import joint_base
from studies.results import Results

from .comparison import report
from .fits import TIME_KEYS
from .peers import PACKAGES, Push, fit_peer, index_of, installed
from .runaway import DATA

Tier = Literal["quick", "standard", "full"]

QUICK = ("hesc_pca5", "lung_epithelium")
SEEDS = {"quick": 1, "standard": 1, "full": 3}
TIMES = {"quick": 1, "standard": 2, "full": 100}  # held out of a data set, at most
# seconds of a fit on one core, for the estimate; for flow matching, of each pair of snapshots
SECONDS = {
    "baselines": 1,
    "untrained": 0.1,
    "default": 2,
    "sliced": 2,
    "in_frame": 2,
    "paper": 90,
    "zero_shot": 0.3,
    "fine_tuned": 2,
    "blend": 2,
    "joint": 0.3,
    "ot_cfm": 25,
    "i_cfm": 4,
    "sb_cfm": 25,
    "ot_cfm_notebook": 60,
    "mioflow": 90,
    "scdiffeq": 900,
}
# slow to fit: only where asked for, or in the full tier
LATE = ("ot_cfm_notebook", "mioflow", "scdiffeq")
OWN = ("baselines", "untrained", "default", "sliced", "in_frame", "paper", *PACKAGES)


def main(
    data: Data = DATA,
    tier: Tier = "standard",
    protocol: Protocol = "strict",
    only: Annotated[list[str] | None, typer.Option(help="A method; may be repeated.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="A set; may be repeated.")] = None,
    bases: Annotated[Path, typer.Option(help="Folder of models.")] = Path("bases"),
    processes: Annotated[int, typer.Option(help="At a time, of one thread each.")] = 2,
    tables: Annotated[bool, typer.Option(help="Tables of what is there, nothing run.")] = False,
) -> None:
    """Evaluate what has no result yet, then make the tables."""
    results = Results(f"interpolation_{protocol}_{tier}")
    if not tables:
        data = data.resolve()
        catalog = json.loads((data / "catalog.json").read_text())
        every = QUICK if tier == "quick" else [entry["name"] for entry in catalog]
        names = [name for name in every if not dataset or name in dataset]
        there = [name for name in SECONDS if name in installed() or name not in PACKAGES]
        methods = only or [name for name in there if tier == "full" or name not in LATE]
        if unknown := set(methods) - set(there):
            actual = ", ".join(unknown)
            raise InputError(
                "--only", ", ".join(there), actual, "choose one, or install its package"
            )
        groups = groups_of(data)
        aligned = bases.resolve() / "aligned"
        if {"zero_shot", "fine_tuned", "blend"} & set(methods):
            run_cells(base_cells(data, aligned, groups, names), processes=processes)
        if "joint" in methods:
            run_cells(joint_cells(data, bases.resolve() / f"joint_{tier}", tier))
        cells = [
            evaluation_cell(data, results, bases.resolve(), groups, name, method, protocol, tier)
            for name in names
            for method in methods
        ]
        run_cells(cells, processes=processes)
    report(results)


def joint_cells(data: Path, folder: Path, tier: Tier) -> list[Cell]:
    """One model of all data sets for the first time that is held out of each, the second, ..."""
    held_out = {
        entry["name"]: chosen(times_of(data / entry["file"]), TIMES[tier]) for entry in read_list()
    }
    cells = []
    for turn in range(max(map(len, held_out.values()))):
        left_out = {
            name: times[turn] if turn < len(times) else None for name, times in held_out.items()
        }
        arguments = (data, folder / str(turn), left_out)
        cells.append(Cell(Results("bases", folder), (str(turn),), joint_base, arguments, 60))
    return cells


def evaluation_cell(
    data: Path,
    results: Results,
    bases: Path,
    groups: dict[str, str],
    name: str,
    method: str,
    protocol: Protocol,
    tier: Tier,
) -> Cell:
    """A method on a data set."""
    file = data / f"{name}.h5ad"
    cell_times = times_of(file)
    held_out = chosen(cell_times, TIMES[tier])
    pairs = len(np.unique(cell_times)) - 2 if "cfm" in method else 1
    if method == "joint":
        models = [bases / f"joint_{tier}" / str(turn) for turn in range(len(held_out))]
    else:
        models = [bases / "aligned" / groups[name]] * len(held_out)
    return Cell(
        results,
        (name, method),
        evaluate_method,
        (file, dict(zip(held_out, models, strict=True)), method, protocol, SEEDS[tier]),
        seconds=SECONDS[method] * len(held_out) * pairs * SEEDS[tier],
    )


# ---------------------------------------------------------------------------------------------
# One method on one data set


def evaluate_method(
    file: Path, bases: dict[float, Path], method: str, protocol: Protocol, seeds: int
) -> dict[str, Any]:
    """W1 and seconds by kind of prediction, at held-out times, each of which has a base."""
    warnings.simplefilter("ignore")  # of packages of others; and of two snapshots that teach none
    adata = anndata.read_h5ad(file)
    cell_times = read_times(adata, TIME_KEYS.get(file.stem, "time"))
    source = read_source(adata)
    scores = []
    for left_out, base in bases.items():
        pipeline, options, latent_dim = None, SpaceOptions(), 5
        if method not in OWN:
            pipeline = pipeline_of(base)
            if method == "joint" and file.stem not in pipeline.foundation.datasets:
                raise InputError("joint", "a set with genes", file.stem, "it is in no corpus")
            options = SpaceOptions("aligned", pipeline.foundation.shared, GENES)
            latent_dim = None
        fold_of = held_out_fold(
            source,
            cell_times,
            left_out,
            options,
            latent_dim=latent_dim,
            n_dims=5,
            protocol=protocol,
        )
        for seed in range(seeds):
            for score in scores_of(fold_of(seed), method, pipeline, file.stem, seed):
                scores.append({"time": left_out, "seed": seed, **score})
    return {"dataset": file.stem, "method": method, "protocol": protocol, "scores": scores}


def scores_of(
    fold: Fold, method: str, pipeline: CellMNNPipeline | None, name: str, seed: int
) -> list[dict[str, Any]]:
    """Of one fold: name, kind, W1, cells and seconds of each prediction."""
    rng = np.random.default_rng((seed, 2))
    if method == "baselines":
        return baselines(fold, seed)
    started = time.process_time()
    if method in PACKAGES:
        predicted = pushed_by_peer(fit_peer(method, fold.training, seed), fold, method)
    else:
        predicted = pushed_by_models(fitted(method, fold, pipeline, name, seed), fold)
    seconds = time.process_time() - started
    if "two_sided" in predicted:
        states, weights = predicted["two_sided"]
        size = len(fold.around.snapshots[0])
        predicted["as_many_cells"] = rng.choice(states, size, replace=False, p=weights), None
    return [
        {
            "method": method,
            "kind": kind,
            "w1": fold.w1(states, weights),
            "cells": len(states),
            "seconds": seconds,
        }
        for kind, (states, weights) in predicted.items()
    ]


def baselines(fold: Fold, seed: int) -> list[dict[str, Any]]:
    """Neighbouring snapshots, straight lines between them, and what sampling alone costs."""
    earlier, later = fold.around.snapshots
    share = fold.share
    rng = np.random.default_rng((seed, 1))
    started = time.process_time()
    forward = ot_interpolate(earlier, later, share, rng)
    seconds = time.process_time() - started
    backward = ot_interpolate(later, earlier, 1 - share, rng)
    predictions: list[tuple[str, str, Prediction]] = [
        ("previous", "forward", (earlier, None)),
        ("next", "forward", (later, None)),
        ("ot_interpolate", "forward", (forward, None)),
        ("ot_interpolate", "two_sided", mixed(forward, backward, share)),
    ]
    rows = [
        {
            "method": name,
            "kind": kind,
            "w1": fold.w1(*prediction),
            "cells": len(prediction[0]),
            "seconds": seconds if name == "ot_interpolate" else 0.0,
        }
        for name, kind, prediction in predictions
    ]
    floor = wasserstein1(*random_halves(fold.scored_in(fold.truth), rng))
    cells = len(fold.truth) // 2
    return [*rows, {"method": "floor", "kind": "", "w1": floor, "cells": cells, "seconds": 0.0}]


def fitted(
    method: str, fold: Fold, pipeline: CellMNNPipeline | None, name: str, seed: int
) -> list[Dynamics]:
    """One of our own ways to a model, or two that are blended."""
    training = fold.training
    if pipeline is None:
        presets: dict[str, Callable] = {
            "untrained": fit_preset("default", True, steps=0),
            "default": fit_preset("default"),
            "sliced": fit_preset("sliced"),
            "in_frame": fit_preset("default", True),
            "paper": fit_preset("paper"),
        }
        return [presets[method](fold, seed)[0]]
    if method == "fine_tuned":
        steps = finetuning_config()
        tuned = finetune(pipeline.model, {name: training}, training=steps, seed=seed)
        return [Dynamics(tuned.model, training.time_scale)]
    # nothing could be learned of a data set with two times
    known = method == "joint" and len(training.times) > 2
    start: Start | int = pipeline.foundation.dataset(name).row if known else "inferred"
    models = [Dynamics(adapt(pipeline.model, training, start), training.time_scale)]
    if method == "blend":
        models.append(fit_preset("sliced")(fold, seed)[0])
    return models


def pushed_by_models(models: Sequence[Dynamics], fold: Fold) -> dict[str, Prediction]:
    """From the snapshot before alone, and from both."""
    predicted = {}
    for kind in ("forward", "two_sided"):
        predictions = [
            interpolate(dynamics, fold.around, fold.time, two_sided=kind == "two_sided")
            for dynamics in models
        ]
        mixture = reduce(blended, predictions)
        predicted[kind] = mixture.states, mixture.weights
    return predicted


def pushed_by_peer(push: Push, fold: Fold, method: str) -> dict[str, Prediction]:
    """As :func:`pushed_by_models`; an SDE has no way back."""
    index = index_of(fold.training, fold.time)
    start, end = (index_of(fold.training, time) for time in fold.around.times)
    forward = push(fold.around.snapshots[0], start, index)
    predicted: dict[str, Prediction] = {"forward": (forward, None)}
    if method != "scdiffeq":
        backward = push(fold.around.snapshots[1], end, index)
        predicted["two_sided"] = mixed(forward, backward, fold.share)
    return predicted


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        console.print(str(error))
        sys.exit(2)
