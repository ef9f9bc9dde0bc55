"""The commands of corpora: create, add, list, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import (
    OnDuplicatesOption,
    Symbols,
    command,
    read_symbols,
    read_time_key,
)
from .output import Columns, Terminal

# heavy modules are imported inside the commands: --help must answer at once

corpus_app = typer.Typer(
    name="corpus",
    no_args_is_help=True,
    help="Many time courses in one latent space, on disk, for pretraining.",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a corpus.")]


@corpus_app.command()
@command
def create(
    folder: Folder,
    subspace: Annotated[Path, typer.Option(help="Folder of the shared subspace to work in.")],
    terminal: Terminal,
    subspace_mode: Annotated[
        Literal["shared", "aligned"],
        typer.Option(help="The shared space itself, or own components aligned with it."),
    ] = "aligned",
) -> None:
    """Make an empty corpus in the space that `cellmnn subspace fit` made."""
    from ..data.corpus import Corpus
    from ..data.shared_subspace import SharedSubspace

    shared = SharedSubspace.load(subspace)
    corpus = Corpus.create(folder, shared=shared, subspace_mode=subspace_mode)
    text = f"{folder}: an empty corpus of {corpus.latent_dim} dimensions"
    terminal.say(text, folder=str(folder), dimensions=corpus.latent_dim)


@corpus_app.command()
@command
def add(
    folder: Folder,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help=".h5ad or .zarr, or addresses of these; several are files of one time course.",
        ),
    ],
    time_key: Annotated[str, typer.Option(help="Column of obs with the time of each cell.")],
    terminal: Terminal,
    name: Annotated[
        str | None, typer.Option(help="Of the data set; as the first file says if absent.")
    ] = None,
    time_map: Annotated[
        list[str] | None, typer.Option(help="LABEL=TIME, where labels cannot be read; repeat.")
    ] = None,
    symbols: Symbols = None,
    on_duplicates: OnDuplicatesOption = None,
) -> None:
    """Project a time course and add it; its cells are read twice, in chunks.

    Killed, it leaves the corpus as it was. Checksums of files are kept.
    """
    from ..data.corpus import Corpus
    from ..data.corpus_sets import origin_of
    from ..data.files import checksum, open_file
    from ..data.genes import GeneOptions

    corpus = Corpus(folder)
    adatas = [open_file(file) for file in files]
    about = adatas[0].uns
    name = name or str(about.get("name") or files[0].rstrip("/").rsplit("/", 1)[-1].split(".")[0])
    corpus.require_new(name)
    corpus.add_anndata(
        name,
        adatas,
        time_key=read_time_key(time_key, time_map) or time_key,
        genes=GeneOptions(read_symbols(symbols), on_duplicates or "error"),
        provenance={**origin_of(about), "files": files, "sha256": checksum(files)},
        progress=terminal.progress,
    )
    entry = corpus.entries[name]
    text = (
        f"{name}: {sum(entry.cells):,} cells at {len(entry.times)} times; {len(corpus)} data sets"
    )
    terminal.say(text, name=name, cells=entry.cells, times=entry.times)


@corpus_app.command("list")
@command
def show(folder: Folder, terminal: Terminal) -> None:
    """Data sets of a corpus."""
    from ..data.corpus import Corpus

    corpus = Corpus(folder)
    rows = [
        {
            "name": entry.name,
            "cells": sum(entry.cells),
            "times": len(entry.times),
            "from": f"{entry.times[0]:g} to {entry.times[-1]:g}",
        }
        for entry in corpus.entries.values()
    ]
    columns: Columns = {"name": str, "cells": "{:,}".format, "times": str, "from": str}
    title = f"{folder}: {len(corpus)} data sets, {corpus.latent_dim} dimensions"
    terminal.table(title, rows, columns)
    if terminal.as_json:
        terminal.say("", dimensions=corpus.latent_dim, sets=rows)


@corpus_app.command()
@command
def remove(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Of the data set.")],
    terminal: Terminal,
) -> None:
    """Remove a data set."""
    from ..data.corpus import Corpus

    corpus = Corpus(folder)
    corpus.remove(name)
    terminal.say(f"{name}: removed; {len(corpus)} data sets", name=name)
