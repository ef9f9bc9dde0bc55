"""Cells followed through time: new operators on the way, an error estimate, any times."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.time_course import TimeCourse
from ..model.errors import InputError, require_count, require_number
from ..model.in_context import Memory
from ..model.modeling_cellmnn import CellMNNModel
from .snapshots import Dynamics, padded, warn_of_stopped
from .trust_region import TrustRegion

DEFAULT_TOLERANCE = 1e-2

_MAX_STEPS = 256  # between two stops
_MAX_STEPS_READING = 16  # of a network that reads snapshots, which costs more than an MLP
_FIRST_STEPS_READING = 2  # and then four times as many, since two are hardly ever enough
_CHUNK = 16_384  # cells followed at once


@dataclass(frozen=True)
class Trajectory:
    """Where cells are at several times.

    Attributes
    ----------
    source_time : float
        When they were taken.
    times : (times,)
        In the user's time.
    states, velocity : (times, cells, latent_dim)
        z, and dz/dt per unit of the user's time.
    error : (times, cells), optional
        Estimated Euclidean distance of `states` from where the model's own ODE leads; None with a
        fixed number of steps.
    steps : (cells,)
        Between two stops, which are the times that are asked for and those that the frame knows.
    log_growth : (times, cells)
        Log of how much each cell's descendants have multiplied by then, up to a constant for each
        time that snapshots do not tell; 0 in a model without growth.
    stopped : (times, cells) bool
        Cells that would have left what the snapshots show by then, see
        :class:`cellmnn_fm.dynamics.trust_region.TrustRegion`: they are on its border.
    """

    source_time: float
    times: NDArray[np.float64]
    states: NDArray[np.float32]
    velocity: NDArray[np.float32]
    error: NDArray[np.float32] | None
    steps: NDArray[np.int64]
    log_growth: NDArray[np.float32]
    stopped: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Trajectory]) -> Trajectory:
        """Of cells that were followed in parts."""
        whole: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("states", "velocity", "log_growth", "stopped")
        }
        errors = [part.error for part in parts if part.error is not None]
        error = np.concatenate(errors, axis=1) if errors else None
        steps = np.concatenate([part.steps for part in parts])
        return replace(parts[0], **whole, error=error, steps=steps)


def roll_out(
    dynamics: Dynamics,
    states: NDArray,
    time: float,
    times: NDArray,
    *,
    n_steps: int | None = None,
    rtol: float = DEFAULT_TOLERANCE,
    atol: float = DEFAULT_TOLERANCE,
) -> Trajectory:
    """Follow cells forward and backward in time, with a new operator at every step.

    A step of the linear ODE is exact where the operator does not change on the way. Where it does,
    the steps between two stops are doubled until the states of two such runs agree: the distance of
    the coarser run from the ODE is about twice their difference (the scheme is of first order), and
    bounds that of the finer one, which is returned. Where the network reads snapshots, steps take
    the operator of half-way (the exponential midpoint rule, of second order): the distance of the
    finer run, of r times the steps, is about their difference over r² - 1; twice that is allowed.

    Parameters
    ----------
    dynamics : Dynamics
        Of one data set.
    states : (cells, latent_dim)
        Latent states of the cells.
    time : float
        When the cells were taken, in the user's time.
    times : (times,)
        Where to follow them to, in any order, earlier or later.
    n_steps : int, optional
        So many steps between two stops, each with the operator of where it begins, without an
        estimate of the error.
    rtol, atol : float
        Each cell's error at every time may be at most ``atol + rtol |z|``.

    Raises
    ------
    InputError
        On times that are not finite, and on steps or tolerances that are not positive.

    Warns
    -----
    UserWarning
        If cells are stopped; and if the tolerance is not reached with 256 steps between two stops,
        16 where the network reads snapshots: `error` says by how much.
    """
    times = np.atleast_1d(np.asarray(times, dtype=np.float64))
    if not len(times) or not np.isfinite([*times, time]).all():
        raise InputError("times", "finite ones", times.tolist(), "correct them")
    if n_steps is not None:
        require_count("n_steps", n_steps)
    if require_number("rtol", rtol, 0) + require_number("atol", atol, 0) == 0:
        raise InputError("rtol and atol", "one above 0", "0 and 0", "raise one")
    parts = [
        _roll_out_chunk(dynamics, chunk, time, times, n_steps, rtol, atol)
        for chunk in np.array_split(states, max(1, -(-len(states) // _CHUNK)))
    ]
    whole = Trajectory.joined(parts)
    warn_of_stopped(whole.stopped)
    if whole.error is not None:
        allowed = atol + rtol * np.linalg.norm(whole.states, axis=-1)
        if (missed := ~(whole.error <= allowed) & ~whole.stopped).any():
            warnings.warn(
                f"{missed.any(axis=0).sum()} of {len(whole.steps)} cells are not followed to the "
                f"tolerance within {_most_steps(dynamics.model)} steps: their error is up to "
                f"{whole.error[missed].max():.2g}",
                stacklevel=2,
            )
    return whole


@torch.no_grad()
def _roll_out_chunk(
    dynamics: Dynamics,
    states: NDArray,
    time: float,
    times: NDArray,
    n_steps: int | None,
    rtol: float,
    atol: float,
) -> Trajectory:
    """As :func:`roll_out`, for as many cells as are followed at once."""
    z, dims = padded(dynamics.model, states), states.shape[-1]
    start, wanted = dynamics.time_scale.to_model(float(time)), dynamics.time_scale.to_model(times)
    # a network that reads snapshots says other things at every point: fewer, better steps pay
    halfway = n_steps is None and bool(dynamics.model.config.context_cells)
    count = n_steps or (_FIRST_STEPS_READING if halfway else 1)
    steps = torch.full((len(z),), count, device=z.device)
    followed, log_growth, stopped = path(dynamics.model, z, start, wanted, count, halfway=halfway)
    error = None
    if n_steps is None:
        error = torch.full(followed.shape[:2], torch.inf, device=z.device)
        active = torch.arange(len(z), device=z.device)
        while len(active) and count < _most_steps(dynamics.model):
            ratio = 4 if halfway and count == _FIRST_STEPS_READING else 2
            count *= ratio
            finer = path(dynamics.model, z[active], start, wanted, count, halfway=halfway)
            difference = torch.linalg.vector_norm(finer.states - followed[:, active], dim=-1)
            distance = difference * (2 / (ratio**2 - 1) if halfway else 2)
            # cells that every run stops agree: where exactly they leave is of no interest
            both_stopped = stopped[:, active] & finer.stopped
            followed[:, active], error[:, active], steps[active] = finer.states, distance, count
            log_growth[:, active], stopped[:, active] = finer.log_growth, finer.stopped
            allowed = atol + rtol * torch.linalg.vector_norm(finer.states, dim=-1)
            active = active[~((distance <= allowed) | both_stopped).all(0)]
    whole = Path(followed, log_growth, stopped)
    found = trajectory_of(dynamics, whole, z, time, times, steps.cpu().numpy(), dims)
    return found if error is None else replace(found, error=error.cpu().numpy())


def trajectory_of(
    dynamics: Dynamics,
    followed: Path,
    z: Tensor,
    time: float,
    times: NDArray,
    steps: NDArray,
    dims: int,
) -> Trajectory:
    """Cells that were followed, in the user's time, with their velocities.

    Parameters
    ----------
    dynamics : Dynamics
        Of one data set.
    followed : Path
        Of cells that were `z` (cells, latent_dim) at `time`, to `times` (times,).
    z, time, times
        See there.
    steps : (cells,)
        Between two stops.
    dims : int
        Dimensions that are no padding.
    """
    start, wanted = dynamics.time_scale.to_model(float(time)), dynamics.time_scale.to_model(times)
    region, _ = TrustRegion.around(dynamics.model, z, torch.tensor([start]).to(z))
    velocity = torch.stack(
        [
            region.velocity(
                states_then,
                out,
                dynamics.model(states_then[None], when[None], when[None]).velocity[0, 0],
                when[None],
            )
            for states_then, when, out in zip(
                followed.states, torch.as_tensor(wanted).to(z), followed.stopped, strict=True
            )
        ]
    )
    return Trajectory(
        float(time),
        times,
        followed.states[..., :dims].cpu().numpy(),
        (velocity[..., :dims] / dynamics.time_scale.unit).cpu().numpy(),
        None,
        steps,
        followed.log_growth.cpu().numpy(),
        followed.stopped.cpu().numpy(),
    )


def _most_steps(model: CellMNNModel) -> int:
    """Between two stops."""
    return _MAX_STEPS_READING if model.config.context_cells else _MAX_STEPS


def log_descendants(dynamics: Dynamics, course: TimeCourse) -> list[NDArray[np.float32]]:
    """Log of how many descendants each cell has at the last time, (cells,) for each snapshot."""
    return [
        # with a new operator at every observed time
        roll_out(dynamics, snapshot, time, course.times[number:], n_steps=1).log_growth[-1]
        for number, (time, snapshot) in enumerate(zip(course.times, course.snapshots, strict=True))
    ]


class Path(NamedTuple):
    """Cells at several model times."""

    states: Tensor  # (times, cells, latent_dim)
    log_growth: Tensor  # (times, cells)
    stopped: Tensor  # (times, cells)


def path(
    model: CellMNNModel,
    z: Tensor,
    start: float,
    wanted: NDArray,
    n_steps: int,
    *,
    halfway: bool = False,
    disturb: Callable[[Tensor, float, float], Tensor] | None = None,
) -> Path:
    """Follow cells to model times, by `n_steps` steps between two stops.

    Each takes the operator of where it begins, or that of `halfway`; half of what is to `disturb`
    cells (cells, latent_dim) at a model time, for so long, comes before it, and half after.

    A cell that would leave the trust region is stopped at its border. Differentiable in `z`
    (cells, latent_dim), but for cells that are stopped.

    From `z` (cells, latent_dim) at `start` to `wanted` (times,), in any order.
    """
    known = model.frame_state().times.tolist() if model.config.frame else []
    memory = model.memory() if model.config.context_cells else None
    step = _midpoint if halfway else _pushed
    region, beginning = TrustRegion.around(model, z, torch.tensor([start]).to(z))
    visited: dict[float, tuple[Tensor, Tensor, Tensor]] = {}
    for side in (wanted[wanted >= start], wanted[wanted < start][::-1]):
        if not len(side):
            continue
        end = side.max() if side[0] >= start else side.min()
        low, high = min(start, end), max(start, end)
        # rates of the frame jump at the times that it knows
        stops = np.unique([start, *side, *(time for time in known if low < time < high)])
        stops = stops if end >= start else stops[::-1]
        walk, log_growth = beginning, torch.zeros_like(z[:, 0])
        visited[float(stops[0])] = walk.z, log_growth, walk.stopped
        for before, after in pairwise(stops):
            for begin, stop in pairwise(np.linspace(before, after, n_steps + 1)):
                begin_time, stop_time = (torch.tensor([edge]).to(z) for edge in (begin, stop))
                half = abs(stop - begin) / 2
                if disturb is not None:
                    walk = region.step(walk, disturb(walk.z, begin, half), begin_time)
                pushed = step(model, memory, walk.z, begin_time, stop_time)
                walk = region.step(walk, pushed[0], stop_time)
                if disturb is not None:
                    walk = region.step(walk, disturb(walk.z, stop, half), stop_time)
                if pushed[1] is not None:
                    log_growth = torch.where(walk.stopped, log_growth, log_growth + pushed[1])
            visited[float(after)] = walk.z, log_growth, walk.stopped
    parts = zip(*(visited[float(time)] for time in wanted), strict=True)
    return Path(*(torch.stack(part) for part in parts))


def _pushed(
    model: CellMNNModel, memory: Memory | None, z: Tensor, begin: Tensor, end: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Cells (cells, latent_dim) and their log growth (cells,) after a step of the model.

    From `z` (cells, latent_dim), between model times `begin` and `end` (1,).
    """
    output = model(z[None], begin, end, memory=memory)
    return output.states[0, 0], None if output.log_growth is None else output.log_growth[0, 0]


def _midpoint(
    model: CellMNNModel, memory: Memory | None, z: Tensor, begin: Tensor, end: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The same by the exponential midpoint rule: the operator is that of half-way.

    From `z` (cells, latent_dim), between model times `begin` and `end` (1,).
    """
    middle = (begin + end) / 2
    halfway, _ = _pushed(model, memory, z, begin, middle)
    forward = end >= begin
    ode, growth_rate = model.linear_ode(halfway[None], middle, memory=memory, forward=forward)
    frame = model.frame_state() if model.config.frame else None
    y = z[None] if frame is None else frame.to_frame(z[None], begin)
    y = ode.flow(y, (end - begin)[..., None, None]).squeeze(-2)
    states = y if frame is None else frame.from_frame(y, end)
    return states[0], None if growth_rate is None else (growth_rate * (end - begin))[0]
