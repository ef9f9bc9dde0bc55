"""The network that reads snapshots: from cells that it is shown to the linear ODE at any point.

A data set that is turned has its operators turned, in as many dimensions as it has, and cells may
come in any order; see :mod:`cellmnn_fm.model.token_layers`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad, softplus

from .configuration_cellmnn import CellMNNConfig
from .gaussian_frame import FrameState
from .linear_flow import DenseMatrix, LowRankMatrix
from .token_layers import HIDDEN_FACTOR, TINY, Block, Source, Tokens

_READINGS = 2  # of the cells, before anything is asked
NOT_SHOWN = -1e4  # of a score, for padding
_NUM_VECTORS = 6  # of a token, as it is seen
_NUM_NUMBERS = 9 + _NUM_VECTORS * (_NUM_VECTORS + 1) // 2


class Places(NamedTuple):
    """Where tokens are: snapshots of equally many cells.

    Attributes
    ----------
    z, y : (batch, snapshots * cells, d)
        In units of the whole data set's spread, and in frame coordinates.
    times : (batch, snapshots)
        In model time.
    """

    z: Tensor
    y: Tensor
    times: Tensor

    def followed_by(self, others: Places) -> Places:
        """These places and then others, of snapshots of as many cells."""
        return Places(*(torch.cat(pair, 1) for pair in zip(self, others, strict=True)))

    def of_each_cell(self, values: Tensor) -> Tensor:
        """`values` (..., snapshots, k) of snapshots as those of their cells, (..., cells, k)."""
        return values.repeat_interleave(self.z.shape[1] // self.times.shape[1], -2)


class Control(NamedTuple):
    """The snapshots of a control, beside which those of another condition are read.

    Attributes
    ----------
    frame : FrameState
        A batch of frames, at the times of those of the condition.
    context, shown : (batch, times, cells, d) and (batch, times, cells)
        Cells at these times, and which of them are cells and not padding.
    """

    frame: FrameState
    context: Tensor
    shown: Tensor

    def to(self, device: torch.device) -> Control:
        """The same on a device."""
        return Control(self.frame.to(device), self.context.to(device), self.shown.to(device))


class Course(NamedTuple):
    """What is to be said of a whole data set.

    Where it is read beside a control, the frame goes on through times at which only that was seen.

    Attributes
    ----------
    centre : (batch, d)
        Mean of the snapshots' means.
    spread : (batch, 1, 1)
        Root of the mean variance of a dimension, over all snapshots.
    first, last : (batch, 1)
        Observed times.
    times, present : (batch, times)
        Of snapshots, and which of them there are: others are padding, or of the control alone.
    read_times : (batch, snapshots)
        Of all snapshots that are read, those of a control at the end.
    mean_cells : (batch, 1)
        Mean number of cells in a snapshot.
    dims : (batch, 1, 1)
        Real dimensions.
    """

    centre: Tensor
    spread: Tensor
    first: Tensor
    last: Tensor
    times: Tensor
    present: Tensor
    read_times: Tensor
    mean_cells: Tensor
    dims: Tensor

    @classmethod
    def of(
        cls, frame: FrameState, shown: Tensor, dims: Tensor, control: Control | None = None
    ) -> Course:
        """Of a batch of frames; `shown` (batch, times, cells), `dims` (batch,)."""
        present = known = shown.any(-1)
        read_times = frame.times
        if control is not None:
            known = present | control.shown.any(-1)
            read_times = torch.cat([frame.times, control.frame.times], 1)
        share = known / known.sum(-1, keepdim=True)
        centre = (share[..., None] * frame.mean).sum(-2)
        # padded dimensions have roots of 1, and are not counted
        padding = frame.mean.shape[-1] - dims[:, None]
        variance = (frame.root_scale[..., None] + frame.root_excess).square().sum(-1) - padding
        variance = variance + (frame.mean - centre[:, None]).square().sum(-1)
        spread = ((share * variance).sum(-1) / dims).sqrt()[:, None, None]
        first = frame.times[:, :1]
        last = torch.where(known, frame.times, first).amax(-1, keepdim=True)
        count = shown.sum((-1, -2))[:, None] / present.sum(-1, keepdim=True)
        dims = dims[:, None, None].to(spread)
        return cls(centre, spread, first, last, frame.times, present, read_times, count, dims)


class Memory(NamedTuple):
    """A data set as the network remembers it.

    Attributes
    ----------
    frame : FrameState
        A batch of frames.
    course : Course
        The whole of it.
    sources : tuple of Source
        For each round of reading: cells of the snapshots, and after them a few tokens for the whole
        of the data set, its embedding.
    """

    frame: FrameState
    course: Course
    sources: tuple[Source, ...]


class Nearness(nn.Module):
    """How much cells at one place matter at another, for each head: by distance and by time."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.precision = nn.Linear(width, 2 * heads)
        self.of_time = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, heads))

    def forward(self, numbers: Tensor, here: Places, course: Course) -> Tensor:
        """What is to be compared with :func:`_keys`, (batch, heads, n, k).

        `numbers` (batch, n, width) of the tokens here.
        """
        per_head = softplus(self.precision(numbers)).transpose(1, 2)[..., None]
        in_space, in_frame = per_head.chunk(2, dim=1)
        # the time between two snapshots is that between all of their cells
        span = (course.last - course.first)[..., None]
        ahead = course.read_times[:, None, :] - here.times[:, :, None]
        features = [
            torch.tanh(ahead),
            torch.tanh(ahead.abs() / 3),
            ahead / span,
            torch.sigmoid(20 * (ahead - 0.02)),
            torch.sigmoid(20 * (-ahead - 0.02)),
            torch.exp(-ahead.square()),
        ]
        in_time = self.of_time(torch.stack(features, -1)).permute(0, 3, 1, 2)
        query = [
            in_space * _of_query(here.z, course.dims)[:, None],
            in_frame * _of_query(here.y, course.dims)[:, None],
            here.of_each_cell(in_time),
            torch.ones_like(in_space),
        ]
        return torch.cat(query, -1)


