"""What a model keeps of the data sets that it knows: their frames, and some of their cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .gaussian_frame import FrameState
from .pretrained_cellmnn import CellMNNPreTrainedModel
from .seeding import seeded

_FRAME_BUFFERS = ("times", "mean", "root_scale", "root_vectors", "root_excess")


class DatasetTable(CellMNNPreTrainedModel):
    """The rows of a model, one for each data set; all of them are saved with the weights."""

    dataset_dims: Tensor
    frame_counts: Tensor
    context: Tensor
    context_counts: Tensor
    dataset_embeddings: nn.Parameter

    def frame_state(self, dataset_id: int = 0) -> FrameState:
        """The stored frame of a data set."""
        times = slice(int(self.frame_counts[dataset_id]))
        return FrameState(
            **{name: getattr(self, f"frame_{name}")[dataset_id, times] for name in _FRAME_BUFFERS}
        )

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
        contexts: list[list[Tensor]] = []
        if config.context_cells:
            rows = range(min(config.num_datasets, new_num_datasets))
            contexts = [self.context_of(row)[:new_num_frame_times] for row in rows]
        config = config.replaced(
            num_datasets=new_num_datasets,
            num_frame_times=new_num_frame_times or config.num_frame_times,
            dataset_dims=dims[:new_num_datasets],
        )
        with seeded():
            resized = type(self)(config.replaced(num_context_cells=0))
        for name, old in [*self.named_buffers(), *self.named_parameters()]:
            if not name.startswith(("frame_", "dataset_", "context_")):
                continue
            new = resized.get_parameter_or_buffer(name).detach().to(old)
            if name == "dataset_embeddings":
                new[:] = old.mean(0) if len(old) else 0.0
            common = tuple(slice(min(sizes)) for sizes in zip(old.shape, new.shape, strict=True))
            new[common] = old[common]
            if name in self._buffers:
                self.register_buffer(name, new)
            else:
                self.dataset_embeddings = nn.Parameter(new)
        self.config = config
        if config.context_cells:
            self.set_context(contexts)

    @torch.no_grad()
    def set_context(self, snapshots: Sequence[Sequence[Tensor]]) -> None:
        """Keep cells of the observed snapshots of all data sets; they are saved with the weights.

        Parameters
        ----------
        snapshots : for each data set, for each time of its frame, (cells, dims)
            At most `config.context_cells` of each are kept, the first ones.
        """
        config, kept = self.config, []
        for dataset_id, its_snapshots in enumerate(snapshots):
            for time, cells in enumerate(its_snapshots):
                cells = cells[: config.context_cells].to(self.context)
                kept.append(pad(cells, (0, config.latent_dim - cells.shape[-1])))
                self.context_counts[dataset_id, time] = len(cells)
        self.context = torch.cat(kept) if kept else self.context[:0]
        self.config = config.replaced(num_context_cells=len(self.context))

    def context_of(self, dataset_id: int = 0) -> list[Tensor]:
        """The cells that are kept of a data set, (cells, latent_dim) for each time."""
        counts = self.context_counts.sum(-1).tolist()
        cells = self.context.split(counts)[dataset_id]
        times = int(self.frame_counts[dataset_id])
        return list(cells.split(self.context_counts[dataset_id, :times].tolist()))
