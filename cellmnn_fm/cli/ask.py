"""The commands that ask a model what there is: snapshots, cells, fates, growth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.files import read_file
from ..data.options import BELIEVED_BEYOND, NOISE
from ..data.outputs import CELLS, FIGURES, TABLES, require_outputs, save_table
from .options import (
    Dataset,
    End,
    File,
    FileOrDataset,
    Groups,
    Model,
    OfQuestion,
    Start,
    column_or_count,
    command,
    load_pipeline,
)
from .output import Columns, Terminal

# heavy modules are imported inside the commands: --help must answer at once

Paths = Annotated[
    int | None, typer.Option(help="Follow each cell along so many paths with noise; 30 will do.")
]
Noise = Annotated[
    float,
    typer.Option(help="How far cells diffuse in the whole course, in spreads of those of a time."),
]


Basis = Annotated[
    str | None,
    typer.Option(help="Embedding of the figure, in obsm; a UMAP or components if absent."),
]

_DRAWN_TIMES, _DRAWN_CELLS = 50, 150  # of smooth paths in a figure


@command
def interpolate(
    model: Model,
    file: File,
    at: Annotated[
        list[str],
        typer.Option(
            help="Time to predict, in the unit of the time course or as a label, day3; repeat."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The predicted snapshot, .h5ad or .zarr.")
    ],
    reading: OfQuestion,
    terminal: Terminal,
    dataset: Dataset = None,
    two_sided: Annotated[
        bool, typer.Option(help="Push the snapshots before and after, or only the one before.")
    ] = True,
    n_steps: Annotated[int, typer.Option(help="Steps on the way, each with a new operator.")] = 1,
    level: Annotated[float, typer.Option(help="How often the region of the mean holds.")] = 0.9,
    blend: Annotated[
        bool, typer.Option(help="Also fit from scratch, and predict half-way between the two.")
    ] = False,
    damping: Annotated[
        float,
        typer.Option(help="Beyond the observed times: share of the movement that is believed."),
    ] = BELIEVED_BEYOND,
    n_paths: Paths = None,
    noise: Noise = NOISE,
    seed: Annotated[int, typer.Option(help="Of the paths.")] = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Predicted and observed snapshots as a figure.")
    ] = None,
    basis: Basis = None,
) -> None:
    """Predict the snapshot at any time from those around it."""
    outputs = {"output": (output, CELLS), "figure": (figure, FIGURES)}
    require_outputs([model, file, *reading.files], outputs)
    adata = read_file(file)
    pipeline = load_pipeline(model, dataset)
    cells = pipeline.cells(adata, **reading.keywords)
    predicted = pipeline.interpolate(
        cells,
        at,
        two_sided=two_sided,
        n_steps=n_steps,
        level=level,
        blend=blend,
        damping=damping,
        n_paths=n_paths,
        noise=noise,
        seed=seed,
        file=output,
    )
    if figure is not None:
        from ..pl.cells import interpolation
        from ..questions.annotation import states_alone

        interpolation(states_alone(cells), predicted, basis, save=figure, show=False)
    times, margin = predicted.obs["time"].unique().tolist(), None
    shown = ", ".join(f"{time:g}" for time in times)
    text = f"{output}: {predicted.n_obs} cells at time{'s' * (len(times) > 1)} {shown}"
    if "cellmnn_margin" in predicted.var:
        margins = predicted.var["cellmnn_margin"]
        margin = margins[margins > 0].median()
        text += f"\nmean of a gene: within {margin:.2g} at {level:.0%} (median of genes)"
    about = {"time": times[0] if len(times) == 1 else times, "median_margin": margin}
    about["level"] = level
    terminal.say(text, output=str(output), cells=predicted.n_obs, **about)
    terminal.wrote(figure)


@command
def trajectory(
    model: Model,
    reading: OfQuestion,
    terminal: Terminal,
    file: FileOrDataset = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Cells by time, .h5ad or .zarr.")
    ] = Path("trajectory.h5ad"),
    dataset: Dataset = None,
    start: Start = None,
    times: Annotated[
        list[float] | None,
        typer.Option("--time", help="May be repeated; the observed times if absent."),
    ] = None,
    cells: Annotated[
        int | None, typer.Option(help="At most so many; all of a file, else 200.")
    ] = None,
    rtol: Annotated[float, typer.Option(help="Of the steps, relative.")] = 1e-2,
    atol: Annotated[float, typer.Option(help="Of the steps, absolute.")] = 1e-2,
    n_steps: Annotated[
        int | None, typer.Option(help="So many steps between two times, in place of a tolerance.")
    ] = None,
    n_paths: Paths = None,
    noise: Noise = NOISE,
    seed: Annotated[int, typer.Option(help="Of the cells and paths.")] = 0,
    figure: Annotated[Path | None, typer.Option(help="The trajectories as a figure.")] = None,
    basis: Basis = None,
    genes: Annotated[
        list[str] | None, typer.Option("--gene", help="To be drawn over time; may be repeated.")
    ] = None,
    trends: Annotated[Path, typer.Option(help="The figure of these genes.")] = Path("trends.png"),
) -> None:
    """Follow cells through time: observed ones, or those of a data set that a model knows."""
    drawn = {"figure": (figure, FIGURES), "trends": (trends if genes else None, FIGURES)}
    require_outputs([model, file, *reading.files], {"output": (output, CELLS), **drawn})
    adata = None if file is None else read_file(file)
    pipeline = load_pipeline(model, dataset)
    asked = None if adata is None else pipeline.cells(adata, **reading.keywords)
    followed = pipeline.trajectory(
        asked,
        times,
        start=start,
        cells=cells,
        n_steps=n_steps,
        rtol=rtol,
        atol=atol,
        n_paths=n_paths,
        noise=noise,
        seed=seed,
        file=output,
    )
    every_time = sorted(followed.obs["time"].unique().tolist())
    if genes is not None or figure is not None:
        import numpy as np

        from ..pl.cells import trajectories
        from ..pl.genes import gene_trends
        from ..questions.annotation import states_alone

        smooth = np.linspace(every_time[0], every_time[-1], _DRAWN_TIMES).tolist()
        drawn_cells = min(cells or _DRAWN_CELLS, _DRAWN_CELLS)
        paths = pipeline.trajectory(asked, smooth, start=start, cells=drawn_cells, n_steps=4)
        if genes is not None:
            gene_trends(paths, genes, save=trends, show=False)
        if figure is not None:
            around = paths if asked is None else states_alone(asked)
            trajectories(around, paths, basis, save=figure, show=False)
    count = followed.n_obs // len(every_time)
    text = f"{output}: {count} cells at {len(every_time)} times"
    terminal.say(text, output=str(output), cells=count, times=every_time)
    terminal.wrote(figure, None if genes is None else trends)


@command
def annotate(
    model: Model,
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="The same cells, .h5ad or .zarr.")],
    reading: OfQuestion,
    terminal: Terminal,
    dataset: Dataset = None,
    layers: Annotated[
        bool, typer.Option(help="Add expression and velocity of every gene, dense.")
    ] = True,
    ahead: Annotated[
        bool, typer.Option("--ahead", help="Add how far each cell is ahead of its time.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="The velocities as a figure.")] = None,
    basis: Basis = None,
    color: Annotated[
        str | None, typer.Option(help="Of the figure: a column of obs, or a gene; time if absent.")
    ] = None,
) -> None:
    """Add latent states, velocities and loadings to observed cells."""
    outputs = {"output": (output, CELLS), "figure": (figure, FIGURES)}
    require_outputs([model, file, *reading.files], outputs)
    adata = read_file(file)
    pipeline = load_pipeline(model, dataset)
    how: dict[str, Any] = {"layers": layers, "ahead": ahead, "file": output}
    annotated = pipeline.annotate(adata, **how, **reading.keywords)
    if figure is not None:
        from ..pl.cells import velocity_stream

        velocity_stream(annotated, basis, color, save=figure, show=False)
    terminal.say(f"{output}: {annotated.n_obs} cells", output=str(output), cells=annotated.n_obs)
    terminal.wrote(figure)


@command
def fates(
    model: Model,
    file: File,
    groups: Groups,
    reading: OfQuestion,
    terminal: Terminal,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Probabilities of every cell, .tsv.")
    ] = Path("fates.tsv"),
    drivers: Annotated[Path | None, typer.Option(help="Driver genes of every group, .tsv.")] = None,
    figure: Annotated[Path | None, typer.Option(help="The fate map as a figure.")] = None,
    dataset: Dataset = None,
    start: Annotated[
        float | None, typer.Option(help="Only cells of this time; all if absent.")
    ] = None,
    end: End = None,
    n_paths: Paths = None,
    noise: Noise = NOISE,
    seed: Annotated[int, typer.Option(help="Of the paths.")] = 0,
    basis: Annotated[
        str | None,
        typer.Option(help="Embedding of the figure, or circle; a UMAP or components if absent."),
    ] = None,
) -> None:
    """Follow cells to the end, and say in which group they are then.

    With --n-paths a fate is a share of paths, and has an interval.
    """
    tables = {"output": (output, TABLES), "drivers": (drivers, TABLES)}
    require_outputs([model, file, *reading.files], {**tables, "figure": (figure, FIGURES)})
    adata = read_file(file)
    pipeline = load_pipeline(model, dataset)
    cells = pipeline.cells(adata, **reading.keywords)
    table = pipeline.fates(
        cells,
        column_or_count(groups, adata),
        start=start,
        end=end,
        n_paths=n_paths,
        noise=noise,
        seed=seed,
        progress=terminal.progress,
    )
    save_table(table.with_intervals, output, index_label="cell")
    if drivers is not None:
        save_table(table.drivers, drivers, index_label="gene")
    if figure is not None:
        from ..pl.cells import fates as draw_fates
        from ..questions.annotation import states_alone

        placed = states_alone(cells)
        table.add_to(placed)
        draw_fates(placed, basis, save=figure, show=False)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in table.shares.items())
    terminal.say(
        f"{output}: {len(table.probabilities)} cells; {shares}",
        output=str(output),
        cells=len(table.probabilities),
        shares=table.shares.to_dict(),
        accuracy=table.accuracy,
    )
    terminal.wrote(drivers, figure)


@command
def growth(
    model: Model,
    file: File,
    reading: OfQuestion,
    terminal: Terminal,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Rate of every cell, .tsv.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column of obs, such as cell types, to take means over.")
    ] = None,
    population: Annotated[
        list[str] | None,
        typer.Option(help="TIME=CELLS, how many cells there were; repeat, for absolute rates."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="The rates as a figure.")] = None,
    basis: Basis = None,
) -> None:
    """How fast cells multiply, births less deaths, in a model that was fitted with growth.

    Without counts of the population rates are relative to the mean of the cells of the same time.
    """
    outputs = {"output": (output, TABLES), "figure": (figure, FIGURES)}
    require_outputs([model, file, *reading.files], outputs)
    adata = read_file(file)
    from ..data.population import read_population

    counts = None if population is None else read_population(population)
    pipeline = load_pipeline(model)
    cells = pipeline.cells(adata, **reading.keywords)
    table = pipeline.growth(cells, groups, population=counts)
    if output is not None:
        save_table(table.rates.to_frame(), output, index_label="cell")
    if figure is not None:
        from ..pl.cells import growth as draw_growth

        draw_growth(pipeline.annotate(cells, layers=False), basis, save=figure, show=False)
    title = "absolute rates" if table.absolute else "rates, relative to all cells of a time"
    if table.groups is None:
        text = f"{title}: {table.rates.min():.3g} to {table.rates.max():.3g}"
        terminal.say(text, absolute=table.absolute, groups=None)
        terminal.wrote(output, figure)
        return
    rows = table.groups.to_dict("records")
    columns: Columns = {"time": cells.time_names.__getitem__, "group": str, "rate": "{:.3f}".format}
    columns |= {"cells": str, "share": "{:.1%}".format}
    if table.absolute:
        columns["size"] = "{:,.0f}".format
    terminal.table(f"{groups}: {title}", rows, columns)
    if terminal.as_json:
        terminal.say("", absolute=table.absolute, groups=rows)
    terminal.wrote(output, figure)
