"""Memory of fitting and projecting 200,000 cells and 5,000 genes that stay on disk.

    python -m benchmarks.memory           # about 5 minutes on 2 cores, 1.2 GB of temporary disk
    python -m benchmarks.memory --fit     # a model of 500,000 cells and 3,000 genes; 6 minutes
    python -m benchmarks.memory --questions    # 500,000 cells, 2,000 genes, 50 dimensions

The file is made first: Poisson counts of a rank-10 model, a tenth of them not 0, as log(x + 1). A
process of its own then reads it backed, fits a shared subspace to it, and projects all cells in
each mode; its peak resident memory is what counts. The same for a file stored by columns.

With --fit: `CellMNNPipeline.fit` of one file by rows, the verdict included. With --questions: what
the commands fit, interpolate, annotate, fates, trajectory, growth and grn take at most.

Results: results/memory.jsonl, memory_fit.jsonl and memory_questions.jsonl.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import typer
from rich.progress import track
from scipy import sparse
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.latent_space import LatentSpace, SpaceOptions
from cellmnn_fm.data.options import SubspaceMode
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.data.shared_subspace import fit_shared_subspace
from studies.results import Results

BLOCK = 5000  # cells, or genes, that are made at once
RANK = 10


def main(
    cells: int = 200_000, genes: int = 5_000, fit: bool = False, questions: bool = False
) -> None:
    """Make the files, and measure each, in processes of their own."""
    if questions:
        measure_questions(500_000, 2_000, 50)
        return
    if fit:
        measure_fit(500_000, 3_000)
        return
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("csr", "csc"):
            file = Path(folder, f"{layout}.h5ad")
            apart(make_file, file, cells, genes, layout)
            with h5py.File(file) as handle:
                values = handle["X/data"].shape[0]
            measured[layout] = {
                "cells": cells,
                "genes": genes,
                "not_zero": round(values / cells / genes, 3),
                "dense_gb": round(4 * cells * genes / 1e9, 2),
                **apart(fit_and_project, file),
            }
            print(layout, measured[layout])
            file.unlink()
    Results("memory").replace(measured)


def measure_fit(cells: int, genes: int) -> None:
    """A whole fit, with its verdict, of a file by rows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "csr.h5ad")
        apart(make_file, file, cells, genes, "csr")
        measured = {"cells": cells, "genes": genes, **apart(fit_pipeline, file)}
    print(measured)
    Results("memory_fit").replace({(): measured})


def measure_questions(cells: int, genes: int, dims: int) -> None:
    """Each command on a file by rows, in a process of its own."""
    measured: dict[str, Any] = {"cells": cells, "genes": genes, "dims": dims}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file, model = folder / "csr.h5ad", folder / "model"
        apart(make_file, file, cells, genes, "csr")
        for name, words in {
            "fit": [
                *(file, "--time-key", "time", "-o", model, "--no-verdict"),
                *("--n-dims", dims, "--growth", "learned"),
            ],
            "interpolate": [model, file, "--at", "1.5", "-o", folder / "interpolate.h5ad"],
            "annotate": [model, file, "-o", folder / "annotate.h5ad"],
            "fates": [model, file, "--groups", "4", "-o", folder / "fates.tsv"],
            "trajectory": [model, file, "-o", folder / "cells.h5ad", "--n-steps", "4"],
            "growth": [model, file, "-o", folder / "growth.tsv"],
            "grn": [model, file, "-o", folder / "edges.tsv"],
        }.items():
            measured[name] = apart(run_command, [name, *map(str, words), "-q"])
            print(name, measured[name], flush=True)
            for written in folder.glob("*.h5ad"):
                if written != file:
                    written.unlink()
    Results("memory_questions").replace({(): measured})


def run_command(words: list[str]) -> dict[str, float]:
    """Seconds of a command, and the peak resident memory of this process in GB."""
    started = time.perf_counter()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": round(time.perf_counter() - started, 1), "peak_gb": round(peak, 2)}


def fit_pipeline(file: Path) -> dict[str, float]:
    """Seconds of a fit, and the peak resident memory of this process in GB."""
    adata = anndata.read_h5ad(file, backed="r")
    started = time.perf_counter()
    fitted = CellMNNPipeline().fit(adata, time_key="time")
    seconds = time.perf_counter() - started
    assert sum(fitted.record.cells) == adata.n_obs
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": round(seconds, 1), "peak_gb": round(peak, 2)}


def apart(task: Callable[..., Any], *arguments: Any) -> Any:
    """What the task returns from a new process, whose memory counts from nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def make_file(file: Path, cells: int, genes: int, layout: str, seed: int = 0) -> None:
    """Write a sparse file block by block; by columns, cells play genes and the block is turned."""
    rows, columns = (cells, genes) if layout == "csr" else (genes, cells)
    names = [f"GENE{i}" for i in range(genes)]
    kind = sparse.csr_array if layout == "csr" else sparse.csc_array
    adata = anndata.AnnData(
        kind((cells, genes), dtype=np.float32),
        obs=pd.DataFrame({"time": np.arange(cells) % 5 / 1.0}, index=np.arange(cells).astype(str)),
        var=pd.DataFrame(index=names),
        uns={"name": "synthetic"},
    )
    adata.write_h5ad(file)
    rng = np.random.default_rng(seed)
    of_columns = rng.normal(size=(RANK, columns)).astype(np.float32)
    pointers, count = [np.zeros(1, np.int64)], 0
    with h5py.File(file, "r+") as handle:
        group = handle["X"]
        for name, dtype in (("data", np.float32), ("indices", np.int32), ("indptr", np.int64)):
            del group[name]
            group.create_dataset(name, shape=(0,), maxshape=(None,), dtype=dtype, chunks=(2**16,))
        for start in track(range(0, rows, BLOCK), f"making {layout}"):
            for part in range(start, min(start + BLOCK, rows), 500):
                of_rows = rng.normal(size=(min(500, rows - part), RANK)).astype(np.float32)
                rates = np.exp(0.3 * of_rows @ of_columns - 2.8)
                block = sparse.csr_array(rng.poisson(rates).astype(np.float32))
                for name, values in (("data", np.log1p(block.data)), ("indices", block.indices)):
                    group[name].resize(count + block.nnz, axis=0)
                    group[name][count:] = values
                pointers.append(block.indptr[1:] + count)
                count += block.nnz
        indptr = np.concatenate(pointers)
        group["indptr"].resize(len(indptr), axis=0)
        group["indptr"][:] = indptr


def fit_and_project(file: Path) -> dict[str, float]:
    """Seconds of each part, and the peak resident memory of this process in GB."""
    adata = anndata.read_h5ad(file, backed="r")
    source, cell_times = read_source(adata), read_times(adata, "time")
    seconds = {}
    started = time.perf_counter()
    shared = fit_shared_subspace({"synthetic": adata}, n_dims=RANK)
    seconds["fit"] = time.perf_counter() - started
    modes: tuple[SubspaceMode, ...] = ("shared", "aligned")
    for mode in modes:
        started = time.perf_counter()
        space = LatentSpace.fit(source, cell_times, SpaceOptions(mode, shared))
        states, _ = space.project(source)
        assert states.shape == (source.shape[0], RANK)
        seconds[mode] = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        **{f"{name}_seconds": round(value, 1) for name, value in seconds.items()},
        "peak_gb": round(peak, 2),
    }


if __name__ == "__main__":
    typer.run(main)
