"""The Gaussian frame: means and covariance roots of the observed snapshots, interpolated in time.

In frame coordinates y = L(t)⁻¹ (z - m(t)) every snapshot has mean 0 and unit covariance. A constant
y already interpolates a time course about as well as optimal transport does, without any training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .linear_flow import DenseMatrix, LowRankMatrix

DENSE_ROOT_MAX_DIM = 64
_LOW_RANK_ROOT = 32  # leading directions kept above DENSE_ROOT_MAX_DIM
_FLATNESS = 1e-6  # smallest variance, relative to the mean one


def root_rank(dim: int) -> int:
    """How many directions a covariance root of `dim` dimensions keeps apart from its diagonal."""
    return dim if dim <= DENSE_ROOT_MAX_DIM else _LOW_RANK_ROOT


@dataclass(frozen=True)
class FrameState:
    """m(t) and L(t) of one time course, linear in t between its observed times.

    ``z = m(t) + L(t) y``, with ``L = s I + V diag(c) Vᵀ`` the symmetric root of the covariance. The
    rates ṁ and L̇ jump at observed times: a flow forward in time takes the right one, one backward
    the left. Outside the observed range L stays as it is at the end, and the mean goes on along
    its last direction, slowing down within about one interval.

    Parameters
    ----------
    times : (times,)
        Ascending, in model time.
    mean : (times, d)
        m at these times.
    root_scale : (times,)
        s.
    root_vectors : (times, d, r)
        V, orthonormal columns; r = d up to 64 dimensions, fewer above.
    root_excess : (times, r)
        c.

    All may have leading batch axes (batch, times, ...); times that are asked for then have the same
    ones.

    Examples
    --------
    >>> import torch
    >>> from cellmnn_fm.model.gaussian_frame import fit_frame
    >>> early = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> frame = fit_frame([early, 3 * early + 10], torch.tensor([0.0, 1.0]))
    >>> halfway = torch.tensor(0.5)
    >>> y = frame.to_frame(early, torch.tensor(0.0))
    >>> bool(torch.allclose(frame.from_frame(y, halfway), 2 * early + 5, atol=0.05))
    True
    """

    times: Tensor
    mean: Tensor
    root_scale: Tensor
    root_vectors: Tensor
    root_excess: Tensor

    def mean_at(self, t: Tensor) -> Tensor:
        """m(t), (..., d) for `t` (...)."""
        inside = self._clamp(t)
        left, weight = self._interval(inside, forward=True)
        mean = torch.lerp(
            self._at(self.mean, left), self._at(self.mean, left + 1), weight[..., None]
        )
        beyond, gap = t - inside, self._gap(left)
        coasted = gap * torch.sign(beyond) * -torch.expm1(-beyond.abs() / gap)
        return mean + self._slope(left) * coasted[..., None]

    def mean_rate_at(self, t: Tensor, *, forward: bool | Tensor = True) -> Tensor:
        """ṁ(t), (..., d): from the right where `forward`, else from the left.

        `forward` (...) may differ by time.
        """
        inside = self._clamp(t)
        left, _ = self._interval(inside, forward)
        gap = self._gap(left)
        damping = torch.exp(-(t - inside).abs() / gap)
        return self._slope(left) * damping[..., None]

    def root_at(self, t: Tensor) -> DenseMatrix | LowRankMatrix:
        """L(t), one matrix for each entry of `t`.

        Of `t` (...).
        """
        left, weight = self._interval(self._clamp(t), forward=True)
        return self._combine_roots(left, 1 - weight, weight)

    def root_rate_at(
        self, t: Tensor, *, forward: bool | Tensor = True
    ) -> DenseMatrix | LowRankMatrix:
        """L̇(t): from the right where `forward`, else from the left; 0 beyond the ends.

        Of `t` (...), for each of which `forward` (...) may differ.
        """
        left, _ = self._interval(self._clamp(t), forward)
        rate = torch.where(self._past_the_ends(t, forward), 0.0, 1 / self._gap(left))
        return self._combine_roots(left, -rate, rate)

    def to_frame(self, z: Tensor, t: Tensor) -> Tensor:
        """Frame coordinates L(t)⁻¹ (z - m(t)) of snapshots `z` (..., cells, d), times `t` (...)."""
        return self.root_at(t).solve(z - self.mean_at(t)[..., None, :])

    def from_frame(self, y: Tensor, t: Tensor) -> Tensor:
        """States m(t) + L(t) y of snapshots `y` (..., cells, d) at times `t` (...)."""
        return self.mean_at(t)[..., None, :] + self.root_at(t).apply(y)

    def motion(self, y: Tensor, t: Tensor, *, forward: bool | Tensor = True) -> Tensor:
        """ṁ + L̇ y, how cells move that rest in the frame, (..., cells, d) at times `t` (...).

        `forward` (...) as for :meth:`mean_rate_at`.
        """
        drift = self.mean_rate_at(t, forward=forward)[..., None, :]
        return drift + self.root_rate_at(t, forward=forward).apply(y)

    def instantaneous(
        self, operator: Tensor, offset: Tensor, t: Tensor, *, forward: bool | Tensor = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The generator of the flow in z at time `t`, from operators in frame coordinates.

        ``A_z = L A_y L⁻¹ + L̇ L⁻¹`` and ``b_z = ṁ + L b_y - A_z m``. It varies with t, so that
        exp(A_z Δt) with A_z frozen is not the flow.

        `forward` (...) as for :meth:`mean_rate_at`.

        Parameters
        ----------
        operator, offset : (..., cells, d, d) and (..., cells, d)
            A_y and b_y.
        t : (...)
            Model time.

        Returns
        -------
        learned : (..., cells, d, d)
            L A_y L⁻¹.
        frame : (..., 1, d, d)
            L̇ L⁻¹, how the whole cloud stretches: a gauge, not regulation.
        offset : (..., cells, d)
            b_z.
        """
        root = self.root_at(t).dense()[..., None, :, :]
        rate = self.root_rate_at(t, forward=forward).dense()[..., None, :, :]
        learned = torch.linalg.solve(root, root @ operator, left=False)
        frame = torch.linalg.solve(root, rate, left=False)
        mean = self.mean_at(t)[..., None, :, None]
        motion = self.mean_rate_at(t, forward=forward)[..., None, :]
        offset_z = motion + (root @ offset[..., None] - (learned + frame) @ mean).squeeze(-1)
        return learned, frame, offset_z

    def map(self, change: Callable[[Tensor], Tensor]) -> FrameState:
        """The frame with all of its tensors changed in the same way."""
        return FrameState(**{name: change(values) for name, values in vars(self).items()})

    def to(self, device: torch.device) -> FrameState:
        """The frame on a device."""
        return self.map(lambda values: values.to(device))

    def continued(self, times: int) -> FrameState:
        """The frame with further times at its end, as many as it has then.

        Its mean goes on as between the last two observed times, its root stays: rates at the times
        that it had are the same.
        """
        added = times - len(self.times)
        if not added:
            return self
        ahead = torch.arange(1, added + 1, device=self.times.device)

        def continued(values: Tensor, moving: bool) -> Tensor:
            steps = ahead.to(values).reshape(-1, *[1] * (values.ndim - 1))
            rate = values[-1] - values[-2] if moving else 0.0
            return torch.cat([values, values[-1] + steps * rate])

        return FrameState(
            **{
                name: continued(values, name in ("times", "mean"))
                for name, values in vars(self).items()
            }
        )

    @property
    def _depth(self) -> int:
        """Axes of `times`: 1, or 2 with a batch."""
        return self.times.ndim - 1

    def _end(self, index: int, like: Tensor) -> Tensor:
        """An observed time of every batch entry, in a shape that goes with `like`."""
        broadcast = [1] * (like.ndim - self._depth)
        return self.times[..., index].reshape([*self.times.shape[:-1], *broadcast])

    def _at(self, values: Tensor, index: Tensor) -> Tensor:
        """`values` (batch, times, ...) at `index` (batch, ...)."""
        if self._depth == 0:
            return values[index]
        batch, rest = values.shape[: self._depth], values.shape[self._depth + 1 :]
        flat = values.reshape(batch.numel(), values.shape[self._depth], rest.numel())
        rows = index.reshape(len(flat), -1, 1).expand(-1, -1, rest.numel())
        return flat.gather(1, rows).reshape(*batch, *index.shape[self._depth :], *rest)

    def _clamp(self, t: Tensor) -> Tensor:
        """Times within the observed ones."""
        return torch.clamp(t, self._end(0, t), self._end(-1, t))

    def _past_the_ends(self, t: Tensor, forward: bool | Tensor) -> Tensor:
        """Whether there is no interval on that side of `t`."""
        first, last = self._end(0, t), self._end(-1, t)
        return _sided(forward, t >= last, t <= first) | (t < first) | (t > last)

    def _interval(self, t: Tensor, forward: bool | Tensor) -> tuple[Tensor, Tensor]:
        """Index of the observed time left of `t`, and how far along its interval `t` is."""
        inner = self.times[..., 1:-1].contiguous()
        flat = t.reshape(*self.times.shape[:-1], -1).contiguous()
        after, before = (
            torch.searchsorted(inner, flat, right=side).reshape(t.shape) for side in (True, False)
        )
        left = _sided(forward, after, before)
        return left, (t - self._at(self.times, left)) / self._gap(left)

    def _gap(self, left: Tensor) -> Tensor:
        """Length of an interval."""
        return self._at(self.times.diff(dim=-1), left)

    def _slope(self, left: Tensor) -> Tensor:
        """Change of values over an interval, per unit of model time."""
        slopes = self.mean.diff(dim=-2) / self.times.diff(dim=-1)[..., None]
        return self._at(slopes, left)

    def _combine_roots(
        self, left: Tensor, left_weight: Tensor, right_weight: Tensor
    ) -> DenseMatrix | LowRankMatrix:
        """left_weight · L[left] + right_weight · L[left + 1]."""
        scales, both_vectors, excesses = (
            (self._at(values, left), self._at(values, left + 1))
            for values in (self.root_scale, self.root_vectors, self.root_excess)
        )
        weights = (left_weight, right_weight)
        scale = weights[0] * scales[0] + weights[1] * scales[1]
        excess = torch.cat(
            [weight[..., None] * part for weight, part in zip(weights, excesses, strict=True)], -1
        )
        vectors = torch.cat(both_vectors, dim=-1)
        low_rank = LowRankMatrix(vectors * excess[..., None, :], vectors, scale)
        full_rank = self.root_vectors.shape[-1] == self.root_vectors.shape[-2]
        return DenseMatrix(low_rank.dense()) if full_rank else low_rank


