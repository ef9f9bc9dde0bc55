"""The model: from a state, a time and a data set to a linear ODE, solved in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import ModelOutput

from .configuration_cellmnn import CellMNNConfig
from .dataset_table import DatasetTable
from .gaussian_frame import FrameState, root_rank, stack_frames
from .in_context import Control, InContextHypernetwork, Memory
from .layers import CellMNNHypernetwork, GrowthNetwork
from .linear_flow import (
    DenseMatrix,
    LinearODE,
    LowRankMatrix,
    LowRankODE,
    bounded_eigvals,
    bounded_low_rank,
)


@dataclass
class CellMNNOutput(ModelOutput):
    """Answer of a [`CellMNNModel`]. Rates are per unit of model time.

    Attributes
    ----------
    states : (..., targets, cells, latent_dim)
        Where each cell is at each target time.
    velocity : (..., targets, cells, latent_dim)
        dz/dt there.
    learned_velocity : (..., targets, cells, latent_dim)
        Its part that the network is responsible for; all of it without a frame.
    determinant : (..., cells), optional
        det P of the eigenvectors, where the network predicts these.
    log_growth : (..., targets, cells), optional
        Log of how much each cell's descendants have multiplied by then.
    """

    states: Tensor | None = None
    velocity: Tensor | None = None
    learned_velocity: Tensor | None = None
    determinant: Tensor | None = None
    log_growth: Tensor | None = None


class CellMNNModel(DatasetTable):
    """A state-conditioned, locally linear ODE for the dynamics of single cells.

    At every *operating point* (z, t), for every data set, the hypernetwork predicts

        dz/dt = A z + b,    z(t + Δt) = exp(A Δt) z + Δt φ1(A Δt) b

    with A = P diag(λ) P⁻¹ (Cell-MNN, ICLR 2026). With `config.frame` the ODE acts on
    y = L(t)⁻¹ (z - m(t)), the coordinates of the data set's Gaussian frame. With
    `config.context_cells` the network reads cells of the observed snapshots, which the model keeps,
    and A = a I + U Vᵀ; see [`InContextHypernetwork`].

    Examples
    --------
    >>> import torch
    >>> from cellmnn_fm import CellMNNConfig, CellMNNModel
    >>> model = CellMNNModel(CellMNNConfig(latent_dim=5, rank=2)).eval()
    >>> cells = torch.randn(2, 64, 5)  # two snapshots of 64 cells
    >>> output = model(cells, times=torch.tensor([0.0, 1.0]), target_times=torch.tensor([0.5]))
    >>> output.states.shape
    torch.Size([2, 1, 64, 5])
    """

    def __init__(self, config: CellMNNConfig):
        super().__init__(config)
        if config.context_cells:
            self.hypernetwork: nn.Module = InContextHypernetwork(config)
            table = (config.num_datasets, config.num_summary_tokens, config.hidden_size)
            self.dataset_embeddings = nn.Parameter(torch.zeros(table))
            counts = torch.zeros(config.num_datasets, config.num_frame_times, dtype=torch.long)
            self.register_buffer("context_counts", counts)
            cells = torch.zeros(config.num_context_cells, config.latent_dim)
            self.register_buffer("context", cells)
        else:
            self.hypernetwork = CellMNNHypernetwork(config)
            if config.growth:
                self.growth_network = GrowthNetwork(config)
        dims = config.dataset_dims or [config.latent_dim] * config.num_datasets
        self.register_buffer("dataset_dims", torch.tensor(dims))
        if config.num_frame_times:
            shape = (config.num_datasets, config.num_frame_times)
            dim, rank = config.latent_dim, root_rank(config.latent_dim)
            # an identity frame at times 0, 1, ..., until one is set
            self.register_buffer("frame_counts", torch.full(shape[:1], shape[1]))
            observed = torch.zeros(shape) + torch.arange(shape[1])
            self.register_buffer("frame_times", observed)
            self.register_buffer("frame_mean", torch.zeros(*shape, dim))
            self.register_buffer("frame_root_scale", torch.ones(shape))
            self.register_buffer("frame_root_vectors", torch.eye(dim, rank).repeat(*shape, 1, 1))
            self.register_buffer("frame_root_excess", torch.zeros(*shape, rank))
        if config.num_genes:
            self.register_buffer("gene_mean", torch.zeros(config.num_genes))
            self.register_buffer("loadings", torch.zeros(config.num_genes, config.latent_dim))
            self.register_buffer("projection", torch.zeros(config.num_genes, config.latent_dim))
            self.register_buffer("noise_variance", torch.zeros(config.num_genes))
            self.register_buffer("alignment", torch.eye(config.latent_dim))
        self._remembered: tuple[Any, Memory] | None = None
        self.post_init()

    @torch.no_grad()
    def set_subspace(self, **arrays: Any) -> None:
        """Store the map between genes and latent states; it is saved with the weights."""
        for name, values in arrays.items():
            self.get_buffer(name).copy_(torch.as_tensor(values))

    def remember(
        self,
        frames: Sequence[FrameState],
        snapshots: Sequence[Sequence[Tensor]],
        dims: Tensor,
        embeddings: Tensor | None = None,
        control: tuple[Sequence[FrameState], Sequence[Sequence[Tensor]]] | None = None,
    ) -> Memory:
        """Read cells of observed snapshots.

        Parameters
        ----------
        frames : for each data set, FrameState
            Of the snapshots.
        snapshots : for each data set, for each time of its frame, (cells, latent_dim)
            At most `config.context_cells` of each are read, the first ones.
        dims : (data sets,)
            Real dimensions.
        embeddings : (data sets, num_summary_tokens, hidden_size), optional
            What the table knows of the data sets beside their cells.
        control : pair of frames and snapshots (cells, latent_dim), optional
            Likewise, of the control of each data set, at the times of its frame; with
            `config.reads_control`.
        """
        read = [*snapshots, *(control[1] if control else [])]
        sizes = [len(cells) for its_snapshots in read for cells in its_snapshots]
        most = min(max(sizes), self.config.context_cells)
        network = cast(InContextHypernetwork, self.hypernetwork)
        beside = None if control is None else Control(*_stacked(*control, most))
        return network.remember(*_stacked(frames, snapshots, most), dims, embeddings, beside)

    def memory(self, dataset_id: int = 0) -> Memory:
        """What is remembered of a data set of the table.

        In evaluation it is read once, without gradients, until weights or cells change.
        """

        def read() -> Memory:
            rows = [dataset_id, dataset_id + 1] if self.config.reads_control else [dataset_id]
            course, *control = [([self.frame_state(row)], [self.context_of(row)]) for row in rows]
            return self.remember(
                *course,
                self.dataset_dims[dataset_id, None],
                self.dataset_embeddings[dataset_id, None],
                *control,
            )

        if self.training:
            return read()
        tensors = [*self.parameters(), *self.buffers()]
        state = (dataset_id, *((id(tensor), tensor._version) for tensor in tensors))
        if self._remembered is None or self._remembered[0] != state:
            with torch.no_grad():
                self._remembered = (state, read())
        return self._remembered[1]

    def _require_fitting(self, z: Tensor, times: Tensor, *, known: bool) -> None:
        """Refuse inputs whose shapes do not go together, or of nobody knows which data set."""
        config = self.config
        if z.shape[-1] != config.latent_dim or z.shape[:-2] != times.shape:
            raise ValueError(
                f"z: expected (..., cells, {config.latent_dim}) with one of the times "
                f"{tuple(times.shape)} for each snapshot, found {tuple(z.shape)}; "
                "give snapshots of cells, as in z[None] for a single one"
            )
        if config.frame and not known and config.num_datasets != 1 + config.reads_control:
            part = "memory" if config.context_cells else "frame"
            call = "memory" if config.context_cells else "frame_state"
            raise ValueError(
                f"{part}: expected that of one of {config.num_datasets} data sets, found none; "
                f"pass {part}=model.{call}(dataset_id)"
            )

    def linear_ode(
        self,
        z: Tensor,
        times: Tensor,
        dataset_ids: Tensor | None = None,
        frame: FrameState | None = None,
        memory: Memory | None = None,
        forward: Tensor | None = None,
    ) -> tuple[LinearODE | LowRankODE, Tensor | None]:
        """The linear ODE at every operating point, in frame coordinates where there is a frame.

        Parameters
        ----------
        z : (..., cells, latent_dim)
            States.
        times : (...)
            Of the snapshots, in model time.
        dataset_ids : (...), optional
            Rows in the table of data sets; see :meth:`forward`, as for the next two.
        frame : FrameState, optional
            Of the data set.
        memory : Memory, optional
            Of the same data sets.
        forward : (...), optional
            Whether later times are asked for, where rates of the frame jump; they are by default.

        Returns
        -------
        ode : LinearODE or LowRankODE
            Batch shape (..., cells).
        growth_rate : (..., cells), optional
            With `config.growth`.
        """
        if self.config.context_cells:
            if forward is None:
                forward = torch.ones_like(times, dtype=torch.bool)
            return self._read_ode(z, times, memory or self.memory(), forward)
        with torch.autocast(z.device.type, enabled=False):
            frame = (frame or self.frame_state()) if self.config.frame else None
            coordinates = z if frame is None else frame.to_frame(z, times)
        return self._own_ode(coordinates, times, dataset_ids), self._own_growth(z)

    def _read_ode(
        self, z: Tensor, times: Tensor, memory: Memory, forward: Tensor
    ) -> tuple[LowRankODE, Tensor | None]:
        """What the network says that reads snapshots; one entry of the batch for each data set.

        At `z` (..., cells, latent_dim) of `times` and `forward` (...).
        """
        # the network wants (data sets, snapshots, cells, latent_dim)
        sets, lead, cells = len(memory.course.dims), times.shape, z.shape[-2:]
        groups = times.reshape(sets, -1)
        raw = self.hypernetwork(
            memory, z.reshape(*groups.shape, *cells), groups, forward.reshape(groups.shape)
        )
        parts = {
            name: part.reshape(*lead, *part.shape[2:]).to(z.dtype) for name, part in raw.items()
        }
        bound = self.config.max_rate
        operator = bounded_low_rank(parts["left"], parts["right"], parts["rate"], bound)
        return LowRankODE(*operator, parts["offset"]), self._bounded_growth(parts["growth"])

    def _own_ode(self, coordinates: Tensor, times: Tensor, dataset_ids: Tensor | None) -> LinearODE:
        """What a network says that reads no snapshots.

        At `coordinates` (..., cells, latent_dim) of `times` and of `dataset_ids` (...).
        """
        config = self.config
        cells = coordinates.shape[-2]
        if dataset_ids is None:
            dataset_ids = torch.zeros_like(times, dtype=torch.long)
        inputs = [coordinates, times[..., None, None].expand(*times.shape, cells, 1)]
        raw = {
            name: part.to(coordinates.dtype)  # out of autocast, which is for the network alone
            for name, part in self.hypernetwork(torch.cat(inputs, dim=-1)).items()
        }

        # padded dimensions stand still: P = I, λ = 0 and b = 0 there
        dimension = torch.arange(config.latent_dim, device=coordinates.device)
        real = (dimension < self.dataset_dims[dataset_ids][..., None, None]).to(coordinates.dtype)
        eigvecs: DenseMatrix | LowRankMatrix
        if config.rank is None:
            shift = raw["eigvecs"].unflatten(-1, (config.latent_dim, config.latent_dim))
            identity = torch.eye(config.latent_dim, dtype=shift.dtype, device=shift.device)
            eigvecs = DenseMatrix(identity + shift * real[..., None] * real[..., None, :])
        else:
            factors = raw["eigvecs"].unflatten(-1, (2, config.latent_dim, config.rank))
            u, v = (factors * real[..., None, :, None]).unbind(-3)
            eigvecs = LowRankMatrix(u, v)
        return LinearODE(
            eigvecs,
            bounded_eigvals(raw["eigvals"], config.max_rate, config.num_static_eigvals) * real,
            raw["offset"] * real if config.offset else None,
            config.num_complex_pairs,
        )

    def _own_growth(self, z: Tensor) -> Tensor | None:
        """Growth rate (..., cells) at `z` (..., cells, latent_dim), if there is growth."""
        if not self.config.growth:
            return None
        return self._bounded_growth(self.growth_network(z).squeeze(-1).to(z.dtype))

    def _bounded_growth(self, raw: Tensor) -> Tensor | None:
        """The growth rate (..., cells) within its bound, if there is growth."""
        bound = self.config.max_growth_rate
        return bound * torch.tanh(raw / bound) if self.config.growth else None

    def forward(
        self,
        z: Tensor,
        times: Tensor,
        target_times: Tensor,
        dataset_ids: Tensor | None = None,
        frame: FrameState | None = None,
        memory: Memory | None = None,
    ) -> CellMNNOutput:
        """Push snapshots to other times.

        Parameters
        ----------
        z : (..., cells, latent_dim)
            Snapshots of latent states.
        times : (...)
            When they were taken, in model time.
        target_times : (targets,) or (..., targets)
            Where to push them, earlier or later.
        dataset_ids : (...), optional
            Rows in the table of data sets; the first by default.
        frame : FrameState, optional
            Of the data set that the call is about, or a batch of frames, one for each leading entry
            of `z`. The stored one by default; a table of several data sets has no default.
        memory : Memory, optional
            Of the same data sets, where the network reads snapshots; see :meth:`remember`.

        Raises
        ------
        ValueError
            On shapes that do not fit each other, and on a frame that is needed and not given.
        """
        self._require_fitting(
            z, times, known=(memory if self.config.context_cells else frame) is not None
        )
        target_times = target_times.expand(*times.shape, target_times.shape[-1])
        delta_t = target_times - times[..., None]
        if self.config.frame and frame is None:
            if memory is None:
                frame = self.frame_state()
            else:  # that of one data set is for snapshots of any number of axes
                several = len(memory.course.dims) > 1
                frame = memory.frame if several else memory.frame.map(lambda values: values[0])
        reads = bool(self.config.context_cells)
        points, starts, spans = z, times, delta_t[..., None, :]
        if reads:  # rates of the frame jump, so that every target has an operator of its own
            targets = delta_t.shape[-1]
            points = z[..., None, :, :].expand(*times.shape, targets, *z.shape[-2:])
            starts = times[..., None].expand(*times.shape, targets)
            spans = delta_t[..., None, None]
        in_full = torch.autocast(z.device.type, enabled=False)
        with in_full:
            coordinates = points if frame is None else frame.to_frame(points, starts)
        ode: LinearODE | LowRankODE
        if reads:
            ode, growth_rate = self._read_ode(points, starts, memory or self.memory(), delta_t >= 0)
        else:
            ode, growth_rate = self._own_ode(coordinates, times, dataset_ids), self._own_growth(z)
        with in_full:
            states, velocity = (
                # (..., cells, targets, dim) → (..., targets, cells, dim)
                part.squeeze(-2) if reads else part.movedim(-2, -3)
                for part in ode.flow_and_velocity(coordinates, spans)
            )
            learned_velocity = velocity
            if frame is not None:
                learned_velocity = frame.root_at(target_times).apply(velocity)
                motion = frame.motion(states, target_times, forward=delta_t >= 0)
                velocity = motion + learned_velocity
                states = frame.from_frame(states, target_times)
        log_growth = None
        if growth_rate is not None:
            if not reads:  # the rate changes on the way: trapezoidal rule
                growth_at_end = self._own_growth(states)
                assert growth_at_end is not None
                growth_rate = (growth_rate[..., None, :] + growth_at_end) / 2
            log_growth = growth_rate * delta_t[..., None]
        return CellMNNOutput(
            states=states,
            velocity=velocity,
            learned_velocity=learned_velocity,
            determinant=ode.determinant() if isinstance(ode, LinearODE) else None,
            log_growth=log_growth,
        )


def _stacked(
    frames: Sequence[FrameState], snapshots: Sequence[Sequence[Tensor]], most: int
) -> tuple[FrameState, Tensor, Tensor]:
    """A batch of frames, with `most` cells of each snapshot and which of them are no padding."""
    longest = max(len(its_snapshots) for its_snapshots in snapshots)
    shape = (len(snapshots), longest, most)
    context = snapshots[0][0].new_zeros(*shape, snapshots[0][0].shape[-1])
    shown = torch.zeros(shape, dtype=torch.bool, device=context.device)
    for number, its_snapshots in enumerate(snapshots):
        for time, cells in enumerate(its_snapshots):
            context[number, time, : len(cells)] = cells[:most]
            shown[number, time, : len(cells)] = True
    return stack_frames([frame.continued(longest) for frame in frames]), context, shown


AutoConfig.register(CellMNNConfig.model_type, CellMNNConfig)
AutoModel.register(CellMNNConfig, CellMNNModel)
