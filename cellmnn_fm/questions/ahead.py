"""Which cells of a snapshot are ahead, and which behind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ..data.time_course import TimeCourse
from ..dynamics.kernel_density import MOST_KERNELS, KernelDensity
from ..dynamics.snapshots import Dynamics, mixture
from ..fitted.fitted_model import Cells

_MOMENTS = 24  # at which the course is looked at
_CHUNK = 16_384  # cells looked at at once


def ahead(cells: Cells) -> NDArray[np.float64]:
    """How far each cell is ahead of its time, or behind, (cells,) in units of it.

    Cells that were taken together have not started together. With the density p_s of the cells at
    time s, as the model interpolates them, a cell z of time t is where such cells are expected at

        E[s | z] = Σ s p_s(z) / Σ p_s(z)

    over evenly spaced times s from the first to the last snapshot, and ahead by E[s | z] - t. Cells
    of the first snapshot cannot be behind by this measure, and those of the last not ahead. Ranks
    within a snapshot are what to read: they go with the true progress where it is known
    (`benchmarks/asynchrony.py`).

    Parameters
    ----------
    cells : Cells
        Observed, as a fitted model reads them.
    """
    dims = int(cells.fitted.model.dataset_dims[0])  # others are padding
    return ahead_of(cells.fitted.dynamics, cells.course, cells.states[:, :dims], cells.times)


def ahead_of(
    dynamics: Dynamics, course: TimeCourse, states: NDArray, times: NDArray
) -> NDArray[np.float64]:
    """As :func:`ahead`, (cells,), of cells of a time course.

    Parameters
    ----------
    dynamics : Dynamics
        Of one data set.
    course : TimeCourse
        Its observed snapshots.
    states : (cells, dims)
        Latent states of the cells, without padding.
    times : (cells,)
        When they were taken, in the user's time.
    """
    dims, thinned = states.shape[1], course.thinned(MOST_KERNELS)
    moments = np.linspace(course.times[0], course.times[-1], _MOMENTS + 1)
    log_density = np.empty((len(moments), len(states)))
    for number, moment in enumerate(moments):
        then = mixture(dynamics, thinned, float(moment))
        density = KernelDensity.around(then.states[:, :dims], then.weights)
        for start in range(0, len(states), _CHUNK):
            rows = slice(start, start + _CHUNK)
            log_density[number, rows] = density.log_density(states[rows])
    return moments @ softmax(log_density, axis=0) - times
