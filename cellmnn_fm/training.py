"""Training by matching distributions: the step, the accelerate loop, save and resume."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from .configuration_cellmnn import CellMNNConfig
from .errors import InputError
from .gaussian_frame import fit_frame
from .losses import energy_distance, invertibility_penalty, kinetic_energy, mmd2, pair_weights
from .modeling_cellmnn import CellMNNModel, CellMNNOutput
from .recipes import TrainingConfig
from .time_course import TimeCourse, TimeScale

_STATE_FOLDER = "training_state"
_MIN_CYCLE = 20  # steps: fewer leave no room for a warm-up
_BAR_EVERY = 10  # steps between updates of the progress bar


@dataclass(frozen=True)
class TrainedModel:
    """What training returns.

    Attributes
    ----------
    model : CellMNNModel
        In evaluation mode, on the device it was trained on.
    time_scale : TimeScale
        Between the user's time and the model's.
    losses : list of dict
        Loss and its parts at every step of the main process.
    seconds : float
        Spent in the loop, earlier sessions of a resumed run included.
    """

    model: CellMNNModel
    time_scale: TimeScale
    losses: list[dict[str, float]]
    seconds: float


def train(
    course: TimeCourse,
    config: CellMNNConfig,
    training: TrainingConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    validate: Callable[[CellMNNModel, TimeScale], float] | None = None,
    progress: bool = False,
) -> TrainedModel:
    """Fit a model to one time course.

    Runs on whatever accelerate finds, and under `accelerate launch` on several processes, each of
    which draws cells of its own.

    Parameters
    ----------
    course : TimeCourse
    config, training : CellMNNConfig, TrainingConfig
        With more dimensions than the time course has, `config.dataset_dims` says how many are
        real; the others are padding.
    seed : int
        Of the weights and of the cells drawn. The global random state is left alone.
    folder : Path, optional
        Where the state is saved every `training.save_every` steps. After an interruption the same
        call goes on from the last one, bit for bit.
    validate : callable, optional
        Looked at in place of the training loss to stop early; lower is better.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        If `folder` holds the state of a run with other settings or data.
    """
    accelerator = Accelerator()
    device = accelerator.device
    time_scale = TimeScale(0.0, 1.0) if training.raw_times else course.time_scale
    times = torch.as_tensor(time_scale.to_model(course.times), dtype=torch.float32, device=device)
    snapshots = [torch.as_tensor(snapshot, device=device) for snapshot in course.snapshots]
    model = _new_model(course, config, seed).to(device)
    if config.frame:
        model.set_frame_state(fit_frame(snapshots, times, latent_dim=config.latent_dim))
    padding = config.latent_dim - course.latent_dim
    snapshots = [torch.nn.functional.pad(snapshot, (0, padding)) for snapshot in snapshots]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    scheduler = _scheduler(optimizer, training)
    average = AveragedModel(model, avg_fn=_warmed_up_average(training.ema_decay or 0.0))
    kept: CellMNNModel = average.module if training.ema_decay else model  # type: ignore[assignment]
    state = _TrainingState()
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    # the scheduler is not prepared: accelerate would step it once for every process
    accelerator.register_for_checkpointing(average, scheduler, state)
    run = [config.to_dict(), asdict(training), seed, accelerator.num_processes]
    saver = _StateSaver(accelerator, folder, _fingerprint(course, run))
    saver.restore()

    # forward in time only, nothing starts from the last snapshot
    num_sources = len(times) if training.both_directions else len(times) - 1
    weights = pair_weights(len(times), training.gamma, both_directions=training.both_directions)
    weights = weights[:num_sources].to(device)
    drawn = (
        _drawn(snapshots[:num_sources], training.source_cells),
        _drawn(snapshots, training.target_cells),
    )
    decoded_times = _decoded_times(times, training)
    bar = _progress_bar(disable=not (progress and accelerator.is_main_process))
    started = time.perf_counter() - state.seconds
    with bar:
        task = bar.add_task("training", total=training.steps, completed=state.step, loss="")
        while state.step < training.steps and not state.stopped:
            # cells are a function of (seed, slot) alone, so that a resumed run draws the same
            slot = state.step * accelerator.num_processes + accelerator.process_index
            rng = np.random.default_rng((seed, slot))
            source = _draw(snapshots, training.source_cells, rng)[:num_sources]
            target = _draw(snapshots, training.target_cells, rng)
            with accelerator.autocast():
                output = wrapped(source, times[:num_sources], decoded_times)
            losses = _losses(output, target, weights, drawn, training, course.latent_dim)
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            accelerator.backward(loss)
            if training.gradient_clip is not None:
                accelerator.clip_grad_norm_(wrapped.parameters(), training.gradient_clip)
            optimizer.step()
            scheduler.step()
            average.update_parameters(model)
            state.record(losses, time.perf_counter() - started)
            if training.patience and state.step % training.check_every == 0:
                mean_loss = state.mean_loss(training.check_every)
                score = validate(kept, time_scale) if validate else mean_loss
                # processes see different cells, but must stop together
                score = accelerator.reduce(torch.tensor(score, device=device), "mean").item()
                state.check(kept, training.patience, score)
            if state.step % _BAR_EVERY == 0:
                bar.update(task, completed=state.step, loss=f"{state.mean_loss(_BAR_EVERY):.4f}")
            if state.step % training.save_every == 0:
                saver.save(state.step)
    if state.best_weights:
        kept.load_state_dict(state.best_weights)
    return TrainedModel(kept.eval(), time_scale, state.losses(), state.seconds)


def _new_model(course: TimeCourse, config: CellMNNConfig, seed: int) -> CellMNNModel:
    dims = [config.latent_dim] if config.dataset_dims is None else config.dataset_dims
    if dims != [course.latent_dim]:
        raise InputError(
            "dataset_dims",
            f"[{course.latent_dim}], the dimensions of the time course",
            dims,
            "set them in the configuration; those up to latent_dim are padding",
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CellMNNModel(config)
    if config.num_genes and course.subspace is not None:
        for name, values in vars(course.subspace.padded(config.latent_dim)).items():
            model.get_buffer(name).copy_(torch.from_numpy(values))
    return model.train()


def _scheduler(optimizer: torch.optim.Optimizer, training: TrainingConfig):
    if training.schedule == "constant" or training.steps < _MIN_CYCLE:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.1
    )


def _warmed_up_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Moving average that is quick to forget the initial weights, unlike a plain one."""

    def update(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        kept = torch.clamp((1 + torch.as_tensor(count)) / (10 + torch.as_tensor(count)), max=decay)
        return torch.lerp(current, averaged, kept.to(averaged))

    return update


def _draw(snapshots: list[Tensor], wanted: int, rng: np.random.Generator) -> Tensor:
    """`wanted` cells of every snapshot, none of them twice; a small one is filled up (`_drawn`)."""
    cells = []
    for snapshot in snapshots:
        drawn = rng.choice(len(snapshot), min(wanted, len(snapshot)), replace=False, shuffle=False)
        index = torch.from_numpy(np.resize(drawn, wanted))
        cells.append(snapshot[index.to(snapshot.device)])
    return torch.stack(cells)


def _drawn(snapshots: list[Tensor], wanted: int) -> Tensor:
    """Weight 1 for cells that were drawn, 0 for copies that fill up a snapshot of fewer cells.

    Copies that counted would be pairs at distance 0, and shrink the spread that is matched.
    """
    sizes = torch.tensor([[len(snapshot)] for snapshot in snapshots])
    return (torch.arange(wanted) < sizes).to(snapshots[0])


def _decoded_times(times: Tensor, training: TrainingConfig) -> Tensor:
    """The observed times, followed by the grid for the kinetic energy where there is one."""
    if training.kinetic_grid is None:
        return times
    return torch.cat(
        [times, torch.arange(float(times[0]), float(times[-1]), training.kinetic_grid).to(times)]
    )


def _losses(
    output: CellMNNOutput,
    target: Tensor,
    weights: Tensor,
    drawn: tuple[Tensor, Tensor],
    training: TrainingConfig,
    num_dims: int,
) -> dict[str, Tensor]:
    """Parts of the loss, each with its weight, for source snapshots pushed to all times.

    Of the dimensions `num_dims` are real, the others padding.
    """
    num_times = len(target)
    assert output.states is not None
    assert output.learned_velocity is not None
    assert output.determinant is not None
    distance = (
        energy_distance if training.distance == "energy" else partial(mmd2, num_dims=num_dims)
    )
    source_drawn, target_drawn = drawn[0][:, None], drawn[1]
    growth = None if output.log_growth is None else output.log_growth[:, :num_times]
    source_weights = source_drawn if growth is None else source_drawn * growth.exp()
    distances = distance(output.states[:, :num_times], target, source_weights, target_drawn)
    # in a frame only what is learned is penalised: else training works against the frame
    velocity = output.learned_velocity
    if training.kinetic_grid is not None:
        velocity = velocity[:, num_times:]
    kinetic = kinetic_energy(velocity, source_drawn, num_dims=num_dims)
    losses = {
        "distance": (weights * distances).sum(),
        "kinetic": training.kinetic_weight * kinetic,
        "invertibility": training.invertibility_weight * invertibility_penalty(output.determinant),
    }
    if growth is not None:
        losses["growth"] = training.growth_weight * growth.square().mean()
    return losses


@dataclass
class _TrainingState:
    """What a resumed run must know beside weights, optimiser and schedule."""

    step: int = 0
    seconds: float = 0.0
    stopped: bool = False
    checks_without_gain: int = 0
    best_score: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    # stays on the device, since reading it would wait for the step
    history: list[Tensor] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "history": torch.stack(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "history": list(state["history"])})

    def record(self, losses: dict[str, Tensor], seconds: float) -> None:
        self.step += 1
        self.seconds = seconds
        self.names = list(losses)
        self.history.append(torch.stack(list(losses.values())).detach())

    def mean_loss(self, steps: int) -> float:
        """Mean over the last `steps`."""
        return float(torch.stack(self.history[-steps:]).sum(-1).mean())

    def losses(self) -> list[dict[str, float]]:
        steps = torch.stack(self.history).tolist() if self.history else []
        return [dict(zip(self.names, values, strict=True)) for values in steps]

    def check(self, model: CellMNNModel, patience: int, score: float) -> None:
        if score < self.best_score:
            self.best_score, self.checks_without_gain = score, 0
            self.best_weights = copy.deepcopy(model.state_dict())
        else:
            self.checks_without_gain += 1
            self.stopped = self.checks_without_gain >= patience


