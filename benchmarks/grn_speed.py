"""Seconds and memory of the 10,000 strongest edges between 2,000 and 20,000 genes.

    python -m benchmarks.grn_speed    # half a minute; writes results/grn_speed.jsonl

Each case in a process of its own, whose peak memory is set against that before the network.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from itertools import product

import numpy as np

from studies.results import Results

RESULTS = Results("grn_speed")
SIZES = {"2,000 genes, 5,000 cells": (2_000, 5_000), "20,000 genes, 2,000 cells": (20_000, 2_000)}
ESTIMATORS = ("association", "production")


def main() -> None:
    """Run the cases one after another."""
    measured = {}
    for (label, sizes), estimator in product(SIZES.items(), ESTIMATORS):
        command = [sys.executable, "-m", "benchmarks.grn_speed", *map(str, sizes), estimator]
        printed = subprocess.run(command, check=True, capture_output=True).stdout
        measured[f"{label}, {estimator}"] = json.loads(printed)
        print(label, estimator, measured[f"{label}, {estimator}"])
    RESULTS.replace(measured)


def one_case(genes: int, cells: int, estimator: str) -> None:
    """Print seconds of the network and of its edges, and megabytes beyond those of the data."""
    from cellmnn_fm.data.subspace import Subspace
    from cellmnn_fm.data.time_course import TimeScale
    from cellmnn_fm.questions.grn.association import association_network
    from cellmnn_fm.questions.grn.estimators import CellStates, production_network

    rng = np.random.default_rng(0)
    states = rng.normal(size=(cells, 10)).astype(np.float32)
    x = rng.normal(size=(cells, genes)).astype(np.float32)
    x += states @ rng.normal(size=(10, genes)).astype(np.float32)
    subspace = Subspace.pca(x, 10, 0)
    cell_states = CellStates(subspace.project(x), states, np.zeros(cells), x)
    names = tuple(f"g{gene}" for gene in range(genes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    estimate = association_network if estimator == "association" else production_network
    network = estimate(cell_states, subspace, names, TimeScale(0.0, 1.0))
    estimated = time.perf_counter()
    network.to_dataframe(top_k=10_000)
    done = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "network_seconds": round(estimated - started, 2),
                "edges_seconds": round(done - estimated, 2),
                "peak_mb": round(after / 1024),
                "beyond_the_data_mb": round((after - before) / 1024),
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        one_case(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    else:
        main()