def _of_query(here: Tensor, dims: Tensor) -> Tensor:
    """What gives, with that of keys, minus squared distances per dimension.

    Of `here` (batch, n, d), (batch, n, d + 2); `dims` (batch, 1, 1) are real.
    """
    length2 = here.square().sum(-1, keepdim=True)
    return torch.cat([2 * here, -length2, -torch.ones_like(length2)], -1) / dims


def _of_key(there: Tensor) -> Tensor:
    """Of `there` (batch, m, d), (batch, m, d + 2)."""
    length2 = there.square().sum(-1, keepdim=True)
    return torch.cat([there, torch.ones_like(length2), length2], -1)


def _keys(places: Places, shown: Tensor, summaries: int) -> Tensor:
    """Where cells are, for :class:`Nearness`, and that summaries are nowhere: (batch, 1, m, k).

    The last of the k says which are padding. `shown` (batch, tokens) are those that are cells.
    """
    snapshot = places.of_each_cell(torch.eye(places.times.shape[1], device=shown.device))
    parts = [
        _of_key(places.z),
        _of_key(places.y),
        snapshot.expand(len(shown), -1, -1),
        NOT_SHOWN * ~shown[..., None],
    ]
    return pad(torch.cat(parts, -1), (0, 0, 0, summaries))[:, None]