class _StateSaver:
    """Saves the whole state in a folder so that a kill at any moment leaves a usable one."""

    def __init__(self, accelerator: Accelerator, folder: Path | None, fingerprint: str):
        self._accelerator = accelerator
        self._folder = None if folder is None else folder / _STATE_FOLDER
        self._fingerprint = fingerprint

    def restore(self) -> None:
        if self._folder is None or not (saved := self._saved()):
            return
        found = (saved[-1] / "fingerprint").read_text()
        if found != self._fingerprint:
            raise InputError(
                f"{self._folder}",
                "the state of a run with these settings and data",
                "that of another run",
                "choose another folder, or delete this one to start again",
            )
        self._accelerator.load_state(str(saved[-1]))

    def save(self, step: int) -> None:
        if self._folder is None:
            return
        unfinished = self._folder / "unfinished"  # whatever a kill left there is overwritten
        self._accelerator.save_state(str(unfinished))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            (unfinished / "fingerprint").write_text(self._fingerprint)
            older = self._saved()
            os.replace(unfinished, self._folder / f"step_{step:09d}")
            for path in older:
                shutil.rmtree(path)
        self._accelerator.wait_for_everyone()

    def _saved(self) -> list[Path]:
        return sorted(self._folder.glob("step_*")) if self._folder is not None else []


def remove_training_state(folder: Path) -> None:
    """Delete the state that :func:`train` left in `folder`, once the model itself is saved."""
    shutil.rmtree(folder / _STATE_FOLDER, ignore_errors=True)


def _fingerprint(course: TimeCourse, settings: list[Any]) -> str:
    settings = [*settings, course.times.tolist()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for snapshot in course.snapshots:
        digest.update(snapshot.tobytes())
    return digest.hexdigest()


def _progress_bar(*, disable: bool) -> Progress:
    return Progress(
        "{task.description}",
        BarColumn(),
        "{task.completed}/{task.total} steps",
        "loss {task.fields[loss]}",
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=disable,
    )
