"""What becomes of all genes while some are held at other values, by the network that they form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .grn.network import GeneRegulatoryNetwork

_SMALL = 1e-9  # rates times gaps below which an exponential is a line


@dataclass(frozen=True)
class NetworkResponse:
    """Deviations of genes from their course while some of them are held away from it.

    With production rates G x and decay k, in standardised expression, a deviation δ of the genes
    that are not held follows

        dδ/dt = G δ + G_h c(t) - k δ

    where the columns G_h belong to the genes that are held, by c(t) away from where they would be.
    With G = L R of rank r that is a linear ODE of r variables, dq/dt = (R L - k) q + R_h c with
    δ = L q, where rows of held genes are left out of L; it is solved in closed form, with c
    constant between two times. A mode that would grow for ever is taken to stay, since no network
    that is linear knows where to stop.

    Attributes
    ----------
    network : GeneRegulatoryNetwork
        Of production rates.
    times : (times,)
        From where the genes are held until when they are looked at, in the user's time.

    Examples
    --------
    >>> left, right = np.array([[0.0], [3.0]]), np.array([[1.0, 0.0]])  # A makes B
    >>> network = GeneRegulatoryNetwork(
    ...     ("A", "B"), left, right, np.zeros(2), np.ones(2), record={"decay": 1.0}
    ... )
    >>> response = NetworkResponse(network, np.array([0.0, 20.0]))
    >>> response.deviations([0], -np.ones((1, 2, 1))).round(3)  # B loses 3 A / k
    array([[ 0., -3.]])
    """

    network: GeneRegulatoryNetwork
    times: NDArray[np.float64]

    def deviations(self, held: list[int], changes: NDArray) -> NDArray[np.float64]:
        """How far other genes are from their course at the last time, (cells, genes); held ones 0.

        Parameters
        ----------
        held : list of int
            Which genes.
        changes : (cells, times, held)
            How far they are held from their course, in units of expression.
        """
        assert self.network.spread is not None
        spread, left, right = self.network.spread, self.network.left.copy(), self.network.right
        driven = self.driven(right[:, held], left[held], changes / spread[held])
        left[held] = 0.0
        return driven @ left.T * spread

    def driven(self, into: NDArray, rows: NDArray, changes: NDArray) -> NDArray[np.float64]:
        """Variables q (cells, rank) at the last time.

        Of genes with columns `into` (rank, held) of R and `rows` (held, rank) of L, held by
        `changes` (cells, times, held), standardised.
        """
        rates, modes = np.linalg.eig(self._whole - into @ rows - self._decay * np.eye(len(into)))
        rates = rates - max(0.0, rates.real.max())
        inputs = np.linalg.solve(modes, into.astype(complex))
        q = np.zeros((len(changes), len(rates)), dtype=complex)
        for number, gap in enumerate(np.diff(self.times)):
            mean = changes[:, number : number + 2].mean(axis=1)
            grown = np.exp(rates * gap)
            small = np.abs(rates * gap) < _SMALL
            integral = np.where(small, gap, (grown - 1) / np.where(small, 1.0, rates))
            q = q * grown + (mean @ inputs.T) * integral
        return (q @ modes.T).real

    @cached_property
    def _whole(self) -> NDArray[np.float64]:
        """R L, (rank, rank)."""
        return self.network.right @ self.network.left

    @property
    def _decay(self) -> float:
        """k, per unit of the user's time."""
        return float(self.network.record["decay"])
