"""Joint training over a corpus: predict held-out snapshots, zero-shot or by data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.corpus import Corpus
from ..data.tasks import SamplingConfig, Task, TaskSampler, held_out_able
from ..data.time_course import TimeScale
from ..model.configuration_cellmnn import CellMNNConfig
from ..model.errors import InputError, listed, require_seed
from ..model.gaussian_frame import FrameState, fit_frame, stack_frames
from ..model.modeling_cellmnn import CellMNNModel, CellMNNOutput
from ..model.seeding import seeded
from ..model.torch_defaults import with_torch_defaults
from .configs import TrainingConfig
from .loop import LossesOf, Optimised, optimise, own_accelerator, to_device
from .losses import energy_distance, invertibility_penalty, kinetic_energy

_VALIDATION_TASKS = 192
_FRAME_CELLS = 10_000  # of each snapshot, for the stored frames: more would not sharpen them
_VALIDATION_SEED = 2**31  # no training seed


class TaskBatch(NamedTuple):
    """Tasks as tensors; weights are 0 for copies that fill up small snapshots."""

    dataset_ids: Tensor  # (tasks,)
    uses_table: Tensor  # (tasks,)
    num_dims: Tensor  # (tasks,)
    observed: list[list[Tensor]]  # the snapshots of each task
    frames: list[FrameState]  # of these
    left: list[int]
    target_times: Tensor  # (tasks,)
    sources: Tensor  # (tasks, 2, cells, latent_dim)
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
        left=[task.left for task in tasks],
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


class HeldOutStep(nn.Module):
    """The losses of a batch of tasks: both neighbours are pushed to the held-out time and mixed.

    Parameters
    ----------
    model : CellMNNModel
        In training mode.
    training : TrainingConfig
        Weights of the losses, cells drawn.
    from_table : bool
        Whether all tasks use the embedding in the table, so that none has to be inferred.
    """

    def __init__(self, model: CellMNNModel, training: TrainingConfig, *, from_table: bool = False):
        super().__init__()
        self.model, self.training_config, self.from_table = model, training, from_table

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Parts of the loss, each with its weight."""
        states, weights, output, frame = predict_targets(
            self.model, batch, from_table=self.from_table
        )
        with torch.autocast(states.device.type, enabled=False):
            return self._losses(batch, states, weights, output, frame)

    def _losses(
        self,
        batch: TaskBatch,
        states: Tensor,
        weights: Tensor,
        output: CellMNNOutput,
        frame: FrameState,
    ) -> dict[str, Tensor]:
        """Parts of the loss of a batch, before their weights."""
        assert output.learned_velocity is not None
        assert output.determinant is not None
        distance = energy_distance(states, batch.targets, weights, batch.target_weights)
        dims = batch.num_dims[:, None, None, None]
        kinetic = kinetic_energy(
            output.learned_velocity, batch.source_weights[:, :, None], num_dims=dims
        )
        training = self.training_config
        penalty = invertibility_penalty(output.determinant)
        # in units of the spread, which is about 1 in each of the real dimensions
        bend = (frame.mean_bend.square().sum((-1, -2)) / batch.num_dims).mean()
        return {
            "distance": distance.mean(),
            "bend": training.bend_weight * bend,
            "kinetic": training.kinetic_weight * kinetic,
            "invertibility": training.invertibility_weight * penalty,
        }


