"""Training on simulated systems: their velocities are known, and no snapshot shows any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..data.simulated_tasks import SimulatedBatch, SimulatedTasks, SimulationConfig
from ..model.configuration_cellmnn import CellMNNConfig
from ..model.errors import InputError, require_seed
from ..model.in_context import InContextHypernetwork
from ..model.linear_flow import LowRankODE, bounded_low_rank
from ..model.modeling_cellmnn import CellMNNModel
from ..model.seeding import seeded
from ..model.torch_defaults import with_torch_defaults
from .adaptation import load_network, network_digest
from .collation import losses_from
from .configs import TrainingConfig
from .loop import Optimised, optimise, own_accelerator
from .losses import energy_distance

if TYPE_CHECKING:
    from accelerate import Accelerator

_CLAMP = 50.0  # of a squared relative error: some cells start far out
_LEAST_SPEED2 = 0.1  # per dimension: snapshots that stand still have no relative error
_LEAST_GROWTH2 = 0.05
_MOST_GROWTH = 1.0  # in weights, per unit of model time
_FLOOR = 1e-2  # of a sum of weights
_NEAR, _SOON = 0.5, 0.5  # how far an operator is held to what other cells do, in y² and time²
_VALIDATION_SEED = 2**31  # no training seed
_VALIDATION_STEPS = 16


class SimulatedErrors:
    """What a network says of the cells of a batch, beside what is true.

    Parameters
    ----------
    model : CellMNNModel
        That reads snapshots.
    batch : SimulatedBatch
        What it is shown, and asked.
    """

    def __init__(self, model: CellMNNModel, batch: SimulatedBatch):
        self.batch, frame = batch, batch.frame
        network = cast(InContextHypernetwork, model.hypernetwork)
        dims = torch.full_like(batch.query_times[:, 0], batch.query.shape[-1]).long()
        memory = network.remember(frame, batch.context, batch.shown, dims, control=batch.control)
        raw = {
            name: part.to(batch.query.dtype)  # out of autocast
            for name, part in network(memory, batch.query, batch.query_times, batch.forward).items()
        }
        operator = bounded_low_rank(raw["left"], raw["right"], raw["rate"], model.config.max_rate)
        self.ode = LowRankODE(*operator, raw["offset"])
        self.growth = raw["growth"]
        self.y = frame.to_frame(batch.query, batch.query_times)
        self.root = frame.root_at(batch.query_times)
        # what is left to be learned at each cell, if rates of the frame are those of either side
        self._motion = {
            side: frame.motion(self.y, batch.query_times, forward=side) for side in (True, False)
        }

    def velocity(self) -> Tensor:
        """dz/dt that is predicted, (tasks, groups, cells, d)."""
        motion = torch.where(
            self.batch.forward[..., None, None], self._motion[True], self._motion[False]
        )
        return motion + self.root.apply(self.ode.velocity(self.y))

    def squared(self) -> Tensor:
        """Squared error of each velocity, relative to the speed that is seen, (tasks, cells)."""
        error = (self.velocity() - self.batch.velocity).square().sum(-1)
        return (error / self._speed2[:, None, None]).flatten(1).clamp_max(_CLAMP)

    def elsewhere(self) -> Tensor:
        """The same for operators at the places of other cells, nearby and soon after, (tasks,).

        An operator that is followed for a while is to be right on the way, too.
        """
        batch, frame = self.batch, self.batch.frame
        tasks, groups, cells, dims = self.y.shape
        times = batch.query_times.repeat_interleave(cells, 1)  # (tasks, points)
        forward = batch.forward.repeat_interleave(cells, 1)
        y = self.y.flatten(1, 2)
        everywhere = y[:, None].expand(-1, groups * cells, -1, -1)
        ode = LowRankODE(
            *(
                part.flatten(1, 2)
                for part in (self.ode.left, self.ode.right, self.ode.rate, self.ode.offset)
            )
        )
        predicted = ode.velocity(everywhere)  # (tasks, points, others, d)
        # another cell is asked from the side that a flow comes from; rates jump in between
        ahead = times[:, None, :] - times[:, :, None]
        from_right = torch.where(ahead == 0, forward[:, :, None], ahead < 0)
        learned = {
            side: self.root.solve(batch.velocity - motion).flatten(1, 2)[:, None]
            for side, motion in self._motion.items()
        }
        target = torch.where(from_right[..., None], learned[True], learned[False])
        error = (predicted - target).transpose(1, 2).reshape(tasks, groups, -1, dims)
        squared = self.root.apply(error).square().sum(-1) / self._speed2[:, None, None]
        squared = squared.reshape(tasks, groups * cells, -1).transpose(1, 2).clamp_max(_CLAMP)
        inner = frame.times[:, 1:-1].contiguous()
        first, second = (torch.searchsorted(inner, times, right=side) for side in (True, False))
        interval = torch.where(forward, first, second)
        begin, end = frame.times.gather(1, interval), frame.times.gather(1, interval + 1)
        others = times[:, None, :]
        on_the_way = torch.where(forward[:, :, None], ahead >= 0, ahead <= 0)
        on_the_way &= (others >= begin[..., None]) & (others <= end[..., None])
        on_the_way &= ~torch.eye(groups * cells, dtype=torch.bool, device=y.device)
        distance2 = torch.cdist(y, y).square() / dims
        weight = on_the_way * torch.exp(-distance2 / _NEAR - ahead.square() / _SOON)
        return (weight * squared).sum((1, 2)) / weight.sum((1, 2)).clamp_min(_FLOOR)

    def of_flow(self) -> Tensor:
        """Energy distance from both neighbours, pushed, to a snapshot that is not shown, (tasks,).

        With one operator a cell, and weights for how much it has multiplied.
        """
        batch = self.batch
        delta = batch.target_time[:, None] - batch.query_times[:, :2]  # (tasks, sides)
        sides = LowRankODE(
            *(
                part[:, :2]
                for part in (self.ode.left, self.ode.right, self.ode.rate, self.ode.offset)
            )
        )
        y = sides.flow(self.y[:, :2], delta[..., None, None]).squeeze(-2)
        target_times = batch.target_time[:, None].expand_as(delta)
        states = batch.frame.from_frame(y, target_times)
        # as they are: a snapshot in which one cell weighs most has no distance worth minimising
        rates = self.growth[:, :2].detach().clamp(-_MOST_GROWTH, _MOST_GROWTH)
        weights = torch.softmax(rates * delta[..., None], dim=-1)
        targets = batch.target[:, None].expand(-1, 2, -1, -1)
        distance = energy_distance(states, targets, weights, torch.ones_like(targets[..., 0]))
        # the nearer side is to be closer
        nearness = 1 - delta.abs() / delta.abs().sum(-1, keepdim=True)
        return (nearness * distance).sum(-1)

    def of_growth(self) -> Tensor:
        """Squared error of growth rates relative to those in the system, (tasks,).

        Apart from their mean at each time, which snapshots do not show.
        """
        true, predicted = (
            rates - rates.mean(-1, keepdim=True) for rates in (self.batch.growth, self.growth)
        )
        scale = true.square().mean((1, 2)) + _LEAST_GROWTH2
        return ((predicted - true).square().mean((1, 2)) / scale).clamp_max(_CLAMP)

    @property
    def _speed2(self) -> Tensor:
        """Squared speed that snapshots show in each system, (tasks,).

        What is predicted is the mean of what may be true, given what is shown. Errors are weighed
        by that alone: relative to true speeds, systems that stand still would count most, and
        nothing would ever move.
        """
        shown = torch.stack(list(self._motion.values())).square().sum(-1).mean((0, 2, 3))
        return shown + _LEAST_SPEED2 * self.batch.velocity.shape[-1]


class SimulatedStep(nn.Module):
    """The losses of a batch of simulated systems.

    Parameters
    ----------
    model : CellMNNModel
        In training mode.
    config : SimulationConfig
        How much each part weighs.
    """

    def __init__(self, model: CellMNNModel, config: SimulationConfig):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: SimulatedBatch) -> dict[str, Tensor]:
        """Parts of the loss, each with its weight."""
        errors, weigh = SimulatedErrors(self.model, batch), self.config
        with torch.autocast(batch.query.device.type, enabled=False):
            return {
                "velocity": weigh.velocity_weight * errors.squared().mean(),
                "flow": weigh.flow_weight * errors.of_flow().mean(),
                "operator": weigh.operator_weight * errors.elsewhere().mean(),
                "growth": weigh.growth_weight * errors.of_growth().mean(),
            }


@with_torch_defaults
def pretrain_simulated(
    config: CellMNNConfig,
    training: TrainingConfig,
    simulation: SimulationConfig,
    *,
    start: CellMNNModel | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> Optimised:
    """Train a network that reads snapshots on simulated systems alone.

    Parameters
    ----------
    config : CellMNNConfig
        With `context_cells`.
    training : TrainingConfig
        Steps, rates, schedule; with `check_every`, the model that is best on other systems is kept.
    simulation : SimulationConfig
        What is simulated.
    start : CellMNNModel, optional
        Whose network to start from; another seed then draws systems that it has not seen.
    seed : int
        Of the weights and of the systems.
    accelerator : Accelerator, optional
        Of the processes; one of its own by default.
    folder : Path, optional
        Where the state is saved; the same call goes on from there.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        If the network reads no snapshots, if tasks do not spread evenly over processes, and if
        `start` is of another size.
    """
    require_seed(seed)
    require_reading(config)
    accelerator = accelerator or own_accelerator()
    batches = simulated_batches(simulation, training, seed, accelerator)
    with seeded(seed):
        model = CellMNNModel(config)
    if start is not None:
        load_network(model, start)
    model = model.to(accelerator.device).train()
    run = {
        "config": config.to_dict(),
        "training": asdict(training),
        "simulation": asdict(simulation),
        "start": None if start is None else network_digest(start),
        "seed": seed,
        "processes": accelerator.num_processes,
    }
    score = simulated_validator(simulation, accelerator.device)
    return optimise(
        accelerator,
        model,
        training,
        losses_from(accelerator, batches),
        run,
        step=SimulatedStep(model, simulation),
        folder=folder,
        validate=lambda kept: {"velocity": score(kept)},
        progress=progress,
    )


def require_reading(config: CellMNNConfig) -> None:
    """Refuse a network that reads no snapshots: it knows one data set alone.

    Raises
    ------
    InputError
        If it is one.
    """
    if not config.context_cells:
        raise InputError("context_cells", "a number of cells to read", 0, "give some")


def simulated_batches(
    simulation: SimulationConfig, training: TrainingConfig, seed: int, accelerator: Accelerator
) -> Callable[[int], SimulatedBatch]:
    """The batches of this process, by counter: a worker simulates while the network learns.

    They are to be asked for in their order; where it begins is free.

    Raises
    ------
    InputError
        If tasks do not spread evenly over processes.
    """
    world = accelerator.num_processes
    if simulation.tasks % world:
        raise InputError(
            "tasks", f"a multiple of {world} processes", simulation.tasks, "change one of them"
        )
    total = training.steps * training.accumulation
    tasks = SimulatedTasks(simulation, seed, total, accelerator.process_index, world)
    batches: Iterator[SimulatedBatch] | None = None

    def batch(counter: int) -> SimulatedBatch:
        nonlocal batches
        if batches is None:  # a resumed run goes on from its counter
            batches = iter(
                DataLoader(
                    Subset(tasks, range(counter, total)),
                    batch_size=None,
                    num_workers=1,
                    prefetch_factor=4,
                    worker_init_fn=_one_thread,
                )
            )
        return next(batches).to(accelerator.device)

    return batch


def _one_thread(_: int) -> None:
    """A worker is one of several processes."""
    torch.set_num_threads(1)


def simulated_validator(
    simulation: SimulationConfig, device: torch.device, seed: int = _VALIDATION_SEED
) -> Callable[[CellMNNModel], float]:
    """A function of a model: its median velocity error on systems that no training draws."""
    tasks = SimulatedTasks(simulation, seed, 64 * _VALIDATION_STEPS)
    # of steps apart, since those that follow each other share systems
    batches = [tasks[64 * number + number % 8].to(device) for number in range(_VALIDATION_STEPS)]

    @torch.no_grad()
    def score(model: CellMNNModel) -> float:
        errors = [velocity_errors(model, batch) for batch in batches]
        return float(np.median(np.concatenate(errors)))

    return score


@torch.no_grad()
def velocity_errors(model: CellMNNModel, batch: SimulatedBatch) -> np.ndarray:
    """Root mean squared error of velocities relative to the speed of each system, (tasks,)."""
    error = SimulatedErrors(model, batch).velocity() - batch.velocity
    squared, speed2 = (values.square().sum(-1).mean((1, 2)) for values in (error, batch.velocity))
    return (squared / speed2).sqrt().cpu().numpy()
