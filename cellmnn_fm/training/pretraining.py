"""Joint training over a corpus: predict held-out snapshots, zero-shot or by data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.corpus import Corpus
from ..data.simulated_tasks import SimulatedBatch, SimulationConfig
from ..data.tasks import SamplingConfig, TaskSampler, held_out_able
from ..data.time_course import TimeScale
from ..model.configuration_cellmnn import CellMNNConfig
from ..model.errors import InputError, listed, require_seed
from ..model.gaussian_frame import fit_frame
from ..model.modeling_cellmnn import CellMNNModel
from ..model.seeding import seeded
from ..model.torch_defaults import with_torch_defaults
from .adaptation import load_network, network_digest, shuffled
from .collation import TaskBatch, collate, losses_from, task_batches
from .configs import TrainingConfig
from .loop import Optimised, optimise, own_accelerator
from .losses import energy_distance
from .simulated import SimulatedStep, require_reading, simulated_batches

if TYPE_CHECKING:
    from accelerate import Accelerator

_VALIDATION_TASKS = 192
_FRAME_CELLS = 10_000  # of each snapshot, for the stored frames: more would not sharpen them
_VALIDATION_SEED = 2**31  # no training seed


class HeldOutStep(nn.Module):
    """The loss of a batch of tasks: both neighbours are pushed to the held-out time and mixed.

    Parameters
    ----------
    model : CellMNNModel
        In training mode.
    """

    def __init__(self, model: CellMNNModel):
        super().__init__()
        self.model = model

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """The energy distance, a part of the loss."""
        states, weights = predict_targets(self.model, batch)
        with torch.autocast(states.device.type, enabled=False):
            distance = energy_distance(states, batch.targets, weights, batch.target_weights)
            return {"distance": distance.mean()}


def predict_targets(model: CellMNNModel, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Predicted cells (tasks, 2 cells, latent_dim) of the held-out snapshots, and their weights."""
    # the table stays in every graph, whether a task uses it or not: processes must agree on that
    embeddings = model.dataset_embeddings[batch.dataset_ids] * batch.uses_table[:, None, None]
    memory = model.remember(batch.frames, batch.observed, batch.num_dims, embeddings)
    targets = batch.target_times[:, None, None]
    states = model(batch.sources, batch.source_times, targets, memory=memory).states
    # as in an interpolation: both neighbours are pushed, and the nearer one weighs more
    gap = batch.source_times.diff(dim=-1)
    progress = (batch.target_times[:, None] - batch.source_times[:, :1]) / gap
    sides = torch.cat([1 - progress, progress], dim=-1)
    drawn = batch.source_weights / batch.source_weights.sum(-1, keepdim=True)
    weights = (sides[..., None] * drawn).flatten(1)
    return states.squeeze(2).flatten(1, 2), weights


class MixedStep(nn.Module):
    """The losses of a batch of real tasks, and those of one of simulated systems, by their shares.

    Parameters
    ----------
    model : CellMNNModel
        In training mode.
    simulation : SimulationConfig
        Weights of the losses of simulated systems.
    share : float
        Of the simulated systems in the loss.
    """

    def __init__(self, model: CellMNNModel, simulation: SimulationConfig, share: float):
        super().__init__()
        self.real = HeldOutStep(model)
        self.simulated = SimulatedStep(model, simulation)
        self.share = share

    def forward(self, batch: TaskBatch, simulated: SimulatedBatch) -> dict[str, Tensor]:
        """Parts of the loss, each with its weight."""
        parts = {name: (1 - self.share) * loss for name, loss in self.real(batch).items()}
        return parts | {name: self.share * loss for name, loss in self.simulated(simulated).items()}


