"""Held-out W1 of fits to single time courses, by latent space, beside the baselines.

    python -m benchmarks.fits            # strict, 3 seeds: about 7 minutes on 2 cores
    python -m benchmarks.fits --frame    # fits in the Gaussian frame: about 9 minutes
    python -m benchmarks.fits --quick    # one seed: about 3 minutes
    python -m benchmarks.fits --subspace-mode aligned    # gene-level sets, 10 minutes

With a subspace mode, models live in the 8 dimensions of a subspace that all gene-level sets share
("shared"), or in own components that are aligned with it ("aligned"); it is fitted anew for every
held-out time, without that time and without sets that share cells.

One JSON file for each data set lies in
results/fits_PROTOCOL[_frame][_MODE][_quick];
those that are there already are not computed again: delete a folder to measure anew. The table and
the intervals are made from them.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import torch
import typer

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.data.genes import GeneOptions
from cellmnn_fm.data.options import Protocol, SubspaceMode
from cellmnn_fm.data.shared_subspace import fit_shared_subspace
from cellmnn_fm.evaluation.metrics import with_interval
from studies.results import Results
from studies.tables import markdown

SHARED_DIMS = 8
MERGE = "mean"  # genes with the same human symbol
METHODS = ("forward", "two_sided", "two_sided_same_size", "untrained_two_sided")
# published benchmarks of this set use the index of its times
TIME_KEYS = {"emt_a549": "time_index"}


def main(
    data: Annotated[
        Path, typer.Argument(envvar="CELLMNN_DATA", help="Folder with catalog.json.")
    ] = Path("../shared/data"),
    protocol: Protocol = "strict",
    frame: bool = False,
    subspace_mode: SubspaceMode = "own",
    quick: bool = False,
) -> None:
    """Evaluate all sets that have no result yet, then print the table."""
    in_own = subspace_mode == "own"
    name = f"fits_{protocol}" + "_frame" * frame
    name += ("" if in_own else f"_{subspace_mode}") + "_quick" * quick
    results = Results(name)
    catalog = json.loads((data / "catalog.json").read_text())
    options: dict[str, Any] = {"protocol": protocol, "frame": frame, "seeds": 1 if quick else 3}
    if not in_own:
        catalog = [entry for entry in catalog if entry["space"] == "gene"]
        adatas = {entry["name"]: anndata.read_h5ad(data / entry["file"]) for entry in catalog}
        shared = fit_shared_subspace(
            adatas, n_dims=SHARED_DIMS, genes=GeneOptions(on_duplicates=MERGE), progress=True
        )
        options |= {"subspace": shared, "subspace_mode": subspace_mode, "on_duplicates": MERGE}
    there = results.read()
    for entry in catalog:
        if (entry["name"],) not in there:
            results.keep(evaluate_set(data / entry["file"], options), entry["name"])
    report(results)


# ---------------------------------------------------------------------------------------------
# One data set


def evaluate_set(file: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Evaluate one file; a set without a time to hold out says so."""
    adata = anndata.read_h5ad(file)
    machine = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("cellmnn-fm", "torch", "POT")},
    }
    try:
        evaluation = CellMNNPipeline().evaluate(
            adata,
            time_key=TIME_KEYS.get(file.stem, "time"),
            progress=True,
            **options,
        )
    except InputError as error:
        outcome = {"skipped": str(error)}
    else:
        outcome = evaluation.to_dict()
    return {"file": file.name, **machine, **outcome}


# ---------------------------------------------------------------------------------------------
# All data sets


def report(results: Results) -> None:
    """Print the table of ratios to OT-Interpolate, and keep it."""
    outcomes = [outcome for outcome in results.read().values() if "summary" in outcome]
    header = ["data set", "OT-Interpolate W1", *(m.replace("_", " ") for m in METHODS), "s a fold"]
    rows, ratios = [], {method: [] for method in METHODS}
    for outcome in outcomes:
        summary = outcome["summary"]
        for method in METHODS:
            ratios[method].append(summary[method]["ratio_to_ot_interpolate"])
        cells = [f"{ratios[method][-1]:.3f}" for method in METHODS]
        baseline = f"{summary['ot_interpolate']['w1_mean']:.3f}"
        seconds = f"{summary['two_sided']['seconds']:.2f}"
        rows.append([outcome["file"].removesuffix(".h5ad"), baseline, *cells, seconds])
    rows.append([f"mean of {len(outcomes)}", "", *(with_interval(ratios[m]) for m in METHODS), ""])
    paired = np.array(ratios["two_sided"]) / np.array(ratios["untrained_two_sided"])
    milliseconds = (
        np.median([o["summary"]["untrained_two_sided"]["seconds"] for o in outcomes]) * 1e3
    )
    notes = [
        f"fitted over untrained, both two-sided, paired by set: {with_interval(list(paired))}",
        f"untrained frame: {milliseconds:.0f} ms a fold (median over sets)",
    ]
    results.show(markdown(header, rows) + "\n\n" + "".join(f"- {note}\n" for note in notes))


if __name__ == "__main__":
    typer.run(main)
