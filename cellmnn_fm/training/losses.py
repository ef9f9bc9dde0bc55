"""Distances between snapshots, and the penalties on a flow. All are batched over leading axes."""

from __future__ import annotations

import torch
from torch import Tensor

_DETERMINANT_FLOOR = 1e-4  # Cell-MNN, ICLR 2026
_MATMUL_DIM = 32  # from here on, distances by a matrix product are several times faster
_DISTANCE_FLOOR = 1e-8  # published code of Cell-MNN


def energy_distance(
    x: Tensor, y: Tensor, x_weights: Tensor | None = None, y_weights: Tensor | None = None
) -> Tensor:
    """Energy distance 2 E‖x - y‖ - E‖x - x'‖ - E‖y - y'‖, as a U-statistic.

    Pairs of a cell with itself are left out, which makes the estimate unbiased: with them the
    spread that minimises it is too small for small samples (3 % at 64 cells).

    Parameters
    ----------
    x, y : (..., n, d) and (..., m, d)
        A single cell has no spread.
    x_weights, y_weights : (..., n) and (..., m), optional
        Positive; only their proportions matter.

    Returns
    -------
    (...,), in units of x; may be slightly negative where the samples agree.

    References
    ----------
    Székely and Rizzo 2013, J Stat Plan Inference 143:1249.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> energy_distance(x, x + 3.0)  # 2 · 3 - 1 - 1
    tensor(4.)
    """
    x_weights, y_weights = _normalised(x, x_weights), _normalised(y, y_weights)
    between = _pair_mean(_euclidean(x, y), x_weights, y_weights)
    return 2 * between - _mean_within(x, x_weights) - _mean_within(y, y_weights)


