"""The figures of the gallery: `python docs/draw_gallery.py`, with the data in CELLMNN_DATA."""

import os
import warnings
from pathlib import Path

import anndata
import numpy as np

from cellmnn_fm import CellMNNPipeline, pl

FIGURES = Path(__file__).parent / "figures"
DATA = Path(os.environ.get("CELLMNN_DATA", "../shared/data"))


def main() -> None:
    """Draw them all."""
    warnings.simplefilter("ignore")
    pipeline = CellMNNPipeline.from_pretrained("cellmnn-base")
    adata = anndata.read_h5ad(DATA / "mef_neuron.h5ad")
    annotated = pipeline.annotate(adata, time_key="time")
    pl.velocity_stream(annotated, color="cell_type", save=FIGURES / "mef_neuron_stream.png")

    name = "ipsc_cardiomyocyte"
    adata = anndata.read_h5ad(DATA / f"{name}.h5ad")
    cells = pipeline.cells(adata, time_key="time")
    annotated = pipeline.annotate(cells)
    predicted = pipeline.interpolate(cells, 3.5)
    pl.interpolation(annotated, predicted, save=FIGURES / f"{name}_interpolation.png")
    times = np.linspace(*cells.course.times[[0, -1]], 50).tolist()
    followed = pipeline.trajectory(cells, times, cells=150, n_steps=2)
    pl.trajectories(annotated, followed, save=FIGURES / f"{name}_trajectories.png")
    fates = pipeline.fates(cells, 2, n_paths=10)
    fates.add_to(annotated)
    pl.fates(annotated, save=FIGURES / f"{name}_fates.png")
    genes = ["MESP1", "HAND1", "EPCAM"]
    pl.gene_trends(followed, genes, fates, save=FIGURES / f"{name}_trends.png")
    pl.drivers(fates, 8, save=FIGURES / f"{name}_drivers.png")
    three = pipeline.fates(cells, 3, n_paths=10)
    three.add_to(annotated)
    pl.fates(annotated, "circle", save=FIGURES / f"{name}_circle.png")
    pl.network(pipeline.grn(cells), top_k=25, save=FIGURES / f"{name}_network.png")
    judged = CellMNNPipeline.from_pretrained("cellmnn-simulated")
    evaluation = judged.evaluate(adata, time_key="time", seeds=1)
    pl.verdict(evaluation, save=FIGURES / f"{name}_verdict.png")


if __name__ == "__main__":
    main()
