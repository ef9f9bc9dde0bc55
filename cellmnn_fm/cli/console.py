"""What all commands share: options, files, errors in one line, tables."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data.growth_genes import Growth
    from ..data.times import TimeKey as TimeKeyOption
    from ..evaluation.evaluation import Evaluation
    from ..pipeline import CellMNNPipeline

# heavy modules are imported inside the functions: --help must answer at once

# packages of optional dependencies
_EXTRAS = {"matplotlib": "plot", "datasets": "train", "peft": "train", "umap": "umap"}

File = Annotated[Path, typer.Argument(metavar="FILE.h5ad", help="AnnData time course.")]
TimeKey = Annotated[
    str,
    typer.Option(help="Column of obs with the time of each cell: numbers, or day3, E8.5, 48h, ..."),
]
TimeMap = Annotated[
    list[str] | None,
    typer.Option("--time-map", help="LABEL=TIME, where labels cannot be read; repeat."),
]
UseRep = Annotated[
    str | None,
    typer.Option(help='Key of obsm with an embedding to use in place of genes, or "X".'),
]
Layer = Annotated[str | None, typer.Option(help="Layer to use in place of X.")]
SubspaceFolder = Annotated[
    Path | None, typer.Option("--subspace", help="Folder of a shared subspace to work in.")
]
SubspaceModeOption = Annotated[
    Literal["own", "shared", "aligned"] | None,
    typer.Option(
        "--subspace-mode",
        help="Own components, the shared space, or own components aligned with it; "
        "aligned by default with --subspace.",
    ),
]
Symbols = Annotated[
    str | None,
    typer.Option(
        help="Column of var with human symbols, or a table of names and human symbols "
        "(.tsv or .csv, two columns, no header)."
    ),
]
OnDuplicatesOption = Annotated[
    Literal["error", "sum", "mean", "first"],
    typer.Option("--on-duplicates", help="What becomes of genes with the same human symbol."),
]
Backed = Annotated[
    bool, typer.Option("--backed", help="Leave X on disk and read it in chunks: less memory.")
]
Base = Annotated[
    str, typer.Argument(metavar="BASE", help="A pretrained model: cellmnn-base, or a folder.")
]
Dataset = Annotated[
    str | None,
    typer.Option(help="Which of the data sets that the model knows the cells are of."),
]
Verdict = Annotated[
    bool,
    typer.Option(
        "--verdict/--no-verdict",
        help="Say at the end whether predictions of left-out times beat OT-Interpolate; one more "
        "fit for each of them.",
    ),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model, or cellmnn-base.")]
TimeKeyOrFit = Annotated[
    str | None,
    typer.Option("--time-key", help="Where it differs from the fit; needed by cellmnn-base."),
]
FileOrDataset = Annotated[
    Path | None, typer.Argument(metavar="[FILE.h5ad]", help="Cells; not needed with --dataset.")
]
Frame = Annotated[bool, typer.Option(help="Work in the Gaussian frame of the snapshots.")]
BatchKey = Annotated[
    str | None,
    typer.Option(help="Column of obs with batches, whose shifts and scales are taken off."),
]
GrowthOption = Annotated[
    str | None,
    typer.Option(
        "--growth",
        help='Let cells multiply and die: at "learned" rates, with "genes" that say where, or at '
        "the known net rates (per unit of time) in a column of obs.",
    ),
]
Proliferation = Annotated[
    list[str] | None, typer.Option(help="With --growth genes: one of dividing cells; repeat.")
]
Apoptosis = Annotated[
    list[str] | None, typer.Option(help="With --growth genes: one of dying cells; repeat.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Say it as JSON, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no notices.")]


def say(text: str, *, quiet: bool, as_json: bool, **content: Any) -> None:
    """What a command has to say: a line, or the same as JSON for machines, or nothing."""
    if as_json:
        import json

        typer.echo(json.dumps(content, default=float))
    elif not quiet:
        typer.echo(shown(text))


def read_symbols(symbols: str | None) -> str | dict[str, str] | None:
    """The name of a column as it is, and the table in a file."""
    if symbols is None or not Path(symbols).is_file():
        return symbols
    import pandas as pd

    from ..model.errors import InputError

    try:
        table = pd.read_csv(
            symbols, sep=None, engine="python", header=None, dtype=str, encoding="utf-8-sig"
        ).dropna()
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(symbols, "a table", f"another file ({error})", "correct it") from error
    if table.shape[1] != 2:
        columns = f"{table.shape[1]} columns"
        raise InputError(symbols, "two columns", columns, "give a name and a human symbol each row")
    return dict(zip(table[0], table[1], strict=True))


def read_time_key(column: str, time_map: list[str] | None) -> str | TimeKeyOption:
    """The column of times, with a table of labels where one is given."""
    if not time_map:
        return column
    from ..data.times import TimeKey
    from ..model.errors import InputError

    try:
        pairs = [one.rsplit("=", 1) for one in time_map]
        return TimeKey(column, {label: float(time) for label, time in pairs})
    except ValueError:
        raise InputError("time map", "LABEL=TIME", ", ".join(time_map), "give pairs") from None


def asked_time_key(
    pipeline: CellMNNPipeline, column: str | None, time_map: list[str] | None
) -> str | TimeKeyOption | None:
    """How the times of a file are read that a model is asked about; None: as those of the fit."""
    if not time_map:
        return column
    return read_time_key(column or pipeline.record.time_key, time_map)


def read_growth_option(
    growth: str | None, proliferation: list[str] | None, apoptosis: list[str] | None
) -> Growth:
    """Whether cells multiply, and what is known of it, as a fit takes it."""
    from ..data.growth_genes import GrowthGenes

    if growth == "genes":
        named = {"proliferation": proliferation, "apoptosis": apoptosis}
        if not any(named.values()):
            return GrowthGenes()
        return GrowthGenes(**{name: tuple(genes or ()) for name, genes in named.items()})
    if proliferation or apoptosis:
        from ..model.errors import InputError

        raise InputError("growth", "genes, to name some", growth or "nothing", "add --growth genes")
    return True if growth == "learned" else growth or False


def start_tracker(accelerator: Accelerator, tracker: str | None, settings: dict[str, Any]) -> None:
    """Start the experiment tracker that was asked for, with settings by section and name.

    Raises
    ------
    InputError
        If it is not installed, which accelerate passes over.
    """
    if tracker is None:
        return
    if not accelerator.log_with:
        from ..model.errors import InputError

        raise InputError(
            "tracker", f"{tracker} installed", "no such package", f"pip install {tracker}"
        )
    flat = {}
    for section, values in settings.items():
        for name, value in (values if isinstance(values, dict) else {"": values}).items():
            flat[f"{section}.{name}".rstrip(".")] = str(value)
    accelerator.init_trackers("cellmnn_fm", config=flat)


def silence_transformers() -> None:
    """No bars of transformers for files of a few hundred kilobytes."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_pipeline(model: str | None, dataset: str | None = None) -> CellMNNPipeline:
    """The pipeline that a command is about, or one to be fitted; without bars of transformers."""
    from ..pipeline import CellMNNPipeline

    silence_transformers()
    if model is None:
        return CellMNNPipeline()
    return CellMNNPipeline.from_pretrained(model, dataset)


