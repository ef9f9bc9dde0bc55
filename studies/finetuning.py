r"""Does a base pay? Fine-tuned against fitted from scratch, on data sets that it never saw.

    python -m studies.finetuning steps         # steps and seconds to quality
    python -m studies.finetuning small-data    # few cells, few times
    python -m studies.finetuning report        # tables and figures

Each takes half an hour on one core (--part 0/2 and --part 1/2 share it), and goes on where it was
stopped: there is a line in results/ for each group, and bases without a group are kept in
--bases. Everything is strict: of a held-out time nothing is seen, neither by components nor by
scales; the base has seen neither the data set nor any that shares cells with it. W1 is taken in 5
dimensions, at the middle one of the times of a set that can be held out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anndata
import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
import yaml

from cellmnn_fm import CellMNNModel, CellMNNPipeline, InputError
from cellmnn_fm.data.latent_space import SpaceOptions
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from cellmnn_fm.evaluation.folds import Fold, held_out_fold, held_out_times
from cellmnn_fm.evaluation.metrics import ot_interpolate, wasserstein1, with_interval
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.finetuning import DEFAULT_STEPS, finetune, finetuning_config
from cellmnn_fm.training.one_course import train
from pretraining.build_corpus import GENES

from .bases import BASE_CONFIG, for_missing_groups, untrained
from .data_sets import DATA, DEVELOPMENT, TIME_KEYS, Data
from .results import Results

STUDIES = {"steps": Results("finetuning_steps"), "small_data": Results("finetuning_small_data")}
STEPS = (0, 25, 50, 100)
CELLS = (10, 20, 50)
TIMES = (2, 3)
SEED = 0
SCRATCH_STEPS = 150  # of the default preset
DEFAULT = f"full {DEFAULT_STEPS}"

Fit = Callable[[Fold, int], CellMNNModel]

app = typer.Typer(no_args_is_help=True, help=__doc__)
Bases = Annotated[Path, typer.Option(help="Folder of studies.leave_group_out --bases, aligned.")]
Part = Annotated[str, typer.Option(help="I/N: every N-th group from the I-th on.")]


@app.command()
def steps(data: Data = DATA, bases: Bases = Path("bases/aligned"), part: Part = "0/1"):
    """Quality after so many steps, all cells and times."""

    def arms(base: CellMNNModel) -> dict[str, Fit]:
        fits: dict[str, Fit] = {"untrained": frame_alone(base)}
        for count in STEPS:
            fits[f"full {count}"] = fine_tuned(base, count)
            fits[f"scratch {count}"] = from_scratch(count)
        fits["scratch in frame 50"] = from_scratch(50, frame=True)
        for mode in ("lora", "embedding"):
            fits[f"{mode} {DEFAULT_STEPS}"] = fine_tuned(base, DEFAULT_STEPS, mode=mode)
        fits[f"{DEFAULT}, no anchor"] = fine_tuned(base, DEFAULT_STEPS, anchor=0.0)
        return fits

    def outcome(name: str, file: Path, base: CellMNNPipeline) -> dict[str, Any]:
        adata = anndata.read_h5ad(file)
        return {"all": compare(name, adata, base, arms(base.model))}

    for_all_groups("steps", data, bases, part, outcome)


@app.command()
def small_data(data: Data = DATA, bases: Bases = Path("bases/aligned"), part: Part = "0/1"):
    """Quality with few cells in a snapshot, and with few snapshots."""

    def outcome(name: str, file: Path, base: CellMNNPipeline) -> dict[str, Any]:
        adata, outcomes = anndata.read_h5ad(file), {}
        fits: dict[str, Fit] = {
            "untrained": frame_alone(base.model),
            "full 0": fine_tuned(base.model, 0),
            DEFAULT: fine_tuned(base.model, DEFAULT_STEPS),
            f"scratch {SCRATCH_STEPS}": from_scratch(SCRATCH_STEPS),
        }
        for cells in CELLS:
            outcomes[f"{cells} cells"] = compare(name, adata, base, fits, cells=cells)
        for times in TIMES:
            outcomes[f"{times} times"] = compare(name, adata, base, fits, times=times)
        return outcomes

    for_all_groups("small_data", data, bases, part, outcome)


# ---------------------------------------------------------------------------------------------
# What is compared


def fine_tuned(base: CellMNNModel, count: int, **options: Any) -> Fit:
    """A base after so many steps."""

    def fit(fold: Fold, seed: int) -> CellMNNModel:
        training = finetuning_config(count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two snapshots leave nothing to learn from
            courses = {"course": fold.training}
            return finetune(base, courses, training=training, seed=seed, **options).model

    return fit


def from_scratch(count: int, *, frame: bool = False) -> Fit:
    """The default preset with another number of steps."""

    def fit(fold: Fold, seed: int) -> CellMNNModel:
        config, training = preset_configs("default", fold.training, frame=frame)
        return train(fold.training, config, replace(training, steps=count), seed=seed).model

    return fit


def frame_alone(base: CellMNNModel) -> Fit:
    """The base without what it learned."""
    candidate = untrained(base)
    return lambda fold, seed: candidate.fit(fold, seed)[0].model


def compare(
    name: str,
    adata: anndata.AnnData,
    base: CellMNNPipeline,
    arms: dict[str, Fit],
    *,
    cells: int | None = None,
    times: int | None = None,
) -> list[dict[str, Any]]:
    """W1 and seconds of each arm at the middle time, with fewer cells or times if asked."""
    options = SpaceOptions(base.foundation.subspace_mode, base.foundation.shared, GENES)
    time_key = TIME_KEYS.get(name, "time")
    cell_times = read_times(adata, time_key)
    held_out = held_out_times(cell_times)
    if not held_out:
        return []
    left_out, rng = held_out[len(held_out) // 2], np.random.default_rng((SEED, 4))
    kept = subset(cell_times, left_out, cells, times, rng)
    if kept is None:
        return []
    source = read_source(adata[kept].copy())
    fold = held_out_fold(source, cell_times[kept], left_out, options, latent_dim=None, n_dims=5)(
        SEED
    )
    straight = ot_interpolate(*fold.scored_around(), fold.share, rng)
    w1 = {"ot_interpolate": wasserstein1(straight, fold.scored_in(fold.truth))}
    seconds = {}
    for label, fit in arms.items():
        started = time.perf_counter()
        model = fit(fold, SEED)
        seconds[label] = time.perf_counter() - started
        predicted = interpolate(Dynamics(model, fold.training.time_scale), fold.around, left_out)
        w1[label] = fold.w1(predicted.states, predicted.weights)
    return [{"time": left_out, "seed": SEED, "w1": w1, "seconds": seconds}]


def subset(
    cell_times: np.ndarray,
    at: float,
    cells: int | None,
    times: int | None,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Rows: all cells of the held-out time, and of the others as few as asked; None if too few."""
    others = np.array([time for time in np.unique(cell_times) if time != at])
    if times is not None:
        # those nearest in order, on both sides
        order = np.argsort(np.abs(np.arange(len(others)) - (np.searchsorted(others, at) - 0.5)))
        if len(others) < times:
            return None
        others = others[np.sort(order[:times])]
    rows = [np.flatnonzero(cell_times == at)]
    for seen_time in others:
        cells_then = np.flatnonzero(cell_times == seen_time)
        rows.append(
            cells_then
            if cells is None
            else rng.choice(cells_then, min(cells, len(cells_then)), replace=False)
        )
    return np.sort(np.concatenate(rows))


