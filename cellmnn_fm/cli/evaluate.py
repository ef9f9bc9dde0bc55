"""The commands that say how good a model is: against what was measured, and on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data.files import read_file
from ..data.options import EvaluatedPreset, Protocol
from ..data.outputs import FIGURES, JSON, PAGES, require_outputs, save_json
from .options import (
    Asked,
    Dataset,
    File,
    Frame,
    Model,
    OfFit,
    column_or_count,
    command,
    load_pipeline,
)
from .output import Terminal, print_evaluation

# heavy modules are imported inside the commands: --help must answer at once


@command
def evaluate(
    file: File,
    reading: OfFit,
    terminal: Terminal,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="All figures, .json.")
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(help="Fit components and scales without the held-out time, or on all times."),
    ] = "strict",
    frame: Frame = False,
    preset: Annotated[
        EvaluatedPreset,
        typer.Option(help="A recipe to add; paper and leaky, as published, take minutes."),
    ] = "default",
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    base: Annotated[
        str | None,
        typer.Option(help="A pretrained model (cellmnn-base, or a folder) to compare, zero-shot."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="The table as a figure.")] = None,
) -> None:
    """Leave each interior time out, predict it, and compare with simple baselines."""
    outputs = {"output": (output, JSON), "figure": (figure, FIGURES)}
    require_outputs([base, file, *reading.files], outputs)
    adata = read_file(file)
    evaluation = load_pipeline(base).evaluate(
        adata,
        protocol=protocol,
        frame=frame,
        preset=preset,
        seeds=seeds,
        progress=terminal.progress,
        **reading.keywords,
    )
    content = {"file": file.name, **evaluation.to_dict()}
    if terminal.as_json:
        terminal.say("", **content)
    elif terminal.speaks or output is None:
        print_evaluation(file.stem, evaluation)
    if output is not None:
        save_json(content, output)
    if figure is not None:
        from ..pl.quality import verdict

        verdict(evaluation, save=figure, show=False)
    terminal.wrote(output, figure)


@command
def report(
    model: Model,
    file: File,
    reading: Asked,
    terminal: Terminal,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, .html.")] = Path(
        "report.html"
    ),
    dataset: Dataset = None,
    groups: Annotated[
        str | None,
        typer.Option(help="For the fates: column of obs, or how many clusters of the last cells."),
    ] = None,
    evaluation: Annotated[
        bool, typer.Option(help="Leave times out and fit again, beside baselines.")
    ] = True,
) -> None:
    """Write one page about a model and a data set, that opens without a network."""
    require_outputs([model, file, *reading.files], {"output": (output, PAGES)})
    adata = read_file(file)
    from ..pl.page import write_report

    write_report(
        load_pipeline(model, dataset),
        adata,
        output,
        groups=None if groups is None else column_or_count(groups, adata),
        evaluate=evaluation,
        progress=terminal.progress,
        **reading.keywords,
    )
    terminal.say(str(output), output=str(output))
