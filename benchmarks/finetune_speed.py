"""Seconds of fine-tuning cellmnn-base on 5 times of 3,000 cells, and of its verdict.

python -m benchmarks.finetune_speed    # under a minute; writes results/finetune_speed.jsonl
"""

from __future__ import annotations

import os
import time

import anndata
import numpy as np
import pandas as pd

from cellmnn_fm import CellMNNPipeline
from studies.results import Results

RESULTS = Results("finetune_speed")
CELLS, TIMES, GENES = 3_000, 5, 1_000


def main() -> None:
    """Fit with and without a verdict."""
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    genes = base.foundation.shared.panel.names[:GENES]
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(TIMES, dtype=float), CELLS)
    states = rng.normal(size=(len(day), 10)) + day[:, None] * rng.normal(size=10)
    x = states @ rng.normal(size=(10, GENES)) + rng.normal(size=(len(day), GENES))
    obs = pd.DataFrame({"day": day}, index=[f"cell{number}" for number in range(len(day))])
    adata = anndata.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    base.finetune(adata[::100].copy(), time_key="day", steps=2, verdict=False)  # imports and caches
    measured = {"cells": len(day), "times": TIMES, "genes": GENES, "cores": os.cpu_count()}
    for verdict in (False, True):
        started = time.perf_counter()
        fitted = base.finetune(adata, time_key="day", verdict=verdict)
        seconds = time.perf_counter() - started
        measured["with_verdict_seconds" if verdict else "seconds"] = round(seconds, 2)
        measured["training_seconds"] = round(fitted.record.seconds, 2)
        measured["steps"] = len(fitted.record.losses)
    print(measured)
    RESULTS.replace({(): measured})


if __name__ == "__main__":
    main()
