"""Tasks of a corpus put together, as tensors on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.tasks import Task, TaskSampler
from ..model.errors import InputError
from ..model.gaussian_frame import FrameState, fit_frame
from .configs import TrainingConfig
from .loop import LossesOf, to_device

if TYPE_CHECKING:
    from accelerate import Accelerator


class TaskBatch(NamedTuple):
    """Tasks as tensors; weights are 0 for copies that fill up small snapshots."""

    dataset_ids: Tensor  # (tasks,)
    uses_table: Tensor  # (tasks,)
    num_dims: Tensor  # (tasks,)
    observed: list[list[Tensor]]  # the snapshots of each task
    frames: list[FrameState]  # of these
    target_times: Tensor  # (tasks,)
    sources: Tensor  # (tasks, 2, cells, latent_dim)
    source_times: Tensor  # (tasks, 2)
    source_weights: Tensor  # (tasks, 2, cells)
    targets: Tensor  # (tasks, cells, latent_dim)
    target_weights: Tensor  # (tasks, cells)


def collate(tasks: Sequence[Task], cells: int, device: torch.device) -> TaskBatch:
    """Put tasks of different data sets together.

    Frames are data: they are made here, on the host, where eigenvalues keep no GPU waiting.
    """

    def filled(snapshots: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
        index = [np.resize(np.arange(len(snapshot)), cells) for snapshot in snapshots]
        states = np.stack([snapshot[rows] for snapshot, rows in zip(snapshots, index, strict=True)])
        sizes = np.array([[len(snapshot)] for snapshot in snapshots])
        return states, (np.arange(cells) < sizes).astype(np.float32)

    sources, source_weights = filled([side for task in tasks for side in task.sources])
    targets, target_weights = filled([task.target for task in tasks])
    frames = [frame_of(task) for task in tasks]
    parts: dict[Any, NDArray | Tensor] = {
        "sources": sources.reshape(len(tasks), 2, *sources.shape[1:]),
        "source_times": np.array(
            [task.times[task.left : task.left + 2] for task in tasks], np.float32
        ),
        "source_weights": source_weights.reshape(len(tasks), 2, cells),
        "targets": targets,
        "target_weights": target_weights,
        "target_times": np.array([task.target_time for task in tasks], np.float32),
    }
    for number, (task, frame) in enumerate(zip(tasks, frames, strict=True)):
        parts |= {(number, time): snapshot for time, snapshot in enumerate(task.snapshots)}
        parts |= {(number, name): values for name, values in vars(frame).items()}
    moved = in_one_copy({name: torch.as_tensor(part) for name, part in parts.items()}, device)
    ids = np.array([[task.dataset_id, task.uses_table, task.num_dims] for task in tasks])
    dataset_ids, uses_table, num_dims = to_device(ids, device).unbind(-1)
    return TaskBatch(
        dataset_ids=dataset_ids,
        uses_table=uses_table.bool(),
        num_dims=num_dims,
        sources=moved["sources"],
        source_times=moved["source_times"],
        source_weights=moved["source_weights"],
        targets=moved["targets"],
        target_weights=moved["target_weights"],
        target_times=moved["target_times"],
        observed=[
            [moved[number, time] for time in range(len(task.snapshots))]
            for number, task in enumerate(tasks)
        ],
        frames=[
            FrameState(**{name: moved[number, name] for name in vars(frame)})
            for number, frame in enumerate(frames)
        ],
    )


def frame_of(task: Task) -> FrameState:
    """Of what is observed in a task."""
    latent_dim = task.target.shape[-1]
    observed = [torch.as_tensor(snapshot)[:, : task.num_dims] for snapshot in task.snapshots]
    return fit_frame(observed, torch.as_tensor(task.times).float(), latent_dim=latent_dim)


def in_one_copy(tensors: Mapping[Any, Tensor], device: torch.device) -> Mapping[Any, Tensor]:
    """Move tensors of one type together, by name; each copy by itself would cost as much.

    `tensors` (...) of any shapes.
    """
    if device.type == "cpu":
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    parts = to_device(flat.numpy(), device).split([tensor.numel() for tensor in tensors.values()])
    return {
        name: part.view(tensor.shape)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def task_batches(
    sampler: TaskSampler, training: TrainingConfig, accelerator: Accelerator
) -> Callable[[int], TaskBatch]:
    """The tasks of this process in a part of a step, by its counter.

    Raises
    ------
    InputError
        If tasks do not spread evenly over processes.
    """
    sampling, world = sampler.config, accelerator.num_processes
    per_part, rest = divmod(sampling.tasks, world * training.accumulation)
    if rest:
        raise InputError(
            "tasks",
            f"a multiple of {world} processes times accumulation {training.accumulation}",
            sampling.tasks,
            "change one of them",
        )

    def batch(counter: int) -> TaskBatch:
        # tasks are a function of their number alone: any number of processes draws the same ones
        first = counter * per_part * world + accelerator.process_index
        tasks = [sampler.draw(first + world * number) for number in range(per_part)]
        return collate(tasks, sampling.cells, accelerator.device)

    return batch


def losses_from(accelerator: Accelerator, *sources: Callable[[int], Any]) -> LossesOf:
    """What :func:`optimise` minimises: losses of a batch from each source, by counter."""

    def losses_of(wrapped: nn.Module, counter: int) -> dict[str, Tensor]:
        batches = [source(counter) for source in sources]  # frames are made in full precision
        with accelerator.autocast():
            return wrapped(*batches)

    return losses_of
