"""The network of one data set: from a state and a time to a linear ODE."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from transformers.activations import ACT2FN

from .configuration_cellmnn import CellMNNConfig

_GROWTH_HIDDEN = 32


class LinearODEHead(nn.Linear):
    """Last layer of the hypernetwork: hidden state → raw parameters of the ODE, side by side."""

    def __init__(self, config: CellMNNConfig):
        dim = config.latent_dim
        sizes = {
            "eigvecs": dim * dim if config.rank is None else 2 * dim * config.rank,
            "eigvals": dim - config.num_static_eigvals,
            "offset": dim if config.offset else 0,
        }
        super().__init__(config.hidden_size, sum(sizes.values()))
        self.sizes = sizes


class GrowthHead(nn.Linear):
    """Last layer of the growth network."""


class GrowthNetwork(nn.Sequential):
    """How fast cells multiply, births less deaths, from their state alone.

    Time is left out: what multiplies cells is what they are. Snapshots say little about single
    rates, and a network of state and time explains changes of their numbers by the time.
    """

    def __init__(self, config: CellMNNConfig):
        hidden = _GROWTH_HIDDEN
        super().__init__(
            nn.Linear(config.latent_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            GrowthHead(hidden, 1),
        )


class CellMNNHypernetwork(nn.Module):
    """An MLP from the operating point (state, time) to the parameters of a linear ODE."""

    def __init__(self, config: CellMNNConfig):
        super().__init__()
        widths = [config.latent_dim + 1]
        widths += [config.hidden_size] * config.num_hidden_layers
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.activation = ACT2FN[config.hidden_act]
        self.head = LinearODEHead(config)
        self.sizes = self.head.sizes

    def forward(self, operating_point: Tensor) -> dict[str, Tensor]:
        """Raw parameters by name, of operating points (..., latent_dim + 1).

        `operating_point` (..., latent_dim + 1).
        """
        hidden = operating_point
        for layer in self.layers:
            hidden = self.activation(layer(hidden))
        parts = self.head(hidden).split(list(self.sizes.values()), dim=-1)
        return dict(zip(self.sizes, parts, strict=True))
