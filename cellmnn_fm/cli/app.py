"""The command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..data.files import read_file
from ..data.outputs import (
    CELLS,
    FIGURES,
    FOLDER,
    JSON,
    PAGES,
    STANDARD_OUTPUT,
    require_outputs,
    save_figure,
    save_json,
)
from ..model.errors import InputError
from .console import (
    Apoptosis,
    AsJson,
    Base,
    BatchKey,
    Dataset,
    File,
    FileOrDataset,
    Frame,
    GrowthOption,
    Layer,
    Model,
    OnDuplicatesOption,
    Proliferation,
    Quiet,
    SubspaceFolder,
    SubspaceModeOption,
    Symbols,
    TimeKey,
    TimeKeyOrFit,
    TimeMap,
    UseRep,
    asked_time_key,
    load_pipeline,
    plain_errors,
    print_evaluation,
    read_growth_option,
    read_symbols,
    read_time_key,
    say,
)
from .fates import column_or_count, compare, fates, growth, perturb
from .fit import finetune, fit
from .grn import grn, grn_evaluate
from .hub import models, pull, push
from .subspace import subspace_app

# heavy modules are imported inside the commands: --help must answer at once

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Single-cell dynamics from snapshots: fit a time course, predict what was not measured."
    "\n\nStart with: cellmnn report cellmnn-base FILE.h5ad --time-key day. Commands have --help. "
    "Bad input ends in one line and exit code 2, an interruption in 130; what was trained is kept.",
)


def interpolate(
    model: Model,
    file: File,
    at: Annotated[float, typer.Option(help="Time to predict, in the unit of the time course.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The predicted snapshot, .h5ad or .zarr.")
    ],
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    dataset: Dataset = None,
    two_sided: Annotated[
        bool, typer.Option(help="Push the snapshots before and after, or only the one before.")
    ] = True,
    n_steps: Annotated[int, typer.Option(help="Steps on the way, each with a new operator.")] = 1,
    level: Annotated[float, typer.Option(help="How often the region of the mean holds.")] = 0.9,
    blend: Annotated[
        bool, typer.Option(help="Also fit from scratch, and predict half-way between the two.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict the snapshot at any time from those around it."""
    with plain_errors(quiet=quiet):
        require_outputs([model, file], {"output": (output, CELLS)})
        adata = read_file(file)
        pipeline = load_pipeline(model, dataset)
        asked = asked_time_key(pipeline, time_key, time_map)
        predicted = pipeline.interpolate(
            adata,
            at,
            time_key=asked,
            two_sided=two_sided,
            n_steps=n_steps,
            level=level,
            blend=blend,
            file=output,
        )
        text, margin = f"{output}: {predicted.n_obs} cells at time {at:g}", None
        if "cellmnn_margin" in predicted.var:
            margins = predicted.var["cellmnn_margin"]
            margin = margins[margins > 0].median()
            text += f"\nmean of a gene: within {margin:.2g} at {level:.0%} (median of genes)"
        say(
            text,
            quiet=quiet,
            as_json=as_json,
            output=str(output),
            cells=predicted.n_obs,
            time=at,
            median_margin=margin,
            level=level,
        )


