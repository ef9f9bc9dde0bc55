"""How far a model is followed: cells that leave what the snapshots show are stopped at its border.

A fitted velocity field is known where cells were. Beyond, it is whatever the network extrapolates
to, and cells that get there run away faster than any exponential.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .gaussian_frame import FrameState
from .modeling_cellmnn import CellMNNModel

_SLACK = 2.0  # how much farther than cells of the snapshots
_TAIL = 3.0  # a Gaussian cloud of d dimensions reaches about √d + 3
_LEAST_SPREAD = 0.25  # of the mean spread: a snapshot may be flat in some direction


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

    with mean m and covariance root L of the snapshots at time t, a quarter s of the mean spread,
    and r where the cell itself was at first. Without a frame in the model, as in those saved by
    early versions, all that is finite is within.

    Parameters
    ----------
    frame : FrameState, optional
        With the floor s in its roots.
    radius : (cells,)
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
        time : (1,)
        """
        nobody = torch.zeros_like(z[:, 0], dtype=torch.bool)
        if not model.config.num_frame_times:
            return cls(None, torch.full_like(z[:, 0], torch.inf)), Walk(z, z, nobody)
        frame = model.frame_state()
        dim = z.shape[-1]
        trace = dim * frame.root_scale + frame.root_excess.sum(-1)
        floor = _LEAST_SPREAD * (trace / dim).mean()
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
        """Velocities of the model (cells, latent_dim); those of the snapshots for stopped cells."""
        along = torch.zeros_like(velocity)
        if self.frame is not None:
            along = self.frame.motion(self.frame.to_frame(z[None], time), time)[0]
        return torch.where(stopped[:, None], along, velocity)
