r"""Which recipe predicts held-out snapshots best? Settings one at a time, and models combined.

    python -m studies.recipe                      # development sets: 50 minutes on 2 cores
    python -m studies.recipe --split others       # the rest, for what was chosen: 30 minutes
    python -m studies.recipe --split others --only blend

Strict: nothing sees the held-out time. Settings are compared on the development sets of
studies.data_sets, at most three held-out times a set; what is chosen by
them is confirmed on the others. "blend" fits once and scores combinations: positions of the same
cell averaged over models, weights of the two sides, and predictions drawn together or made wider,
by which one sees what W1 rewards. Energy distances are U-statistics, which neither few cells nor a
spread that is too small can lower.

What is in results/recipe_SPLIT.jsonl is not made again.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import anndata
import numpy as np
import torch
import typer
from numpy.typing import NDArray

from cellmnn_fm import CellMNNModel
from cellmnn_fm.data.latent_space import SpaceOptions
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.data.time_course import TimeScale
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from cellmnn_fm.evaluation.folds import Fold, held_out_fold
from cellmnn_fm.evaluation.metrics import ot_interpolate, wasserstein1, with_interval
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.finetuning import finetune, finetuning_config
from cellmnn_fm.training.losses import energy_distance
from cellmnn_fm.training.one_course import train
from pretraining.build_corpus import GENES

from .bases import base_cells, pipeline_of
from .data_sets import DATA, DEVELOPMENT, TIME_KEYS, Data, chosen, groups_of, mixed
from .harness import Cell, run_cells
from .results import Results
from .tables import markdown

Split = Literal["development", "others"]

FOLDS = 3
SEEDS, BLEND_SEEDS = 1, 2
# changes of the model and of the training, from the default preset
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "MMD": ({}, {"distance": "mmd"}),
    "sliced W1": ({}, {"distance": "sliced"}),
    "sliced W1, λ_kin 1": ({}, {"distance": "sliced", "kinetic_weight": 1.0}),
    "sliced W1, λ_kin 10": ({}, {"distance": "sliced", "kinetic_weight": 10.0}),
    "sliced W1, 300 steps": ({}, {"distance": "sliced", "steps": 300}),
    "32 cells": ({}, {"source_cells": 32, "target_cells": 32}),
    "128 cells": ({}, {"source_cells": 128, "target_cells": 128}),
    "256 cells": ({}, {"source_cells": 256, "target_cells": 256}),
    "λ_kin 0.3": ({}, {"kinetic_weight": 0.3}),
    "λ_kin 1": ({}, {"kinetic_weight": 1.0}),
    "λ_kin 10": ({}, {"kinetic_weight": 10.0}),
    "λ_kin 30": ({}, {"kinetic_weight": 30.0}),
    "25 steps": ({}, {"steps": 25}),
    "50 steps": ({}, {"steps": 50}),
    "300 steps": ({}, {"steps": 300}),
    "600 steps": ({}, {"steps": 600}),
    "γ 0": ({}, {"gamma": 0.0}),
    "1 complex pair": ({"num_complex_pairs": 1}, {}),
    "rank 2": ({"rank": 2}, {}),
    "dense": ({"rank": None}, {}),
    "no offset": ({"offset": False}, {}),
    "in the frame": ({"frame": True}, {}),
}


def main(
    data: Data = DATA,
    split: Split = "development",
    only: Annotated[list[str] | None, typer.Option(help="A setting; may be repeated.")] = None,
    bases: Annotated[Path, typer.Option(help="Folder of models.")] = Path("bases"),
    processes: Annotated[int, typer.Option(help="At a time, of one thread each.")] = 2,
) -> None:
    """Run what has no result yet, then print the table."""
    data, aligned = data.resolve(), bases.resolve() / "aligned"
    groups = groups_of(data)
    development = [name for name in groups if name in DEVELOPMENT]
    names = development if split == "development" else [n for n in groups if n not in DEVELOPMENT]
    results = Results(f"recipe_{split}")
    settings = only or [*SETTINGS, "blend"]
    if "blend" in settings:
        run_cells(base_cells(data, aligned, groups, names), processes=processes)
    cells = [
        Cell(results, (name, setting), blends, (data, name, aligned / groups[name]), 60)
        if setting == "blend"
        else Cell(results, (name, setting), fits, (data, name, setting), 8)
        for name in names
        for setting in settings
    ]
    run_cells(cells, processes=processes)
    report(results)


# ---------------------------------------------------------------------------------------------
# One data set


def folds(data: Path, name: str, options: SpaceOptions, latent_dim: int | None) -> list:
    """For each held-out time, the fold as a function of the seed."""
    adata = anndata.read_h5ad(data / f"{name}.h5ad")
    cell_times = read_times(adata, TIME_KEYS.get(name, "time"))
    source = read_source(adata)
    make = partial(held_out_fold, source, cell_times, options=options, n_dims=5)
    return [make(left_out, latent_dim=latent_dim) for left_out in chosen(cell_times, FOLDS)]


def fits(data: Path, name: str, setting: str) -> dict[str, Any]:
    """Fits with one setting."""
    warnings.simplefilter("ignore")  # of small snapshots
    scores = []
    for fold_of in folds(data, name, SpaceOptions(), 5):
        for seed in range(SEEDS):
            fold = fold_of(seed)
            model, time_scale = fitted(fold, setting, seed)
            states, weights = pushed(model, time_scale, fold)
            scores.append(score(fold, seed, setting, states, weights))
            if setting == "default":
                scores.append(straight_lines(fold, seed))
    return {"dataset": name, "scores": scores}


def fitted(fold: Fold, setting: str, seed: int) -> tuple[CellMNNModel, TimeScale]:
    """A fit from scratch with one setting."""
    of_model, of_training = SETTINGS[setting]
    framed = bool(of_model.get("frame"))
    config, training = preset_configs("default", fold.training, frame=framed)
    others = {key: value for key, value in of_model.items() if key != "frame"}
    if (rank := others.get("rank")) is not None:
        others["rank"] = min(rank, fold.training.latent_dim)
    pairs = others.get("num_complex_pairs", 0)
    if 2 * pairs > fold.training.latent_dim:
        others["num_complex_pairs"] = fold.training.latent_dim // 2
    trained = train(
        fold.training, config.replaced(**others), replace(training, **of_training), seed=seed
    )
    return trained.model, trained.time_scale


def pushed(model: CellMNNModel, time_scale: TimeScale, fold: Fold) -> tuple[NDArray, NDArray]:
    """Both sides, in the components that W1 is taken in."""
    predicted = interpolate(Dynamics(model, time_scale), fold.around, fold.time)
    return fold.scored_in(predicted.states), predicted.weights


def score(
    fold: Fold, seed: int, setting: str, states: NDArray, weights: NDArray | None
) -> dict[str, Any]:
    """W1 and energy distance."""
    truth = fold.scored_in(fold.truth)
    masses = np.full(len(states), 1 / len(states)) if weights is None else weights
    energy = energy_distance(
        *(torch.as_tensor(values).double() for values in (states, truth, masses))
    )
    return {
        "setting": setting,
        "time": fold.time,
        "seed": seed,
        "w1": wasserstein1(states, truth, masses),
        "energy": float(energy),
    }


def straight_lines(fold: Fold, seed: int) -> dict[str, Any]:
    """OT-Interpolate."""
    rng = np.random.default_rng((seed, 1))
    earlier, later = fold.scored_around()
    straight = ot_interpolate(earlier, later, fold.share, rng)
    return score(fold, seed, "OT-Interpolate", straight, None)


def blends(data: Path, name: str, base_folder: Path) -> dict[str, Any]:
    """Combinations of a base that never saw the data set and of fits from scratch."""
    warnings.simplefilter("ignore")
    pipeline = pipeline_of(base_folder)
    aligned = SpaceOptions("aligned", pipeline.foundation.shared, GENES)
    scores = []
    for fold_of in folds(data, name, aligned, None):
        for seed in range(BLEND_SEEDS):
            fold = fold_of(seed)
            course, weights = fold.training, None
            tuned = finetune(
                pipeline.model, {name: course}, training=finetuning_config(), seed=seed
            ).model
            states = {}
            for label, model in (("zero", adapt(pipeline.model, course)), ("tuned", tuned)):
                states[label], weights = pushed(model, course.time_scale, fold)
            for member in range(3):
                model, time_scale = fitted(fold, "sliced W1", 10 * seed + member)
                states[f"fit {member}"], _ = pushed(model, time_scale, fold)
            by_energy, _ = pushed(*fitted(fold, "default", 10 * seed), fold)
            assert weights is not None
            members = [states[f"fit {member}"] for member in range(3)]
            several = np.mean(members, axis=0)
            variants: dict[str, tuple[NDArray, NDArray]] = {
                "fit, sliced W1": (members[0], weights),
                "fit, energy distance": (by_energy, weights),
                "mean of 3 fits": (several, weights),
                "cells of 3 fits": (np.concatenate(members), np.tile(weights / 3, 3)),
                "base, zero-shot": (states["zero"], weights),
                "base, fine-tuned": (states["tuned"], weights),
                "zero-shot, 0.5 of a fit by energy": ((states["zero"] + by_energy) / 2, weights),
            }
            for share in (0.25, 0.5, 0.75):
                blend = (1 - share) * states["zero"] + share * members[0]
                variants[f"zero-shot, {share:g} of a fit"] = blend, weights
            variants |= {
                "zero-shot, 0.5 of 3 fits": ((states["zero"] + several) / 2, weights),
                "fine-tuned, 0.5 of a fit": ((states["tuned"] + members[0]) / 2, weights),
                "blend": ((states["zero"] + members[0]) / 2, weights),
            }
            blend = variants["blend"][0]
            first = len(fold.around.snapshots[0])
            share = fold.share
            sharper = share**2 / (share**2 + (1 - share) ** 2)
            centre = np.average(blend, axis=0, weights=weights)
            variants |= {
                "blend, sides weigh the same": mixed(blend[:first], blend[first:], 0.5),
                "blend, nearer side weighs more": mixed(blend[:first], blend[first:], sharper),
                "blend, 0.9 of its spread": (centre + 0.9 * (blend - centre), weights),
                "blend, 1.1 of its spread": (centre + 1.1 * (blend - centre), weights),
            }
            scores += [score(fold, seed, label, *variant) for label, variant in variants.items()]
            scores.append(straight_lines(fold, seed))
    return {"dataset": name, "scores": scores}


# ---------------------------------------------------------------------------------------------
# All of them


def report(results: Results) -> None:
    """Means over data sets of both measures, as ratios to OT-Interpolate."""
    outcomes = [outcome for outcome in results.read().values() if "scores" in outcome]
    split = results.name.removeprefix("recipe_")
    lines = [f"{split} sets, strict, two-sided; mean over data sets, 95 % intervals", ""]
    for title, blended in (("one fit, one setting changed", False), ("combined", True)):
        labels = {
            score["setting"]: None
            for outcome in outcomes
            for score in outcome["scores"]
            if is_blended(outcome) == blended
        }
        labels.pop("OT-Interpolate", None)
        if not labels:
            continue
        start = "fit, sliced W1" if blended else "default"
        rows = []
        for label in labels:
            w1, energy = (by_set(outcomes, label, key, blended) for key in ("w1", "energy"))
            baseline = by_set(outcomes, "OT-Interpolate", "w1", blended)
            first = by_set(outcomes, start, "w1", blended)
            in_common = sorted(w1.keys() & baseline.keys() & first.keys())
            over = [w1[name] / first[name] for name in in_common]
            rows.append(
                [
                    label,
                    with_interval([w1[name] / baseline[name] for name in in_common]),
                    with_interval(over) if label != start else "1",
                    f"{np.mean([energy[name] for name in in_common]):.4f}",
                ]
            )
        header = [title, "W1 over OT-Interpolate", f"over {start}", "energy distance"]
        lines += [markdown(header, rows), ""]
    results.show("\n".join(lines))


def is_blended(one: dict[str, Any]) -> bool:
    """Whether it is a file of :func:`blends`."""
    return one["scores"][0]["setting"] not in SETTINGS


def by_set(found: list[dict], label: str, key: str, blended: bool) -> dict[str, float]:
    """Mean over times and seeds."""
    return {
        outcome["dataset"]: float(
            np.mean([s[key] for s in outcome["scores"] if s["setting"] == label])
        )
        for outcome in found
        if is_blended(outcome) == blended and any(s["setting"] == label for s in outcome["scores"])
    }


if __name__ == "__main__":
    typer.run(main)
