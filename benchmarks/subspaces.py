"""What latent spaces keep of every gene-level time course of a data folder, and how firm they are.

    python -m benchmarks.subspaces    # about 5 minutes on 2 cores

One shared subspace of 8 and one of 32 dimensions are fitted over all gene-level sets. For each set:

- coverage, and the part of the variance of expression that the shared space, the own components
  aligned with it, and the own components keep; *unseen* is a shared space that was fitted without
  the set and without those that share cells or a process with it;
- *sixth removed*: the relative change of shared states when a sixth of the genes, drawn at random,
  is not measured (mean of 5 draws);
- *halves*: the genes are split into two random halves, which are aligned separately; correlation of
  the two states in each dimension (median over dimensions, mean of 3 splits), beside that of the
  own components of the halves without alignment (absolute correlation).

Results: results/subspaces.jsonl and .md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import typer
from anndata import AnnData
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from cellmnn_fm.data.genes import GeneOptions
from cellmnn_fm.data.latent_space import LatentSpace, SpaceOptions
from cellmnn_fm.data.options import SubspaceMode
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.data.shared_subspace import SharedSubspace, fit_shared_subspace
from cellmnn_fm.evaluation.subspaces import report_subspaces
from studies.results import Results

RESULTS = Results("subspaces")
DIMS = (8, 32)
GENES = GeneOptions(on_duplicates="mean")
TRANSCRIPTOME = 4000  # genes; from here on a set counts as transcriptome-wide


def main(
    data: Annotated[
        Path, typer.Argument(envvar="CELLMNN_DATA", help="Folder with catalog.json.")
    ] = Path("../shared/data"),
) -> None:
    """Fit, measure, and write the table."""
    catalog = json.loads((data / "catalog.json").read_text())
    adatas = {
        entry["name"]: anndata.read_h5ad(data / entry["file"])
        for entry in catalog
        if entry["space"] == "gene"
    }
    largest = fit_shared_subspace(adatas, n_dims=max(DIMS), genes=GENES, progress=True)
    rows = []
    for dims in DIMS:
        shared = SharedSubspace.fit(largest.members, dims)
        for name, adata in track(
            adatas.items(), f"{dims} dimensions", console=Console(stderr=True)
        ):
            rows.append({"data_set": name, **measure_set(adata, name, shared)})
    RESULTS.replace({(row["data_set"], row["n_dims"]): row for row in rows})
    table = "\n\n".join(
        render(rows, title, names, form)
        for title, names, form in (
            ("Variance kept", ("shared", "unseen", "own_pca"), "{:.1%}"),
            ("Change when a sixth of the genes is removed", ("sixth_removed",), "{:.1%}"),
            (
                "Agreement of halves of the genes",
                ("halves", "halves_unseen", "halves_own"),
                "{:.2f}",
            ),
        )
    )
    RESULTS.show(table)


# ---------------------------------------------------------------------------------------------
# One data set


def measure_set(adata: AnnData, name: str, shared: SharedSubspace) -> dict[str, Any]:
    """All figures of one set, in the shared subspace and in one that never saw it."""
    source, cell_times = read_source(adata), read_times(adata, "time")
    related = {name, *shared.members[name].overlaps}
    related |= {other for other, member in shared.members.items() if name in member.overlaps}
    unseen = shared.without(sorted(related))
    row = report_subspaces(source, cell_times, shared, GENES).to_dict()
    row["variance_unseen"] = report_subspaces(source, cell_times, unseen, GENES).variance_shared
    row["sixth_removed"] = change_without_a_sixth(adata, shared)
    row["halves"] = agreement_of_halves(adata, SpaceOptions("aligned", shared, GENES))
    row["halves_unseen"] = agreement_of_halves(adata, SpaceOptions("aligned", unseen, GENES))
    row["halves_own"] = agreement_of_halves(adata, SpaceOptions(), shared.latent_dim)
    return row


def change_without_a_sixth(adata: AnnData, shared: SharedSubspace, draws: int = 5) -> float:
    """Relative change of shared states when a sixth of the genes is missing."""
    whole = read_source(adata)
    space = LatentSpace.fit(whole, read_times(adata, "time"), SpaceOptions("shared", shared, GENES))
    states, _ = space.project(whole, GENES)
    changes = []
    for seed in range(draws):
        kept = np.random.default_rng(seed).permutation(adata.n_vars)[adata.n_vars // 6 :]
        part, _ = space.project(read_source(adata[:, np.sort(kept)]), GENES)
        changes.append(np.linalg.norm(part - states) / np.linalg.norm(states))
    return float(np.mean(changes))


def agreement_of_halves(
    adata: AnnData, options: SpaceOptions, n_dims: int | None = None, splits: int = 3
) -> float:
    """Correlation of the states that two halves of the genes give, median over dimensions."""
    agreements = []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(adata.n_vars)
        one, other = (
            states_of_genes(adata, np.sort(half), options, n_dims)
            for half in np.array_split(order, 2)
        )
        dims = min(one.shape[1], other.shape[1])
        pairs = [np.corrcoef(one[:, dim], other[:, dim])[0, 1] for dim in range(dims)]
        signed: SubspaceMode = "aligned"  # own components have arbitrary signs
        agreements.append(np.median(pairs if options.mode == signed else np.abs(pairs)))
    return float(np.mean(agreements))


def states_of_genes(
    adata: AnnData, genes: NDArray, options: SpaceOptions, n_dims: int | None
) -> NDArray:
    """Latent states from some of the genes, in a space fitted to these alone."""
    source = read_source(adata[:, genes])
    space = LatentSpace.fit(source, read_times(adata, "time"), options, n_dims=n_dims)
    return space.project(source, options.genes)[0]


# ---------------------------------------------------------------------------------------------
# Table


def render(rows: list[dict[str, Any]], title: str, names: tuple[str, ...], form: str) -> str:
    """Some figures of all sets at all dimensions in Markdown, medians below."""
    values = {
        (row["data_set"], row["n_dims"], name): row.get(f"variance_{name}", row.get(name))
        for row in rows
        for name in names
    }
    columns = [(dims, name) for dims in DIMS for name in names]
    sets = {row["data_set"]: row for row in rows}
    wide = [name for name, row in sets.items() if row["genes"] >= TRANSCRIPTOME]
    header = ["data set", "cells", "genes", "in the panel"]
    header += [f"{name.replace('_', ' ')}, {dims}" for dims, name in columns]
    lines = [f"{title}, at {' and '.join(map(str, DIMS))} dimensions", ""]
    lines += ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for name, row in sets.items():
        known = [name, f"{row['cells']:,}", f"{row['genes']:,}", f"{row['coverage']:.0%}"]
        cells = [form.format(values[name, *column]) for column in columns]
        lines.append("| " + " | ".join(known + cells) + " |")
    for label, of_sets in (("median", list(sets)), ("median of the transcriptome-wide", wide)):
        medians = [np.median([values[name, *column] for name in of_sets]) for column in columns]
        cells = [form.format(value) for value in medians]
        lines.append("| " + " | ".join([f"**{label}**", "", "", "", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
