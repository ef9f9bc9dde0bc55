"""Cells that start alike and end apart: noise on the way that leaves the snapshots as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.time_course import TimeCourse
from ..model.errors import InputError, require_count, require_number, require_seed
from .kernel_density import MOST_KERNELS, KernelDensity
from .rollout import Path, Trajectory, path, trajectory_of
from .snapshots import Dynamics, but_for_rounding, mixture, padded, warn_of_stopped

STEPS = 2  # between two stops, which are many: all observed times

_CHUNK = 16_384  # paths followed at once


def require_paths(n_paths: int | None, noise: float) -> None:
    """Refuse numbers of paths, if many are asked for, and noise that cannot be."""
    if n_paths is not None:
        require_count("n_paths", n_paths)
        require_number("noise", noise, 0)


@dataclass(frozen=True)
class Diffusion:
    """Noise of a time course, and the drift that makes up for it.

    The model knows the velocity v(z, t) by which one snapshot becomes the next one. Any noise goes
    along with that, if cells also drift up the density p of the cells of their time:

        dz = (v + ½ D ∇log p) dt + D^½ dW

    has the same snapshots for every D, forward and (with -v) backward in time. Snapshots therefore
    do not say how large D is. Here it is constant, a share of the mean covariance W of cells of one
    time: D = noise² W / (duration of the time course).

    A step is split: one of the model's linear ODE, and half a step of noise before and after it,
    an Ornstein-Uhlenbeck process in the density of the interpolated snapshot, see
    :class:`cellmnn_fm.dynamics.kernel_density.KernelDensity`.

    Parameters
    ----------
    dynamics : Dynamics
        Of one data set.
    course : TimeCourse
        Its observed snapshots.
    covariance : (latent_dim, latent_dim)
        D, per unit of the user's time.
    seed : int
        Of all draws.

    Examples
    --------
    >>> from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
    >>> from cellmnn_fm.training.configs import preset_configs
    >>> from cellmnn_fm.training.one_course import train
    >>> course = KNOWN_SYSTEMS["bistable"].course(cells=50, seed=0)
    >>> dynamics = train(course, *preset_configs("default", course)).dynamics
    >>> diffusion = Diffusion.of(dynamics, course, noise=0.6)
    >>> followed = diffusion.roll_out(course.snapshots[0], 0.0, np.array([3.0]), n_paths=20)
    >>> followed.states.shape  # of one cell after the other
    (1, 1000, 2)

    References
    ----------
    Song et al. 2021, ICLR (the ODE with the snapshots of an SDE); Anderson 1982, Stoch Proc Appl
    12:313 (backward in time).
    """

    dynamics: Dynamics
    course: TimeCourse
    covariance: NDArray[np.float64]
    seed: int = 0
    _densities: dict[float, KernelDensity] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, dynamics: Dynamics, course: TimeCourse, noise: float, seed: int = 0) -> Diffusion:
        """With D = noise² W / duration.

        Parameters
        ----------
        dynamics, course, seed
            See there.
        noise : float
            How far cells diffuse in the whole course, in spreads of the cells of one time.

        Raises
        ------
        InputError
            On noise below 0.
        """
        require_seed(seed)
        require_number("noise", noise, 0)
        within = [np.cov(cells.T.astype(np.float64), ddof=0) for cells in course.snapshots]
        dims = course.latent_dim
        spread = np.mean(within, axis=0).reshape(dims, dims)
        duration = course.times[-1] - course.times[0]
        thinned = course.thinned(MOST_KERNELS, seed)
        return cls(dynamics, thinned, noise**2 * spread / duration, seed)

    def roll_out(
        self,
        states: NDArray,
        time: float,
        times: NDArray,
        *,
        n_paths: int,
        n_steps: int = STEPS,
        part: int = 0,
    ) -> Trajectory:
        """Follow cells along many paths each.

        Parameters
        ----------
        states : (cells, latent_dim)
            Latent states of the cells.
        time : float
            When they were taken, in the user's time.
        times : (times,)
            Where to follow them to, in any order, earlier or later.
        n_paths : int
            Of every cell.
        n_steps : int
            Between two stops, which are `times` and the observed ones.
        part : int
            Which of several that are followed one after the other: each has draws of its own.

        Returns
        -------
        Trajectory
            Of (cells · n_paths) paths, those of a cell one after the other.

        Warns
        -----
        UserWarning
            If paths are stopped.
        """
        require_count("n_paths", n_paths)
        require_count("n_steps", n_steps)
        times = np.atleast_1d(np.asarray(times, dtype=np.float64))
        if not len(times) or not np.isfinite([*times, time]).all():
            raise InputError("times", "finite ones", times.tolist(), "correct them")
        repeated = np.repeat(states, n_paths, axis=0)
        draws = int(np.random.SeedSequence((self.seed, part)).generate_state(1)[0])
        generator = torch.Generator(self.dynamics.model.device).manual_seed(draws)
        parts = [
            self._followed(chunk, time, times, n_steps, generator)
            for chunk in np.array_split(repeated, max(1, -(-len(repeated) // _CHUNK)))
        ]
        whole = Trajectory.joined(parts)
        warn_of_stopped(whole.stopped)
        return whole

    @torch.no_grad()
    def _followed(
        self,
        states: NDArray,
        time: float,
        times: NDArray,
        n_steps: int,
        generator: torch.Generator,
    ) -> Trajectory:
        """As :meth:`roll_out`, for paths that are followed at once."""
        model, scale = self.dynamics.model, self.dynamics.time_scale
        dims = states.shape[-1]

        def disturb(z: Tensor, when: float, span: float) -> Tensor:
            moved = self._density(when).disturbed(
                z[:, :dims], self.covariance * scale.unit * span, generator
            )
            return torch.cat([moved, z[:, dims:]], dim=-1)

        start, wanted = scale.to_model(float(time)), scale.to_model(times)
        low, high = min(start, wanted.min()), max(start, wanted.max())
        observed = scale.to_model(self.course.times)
        stops = np.unique([*wanted, *observed[(low < observed) & (observed < high)]])
        z = padded(model, states)
        every = path(model, z, start, stops, n_steps, disturb=disturb)
        asked = torch.from_numpy(np.searchsorted(stops, wanted)).to(z.device)
        followed = Path(*(part[asked] for part in every))
        steps = np.full(len(states), n_steps)
        return trajectory_of(self.dynamics, followed, z, time, times, steps, dims)

    def _density(self, when: float) -> KernelDensity:
        """Of the cells at a model time, which paths share."""
        if when not in self._densities:
            at = float(self.dynamics.time_scale.to_user(np.array([when]))[0])
            at = but_for_rounding(at, self.course.times)
            snapshot = mixture(self.dynamics, self.course, at)
            self._densities[when] = KernelDensity.around(snapshot.states, snapshot.weights)
        return self._densities[when]
