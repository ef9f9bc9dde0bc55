"""From a model of many data sets to one of a data set that it never saw, or knows by name."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import InputError
from .gaussian_frame import fit_frame
from .modeling_cellmnn import CellMNNModel
from .time_course import TimeCourse

Start = Literal["encoder", "mean"]


@torch.no_grad()
def adapt(base: CellMNNModel, course: TimeCourse, start: Start | int = "encoder") -> CellMNNModel:
    """A model of one time course with the knowledge of a base, without any training.

    Its frame is that of the time course, its embedding is inferred.

    Parameters
    ----------
    base : CellMNNModel
    course : TimeCourse
        Observed snapshots, with at most the dimensions of the base.
    start : {"encoder", "mean"} or int
        The embedding: what the encoder makes of the snapshots, the mean of the table, or a row of
        it.

    Returns
    -------
    CellMNNModel
        In evaluation mode; the base is as it was.

    Raises
    ------
    InputError
        If the base has no frame or encoder, or fewer dimensions.
    """
    config = base.config
    if course.latent_dim > config.latent_dim:
        raise InputError(
            "time course",
            f"at most the {config.latent_dim} dimensions of the model",
            course.latent_dim,
            "project it to fewer",
        )
    padding = config.latent_dim - course.latent_dim
    times = torch.as_tensor(course.model_times, dtype=torch.float32, device=base.device)
    snapshots = [torch.as_tensor(snapshot, device=base.device) for snapshot in course.snapshots]
    adapted = CellMNNModel(
        config.replaced(
            num_datasets=1,
            dataset_dims=[course.latent_dim],
            num_frame_times=len(times) if config.frame else 0,
            num_genes=0 if course.subspace is None else len(course.subspace.gene_mean),
        )
    )
    if course.subspace is not None:
        adapted.set_subspace(**vars(course.subspace.padded(config.latent_dim)))
    adapted.to(base.device)  # type: ignore[arg-type]
    network = {
        name: value
        for name, value in base.named_parameters()
        if not name.startswith("dataset_embeddings")  # those are of the base's data sets
    }
    adapted.load_state_dict(network, strict=False)
    if config.dataset_embed_dim:
        embedding = _embedding(base, [pad(one, (0, padding)) for one in snapshots], times, start)
        adapted.dataset_embeddings.weight.copy_(embedding[None])
    if config.frame:
        adapted.set_frame_state(fit_frame(snapshots, times, latent_dim=config.latent_dim))
    return adapted.eval()


def _embedding(
    base: CellMNNModel, snapshots: list[Tensor], times: Tensor, start: Start | int
) -> Tensor:
    if start == "mean":
        return base.dataset_embeddings.weight.mean(0)
    if isinstance(start, (int, np.integer)):
        return base.dataset_embeddings.weight[start]
    if not base.config.encoder_hidden_size:
        raise InputError("start", "mean or a row: the model has no encoder", start, "change it")
    seen = torch.cat(snapshots)  # z-scored, as the tasks of the training are
    spread, centre = torch.std_mean(seen, dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    return base.encode([[(one - centre) / spread for one in snapshots]], [times])[0]
