"""Tasks from simulated systems: snapshots as an experiment shows them, and cells to tell of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ..model.errors import InputError
from ..model.gaussian_frame import FrameState, fit_frame, stack_frames
from ..model.in_context import Control
from .paired_frames import fit_paired_frames
from .simulated_systems import FAMILIES, Family, SimulatedCells, draw_system, perturbed
from .time_course import TimeScale

_STREAMS = 8  # groups of systems that take turns, so that steps that follow differ
_USES = 8  # of a system, each with other cells, times and noise: simulating costs most
_POOL = 100  # cells of a system at each time
_BETWEEN = 3  # times between the observed ones, to ask at
_QUERY_CELLS, _TARGET_CELLS = 24, 48
_ATTEMPTS = 20
_TIMES_SHARES = (0.06, 0.14, 0.18, 0.18, 0.14, 0.12, 0.09, 0.09)  # of 2, 3, ... times
_CLEAN_SHARE = 0.25  # of the tasks are measured without any noise
_FARTHEST = 20.0  # spreads
_LEAST_WITHIN = 0.02  # of the spread of all cells, that of the cells of a snapshot
_FASTEST = 3.0  # spreads of all cells in the mean gap between snapshots
_PRECISION = 0.003  # of any measurement
_MIN_CELLS, _MAX_CELLS = 10, 96  # in a snapshot that is shown
_SEEN_SHARES = (0.3, 0.5, 0.2)  # of 1, 2, 3 snapshots under a condition that are shown
_AT_START_SHARE = 0.4  # of the conditions of which the first snapshot is one that is shown


@dataclass(frozen=True)
class SimulationConfig:
    """What is simulated for a step, and how much each part of its loss weighs.

    Parameters
    ----------
    tasks : int
        In a step, over all processes.
    dims : tuple of int
        Fewest and most dimensions.
    families : tuple of str
        To draw from.
    pairs : bool
        Whether each task is a condition that is shown at some times, beside its control.
    velocity_weight, flow_weight, operator_weight, growth_weight : float
        Of the errors of velocities, of snapshots that cells are pushed to, of operators at other
        cells, and of growth.

    Raises
    ------
    InputError
        On numbers out of range.
    """

    tasks: int = 16
    dims: tuple[int, int] = (2, 8)
    families: tuple[Family, ...] = FAMILIES
    pairs: bool = False
    velocity_weight: float = 1.0
    flow_weight: float = 3.0
    operator_weight: float = 0.3
    growth_weight: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.dims[0] <= self.dims[1]:
            raise InputError("dims", "fewest and most dimensions", self.dims, "correct them")
        if self.tasks < 1:
            raise InputError("tasks", "at least 1", self.tasks, "give more")
        if not self.families or not {*self.families} <= {*FAMILIES}:
            some = f"some of {', '.join(FAMILIES)}"
            raise InputError("families", some, self.families or "none", "correct them")
        for name in ("velocity_weight", "flow_weight", "operator_weight", "growth_weight"):
            if getattr(self, name) < 0:
                raise InputError(name, "0 or more", getattr(self, name), "give a weight")


class SimulatedBatch(NamedTuple):
    """Tasks as tensors: states in units of what is observed, times in model time."""

    context: torch.Tensor  # (tasks, times, cells, d)
    shown: torch.Tensor  # (tasks, times, cells), which of these are cells and not padding
    frame: FrameState  # of the snapshots
    query: torch.Tensor  # (tasks, groups, cells, d)
    query_times: torch.Tensor  # (tasks, groups)
    forward: torch.Tensor  # (tasks, groups), where the frame's rates are those of the right
    velocity: torch.Tensor  # (tasks, groups, cells, d), per unit of model time
    growth: torch.Tensor  # (tasks, groups, cells), likewise
    target: torch.Tensor  # (tasks, cells, d), that the first two groups are pushed to
    target_time: torch.Tensor  # (tasks,)
    control: Control | None = None  # beside which the snapshots are shown

    def to(self, device: torch.device) -> SimulatedBatch:
        """The batch on a device."""
        parts = self._asdict().items()
        return self._replace(**{name: part.to(device) for name, part in parts if part is not None})


class SimulatedTasks(Dataset):
    """Batches of tasks, each a function of (seed, step) alone.

    Tasks of a step are of equal shapes: nothing is padded but cells of snapshots that have fewer.

    Parameters
    ----------
    config : SimulationConfig
        What to draw.
    seed : int
        Of all draws.
    steps : int
        Length.
    process, processes : int
        Which part of every step to draw.

    Examples
    --------
    >>> batch = SimulatedTasks(SimulationConfig(tasks=2), seed=0, steps=1)[0]
    >>> batch.query.shape == batch.velocity.shape
    True
    """

    def __init__(
        self, config: SimulationConfig, seed: int, steps: int, process: int = 0, processes: int = 1
    ):
        self.config, self.seed, self.steps = config, seed, steps
        self._mine = range(process, config.tasks, processes)
        self._systems = self._remembered()

    def __getstate__(self) -> dict[str, Any]:
        # workers that are spawned get a copy, and remember for themselves
        return {name: value for name, value in vars(self).items() if name != "_systems"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._systems = self._remembered()

    def _remembered(self) -> Callable[[int, int, int, int, int], _Course]:
        """Simulations by their numbers, of which several steps make use."""
        return lru_cache(maxsize=2 * _STREAMS * len(self._mine))(self._simulate)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> SimulatedBatch:
        round_, stream = step // (_STREAMS * _USES), step % _STREAMS
        shape_rng = np.random.default_rng((self.seed, 1, round_, stream))
        dims = int(shape_rng.integers(self.config.dims[0], self.config.dims[1] + 1))
        times = int(shape_rng.choice(len(_TIMES_SHARES), p=_TIMES_SHARES)) + 2
        step_rng = np.random.default_rng((self.seed, 2, step))
        interior = times - 2
        hidden = min(int(step_rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2])), interior)
        most = int(np.exp(step_rng.uniform(np.log(_MIN_CELLS + 2), np.log(_MAX_CELLS + 1))))
        uneven = step_rng.random() < 0.5
        drawn = []
        for number in self._mine:
            system = self._systems(round_, stream, number, dims, times)
            rng = np.random.default_rng((self.seed, 3, step, number))
            drawn.append(_task(system, hidden, most, uneven, rng))
        fields = zip(*drawn, strict=True)
        context, shown, frames, *asked, controls = (list(field) for field in fields)
        query, query_times, forward, velocity, growth, target, target_time = map(torch.stack, asked)
        return SimulatedBatch(
            torch.stack(context),
            torch.stack(shown),
            stack_frames(frames),
            query,
            query_times,
            forward,
            velocity,
            growth,
            target,
            target_time,
            _stacked(controls) if self.config.pairs else None,
        )

    def _simulate(self, round_: int, stream: int, number: int, dims: int, times: int) -> _Course:
        """A system of a stream, followed."""
        seed = np.random.SeedSequence((self.seed, 4, round_, stream, number))
        return _course(int(seed.generate_state(1)[0]), dims, times, self.config)


def _stacked(controls: list[Control]) -> Control:
    """Of all tasks."""
    frames, contexts, shown = zip(*controls, strict=True)
    return Control(stack_frames(frames), torch.stack(contexts), torch.stack(shown))


class _Course(NamedTuple):
    """Cells of a system at all times that may be shown or asked about, before any measurement."""

    times: NDArray  # (times,)
    observable: NDArray  # (times,) bool, the others are only asked about
    states: NDArray  # (times, cells, variables)
    velocity: NDArray
    growth: NDArray  # (times, cells)
    counts: float | None
    dims: int  # that are seen
    control: _Course | None = None  # at the same times


def _course(seed: int, dims: int, times: int, config: SimulationConfig) -> _Course:
    """Simulate."""
    for attempt in range(_ATTEMPTS):
        with np.errstate(all="ignore"):
            course = _attempted(seed + attempt, dims, times, config)
        if _usable(course) and (course.control is None or _usable(course.control)):
            return course
    raise AssertionError(f"no system of {config.families} within {_ATTEMPTS} attempts")


def _usable(course: _Course) -> bool:
    """Whether no cell has run away, and none of the snapshots is a single point."""
    if not np.isfinite(course.velocity).all():
        return False  # steps are too long for some systems
    x = (
        course.states
        if course.counts is None
        else np.log1p(np.maximum(course.counts * course.states, 0.0))
    )
    total = x.std(axis=(0, 1)).mean()
    within = x.std(axis=1).mean(axis=-1).min()
    far = np.abs(x - x.mean(axis=(0, 1))).max()
    # an experiment is planned so that it does not miss what happens
    speed = np.sqrt(np.square(course.velocity).sum(-1).mean(axis=1)).max()
    spread = np.sqrt(course.states.var(axis=(0, 1)).sum())
    gap = (course.times[-1] - course.times[0]) / (course.observable.sum() - 1)
    if speed * gap > _FASTEST * spread:
        return False
    return bool(far < _FARTHEST * x.std() and within > _LEAST_WITHIN * total > 0)


def _attempted(seed: int, dims: int, times: int, config: SimulationConfig) -> _Course:
    """Simulate, whatever comes of it."""
    rng = np.random.default_rng((seed, 12))
    still = int(rng.integers(1, dims // 2 + 1)) if dims > 2 and rng.random() < 0.3 else 0
    system = draw_system(seed, dims - still, config.families)
    gaps = np.ones(times - 1) if rng.random() < 0.5 else rng.gamma(2.0, 1.0, times - 1) + 0.1
    observed = np.concatenate([[0.0], np.cumsum(gaps)]) / gaps.sum() * system.horizon
    between = np.sort(rng.uniform(0, system.horizon, _BETWEEN))
    everything = np.concatenate([observed, between])
    order = np.argsort(everything)
    followed_times, observable = everything[order], np.isin(order, np.arange(times))
    cells = system.followed(followed_times, _POOL, rng)
    # directions in which nothing happens, as in the later components of real data
    rest_spread = cells.states.std() * np.exp(rng.uniform(np.log(0.1), np.log(1.0), still))

    def course_of(cells: SimulatedCells) -> _Course:
        rest = rest_spread * rng.normal(size=(*cells.states.shape[:2], still))
        states = np.concatenate([cells.states, rest], axis=-1)
        velocity = np.concatenate([cells.velocity, np.zeros_like(rest)], axis=-1)
        about = cells.growth, system.counts, dims
        return _Course(followed_times, observable, states, velocity, *about)

    course = course_of(cells)
    if not config.pairs:
        return course
    condition = perturbed(system, rng)
    return course_of(condition.followed(followed_times, _POOL, rng))._replace(control=course)


class _Shown(NamedTuple):
    """Cells of snapshots that are shown, at the times of a frame."""

    context: NDArray  # (times, cells, d)
    mask: NDArray  # (times, cells), which of them are cells
    snapshots: list[NDArray]  # (cells, d), of the times at which there are any
    times: NDArray  # (snapshots,), in model time


def _task(course: _Course, hidden: int, most: int, uneven: bool, rng: np.random.Generator) -> tuple:
    """One way to measure a course, to show a part of it, and to ask about the rest."""
    observable, control = np.flatnonzero(course.observable), course.control
    interior = rng.permutation(observable[1:-1])
    if control is None:
        shown_times = np.setdiff1d(observable, interior[:hidden])
        control_times = np.empty(0, dtype=int)
    else:
        shown_times = _seen_times(observable, rng)
        control_times = observable
    held_out = np.setdiff1d(observable, shown_times)
    known = np.union1d(shown_times, control_times)
    scale = TimeScale.of(course.times[known])
    times = scale.to_model(course.times)

    pure = rng.random() < _CLEAN_SHARE
    measured, clean, velocity = _measured(course, shown_times, control_times, pure, rng)
    velocity = velocity * scale.unit
    growth = course.growth * scale.unit
    dims = course.dims

    # what is shown: some cells of every snapshot, of which some kinds may be caught more often
    bias = rng.normal(size=dims) * (0.0 if pure else rng.choice([0.0, 0.0, 0.3]))
    parts = []
    for rows, whose in ((shown_times, 0), (control_times, len(times))):
        part = _Shown(
            np.zeros((len(known), most, dims)),
            np.zeros((len(known), most), dtype=bool),
            [],
            times[rows],
        )
        for time in rows:
            row = np.searchsorted(known, time)
            count = int(rng.integers(max(_MIN_CELLS, most // 3), most + 1)) if uneven else most
            snapshot = measured[whose + time]
            odds = snapshot @ (bias * rng.choice([-1.0, 1.0])) + rng.gumbel(size=_POOL)
            cells = snapshot[np.argsort(-odds)[:count]]
            part.snapshots.append(cells)
            part.context[row, :count], part.mask[row, :count] = cells, True
        parts.append(part)
    seen = np.concatenate([cells for part in parts for cells in part.snapshots])
    centre = seen.mean(axis=0)
    spread = seen.std(axis=0) + 1e-9
    if rng.random() < 0.5:  # one unit for all, or each component by itself
        spread = np.full(dims, np.sqrt(np.square(spread).mean()))
    shown, beside = (
        part._replace(
            context=np.where(part.mask[..., None], (part.context - centre) / spread, 0.0),
            snapshots=[(cells - centre) / spread for cells in part.snapshots],
        )
        for part in parts
    )

    # a time that is not shown, the snapshots on both sides of it, and any other time
    unseen = np.setdiff1d(np.arange(len(times)), shown_times)
    hidden_time = rng.choice(held_out if len(held_out) else unseen)
    after = int(np.searchsorted(shown_times, hidden_time))
    # beyond the last one that is shown, or before the first, that one twice
    sides = shown_times[np.clip([after - 1, after], 0, len(shown_times) - 1)]
    asked = np.array([*sides, hidden_time, rng.choice(len(times))])
    rows = np.argsort(rng.random((len(asked), _POOL)), axis=1)[:, :_QUERY_CELLS]
    query = measured[asked[:, None], rows]
    if rng.random() < 0.5:  # also of places that no noise has moved
        query[2:] = clean[asked[2:, None], rows[2:]]
    query = (query - centre) / spread
    toward = velocity[asked[:, None], rows] / spread
    rates = growth[asked[:, None], rows]
    forward = np.array([*(sides < hidden_time), *(rng.random(2) < 0.5)])
    target = (rng.permutation(measured[hidden_time])[:_TARGET_CELLS] - centre) / spread
    query_times = times[asked]
    if rng.random() < 0.3:  # backward in time
        last = times[known][-1]
        query_times = last - query_times
        shown, beside = (
            _Shown(
                part.context[::-1], part.mask[::-1], part.snapshots[::-1], last - part.times[::-1]
            )
            for part in (shown, beside)
        )
        toward, rates, forward = -toward, -rates, ~forward
    frame, other = _frames(shown, None if control is None else beside)
    asked_of = (query, query_times, forward, toward, rates, target, query_times[2])
    numbers = (shown.context, shown.mask, None, *asked_of)
    task = tuple(frame if part is None else _tensor(part) for part in numbers)
    if other is None:
        return (*task, None)
    return (*task, Control(other, _tensor(beside.context), _tensor(beside.mask)))


def _seen_times(observable: NDArray, rng: np.random.Generator) -> NDArray:
    """At which of the `observable` (times,) a condition is shown: some of them."""
    count = min(int(rng.choice([1, 2, 3], p=_SEEN_SHARES)), len(observable) - 1)
    seen = rng.permutation(observable)[:count]
    if rng.random() < _AT_START_SHARE and observable[0] not in seen:
        seen[0] = observable[0]
    return np.sort(seen)


def _frames(shown: _Shown, beside: _Shown | None) -> tuple[FrameState, FrameState | None]:
    """The frame of what is shown, and that of a control, if it is shown beside one."""
    parts = [
        ([_tensor(cells) for cells in part.snapshots], _tensor(part.times))
        for part in ([shown] if beside is None else [shown, beside])
    ]
    if len(parts) == 1:
        return fit_frame(*parts[0]), None
    return fit_paired_frames(*parts[0], *parts[1])


def _tensor(values: NDArray) -> torch.Tensor:
    """In single precision where it is a number."""
    values = np.array(values)
    return torch.from_numpy(values if values.dtype == bool else values.astype(np.float32))


def _measured(
    course: _Course,
    shown: NDArray,
    control_shown: NDArray,
    pure: bool,
    rng: np.random.Generator,
) -> tuple[NDArray, NDArray, NDArray]:
    """Principal components of what an experiment sees, of what is true, and velocities in them.

    All (times, cells, d), those of a control after those of a course. `shown` and `control_shown`
    (times,) are the snapshots that are seen.
    """
    x, velocity = course.states, course.velocity
    if course.control is not None:
        shown = np.concatenate([shown, len(x) + control_shown])
        x = np.concatenate([x, course.control.states])
        velocity = np.concatenate([velocity, course.control.velocity])
    clean = x
    seen = x
    if course.counts is not None:
        level = np.maximum(course.counts * x, 0.0)
        clean = np.log1p(level)
        seen = clean if pure else np.log1p(rng.poisson(level))
        velocity = course.counts * velocity / (1 + level)
    spread = clean[shown].std()
    seen = seen + _PRECISION * spread * rng.normal(size=seen.shape)
    if not pure and rng.random() < 0.6:
        seen = seen + rng.uniform(0.02, 0.3) * spread * rng.normal(size=seen.shape)
    if (
        not pure and rng.random() < 0.4
    ):  # each snapshot is a sample of its own, prepared on another day
        shift = rng.uniform(0.02, 0.15) * spread * rng.normal(size=(len(x), 1, x.shape[-1]))
        hidden = np.setdiff1d(np.arange(len(x)), shown)
        shift[hidden] = 0.0
        seen, clean = seen + shift, clean + shift
    flat = seen[shown].reshape(-1, seen.shape[-1])
    centre = flat.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(flat.T).reshape(flat.shape[-1], flat.shape[-1]))
    axes = axes[:, ::-1][:, : course.dims]
    return (seen - centre) @ axes, (clean - centre) @ axes, velocity @ axes