def mmd2(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    *,
    sigma: float = 1.0,
    num_dims: int | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy with the Laplacian kernel exp(-‖u - v‖₁ / (d σ)), biased.

    The training distance of Cell-MNN (ICLR 2026), the floor of 1e-8 on ‖u - v‖₁ included.

    Parameters
    ----------
    x, y : (..., n, d) and (..., m, d)
        The two clouds.
    x_weights, y_weights : (..., n) and (..., m), optional
        Positive; only their proportions matter.
    sigma : float
        Width of the kernel.
    num_dims : int, optional
        d of the kernel, where some of the last axis is padding.

    Returns
    -------
    (...,)
    """
    bandwidth = sigma * (num_dims or x.shape[-1])
    x_weights, y_weights = _normalised(x, x_weights), _normalised(y, y_weights)

    def mean_kernel(u: Tensor, v: Tensor, u_weights: Tensor, v_weights: Tensor) -> Tensor:
        distance = torch.cdist(u, v, p=1).clamp_min(_DISTANCE_FLOOR)
        return _pair_mean(torch.exp(-distance / bandwidth), u_weights, v_weights)

    return (
        mean_kernel(x, x, x_weights, x_weights)
        + mean_kernel(y, y, y_weights, y_weights)
        - 2 * mean_kernel(x, y, x_weights, y_weights)
    )


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    *,
    directions: Tensor,
) -> Tensor:
    """Mean 1-Wasserstein distance of projections, times √d: as long as a shift of all cells is.

    In one dimension W1 is the area between the distribution functions, exact for any weights.

    Parameters
    ----------
    x, y : (..., n, d) and (..., m, d)
        The two clouds.
    x_weights, y_weights : (..., n) and (..., m), optional
        Positive; only their proportions matter.
    directions : (d, directions)
        See :func:`unit_directions`.

    Returns
    -------
    (...,), in units of x.

    References
    ----------
    Bonneel, Rabin, Peyré and Pfister 2015, J Math Imaging Vis 51:22.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> sliced_wasserstein(x, x + 3.0, directions=torch.ones(1, 1))
    tensor(3.)
    """
    x_weights, y_weights = _normalised(x, x_weights), _normalised(y, y_weights)
    x_weights, y_weights = (
        weights.expand(*x.shape[:-2], weights.shape[-1]) for weights in (x_weights, y_weights)
    )
    y = y.expand(*x.shape[:-2], *y.shape[-2:])
    # (..., directions, n + m)
    projected = torch.cat([x, y], dim=-2) @ directions.to(x.dtype)
    values, order = torch.sort(projected.mT, dim=-1)
    mass = torch.cat([x_weights, -y_weights], dim=-1)[..., None, :].expand_as(values)
    between = mass.gather(-1, order).cumsum(-1)[..., :-1]
    area = (between.abs() * values.diff(dim=-1)).sum(-1)
    num_dims = directions.any(-1).sum()  # the others are padding
    return area.mean(-1) * num_dims.sqrt()


def unit_directions(num_dims: int, latent_dim: int, count: int = 32) -> Tensor:
    """Random but fixed directions (latent_dim, count) in the first dimensions; 0 in padding."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(num_dims, count, generator=generator)
    drawn = torch.nn.functional.normalize(drawn, dim=0)
    return torch.nn.functional.pad(drawn, (0, 0, 0, latent_dim - num_dims))


def pair_weights(num_times: int, gamma: float, *, both_directions: bool = True) -> Tensor:
    """Weight of every ordered pair of snapshots, ``γ^(|rank(s) - rank(s')| - 1)``.

    Parameters
    ----------
    num_times : int
        How many snapshots there are.
    gamma : float
        Discount of a pair for each snapshot between the two.
    both_directions : bool
        Also pairs that go back in time; without them those weigh 0.

    Returns
    -------
    (num_times, num_times), row = source, column = target, 0 on the diagonal.
    """
    rank = torch.arange(num_times)
    steps = rank[None, :] - rank[:, None]
    wanted = steps != 0 if both_directions else steps > 0
    return torch.where(wanted, gamma ** (steps.abs() - 1.0), 0.0)


def kinetic_energy(
    velocity: Tensor, weights: Tensor | None = None, *, num_dims: int | Tensor | None = None
) -> Tensor:
    """Mean over cells and coordinates of (dz/dt)².

    Parameters
    ----------
    velocity : (..., n, d)
        dz/dt of cells.
    weights : (..., n), optional
        Of the cells; only their proportions matter.
    num_dims : int or tensor that goes with (..., n), optional
        d, where some of the last axis is padding.
    """
    speed2 = velocity.square().sum(-1) / (velocity.shape[-1] if num_dims is None else num_dims)
    return (_normalised(velocity, weights) * speed2).sum(-1).mean()


def invertibility_penalty(determinant: Tensor) -> Tensor:
    """``E[1 / (|det P| + 1e-4)]``, which keeps the eigenvectors independent (Cell-MNN, ICLR 2026).

    `determinant` (...) of all matrices P.
    """
    return (1 / (determinant.abs() + _DETERMINANT_FLOOR)).mean()


def _normalised(x: Tensor, weights: Tensor | None) -> Tensor:
    """Weights (..., n) that sum to 1; even ones if none are given."""
    if weights is None:
        return x.new_full(x.shape[:-1], 1 / x.shape[-2])
    return weights / weights.sum(-1, keepdim=True)


def _euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Distances (..., n, m) of all pairs, with a gradient at 0."""
    if x.shape[-1] < _MATMUL_DIM:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    # centred, since |x|² - 2 xy + |y|² cancels badly far from the origin
    centre = y.mean(dim=-2, keepdim=True).detach()
    return torch.cdist(x - centre, y - centre, compute_mode="use_mm_for_euclid_dist")


def _pair_mean(values: Tensor, row_weights: Tensor, column_weights: Tensor) -> Tensor:
    """Weighted mean over pairs (..., n, m)."""
    return ((values @ column_weights[..., None]).squeeze(-1) * row_weights).sum(-1)


def _mean_within(x: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean distance of different cells of one cloud (..., n, d); 0 of a single cell."""
    if x.shape[-2] == 1:
        return x.new_zeros(x.shape[:-2])
    itself = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    distinct = 1 - weights.square().sum(-1)  # the weight of all pairs but a cell with itself
    return _pair_mean(_euclidean(x, x).masked_fill(itself, 0.0), weights, weights) / distinct
