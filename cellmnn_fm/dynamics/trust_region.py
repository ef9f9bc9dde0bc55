"""How far a model is followed: cells that leave what the snapshots show are stopped at its border.

A fitted velocity field is known where cells were. Beyond, it is whatever the network extrapolates
to, and cells that get there run away faster than any exponential.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.gaussian_frame import FrameState
from ..model.modeling_cellmnn import CellMNNModel

_SLACK = 2.0  # how much farther than cells of the snapshots
_TAIL = 3.0  # a Gaussian cloud of d dimensions reaches about √d + 3
_LEAST_SPREAD = (
    0.5  # of all cells: a snapshot may be flat, and no path of means is known to be straight
)


@dataclass(frozen=True)
class Walk:
    """Cells on their way.

    Attributes
    ----------
    z : (cells, latent_dim)
        Where they are.
    y : (cells, latent_dim)
        The same in coordinates of the trust region; z where there is none.
    stopped : (cells,) bool
        Those that have reached the border. From there on they move along with the snapshots.
    """

    z: Tensor
    y: Tensor
    stopped: Tensor


@dataclass(frozen=True)
class TrustRegion:
    """A ball around the snapshots, in the coordinates of their Gaussian frame.

        ‖(L(t) + s I)⁻¹ (z - m(t))‖ ≤ 2 max(√d + 3, r)

    with mean m and covariance root L of the snapshots at time t, half the spread s of the cells of
    all times, and r where the cell itself was at first. Without a frame in the model, as in those
    that early versions saved, all that is finite is within.

    Parameters
    ----------
    frame : FrameState, optional
        With the floor s in its roots.
    radius : (cells,)
        How far each may be from it.
    """

    frame: FrameState | None
    radius: Tensor

    @classmethod
    def around(cls, model: CellMNNModel, z: Tensor, time: Tensor) -> tuple[TrustRegion, Walk]:
        """The region for cells `z` (cells, latent_dim) at a model time, and the start of their way.

        Parameters
        ----------
        model : CellMNNModel
            Of one data set.
        z : (cells, latent_dim)
            Where the cells start.
        time : (1,)
            When, in model time.
        """
        nobody = torch.zeros_like(z[:, 0], dtype=torch.bool)
        if not model.config.num_frame_times:
            return cls(None, torch.full_like(z[:, 0], torch.inf)), Walk(z, z, nobody)
        frame = model.frame_state()
        dim = z.shape[-1]
        # the trace of L², whose roots beyond those that are kept are its scale
        kept = (frame.root_scale[:, None] + frame.root_excess).square().sum(-1)
        rest = (dim - frame.root_excess.shape[-1]) * frame.root_scale.square()
        within, between = (kept + rest).mean(), frame.mean.var(0, correction=0).sum()
        floor = _LEAST_SPREAD * ((within + between) / dim).sqrt()
        frame = replace(frame, root_scale=frame.root_scale + floor)
        y = frame.to_frame(z[None], time)[0]
        first = torch.linalg.vector_norm(y.detach(), dim=-1)
        return cls(frame, _SLACK * first.clamp_min(dim**0.5 + _TAIL)), Walk(z, y, nobody)

    def step(self, walk: Walk, z: Tensor, time: Tensor) -> Walk:
        """The cells after a step that the model takes to `z`, at model time `time` (1,).

        A cell that is stopped is where its step meets the border, or where it began if the step
        leads to no number.
        """
        if self.frame is None:
            out = walk.stopped | ~torch.isfinite(z).all(-1)
            z = torch.where(out[:, None], walk.z, z)
            return Walk(z, z, out)
        y = self.frame.to_frame(z[None], time)[0]
        distance = torch.linalg.vector_norm(y, dim=-1)
        out = walk.stopped | ~(distance <= self.radius)  # what is no number is out, too
        border = y * (self.radius / distance)[:, None]
        usable = torch.isfinite(border).all(-1) & (distance < torch.inf) & ~walk.stopped
        held = torch.where(usable[:, None], border, walk.y)
        y = torch.where(out[:, None], held, y)
        carried = self.frame.from_frame(y[None], time)[0]
        return Walk(torch.where(out[:, None], carried, z), y, out)

    def velocity(self, z: Tensor, stopped: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
        """Velocities (cells, latent_dim) of the model, but none that crosses the region at once.

        Relative to the snapshots at most its radius per unit of model time, which is about one
        interval; that of the snapshots themselves for cells that are stopped.

        Of cells `z` (cells, latent_dim), `stopped` (cells,) or not, at a `time` (1,) at which the
        model says `velocity` (cells, latent_dim).
        """
        if self.frame is None:
            return torch.where(stopped[:, None], 0.0, velocity)
        along = self.frame.motion(self.frame.to_frame(z[None], time), time)[0]
        relative = self.frame.root_at(time).solve((velocity - along)[None])[0]
        speed = torch.linalg.vector_norm(relative, dim=-1)
        share = torch.where(stopped, 0.0, (self.radius / speed).clamp_max(1.0))
        return along + share[:, None] * torch.nan_to_num(velocity - along)
