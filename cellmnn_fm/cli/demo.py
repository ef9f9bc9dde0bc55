"""The main job, shown on a file, or on systems whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data.files import read_file
from ..data.outputs import JSON, require_outputs, save_cells, save_figure, save_json
from ..model.errors import InputError
from .options import command, silence_transformers
from .output import Terminal, print_evaluation, print_table

BASE = "cellmnn-base"

# heavy modules are imported inside the functions: --help must answer at once


@command
def demo(
    terminal: Terminal,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.h5ad]", help="A time course; known systems without one."),
    ] = None,
    time_key: Annotated[
        str, typer.Option(help="Column of obs with the time of each cell.")
    ] = "time",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "demo_output"
    ),
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 1,
) -> None:
    """Run the main job and write its tables and figures.

    With a file: fit, interpolate, evaluate, cellmnn-base included. Without: recover systems whose
    truth is known, and follow cells of a data set that cellmnn-base knows.
    """
    if output.exists() and not output.is_dir():
        raise InputError("output", "a folder", f"a file, {output}", "name another one")
    require_outputs([file], {"output": (output / "evaluation.json", JSON)})
    output.mkdir(parents=True, exist_ok=True)
    if file is None:
        demo_known_systems(output, seeds, progress=terminal.progress)
        demo_base(output)
    else:
        demo_file(file, time_key, output, seeds, progress=terminal.progress)
    terminal.say(f"tables and figures: {output}", output=str(output))


def demo_known_systems(output: Path, seeds: int, *, progress: bool) -> None:
    """Recover known systems; figures, and a table of how close it comes."""
    from ..data.synthetic import KNOWN_SYSTEMS
    from ..evaluation.recovery import recover
    from ..report.figures import plot_interpolation, plot_velocity_field

    rows = []
    for system in KNOWN_SYSTEMS.values():
        for seed in range(seeds):
            recovery = recover(system, seed=seed, progress=progress)
            rows.append(
                {
                    "system": system.name,
                    "seed": seed,
                    "velocity_error": recovery.velocity_error,
                    "w1": recovery.w1,
                    "floor": recovery.floor,
                    "ratio_to_floor": recovery.w1 / recovery.floor,
                    "seconds": recovery.trained.seconds,
                }
            )
            if seed:
                continue
            truth = recovery.course.snapshots[system.held_out]
            time = system.times[system.held_out]
            snapshot = plot_interpolation(recovery.course, time, recovery.predicted.states, truth)
            save_figure(snapshot, output / f"{system.name}_snapshot.png")
            trained = recovery.trained
            velocity = plot_velocity_field(trained.dynamics, recovery.course)
            save_figure(velocity, output / f"{system.name}_velocity.png")
    save_json(rows, output / "known_systems.json")
    print_table(
        "known systems: a held-out snapshot against the truth",
        rows,
        {
            "system": str,
            "seed": str,
            "velocity_error": "{:.1%}".format,
            "w1": "{:.4f}".format,
            "floor": "{:.4f}".format,
            "ratio_to_floor": "{:.2f}".format,
            "seconds": "{:.1f}".format,
        },
    )


def demo_base(output: Path) -> None:
    """Follow cells of a data set that the base knows."""
    from ..pipeline import CellMNNPipeline
    from ..report.figures import plot_trajectories

    silence_transformers()
    followed = CellMNNPipeline.from_pretrained(BASE).of_dataset("hesc_endoderm").trajectory()
    save_cells(followed, output / "hesc_endoderm_trajectory.h5ad")
    save_figure(plot_trajectories(followed), output / "hesc_endoderm_trajectory.png")


def demo_file(file: Path, time_key: str, output: Path, seeds: int, *, progress: bool) -> None:
    """Fit, interpolate and evaluate a time course; figures of each."""
    from ..pipeline import CellMNNPipeline
    from ..report.figures import (
        plot_evaluation,
        plot_interpolation,
        plot_losses,
        plot_velocity_field,
    )

    adata = read_file(file)
    silence_transformers()
    pipeline = CellMNNPipeline().fit(adata, time_key=time_key, verdict=False, progress=progress)
    pipeline.save_pretrained(output / "model")
    course, record = pipeline.time_course(adata), pipeline.record
    halfway = float(course.times[:2].mean())
    predicted = pipeline.interpolate(adata, halfway)
    save_cells(predicted, output / "interpolated.h5ad")
    base = CellMNNPipeline.from_pretrained(BASE)
    evaluation = base.evaluate(adata, time_key=time_key, seeds=seeds, progress=progress)
    save_json(evaluation.to_dict(), output / "evaluation.json")
    figures = {
        "interpolation": plot_interpolation(course, halfway, predicted.obsm["X_cellmnn"]),
        "velocity": plot_velocity_field(pipeline.fitted.dynamics, course),
        "training": plot_losses(record.losses),
        "evaluation": plot_evaluation(evaluation),
    }
    for name, figure in figures.items():
        save_figure(figure, output / f"{name}.png")
    print_evaluation(file.stem, evaluation)
