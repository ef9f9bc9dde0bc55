"""The command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import (
    Backed,
    Base,
    File,
    Frame,
    Layer,
    OnDuplicatesOption,
    Quiet,
    SubspaceFolder,
    SubspaceModeOption,
    Symbols,
    TimeKey,
    UseRep,
    plain_errors,
    print_table,
    read_file,
    read_symbols,
    silence_transformers,
    with_folder,
)
from .subspace_commands import subspace_app

if TYPE_CHECKING:
    from .evaluation import Evaluation

BASE = "cellmnn-base"

# heavy modules are imported inside the commands: --help must answer at once

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Single-cell dynamics from snapshots: fit a time course, predict what was not measured.",
)
app.add_typer(subspace_app)


@app.command()
def fit(
    file: File,
    time_key: TimeKey,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the fitted model.")],
    use_rep: UseRep = None,
    layer: Layer = None,
    n_dims: Annotated[int | None, typer.Option(help="Latent dimensions, at most.")] = None,
    subspace: SubspaceFolder = None,
    subspace_mode: SubspaceModeOption = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    backed: Backed = False,
    frame: Frame = False,
    preset: Annotated[Literal["default", "paper"], typer.Option(help="Recipe.")] = "default",
    steps: Annotated[
        int | None, typer.Option(help="Training steps; the preset's if absent.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and cells drawn.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Fit a model to a time course.

    Stopped or killed, the same command goes on from the last saved state.
    """
    with plain_errors("interrupted: the same command goes on from the last saved state"):
        adata = read_file(file, backed=backed)
        from accelerate import PartialState

        from .pipeline import CellMNNPipeline

        silence_transformers()
        pipeline = CellMNNPipeline().fit(
            adata,
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            n_dims=n_dims,
            subspace=subspace,
            subspace_mode=subspace_mode,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,
            frame=frame,
            preset=preset,
            steps=steps,
            seed=seed,
            folder=output,
            progress=not quiet,
        )
        if PartialState().is_main_process:
            pipeline.save_pretrained(output)
            if not quiet:
                record, dims = pipeline.record, pipeline.model.config.latent_dim
                typer.echo(
                    f"{output}: {sum(record.cells)} cells at {len(record.times)} times, "
                    f"{len(pipeline.panel)} variables, {dims} dimensions, "
                    f"{len(record.losses)} steps in {record.seconds:.1f} s"
                )