def _sided(forward: bool | Tensor, right: Tensor, left: Tensor) -> Tensor:
    """What holds to the right where `forward`, else to the left."""
    if isinstance(forward, Tensor):
        return torch.where(forward, right, left)
    return right if forward else left


def stack_frames(frames: Sequence[FrameState]) -> FrameState:
    """A batch of frames of as many observed times each."""
    names = vars(frames[0])
    return FrameState(
        **{name: torch.stack([getattr(frame, name) for frame in frames]) for name in names}
    )


def fit_frame(
    snapshots: Sequence[Tensor],
    times: Tensor,
    weights: Sequence[Tensor] | None = None,
    latent_dim: int | None = None,
) -> FrameState:
    """The frame of observed snapshots.

    Covariances are shrunk towards a multiple of the identity by the oracle approximating rule, so
    that a snapshot with few cells has an invertible root too.

    Parameters
    ----------
    snapshots : sequence of (cells, d)
        At least 2, each with at least 2 cells.
    times : (snapshots,)
        Ascending.
    weights : sequence of (cells,), optional
        For instance how much each cell grows.
    latent_dim : int, optional
        Dimensions of the frame, those of the snapshots by default. What is added is padding, where
        m = 0 and L = 1 (above 64 dimensions, for more than 32 real ones: L = s).

    References
    ----------
    Chen, Wiesel, Eldar and Hero 2010, IEEE Trans Signal Process 58:5016 (shrinkage).
    """
    moments = [
        shrunk_moments(snapshot, None if weights is None else weights[i])
        for i, snapshot in enumerate(snapshots)
    ]
    means, covariances = (torch.stack(part) for part in zip(*moments, strict=True))
    return frame_of_moments(times, means, covariances, latent_dim)


