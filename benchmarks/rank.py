"""Time of a training step, low-rank against dense eigenvectors, as ratios in one run.

python -m benchmarks.rank    # about a minute on 2 cores
"""

from __future__ import annotations

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer

from cellmnn_fm import CellMNNConfig, CellMNNModel
from cellmnn_fm.training.losses import energy_distance, invertibility_penalty, kinetic_energy
from studies.results import Results

DIMS = (5, 20, 50, 100)
TIMES, CELLS, RANK = 4, 64, 4


def step_seconds(dim: int, rank: int | None) -> float:
    """Median seconds of forward, loss, backward and optimiser step."""
    torch.manual_seed(0)
    model = CellMNNModel(CellMNNConfig(latent_dim=dim, rank=rank))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    source, target = torch.randn(2, TIMES, CELLS, dim)
    times = torch.arange(TIMES).float()

    def step() -> None:
        output = model(source, times, times)
        loss = energy_distance(output.states, target).sum()
        loss = loss + kinetic_energy(output.velocity) + invertibility_penalty(output.determinant)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=3.0).median


if __name__ == "__main__":
    rows = []
    for dim in DIMS:
        dense, low_rank = step_seconds(dim, None), step_seconds(dim, min(RANK, dim))
        rows.append({"dim": dim, "dense": dense, "low_rank": low_rank, "ratio": dense / low_rank})
    slope = np.polyfit(*np.log([[r["dim"] for r in rows], [r["low_rank"] for r in rows]]), 1)[0]
    table = Table(title=f"Training step, {TIMES} times x {CELLS} cells, rank {RANK}")
    for name in ("dimensions", "dense, ms", "low rank, ms", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["dim"]),
            *(f"{1e3 * row[name]:.1f}" for name in ("dense", "low_rank")),
            f"{row['ratio']:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(f"low rank: log time against log dimensions has a slope of {slope:.2f}")
    Results("rank").replace({row["dim"]: row for row in rows})