class InContextHypernetwork(nn.Module):
    """From the snapshots of a data set to the parameters of its linear ODE at operating points.

    Cells of the snapshots are tokens. A few more gather what they say of the whole data set, and
    give it back; then operating points read from both, several times. A point and a cell are
    near in two ways: as they lie, and in the coordinates of the Gaussian frame, in which a cell has
    its like in every snapshot.

    Parameters
    ----------
    config : CellMNNConfig
        With `context_cells`.

    Examples
    --------
    >>> import torch
    >>> from cellmnn_fm import CellMNNConfig, CellMNNModel
    >>> from cellmnn_fm.model.gaussian_frame import fit_frame
    >>> config = CellMNNConfig(latent_dim=4, frame=True, num_frame_times=2, context_cells=50)
    >>> model, snapshots = CellMNNModel(config), [torch.randn(30, 4) + i for i in range(2)]
    >>> frame = fit_frame(snapshots, torch.tensor([0.0, 1.0]))
    >>> memory = model.remember([frame], [snapshots], torch.tensor([4]))
    >>> times = torch.tensor([[0.0, 1.0]])
    >>> raw = model.hypernetwork(memory, torch.stack(snapshots)[None], times, times < 1)
    >>> raw["offset"].shape
    torch.Size([1, 2, 30, 4])
    """

    def __init__(self, config: CellMNNConfig):
        super().__init__()
        width, channels, heads = (
            config.hidden_size,
            config.vector_channels,
            config.num_attention_heads,
        )
        depth, rank = config.num_hidden_layers, cast(int, config.rank)
        self.rank = rank
        self.of_cell, self.of_point = (nn.Linear(_NUM_NUMBERS, width) for _ in range(2))
        self.vectors_of_cell, self.vectors_of_point = (
            nn.Linear(_NUM_VECTORS, channels, bias=False) for _ in range(2)
        )
        self.summary = nn.Parameter(torch.randn(config.num_summary_tokens, width))
        if config.reads_control:
            self.control_mark = nn.Parameter(torch.zeros(width))
        self.gather = nn.ModuleList(Block(width, channels, heads) for _ in range(_READINGS))
        self.scatter = nn.ModuleList(Block(width, channels, heads) for _ in range(_READINGS))
        self.rounds = nn.ModuleList(Block(width, channels, heads) for _ in range(depth))
        self.near = nn.ModuleList(Nearness(width, heads) for _ in range(depth))
        hidden = HIDDEN_FACTOR * width
        self.think = nn.Sequential(nn.Linear(width + channels, hidden), nn.GELU())
        outputs = 2 + 2 * rank  # offsets in states and in frame coordinates, U, V
        self.gates = nn.Linear(hidden, outputs * channels)
        self.numbers = nn.Linear(hidden, 3)  # share of the other side's rates, rate, growth
        self.heads = nn.Parameter(torch.randn(outputs, channels) / math.sqrt(channels))
        self.rest_in_frame()
        with torch.no_grad():
            nn.init.normal_(self.gates.weight, std=0.02)
            nn.init.ones_(self.gates.bias)

    @torch.no_grad()
    def rest_in_frame(self) -> None:
        """Say what an untrained network says, the frame alone: no offset, no operator."""
        self.heads[: 2 + self.rank] = 0
        nn.init.zeros_(self.numbers.weight)
        nn.init.zeros_(self.numbers.bias)

    def remember(
        self,
        frame: FrameState,
        context: Tensor,
        shown: Tensor,
        dims: Tensor,
        embeddings: Tensor | None = None,
        control: Control | None = None,
    ) -> Memory:
        """Read the snapshots of data sets.

        Parameters
        ----------
        frame : FrameState
            A batch of frames; data sets of fewer snapshots have it continued, see
            :func:`continued`.
        context : (batch, times, cells, d)
            Cells of the frame's times.
        shown : (batch, times, cells)
            Which of them are cells, and not padding.
        dims : (batch,)
            Real dimensions.
        embeddings : (batch, summary_tokens, width), optional
            What is known of the data sets beside their cells.
        control : Control, optional
            Of the same data sets, as many cells of each snapshot; of a network with
            `config.reads_control`.
        """
        with torch.autocast(context.device.type, enabled=False):
            course = Course.of(frame, shown, dims, control)
            seen = _seen(frame, course, context, frame.times, None)
        cells, places = self._cells(seen, course), seen.places
        if control is not None:
            with torch.autocast(context.device.type, enabled=False):
                seen = _seen(control.frame, course, control.context, control.frame.times, None)
            marked = self._cells(seen, course)
            marked = marked._replace(numbers=marked.numbers + self.control_mark)
            cells, places = cells.followed_by(marked), places.followed_by(seen.places)
            shown = torch.cat([shown, control.shown], 1)
        start = self.summary if embeddings is None else self.summary + embeddings
        summary = Tokens(
            start.expand(len(context), -1, -1),
            torch.zeros_like(cells.vectors[:, : len(self.summary)]).expand(
                -1, len(self.summary), -1, -1
            ),
            course.dims,
        )
        keys = _keys(places, shown.flatten(1), len(self.summary))
        padding = keys[:, :, : cells.numbers.shape[1], -1:]
        anywhere = padding.new_ones(1, 1, len(self.summary), 1)
        for gather, scatter in zip(_blocks(self.gather), _blocks(self.scatter), strict=True):
            summary = gather(summary, gather.attention.source(cells, padding), anywhere)
            cells = scatter(cells, scatter.attention.source(summary))
        tokens = cells.followed_by(summary)
        sources = tuple(block.attention.source(tokens, keys) for block in _blocks(self.rounds))
        return Memory(frame, course, sources)

    def _cells(self, seen: _Seen, course: Course) -> Tokens:
        """Cells of snapshots as tokens."""
        return Tokens(self.of_cell(seen.numbers), self.vectors_of_cell(seen.vectors), course.dims)

    def forward(
        self, memory: Memory, z: Tensor, times: Tensor, forward: Tensor
    ) -> dict[str, Tensor]:
        """Raw parameters by name, (batch, groups, cells, ...).

        Parameters
        ----------
        memory : Memory
            Of the data sets.
        z : (batch, groups, cells, d)
            Operating points.
        times, forward : (batch, groups)
            When they are, and whether later times are asked for.
        """
        with torch.autocast(z.device.type, enabled=False):
            seen = _seen(memory.frame, memory.course, z, times, forward)
        points = Tokens(
            self.of_point(seen.numbers), self.vectors_of_point(seen.vectors), memory.course.dims
        )
        for block, near, source in zip(self.rounds, self.near, memory.sources, strict=True):
            points = block(points, source, near(points.numbers, seen.places, memory.course))
        power = torch.log(points.vectors.square().sum(-2) / points.dims + TINY)
        numbers = layer_norm(points.numbers, points.numbers.shape[-1:])
        hidden = self.think(torch.cat([numbers, power], -1))
        gates = self.gates(hidden).unflatten(-1, self.heads.shape) * self.heads
        # (batch, tokens, d, outputs), then cell by cell as they came
        vectors = (points.vectors @ gates.mT).unflatten(1, z.shape[1:3])
        share, rate, growth = self.numbers(hidden).unflatten(1, z.shape[1:3]).unbind(-1)
        in_space, in_frame, left, right = vectors.split([1, 1, self.rank, self.rank], dim=-1)
        with torch.autocast(z.device.type, enabled=False):
            offset = seen.root.solve(in_space.squeeze(-1).to(z.dtype))
        offset = memory.course.spread[..., None] * offset
        offset = offset + in_frame.squeeze(-1) + share[..., None] * seen.jump
        dims = memory.course.dims[..., None, None]
        return {
            "offset": offset,
            "left": left,
            "right": right / dims,
            "rate": rate,
            "growth": growth,
        }


