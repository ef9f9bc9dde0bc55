"""Dynamical systems whose velocity field and snapshots are known: what a fit is judged against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from .time_course import TimeCourse

if TYPE_CHECKING:
    from anndata import AnnData

_GROWING = 8  # times as many cells are followed where they multiply, and some of them drawn


@dataclass(frozen=True)
class KnownSystem:
    """An autonomous ODE with a known initial distribution; cells do not interact, but may multiply.

    Attributes
    ----------
    name : str
        For tables and files.
    velocity : callable
        dx/dt (cells, dims) of states (cells, dims).
    draw_initial : callable
        (cells, dims) of (generator, cells), at the first time.
    times : (times,)
        When snapshots are taken.
    held_out : int
        Index of the time that a fit does not see.
    growth : callable, optional
        Births less deaths (cells,) per unit of time, of states.

    Examples
    --------
    >>> system = KNOWN_SYSTEMS["linear"]
    >>> system.course(cells=100, seed=0)
    TimeCourse(9 snapshots of 100 to 100 cells, times 0 to 4, 2 dimensions)
    """

    name: str
    velocity: Callable[[NDArray], NDArray]
    draw_initial: Callable[[np.random.Generator, int], NDArray]
    times: tuple[float, ...]
    held_out: int
    growth: Callable[[NDArray], NDArray] | None = None

    def snapshot(self, time: float, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """`cells` cells that no other snapshot contains, at `time`."""
        drawn = cells if self.growth is None else _GROWING * cells
        states, log_descendants = self.followed(self.draw_initial(rng, drawn), time)
        if self.growth is not None:
            weights = np.exp(log_descendants - log_descendants.max())
            states = states[rng.choice(drawn, cells, replace=False, p=weights / weights.sum())]
        return states.astype(np.float32)

    def followed(self, initial: NDArray, time: float) -> tuple[NDArray, NDArray]:
        """Where cells `initial` at the first time are at `time`, and the log of their number.

        Both for `initial` (cells, dims).
        """
        cells = len(initial)

        def rates(_: float, flat: NDArray) -> NDArray:
            x = flat[cells:].reshape(initial.shape)
            growth = np.zeros(cells) if self.growth is None else self.growth(x)
            return np.concatenate([growth, self.velocity(x).ravel()])

        span = (self.times[0], max(time, self.times[0]))
        start = np.concatenate([np.zeros(cells), initial.ravel()])
        end = solve_ivp(rates, span, start, rtol=1e-6, atol=1e-8).y[:, -1]
        return end[cells:].reshape(initial.shape), end[:cells]

    def course(self, cells: int, seed: int) -> TimeCourse:
        """A time course of `cells` cells at every time."""
        rng = np.random.default_rng(seed)
        snapshots = [self.snapshot(time, cells, rng) for time in self.times]
        return TimeCourse(snapshots, np.array(self.times))

    def to_anndata(self, cells: int, seed: int) -> AnnData:
        """The same, as AnnData with coordinates in `X` and times in `obs["time"]`."""
        import anndata
        import pandas as pd

        course = self.course(cells, seed)
        obs = pd.DataFrame({"time": np.repeat(course.times, cells)})
        obs.index = [f"cell{i}" for i in range(len(obs))]
        return anndata.AnnData(np.concatenate(course.snapshots), obs=obs, uns={"space": "pca"})


def _blob(centre: tuple[float, float], spread: float):
    """A normal cloud around a centre."""

    def draw(rng: np.random.Generator, cells: int) -> NDArray:
        return centre + spread * rng.normal(size=(cells, 2))

    return draw


def _corner(rng: np.random.Generator, cells: int) -> NDArray:
    """A thick L, a shape by which every rotation can be seen."""
    along = rng.uniform(0, 2, size=cells)
    horizontal = rng.random(cells) < 0.6
    legs = np.where(horizontal, (along, 0 * along), (0 * along, 0.6 * along)).T
    return legs + (0.2, 0.0) + 0.1 * rng.normal(size=(cells, 2))


def _nine_times(last: float) -> tuple[float, ...]:
    """From 0 to the last, evenly."""
    return tuple(np.linspace(0.0, last, 9).tolist())


ROTATION_CONTRACTION = np.array([[-0.2, -0.5], [0.5, -0.2]])
"""Operator of the linear system."""


def _linear(x: NDArray) -> NDArray:
    """Rotation and contraction."""
    return x @ ROTATION_CONTRACTION.T


def _bistable(x: NDArray) -> NDArray:
    """A switch with stable states at x₁ = ±1; x₂ relaxes onto the branch."""
    return np.stack([x[:, 0] - x[:, 0] ** 3, x[:, 0] ** 2 - x[:, 1]], axis=1)


def _oscillator(x: NDArray) -> NDArray:
    """A limit cycle of radius 1 and angular velocity 0.8 (Hopf normal form)."""
    radius2 = (x**2).sum(axis=1, keepdims=True)
    return 0.5 * (1 - radius2) * x + 0.8 * np.stack([-x[:, 1], x[:, 0]], axis=1)


KNOWN_SYSTEMS: dict[str, KnownSystem] = {
    system.name: system
    for system in (
        KnownSystem("linear", _linear, _corner, _nine_times(4.0), held_out=4),
        KnownSystem("bistable", _bistable, _blob((0.0, 0.0), 0.2), _nine_times(3.0), held_out=4),
        KnownSystem(
            "oscillator", _oscillator, _blob((0.4, 0.2), 0.15), _nine_times(3.0), held_out=4
        ),
    )
}
"""The systems by name: rotation and contraction, two-branch switch, limit cycle."""

GROWING_SWITCH = KnownSystem(
    "growing switch",
    _bistable,
    _blob((0.0, 0.0), 0.2),
    tuple(np.linspace(0.0, 3.0, 7).tolist()),
    held_out=3,
    growth=lambda x: 0.5 * x[:, 0],
)
"""The switch again, but cells of one branch multiply and those of the other die."""


def branching_course(seed: int, dims: int, cells: int = 120) -> TimeCourse:
    """A random system of cells that move along a curved path and part into branches.

    A source of tasks for joint training: 3 to 8 unevenly spaced times, 1 to 4 branches whose
    proportions drift, a path whose direction turns and whose pace fades or picks up, and clouds
    whose spread changes.

    Parameters
    ----------
    seed : int
        Of everything that is drawn.
    dims : int
        Of the states.
    cells : int
        At most so many at each time; at least a quarter of it.

    Returns
    -------
    TimeCourse
        Z-scored over all cells.
    """
    rng = np.random.default_rng((seed, 7))
    times = np.cumsum(rng.gamma(2.0, 1.0, size=rng.integers(3, 9)))
    progress = (times - times[0]) / (times[-1] - times[0])
    # the stem: a direction that turns steadily, at a pace that changes
    fine = np.linspace(0, 1, 101)
    one, other = np.linalg.qr(rng.normal(size=(dims, 2)))[0].T if dims > 1 else (np.ones(1),) * 2
    angle = rng.normal(0, 1.5) * fine
    pace = np.exp(rng.normal(0, 1.0) * fine)
    steps = (pace * np.cos(angle))[:, None] * one + (pace * np.sin(angle))[:, None] * other
    path = np.cumsum(steps, axis=0) * rng.uniform(1, 6) / np.linalg.norm(steps.sum(axis=0))
    branches = rng.integers(1, 5)
    directions = rng.normal(size=(branches, dims)) / np.sqrt(dims)
    onset, final = rng.uniform(0, 0.7, branches), rng.uniform(0, 5, branches)
    odds = rng.normal(size=branches) + rng.normal(size=branches) * progress[:, None]
    shape = rng.normal(size=(branches, dims, dims)) / np.sqrt(dims) * rng.lognormal(0, 0.3)
    growth = rng.normal(0, 0.5, branches)
    snapshots = []
    for share, odd in zip(progress, odds, strict=True):
        count = int(rng.integers(max(cells // 4, 8), cells + 1))
        branch = rng.choice(branches, count, p=np.exp(odd) / np.exp(odd).sum())
        centre = path[int(100 * share)] + (
            directions * (final * np.clip((share - onset) / (1 - onset), 0, 1))[:, None]
        )
        spread = np.einsum("cij,cj->ci", shape[branch], rng.normal(size=(count, dims)))
        snapshots.append(centre[branch] + np.exp(growth[branch] * share)[:, None] * spread)
    everything = np.concatenate(snapshots)
    mean, scale = everything.mean(axis=0), everything.std(axis=0)
    return TimeCourse([(snapshot - mean) / scale for snapshot in snapshots], times)
