"""The commands of shared subspaces: fit, add, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.files import read_file
from ..data.outputs import FIGURES, FOLDER, JSON, require_outputs, save_json
from .options import Layer, OnDuplicatesOption, Symbols, command, read_symbols
from .output import Columns, Terminal

if TYPE_CHECKING:
    from anndata import AnnData

    from ..data.shared_subspace import SharedSubspace

subspace_app = typer.Typer(
    name="subspace",
    no_args_is_help=True,
    help="One latent space for data sets that measured different genes.",
)

Files = Annotated[list[Path], typer.Argument(metavar="FILE.h5ad...", help="AnnData files.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a shared subspace.")]


@subspace_app.command()
@command
def fit(
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the subspace.")],
    terminal: Terminal,
    n_dims: Annotated[int, typer.Option(help="Dimensions.")] = 32,
    layer: Layer = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = None,
) -> None:
    """Fit a shared subspace to data sets, reading each in chunks and once.

    Files of coordinates only (uns["space"] = "pca") are left out.
    """
    require_outputs([*files, symbols], {"output": (output, FOLDER)})
    from ..data.genes import GeneOptions
    from ..data.shared_subspace import fit_shared_subspace

    shared = fit_shared_subspace(
        _open(files, terminal),
        n_dims=n_dims,
        layer=layer,
        genes=GeneOptions(read_symbols(symbols), on_duplicates or "error"),
        progress=terminal.progress,
    )
    _save(shared, output, terminal)


@subspace_app.command()
@command
def add(
    folder: Folder,
    files: Files,
    terminal: Terminal,
    layer: Layer = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = None,
) -> None:
    """Add data sets to a shared subspace; those that are in it are not read again."""
    require_outputs([*files, symbols], {"folder": (folder, FOLDER)})
    from ..data.genes import GeneOptions
    from ..data.shared_subspace import SharedSubspace, fit_shared_subspace

    shared = fit_shared_subspace(
        _open(files, terminal),
        layer=layer,
        genes=GeneOptions(read_symbols(symbols), on_duplicates or "error"),
        add_to=SharedSubspace.load(folder),
        progress=terminal.progress,
    )
    _save(shared, folder, terminal)


@subspace_app.command()
@command
def report(
    folder: Folder,
    files: Files,
    terminal: Terminal,
    time_key: Annotated[
        str, typer.Option(help="Column of obs with the time of each cell.")
    ] = "time",
    n_dims: Annotated[
        int | None, typer.Option(help="Dimensions; all of the subspace if absent.")
    ] = None,
    layer: Layer = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The figures, .json; by data set where there are several."
        ),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="The table as a figure.")] = None,
) -> None:
    """How much of data sets a shared subspace keeps: genes, and variance beside own components."""
    outputs = {"output": (output, JSON), "figure": (figure, FIGURES)}
    require_outputs([folder, *files, symbols], outputs)
    from rich.console import Console
    from rich.progress import track

    from ..data.genes import GeneOptions
    from ..data.reading import read_source, read_times
    from ..data.shared_subspace import SharedSubspace
    from ..evaluation.subspaces import report_subspaces

    shared = SharedSubspace.load(folder)
    genes = GeneOptions(read_symbols(symbols), on_duplicates or "error")
    reports = {
        name: report_subspaces(
            read_source(adata, layer=layer), read_times(adata, time_key), shared, genes, n_dims
        )
        for name, adata in track(
            _open(files, terminal).items(),
            "reading",
            console=Console(stderr=True),
            disable=terminal.quiet,
            transient=True,
        )
    }
    rows = [
        {"data_set": name, **report_of_set.to_dict()} for name, report_of_set in reports.items()
    ]
    _print_reports(folder, rows, terminal)
    by_name = {row.pop("data_set"): row for row in rows}
    content = by_name if len(rows) > 1 else rows[0]
    if terminal.as_json:
        terminal.say("", **content)
    if output is not None:
        save_json(content, output)
    if figure is not None:
        from ..pl.quality import subspaces

        subspaces(reports, save=figure, show=False)


def _print_reports(folder: Path, rows: list[dict[str, Any]], terminal: Terminal) -> None:
    """One row for each data set."""
    percent, count = "{:.1%}".format, "{:,}".format
    columns: Columns = {"data_set": str, "cells": count, "genes": count}
    for name in ("coverage", "variance_shared", "variance_aligned", "variance_own_pca"):
        columns[name] = percent
    title = f"{folder}: parts of the variance that {rows[0]['n_dims']} dimensions keep"
    terminal.table(title, rows, columns)


def _open(files: list[Path], terminal: Terminal) -> dict[str, AnnData]:
    """Gene-level files by the names of their data sets, their values left on disk."""
    from ..model.errors import InputError

    adatas: dict[str, AnnData] = {}
    for file in files:
        adata = read_file(file, backed=True)
        name = str(adata.uns.get("name", file.stem))
        if adata.uns.get("space") == "pca":
            if not terminal.quiet:
                typer.echo(f"{name}: coordinates only, left out", err=True)
            continue
        if name in adatas:
            raise InputError("files", "data sets of different names", name, 'set uns["name"]')
        adatas[name] = adata
    if not adatas:
        raise InputError("files", "some with genes", "coordinates only", "give gene-level files")
    return adatas


def _save(shared: SharedSubspace, folder: Path, terminal: Terminal) -> None:
    """Save a subspace, and say what it is."""
    shared.save(folder)
    terminal.say(
        f"{folder}: {shared.latent_dim} dimensions over {len(shared.panel):,} genes "
        f"of {len(shared.members)} data sets",
        folder=str(folder),
        dimensions=shared.latent_dim,
        genes=len(shared.panel),
        datasets=list(shared.members),
    )