def adapt(
    base: Base,
    file: File,
    time_key: TimeKey,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapted model.")],
    use_rep: UseRep = None,
    time_map: TimeMap = None,
    layer: Layer = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    batch_key: BatchKey = None,
    start: Annotated[
        str, typer.Option(help="encoder, mean, or a data set to take the embedding of.")
    ] = "encoder",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a model of a time course from a pretrained one, without any training."""
    with plain_errors(quiet=quiet):
        require_outputs([base, file, symbols], {"output": (output, FOLDER)})
        adata = read_file(file)
        adapted = load_pipeline(base).adapt(
            adata,
            time_key=read_time_key(time_key, time_map),
            use_rep=use_rep,
            layer=layer,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,
            batch_key=batch_key,
            start=start,
        )
        adapted.save_pretrained(output)
        record = adapted.record
        say(
            f"{output}: {record.coverage}",
            quiet=quiet,
            as_json=as_json,
            output=str(output),
            times=record.times,
            cells=record.cells,
            genes_matched=record.coverage.matched,
        )


def trajectory(
    model: Model,
    file: FileOrDataset = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Cells by time, .h5ad or .zarr.")
    ] = Path("trajectory.h5ad"),
    dataset: Dataset = None,
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    start: Annotated[
        float | None, typer.Option(help="The time whose cells are followed; the first if absent.")
    ] = None,
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
    seed: Annotated[int, typer.Option(help="Of the cells.")] = 0,
    figure: Annotated[Path | None, typer.Option(help="The trajectories as a figure.")] = None,
    genes: Annotated[
        list[str] | None, typer.Option("--gene", help="To be drawn over time; may be repeated.")
    ] = None,
    trends: Annotated[Path, typer.Option(help="The figure of these genes.")] = Path("trends.png"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Follow cells through time: observed ones, or those of a data set that a model knows."""
    with plain_errors(quiet=quiet):
        drawn = {"figure": (figure, FIGURES), "trends": (trends if genes else None, FIGURES)}
        require_outputs([model, file], {"output": (output, CELLS), **drawn})
        adata = None if file is None else read_file(file)
        pipeline = load_pipeline(model, dataset)
        asked = asked_time_key(pipeline, time_key, time_map)
        found = pipeline.trajectory(
            adata,
            times,
            time_key=asked,
            start=start,
            cells=cells,
            n_steps=n_steps,
            rtol=rtol,
            atol=atol,
            seed=seed,
            file=output,
        )
        if genes is not None:
            from ..questions.result import read_expression
            from ..report.figures import plot_gene_trends

            save_figure(plot_gene_trends(read_expression(output, found, genes), genes), trends)
        if figure is not None:
            from ..report.figures import plot_trajectories

            save_figure(plot_trajectories(found), figure)
        times_found = sorted(found.obs["time"].unique().tolist())
        cells_found = found.n_obs // len(times_found)
        say(
            f"{output}: {cells_found} cells at {len(times_found)} times",
            quiet=quiet,
            as_json=as_json,
            output=str(output),
            cells=cells_found,
            times=times_found,
        )


def annotate(
    model: Model,
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="The same cells, .h5ad or .zarr.")],
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    dataset: Dataset = None,
    layers: Annotated[
        bool, typer.Option(help="Add expression and velocity of every gene, dense.")
    ] = True,
    figure: Annotated[Path | None, typer.Option(help="The velocities as a figure.")] = None,
    basis: Annotated[
        str, typer.Option(help="Key of obsm with the embedding of the figure.")
    ] = "X_cellmnn",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Add latent states, velocities and loadings to observed cells."""
    with plain_errors(quiet=quiet):
        outputs = {"output": (output, CELLS), "figure": (figure, FIGURES)}
        require_outputs([model, file], outputs)
        adata = read_file(file)
        pipeline = load_pipeline(model, dataset)
        asked = asked_time_key(pipeline, time_key, time_map)
        annotated = pipeline.annotate(adata, time_key=asked, layers=layers, file=output)
        if figure is not None:
            from ..report.figures import plot_embedded_velocity

            save_figure(plot_embedded_velocity(annotated, basis), figure)
        cells = annotated.n_obs
        say(
            f"{output}: {cells} cells",
            quiet=quiet,
            as_json=as_json,
            output=str(output),
            cells=cells,
        )


def evaluate(
    file: File,
    time_key: TimeKey,
    use_rep: UseRep = None,
    time_map: TimeMap = None,
    layer: Layer = None,
    n_dims: Annotated[int, typer.Option(help="Dimensions that W1 is taken in, at most.")] = 5,
    subspace: SubspaceFolder = None,
    subspace_mode: SubspaceModeOption = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    batch_key: BatchKey = None,
    protocol: Annotated[
        Literal["strict", "published"],
        typer.Option(help="Fit components and scales without the held-out time, or on all times."),
    ] = "strict",
    frame: Frame = False,
    growth: GrowthOption = None,
    proliferation: Proliferation = None,
    apoptosis: Apoptosis = None,
    preset: Annotated[
        Literal["default", "sliced", "paper", "leaky"],
        typer.Option(help="A recipe to add; paper and leaky, as published, take minutes."),
    ] = "default",
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    base: Annotated[
        str | None,
        typer.Option(help="A pretrained model (cellmnn-base, or a folder) to compare, zero-shot."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="All figures, .json.")] = None,
    figure: Annotated[Path | None, typer.Option(help="The table as a figure.")] = None,
    quiet: Quiet = False,
) -> None:
    """Leave each interior time out, predict it, and compare with simple baselines."""
    with plain_errors(quiet=quiet):
        outputs = {"json": (json_file, JSON), "figure": (figure, FIGURES)}
        require_outputs([base, file, subspace, symbols], outputs)
        adata = read_file(file)
        pipeline = load_pipeline(base)
        evaluation = pipeline.evaluate(
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
            protocol=protocol,
            frame=frame,
            growth=read_growth_option(growth, proliferation, apoptosis),
            preset=preset,
            seeds=seeds,
            progress=not quiet,
        )
        if str(json_file) != STANDARD_OUTPUT:
            print_evaluation(file.stem, evaluation)
        if json_file is not None:
            save_json({"file": file.name, **evaluation.to_dict()}, json_file)
        if figure is not None:
            from ..report.figures import plot_evaluation

            save_figure(plot_evaluation(evaluation), figure)


def report(
    model: Model,
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, .html.")] = Path(
        "report.html"
    ),
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    dataset: Dataset = None,
    groups: Annotated[
        str | None,
        typer.Option(help="For the fates: column of obs, or how many clusters of the last cells."),
    ] = None,
    evaluation: Annotated[
        bool, typer.Option(help="Leave times out and fit again, beside baselines.")
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write one page about a model and a data set, that opens without a network."""
    with plain_errors(quiet=quiet):
        require_outputs([model, file], {"output": (output, PAGES)})
        adata = read_file(file)
        from ..report.page import write_report

        pipeline = load_pipeline(model, dataset)
        write_report(
            pipeline,
            adata,
            output,
            time_key=asked_time_key(pipeline, time_key, time_map),
            groups=None if groups is None else column_or_count(groups, adata),
            evaluate=evaluation,
            progress=not quiet,
        )
        say(str(output), quiet=quiet, as_json=as_json, output=str(output))


