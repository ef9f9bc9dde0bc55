r"""Training and interpolation on a GPU beside this machine's processor. Needs CUDA.

    python -m benchmarks.cuda    # 3 minutes

Milliseconds of a whole training step (one time course; joint training) and of an interpolation of
100,000 cells, GPU and one thread of the processor; and whether a training step makes the host wait,
by torch's own watch on synchronisation: it must be never.

Results: results/cuda.jsonl. Nothing of it has been run where this was written, which had no GPU:
the tests of tests/training/test_hot_path.py are what stands in for it there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from cellmnn_fm import CellMNNConfig, CellMNNModel
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from studies.harness import machine
from studies.results import Results

from .profiles import course_step, joint_step
from .scaling import course_of

REPEATS = 50


def main() -> None:
    """Measure, print and keep."""
    if not torch.cuda.is_available():
        raise SystemExit("CUDA: expected a GPU, found none; run this on a machine that has one")
    torch.set_num_threads(1)
    measured: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        steps = {f"step_{dims}": course_step(dims, device)[0] for dims in (5, 50, 512)}
        steps["joint_step"] = joint_step(device)
        model = CellMNNModel(CellMNNConfig(latent_dim=50)).eval().to(device)
        course = course_of(100_000, 50, 2)
        steps["interpolation"] = lambda model=model, course=course: interpolate(
            Dynamics(model, course.time_scale), course, 0.5
        )
        measured[device] = {name: milliseconds(call) for name, call in steps.items()}
        if device == "cuda":
            measured["waits"] = {
                name: waits(call) for name, call in steps.items() if "step" in name
            }
    measured["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    print(measured)
    Results("cuda").replace({(): {**measured, **machine()}})


def milliseconds(call: Callable[[], Any]) -> float:
    """Mean over repeats, with the device emptied before and after."""
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(REPEATS):
        call()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started) / REPEATS


def waits(call: Callable[[], Any]) -> str:
    """Whether the host waits for the device in a call."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "never"


if __name__ == "__main__":
    main()
