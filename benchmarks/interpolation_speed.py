"""Seconds to interpolate 100,000 cells in 50 dimensions, both sides.

python -m benchmarks.interpolation_speed    # seconds; writes results/interpolation_speed.jsonl
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch

from cellmnn_fm import CellMNNConfig, CellMNNModel, TimeCourse
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from cellmnn_fm.model.gaussian_frame import fit_frame
from studies.results import Results

RESULTS = Results("interpolation_speed")
CELLS, DIMS, REPEATS = 100_000, 50, 5


def main() -> None:
    """With and without a Gaussian frame, in a model of default size; best of five."""
    rng = np.random.default_rng(0)
    snapshots = [rng.normal(size=(CELLS // 2, DIMS)) + time for time in (0, 1)]
    course = TimeCourse(snapshots, np.array([0.0, 1.0]))
    measured = {"cells": CELLS, "dims": DIMS, "cores": os.cpu_count(), "torch": torch.__version__}
    for frame in (False, True):
        config = CellMNNConfig(
            latent_dim=DIMS, frame=frame, num_frame_times=2 if frame else 0, init_scale=1.0
        )
        model = CellMNNModel(config).eval()
        if frame:
            tensors = [torch.from_numpy(snapshot) for snapshot in course.snapshots]
            model.set_frame_state(fit_frame(tensors, torch.tensor([0.0, 1.0])))
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            predicted = interpolate(Dynamics(model, course.time_scale), course, 0.5)
            seconds.append(time.perf_counter() - started)
        assert predicted.states.shape == (CELLS, DIMS)
        measured["seconds_in_frame" if frame else "seconds"] = round(min(seconds), 3)
    print(measured)
    RESULTS.replace({(): measured})


if __name__ == "__main__":
    main()