@app.command()
def interpolate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a fitted model, or cellmnn-base.")
    ],
    file: File,
    at: Annotated[float, typer.Option(help="Time to predict, in the unit of the time course.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The predicted snapshot, .h5ad.")],
    time_key: Annotated[
        str | None, typer.Option(help="Where it differs from the fit; needed by cellmnn-base.")
    ] = None,
    two_sided: Annotated[
        bool, typer.Option(help="Push the snapshots before and after, or only the one before.")
    ] = True,
    n_steps: Annotated[int, typer.Option(help="Steps on the way, each with a new operator.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Predict the snapshot at any time from those around it."""
    with plain_errors():
        adata = read_file(file)
        from .pipeline import CellMNNPipeline

        silence_transformers()
        predicted = CellMNNPipeline.from_pretrained(model).interpolate(
            adata, at, time_key=time_key, two_sided=two_sided, n_steps=n_steps
        )
        predicted.write_h5ad(with_folder(output))
        if not quiet:
            typer.echo(f"{output}: {predicted.n_obs} cells at time {at:g}")


@app.command()
def adapt(
    base: Base,
    file: File,
    time_key: TimeKey,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapted model.")],
    use_rep: UseRep = None,
    layer: Layer = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    start: Annotated[
        str, typer.Option(help="encoder, mean, or a data set to take the embedding of.")
    ] = "encoder",
    quiet: Quiet = False,
) -> None:
    """Make a model of a time course from a pretrained one, without any training."""
    with plain_errors():
        adata = read_file(file)
        from .pipeline import CellMNNPipeline

        silence_transformers()
        adapted = CellMNNPipeline.from_pretrained(base).adapt(
            adata,
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,
            start=start,
        )
        adapted.save_pretrained(output)
        if not quiet:
            typer.echo(f"{output}: {adapted.record.coverage}")


@app.command()
def trajectory(
    base: Base,
    dataset: Annotated[str, typer.Option(help="A data set that it was pretrained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Cells by time, .h5ad.")],
    times: Annotated[
        list[float] | None,
        typer.Option("--time", help="May be repeated; the observed times if absent."),
    ] = None,
    cells: Annotated[int, typer.Option(help="How many cells are followed.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the cells.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Follow cells of a data set that a model was pretrained on; its file is not needed."""
    with plain_errors():
        from .pipeline import CellMNNPipeline

        silence_transformers()
        pipeline = CellMNNPipeline.from_pretrained(base)
        found = pipeline.trajectory(dataset, times, cells=cells, seed=seed)
        found.write_h5ad(with_folder(output))
        if not quiet:
            typer.echo(f"{output}: {cells} cells at {found.n_obs // cells} times")


@app.command()
def annotate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a fitted model.")],
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="The same cells, .h5ad.")],
    time_key: Annotated[str | None, typer.Option(help="Where it differs from the fit.")] = None,
    layers: Annotated[
        bool, typer.Option(help="Add expression and velocity of every gene, dense.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Add latent states, velocities and loadings to observed cells."""
    with plain_errors():
        adata = read_file(file)
        from .pipeline import CellMNNPipeline

        silence_transformers()
        pipeline = CellMNNPipeline.from_pretrained(folder)
        annotated = pipeline.annotate(adata, time_key=time_key, layers=layers)
        annotated.write_h5ad(with_folder(output))
        if not quiet:
            typer.echo(f"{output}: {annotated.n_obs} cells")


@app.command()
def evaluate(
    file: File,
    time_key: TimeKey,
    use_rep: UseRep = None,
    layer: Layer = None,
    n_dims: Annotated[int, typer.Option(help="Dimensions that W1 is taken in, at most.")] = 5,
    subspace: SubspaceFolder = None,
    subspace_mode: SubspaceModeOption = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    protocol: Annotated[
        Literal["strict", "published"],
        typer.Option(help="Fit components and scales without the held-out time, or on all times."),
    ] = "strict",
    frame: Frame = False,
    preset: Annotated[
        Literal["default", "paper", "leaky"],
        typer.Option(help="paper and leaky add the published setting to the table (minutes)."),
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
    with plain_errors():
        adata = read_file(file)
        from .pipeline import CellMNNPipeline

        silence_transformers()
        pipeline = CellMNNPipeline() if base is None else CellMNNPipeline.from_pretrained(base)
        evaluation = pipeline.evaluate(
            adata,
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            n_dims=n_dims,
            subspace=subspace,
            subspace_mode=subspace_mode,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,
            protocol=protocol,
            frame=frame,
            preset=preset,
            seeds=seeds,
            progress=not quiet,
        )
        _print_evaluation(file.stem, evaluation)
        if json_file is not None:
            with_folder(json_file).write_text(
                json.dumps({"file": file.name, **evaluation.to_dict()}, indent=1)
            )
        if figure is not None:
            from .plotting import plot_evaluation

            plot_evaluation(evaluation).savefig(with_folder(figure), dpi=150)


@app.command()
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
    with plain_errors():
        output.mkdir(parents=True, exist_ok=True)
        if file is None:
            _demo_known_systems(output, seeds, progress=not quiet)
            _demo_base(output)
        else:
            _demo_file(file, time_key, output, seeds, progress=not quiet)
        typer.echo(f"tables and figures: {output}")


def _demo_known_systems(output: Path, seeds: int, *, progress: bool) -> None:
    from .plotting import plot_interpolation, plot_velocity_field
    from .synthetic import KNOWN_SYSTEMS, recover

    rows = []
    for system in KNOWN_SYSTEMS.values():
        for seed in range(seeds):
            found = recover(system, seed=seed, progress=progress)
            rows.append(
                {
                    "system": system.name,
                    "seed": seed,
                    "velocity_error": found.velocity_error,
                    "w1": found.w1,
                    "floor": found.floor,
                    "ratio_to_floor": found.w1 / found.floor,
                    "seconds": found.trained.seconds,
                }
            )
            if seed:
                continue
            truth = found.course.snapshots[system.held_out]
            time = system.times[system.held_out]
            plot_interpolation(found.course, time, found.predicted.states, truth).savefig(
                output / f"{system.name}_snapshot.png", dpi=150
            )
            plot_velocity_field(
                found.trained.model, found.course, found.trained.time_scale
            ).savefig(output / f"{system.name}_velocity.png", dpi=150)
    (output / "known_systems.json").write_text(json.dumps(rows, indent=1))
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


def _demo_base(output: Path) -> None:
    from .pipeline import CellMNNPipeline
    from .plotting import plot_trajectories

    silence_transformers()
    found = CellMNNPipeline.from_pretrained(BASE).trajectory("hesc_endoderm")
    found.write_h5ad(output / "hesc_endoderm_trajectory.h5ad")
    plot_trajectories(found).savefig(output / "hesc_endoderm_trajectory.png", dpi=150)


def _demo_file(file: Path, time_key: str, output: Path, seeds: int, *, progress: bool) -> None:
    from .pipeline import CellMNNPipeline
    from .plotting import plot_evaluation, plot_interpolation, plot_losses, plot_velocity_field

    adata = read_file(file)
    silence_transformers()
    pipeline = CellMNNPipeline().fit(adata, time_key=time_key, progress=progress)
    pipeline.save_pretrained(output / "model")
    course, record = pipeline.time_course(adata), pipeline.record
    halfway = float(course.times[:2].mean())
    predicted = pipeline.interpolate(adata, halfway)
    predicted.write_h5ad(output / "interpolated.h5ad")
    base = CellMNNPipeline.from_pretrained(BASE)
    evaluation = base.evaluate(adata, time_key=time_key, seeds=seeds, progress=progress)
    (output / "evaluation.json").write_text(json.dumps(evaluation.to_dict(), indent=1))
    figures = {
        "interpolation": plot_interpolation(course, halfway, predicted.obsm["X_cellmnn"]),
        "velocity": plot_velocity_field(pipeline.model, course, record.time_scale),
        "training": plot_losses(record.losses),
        "evaluation": plot_evaluation(evaluation),
    }
    for name, figure in figures.items():
        figure.savefig(output / f"{name}.png", dpi=150)
    _print_evaluation(file.stem, evaluation)


def _print_evaluation(name: str, evaluation: Evaluation) -> None:
    settings = evaluation.settings
    rows = [{"method": method, **row} for method, row in evaluation.summary.items()]
    title = f"{name}: held-out W1, {settings['n_dims']} dimensions, {settings['protocol']}"
    columns: dict[str, Callable[[Any], str]] = {
        "method": str,
        "w1_mean": "{:.3f}".format,
        "w1_sd": lambda spread: "" if spread is None else f"{spread:.3f}",
        "ratio_to_ot_interpolate": "{:.3f}".format,
        "seconds": "{:.2f}".format,
    }
    print_table(title, rows, columns)


if __name__ == "__main__":  # for launchers: accelerate launch -m cellmnn_fm.cli
    app()
