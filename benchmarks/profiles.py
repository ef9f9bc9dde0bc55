r"""Where a training step and an interpolation spend their time, against the floor of the machine.

    python -m benchmarks.profiles             # 2 minutes on 2 cores
    python -m benchmarks.profiles --compile   # with torch.compile too, which needs a C++ compiler

One thread. The floor is what the arithmetic alone would take: floating-point operations of matrix
products, counted by torch, at the speed of a large product on this machine, and all bytes that
operations read and write at the speed of a large copy; whichever takes longer. What is above it is
mostly the cost of starting small operations, of which there are hundreds in a step. "Pays from" is
the number of steps from which on compilation has saved more than it took.

Results: results/profiles.jsonl and .md.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cellmnn_fm import CellMNNConfig, CellMNNModel
from cellmnn_fm.data.corpus_sets import CoursesInMemory
from cellmnn_fm.data.synthetic import branching_course
from cellmnn_fm.data.tasks import SamplingConfig, TaskSampler
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.loop import to_device
from cellmnn_fm.training.one_course import CourseStep, draw
from cellmnn_fm.training.pretraining import HeldOutStep, collate
from studies.harness import machine
from studies.results import Results
from studies.tables import markdown

from .scaling import course_of, seconds_of

RESULTS = Results("profiles")


def main(
    compiled: Annotated[bool, typer.Option("--compile", help="Measure torch.compile.")] = False,
) -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    flops_per_second, bytes_per_second = speeds()
    measures: dict[str, Any] = {
        "gigaflops": flops_per_second / 1e9,
        "gigabytes_a_second": bytes_per_second / 1e9,
        **machine(),
    }
    for name, call in workloads().items():
        measures[name] = measured(call, flops_per_second, bytes_per_second)
    if compiled:
        for name, (call, compile_it) in compilable().items():
            measures[name] |= with_compile(call, compile_it, measures[name]["seconds"])
    RESULTS.replace({(): measures})
    report(measures)


def speeds() -> tuple[float, float]:
    """Floating-point operations and bytes a second, one thread, single precision."""
    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    product = 2 * side**3 / seconds_of(lambda: a @ b)
    source, target = torch.randn(2, 32 * 2**20)  # 128 MB each: beyond the caches
    copied = 2 * source.nbytes / seconds_of(lambda: target.copy_(source))
    return product, copied


# ---------------------------------------------------------------------------------------------
# What is measured


def workloads() -> dict[str, Callable[[], Any]]:
    """By name, what is called again and again."""
    calls = {f"training step, {dims} dimensions": course_step(dims)[0] for dims in (5, 50)}
    calls["joint training step, 12 tasks"] = joint_step()
    for dims in (5, 50):
        model = CellMNNModel(CellMNNConfig(latent_dim=dims)).eval()
        course = course_of(20_000, dims, 2)
        calls[f"interpolation of 20,000 cells, {dims} dimensions"] = (
            lambda model=model, course=course: interpolate(
                Dynamics(model, course.time_scale), course, 0.5
            )
        )
    return calls


def course_step(dims: int, device: str = "cpu") -> tuple[Callable[[], None], CourseStep]:
    """A step of the default recipe on 4 snapshots."""
    course = course_of(2_000, dims, 4)
    config, training = preset_configs("default", course)
    torch.manual_seed(0)
    model = CellMNNModel(config).train().to(device)
    step = CourseStep(
        model, training, course.snapshots, torch.from_numpy(course.model_times).float()
    )
    sizes, rng = [len(snapshot) for snapshot in course.snapshots], np.random.default_rng(0)

    def inputs() -> list[torch.Tensor]:
        return [to_device(draw(sizes, 64, rng), model.device) for _ in range(2)]

    return whole_step(step, model, inputs), step


def joint_step(device: str = "cpu") -> Callable[[], None]:
    """A step of joint training, tasks drawn and put together included."""
    courses = {f"set{seed}": branching_course(seed, 8, cells=100) for seed in range(8)}
    corpus = CoursesInMemory(courses, 8)
    config = CellMNNConfig(
        latent_dim=8,
        hidden_size=64,
        num_hidden_layers=3,
        frame=True,
        num_frame_times=max(len(course.times) for course in courses.values()),
        num_datasets=len(courses),
        dataset_dims=[8] * len(courses),
        context_cells=96,
    )
    model = CellMNNModel(config).train().to(device)
    sampling = SamplingConfig(tasks=12)
    sampler, slot = TaskSampler(corpus, sampling, 0), iter(range(10**9))
    step = HeldOutStep(model)

    def inputs() -> list[Any]:
        tasks = [sampler.draw(next(slot)) for _ in range(12)]
        return [collate(tasks, sampling.cells, model.device)]

    return whole_step(step, model, inputs)


def whole_step(
    step: Callable[..., dict[str, torch.Tensor]],
    model: CellMNNModel,
    inputs: Callable[[], list[Any]],
) -> Callable[[], None]:
    """Drawing, forward, losses, backward, clipping and update."""
    optimizer = torch.optim.AdamW(model.parameters())

    def call() -> None:
        optimizer.zero_grad()
        torch.stack(list(step(*inputs()).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return call


# ---------------------------------------------------------------------------------------------
# How it is measured


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.bytes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.calls += 1
            leaves = tree_leaves((args, result))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


def measured(
    call: Callable[[], Any], flops_per_second: float, bytes_per_second: float
) -> dict[str, Any]:
    """Seconds, their floor, and the operations that take most of them."""
    call()
    seconds = seconds_of(call)
    with FlopCounterMode(display=False) as flops:
        call()
    with Traffic() as traffic:
        call()
    repeats = 10
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(repeats):
            call()
    self_seconds: Counter[str] = Counter()
    for event in profiled.key_averages():
        self_seconds[event.key] += event.self_cpu_time_total
    total = sum(self_seconds.values())
    arithmetic = flops.get_total_flops() / flops_per_second
    moving = traffic.bytes / bytes_per_second
    return {
        "seconds": seconds,
        "floor": max(arithmetic, moving),
        "megaflops": flops.get_total_flops() / 1e6,
        "megabytes": traffic.bytes / 1e6,
        "operations": traffic.calls,
        "microseconds_an_operation": 1e6 * seconds / traffic.calls,
        "most": {name: round(taken / total, 3) for name, taken in self_seconds.most_common(6)},
    }


def compilable() -> dict[str, tuple[Callable[[], Any], Callable[[], None]]]:
    """Training steps, and what compiles each of them."""
    calls = {}
    for dims in (5, 50):
        call, step = course_step(dims)
        calls[f"training step, {dims} dimensions"] = call, step.compile
    return calls


def with_compile(
    call: Callable[[], Any], compile_it: Callable[[], None], eager: float
) -> dict[str, Any]:
    """Seconds of a compiled step, of the compilation, and from which step on it pays."""
    compile_it()
    started = time.perf_counter()
    for _ in range(3):
        call()
    compilation = time.perf_counter() - started
    seconds = seconds_of(call)
    saved = eager - seconds
    return {
        "compiled_seconds": seconds,
        "compilation_seconds": compilation,
        "pays_from_step": round(compilation / saved) if saved > 0 else None,
    }


def report(found: dict[str, Any]) -> None:
    """One row for each workload."""
    rows = []
    for name, measure in found.items():
        if not isinstance(measure, dict) or "floor" not in measure:
            continue
        most = ", ".join(
            f"{key.removeprefix('aten::')} {part:.0%}" for key, part in measure["most"].items()
        )
        rows.append(
            [
                name,
                f"{1e3 * measure['seconds']:.2f}",
                f"{1e3 * measure['floor']:.2f}",
                f"{measure['operations']:,}",
                f"{measure['microseconds_an_operation']:.1f}",
                most,
            ]
        )
    header = ["what", "ms", "floor, ms", "operations", "µs each", "most of the time"]
    text = (
        f"One thread; {found['gigaflops']:.0f} GFLOP/s in a large matrix product, "
        f"{found['gigabytes_a_second']:.1f} GB/s in a large copy.\n\n"
    )
    text += markdown(header, rows) + "\n"
    compiled = [
        f"- torch.compile, {name}: {1e3 * measure['compiled_seconds']:.2f} ms after "
        f"{measure['compilation_seconds']:.0f} s of compilation; pays from step "
        f"{measure['pays_from_step']}"
        for name, measure in found.items()
        if isinstance(measure, dict) and "compiled_seconds" in measure
    ]
    text += "".join(f"\n{line}" for line in compiled)
    RESULTS.show(text)


if __name__ == "__main__":
    typer.run(main)
