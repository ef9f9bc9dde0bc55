"""What studies and benchmarks share: cells that are kept, an estimate, limits, the machine."""

from __future__ import annotations

import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from cellmnn_fm import InputError

from .results import Results

PACKAGES = ("cellmnn-fm", "torch", "numpy", "POT", "torchcfm", "mioflow", "scdiffeq", "arboreto")
PACKAGES += ("regdiffusion", "moscot", "cellrank", "geomloss")

console = Console()


@dataclass(frozen=True)
class Cell:
    """One entry of a benchmark.

    Attributes
    ----------
    results : Results
    key : tuple of str
        Of its result there; a cell that has one is not run again.
    task : callable
        Of a module, so that another process finds it; returns what is to be kept.
    arguments : tuple
    seconds : float
        An estimate, on one core.
    """

    results: Results
    key: tuple[str, ...]
    task: Callable[..., dict[str, Any]]
    arguments: tuple
    seconds: float


def run_cells(
    cells: Sequence[Cell], *, processes: int = 1, apart: bool = False
) -> list[dict[str, Any]]:
    """Run the cells that have no result yet, the longest first; all results, in order.

    Parameters
    ----------
    cells : sequence of Cell
    processes : int
        Each of one thread, which small matrices repay best.
    apart : bool
        Whether every cell has a process of its own, so that its memory can be told; a second or
        two more for each.
    """
    there = {cell.results.path(""): cell.results.read() for cell in cells}
    missing = [cell for cell in cells if cell.key not in there[cell.results.path("")]]
    missing.sort(key=lambda cell: -cell.seconds)
    work = sum(cell.seconds for cell in missing)
    longest = max((cell.seconds for cell in missing), default=0.0)
    minutes = max(work / processes, longest) / 60
    console.print(
        f"{len(missing)} of {len(cells)} cells to go, about {minutes:.1f} minutes "
        f"on {processes} process{'es' * (processes > 1)}"
    )
    failed = []
    if missing:
        pool = ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(1,),
            max_tasks_per_child=1 if apart else None,
        )
        with pool:
            waiting = {pool.submit(_kept, cell): cell for cell in missing}
            for done in track(as_completed(waiting), "cells", total=len(missing)):
                if (error := done.exception()) is not None:
                    failed.append(f"{' '.join(waiting[done].key)}: {error!r}")
    if failed:
        raise RuntimeError("the other cells are kept; failed: " + "; ".join(failed))
    there = {cell.results.path(""): cell.results.read() for cell in cells}
    return [there[cell.results.path("")][cell.key] for cell in cells]


def _kept(cell: Cell) -> None:
    """Run a cell and keep what it gives; input that has no answer says so."""
    before, started = peak_gb(), time.perf_counter()
    try:
        outcome = cell.task(*cell.arguments)
    except InputError as error:
        outcome = {"skipped": str(error)}
    seconds = time.perf_counter() - started
    whole = {
        **outcome,
        "cell_seconds": round(seconds, 2),
        "cell_peak_gb": round(peak_gb() - before, 3),
        **machine(),
    }
    cell.results.keep(whole, *cell.key)


def machine() -> dict[str, Any]:
    """Processor, threads, and versions of what is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(),
        },
        "versions": versions,
    }


def processor() -> str:
    """Its name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_gb() -> float:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts the parent in
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def within_limits(
    task: Callable[..., dict[str, Any]], *arguments: Any, seconds: float, gigabytes: float
) -> dict[str, Any]:
    """What a task returns from a process of its own, or how it ended at a limit.

    Returns
    -------
    dict
        `outcome` "done", "out of time" or "out of memory"; `seconds`; `peak_gb` beyond what
        imports took; and what the task returned.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(theirs, gigabytes, task, *arguments))
    started = time.perf_counter()
    process.start()
    theirs.close()
    outcome: dict[str, Any] = {"outcome": "out of time"}
    if ours.poll(seconds):
        try:
            outcome = ours.recv()
        except EOFError:  # killed by the system
            outcome = {"outcome": "out of memory"}
    process.kill()
    process.join()
    return {"seconds": round(time.perf_counter() - started, 1), **outcome}


def _limited(pipe: Connection, gigabytes: float, task: Callable[..., Any], *arguments: Any) -> None:
    before, started = peak_gb(), time.perf_counter()
    watch = threading.Thread(target=_watch, args=(pipe, before + gigabytes, started), daemon=True)
    watch.start()
    try:
        outcome = {"outcome": "done", **task(*arguments)}
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        outcome = {"outcome": "out of memory", "error": str(error).splitlines()[0][:200]}
    seconds = round(time.perf_counter() - started, 2)
    pipe.send({**outcome, "seconds": seconds, "peak_gb": round(peak_gb() - before, 3)})


def _watch(pipe: Connection, gigabytes: float, started: float) -> None:
    """End the process once it has taken more than its share."""
    while peak_gb() < gigabytes:
        time.sleep(0.05)
    seconds = round(time.perf_counter() - started, 2)
    pipe.send({"outcome": "out of memory", "seconds": seconds, "peak_gb": round(gigabytes, 1)})
    os._exit(1)
