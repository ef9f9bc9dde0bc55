"""What a large corpus costs in memory and speed, and what a second process gains.

    python -m benchmarks.corpus            # about 3 minutes on 2 cores
    python -m benchmarks.corpus --ingest   # 40 courses of 250,000 cells and 2,000 genes, one by one

- Pretraining steps on a corpus of 100,000 and on one of 10,000,000 synthetic cells, each in a
  process of its own: steps per second, and the anonymous resident memory (RssAnon, Linux) at the
  end. Cells are in memory-mapped files, whose pages are not anonymous.
- Tasks per second of two and of four processes at one thread each, over those of one process at
  one thread: with as many tasks for each process, and with as many in all.

- With --ingest: files of sparse values are made one by one, and added to a corpus by one process:
  seconds a million cells, and its peak resident memory after a quarter, a half and all of them;
  then a pretraining from that corpus on two processes.

Results: results/corpus.jsonl and corpus_ingest.jsonl.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import typer
from accelerate import Accelerator
from rich.progress import track

from cellmnn_fm import TimeCourse, fit_shared_subspace
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.files import open_file
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.pretraining import corpus_config, pretrain
from studies.results import Results

from .memory import apart, make_file

RESULTS = Results("corpus")
DIMS, TIMES, SETS = 8, 5, 10
SMALL, LARGE = 100_000, 10_000_000
COURSES, GENES = 40, 2_000
STEPS = 100
TASKS = 12  # a step
MODEL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "rank": 4,
    "context_cells": 96,
}


def main(
    corpus: Annotated[Path | None, typer.Option(hidden=True)] = None,
    tasks: Annotated[int, typer.Option(hidden=True)] = TASKS,
    large: Annotated[int, typer.Option(help="Cells of the large corpus.")] = LARGE,
    ingest: Annotated[bool, typer.Option("--ingest", help="From files of genes.")] = False,
) -> None:
    """Make the corpora, and measure."""
    if ingest:
        measure_ingestion(large)
        return
    if corpus is not None:  # one of the launched processes
        rates = train(corpus, tasks)
        if int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps(rates))
        return
    results: dict[str, Any] = {"cells": [SMALL, large]}
    with tempfile.TemporaryDirectory() as folder:
        small, many = Path(folder, "small"), Path(folder, "large")
        apart(make, small, SMALL)
        apart(make, many, large)
        measured = [apart(train, corpus_there) for corpus_there in (small, many, small, many)]
        for name in ("rss_anon_mb", "steps_per_second"):
            values = [np.mean([run[name] for run in measured[first::2]]) for first in (0, 1)]
            results[name] = [round(float(value), 2) for value in values]
            results[f"{name}_ratio"] = round(float(values[1] / values[0]), 3)
        rates = {
            "one process": launch(small, 1, TASKS),
            "two processes, as many tasks each": launch(small, 2, 2 * TASKS),
            "two processes, as many tasks in all": launch(small, 2, TASKS),
            "four processes, as many tasks each": launch(small, 4, 4 * TASKS),
        }
        alone = rates["one process"]
        results["tasks_per_second"] = {name: round(rate, 1) for name, rate in rates.items()}
        results["over_one_process"] = {name: round(rate / alone, 2) for name, rate in rates.items()}
    print(json.dumps(results, indent=1))
    RESULTS.replace({(): results})


def make(folder: Path, cells: int) -> None:
    """A corpus of so many cells in 10 data sets of 5 times."""
    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    corpus = Corpus.create(folder, latent_dim=DIMS)
    each = cells // (SETS * TIMES)
    for number in range(SETS):
        snapshots = [
            rng.normal(size=(each, DIMS)).astype(np.float32) + time for time in range(TIMES)
        ]
        corpus.add_course(f"set{number}", TimeCourse(snapshots, np.arange(TIMES, dtype=float)))


def measure_ingestion(cells: int) -> None:
    """From files of genes to a corpus, and a pretraining from it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        measured = apart(fill, folder, cells // COURSES)
        measured["tasks_per_second"] = round(launch(folder / "corpus", 2, 2 * TASKS), 1)
    print(json.dumps(measured, indent=1))
    Results("corpus_ingest").replace({(): measured})


def fill(folder: Path, cells: int) -> dict[str, Any]:
    """Add courses of so many cells, whose files are made by other processes."""
    file = folder / "course.h5ad"
    apart(make_file, file, cells, GENES, "csr")
    shared = fit_shared_subspace({"first": open_file(file)}, n_dims=DIMS)
    corpus = Corpus.create(folder / "corpus", shared=shared)
    seconds, peaks = [], []
    for number in track(range(COURSES), "adding"):
        apart(make_file, file, cells, GENES, "csr", number)
        started = time.perf_counter()
        corpus.add_anndata(f"course{number}", open_file(file))
        seconds.append(time.perf_counter() - started)
        peaks.append(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2))
    million = cells * COURSES / 4 / 1e6
    quarters = [sum(part) / million for part in np.array_split(seconds, 4)]
    return {
        "cells": cells * COURSES,
        "genes": GENES,
        "courses": COURSES,
        "seconds_a_million_by_quarter": [round(float(part), 1) for part in quarters],
        "peak_gb_by_quarter": peaks[COURSES // 4 - 1 :: COURSES // 4],
        "corpus_gb": round(sum(f.stat().st_size for f in folder.rglob("*.arrow")) / 1e9, 2),
    }


def train(folder: Path, tasks: int = TASKS) -> dict[str, float]:
    """Steps per second and memory of a run; the first steps warm up and are not timed."""
    import torch

    torch.set_num_threads(1)
    corpus = Corpus(folder)
    config, sampling = corpus_config(corpus, **MODEL), SamplingConfig(tasks=tasks)
    accelerator = Accelerator(cpu=True)

    def run(steps: int) -> float:
        started = time.perf_counter()
        training = TrainingConfig(steps=steps)
        pretrain(corpus, config, training, sampling, accelerator=accelerator)
        return time.perf_counter() - started

    warm = run(10)
    seconds = run(10 + STEPS) - warm
    status = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(line for line in status if line.startswith("RssAnon"))
    return {
        "steps_per_second": STEPS / seconds,
        "rss_anon_mb": int(anonymous.split()[1]) / 1024,
    }


def launch(corpus: Path, processes: int, tasks: int) -> float:
    """Tasks per second of so many processes at one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    run = ["-m", "benchmarks.corpus", "--corpus", str(corpus), "--tasks", str(tasks)]
    command = [sys.executable, *launcher, *run]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(output.stdout.strip().splitlines()[-1])
    return measured["steps_per_second"] * tasks


if __name__ == "__main__":
    typer.run(main)
