"""From a model of many data sets to one of others, and to one of a single data set."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..data.options import Start
from ..data.subspace import Subspace
from ..data.time_course import TimeCourse
from ..model.errors import InputError
from ..model.gaussian_frame import FrameState, fit_frame
from ..model.modeling_cellmnn import CellMNNModel
from ..model.seeding import seeded


@torch.no_grad()
def adapt(base: CellMNNModel, course: TimeCourse, start: Start | int = "encoder") -> CellMNNModel:
    """A model of one time course with the knowledge of a base, without any training.

    Its frame is that of the time course, its embedding is inferred.

    Parameters
    ----------
    base : CellMNNModel
        Of many data sets.
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
    return adapt_jointly(base, [course], start, course.subspace)


@torch.no_grad()
def adapt_jointly(
    base: CellMNNModel,
    courses: Sequence[TimeCourse],
    start: Start | int = "encoder",
    subspace: Subspace | None = None,
) -> CellMNNModel:
    """As :func:`adapt`, for several time courses: one row of the table for each."""
    embeddings, frames = [], []
    for course in courses:
        if course.latent_dim > base.config.latent_dim:
            raise InputError(
                "time course",
                f"at most the {base.config.latent_dim} dimensions of the model",
                course.latent_dim,
                "project it to fewer",
            )
        times = torch.as_tensor(course.model_times, dtype=torch.float32, device=base.device)
        snapshots = [torch.as_tensor(snapshot, device=base.device) for snapshot in course.snapshots]
        embeddings.append(_embedding(base, snapshots, times, start))
        frames.append(fit_frame(snapshots, times, latent_dim=base.config.latent_dim))
    dims = [course.latent_dim for course in courses]
    return _with_network_of(base, dims, embeddings, frames, subspace)


@torch.no_grad()
def of_dataset(model: CellMNNModel, row: int, subspace: Subspace | None = None) -> CellMNNModel:
    """What a model of many data sets says of one of them, as a model of that one.

    Parameters
    ----------
    model : CellMNNModel
        Of many data sets.
    row : int
        In its table.
    subspace : Subspace, optional
        The map from the genes of the data set to its states, to be stored with the model.
    """
    embedding = model.dataset_embeddings.weight[row] if model.config.dataset_embed_dim else None
    frame = model.frame_state(row) if model.config.num_frame_times else None
    return _with_network_of(model, [int(model.dataset_dims[row])], [embedding], [frame], subspace)


@torch.no_grad()
def extended(base: CellMNNModel, tuned: CellMNNModel) -> CellMNNModel:
    """The base with the data sets of another model in its table, and with that one's network.

    Parameters
    ----------
    base : CellMNNModel
        Its rows stay as they are.
    tuned : CellMNNModel
        Of the same sizes; its rows come after those of the base.
    """
    grown, first = copy.deepcopy(base), base.config.num_datasets
    added = tuned.config.num_datasets
    most = max(base.config.num_frame_times, tuned.config.num_frame_times)
    dims = [*base.dataset_dims.tolist(), *tuned.dataset_dims.tolist()]
    grown.resize_dataset_embeddings(first + added, most)
    grown.config = grown.config.replaced(dataset_dims=dims)
    grown.dataset_dims.copy_(torch.tensor(dims))
    grown.load_state_dict(_network(tuned), strict=False)
    for row in range(added):
        if base.config.dataset_embed_dim:
            embedding = tuned.dataset_embeddings.weight[row]
            grown.dataset_embeddings.weight[first + row] = embedding
        if base.config.num_frame_times:
            grown.set_frame_state(tuned.frame_state(row), first + row)
    return grown.eval()


def _network(model: CellMNNModel) -> dict[str, Tensor]:
    """All that is not of particular data sets."""
    return {
        name: value
        for name, value in model.named_parameters()
        if not name.startswith("dataset_embeddings")
    }


def _with_network_of(
    base: CellMNNModel,
    dims: list[int],
    embeddings: Sequence[Tensor | None],
    frames: Sequence[FrameState | None],
    subspace: Subspace | None,
) -> CellMNNModel:
    """A model of other data sets."""
    config = base.config
    with seeded():  # the weights are replaced at once
        model = CellMNNModel(
            config.replaced(
                num_datasets=len(dims),
                dataset_dims=dims,
                num_frame_times=max(0 if frame is None else len(frame.times) for frame in frames),
                num_genes=0 if subspace is None else len(subspace.gene_mean),
            )
        )
    if subspace is not None:
        model.set_subspace(**vars(subspace.padded(config.latent_dim)))
    model.to(base.device)  # type: ignore[arg-type]
    model.load_state_dict(_network(base), strict=False)
    for row, (embedding, frame) in enumerate(zip(embeddings, frames, strict=True)):
        if embedding is not None:
            model.dataset_embeddings.weight[row] = embedding
        if frame is not None:
            model.set_frame_state(frame, row)
    return model.eval()


def _embedding(
    base: CellMNNModel, snapshots: list[Tensor], times: Tensor, start: Start | int
) -> Tensor | None:
    """The embedding (embed_dim,) to start from."""
    if not base.config.dataset_embed_dim:
        return None
    if start == "mean":
        return base.dataset_embeddings.weight.mean(0)
    if isinstance(start, (int, np.integer)):
        return base.dataset_embeddings.weight[start]
    if not base.config.encoder_hidden_size:
        raise InputError("start", "mean or a row: the model has no encoder", start, "change it")
    seen = torch.cat(snapshots)  # z-scored, as the tasks of the training are
    spread, centre = torch.std_mean(seen, dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    padding = base.config.latent_dim - seen.shape[-1]
    scaled = [pad((snapshot - centre) / spread, (0, padding)) for snapshot in snapshots]
    return base.encode([scaled], [times])[0]
