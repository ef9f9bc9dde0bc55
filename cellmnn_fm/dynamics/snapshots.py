"""Where cells go: snapshots pushed to other times, in the user's time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from ..data.time_course import TimeCourse, TimeScale
from ..model.errors import require_count, require_number
from ..model.in_context import InContextHypernetwork
from ..model.modeling_cellmnn import CellMNNModel, CellMNNOutput
from .trust_region import TrustRegion, Walk

_CHUNK = 16_384  # cells pushed at once, which bounds the memory


@dataclass(frozen=True)
class Dynamics:
    """A model in the user's time: dz/dt = A(z, t) z + b(z, t) per unit of it.

    Parameters
    ----------
    model : CellMNNModel
        Of one data set.
    time_scale : TimeScale
        That of its fit.

    Examples
    --------
    >>> from cellmnn_fm import CellMNNConfig, CellMNNModel
    >>> from cellmnn_fm.data.time_course import TimeScale
    >>> model = CellMNNModel(CellMNNConfig(latent_dim=2, rank=2))
    >>> dynamics = Dynamics(model, TimeScale.of([0.0, 2.0, 4.0]))
    >>> push(dynamics, np.zeros((5, 2), dtype=np.float32), 0.0, 3.0).shape
    (5, 2)
    """

    model: CellMNNModel
    time_scale: TimeScale


@dataclass(frozen=True)
class Interpolation:
    """A predicted snapshot: weighted cells, each pushed from an observed one.

    Attributes
    ----------
    time : float
        Of the prediction, in the user's time.
    states : (cells, latent_dim)
        Where the cells are then.
    weights : (cells,)
        Sum to 1: nearer snapshots weigh more, and so do cells that have multiplied.
    source_index : (cells,)
        Index of the observed time that each cell comes from.
    source_cell : (cells,)
        Index of the cell within that snapshot.
    stopped : (cells,) bool
        Cells that would leave what the snapshots show, see :class:`TrustRegion`. They weigh
        nothing, unless all are.
    """

    time: float
    states: NDArray[np.float32]
    weights: NDArray[np.float64]
    source_index: NDArray[np.int64]
    source_cell: NDArray[np.int64]
    stopped: NDArray[np.bool_]


def push(
    dynamics: Dynamics,
    states: NDArray,
    time: float,
    target_times: float | NDArray,
    *,
    n_steps: int = 1,
) -> NDArray[np.float32]:
    """Push one snapshot to other times.

    Parameters
    ----------
    dynamics : Dynamics
        The model in the user's time.
    states : (cells, latent_dim)
        Latent states of the cells.
    time : float
        When the cells were taken, in the user's time.
    target_times : float or (targets,)
        Where to push them, earlier or later.
    n_steps : int
        Equal steps on the way to each target, with a new operator at each of them.

    Returns
    -------
    (targets, cells, latent_dim), or (cells, latent_dim) for a single target.
    """
    require_count("n_steps", n_steps)
    single = np.ndim(target_times) == 0
    targets = dynamics.time_scale.to_model(np.atleast_1d(target_times).astype(np.float64))
    start = dynamics.time_scale.to_model(float(time))
    pushed, _, stopped = _pushed(dynamics.model, states, start, targets, n_steps)
    warn_of_stopped(stopped)
    return pushed[0] if single else pushed


def interpolate(
    dynamics: Dynamics,
    course: TimeCourse,
    at: float,
    *,
    two_sided: bool = True,
    n_steps: int = 1,
    observed: NDArray[np.float64] | None = None,
) -> Interpolation:
    """The snapshot at time `at`, from the observed ones around it.

    Two-sided, the snapshot before is pushed forward, the one after backward, and the two are mixed
    with weights (b - t)/(b - a) and (t - a)/(b - a). Beyond the observed times there is one side
    only.

    Parameters
    ----------
    dynamics : Dynamics
        The model in the user's time.
    course : TimeCourse
        Observed snapshots; those of the training, or others.
    at : float
        In the user's time.
    two_sided : bool
        False pushes the snapshot before alone.
    n_steps : int
        See :func:`push`.
    observed : (times,), optional
        When anything was seen, if not only the snapshots of the time course were.

    Warns
    -----
    UserWarning
        If `at` is outside the observed times; names the distance.
    """
    times = course.times if observed is None else observed
    at = require_number("time to interpolate at", at)
    require_count("n_steps", n_steps)
    at = but_for_rounding(at, times)
    warn_if_beyond([at], times)
    predicted = mixture(dynamics, course, at, two_sided=two_sided, n_steps=n_steps)
    warn_of_stopped(predicted.stopped[None])
    return predicted


def but_for_rounding(at: float, times: NDArray[np.float64]) -> float:
    """The observed one of `times` (times,) that `at` is, or else itself: 0.1 + 0.2 is 0.3."""
    nearest = float(times[np.abs(times - at).argmin()])
    return nearest if abs(nearest - at) <= 1e-9 * (times[-1] - times[0]) else at


def mixture(
    dynamics: Dynamics,
    course: TimeCourse,
    at: float,
    *,
    two_sided: bool = True,
    n_steps: int = 1,
) -> Interpolation:
    """As :func:`interpolate`, for who asks often: without any check or warning.

    Parameters
    ----------
    dynamics, course, at, two_sided, n_steps
        See there.
    """
    times = course.times
    before = max(int(np.searchsorted(times, at, side="right")) - 1, 0)
    shares = {before: 1.0}
    if two_sided and times[0] <= at and before + 1 < len(times):
        progress = (at - times[before]) / (times[before + 1] - times[before])
        shares = {before: 1 - progress, before + 1: progress}
    parts = [(index, share) for index, share in shares.items() if share > 0]
    target = dynamics.time_scale.to_model(np.array([float(at)]))
    states, weights, stopped = [], [], []
    for index, share in parts:
        start = dynamics.time_scale.to_model(float(times[index]))
        pushed, log_growth, out = _pushed(
            dynamics.model, course.snapshots[index], start, target, n_steps
        )
        states.append(pushed[0])
        weights.append(share * as_shares(log_growth[0]))
        stopped.append(out[0])
    sizes = [len(cells) for cells in states]
    return Interpolation(
        time=float(at),
        states=np.concatenate(states),
        weights=_without(np.concatenate(weights), np.concatenate(stopped)),
        source_index=np.repeat([index for index, _ in parts], sizes),
        source_cell=np.concatenate([np.arange(n) for n in sizes]),
        stopped=np.concatenate(stopped),
    )


def blended(one: Interpolation, other: Interpolation) -> Interpolation:
    """Each cell half-way between the places where two models push it.

    Errors of models that know different things, a base what other data sets have in common and a
    fit from scratch the whole of one course, cancel in part (`studies/recipe.py`).

    Parameters
    ----------
    one, other : Interpolation
        Of the same cells to the same time.
    """
    assert one.time == other.time
    assert np.array_equal(one.source_cell, other.source_cell)
    stopped = one.stopped | other.stopped
    return replace(
        one,
        states=(one.states + other.states) / np.float32(2),
        weights=_without((one.weights + other.weights) / 2, stopped),
        stopped=stopped,
    )


def frame_alone(dynamics: Dynamics) -> Dynamics:
    """Cells that rest in the frame of a model which reads snapshots, whatever its network says."""
    model = copy.deepcopy(dynamics.model)
    cast(InContextHypernetwork, model.hypernetwork).rest_in_frame()
    return replace(dynamics, model=model)


def warn_of_stopped(stopped: NDArray[np.bool_]) -> None:
    """Say how many cells are not followed any farther at some time, (times, cells), if any.

    The mask `stopped` (times, cells).
    """
    if stopped.any():
        count = int(stopped.any(axis=0).sum())
        warnings.warn(
            f"{count} of {stopped.shape[1]} cells would leave what the snapshots show, "
            "and are stopped at its border: flagged in obs, and left out of means",
            stacklevel=3,
        )


def _without(weights: NDArray[np.float64], stopped: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of the other cells, which sum to 1 again; of all if there are no others."""
    kept = np.where(stopped, 0.0, weights)
    return kept / kept.sum() if kept.sum() > 0 else weights


