"""The commands that make models: from scratch, or from a pretrained one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.files import read_file, read_named
from ..data.options import FineTuningMode, Preset
from ..data.outputs import FOLDER, require_outputs
from .options import (
    GOES_ON,
    Backed,
    Base,
    File,
    Frame,
    OfCourse,
    OfFit,
    Verdict,
    command,
    load_pipeline,
)
from .output import Terminal

if TYPE_CHECKING:
    from ..fitted.record import FitRecord

# heavy modules are imported inside the commands: --help must answer at once


@command(interrupted=GOES_ON)
def fit(
    file: File,
    reading: OfFit,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the fitted model.")],
    terminal: Terminal,
    backed: Backed = False,
    frame: Frame = False,
    preset: Annotated[
        Preset,
        typer.Option(help="Recipe; sliced is closest to held-out snapshots, paper as published."),
    ] = "default",
    steps: Annotated[
        int | None, typer.Option(help="Training steps; the preset's if absent.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and cells drawn.")] = 0,
    verdict: Verdict = True,
) -> None:
    """Fit a model to a time course, from scratch.

    Stopped or killed, the same command goes on from the last saved state.
    """
    require_outputs([file, *reading.files], {"output": (output, FOLDER)})
    adata = read_file(file, backed=backed or None)
    from accelerate import PartialState

    pipeline = load_pipeline(None).fit(
        adata,
        frame=frame,
        preset=preset,
        steps=steps,
        seed=seed,
        verdict=verdict,
        folder=output,
        progress=terminal.progress,
        **reading.keywords,
    )
    if PartialState().is_main_process:
        pipeline.save_pretrained(output)
        dims = pipeline.model.config.latent_dim
        about = f", {len(pipeline.panel)} variables, {dims} dimensions"
        _say_fits(terminal, output, [pipeline.record], about)


@command(interrupted=GOES_ON)
def finetune(
    base: Base,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.h5ad...", help="Time courses, learned jointly.")
    ],
    reading: OfCourse,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    terminal: Terminal,
    mode: Annotated[
        FineTuningMode,
        typer.Option(help="Change all, the new embedding alone, or the network at low rank."),
    ] = "full",
    steps: Annotated[int | None, typer.Option(help="Training steps; 50 if absent.")] = None,
    start: Annotated[
        str, typer.Option(help="inferred, mean, or a data set to take the embedding of.")
    ] = "inferred",
    anchor: Annotated[
        float | None, typer.Option(help="How much the base counts; the measured weight if absent.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Of each data set, in order; that in the file or the file's if absent."),
    ] = None,
    backed: Backed = False,
    seed: Annotated[int, typer.Option(help="Of cells and snapshots drawn.")] = 0,
    verdict: Verdict = True,
) -> None:
    """Fine-tune a pretrained model on one time course, or on several jointly.

    Stopped or killed, the same command goes on from the last saved state.
    """
    require_outputs([base, *files, *reading.files], {"output": (output, FOLDER)})
    adatas = read_named(files, name, backed=backed or None)
    from accelerate import PartialState

    from ..training.finetuning import DEFAULT_ANCHOR, DEFAULT_STEPS

    only = next(iter(adatas)) if len(adatas) == 1 else None
    tuned = load_pipeline(base).finetune(
        adatas if only is None else adatas[only],
        mode=mode,
        steps=DEFAULT_STEPS if steps is None else steps,
        start=start,
        anchor=DEFAULT_ANCHOR if anchor is None else anchor,
        name=only,
        seed=seed,
        verdict=verdict,
        folder=output,
        progress=terminal.progress,
        **reading.keywords,
    )
    if PartialState().is_main_process:
        tuned.save_pretrained(output)
        records = [(tuned if only else tuned.of_dataset(name)).record for name in adatas]
        _say_fits(terminal, output, records, "")


@command
def adapt(
    base: Base,
    file: File,
    reading: OfCourse,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapted model.")],
    terminal: Terminal,
    start: Annotated[
        str, typer.Option(help="inferred, mean, or a data set to take the embedding of.")
    ] = "inferred",
) -> None:
    """Make a model of a time course from a pretrained one, without any training."""
    require_outputs([base, file, *reading.files], {"output": (output, FOLDER)})
    adata = read_file(file)
    adapted = load_pipeline(base).adapt(adata, start=start, **reading.keywords)
    adapted.save_pretrained(output)
    record = adapted.record
    terminal.say(
        f"{output}: {record.coverage}",
        output=str(output),
        times=record.times,
        cells=record.cells,
        genes_matched=record.coverage.matched,
    )


def _say_fits(terminal: Terminal, output: Path, records: list[FitRecord], about: str) -> None:
    """A line and the verdict of each data set that was fitted."""
    lines, fits = [], []
    for record in records:
        name = f"{record.name}, " if record.base is not None else ""
        steps = f"{len(record.losses)} steps in {record.seconds:.1f} s"
        cells = f"{sum(record.cells)} cells at {len(record.times)} times"
        lines.append(f"{output}: {name}{cells}{about}, {steps}")
        if record.verdict is not None:
            lines.append(record.verdict["sentence"])
        fits.append(
            {
                "name": record.name,
                "times": record.times,
                "cells": record.cells,
                "steps": len(record.losses),
                "seconds": record.seconds,
                "verdict": record.verdict,
            }
        )
    terminal.say("\n".join(lines), output=str(output), fits=fits)
