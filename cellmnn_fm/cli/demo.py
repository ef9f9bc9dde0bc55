"""The main job, shown on a file, or on systems whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data.files import read_file
from ..data.outputs import JSON, require_outputs, save_cells, save_json
from ..model.errors import InputError
from .options import command, load_pipeline
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
    from ..pl.quality import known_system

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
            shown = recovery.course, recovery.trained.dynamics, time, recovery.predicted.states
            known_system(*shown, truth, save=output / f"{system.name}.png", show=False)
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
    import numpy as np

    from ..pl.cells import trajectories

    known = load_pipeline(BASE, "hesc_endoderm")
    first, *_, last = known.record.times
    followed = known.trajectory(times=np.linspace(first, last, 50).tolist(), n_steps=2)
    save_cells(followed, output / "hesc_endoderm_trajectory.h5ad")
    trajectories(followed, followed, save=output / "hesc_endoderm_trajectory.png", show=False)


def demo_file(file: Path, time_key: str, output: Path, seeds: int, *, progress: bool) -> None:
    """Fit, interpolate and evaluate a time course; figures of each."""
    from ..pl.cells import interpolation, velocity_stream
    from ..pl.quality import losses, verdict

    adata = read_file(file)
    unfitted = load_pipeline(None)
    pipeline = unfitted.fit(adata, time_key=time_key, verdict=False, progress=progress)
    pipeline.save_pretrained(output / "model")
    cells, record = pipeline.cells(adata), pipeline.record
    predicted = pipeline.interpolate(cells, float(cells.course.times[:2].mean()))
    save_cells(predicted, output / "interpolated.h5ad")
    evaluation = load_pipeline(BASE).evaluate(
        adata, time_key=time_key, seeds=seeds, progress=progress
    )
    save_json(evaluation.to_dict(), output / "evaluation.json")
    annotated = pipeline.annotate(cells, layers=False)
    interpolation(annotated, predicted, save=output / "interpolation.png", show=False)
    velocity_stream(annotated, save=output / "velocity.png", show=False)
    losses(record.losses, save=output / "training.png", show=False)
    verdict(evaluation, save=output / "evaluation.png", show=False)
    print_evaluation(file.stem, evaluation)