def _blocks(layers: nn.ModuleList) -> list[Block]:
    """The layers, of their type."""
    return cast("list[Block]", list(layers))


class _Seen(NamedTuple):
    """Cells with all that the frame says of them."""

    numbers: Tensor
    vectors: Tensor
    places: Places
    jump: Tensor  # (batch, groups, cells, d), other side's rates less this one's, in the frame
    root: DenseMatrix | LowRankMatrix


def _seen(
    frame: FrameState, course: Course, z: Tensor, times: Tensor, forward: Tensor | None
) -> _Seen:
    """Cells `z` (batch, groups, cells, d) at `times` (batch, groups).

    `forward` (batch, groups) says which side of the frame's rates comes first; for cells of
    snapshots, that are on neither side, it is None.
    """
    root = frame.root_at(times)
    y = root.solve(z - frame.mean_at(times)[..., None, :])
    right = torch.ones_like(times, dtype=torch.bool)
    side = right if forward is None else forward
    here = frame.motion(y, times, forward=side)
    other = frame.motion(y, times, forward=~side)
    unit = course.spread[..., None]
    placed = (z - course.centre[:, None, None]) / unit
    in_frame = [root.solve(here), root.solve(other)]
    vectors = torch.stack([placed, y, here / unit, other / unit, *in_frame], dim=-1).flatten(1, 2)
    products = vectors.mT @ vectors / course.dims[..., None]
    one, another = torch.triu_indices(_NUM_VECTORS, _NUM_VECTORS, device=z.device)
    products = products[..., one, another]
    # lengths and angles over many orders of magnitude
    products = torch.sign(products) * torch.log1p(products.abs())
    span = course.last - course.first
    gaps = (times[..., None] - course.times[:, None]).abs()
    nearest = gaps.masked_fill(~course.present[:, None], torch.inf).amin(-1)
    of_all = [
        torch.log(span),
        torch.log(course.mean_cells + 1.0),
        torch.log(course.dims.squeeze(-1)),
        course.present.sum(-1, keepdim=True) / 4,
    ]
    about = [
        (times - course.first) / span,
        nearest,
        torch.tanh(times - course.first),
        torch.tanh(course.last - times),
        torch.zeros_like(times) if forward is None else 2.0 * forward - 1.0,
        *(number.expand_as(times) for number in of_all),
    ]
    numbers = torch.stack(about, -1)[:, :, None].expand(-1, -1, z.shape[2], -1).flatten(1, 2)
    places = Places(placed.flatten(1, 2), y.flatten(1, 2), times)
    return _Seen(
        torch.cat([numbers, products], -1), vectors, places, in_frame[1] - in_frame[0], root
    )