def as_shares(log_growth: NDArray) -> NDArray[np.float64]:
    """Of all descendants those of each cell, (..., cells), from the log of their numbers.

    Which is `log_growth` (..., cells).
    """
    return softmax(log_growth.astype(np.float64), axis=-1)


def warn_if_beyond(
    wanted: Sequence[float], times: Sequence[float] | NDArray, whose: str = "observed times"
) -> float:
    """Warn of the time that is farthest outside the observed ones; how far, 0 if none is.

    The observed ones are `times` (times,).
    """
    first, last = float(min(times)), float(max(times))
    farthest = max(wanted, key=lambda at: max(first - at, at - last))
    beyond = max(first - farthest, farthest - last, 0.0)
    if beyond:
        warnings.warn(
            f"time {farthest:g} is {beyond:g} beyond the {whose} {first:g} to {last:g}: "
            "an extrapolation, which no snapshot checks",
            stacklevel=3,
        )
    return beyond


@torch.no_grad()
def draw_cells(
    model: CellMNNModel, cells: int, dataset_id: int = 0, seed: int = 0
) -> NDArray[np.float32]:
    """Cells drawn from mean and covariance at every stored time, (times · cells, latent_dim)."""
    frame = model.frame_state(dataset_id)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(frame.times), cells, frame.mean.shape[-1])
    y = torch.randn(shape, generator=generator).to(frame.mean)
    real = torch.arange(shape[-1], device=y.device) < model.dataset_dims[dataset_id]
    return frame.from_frame(y * real, frame.times).flatten(0, 1).cpu().numpy()