def for_all_groups(study: str, data: Path, bases: Path, part: str, outcome: Callable) -> None:
    """Make the results of all groups that have none yet."""
    torch.set_num_threads(1)

    def evaluated(name: str, path: Path, folder: Path) -> dict[str, Any]:
        try:
            return outcome(name, path, CellMNNPipeline.from_pretrained(folder))
        except InputError as error:
            return {"skipped": str(error)}

    settings = yaml.safe_load(BASE_CONFIG.read_text())
    for group, _ in for_missing_groups(
        STUDIES[study], data, bases, settings, evaluated, mode="aligned", part=part, minutes=1.5
    ):
        print(group, flush=True)


# ---------------------------------------------------------------------------------------------
# What was found


@app.command()
def report() -> None:
    """Tables and figures of the results that are there."""
    if steps := by_condition("steps"):
        report_steps(steps["all"])
    if small_data := by_condition("small_data"):
        report_small_data(small_data)


def by_condition(study: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By condition and data set, the rows of :func:`compare`; what has none is left out."""
    rows_of: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for outcome in STUDIES[study].read().values():
        for name, conditions in outcome.items():
            for condition, rows in conditions.items():
                if isinstance(rows, list) and rows:
                    rows_of.setdefault(condition, {})[name] = rows
    return rows_of


def ratios(
    sets: dict[str, list[dict[str, Any]]], arm: str, over: str = "ot_interpolate"
) -> list[float]:
    """For each data set the mean W1 over that of another arm."""

    def mean(rows: list[dict[str, Any]], method: str) -> float:
        return float(np.mean([row["w1"][method] for row in rows]))

    return [mean(rows, arm) / mean(rows, over) for rows in sets.values()]


def report_steps(sets: dict[str, list[dict[str, Any]]]) -> None:
    """Quality and seconds by steps."""

    def seconds(arm: str) -> float:
        return float(np.median([row["seconds"][arm] for rows in sets.values() for row in rows]))

    lines = [
        "| steps | fine-tuned | seconds | from scratch | seconds | fine-tuned over scratch |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count in STEPS:
        base, scratch = f"full {count}", f"scratch {count}"
        lines.append(
            f"| {count} | {with_interval(ratios(sets, base))} | {seconds(base):.2f} "
            f"| {with_interval(ratios(sets, scratch))} | {seconds(scratch):.2f} "
            f"| {with_interval(ratios(sets, base, scratch))} |"
        )
    lines += ["", f"| other ways | ratio to OT-Interpolate | over {DEFAULT} |", "|---|---:|---:|"]
    for arm in sorted({arm for rows in sets.values() for arm in rows[0]["seconds"]}):
        if arm not in {f"{kind} {count}" for kind in ("full", "scratch") for count in STEPS}:
            lines.append(
                f"| {arm} | {with_interval(ratios(sets, arm))} "
                f"| {with_interval(ratios(sets, arm, DEFAULT))} |"
            )
    for label, names in (
        ("development", [name for name in sets if name in DEVELOPMENT]),
        ("others", [name for name in sets if name not in DEVELOPMENT]),
    ):
        part = {name: sets[name] for name in names}
        if len(part) > 1:
            lines.append(
                f"\n{label}, {len(part)} sets: "
                f"{DEFAULT} at {with_interval(ratios(part, DEFAULT))}, "
                f"over full 0 {with_interval(ratios(part, DEFAULT, 'full 0'))}, "
                f"scratch 100 at {with_interval(ratios(part, 'scratch 100'))}"
            )
    STUDIES["steps"].show("\n".join(lines))
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for kind, label in (("full", "fine-tuned"), ("scratch", "from scratch")):
        values = [ratios(sets, f"{kind} {count}") for count in STEPS]
        means, errors = (
            [np.mean(of_sets) for of_sets in values],
            [sem(of_sets) for of_sets in values],
        )
        for ax, x in (
            (axes[0], list(STEPS)),
            (axes[1], [seconds(f"{kind} {count}") for count in STEPS]),
        ):
            ax.errorbar(x, means, errors, marker="o", capsize=2, label=label)
    axes[0].set(xlabel="steps", ylabel="W1 over OT-Interpolate", ylim=(0.94, 1.2))
    axes[1].set(xlabel="seconds, one core", xscale="log")
    for ax in axes:
        ax.axhline(np.mean(ratios(sets, "untrained")), color="grey", ls="--", label="frame alone")
        ax.axhline(1, color="black", lw=0.5)
    axes[0].legend(frameon=False)
    STUDIES["steps"].draw(figure)


def report_small_data(conditions: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Quality with few cells and few times."""
    arms = ("untrained", "full 0", DEFAULT, f"scratch {SCRATCH_STEPS}")
    lines = [
        "| | sets | frame alone | base, 0 steps | fine-tuned | from scratch, 150 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    kinds = {"cells": CELLS, "times": TIMES}
    for kind, values in kinds.items():
        for value in values:
            sets = conditions[f"{value} {kind}"]
            cells = " | ".join(with_interval(ratios(sets, arm)) for arm in arms)
            lines.append(f"| {value} {kind} | {len(sets)} | {cells} |")
    STUDIES["small_data"].show("\n".join(lines))
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    labels = ("frame alone", "base, 0 steps", "fine-tuned", "from scratch")
    for ax, (kind, values) in zip(axes, kinds.items(), strict=True):
        for arm, label in zip(arms, labels, strict=True):
            every_ratio = [ratios(conditions[f"{value} {kind}"], arm) for value in values]
            means, errors = (
                [np.mean(of_sets) for of_sets in every_ratio],
                [sem(of_sets) for of_sets in every_ratio],
            )
            ax.errorbar(values, means, errors, marker="o", capsize=2, label=label)
        ax.axhline(1, color="black", lw=0.5)
    axes[0].set(xlabel="cells in a snapshot", ylabel="W1 over OT-Interpolate", xscale="log")
    axes[0].set_xticks(CELLS, [str(number) for number in CELLS])
    axes[0].minorticks_off()
    axes[1].set(xlabel="snapshots")
    axes[1].set_xticks(TIMES)
    handles, _ = axes[0].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside upper center", ncols=len(arms), frameon=False)
    STUDIES["small_data"].draw(figure)


def sem(values: list[float]) -> float:
    """Standard error of the mean over data sets."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    app()
