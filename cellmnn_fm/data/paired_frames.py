"""Frames of a condition that was seen at some of the times of its control."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..model.gaussian_frame import FrameState, frame_of_moments, shrunk_moments

_FLATNESS = 1e-6  # smallest variance whose logarithm is taken, relative to the mean one


def fit_paired_frames(
    snapshots: Sequence[Tensor],
    times: Tensor,
    control: Sequence[Tensor],
    control_times: Tensor,
    latent_dim: int | None = None,
) -> tuple[FrameState, FrameState]:
    """Frames of a condition and of its control, both at all times at which either was seen.

    Where the condition was not seen, it is expected on the way between the snapshots before and
    after, and to leave it with its control as far as it moves with it otherwise:

        m(t) = ℓ(t) + w (m_c(t) - ℓ_c(t))

    where ℓ is linear between the times at which the condition was seen, and constant outside, ℓ_c
    is the same for its control at these times, and w, from 0 to 1, is how far steps of the
    condition are those of its control. Logarithms of covariances likewise, which keeps every C(t)
    positive (Arsigny et al. 2007, SIAM J Matrix Anal Appl 29:328).

    Parameters
    ----------
    snapshots : sequence of (cells, d)
        At least 1, each with at least 2 cells.
    times : (snapshots,)
        Ascending.
    control, control_times : sequence of (cells, d), and (control snapshots,)
        Likewise, at least 2.
    latent_dim : int, optional
        As for :func:`cellmnn_fm.model.gaussian_frame.fit_frame`.

    Examples
    --------
    >>> cells = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> course = [cells, cells + 1, cells + 5]
    >>> frame, _ = fit_paired_frames([cells + 3], torch.tensor([1.0]), course, torch.arange(3.0))
    >>> (frame.mean[2] - frame.mean[1]).round().tolist()  # as the control
    [4.0, 4.0]
    """
    everything = torch.cat([times, control_times]).unique().to(snapshots[0].dtype)
    moments, its_moments = _moments(snapshots), _moments(control)
    of_control = [_linear(control_times, values, everything) for values in its_moments]
    share = _share_of_control(moments, snapshots, of_control, everything, times)
    expected = [
        _linear(times, values, everything)
        + share * (at_all - _linear(times, _linear(everything, at_all, times), everything))
        for values, at_all in zip(moments, of_control, strict=True)
    ]
    frames = [
        frame_of_moments(everything, means, _spectral(logs, torch.exp), latent_dim)
        for means, logs in (expected, of_control)
    ]
    return frames[0], frames[1]


def _share_of_control(
    moments: tuple[Tensor, Tensor],
    snapshots: Sequence[Tensor],
    of_control: Sequence[Tensor],
    everything: Tensor,
    times: Tensor,
) -> Tensor:
    """How far the condition moves with its control, from 0 to 1.

    By least squares over the steps between the times at which it was seen; 1 without any, and the
    nearer to it the less a step is beside what means of so few cells are off by.
    """
    steps = moments[0].diff(dim=0)
    its_steps = _linear(everything, of_control[0], times).diff(dim=0)
    variance = torch.stack([cells.var(0).sum() / len(cells) for cells in snapshots])
    noise = 2 * (variance[1:] + variance[:-1]).sum()
    if not len(steps):
        return steps.new_ones(())
    share = ((steps * its_steps).sum() + noise) / (its_steps.square().sum() + noise)
    return torch.nan_to_num(share, nan=1.0).clamp(0, 1)


def _moments(snapshots: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Means (times, d) and logarithms of covariances (times, d, d)."""
    means, covariances = zip(*map(shrunk_moments, snapshots), strict=True)

    def logarithm(variances: Tensor) -> Tensor:
        least = _FLATNESS * variances.mean(-1, keepdim=True)
        return torch.log(torch.maximum(variances, least))

    return torch.stack(means), _spectral(torch.stack(covariances), logarithm)


def _spectral(matrices: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of symmetric `matrices` (..., d, d)."""
    values, vectors = torch.linalg.eigh(matrices)
    return (vectors * function(values)[..., None, :]) @ vectors.mT


def _linear(times: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """`values` (times, ...) at other times (n,), linear between theirs and constant outside."""
    if len(times) == 1:
        return values.expand(len(at), *values.shape[1:])
    times, at = times.to(values.dtype), at.to(values.dtype).clamp(times[0], times[-1])
    left = torch.searchsorted(times[1:-1].contiguous(), at, right=True)
    weight = (at - times[left]) / (times[left + 1] - times[left])
    weight = weight.reshape(-1, *[1] * (values.ndim - 1))
    return torch.lerp(values[left], values[left + 1], weight)
