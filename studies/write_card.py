"""The model cards of the bases, from their own records and the result files of the evaluations.

    python -m studies.write_card    # model_cards/, README.md of the models

Nothing is typed in by hand: data sets, licences and training are those of the checkpoint, figures
those of studies.leave_group_out, studies.simulated, studies.calibrate,
benchmarks.interpolation and benchmarks.conditions. A missing file or field is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import EvalResult

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.evaluation.metrics import with_interval
from cellmnn_fm.fitted.card import card_of_foundation

from .results import RESULTS, Results

ROOT = Path(__file__).parents[1]
NAME, SIMULATED, LICENCE = "cellmnn-base", "cellmnn-simulated", "apache-2.0"
CONDITIONS = "cellmnn-conditions"
REPRODUCE = """\
```
make base       # corpus, pretraining, this card; the same to the bit on machines of a kind
make studies    # the tables of unseen data sets
make peers benchmarks    # the table beside the methods of others
```"""


def main(
    models: Annotated[Path, typer.Option(help="Folder of the models.")] = ROOT
    / "cellmnn_fm"
    / "model"
    / "pretrained",
    results: Annotated[Path, typer.Option(help="Of the studies.")] = RESULTS,
    output: Annotated[Path, typer.Option(help="Folder of cards.")] = ROOT / "model_cards",
) -> None:
    """Write both copies of each."""
    for name, text in {
        NAME: card(models / NAME, results),
        SIMULATED: card_of_simulated(models / SIMULATED, results),
        CONDITIONS: card_of_conditions(models / CONDITIONS, results),
    }.items():
        (output / f"{name}.md").write_text(text)
        (models / name / "README.md").write_text(text)
        print(f"{output / name}.md: {len(text.splitlines())} lines")


def card_of_simulated(folder: Path, results: Path) -> str:
    """The card of the model that has seen no real cell, as text."""
    by_set, known = (
        (results / f"{study}_{SIMULATED}.md").read_text()
        for study in ("leave_group_out", "simulated")
    )
    return str(
        card_of_foundation(
            CellMNNPipeline.from_pretrained(folder).foundation,
            SIMULATED,
            LICENCE,
            results="Real time courses, each interior time left out and predicted from the others "
            f"(strict protocol, 3 seeds); W1 as a ratio to OT-Interpolate:\n\n{by_set}\n"
            f"Where the truth is known:\n\n{known}",
            reproduce="```\nmake simulated    # an hour on two cores\n```",
        )
    )


def card_of_conditions(folder: Path, results: Path) -> str:
    """The card of the model that reads a control beside a condition, as text."""
    return str(
        card_of_foundation(
            CellMNNPipeline.from_pretrained(folder).foundation,
            CONDITIONS,
            LICENCE,
            results="Snapshots under a condition that were not measured, from one or two that were "
            f"and a whole control:\n\n{(results / 'conditions.md').read_text()}",
            reproduce="```\nmake conditions    # half an hour on two cores\n```",
        )
    )


def card(folder: Path, results: Path) -> str:
    """The card as text."""
    foundation = CellMNNPipeline.from_pretrained(folder).foundation
    outcomes = {
        name: evaluated
        for outcome in Results("leave_group_out_aligned", results).read().values()
        for name, evaluated in outcome.items()
    }
    if missing := sorted(set(foundation.datasets) - set(outcomes)):
        raise ValueError(
            f"results: expected every data set of {NAME}, found none of {', '.join(missing)}; "
            "run studies.leave_group_out"
        )
    # others have no time between two
    unseen = {name: found["summary"] for name, found in outcomes.items() if "summary" in found}
    evaluated = [
        EvalResult(
            task_type="other",
            task_name="prediction of a held-out snapshot, data set unseen",
            dataset_type=name,
            dataset_name=name,
            metric_type="wasserstein",
            metric_name="W1 as a ratio to OT-Interpolate, zero-shot",
            metric_value=round(rows["zero_shot"]["ratio_to_ot_interpolate"], 3),
        )
        for name, rows in unseen.items()
    ]
    return str(
        card_of_foundation(
            foundation,
            NAME,
            LICENCE,
            results=table(unseen)
            + (results / "calibration.md").read_text()
            + beside_others(results),
            evaluated=evaluated,
            reproduce=REPRODUCE,
        )
    )


def beside_others(results: Path) -> str:
    """By method, from the table of the benchmark."""
    comparison = results / "interpolation_strict_standard.md"
    title, *blocks = comparison.read_text().split("\n\n")
    by_method = next(block for block in blocks if block.startswith("| method |"))
    return (
        "\nBeside the methods of others, at up to two held-out times of each data set, each fitted "
        f"to the data set alone (methods and settings: benchmarks/README.md).\n{title}\n\n"
        f"{by_method}\n"
    )


def table(unseen: dict[str, dict]) -> str:
    """How good it is on data sets that neither the network nor the subspace has seen."""
    methods = ("previous", "next", "untrained", "zero_shot", "zero_shot_same_size")
    ratios = {
        method: [rows[method]["ratio_to_ot_interpolate"] for rows in unseen.values()]
        for method in methods
    }
    lines = [
        "Each interior time left out and predicted from the others (strict protocol, 3 seeds), by",
        "a model that never saw the data set, or one that shares cells or a process with it. W1 in",
        "5 z-scored components; ratios to OT-Interpolate, with 95 % intervals over data sets. A",
        "prediction has the cells of two snapshots: with as many as OT-Interpolate see the column",
        "before the last. The energy distance does not depend on numbers of cells.",
        "",
        "| unseen data set | OT-Interpolate W1 | previous | next | untrained frame | zero-shot "
        "| zero-shot, as many cells | zero-shot, energy distance |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in unseen.items():
        cells = [f"{rows[method]['ratio_to_ot_interpolate']:.3f}" for method in methods]
        cells.append(f"{rows['zero_shot']['energy_over_ot_interpolate']:.3f}")
        w1 = f"{rows['ot_interpolate']['w1_mean']:.3f}"
        lines.append("| " + " | ".join([name, w1, *cells]) + " |")
    means = [with_interval(ratios[method]) for method in methods]
    energies = [rows["zero_shot"]["energy_over_ot_interpolate"] for rows in unseen.values()]
    means.append(with_interval(energies))
    lines += [
        "| **mean** | | " + " | ".join(means) + " |",
        "",
        "How often regions of the mean of a predicted snapshot hold what is measured, by the level",
        "that was asked for, calibrated on other groups of data sets:",
        "",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
