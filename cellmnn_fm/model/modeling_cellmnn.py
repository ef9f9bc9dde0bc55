"""The model: from a state, a time and a data set to a linear ODE, solved in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import ModelOutput

from .configuration_cellmnn import CellMNNConfig
from .gaussian_frame import FrameState, root_rank
from .layers import CellMNNHypernetwork, MeanHead, SnapshotEncoder
from .linear_flow import DenseMatrix, LinearODE, LowRankMatrix, bounded_eigvals
from .pretrained_cellmnn import CellMNNPreTrainedModel
from .seeding import seeded

_FRAME_BUFFERS = ("times", "mean", "root_scale", "root_vectors", "root_excess")


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
    determinant : (..., cells)
        det P of the eigenvectors.
    log_growth : (..., targets, cells), optional
        Log of how much each cell's descendants have multiplied by then.
    """

    states: Tensor | None = None
    velocity: Tensor | None = None
    learned_velocity: Tensor | None = None
    determinant: Tensor | None = None
    log_growth: Tensor | None = None


class CellMNNModel(CellMNNPreTrainedModel):
    """A state-conditioned, locally linear ODE for the dynamics of single cells.

    At every *operating point* (z, t), for every data set, the hypernetwork predicts

        dz/dt = A z + b,    z(t + Δt) = exp(A Δt) z + Δt φ1(A Δt) b

    with A = P diag(λ) P⁻¹ (Cell-MNN, ICLR 2026). With `config.frame` the ODE acts on
    y = L(t)⁻¹ (z - m(t)), the coordinates of the data set's Gaussian frame.

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
        self.hypernetwork = CellMNNHypernetwork(config)
        if config.dataset_embed_dim:
            self.dataset_embeddings = nn.Embedding(config.num_datasets, config.dataset_embed_dim)
        if config.encoder_hidden_size:
            self.snapshot_encoder = SnapshotEncoder(
                config.latent_dim, config.encoder_hidden_size, config.dataset_embed_dim
            )
        if config.mean_head:
            self.mean_head = MeanHead()
        dims = config.dataset_dims or [config.latent_dim] * config.num_datasets
        self.dataset_dims: Tensor
        self.register_buffer("dataset_dims", torch.tensor(dims))
        if config.num_frame_times:
            shape = (config.num_datasets, config.num_frame_times)
            dim, rank = config.latent_dim, root_rank(config.latent_dim)
            # an identity frame at times 0, 1, ..., until one is set
            self.frame_counts: Tensor
            self.register_buffer("frame_counts", torch.full(shape[:1], shape[1]))
            self.register_buffer("frame_times", torch.arange(shape[1]).float().repeat(shape[0], 1))
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
        self.post_init()

    def frame_state(self, dataset_id: int = 0) -> FrameState:
        """The stored frame of a data set."""
        times = slice(int(self.frame_counts[dataset_id]))
        parts = {name: getattr(self, f"frame_{name}")[dataset_id, times] for name in _FRAME_BUFFERS}
        return FrameState(**parts, mean_bend=torch.zeros_like(parts["mean"][1:]))

    @torch.no_grad()
    def set_frame_state(self, frame: FrameState, dataset_id: int = 0) -> None:
        """Store the frame of a data set; it is saved with the weights.

        Raises
        ------
        ValueError
            If it has more observed times than `config.num_frame_times`.
        """
        count, most = len(frame.times), self.config.num_frame_times
        if count > most:
            raise ValueError(
                f"frame: expected at most num_frame_times={most} observed times, found {count}; "
                "raise it in the configuration"
            )
        self.frame_counts[dataset_id] = count
        for name in _FRAME_BUFFERS:
            getattr(self, f"frame_{name}")[dataset_id, :count].copy_(getattr(frame, name))

    @torch.no_grad()
    def resize_dataset_embeddings(
        self, new_num_datasets: int, new_num_frame_times: int | None = None
    ) -> None:
        """Grow or shrink the table of data sets, as `resize_token_embeddings` does for tokens.

        Rows that stay are left as they are, frames included. New ones have the mean embedding of
        those before, no padding, and a frame that does nothing until one is set.

        Parameters
        ----------
        new_num_datasets : int
            Rows that the table has then.
        new_num_frame_times : int, optional
            Observed times that a stored frame may have; as before by default.
        """
        config = self.config
        dims = config.dataset_dims or [config.latent_dim] * config.num_datasets
        dims = dims + [config.latent_dim] * (new_num_datasets - len(dims))
        config = config.replaced(
            num_datasets=new_num_datasets,
            num_frame_times=new_num_frame_times or config.num_frame_times,
            dataset_dims=dims[:new_num_datasets],
        )
        with seeded():
            resized = CellMNNModel(config)
        for name, old in [*self.named_buffers(), *self.named_parameters()]:
            if not name.startswith(("frame_", "dataset_")):
                continue
            new = resized.get_parameter_or_buffer(name).detach().to(old)
            if name == "dataset_embeddings.weight":
                new[:] = old.mean(0)
            common = tuple(slice(min(sizes)) for sizes in zip(old.shape, new.shape, strict=True))
            new[common] = old[common]
            if name in self._buffers:
                self.register_buffer(name, new)
            else:
                self.dataset_embeddings = nn.Embedding.from_pretrained(new, freeze=False)
        self.config = config

    @torch.no_grad()
    def set_subspace(self, **arrays: Any) -> None:
        """Store the map between genes and latent states; it is saved with the weights."""
        for name, values in arrays.items():
            self.get_buffer(name).copy_(torch.as_tensor(values))

    def bent(self, frame: FrameState) -> FrameState:
        """The frame of one data set, its mean on the path that the model expects."""
        return replace(frame, mean_bend=self.mean_head(frame)) if self.config.mean_head else frame

    def encode(self, snapshots: Sequence[Sequence[Tensor]], times: Sequence[Tensor]) -> Tensor:
        """Embeddings (data sets, dataset_embed_dim) of data sets from their observed snapshots.

        Parameters
        ----------
        snapshots : for each data set, a sequence of (cells, latent_dim)
            Z-scored states.
        times : for each data set, (snapshots,)
            In model time.
        """
        most = max(len(snapshot) for its_snapshots in snapshots for snapshot in its_snapshots)
        longest = max(len(its_snapshots) for its_snapshots in snapshots)
        shape = (len(snapshots), longest, most)
        z = self.dataset_dims.new_zeros((*shape, self.config.latent_dim), dtype=self.dtype)
        weights, padded_times = z.new_zeros(shape), z.new_zeros(shape[:2])
        for number, (its_snapshots, its_times) in enumerate(zip(snapshots, times, strict=True)):
            padded_times[number, : len(its_snapshots)] = its_times
            for time, snapshot in enumerate(its_snapshots):
                z[number, time, : len(snapshot)] = snapshot
                weights[number, time, : len(snapshot)] = 1
        return self.snapshot_encoder(z, padded_times, weights)

    def _require_fitting(self, z: Tensor, times: Tensor, frame: FrameState | None) -> None:
        """Refuse inputs whose shapes do not go together."""
        config = self.config
        if z.shape[-1] != config.latent_dim or z.shape[:-2] != times.shape:
            raise ValueError(
                f"z: expected (..., cells, {config.latent_dim}) with one of the times "
                f"{tuple(times.shape)} for each snapshot, found {tuple(z.shape)}; "
                "give snapshots of cells, as in z[None] for a single one"
            )
        if config.frame and frame is None and config.num_datasets > 1:
            raise ValueError(
                f"frame: expected that of one of {config.num_datasets} data sets, found none; "
                "pass frame=model.frame_state(dataset_id)"
            )

    def linear_ode(
        self,
        coordinates: Tensor,
        times: Tensor,
        dataset_ids: Tensor | None = None,
        dataset_embeds: Tensor | None = None,
    ) -> tuple[LinearODE, Tensor | None]:
        """The linear ODE at every operating point.

        Parameters
        ----------
        coordinates : (..., cells, latent_dim)
            States; frame coordinates where the model has a frame.
        times : (...)
            Of the snapshots, in model time.
        dataset_ids : (...), optional
            Rows in the table of data sets; the first by default.
        dataset_embeds : (..., dataset_embed_dim), optional
            Embeddings in place of those of the table.

        Returns
        -------
        ode : LinearODE
            Batch shape (..., cells).
        growth_rate : (..., cells), optional
            With `config.growth`.
        """
        config = self.config
        cells = coordinates.shape[-2]
        if dataset_ids is None:
            dataset_ids = torch.zeros_like(times, dtype=torch.long)
        inputs = [coordinates, times[..., None, None].expand(*times.shape, cells, 1)]
        if config.dataset_embed_dim:
            if dataset_embeds is None:
                dataset_embeds = self.dataset_embeddings(dataset_ids)
            inputs.append(dataset_embeds[..., None, :].expand(*times.shape, cells, -1))
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
        ode = LinearODE(
            eigvecs,
            bounded_eigvals(raw["eigvals"], config.max_rate, config.num_static_eigvals) * real,
            raw["offset"] * real if config.offset else None,
            config.num_complex_pairs,
        )
        if not config.growth:
            return ode, None
        bound = config.max_growth_rate
        return ode, bound * torch.tanh(raw["growth"].squeeze(-1) / bound)

    def forward(
        self,
        z: Tensor,
        times: Tensor,
        target_times: Tensor,
        dataset_ids: Tensor | None = None,
        dataset_embeds: Tensor | None = None,
        frame: FrameState | None = None,
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
        dataset_embeds : (..., dataset_embed_dim), optional
            Embeddings in place of those of the table.
        frame : FrameState, optional
            Of the data set that the call is about, see [`~CellMNNModel.bent`], or a batch of
            frames, one for each leading entry of `z`. The stored one by default; a table of several
            data sets has no default.

        Raises
        ------
        ValueError
            On shapes that do not fit each other, and on a frame that is needed and not given.
        """
        self._require_fitting(z, times, frame)
        target_times = target_times.expand(*times.shape, target_times.shape[-1])
        frame = (frame or self.bent(self.frame_state())) if self.config.frame else None
        in_full = torch.autocast(z.device.type, enabled=False)
        with in_full:
            coordinates = z if frame is None else frame.to_frame(z, times)
        ode, growth_rate = self.linear_ode(coordinates, times, dataset_ids, dataset_embeds)
        with in_full:
            delta_t = target_times - times[..., None]
            states, velocity = (
                part.movedim(-2, -3)  # (..., cells, targets, dim) → (..., targets, cells, dim)
                for part in ode.flow_and_velocity(coordinates, delta_t[..., None, :])
            )
            learned_velocity = velocity
            if frame is not None:
                learned_velocity = frame.root_at(target_times).apply(velocity)
                motion = frame.motion(states, target_times, forward=delta_t >= 0)
                velocity = motion + learned_velocity
                states = frame.from_frame(states, target_times)
            determinant = ode.determinant()
        return CellMNNOutput(
            states=states,
            velocity=velocity,
            learned_velocity=learned_velocity,
            determinant=determinant,
            log_growth=None
            if growth_rate is None
            else growth_rate[..., None, :] * delta_t[..., None],
        )


AutoConfig.register(CellMNNConfig.model_type, CellMNNConfig)
AutoModel.register(CellMNNConfig, CellMNNModel)