def predict_targets(
    model: CellMNNModel, batch: TaskBatch, *, from_table: bool = False
) -> tuple[Tensor, Tensor, CellMNNOutput, FrameState]:
    """Predicted cells (tasks, 2 cells, latent_dim) of the held-out snapshots, and their weights.

    Beside them all that the model says, and the frames between the neighbours.
    """
    # only the interval around the held-out time is needed: tasks of any number of times stack
    with torch.autocast(batch.sources.device.type, enabled=False):
        frame = stack_frames(
            [
                model.bent(frame).interval(left)
                for frame, left in zip(batch.frames, batch.left, strict=True)
            ]
        )
    embeds = None
    if model.config.dataset_embed_dim:
        embeds = model.dataset_embeddings(batch.dataset_ids)
        if model.config.encoder_hidden_size and not from_table:
            # both stay in every graph, whichever a task uses: processes must agree on that
            inferred = model.encode(batch.observed, [frame.times for frame in batch.frames])
            embeds = torch.where(batch.uses_table[:, None], embeds, inferred.to(embeds.dtype))
        embeds = embeds[:, None].expand(-1, 2, -1)
    output = model(
        batch.sources,
        frame.times,
        batch.target_times[:, None, None],
        dataset_ids=batch.dataset_ids[:, None].expand(-1, 2),
        dataset_embeds=embeds,
        frame=frame,
    )
    # as in an interpolation: both neighbours are pushed, and the nearer one weighs more
    gap = frame.times[:, 1] - frame.times[:, 0]
    progress = (batch.target_times - frame.times[:, 0]) / gap
    sides = torch.stack([1 - progress, progress], dim=-1)
    drawn = batch.source_weights / batch.source_weights.sum(-1, keepdim=True)
    weights = (sides[..., None] * drawn).flatten(1)
    return output.states.squeeze(2).flatten(1, 2), weights, output, frame


