"""The networks: of the linear ODE, of the bend of the mean, and of the embedding of a data set."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.activations import ACT2FN

from .configuration_cellmnn import CellMNNConfig
from .gaussian_frame import FrameState

_TINY = 1e-6
_INVARIANT_SCALE = 0.1  # coefficients are much the same for all data sets, until shown otherwise


class MeanHead(nn.Linear):
    """How far the path of the mean is off the straight line half way between two snapshots.

        bend = Σ_k c_k · basis_k,    c = W · invariants + c_0

    The basis turns with the data and moves with them: the step v to the next mean, the steps before
    and after it at the pace that they would have had in this interval, and the way from the middle
    of the interval to the centre of all means. The invariants are ratios of times, lengths and
    spreads, and cosines. Both are all that a data set of any dimension and unit has in common with
    others. Without training the bend is 0.

    Examples
    --------
    >>> import torch
    >>> from cellmnn_fm.model.layers import MeanHead
    >>> from cellmnn_fm.model.gaussian_frame import fit_frame
    >>> frame = fit_frame([torch.randn(30, 4) + i for i in range(3)], torch.tensor([0.0, 1.0, 3.0]))
    >>> MeanHead()(frame).shape  # for each interval
    torch.Size([2, 4])
    """

    NUM_BASIS = 4
    NUM_INVARIANTS = 16

    def __init__(self) -> None:
        super().__init__(self.NUM_INVARIANTS, self.NUM_BASIS)

    def forward(self, frame: FrameState) -> Tensor:  # type: ignore[override]
        """The bend of every interval, (times - 1, d), of a frame of one data set."""
        basis, invariants = self.features(frame)
        return (super().forward(_INVARIANT_SCALE * invariants)[..., None] * basis).sum(-2)

    @staticmethod
    def features(frame: FrameState) -> tuple[Tensor, Tensor]:
        """Basis (times - 1, 4, d) and invariants (times - 1, 16) of every interval."""
        # at the ends there is no interval beside: its step and gap are 0, which the invariants say
        gap, step = frame.times.diff(), frame.mean.diff(dim=0)
        before, after = pad(step, (0, 0, 1, 0))[:-1], pad(step, (0, 0, 0, 1))[1:]
        gap_before, gap_after = pad(gap, (1, 0))[:-1], pad(gap, (0, 1))[1:]
        centre = frame.mean.mean(dim=0) - (frame.mean[:-1] + frame.mean[1:]) / 2
        # as far as a cell would have come in this interval; a short one beside says little of it
        basis = torch.stack(
            [
                step,
                before * (gap / (gap_before + 0.5 * gap))[:, None],
                after * (gap / (gap_after + 0.5 * gap))[:, None],
                centre,
            ],
            dim=-2,
        )
        # the trace of the covariance L²: of the dimensions with a factor, and of the others
        excess = (frame.root_scale[:, None] + frame.root_excess).square().sum(-1)
        rest = frame.mean.shape[-1] - frame.root_excess.shape[-1]
        spread2 = excess + rest * frame.root_scale.square()
        typical2 = (spread2[:-1] + spread2[1:]) / 2 + _TINY
        # lengths beside the spread of the cells, squashed to 0..1: no unit, no outlier. Directions
        # only as cosines, so that a turned data set has the same invariants
        length2 = basis.square().sum(-1)
        lengths = (length2 / (length2 + typical2[:, None])).sqrt()
        unit = basis / (length2[..., None] + _TINY * typical2[:, None, None]).sqrt()
        cosines = unit @ unit.mT
        pairs = torch.triu_indices(4, 4, 1, device=cosines.device)
        invariants = torch.cat(
            [
                lengths,
                cosines[:, pairs[0], pairs[1]],
                # how long the neighbouring intervals are, and whether they are there
                (gap_before / (gap_before + gap))[:, None],
                (gap_after / (gap_after + gap))[:, None],
                (gap_before > 0).to(gap)[:, None],
                (gap_after > 0).to(gap)[:, None],
                # whether the cloud widens or narrows; how much of the whole this interval is
                torch.tanh(torch.log((spread2[1:] + _TINY) / (spread2[:-1] + _TINY)))[:, None],
                (1 / len(gap) * torch.ones_like(gap))[:, None],
            ],
            dim=-1,
        )
        return basis, invariants


class SnapshotEncoder(nn.Module):
    """The embedding of a data set from its observed snapshots: any number of times and cells.

    Cells are pooled within a snapshot and snapshots over time: the order of neither matters.

    Parameters
    ----------
    latent_dim, hidden_size, embed_dim : int
        Sizes of a cell, of the layers, and of the embedding.

    Examples
    --------
    >>> import torch
    >>> from cellmnn_fm.model.layers import SnapshotEncoder
    >>> encoder = SnapshotEncoder(latent_dim=4, hidden_size=16, embed_dim=8)
    >>> encoder(torch.randn(2, 3, 50, 4), torch.tensor([[0.0, 1.0, 2.0]] * 2)).shape
    torch.Size([2, 8])
    """

    def __init__(self, latent_dim: int, hidden_size: int, embed_dim: int) -> None:
        super().__init__()
        self.of_cell = nn.Sequential(
            nn.Linear(latent_dim + 1, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.of_snapshot = nn.Sequential(
            nn.Linear(hidden_size + 1, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.to_embedding = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, embed_dim))

    def forward(self, z: Tensor, times: Tensor, weights: Tensor | None = None) -> Tensor:
        """Embeddings (batch, embed_dim).

        Parameters
        ----------
        z : (batch, times, cells, latent_dim)
            Cells of the snapshots, padded to as many.
        times : (batch, times)
            In model time.
        weights : (batch, times, cells), optional
            Of the cells; 0 for padding. A snapshot without any is left out.
        """
        if weights is None:
            weights = z.new_ones(z.shape[:-1])
        time_of_cell = times[..., None, None].expand(*z.shape[:-1], 1)
        cells = self.of_cell(torch.cat([z, time_of_cell], dim=-1))
        total = weights.sum(-1, keepdim=True)
        pooled = (cells * weights[..., None]).sum(-2) / total.clamp_min(_TINY)
        snapshots = self.of_snapshot(torch.cat([pooled, times[..., None]], dim=-1))
        present = (total > 0).to(z.dtype)
        return self.to_embedding((snapshots * present).sum(-2) / present.sum(-2))


class LinearODEHead(nn.Linear):
    """Last layer of the hypernetwork: hidden state → raw parameters of the ODE, side by side."""

    def __init__(self, config: CellMNNConfig):
        dim = config.latent_dim
        sizes = {
            "eigvecs": dim * dim if config.rank is None else 2 * dim * config.rank,
            "eigvals": dim - config.num_static_eigvals,
            "offset": dim if config.offset else 0,
            "growth": 1 if config.growth else 0,
        }
        super().__init__(config.hidden_size, sum(sizes.values()))
        self.sizes = sizes


class CellMNNHypernetwork(nn.Module):
    """An MLP from the operating point (state, time, data set) to the parameters of a linear ODE."""

    def __init__(self, config: CellMNNConfig):
        super().__init__()
        widths = [config.latent_dim + 1 + config.dataset_embed_dim]
        widths += [config.hidden_size] * config.num_hidden_layers
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.activation = ACT2FN[config.hidden_act]
        self.head = LinearODEHead(config)
        self.sizes = self.head.sizes

    def forward(self, operating_point: Tensor) -> dict[str, Tensor]:
        """Raw parameters by name, of operating points (..., latent_dim + 1 + embedding).

        `operating_point` (..., latent_dim + 1 + embedding).
        """
        hidden = operating_point
        for layer in self.layers:
            hidden = self.activation(layer(hidden))
        parts = self.head(hidden).split(list(self.sizes.values()), dim=-1)
        return dict(zip(self.sizes, parts, strict=True))
