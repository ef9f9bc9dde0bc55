"""The data sets of studies: which are for choosing settings, and how their times are read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import anndata
import numpy as np
import typer
from numpy.typing import NDArray

from cellmnn_fm.data.corpus import group_overlapping
from cellmnn_fm.data.reading import read_times
from cellmnn_fm.evaluation.folds import held_out_times

Data = Annotated[Path, typer.Option(envvar="CELLMNN_DATA", help="Folder with catalog.json.")]
DATA = Path("../shared/data")
# settings are chosen on the groups of these, and confirmed on the others
DEVELOPMENT = (
    *("mef_neuron", "mesc_primitive_endoderm", "lung_epithelium", "dendritic_lps_antiviral"),
    *("mouse_early_blood", "hesc_pca5", "mesc_retinoic_acid", "myoblast_transcriptome"),
)
Prediction = tuple[NDArray, NDArray | None]  # states and weights
TIME_KEYS = {"emt_a549": "time_index"}  # as published benchmarks have it


def times_of(file: Path) -> NDArray:
    """The time of each cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small snapshots, which are not held out
        return read_times(anndata.read_h5ad(file, backed="r"), TIME_KEYS.get(file.stem, "time"))


def chosen(cell_times: NDArray, most: int) -> list[float]:
    """At most so many of the times that can be held out, evenly spread."""
    able = held_out_times(cell_times)
    if len(able) <= most:
        return able
    return [able[index] for index in np.linspace(0, len(able) - 1, most).round().astype(int)]


def groups_of(data: Path) -> dict[str, str]:
    """The group of each data set of the catalogue: those that share cells or a process."""
    catalog = json.loads((data / "catalog.json").read_text())
    return group_overlapping({entry["name"]: entry.get("overlaps") or [] for entry in catalog})


def mixed(forward: NDArray, backward: NDArray, share: float) -> Prediction:
    """Cells from both sides, the nearer one weighing more."""
    weights = np.concatenate(
        [
            np.full(len(forward), (1 - share) / len(forward)),
            np.full(len(backward), share / len(backward)),
        ]
    )
    return np.concatenate([forward, backward]), weights
