"""How well a fit recovers a system whose velocity field is known."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import numpy as np

from ..data.synthetic import KnownSystem
from ..data.time_course import TimeCourse
from ..dynamics.snapshots import Interpolation, interpolate, velocity_at
from ..model.configuration_cellmnn import CellMNNConfig
from ..training.configs import TrainingConfig
from ..training.one_course import TrainedModel, train
from .metrics import wasserstein1


@dataclass(frozen=True)
class Recovery:
    """How well a fit that did not see one time recovers a known system.

    Attributes
    ----------
    velocity_error : float
        ‖predicted - true‖ / ‖true‖ of the velocity over the cells of all times.
    w1 : float
        Of the predicted held-out snapshot to the true one.
    floor : float
        W1 to the true one of as many cells drawn from the truth: what sampling alone costs.
    trained : TrainedModel
        The fit.
    course : TimeCourse
        With the held-out time.
    predicted : Interpolation
        The held-out snapshot as the fit has it.
    """

    velocity_error: float
    w1: float
    floor: float
    trained: TrainedModel
    course: TimeCourse
    predicted: Interpolation


def recover(
    system: KnownSystem, *, cells: int = 1000, seed: int = 0, progress: bool = False
) -> Recovery:
    """Fit a known system without its held-out time, and compare with the truth.

    Without noise there is nothing to regularise: next to no kinetic penalty, but a strong weight
    decay, and a pair of complex eigenvalues since two of the systems rotate.

    Parameters
    ----------
    system : KnownSystem
        With its held-out time.
    cells : int
        At every time.
    seed : int
        Of the cells and of the fit.
    progress : bool
        Whether to show a progress bar.
    """
    course = system.course(cells, seed)
    time = system.times[system.held_out]
    kept = course.times != time
    seen = TimeCourse(list(compress(course.snapshots, kept)), course.times[kept])
    config = CellMNNConfig(
        latent_dim=2, rank=2, num_complex_pairs=1, hidden_act="silu", init_scale=1e-3
    )
    training = TrainingConfig(
        steps=600, kinetic_weight=1e-3, invertibility_weight=1.0, weight_decay=1.0
    )
    trained = train(seen, config, training, seed=seed, progress=progress)
    predicted = interpolate(trained.dynamics, seen, time)
    truth = course.snapshots[system.held_out]
    rng = np.random.default_rng((seed, 1))
    draws = [system.snapshot(time, len(predicted.states), rng) for _ in range(5)]
    velocity = np.concatenate(
        [
            velocity_at(trained.dynamics, snapshot, time)
            for snapshot, time in zip(course.snapshots, course.times, strict=True)
        ]
    )
    true = system.velocity(np.concatenate(course.snapshots))
    return Recovery(
        velocity_error=float(np.linalg.norm(velocity - true) / np.linalg.norm(true)),
        w1=wasserstein1(predicted.states, truth, predicted.weights),
        floor=float(np.mean([wasserstein1(draw, truth) for draw in draws])),
        trained=trained,
        course=course,
        predicted=predicted,
    )
