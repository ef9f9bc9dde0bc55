"""Networks of the data sets of a base, kept with it: what many data sets know of genes.

    python -m pretraining.collect_networks cellmnn_fm/model/pretrained/cellmnn-base    # a minute

Of every data set of the base whose file is in $CELLMNN_DATA (or is given) and that measured RNA in
50 cells or more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.options import QuestionReading
from cellmnn_fm.fitted.loading import load_content
from cellmnn_fm.questions.grn.consensus import association_loadings

from .build_corpus import DATA, Data, open_files, read_list

PROTEINS = ("mass cytometry", "flow cytometry")  # assays whose features are not RNA
LEAST_CELLS = 50


def main(
    base: Annotated[Path, typer.Argument(help="Folder of the base, which is completed.")],
    data: Data = DATA,
) -> None:
    """Estimate the network of every data set, and save the base with them."""
    content, origin, card = load_content(base)
    pipeline = CellMNNPipeline(content, origin, card)
    listed = [entry for entry in read_list() if entry["name"] in pipeline.foundation.datasets]
    networks = {}
    for name, backed in open_files(data, listed).items():
        adata = backed.to_memory()
        assay = str(adata.uns.get("assay", "")).lower()
        if adata.n_obs < LEAST_CELLS or any(word in assay for word in PROTEINS):
            continue
        fitted = pipeline.of_dataset(name).fitted
        cells = fitted.cells(adata, QuestionReading(time_key="time"))
        x = fitted.latent_space.expression(cells.source, cells.genes, np.full(adata.n_obs, True))
        networks[name] = association_loadings(x, cells.times)
        print(f"{name}: {x.shape[1]:,} genes, {len(x):,} cells", flush=True)
    completed = replace(pipeline.foundation, networks=networks)
    CellMNNPipeline(completed, origin, card).save_pretrained(base)
    megabytes = sum(part.nbytes for part in networks.values()) / 1e6
    print(f"{base}: networks of {len(networks)} data sets, {megabytes:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
