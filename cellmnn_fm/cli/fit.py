"""The commands that fit: from scratch, or from a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..data.files import read_file, read_named
from ..data.outputs import FOLDER, require_outputs
from .console import (
    Apoptosis,
    AsJson,
    Backed,
    Base,
    BatchKey,
    File,
    Frame,
    GrowthOption,
    Layer,
    OnDuplicatesOption,
    Proliferation,
    Quiet,
    SubspaceFolder,
    SubspaceModeOption,
    Symbols,
    TimeKey,
    TimeMap,
    UseRep,
    Verdict,
    plain_errors,
    read_growth_option,
    read_symbols,
    read_time_key,
    say,
    silence_transformers,
)

if TYPE_CHECKING:
    from ..fitted.record import FitRecord

# heavy modules are imported inside the commands: --help must answer at once


def fit(
    file: File,
    time_key: TimeKey,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the fitted model.")],
    use_rep: UseRep = None,
    time_map: TimeMap = None,
    layer: Layer = None,
    n_dims: Annotated[int | None, typer.Option(help="Latent dimensions, at most.")] = None,
    subspace: SubspaceFolder = None,
    subspace_mode: SubspaceModeOption = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    batch_key: BatchKey = None,
    backed: Backed = False,
    frame: Frame = False,
    growth: GrowthOption = None,
    proliferation: Proliferation = None,
    apoptosis: Apoptosis = None,
    preset: Annotated[
        Literal["default", "sliced", "paper"],
        typer.Option(help="Recipe; sliced is closest to held-out snapshots, paper as published."),
    ] = "default",
    steps: Annotated[
        int | None, typer.Option(help="Training steps; the preset's if absent.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and cells drawn.")] = 0,
    verdict: Verdict = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a model to a time course, from scratch.

    Stopped or killed, the same command goes on from the last saved state.
    """
    with plain_errors(
        "interrupted: the same command goes on from the last saved state", quiet=quiet
    ):
        require_outputs([file, subspace, symbols], {"output": (output, FOLDER)})
        adata = read_file(file, backed=backed or None)
        from accelerate import PartialState

        from ..pipeline import CellMNNPipeline

        silence_transformers()
        pipeline = CellMNNPipeline().fit(
            adata,
            time_key=read_time_key(time_key, time_map),
            use_rep=use_rep,
            layer=layer,
            n_dims=n_dims,
            subspace=subspace,
            subspace_mode=subspace_mode,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,
            batch_key=batch_key,
            frame=frame,
            growth=read_growth_option(growth, proliferation, apoptosis),
            preset=preset,
            steps=steps,
            seed=seed,
            verdict=verdict,
            folder=output,
            progress=not quiet,
        )
        if PartialState().is_main_process:
            pipeline.save_pretrained(output)
            dims = pipeline.model.config.latent_dim
            text = f", {len(pipeline.panel)} variables, {dims} dimensions"
            _say_fits(output, [pipeline.record], text, quiet=quiet, as_json=as_json)


def finetune(
    base: Base,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.h5ad...", help="Time courses, learned jointly.")
    ],
    time_key: TimeKey,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    mode: Annotated[
        Literal["full", "embedding", "lora"],
        typer.Option(help="Change all, the new embedding alone, or the network at low rank."),
    ] = "full",
    steps: Annotated[int | None, typer.Option(help="Training steps; 50 if absent.")] = None,
    start: Annotated[
        str, typer.Option(help="encoder, mean, or a data set to take the embedding of.")
    ] = "encoder",
    anchor: Annotated[
        float | None, typer.Option(help="How much the base counts; the measured weight if absent.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Of each data set, in order; that in the file or the file's if absent."),
    ] = None,
    use_rep: UseRep = None,
    time_map: TimeMap = None,
    layer: Layer = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    batch_key: BatchKey = None,
    backed: Backed = False,
    seed: Annotated[int, typer.Option(help="Of cells and snapshots drawn.")] = 0,
    verdict: Verdict = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a pretrained model on one time course, or on several jointly.

    Stopped or killed, the same command goes on from the last saved state.
    """
    with plain_errors(
        "interrupted: the same command goes on from the last saved state", quiet=quiet
    ):
        require_outputs([base, *files, symbols], {"output": (output, FOLDER)})
        adatas = read_named(files, name, backed=backed or None)
        from accelerate import PartialState

        from ..pipeline import CellMNNPipeline

        silence_transformers()
        only = next(iter(adatas)) if len(adatas) == 1 else None
        tuned = CellMNNPipeline.from_pretrained(base).fit(
            adatas if only is None else adatas[only],
            time_key=read_time_key(time_key, time_map),
            use_rep=use_rep,
            layer=layer,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,
            batch_key=batch_key,
            mode=mode,
            steps=steps,
            start=start,
            anchor=anchor,
            name=only,
            seed=seed,
            verdict=verdict,
            folder=output,
            progress=not quiet,
        )
        if PartialState().is_main_process:
            tuned.save_pretrained(output)
            records = [(tuned if only else tuned.of_dataset(one)).record for one in adatas]
            _say_fits(output, records, "", quiet=quiet, as_json=as_json)


def _say_fits(
    output: Path, records: list[FitRecord], text: str, *, quiet: bool, as_json: bool
) -> None:
    lines, fits = [], []
    for record in records:
        name = f"{record.name}, " if record.base is not None else ""
        steps = f"{len(record.losses)} steps in {record.seconds:.1f} s"
        cells = f"{sum(record.cells)} cells at {len(record.times)} times"
        lines.append(f"{output}: {name}{cells}{text}, {steps}")
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
    say("\n".join(lines), quiet=quiet, as_json=as_json, output=str(output), fits=fits)
