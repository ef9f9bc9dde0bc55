"""Build the corpus: time courses of datasets.toml in one latent space.

    python -m pretraining.build_corpus corpus                        # about half a minute
    python -m pretraining.build_corpus corpus_shared --mode shared

A killed build goes on where it was; data sets that are there are left as they are. Every file is
checked against its checksum first.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import anndata
import datasets
import typer
from rich.console import Console
from rich.progress import track

from cellmnn_fm import GeneOptions, InputError, fit_shared_subspace
from cellmnn_fm.cli.output import plain_errors
from cellmnn_fm.data.corpus import Corpus

HERE = Path(__file__).parent
GENES = GeneOptions(on_duplicates="mean")
LATENT_DIM = 8
DATA = Path("../shared/data")
Data = Annotated[Path, typer.Option(envvar="CELLMNN_DATA", help="Folder of the .h5ad files.")]


def main(
    output: Annotated[Path, typer.Argument(help="Folder of the corpus.")],
    data: Data = DATA,
    mode: Annotated[Literal["shared", "aligned"], typer.Option(help="Latent space.")] = "aligned",
    latent_dim: int = LATENT_DIM,
) -> None:
    """Build or complete a corpus."""
    with plain_errors("interrupted: the same command goes on with the next data set"):
        listed = read_list()
        check_files(data, listed)
        corpus = build(output, open_files(data, listed), listed, mode, latent_dim)
        cells = sum(sum(entry.cells) for entry in corpus.entries.values())
        print(f"{output}: {len(corpus)} data sets, {cells:,} cells, {corpus.latent_dim} dimensions")


# ---------------------------------------------------------------------------------------------
# The list


def read_list() -> list[dict[str, Any]]:
    """Facts of each data set."""
    return tomllib.loads((HERE / "datasets.toml").read_text())["datasets"]


def check_files(data: Path, listed: Sequence[dict[str, Any]]) -> None:
    """Refuse files that are missing or not the listed ones."""
    for entry in listed:
        file = data / entry["file"]
        if not file.is_file():
            raise InputError(str(file), "a file of the list", "nothing", "correct CELLMNN_DATA")
        actual = hashlib.sha256(file.read_bytes()).hexdigest()
        if actual != entry["sha256"]:
            raise InputError(
                str(file), f"checksum {entry['sha256']}", actual, "get the listed file"
            )


def open_files(data: Path, listed: Sequence[dict[str, Any]]) -> dict[str, anndata.AnnData]:
    """The listed data sets by name, their values left on disk."""
    return {entry["name"]: anndata.read_h5ad(data / entry["file"], backed="r") for entry in listed}


# ---------------------------------------------------------------------------------------------
# The corpus


def build(
    output: Path,
    adatas: Mapping[str, anndata.AnnData],
    listed: Sequence[dict[str, Any]],
    mode: Literal["shared", "aligned"] = "aligned",
    latent_dim: int = LATENT_DIM,
) -> Corpus:
    """A corpus of the listed data sets."""
    datasets.disable_progress_bars()
    if (output / "manifest.json").exists():
        corpus = Corpus(output)
    else:
        shared = fit_shared_subspace(adatas, n_dims=latent_dim, genes=GENES, progress=True)
        corpus = Corpus.create(output, shared=shared, subspace_mode=mode)
    for entry in track(listed, "projecting", console=Console(stderr=True), transient=True):
        if entry["name"] not in corpus.entries:
            corpus.add_anndata(entry["name"], adatas[entry["name"]], genes=GENES, provenance=entry)
    return corpus


if __name__ == "__main__":
    typer.run(main)
