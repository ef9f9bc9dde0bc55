"""The command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import (
    Backed,
    Base,
    Dataset,
    File,
    FileOrDataset,
    Frame,
    Layer,
    Model,
    OnDuplicatesOption,
    Quiet,
    SubspaceFolder,
    SubspaceModeOption,
    Symbols,
    TimeKey,
    TimeKeyOrFit,
    UseRep,
    Verdict,
    plain_errors,
    print_evaluation,
    read_file,
    read_named,
    read_symbols,
    silence_transformers,
    with_folder,
)
from .fate_commands import compare, fates, perturb
from .grn_commands import grn, grn_evaluate
from .subspace_commands import subspace_app

if TYPE_CHECKING:
    pass

# heavy modules are imported inside the commands: --help must answer at once

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Single-cell dynamics from snapshots: fit a time course, predict what was not measured.",
)
app.add_typer(subspace_app)
app.command("grn")(grn)
app.command("grn-evaluate")(grn_evaluate)
app.command("fates")(fates)
app.command("perturb")(perturb)
app.command("compare")(compare)


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
    verdict: Verdict = True,
    quiet: Quiet = False,
) -> None:
    """Fit a model to a time course, from scratch.

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
            verdict=verdict,
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
                if record.verdict is not None:
                    typer.echo(record.verdict["sentence"])


@app.command()
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
    layer: Layer = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = "error",
    backed: Backed = False,
    seed: Annotated[int, typer.Option(help="Of cells and snapshots drawn.")] = 0,
    verdict: Verdict = True,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a pretrained model on one time course, or on several jointly.

    Stopped or killed, the same command goes on from the last saved state.
    """
    with plain_errors("interrupted: the same command goes on from the last saved state"):
        adatas = read_named(files, name, backed=backed)
        from accelerate import PartialState

        from .pipeline import CellMNNPipeline

        silence_transformers()
        only = next(iter(adatas)) if len(adatas) == 1 else None
        tuned = CellMNNPipeline.from_pretrained(base).fit(
            adatas if only is None else adatas[only],
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,
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
            if not quiet:
                for one in adatas:
                    record = (tuned if only else tuned.of_dataset(one)).record
                    typer.echo(
                        f"{output}: {one}, {sum(record.cells)} cells at {len(record.times)} times, "
                        f"{len(record.losses)} steps in {record.seconds:.1f} s"
                    )
                    if record.verdict is not None:
                        typer.echo(record.verdict["sentence"])


@app.command()
def interpolate(
    model: Model,
    file: File,
    at: Annotated[float, typer.Option(help="Time to predict, in the unit of the time course.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The predicted snapshot, .h5ad.")],
    time_key: TimeKeyOrFit = None,
    dataset: Dataset = None,
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
        pipeline = CellMNNPipeline.from_pretrained(model, dataset)
        predicted = pipeline.interpolate(
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
    model: Model,
    file: FileOrDataset = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Cells by time, .h5ad.")] = Path(
        "trajectory.h5ad"
    ),
    dataset: Dataset = None,
    time_key: TimeKeyOrFit = None,
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
    quiet: Quiet = False,
) -> None:
    """Follow cells through time: observed ones, or those of a data set that a model knows."""
    with plain_errors():
        adata = None if file is None else read_file(file)
        from .pipeline import CellMNNPipeline

        silence_transformers()
        pipeline = CellMNNPipeline.from_pretrained(model, dataset)
        found = pipeline.trajectory(
            adata,
            times,
            time_key=time_key,
            start=start,
            cells=cells,
            n_steps=n_steps,
            rtol=rtol,
            atol=atol,
            seed=seed,
        )
        found.write_h5ad(with_folder(output))
        if figure is not None:
            from .plotting import plot_trajectories

            plot_trajectories(found).savefig(with_folder(figure), dpi=150)
        if not quiet:
            count = found.obs["time"].nunique()
            typer.echo(f"{output}: {found.n_obs // count} cells at {count} times")


@app.command()
def annotate(
    model: Model,
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="The same cells, .h5ad.")],
    time_key: TimeKeyOrFit = None,
    dataset: Dataset = None,
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
        pipeline = CellMNNPipeline.from_pretrained(model, dataset)
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
        print_evaluation(file.stem, evaluation)
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
        from .demo import demo_base, demo_file, demo_known_systems

        output.mkdir(parents=True, exist_ok=True)
        if file is None:
            demo_known_systems(output, seeds, progress=not quiet)
            demo_base(output)
        else:
            demo_file(file, time_key, output, seeds, progress=not quiet)
        typer.echo(f"tables and figures: {output}")


if __name__ == "__main__":  # for launchers: accelerate launch -m cellmnn_fm.cli
    app()