@torch.no_grad()
def velocity_at(dynamics: Dynamics, states: NDArray, time: float) -> NDArray[np.float32]:
    """dz/dt at `states` (cells, latent_dim) and `time`, per unit of the user's time."""
    model, when = dynamics.model, _model_time(dynamics, time)
    parts = [model(z[None], when, when).velocity[0, 0] for z in _blocks(model, states)]
    in_use: NDArray[np.float32] = torch.cat(parts)[:, : states.shape[-1]].cpu().numpy()
    return in_use / np.float32(dynamics.time_scale.unit)


def _model_time(dynamics: Dynamics, time: float) -> Tensor:
    """The user's `time` as the model takes it, (1,)."""
    start = dynamics.time_scale.to_model(float(time))
    return torch.tensor([start], dtype=dynamics.model.dtype, device=dynamics.model.device)


def velocities(dynamics: Dynamics, states: NDArray, times: NDArray) -> NDArray[np.float32]:
    """As :func:`velocity_at`, for cells each of which has a time, (cells,).

    `states` (cells, latent_dim) and `times` (cells,).
    """
    velocity = np.empty_like(states)
    for time in np.unique(times):
        same_time = times == time
        velocity[same_time] = velocity_at(dynamics, states[same_time], time)
    return velocity


@torch.no_grad()
def growth_rates(
    dynamics: Dynamics,
    states: NDArray,
    times: NDArray,
    *,
    absolute: bool = False,
) -> NDArray[np.float64]:
    """How fast cells multiply, (cells,) per unit of the user's time; 0 in a model without growth.

    Relative to the mean of the cells of the same time, since snapshots say no more, or `absolute`,
    of a model that was fitted to sizes of the population too.

    Of `states` (cells, latent_dim) at `times` (cells,).
    """
    rates = np.zeros(len(states))
    for time in np.unique(times):
        same_time = times == time
        when, parts = _model_time(dynamics, time), []
        for z in _blocks(dynamics.model, states[same_time]):
            _, of_model = dynamics.model.linear_ode(z[None], when)
            if of_model is None:
                return rates
            parts.append(of_model[0])
        rates_then = torch.cat(parts).cpu().numpy()
        common = 0.0 if absolute else rates_then.mean()
        rates[same_time] = (rates_then - common) / dynamics.time_scale.unit
    return rates


@torch.no_grad()
def _pushed(
    model: CellMNNModel, states: NDArray, start: float, targets: NDArray, n_steps: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """States (targets, cells, dims), log growth (targets, cells), and whether cells were stopped.

    At model times.
    """
    dims = states.shape[-1]
    parts: list[tuple[Tensor, ...]] = []
    for z in _blocks(model, states):
        first = torch.tensor([start]).to(z)
        region, begin = TrustRegion.around(model, z, first)
        ends = []
        if n_steps == 1:  # one operator leads to all of them
            output = model(z[None], first, torch.as_tensor(targets).to(first))
            for number, target in enumerate(torch.as_tensor(targets).to(first)):
                walk = region.step(begin, output.states[0, number], target[None])
                ends.append((walk, _log_growth(output, number, z)))
        else:
            ends = [
                _in_steps(model, region, begin, start, float(target), n_steps) for target in targets
            ]
        parts.append(
            (
                torch.stack([walk.z[:, :dims] for walk, _ in ends]),
                torch.stack([log_growth for _, log_growth in ends]),
                torch.stack([walk.stopped for walk, _ in ends]),
            )
        )
    arrays = [torch.cat(part, dim=1).cpu().numpy() for part in zip(*parts, strict=True)]
    return arrays[0], arrays[1], arrays[2]


def _in_steps(
    model: CellMNNModel, region: TrustRegion, walk: Walk, start: float, target: float, n_steps: int
) -> tuple[Walk, Tensor]:
    """Cells after equal steps to `target`, and their log growth (cells,)."""
    total = torch.zeros_like(walk.z[:, 0])
    for begin, end in pairwise(np.linspace(start, target, n_steps + 1)):
        begin_time, end_time = (torch.tensor([edge]).to(walk.z) for edge in (begin, end))
        output = model(walk.z[None], begin_time, end_time)
        walk = region.step(walk, output.states[0, 0], end_time)
        total = total + torch.where(walk.stopped, 0.0, _log_growth(output, 0, total))
    return walk, total


def _log_growth(output: CellMNNOutput, target: int, like: Tensor) -> Tensor:
    """Log growth (cells,) at one of the targets; 0 in a model without."""
    if output.log_growth is None:
        return torch.zeros_like(like[..., 0] if like.ndim > 1 else like)
    return output.log_growth[0, target]


def _blocks(model: CellMNNModel, states: NDArray) -> Iterator[Tensor]:
    """The same cells, `states` (cells, dims), as many at once as operators have room for."""
    for chunk in np.array_split(states, max(1, -(-len(states) // _CHUNK))):
        yield padded(model, chunk)


def padded(model: CellMNNModel, states: NDArray) -> Tensor:
    """States (cells, dims) with the dimensions of the model, on its device.

    From `states` (cells, dims).
    """
    z = torch.as_tensor(states, dtype=model.dtype, device=model.device)
    return torch.nn.functional.pad(z, (0, model.config.latent_dim - states.shape[-1]))
