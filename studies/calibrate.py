"""How far predicted means are off on unseen data sets: cellmnn_fm/questions/calibration.json.

    python -m studies.calibrate    # 20 minutes where bases are there; goes on where it stopped

For every group of data sets that share cells or a process, every interior time is predicted from
the others: by a base that never saw the group (made if it is not in --bases), as it is and
fine-tuned, by fits from scratch, and half-way between one of these and the base. What is kept is
the error of the mean over what is expected of it, see
cellmnn_fm.questions.uncertainty.MeanRegion. The table says how often regions hold the
measured mean when they are calibrated on the other groups.

The same is done for the last time of every set, with the default damping: by `cellmnn-simulated`,
which has seen no real data and stands for bases that have not seen a set, and by fits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, get_args

import anndata
import numpy as np
import typer
import yaml

from cellmnn_fm import CellMNNModel, CellMNNPipeline, InputError
from cellmnn_fm.data.latent_space import SpaceOptions
from cellmnn_fm.data.options import QuestionReading
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.dynamics.snapshots import Dynamics, blended, interpolate
from cellmnn_fm.evaluation.candidates import fit_preset
from cellmnn_fm.evaluation.folds import (
    MIN_HELD_OUT_CELLS,
    Fold,
    held_out_fold,
    held_out_times,
)
from cellmnn_fm.fitted.record import Recipe
from cellmnn_fm.questions.uncertainty import CALIBRATION_FILE, expected_error, quantile
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.finetuning import DEFAULT_STEPS, finetune, finetuning_config
from pretraining.build_corpus import GENES

from .bases import BASE_CONFIG, for_missing_groups
from .data_sets import DATA, TIME_KEYS, Data, groups_of
from .harness import Cell, run_cells
from .results import Results
from .tables import markdown

RESULTS = Results("calibration")
BEYOND = Results("calibration_beyond")
LEVELS = (0.5, 0.8, 0.9)
MINUTES = 1  # a group, where its base is there


def main(
    data: Data = DATA,
    bases: Annotated[Path, typer.Option(help="Of studies.leave_group_out.")] = Path(
        "bases/aligned"
    ),
) -> None:
    """Measure the groups that have no result yet, then write the calibration and its table."""
    settings = yaml.safe_load(BASE_CONFIG.read_text())
    for group, _ in for_missing_groups(
        RESULTS, data, bases, settings, errors_of, mode="aligned", minutes=MINUTES
    ):
        print(group, flush=True)
    groups = {group: outcome for (group,), outcome in RESULTS.read().items()}
    recipes = {
        recipe: {
            group: [error for by_recipe in by_set.values() for error in by_recipe.get(recipe, [])]
            for group, by_set in groups.items()
        }
        for recipe in get_args(Recipe)
    }
    of_sets = groups_of(data)
    cells = [
        Cell(BEYOND, (name,), errors_beyond, (name, data / f"{name}.h5ad"), 8) for name in of_sets
    ]
    beyond: dict[str, dict[str, list[float]]] = {"zero_shot": {}, "scratch": {}, "sliced": {}}
    for name, outcome in zip(of_sets, run_cells(cells), strict=True):
        for recipe, by_group in beyond.items():
            if recipe in outcome:
                by_group.setdefault(of_sets[name], []).append(outcome[recipe])
    CALIBRATION_FILE.write_text(json.dumps({"errors": recipes, "beyond": beyond}, indent=1))
    report(RESULTS, recipes)
    report(BEYOND, beyond)


# ---------------------------------------------------------------------------------------------
# One data set


def errors_of(name: str, file: Path, folder: Path) -> dict[str, Any]:
    """Errors of the mean over what is expected of them, by recipe: one for each left-out time."""
    adata, base = anndata.read_h5ad(file), CellMNNPipeline.from_pretrained(folder)
    own_space = SpaceOptions()
    aligned = SpaceOptions(base.foundation.subspace_mode, base.foundation.shared, GENES)
    cell_times = read_times(adata, TIME_KEYS.get(name, "time"))

    def from_base(fold: Fold) -> CellMNNModel:
        return adapt(base.model, fold.training)

    fits: dict[Recipe, tuple[SpaceOptions, list[Callable[[Fold], CellMNNModel]]]] = {
        "zero_shot": (aligned, [from_base]),
        "fine_tuned": (aligned, [lambda fold: fine_tuned(base.model, fold)]),
        "scratch": (own_space, [lambda fold: fit_preset("default")(fold, 0)[0].model]),
        "sliced": (own_space, [lambda fold: fit_preset("sliced")(fold, 0)[0].model]),
        "blend": (aligned, [from_base, lambda fold: fit_preset("sliced")(fold, 0)[0].model]),
    }
    return {
        recipe: [
            relative_error(adata, cell_times, left_out, options, models)
            for left_out in held_out_times(cell_times)
        ]
        for recipe, (options, models) in fits.items()
    }


def fine_tuned(base: CellMNNModel, fold: Fold) -> CellMNNModel:
    """The base after the default fine-tuning."""
    courses = {"course": fold.training}
    return finetune(base, courses, training=finetuning_config(DEFAULT_STEPS)).model


def relative_error(
    adata: anndata.AnnData,
    cell_times: np.ndarray,
    at: float,
    options: SpaceOptions,
    fits: Sequence[Callable[[Fold], CellMNNModel]],
) -> float:
    """Strict: neither components nor scales, nor the fit, have seen the time."""
    fold = held_out_fold(read_source(adata), cell_times, at, options, latent_dim=None, n_dims=5)(0)
    course = fold.training
    scale = course.time_scale
    predicted = reduce(
        blended, [interpolate(Dynamics(fit(fold), scale), course, at) for fit in fits]
    )
    error = predicted.weights @ predicted.states - fold.truth.mean(axis=0)
    expected = expected_error(course, at)
    assert expected is not None
    return float(np.linalg.norm(error) / expected)


def errors_beyond(name: str, file: Path) -> dict[str, float]:
    """The error of the mean of the last time over what is expected of it, by recipe."""
    warnings.simplefilter("ignore")
    adata, key = anndata.read_h5ad(file), TIME_KEYS.get(name, "time")
    times = read_times(adata, key)
    last = float(times.max())
    if len(np.unique(times)) < 3 or (times == last).sum() < MIN_HELD_OUT_CELLS:
        raise InputError("course", "3 times and a last one of 15 cells", name, "take another")
    seen, truth = adata[times < last].copy(), adata[times == last].copy()
    base = CellMNNPipeline.from_pretrained("cellmnn-simulated")
    how: dict[str, Any] = {"time_key": key, "verdict": False}
    cells = {
        "zero_shot": base.cells(seen, time_key=key),
        "scratch": CellMNNPipeline().fit(seen, **how).cells(seen),
        "sliced": CellMNNPipeline().fit(seen, preset="sliced", **how).cells(seen),
    }
    found = {}
    for recipe, of in cells.items():
        predicted = CellMNNPipeline(of.fitted).interpolate(of, last, two_sided=False)
        mean = predicted.obs["weight"].to_numpy() @ predicted.obsm["X_cellmnn"]
        measured = of.fitted.cells(truth, QuestionReading(time_key=key)).states.mean(axis=0)
        dims = len(measured)  # others of a model are padding
        expected = expected_error(of.course, last)
        assert expected is not None
        found[recipe] = float(np.linalg.norm(mean[:dims] - measured) / expected)
    return found


# ---------------------------------------------------------------------------------------------
# All groups


def report(results: Results, recipes: dict[str, dict[str, list[float]]]) -> None:
    """Print how often regions hold, each group with those of the others, and write it beside."""
    rows = []
    for recipe, groups in recipes.items():
        everything = np.concatenate([np.array(errors) for errors in groups.values()])
        row = [recipe.replace("_", " "), str(len(everything)), f"{quantile(everything, 0.9):.2f}"]
        for level in LEVELS:
            held = []
            for group, errors in groups.items():
                others = [error for name in groups if name != group for error in groups[name]]
                held += [error <= quantile(np.array(others), level) for error in errors]
            row.append(f"{np.mean(held):.1%}")
        rows.append(row)
    head = ["model", "left-out times", "factor q at 90 %", *(f"{level:.0%}" for level in LEVELS)]
    results.show(markdown(head, rows))


if __name__ == "__main__":
    typer.run(main)
