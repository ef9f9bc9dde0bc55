"""Layers of tokens that carry numbers and vectors of the latent space.

Vectors are only ever mixed, scaled by numbers, and compared by inner products: what comes out turns
with what goes in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pad, scaled_dot_product_attention

TINY = 1e-6
HIDDEN_FACTOR = 2


class Tokens(NamedTuple):
    """What is known at some cells: numbers, and vectors of the latent space.

    Attributes
    ----------
    numbers : (batch, tokens, width)
        The same however the data set is turned.
    vectors : (batch, tokens, d, channels)
        Turn with it.
    dims : (batch, 1, 1)
        Real dimensions; in those that are padding, vectors are 0.
    """

    numbers: Tensor
    vectors: Tensor
    dims: Tensor

    def normalised(self) -> Tokens:
        """Numbers of mean 0 and variance 1, vectors of mean square 1."""
        channels = self.vectors.shape[-1]
        power = self.vectors.square().sum(dim=(-1, -2), keepdim=True)
        power = power / (channels * self.dims[..., None])
        numbers = layer_norm(self.numbers, self.numbers.shape[-1:])
        return self._replace(numbers=numbers, vectors=self.vectors * torch.rsqrt(power + TINY))

    def plus(self, numbers: Tensor, vectors: Tensor) -> Tokens:
        """The tokens with something added.

        `numbers` (batch, tokens, width) and `vectors` (batch, tokens, d, channels).
        """
        return self._replace(numbers=self.numbers + numbers, vectors=self.vectors + vectors)

    def followed_by(self, others: Tokens) -> Tokens:
        """These tokens and then others, of the same data sets."""
        numbers = torch.cat([self.numbers, others.numbers], 1)
        return self._replace(numbers=numbers, vectors=torch.cat([self.vectors, others.vectors], 1))


class Source(NamedTuple):
    """Tokens as an attention reads from them: made once, however many read.

    Attributes
    ----------
    key, value : (batch, heads, m, features)
        Of m tokens.
    """

    key: Tensor
    value: Tensor


class Attention(nn.Module):
    """Tokens read from others: by their numbers, by inner products of vectors, and by places.

    What is said of places is added to the scores, as an inner product of features of both. No table
    of all pairs is ever made, which would cost more than all else.
    """

    def __init__(self, width: int, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.vector_query, self.vector_key, self.vector_value = (
            nn.Linear(channels, channels, bias=False) for _ in range(3)
        )
        self.mix = nn.Linear(width, width)
        self.mix_vectors = nn.Linear(channels, channels, bias=False)

    def source(self, tokens: Tokens, places: Tensor | None = None) -> Source:
        """Tokens that can be read from.

        Parameters
        ----------
        tokens : Tokens
            m of them.
        places : (batch, 1, m, features), optional
            Where they are.
        """
        seen = tokens.normalised()
        key = self._joined(self.key(seen.numbers), self.vector_key(seen.vectors))
        value = self._joined(self.value(seen.numbers), self.vector_value(seen.vectors))
        if places is not None:
            key = torch.cat([key, places.expand(-1, self.heads, -1, -1)], -1)
            if not self.training:  # kernels that make no table, and whose gradients are slow
                value = pad(value, (0, places.shape[-1]))  # want all of one size
        return Source(key, value)

    def forward(self, tokens: Tokens, source: Source, places: Tensor | None = None) -> Tokens:
        """The tokens with what they read.

        Parameters
        ----------
        tokens : Tokens
            n of them.
        source : Source
            Of those that they read from.
        places : (batch or 1, heads or 1, n, features), optional
            What is compared with the places of the source, if it has any.
        """
        own = tokens.normalised()
        dims, channels = own.vectors.shape[-2:]
        width = own.numbers.shape[-1] // self.heads
        length = torch.rsqrt(tokens.dims[..., None] * channels / self.heads)
        query = self._joined(
            self.query(own.numbers) / math.sqrt(width), length * self.vector_query(own.vectors)
        )
        size = query.shape[-1]
        if places is not None:
            query = torch.cat([query, places.expand(len(query), self.heads, -1, -1)], -1)
        # of close cells a small difference of large numbers: not in half precision
        with torch.autocast(query.device.type, enabled=False):
            key, value = source.key.to(query), source.value.to(query)
            read = scaled_dot_product_attention(query, key, value, scale=1.0)
        numbers, vectors = read[..., :size].split([width, size - width], dim=-1)
        merged = vectors.unflatten(-1, (dims, -1)).permute(0, 2, 3, 1, 4).flatten(-2)
        return tokens.plus(self.mix(numbers.transpose(1, 2).flatten(-2)), self.mix_vectors(merged))

    def _joined(self, numbers: Tensor, vectors: Tensor) -> Tensor:
        """Numbers and vectors side by side, (batch, heads, tokens, ...)."""
        by_head = vectors.unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4).flatten(-2)
        return torch.cat([numbers.unflatten(-1, (self.heads, -1)).transpose(1, 2), by_head], -1)


class FeedForward(nn.Module):
    """Each token by itself: its numbers see inner products, its vectors are scaled by numbers."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        hidden = HIDDEN_FACTOR * width
        self.left = nn.Linear(channels, channels, bias=False)
        self.right = nn.Linear(channels, channels, bias=False)
        self.inner = nn.Linear(width + channels, hidden)
        self.outer = nn.Linear(hidden, width + channels)
        self.mix_vectors = nn.Linear(channels, channels, bias=False)

    def forward(self, tokens: Tokens) -> Tokens:
        """The tokens after a thought."""
        numbers, vectors, dims = tokens.normalised()
        left, right = self.left(vectors), self.right(vectors)
        products = (left * right).sum(-2) / dims
        hidden = gelu(self.inner(torch.cat([numbers, products], -1)))
        update, gates = self.outer(hidden).split([numbers.shape[-1], vectors.shape[-1]], dim=-1)
        return tokens.plus(update, self.mix_vectors(gates[..., None, :] * left))


class Block(nn.Module):
    """Read from other tokens, then think."""

    def __init__(self, width: int, channels: int, heads: int):
        super().__init__()
        self.attention = Attention(width, channels, heads)
        self.feed_forward = FeedForward(width, channels)

    def forward(self, tokens: Tokens, source: Source, places: Tensor | None = None) -> Tokens:
        """The tokens, changed; `places` (..., n, features) as for :class:`Attention`."""
        return self.feed_forward(self.attention(tokens, source, places))
