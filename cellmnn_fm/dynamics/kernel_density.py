"""The density of the cells of one time, and noise that leaves it as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from torch import Tensor

MOST_KERNELS = 300  # cells of a snapshot that a density is made of

_FLATNESS = 1e-6  # smallest variance, relative to the largest
_TINY = 1e-12
_MOST_DECAY = 0.2  # κΔ of a part of a step: the shares of kernels change on the way
_MOST_PARTS = 16  # in which cells forget where they were, all the same


@dataclass(frozen=True)
class KernelDensity:
    """Gaussian kernels around cells, drawn together so that mean and covariance S are the cells'.

    With kernels of covariance h² S at the cells that are drawn together by √(1 - h²),

        p(z) = Σ w_i N(z; m + √(1 - h²) (z_i - m), h² S)

    Noise that leaves p as it is, dz = ½ D ∇log p dt + D^½ dW, is an Ornstein-Uhlenbeck process
    while the shares of the kernels are held: with D = S^½ Q diag(λ) Qᵀ S^½, in the coordinates
    u = Qᵀ S^-½ (z - m), with the mean c(u) of the kernels around u,

        u(t + Δ) ~ N(c + e^-κΔ (u - c), h² (1 - e^-2κΔ)),    κ = λ / 2h²

    Attributes
    ----------
    mean : (d,)
        m.
    root : (d, d)
        S^½, symmetric.
    kernels : (kernels, d)
        √(1 - h²) S^-½ (z_i - m).
    log_weights : (kernels,)
        log w.
    bandwidth : float
        h, by Silverman's rule.

    Examples
    --------
    >>> cells = np.random.default_rng(0).normal(size=(400, 2))
    >>> density = KernelDensity.around(cells, np.ones(400))
    >>> np.exp(density.log_density(np.zeros((1, 2)))).round(1)  # 1 / 2π of a normal distribution
    array([0.1])

    References
    ----------
    Silverman 1986, Density Estimation (bandwidth); West 1993, J R Stat Soc B 55:409 (shrinkage).
    """

    mean: NDArray[np.float64]
    root: NDArray[np.float64]
    kernels: NDArray[np.float64]
    log_weights: NDArray[np.float64]
    bandwidth: float

    @classmethod
    def around(cls, states: NDArray, weights: NDArray) -> KernelDensity:
        """That of `states` (cells, d) with `weights` (cells,)."""
        kept = weights > 0
        states, weights = states[kept].astype(np.float64), weights[kept] / weights[kept].sum()
        mean = weights @ states
        centred = states - mean
        variances, axes = np.linalg.eigh((centred * weights[:, None]).T @ centred)
        roots = np.sqrt(np.maximum(variances, _FLATNESS * variances.max() + _TINY))
        dims = (variances > _FLATNESS * variances.max()).sum()  # others are padding
        effective = 1 / np.square(weights).sum()
        bandwidth = (4 / (dims + 2) / effective) ** (1 / (dims + 4))
        bandwidth = min(1.0, bandwidth)
        drawn = math.sqrt(1 - bandwidth**2) * centred @ (axes / roots) @ axes.T
        return cls(mean, (axes * roots) @ axes.T, drawn, np.log(weights), bandwidth)

    def disturbed(self, z: Tensor, covariance: NDArray, generator: torch.Generator) -> Tensor:
        """Cells `z` (cells, d) after noise of a `covariance` (d, d), and the drift against it."""
        inverse = self._inverse
        shares, axes = np.linalg.eigh(inverse @ covariance @ inverse)
        rates = np.maximum(shares, 0) / (2 * self.bandwidth**2)
        parts = min(max(1, math.ceil(rates.max() / _MOST_DECAY)), _MOST_PARTS)
        into, out, kernels, mean, log_weights, kept = (
            torch.as_tensor(part).to(z)
            for part in (
                inverse @ axes,
                axes.T @ self.root,
                self.kernels @ axes,
                self.mean,
                self.log_weights,
                np.exp(-rates / parts),
            )
        )
        u, spread = (z - mean) @ into, self.bandwidth * (1 - kept.square()).sqrt()
        for _ in range(parts):
            nearness = torch.cdist(u, kernels).square() / (2 * self.bandwidth**2)
            centre = torch.softmax(log_weights - nearness, dim=-1) @ kernels
            noise = torch.randn(u.shape, generator=generator, device=z.device, dtype=z.dtype)
            u = centre + kept * (u - centre) + spread * noise
        return mean + u @ out

    def log_density(self, states: NDArray) -> NDArray[np.float64]:
        """Log p (cells,) at `states` (cells, d)."""
        u = (states.astype(np.float64) - self.mean) @ self._inverse
        far = cdist(u, self.kernels, "sqeuclidean") / (2 * self.bandwidth**2)
        _, log_volume = np.linalg.slogdet(self.root * self.bandwidth * math.sqrt(2 * math.pi))
        return logsumexp(self.log_weights - far, axis=1) - log_volume

    @cached_property
    def _inverse(self) -> NDArray[np.float64]:
        """S^-½."""
        return np.linalg.inv(self.root).astype(np.float64)