def demo(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.h5ad]", help="A time course; known systems without one."),
    ] = None,
    time_key: TimeKey = "time",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "demo_output"
    ),
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Run the main job and write its tables and figures.

    With a file: fit, interpolate, evaluate, cellmnn-base included. Without: recover systems whose
    truth is known, and follow cells of a data set that cellmnn-base knows.
    """
    with plain_errors(quiet=quiet):
        if output.exists() and not output.is_dir():
            raise InputError("output", "a folder", f"a file, {output}", "name another one")
        require_outputs([file], {"output": (output / "evaluation.json", JSON)})
        from .demo import demo_base, demo_file, demo_known_systems

        output.mkdir(parents=True, exist_ok=True)
        if file is None:
            demo_known_systems(output, seeds, progress=not quiet)
            demo_base(output)
        else:
            demo_file(file, time_key, output, seeds, progress=not quiet)
        typer.echo(f"tables and figures: {output}")


_PANELS = {
    "Models": (fit, finetune, adapt),
    "Questions": (interpolate, trajectory, annotate, fates, growth, perturb, compare, grn),
    "How good is it?": (evaluate, grn_evaluate, report, demo),
    "Sharing": (push, pull, models),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        _name = _command.__name__.replace("_", "-")
        app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(subspace_app, rich_help_panel="Models")