def frame_of_moments(
    times: Tensor, means: Tensor, covariances: Tensor, latent_dim: int | None = None
) -> FrameState:
    """The frame of means (times, d) and covariances (times, d, d) at ascending `times` (times,).

    `latent_dim` as for :func:`fit_frame`.
    """
    variances, vectors = torch.linalg.eigh(covariances)
    # a snapshot may be flat in some direction; its root must be invertible all the same
    roots = variances.clamp_min(_FLATNESS * variances.mean()).sqrt()
    dim = roots.shape[-1]
    latent_dim = latent_dim or dim
    added, rank = latent_dim - dim, root_rank(latent_dim)
    kept = min(dim, rank)
    if kept < dim:
        # what the kept directions leave over is spread evenly, so that the trace is kept
        scale = roots[..., :-kept].square().mean(-1).sqrt()
    else:
        scale = torch.ones_like(roots[..., 0]) if added else roots[..., 0]
    padding = vectors.new_zeros(latent_dim, rank - kept)
    padding[dim:] = torch.eye(added, rank - kept)
    real = pad(vectors[..., -kept:], (0, 0, 0, added))
    return FrameState(
        times=times.to(means.dtype),
        mean=pad(means, (0, added)),
        root_scale=scale,
        root_vectors=torch.cat([real, padding.expand(len(roots), -1, -1)], dim=-1),
        root_excess=pad(roots[..., -kept:], (0, rank - kept), value=1.0) - scale[..., None],
    )


def shrunk_moments(snapshot: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of cells, shrunk towards a ball; see :func:`fit_frame`.

    Of `snapshot` (cells, d), with `weights` (cells,) if they are to count unequally.
    """
    cells, dim = snapshot.shape
    if weights is None:
        weights = snapshot.new_ones(cells)
    weights = weights / weights.sum()
    mean = weights @ snapshot
    centred = snapshot - mean
    covariance = (weights[:, None] * centred).mT @ centred
    trace, trace2 = covariance.trace(), covariance.square().sum()
    size = 1 / weights.square().sum()  # effective number of cells
    numerator = (1 - 2 / dim) * trace2 + trace**2
    denominator = (size + 1 - 2 / dim) * (trace2 - trace**2 / dim)
    # equal variances leave nothing to shrink: 0/0 then, and the two estimates agree
    shrinkage = torch.where(denominator > 0, numerator / denominator, 1.0).clamp(0, 1)
    target = trace / dim * torch.eye(dim, dtype=snapshot.dtype, device=snapshot.device)
    return mean, torch.lerp(covariance, target, shrinkage)