@contextmanager
def plain_errors(interrupted: str = "interrupted", *, quiet: bool = False) -> Iterator[None]:
    """Bad input ends in one line and exit code 2, a signal n in 128 + n; notices at the end."""
    from ..model.errors import InputError
    from ..training.interrupts import Interrupted, raised

    try:
        with raised(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default", UserWarning)
            yield
        said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
        for message in [] if quiet else dict.fromkeys(said):
            _complain(f"warning: {message}")
    except InputError as error:
        _complain(f"error: {error}")
        raise typer.Exit(2) from None
    except ImportError as error:
        if error.name not in _EXTRAS:
            raise
        fix = f"pip install 'cellmnn-fm[{_EXTRAS[error.name]}]'"
        _complain(f"error: {error.name}: expected the package, found none; {fix}")
        raise typer.Exit(2) from None
    except (OSError, MemoryError) as error:
        # what the system will not do: a full disk, a folder that went away, no memory
        reason = str(error) or "no memory left"
        _complain(f"error: system: expected to go on, found {reason}; make room, and try again")
        raise typer.Exit(2) from None
    except KeyboardInterrupt as error:
        typer.echo(interrupted, err=True)
        number = error.number if isinstance(error, Interrupted) else 2
        raise typer.Exit(128 + number) from None


def shown(text: object) -> str:
    """For a terminal: control characters, which names of others may hold, as their codes."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in str(text)
    )


def _complain(text: str) -> None:
    typer.echo(shown(" ".join(text.split())), err=True)


def print_table(
    title: str, rows: list[dict[str, Any]], columns: dict[str, Callable[[Any], str]]
) -> None:
    """Print rows, each column rendered by its function."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=shown(title), title_justify="left")
    for name, render in columns.items():
        is_text = render is str
        label = shown(name.replace("_", " "))
        table.add_column(label, justify="left" if is_text else "right", no_wrap=is_text)
    for row in rows:
        table.add_row(*(shown(render(row[name])) for name, render in columns.items()))
    Console(markup=False, emoji=False, highlight=False).print(table)  # "[naive]" is a label


def print_evaluation(name: str, evaluation: Evaluation) -> None:
    """Print the table of an evaluation."""
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