def task_losses(
    sampler: TaskSampler, training: TrainingConfig, accelerator: Accelerator
) -> LossesOf:
    """What :func:`optimise` minimises: losses of the tasks of this process in a part of a step.

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

    def losses_of(wrapped: nn.Module, counter: int) -> dict[str, Tensor]:
        # tasks are a function of their number alone: any number of processes draws the same ones
        first = counter * per_part * world + accelerator.process_index
        tasks = [sampler.draw(first + world * number) for number in range(per_part)]
        batch = collate(tasks, sampling.cells, accelerator.device)
        with accelerator.autocast():
            return wrapped(batch)

    return losses_of


@with_torch_defaults
def pretrain(
    corpus: Corpus,
    config: CellMNNConfig,
    training: TrainingConfig,
    sampling: SamplingConfig,
    *,
    leave_out: Sequence[str] = (),
    validation: Sequence[str] = (),
    reserve: Sequence[str] = (),
    seed: int = 0,
    accelerator: Accelerator | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> Optimised:
    """Train one model on all data sets of a corpus.

    Parameters
    ----------
    corpus : Corpus
        To be trained on.
    config : CellMNNConfig
        As :func:`corpus_config` makes it.
    training : TrainingConfig
        With `check_every`, the best model by validation is returned.
    sampling : SamplingConfig
        How tasks are drawn.
    leave_out : sequence of str
        Groups of data sets (see :attr:`Corpus.groups`) that are neither trained on nor looked at.
    validation : sequence of str
        Groups that the model is validated on, zero-shot, and not trained on.
    reserve : sequence of str
        Data sets of which the middle one of the interior times is kept from training, for
        validation in the corpus.
    seed : int
        Of the weights and of the tasks.
    accelerator : Accelerator, optional
        Of the processes; one of its own by default.
    folder : Path, optional
        Where the state is saved; the same call goes on from there.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        On unknown groups, and if tasks do not spread evenly over processes.
    """
    require_seed(seed)
    accelerator = accelerator or own_accelerator()
    groups = corpus.groups
    if unknown := sorted({*leave_out, *validation} - set(groups.values())):
        known = listed(sorted(set(groups.values())))
        raise InputError("groups", f"some of {known}", ", ".join(unknown), "correct the names")
    kept = [name for name in groups if groups[name] not in {*leave_out, *validation}]
    reserved = {name: _middle_time(corpus, name) for name in reserve}
    sampler = TaskSampler(corpus, sampling, seed, kept, reserved)
    losses_of = task_losses(sampler, training, accelerator)
    device = accelerator.device
    with seeded(seed):
        model = CellMNNModel(config)
    model = model.to(device).train()
    for number, name in enumerate(corpus.entries):
        if name in kept:
            _store_frame(model, corpus, name, number, reserved.get(name))
    unseen = [name for name in groups if groups[name] in validation]
    validators = {}
    if unseen:
        validators["zero_shot"] = validator(corpus, sampling, unseen, device)
    if reserved:
        validators["in_corpus"] = validator(corpus, sampling, reserve, device, reserved)
    run = {
        "config": config.to_dict(),
        "training": asdict(training),
        "sampling": asdict(sampling),
        "seed": seed,
        "processes": accelerator.num_processes,
        "leave_out": sorted(leave_out),
        "validation": sorted(validation),
        "reserve": sorted(reserve),
        "corpus": sha256(
            json.dumps([asdict(entry) for entry in corpus.entries.values()]).encode()
        ).hexdigest(),
    }
    return optimise(
        accelerator,
        model,
        training,
        losses_of,
        run,
        step=HeldOutStep(model, training),
        folder=folder,
        validate=(lambda model: {name: score(model) for name, score in validators.items()})
        if validators
        else None,
        progress=progress,
    )


def validator(
    corpus: Corpus,
    sampling: SamplingConfig,
    names: Sequence[str],
    device: torch.device,
    reserved: Mapping[str, int] | None = None,
) -> Callable[[CellMNNModel], float]:
    """A function of a model: mean energy distance on fixed tasks of some data sets.

    Zero-shot, with the encoder's embedding; or, with `reserved` times, on these and with the
    embedding that the model has for the data set.
    """
    plain = SamplingConfig(
        cells=sampling.cells,
        frame_cells=sampling.frame_cells,
        temperature=0.0,
        gamma=0.0,
        table_share=0.0 if reserved is None else 1.0,
        rotate=0.0,
        flip=0.0,
        reverse=0.0,
    )
    sampler = TaskSampler(
        corpus, plain, _VALIDATION_SEED, names, reserved, reserved_only=reserved is not None
    )
    tasks = [sampler.draw(slot) for slot in range(_VALIDATION_TASKS)]
    batch = collate(tasks, sampling.cells, device)

    @torch.no_grad()
    def score(model: CellMNNModel) -> float:
        states, weights, *_ = predict_targets(model, batch)
        distance = energy_distance(states, batch.targets, weights, batch.target_weights)
        return float(distance.mean())

    return score


def corpus_config(corpus: Corpus, **options: Any) -> CellMNNConfig:
    """A configuration for all data sets of a corpus, with a frame for each of them.

    Raises
    ------
    InputError
        On growth, which is learned from one time course alone.
    """
    if options.get("growth"):
        raise InputError("growth", "none in joint training", "growth", "fit one time course")
    entries = corpus.entries.values()
    return CellMNNConfig(
        latent_dim=corpus.latent_dim,
        frame=True,
        num_frame_times=max(len(entry.times) for entry in entries),
        num_datasets=len(corpus),
        dataset_dims=[entry.num_dims for entry in entries],
        **options,
    )


def _middle_time(corpus: Corpus, name: str) -> int:
    """The time of a data set that is kept for validation."""
    if name not in corpus.entries or not (able := held_out_able(corpus.entries[name].cells)):
        raise InputError(
            "reserve", "data sets with a time that can be held out", name, "leave it out"
        )
    return able[len(able) // 2]


def _store_frame(
    model: CellMNNModel, corpus: Corpus, name: str, number: int, reserved: int | None
) -> None:
    """Keep the frame of a data set of the corpus with the model."""
    entry, rng = corpus.entries[name], np.random.default_rng(0)
    shown = [time for time in range(len(entry.times)) if time != reserved]
    times = np.array(entry.times)[shown]
    times = TimeScale.of(times).to_model(times)
    snapshots = [
        torch.from_numpy(corpus[name].draw(time, _FRAME_CELLS, rng)[:, : entry.num_dims])
        for time in shown
    ]
    model_times = torch.as_tensor(times, dtype=torch.float32)
    frame = fit_frame(snapshots, model_times, latent_dim=model.config.latent_dim)
    model.set_frame_state(frame, number)
