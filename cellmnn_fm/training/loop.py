"""The loop: accelerate, one-cycle schedule, moving average, save and resume bit for bit."""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..model.checkpoint import locked
from ..model.errors import InputError, listed
from ..model.modeling_cellmnn import CellMNNModel
from .configs import TrainingConfig
from .interrupts import held_back

if TYPE_CHECKING:
    from accelerate import Accelerator

_STATE_FOLDER = "training_state"
_MIN_CYCLE = 20  # steps: fewer leave no room for a warm-up
_BAR_EVERY = 10  # steps between updates of the progress bar

LossesOf = Callable[[nn.Module, int], dict[str, Tensor]]


@dataclass(frozen=True)
class Optimised:
    """What the loop returns.

    Attributes
    ----------
    model : CellMNNModel
        In evaluation mode, on the device it was trained on.
    losses : list of dict
        Loss and its parts at every step of the main process.
    seconds : float
        Spent in the loop, earlier sessions of a resumed run included.
    checks : list of (int, dict)
        Steps at which the model was validated, and what was found, by name.
    """

    model: CellMNNModel
    losses: list[dict[str, float]]
    seconds: float
    checks: list[tuple[int, dict[str, float]]]


def optimise(
    accelerator: Accelerator,
    model: CellMNNModel,
    training: TrainingConfig,
    losses_of: LossesOf,
    run: Any,
    *,
    step: nn.Module | None = None,
    folder: Path | None = None,
    validate: Callable[[CellMNNModel], dict[str, float]] | None = None,
    progress: bool = False,
) -> Optimised:
    """Minimise a loss over `training.steps` steps, on as many processes as accelerate has.

    Parameters
    ----------
    accelerator : Accelerator
        Of the processes.
    model : CellMNNModel
        On its device, in training mode.
    training : TrainingConfig
        Steps, rates, schedule, checks.
    losses_of : callable
        Parts of the loss by name, of the (wrapped) model and a counter: step times
        `training.accumulation`, plus the number of the part of the step. All that is random must
        follow from that counter and from the number of the process, so that a resumed run repeats
        an uninterrupted one.
    run : JSON
        All that the run depends on; a saved state of another one is refused.
    step : nn.Module, optional
        What `losses_of` is given, wrapped; it holds the model. The model itself by default.
    folder : Path, optional
        Where the state is saved every `training.save_every` steps.
    validate : callable, optional
        Figures by name, looked at in place of the training loss every `training.check_every` steps;
        the model with the lowest sum is the one that is returned.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        If `folder` holds the state of another run.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    scheduler = _scheduler(optimizer, training)
    average = _warmed_up_average(model, training.ema_decay or 0.0)
    kept: CellMNNModel = average.module if training.ema_decay else model  # type: ignore[assignment]
    state = _TrainingState()
    wrapped, optimizer = accelerator.prepare(step or model, optimizer)
    # the scheduler is not prepared: accelerate would step it once for every process
    parts_of_state: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "average": average,
        "loop": state,
    }
    if accelerator.scaler is not None:
        parts_of_state["scaler"] = accelerator.scaler
    fingerprint = sha256(json.dumps(run, sort_keys=True, default=str).encode()).hexdigest()
    saver = _StateSaver(accelerator, folder, fingerprint, parts_of_state)
    shown = progress and accelerator.is_main_process
    bar = _progress_bar(disable=not shown)
    # of several processes each would stop at a step of its own
    may_save = folder is not None and accelerator.num_processes == 1
    counted = _every_step_counts(accelerator)
    with saver.alone(), counted, bar, held_back(may_save) as interrupted:
        saver.restore()
        state.history = [losses.to(accelerator.device) for losses in state.history]
        started = time.perf_counter() - state.seconds
        task = bar.add_task("training", total=training.steps, completed=state.step, loss="")
        while state.step < training.steps and not state.stopped:
            optimizer.zero_grad()
            parts = []
            for part in range(training.accumulation):
                last = part == training.accumulation - 1
                with nullcontext() if last else accelerator.no_sync(wrapped):
                    parts.append(losses_of(wrapped, state.step * training.accumulation + part))
                    loss = torch.stack(list(parts[-1].values())).sum()
                    accelerator.backward(loss / training.accumulation)
            if training.gradient_clip is not None:
                accelerator.clip_grad_norm_(wrapped.parameters(), training.gradient_clip)
            optimizer.step()
            scheduler.step()
            if training.ema_decay:
                average.update_parameters(model)
            state.record(parts, time.perf_counter() - started)
            if accelerator.trackers:
                accelerator.log(state.latest(), step=state.step)
            if training.check_every and state.step % training.check_every == 0:
                mean_loss = state.mean_loss(training.check_every)
                scores = validate(kept) if validate else {"mean_loss": mean_loss}
                # processes see different cells, but must stop together
                means = accelerator.reduce(
                    torch.tensor(list(scores.values()), device=accelerator.device), "mean"
                ).tolist()
                scores = dict(zip(scores, means, strict=True))
                state.check(kept, training.patience, scores)
                if accelerator.trackers:
                    accelerator.log(scores, step=state.step)
            if shown and state.step % _BAR_EVERY == 0:  # which waits for the step
                bar.update(task, completed=state.step, loss=f"{state.mean_loss(_BAR_EVERY):.4f}")
            if state.step % training.save_every == 0 or interrupted:
                state.require_finite()
                saver.save(state.step)
            if interrupted:
                break
    if state.best_weights:
        kept.load_state_dict(state.best_weights)
    return Optimised(kept.eval(), state.losses(), state.seconds, state.checks)


def own_accelerator() -> Accelerator:
    """That of a fit, on whatever accelerate is set up for.

    Warns
    -----
    UserWarning
        If that is lower precision, which a fit depends on.
    """
    from accelerate import Accelerator

    accelerator = Accelerator()
    if accelerator.mixed_precision != "no":
        warnings.warn(
            f"accelerate is set to {accelerator.mixed_precision} here: so are fits, which are "
            "others than in 32 bits",
            stacklevel=3,
        )
    return accelerator


@contextmanager
def _every_step_counts(accelerator: Accelerator) -> Iterator[None]:
    """What is set for gradients of a caller's own loop would divide ours."""
    before = accelerator.gradient_accumulation_steps
    accelerator.gradient_accumulation_steps = 1
    try:
        yield
    finally:
        accelerator.gradient_accumulation_steps = before