@with_torch_defaults
def pretrain(
    corpus: Corpus,
    config: CellMNNConfig,
    training: TrainingConfig,
    sampling: SamplingConfig,
    *,
    start: CellMNNModel | None = None,
    simulation: SimulationConfig | None = None,
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
    start : CellMNNModel, optional
        Whose network to start from, such as one that has learned on simulated systems.
    simulation : SimulationConfig, optional
        What is simulated beside the corpus, with weight `sampling.simulated_share` in the loss.
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
        On unknown groups, if the network reads no snapshots, if tasks do not spread evenly over
        processes, and if `start` is of another size.
    """
    require_seed(seed)
    require_reading(config)
    accelerator = accelerator or own_accelerator()
    groups = corpus.groups
    if unknown := sorted({*leave_out, *validation} - set(groups.values())):
        known = listed(sorted(set(groups.values())))
        raise InputError("groups", f"some of {known}", ", ".join(unknown), "correct the names")
    kept = [name for name in groups if groups[name] not in {*leave_out, *validation}]
    reserved = {name: _middle_time(corpus, name) for name in reserve}
    sampler = TaskSampler(corpus, sampling, seed, kept, reserved)
    tasks = task_batches(sampler, training, accelerator)
    device = accelerator.device
    with seeded(seed):
        model = CellMNNModel(config)
    if start is not None:
        load_network(model, start)
    model = model.to(device).train()
    _store_data_sets(model, corpus, kept, reserved)
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
        "simulation": None if simulation is None else asdict(simulation),
        "start": None if start is None else network_digest(start),
        "seed": seed,
        "processes": accelerator.num_processes,
        "leave_out": sorted(leave_out),
        "validation": sorted(validation),
        "reserve": sorted(reserve),
        "corpus": sha256(
            json.dumps([asdict(entry) for entry in corpus.entries.values()]).encode()
        ).hexdigest(),
    }
    step: nn.Module = HeldOutStep(model)
    batches: list[Callable[[int], Any]] = [tasks]
    if simulation is not None and sampling.simulated_share:
        batches.append(simulated_batches(simulation, training, seed, accelerator))
        step = MixedStep(model, simulation, sampling.simulated_share)
    return optimise(
        accelerator,
        model,
        training,
        losses_from(accelerator, *batches),
        run,
        step=step,
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

    Zero-shot; or, with `reserved` times, on these and with the embedding that the model has for the
    data set.
    """
    plain = SamplingConfig(
        cells=sampling.cells,
        frame_cells=sampling.frame_cells,
        temperature=0.0,
        gamma=0.0,
        table_share=0.0 if reserved is None else 1.0,
        thin=0.0,
        reverse=0.0,
        fewest_dims=corpus.latent_dim,
    )
    sampler = TaskSampler(
        corpus, plain, _VALIDATION_SEED, names, reserved, reserved_only=reserved is not None
    )
    tasks = [sampler.draw(slot) for slot in range(_VALIDATION_TASKS)]
    batch = collate(tasks, sampling.cells, device)

    @torch.no_grad()
    def score(model: CellMNNModel) -> float:
        states, weights = predict_targets(model, batch)
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


def _store_data_sets(
    model: CellMNNModel, corpus: Corpus, names: Sequence[str], reserved: Mapping[str, int]
) -> None:
    """Keep frames and some cells of data sets of the corpus with the model."""
    contexts: list[list[Tensor]] = [[] for _ in corpus.entries]
    for number, (name, entry) in enumerate(corpus.entries.items()):
        if name not in names:
            continue
        rng = np.random.default_rng(0)
        shown = [time for time in range(len(entry.times)) if time != reserved.get(name)]
        times = np.array(entry.times)[shown]
        times = TimeScale.of(times).to_model(times)
        snapshots = [
            torch.from_numpy(corpus[name].draw(time, _FRAME_CELLS, rng)[:, : entry.num_dims])
            for time in shown
        ]
        model_times = torch.as_tensor(times, dtype=torch.float32)
        frame = fit_frame(snapshots, model_times, latent_dim=model.config.latent_dim)
        model.set_frame_state(frame, number)
        contexts[number] = shuffled(snapshots)
    model.set_context(contexts)
