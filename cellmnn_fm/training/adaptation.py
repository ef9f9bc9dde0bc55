"""From a model of many data sets to one of others, and to one of a single data set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

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

    It has the frame of the time course, whose embedding is inferred, or whose cells are read.

    Parameters
    ----------
    base : CellMNNModel
        Of many data sets.
    course : TimeCourse
        Observed snapshots.
    start : {"encoder", "mean"} or int
        The embedding: what the network makes of the snapshots, the mean of the table, or a row of
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
    known, latent_dim = [], base.config.latent_dim
    if base.config.context_cells:  # a network that reads snapshots reads them in any dimensions
        latent_dim = max([latent_dim, *(course.latent_dim for course in courses)])
    for course in courses:
        if course.latent_dim > latent_dim:
            raise InputError(
                "time course",
                f"at most the {latent_dim} dimensions of the model",
                course.latent_dim,
                "project it to fewer",
            )
        times = torch.as_tensor(course.model_times, dtype=torch.float32, device=base.device)
        snapshots = [torch.as_tensor(snapshot, device=base.device) for snapshot in course.snapshots]
        frame = fit_frame(snapshots, times, latent_dim=latent_dim)
        embedding = _embedding(base, snapshots, times, start)
        context = shuffled(snapshots) if base.config.context_cells else []
        known.append(_Known(course.latent_dim, embedding, frame, context))
    return _with_network_of(base, known, subspace)


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
    frame = model.frame_state(row) if model.config.num_frame_times else None
    table = _table(model)
    embedding = None if table is None else table[row]
    context = model.context_of(row) if model.config.context_cells else []
    known = _Known(int(model.dataset_dims[row]), embedding, frame, context)
    return _with_network_of(model, [known], subspace)


class _Known(NamedTuple):
    """What a model keeps of a data set."""

    dims: int
    embedding: Tensor | None  # (dataset_embed_dim,) or (num_summary_tokens, hidden_size)
    frame: FrameState | None
    context: Sequence[Tensor]  # (cells, latent_dim) for each time


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
        if (table := _table(tuned)) is not None:
            _table(grown)[first + row] = table[row]
        if base.config.num_frame_times:
            grown.set_frame_state(tuned.frame_state(row), first + row)
    if base.config.context_cells:
        grown.set_context(
            [base.context_of(row) for row in range(first)]
            + [tuned.context_of(row) for row in range(added)]
        )
    return grown.eval()


def shuffled(snapshots: Sequence[Tensor]) -> list[Tensor]:
    """Cells of each snapshot in an order that only depends on their number.

    Files are in some order, of which the first cells may be of one kind.

    Parameters
    ----------
    snapshots : sequence of (cells, d)
        Of one data set.
    """
    return [snapshot[np.random.default_rng(0).permutation(len(snapshot))] for snapshot in snapshots]


def load_network(model: CellMNNModel, start: CellMNNModel) -> None:
    """Give a model the network of another one.

    Raises
    ------
    InputError
        If that one is of another size.
    """
    try:
        model.load_state_dict(_network(start), strict=False)
    except RuntimeError as error:
        raise InputError("network to start from", "the same sizes", error, "change one") from error


def network_digest(model: CellMNNModel) -> str:
    """Of all weights that are not of particular data sets."""
    digest = sha256()
    for value in _network(model).values():
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _network(model: CellMNNModel) -> dict[str, Tensor]:
    """All that is not of particular data sets."""
    return {
        name: value
        for name, value in model.named_parameters()
        if not name.startswith("dataset_embeddings")
    }


def _with_network_of(
    base: CellMNNModel, known: Sequence[_Known], subspace: Subspace | None
) -> CellMNNModel:
    """A model of other data sets."""
    dims = [entry.dims for entry in known]
    times = max(0 if entry.frame is None else len(entry.frame.times) for entry in known)
    config = base.config.replaced(
        latent_dim=max(base.config.latent_dim, *dims),
        num_datasets=len(dims),
        dataset_dims=dims,
        num_frame_times=times,
        num_context_cells=0,
        num_genes=0 if subspace is None else len(subspace.gene_mean),
    )
    with seeded():  # the weights are replaced at once
        model = CellMNNModel(config)
    if subspace is not None:
        model.set_subspace(**vars(subspace.padded(config.latent_dim)))
    model.to(base.device)  # type: ignore[arg-type]
    model.load_state_dict(_network(base), strict=False)
    for row, entry in enumerate(known):
        if entry.embedding is not None:
            _table(model)[row] = entry.embedding
        if entry.frame is not None:
            model.set_frame_state(entry.frame, row)
    if config.context_cells:
        model.set_context([entry.context for entry in known])
    return model.eval()


def _table(model: CellMNNModel) -> Any:
    """Embeddings (data sets, ...) of the data sets of a model; None if it has none."""
    if model.config.context_cells:
        return model.dataset_embeddings
    return model.dataset_embeddings.weight if model.config.dataset_embed_dim else None


def _embedding(
    base: CellMNNModel, snapshots: list[Tensor], times: Tensor, start: Start | int
) -> Tensor | None:
    """The embedding to start from; of a network that reads cells what is known beside them."""
    table = _table(base)
    if table is None or isinstance(start, (int, np.integer)):
        return None if table is None else table[start]
    if start == "mean" and len(table):
        return table.mean(0)
    if base.config.context_cells:
        return torch.zeros(table.shape[1:]).to(table)
    if not base.config.encoder_hidden_size:
        raise InputError("start", "mean or a row: the model has no encoder", start, "change it")
    seen = torch.cat(snapshots)  # z-scored, as the tasks of the training are
    spread, centre = torch.std_mean(seen, dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    padding = base.config.latent_dim - seen.shape[-1]
    scaled = [pad((snapshot - centre) / spread, (0, padding)) for snapshot in snapshots]
    return base.encode([scaled], [times])[0]