def remove_training_state(folder: Path) -> None:
    """Delete the state that :func:`optimise` left in `folder`, once the model itself is saved."""
    shutil.rmtree(folder / _STATE_FOLDER, ignore_errors=True)


def _scheduler(optimizer: torch.optim.Optimizer, training: TrainingConfig):
    """The learning rate by step."""
    if training.schedule == "constant" or training.steps < _MIN_CYCLE:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.1
    )


def to_device(values: NDArray, device: torch.device) -> Tensor:
    """Copy from pinned memory, so that the host need not wait for the GPU.

    `values` (...) of the host.
    """
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _warmed_up_average(model: nn.Module, decay: float) -> AveragedModel:
    """Moving average that is quick to forget the initial weights, unlike a plain one."""
    average = AveragedModel(model)

    @torch.no_grad()
    def update(averaged: Any, current: Any, _: Tensor | int) -> None:
        # the count stays on the host; what is passed would have to be read back from a GPU
        count = int(average.n_averaged)
        kept = min((1 + count) / (10 + count), decay)
        torch._foreach_copy_(averaged, torch._foreach_lerp(current, averaged, kept))

    average.multi_avg_fn = update
    return average


@dataclass
class _TrainingState:
    """What a resumed run must know beside weights, optimiser and schedule."""

    step: int = 0
    seconds: float = 0.0
    stopped: bool = False
    checks_without_gain: int = 0
    best_score: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    checks: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    # stays on the device, since reading it would wait for the step
    history: list[Tensor] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """What accelerate saves of it."""
        return {**vars(self), "history": torch.stack(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What was saved."""
        if unknown := set(state) ^ set(vars(self)):
            raise KeyError(", ".join(sorted(unknown)))
        checks = [(int(step), scores) for step, scores in state["checks"]]
        vars(self).update({**state, "history": list(state["history"]), "checks": checks})

    def record(self, parts: list[dict[str, Tensor]], seconds: float) -> None:
        """The mean over the parts of a step."""
        self.step += 1
        self.seconds = seconds
        self.names = list(parts[0])
        values = torch.stack([torch.stack(list(losses.values())) for losses in parts])
        self.history.append(values.mean(0).detach())

    def require_finite(self) -> None:
        """Refuse to go on, and to save, once losses are no numbers."""
        if not torch.isfinite(self.history[-1]).all():
            fix = "lower the learning rate, or go on from the last saved state with other settings"
            raise InputError(f"losses of step {self.step}", "numbers", self.latest(), fix)

    def latest(self) -> dict[str, float]:
        """Parts of the last loss."""
        return dict(zip(self.names, self.history[-1].tolist(), strict=True))

    def mean_loss(self, steps: int) -> float:
        """Mean over the last `steps`."""
        return float(torch.stack(self.history[-steps:]).sum(-1).mean())

    def losses(self) -> list[dict[str, float]]:
        """Parts of the loss at every step."""
        steps = torch.stack(self.history).tolist() if self.history else []
        return [dict(zip(self.names, values, strict=True)) for values in steps]

    def check(self, model: CellMNNModel, patience: int, found: dict[str, float]) -> None:
        """Note a check, and keep its weights if it is the best; stop once patience is over."""
        score = sum(found.values())
        self.checks.append((self.step, found))
        if score < self.best_score:
            self.best_score, self.checks_without_gain = score, 0
            self.best_weights = copy.deepcopy(model.state_dict())
        else:
            self.checks_without_gain += 1
            self.stopped = 0 < patience <= self.checks_without_gain


class _StateSaver:
    """Saves the whole state in a folder so that a kill at any moment leaves a usable one.

    Tensors as safetensors, the rest as JSON: a state of somebody else's runs nothing.

    Parameters
    ----------
    accelerator : Accelerator
        Of the processes.
    folder : Path, optional
        Of the run; nothing is saved without.
    fingerprint : str
        Of all that the run depends on.
    parts : mapping
        What has a `state_dict` and loads it, by name.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path | None,
        fingerprint: str,
        parts: Mapping[str, Any],
    ):
        self._accelerator = accelerator
        self._folder = None if folder is None else folder / _STATE_FOLDER
        self._fingerprint, self._parts = fingerprint, parts

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other run saves its state in the folder."""
        if self._folder is None or not self._accelerator.is_main_process:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self._folder, patience=0):
                yield
        finally:
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def restore(self) -> None:
        """Go on from the last state, if there is one.

        Raises
        ------
        InputError
            If it is that of another run, or does not load.
        """
        if self._folder is None or not (saved := self._saved()):
            return
        fix = f"choose another folder, or delete {self._folder} to start again"
        try:
            content = json.loads((saved[-1] / "state.json").read_text())
            fingerprint_there, packed = content["fingerprint"], content["state"]
            tensors = load_file(saved[-1] / "state.safetensors")
            unpacked = _unpacked(packed, tensors)
            states = {name: unpacked[name] for name in self._parts}
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            wanted, cause = "the state of a training", f"files that do not load ({error})"
            raise InputError(str(self._folder), wanted, cause, fix) from error
        if fingerprint_there != self._fingerprint:
            wanted = "the state of a run with these settings and data"
            raise InputError(str(self._folder), wanted, "that of another run", fix)
        try:
            for name, part in self._parts.items():
                strange = set() if name == "loop" else set(states[name]) ^ set(part.state_dict())
                if strange:  # schedules would take anything
                    raise KeyError(f"{name}: {listed(sorted(strange))}")
                part.load_state_dict(states[name])
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            wanted = "the state of this training"
            raise InputError(str(self._folder), wanted, f"another ({error})", fix) from error

    def save(self, step: int) -> None:
        """Replace the state that is there by that of now."""
        if self._folder is None:
            return
        if self._accelerator.is_main_process:
            unfinished = self._folder / "unfinished"  # whatever a kill left there goes
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            tensors: dict[str, Tensor] = {}
            states = {name: part.state_dict() for name, part in self._parts.items()}
            content = {"fingerprint": self._fingerprint, "state": _packed(states, tensors)}
            save_file(tensors, unfinished / "state.safetensors")
            (unfinished / "state.json").write_text(json.dumps(content))
            older, newest = self._saved(), self._folder / f"step_{step:09d}"
            os.replace(unfinished, newest)
            for path in older:
                if path != newest:
                    shutil.rmtree(path)
        self._accelerator.wait_for_everyone()

    def _saved(self) -> list[Path]:
        """Folders of states, the oldest first."""
        return sorted(self._folder.glob("step_*")) if self._folder is not None else []


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The same for JSON, its tensors put aside under the numbers that take their place."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_packed(item, tensors) for item in value]
    assert value is None or isinstance(value, (bool, int, float, str)), type(value)
    return value


def _unpacked(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`_packed` was given."""
    if isinstance(content, list):
        return [_unpacked(item, tensors) for item in content]
    if not isinstance(content, dict):
        return content
    if "tensor" in content:
        return tensors[content["tensor"]]
    return {key: _unpacked(item, tensors) for key, item in content["items"]}


class _StepsPerSecond(ProgressColumn):
    """How fast it goes, once that is known."""

    def render(self, task: Task) -> Text:
        """Of rich's task."""
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


def _progress_bar(*, disable: bool) -> Progress:
    """Of steps, with the loss."""
    return Progress(
        "{task.description}",
        BarColumn(),
        "{task.completed}/{task.total} steps",
        _StepsPerSecond(),
        "loss {task.fields[loss]}",
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=disable,
    )
