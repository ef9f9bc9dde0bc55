"""Batches: shift and scale of latent states that times do not explain."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..model.errors import InputError, listed

_MIN_CELLS = 20  # of a batch, for a scale of its own


@dataclass(frozen=True)
class BatchEffects:
    """Per-batch standardisation of latent states.

    States of batch k at time t are taken as

        z = m_t + b_k + s_k ε,    Σ_k n_k b_k = 0,

    by least squares over times and batches, so that a batch with more late cells is not taken for a
    shifted one; s_k is the spread of a batch around it over that of all cells. What is left is
    m_t + ε. Times that share no batch, directly or through others, cannot be told from their
    batches: what lies between them is kept.

    Attributes
    ----------
    names : tuple of str
        Of the batches, sorted.
    shift, scale : (batches, dims)
        Of the states of each, against what times explain.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> times, batch = np.repeat([0.0, 1.0], 100), np.tile(["a", "b"], 100)
    >>> states = rng.normal(size=(200, 2)) + times[:, None] + 3.0 * (batch == "b")[:, None]
    >>> effects = BatchEffects.fit(states, times, batch)
    >>> corrected = effects.removed(states, batch)
    >>> bool(abs(corrected[batch == "a"].mean() - corrected[batch == "b"].mean()) < 1e-6)
    True
    """

    names: tuple[str, ...]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, states: NDArray, times: NDArray, batches: NDArray) -> BatchEffects:
        """Estimate them from states (cells, dims), times (cells,) and names of batches (cells,).

        Warns
        -----
        UserWarning
            If batch and time are confounded; names the times that share no batch with others.
        """
        names, batch = np.unique(batches.astype(str), return_inverse=True)
        moments, time = np.unique(times, return_inverse=True)
        cells = np.arange(len(states))
        constant = np.ones(len(states))
        of_time = sparse.csr_array((constant, (cells, time)), shape=(len(states), len(moments)))
        of_batch = sparse.csr_array((constant, (cells, batch)), shape=(len(states), len(names)))
        part = _connected(of_time, of_batch)
        if len(set(part)) > 1:
            groups = [moments[part[: len(moments)] == group] for group in dict.fromkeys(part)]
            shown = "; ".join(listed(group.tolist()) for group in groups)
            warnings.warn(
                f"batch and time are confounded: times {shown} share no batch, so that what lies "
                "between them may be the batch",
                stacklevel=3,
            )
        # z = mean of the time + shift of the batch: normal equations over times and batches. They
        # are singular by one constant a connected part; of the solutions the one of least norm
        design = sparse.hstack([of_time, of_batch]).tocsr()
        coefficients = np.linalg.lstsq(
            (design.T @ design).toarray(), design.T @ states.astype(np.float64), rcond=1e-10
        )[0]
        shift = coefficients[len(moments) :]
        weights = np.asarray(of_batch.sum(axis=0)).ravel()
        of_parts = part[len(moments) :]
        for part_name in set(of_parts):  # what all batches of a part share belongs to its times
            rows = of_parts == part_name
            shift[rows] -= np.average(shift[rows], axis=0, weights=weights[rows])
        # spreads around the mean of each time: what times explain is no effect of a batch
        residual = states - shift[batch]
        centres = (of_time.T @ residual) / np.asarray(of_time.sum(axis=0)).ravel()[:, None]
        square = (residual - centres[time]) ** 2
        spread = np.sqrt((of_batch.T @ square) / weights[:, None])
        overall = np.sqrt(square.mean(axis=0))
        known = (weights >= _MIN_CELLS)[:, None] & (spread > 0) & (overall > 0)
        # a batch that shares no time with another cannot be told from its times: it stays as wide
        alone = np.array([(of_parts == part_name).sum() == 1 for part_name in of_parts])[:, None]
        scale = np.where(known & ~alone, spread / np.where(overall > 0, overall, 1.0), 1.0)
        return cls(tuple(names.tolist()), shift, scale)

    def removed(
        self, states: NDArray, batches: NDArray, times: NDArray | None = None
    ) -> NDArray[np.float32]:
        """States without them: shifted back, and with the common spread around their own mean.

        Parameters
        ----------
        states : (cells, dims)
            Latent states.
        batches : (cells,)
            Name of the batch of each cell.
        times : (cells,), optional
            Spreads are taken around the mean of each time; of all cells by default.

        Raises
        ------
        InputError
            On batches that it does not know.
        """
        names = batches.astype(str)
        if unknown := sorted(set(names) - set(self.names)):
            raise InputError(
                "batches", f"some of {listed(self.names)}", listed(unknown), "fit with them"
            )
        batch = np.searchsorted(np.array(self.names), names)
        shifted = states - self.shift[batch]
        times = np.zeros(len(states)) if times is None else times
        result = np.empty(states.shape, dtype=np.float32)
        for time in np.unique(times):
            rows = times == time
            centre = shifted[rows].mean(axis=0)
            result[rows] = centre + (shifted[rows] - centre) / self.scale[batch[rows]]
        return result

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "names": list(self.names),
            "shift": self.shift.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> BatchEffects:
        """What :meth:`to_dict` made."""
        return cls(tuple(content["names"]), np.array(content["shift"]), np.array(content["scale"]))


def _connected(of_time: sparse.csr_array, of_batch: sparse.csr_array) -> NDArray[np.int32]:
    """For every time, then every batch, the part of the design that it belongs to."""
    together = of_time.T @ of_batch
    graph = sparse.block_array([[None, together], [together.T, None]])
    return sparse.csgraph.connected_components(graph, directed=False)[1]
