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


@dataclass(frozen=True)
class KnownSystem:
    """An autonomous ODE with a known initial distribution; cells do not interact.

    Attributes
    ----------
    name : str
    velocity : callable
        dx/dt (cells, dims) of states (cells, dims).
    draw_initial : callable
        (cells, dims) of (generator, cells), at the first time.
    times : (times,)
        When snapshots are taken.
    held_out : int
        Index of the time that a fit does not see.

    Examples
    --------
    >>> system = KNOWN_SYSTEMS["linear"]
    >>> system.course(cells=100, seed=0)
    TimeCourse(5 snapshots of 100 to 100 cells, times 0 to 4, 2 dimensions)
    """

    name: str
    velocity: Callable[[NDArray], NDArray]
    draw_initial: Callable[[np.random.Generator, int], NDArray]
    times: tuple[float, ...]
    held_out: int

    def snapshot(self, time: float, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """`cells` cells that no other snapshot contains, at `time`."""
        initial = self.draw_initial(rng, cells)

        def flat_velocity(_: float, flat: NDArray) -> NDArray:
            return self.velocity(flat.reshape(initial.shape)).ravel()

        span = (self.times[0], max(time, self.times[0]))
        solution = solve_ivp(flat_velocity, span, initial.ravel(), rtol=1e-6, atol=1e-8)
        return solution.y[:, -1].reshape(initial.shape).astype(np.float32)

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


def _blobs(*centres: tuple[float, float], spread: float):
    """Equal Gaussians around `centres`: shapes by which a rotation can be seen."""

    def draw(rng: np.random.Generator, cells: int) -> NDArray:
        which = rng.integers(len(centres), size=cells)
        return np.array(centres)[which] + spread * rng.normal(size=(cells, 2))

    return draw


ROTATION_CONTRACTION = np.array([[-0.2, -0.5], [0.5, -0.2]])
"""Operator of the linear system."""


def _linear(x: NDArray) -> NDArray:
    return x @ ROTATION_CONTRACTION.T


def _bistable(x: NDArray) -> NDArray:
    """A switch with stable states at x₁ = ±1; x₂ relaxes onto the branch."""
    return np.stack([x[:, 0] - x[:, 0] ** 3, x[:, 0] ** 2 - x[:, 1]], axis=1)


def _oscillator(x: NDArray) -> NDArray:
    """A limit cycle of radius 1 and angular velocity 0.8 (Hopf normal form)."""
    radius2 = (x**2).sum(axis=1, keepdims=True)
    return (1 - radius2) * x + 0.8 * np.stack([-x[:, 1], x[:, 0]], axis=1)


KNOWN_SYSTEMS: dict[str, KnownSystem] = {
    system.name: system
    for system in (
        KnownSystem(
            "linear",
            _linear,
            _blobs((2.0, 0.0), (1.0, 1.5), spread=0.3),
            (0.0, 1.0, 2.0, 3.0, 4.0),
            held_out=2,
        ),
        KnownSystem(
            "bistable",
            _bistable,
            _blobs((0.0, 0.0), spread=0.2),
            (0.0, 0.75, 1.5, 2.25, 3.0),
            held_out=2,
        ),
        KnownSystem(
            "oscillator",
            _oscillator,
            _blobs((0.3, 0.0), (0.5, 0.4), spread=0.1),
            (0.0, 0.75, 1.5, 2.25, 3.0),
            held_out=2,
        ),
    )
}
"""The systems by name: rotation and contraction, two-branch switch, limit cycle."""
