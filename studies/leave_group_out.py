r"""Zero-shot on data sets that a model never saw: pretrain without a group, evaluate on it.

    python -m studies.leave_group_out                    # all groups: about 45 minutes
    python -m studies.leave_group_out --development      # those that settings are chosen on
    python -m studies.leave_group_out --development --set sampling.thin=0 \
        --results ablation_thin --bases ablations/bases/thin
    python -m studies.leave_group_out --base cellmnn-simulated   # which has seen no real cell

For every group of data sets that share cells or a process: the shared subspace and the model are
fitted without the group, then every interior time of its data sets is predicted from the others,
strictly, without training on them. Data sets of coordinates only are tested too; they are not
pretrained on. Beside it the untrained frame in the same space, so that what pretraining adds is
seen. Groups that have a line in results/ are not made again, and the bases are kept in --bases
for fine-tuning.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import anndata
import typer
import yaml

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.options import ReadingOptions
from cellmnn_fm.evaluation.candidates import foundation_candidate
from cellmnn_fm.evaluation.evaluation import evaluate
from cellmnn_fm.evaluation.metrics import with_interval
from pretraining.build_corpus import GENES

from .bases import BASE_CONFIG, for_missing_groups, untrained
from .data_sets import DATA, DEVELOPMENT, TIME_KEYS, Data, groups_of
from .results import Results
from .tables import dot_plot

MINUTES = 2  # a group, on one core


def main(
    config: Annotated[Path, typer.Option(help="Model, training and sampling.")] = BASE_CONFIG,
    data: Data = DATA,
    mode: Annotated[Literal["shared", "aligned"], typer.Option(help="Latent space.")] = "aligned",
    development: Annotated[bool, typer.Option(help="Development groups only.")] = False,
    base: Annotated[
        str | None, typer.Option(help="A model that has seen none of them, as it is.")
    ] = None,
    results: Annotated[str | None, typer.Option(help="Name of the results.")] = None,
    bases: Annotated[Path, typer.Option(help="Folder of the models.")] = Path("bases"),
    seeds: int = 3,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="section.name=value; may be repeated.")
    ] = None,
    part: Annotated[str, typer.Option(help="I/N: every N-th group from the I-th on.")] = "0/1",
) -> None:
    """Pretrain and evaluate all groups that have no result yet, then print the table."""
    settings = yaml.safe_load(config.read_text())
    for setting in change or []:
        path, value = setting.split("=")
        section, name = path.split(".")
        settings[section][name] = yaml.safe_load(value)
    kept = Results(results or f"leave_group_out_{base or mode}")
    if base is not None:
        evaluate_as_it_is(base, kept, data, seeds, part)
        report(kept)
        return
    for group, outcome in for_missing_groups(
        kept,
        data,
        bases / mode,
        settings,
        lambda _, path, folder: evaluate_unseen(path, folder, seeds),
        mode=mode,
        names=DEVELOPMENT if development else None,
        part=part,
        minutes=MINUTES,
    ):
        print(group, *(summary(name, evaluated) for name, evaluated in outcome.items()), flush=True)
    report(kept)


# ---------------------------------------------------------------------------------------------
# One group


def evaluate_as_it_is(base: str, kept: Results, data: Path, seeds: int, part: str) -> None:
    """All data sets that have no result yet, by a model that was trained on none of them."""
    first, count = map(int, part.split("/"))
    files = sorted(groups_of(data))
    for name in files[first::count]:
        if (name,) not in kept.read():
            kept.keep({name: evaluate_unseen(data / f"{name}.h5ad", Path(base), seeds)}, name)
            print(summary(name, kept.read()[(name,)][name]), flush=True)


def evaluate_unseen(file: Path, folder: Path, seeds: int) -> dict[str, Any]:
    """Zero-shot and untrained beside the baselines; why not, where there is no time to hold out."""
    pipeline = CellMNNPipeline.from_pretrained(folder)
    base = pipeline.foundation
    adata = anndata.read_h5ad(file)
    if adata.uns.get("space") == "pca" and base.subspace_mode == "shared":
        return {"skipped": "coordinates have no place in a shared subspace"}
    time_key = TIME_KEYS.get(file.stem, "time")
    reading = base.reading(ReadingOptions(time_key=time_key, on_duplicates=GENES.on_duplicates))
    try:
        evaluation = evaluate(
            adata,
            [foundation_candidate(pipeline.model), untrained(pipeline.model)],
            replace(reading, n_dims=None),  # W1 is taken in 5 components
            seeds=seeds,
        )
    except ValueError as error:
        return {"skipped": str(error)}
    return evaluation.to_dict()


# ---------------------------------------------------------------------------------------------
# All groups


def summary(name: str, outcome: dict[str, Any]) -> str:
    """One data set in a line."""
    if "skipped" in outcome:
        return f"{name}: skipped"
    rows = outcome["summary"]
    ratios = [rows[method]["ratio_to_ot_interpolate"] for method in ("zero_shot", "untrained")]
    return f"{name}: zero-shot {ratios[0]:.3f}, untrained {ratios[1]:.3f}"


def report(results: Results) -> None:
    """Print the table and write it beside the results."""
    summaries = {
        name: evaluated["summary"]
        for outcome in results.read().values()
        for name, evaluated in outcome.items()
        if "summary" in evaluated
    }
    of = {  # column: method, and which of its figures
        "zero-shot": ("zero_shot", "ratio_to_ot_interpolate"),
        "as many cells": ("zero_shot_same_size", "ratio_to_ot_interpolate"),
        "untrained frame": ("untrained", "ratio_to_ot_interpolate"),
        "zero-shot, energy distance": ("zero_shot", "energy_over_ot_interpolate"),
    }
    ratios = {
        column: {name: rows[method][figure] for name, rows in summaries.items()}
        for column, (method, figure) in of.items()
    }
    lines = [
        "| unseen data set | OT-Interpolate W1 | " + " | ".join(of) + " |",
        "|---|" + "---:|" * (1 + len(of)),
    ]
    for name, rows in summaries.items():
        cells = [f"{ratios[column][name]:.3f}" for column in of]
        baseline = f"{rows['ot_interpolate']['w1_mean']:.3f}"
        lines.append("| " + " | ".join([name, baseline, *cells]) + " |")
    parts = {
        "all": list(summaries),
        "development": [name for name in summaries if name in DEVELOPMENT],
        "others": [name for name in summaries if name not in DEVELOPMENT],
    }
    for label, names in parts.items():
        if len(names) > 1:
            cells = [with_interval([ratios[column][name] for name in names]) for column in of]
            lines.append(f"| **{label}, {len(names)}** | | " + " | ".join(cells) + " |")
            paired = [ratios["zero-shot"][name] / ratios["untrained frame"][name] for name in names]
            rest = " |" * len(of)
            lines.append(f"| {label}, zero-shot over untrained | | {with_interval(paired)}{rest}")
    results.show("\n".join(lines))
    results.draw(
        dot_plot(
            [name.replace("_", " ") for name in summaries],
            {column: list(ratios[column].values()) for column in ("untrained frame", "zero-shot")},
            "W1 over OT-Interpolate, data set unseen; lower is better",
            line=1.0,
        )
    )


if __name__ == "__main__":
    typer.run(main)
