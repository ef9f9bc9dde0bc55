r"""Training and interpolation on a GPU beside this machine's processor.

    python -m benchmarks.cuda              # 3 minutes, needs CUDA
    python -m benchmarks.cuda --on cpu     # the same from end to end, the processor in its place

Milliseconds of a whole training step (one time course; joint training) and of an interpolation of
100,000 cells, on the device and on one thread of the processor; and whether a training step makes
the host wait, by torch's own watch on synchronisation: it must be never.

Results: results/cuda.jsonl, of a GPU alone; --on cpu prints. No GPU was there where this was
written: the tests of tests/training/test_hot_path.py are what stands in for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import typer

from cellmnn_fm import CellMNNConfig, CellMNNModel
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from studies.harness import machine
from studies.results import Results

from .profiles import course_step, joint_step
from .scaling import course_of

REPEATS = 50


def main(
    on: Annotated[Literal["cuda", "cpu"], typer.Option(help="The device.")] = "cuda",
    repeats: Annotated[int, typer.Option(help="Of each call.")] = REPEATS,
) -> None:
    """Measure, print and keep."""
    if on == "cuda" and not torch.cuda.is_available():
        raise SystemExit("CUDA: expected a GPU, found none; run this with one, or with --on cpu")
    torch.set_num_threads(1)
    measured: dict[str, Any] = {}
    for place, device in {"processor": "cpu", "device": on}.items():
        steps = {f"step_{dims}": course_step(dims, device)[0] for dims in (5, 50, 512)}
        steps["joint_step"] = joint_step(device)
        model = CellMNNModel(CellMNNConfig(latent_dim=50)).eval().to(device)
        course = course_of(100_000, 50, 2)
        steps["interpolation"] = lambda model=model, course=course: interpolate(
            Dynamics(model, course.time_scale), course, 0.5
        )
        measured[place] = {name: milliseconds(call, repeats) for name, call in steps.items()}
        if place == "device":
            measured["waits"] = {
                name: waits(call, on) for name, call in steps.items() if "step" in name
            }
    measured["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9 if on == "cuda" else 0.0
    print(measured)
    if on == "cuda":
        Results("cuda").replace({(): {**measured, **machine()}})


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Mean over repeats, with the device emptied before and after."""
    for _ in range(min(5, repeats)):
        call()
    finish_all()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    finish_all()
    return 1e3 * (time.perf_counter() - started) / repeats


def finish_all() -> None:
    """Wait for all that a device was told to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def waits(call: Callable[[], Any], device: str) -> str:
    """Whether the host waits for the device in a call; the processor always does."""
    if device == "cpu":
        call()
        return "always"
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "never"


if __name__ == "__main__":
    typer.run(main)
