"""From a model of many data sets to one of others, and to one of a single data set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.options import Start
from ..data.paired_frames import fit_paired_frames
from ..data.subspace import Subspace
from ..data.time_course import TimeCourse, TimeScale
from ..model.errors import InputError
from ..model.gaussian_frame import FrameState, fit_frame
from ..model.modeling_cellmnn import CellMNNModel
from ..model.seeding import seeded


@torch.no_grad()
def adapt(base: CellMNNModel, course: TimeCourse, start: Start | int = "inferred") -> CellMNNModel:
    """A model of one time course with the knowledge of a base, without any training.

    It reads cells of the time course, and has its frame.

    Parameters
    ----------
    base : CellMNNModel
        Of many data sets.
    course : TimeCourse
        Observed snapshots.
    start : {"inferred", "mean"} or int
        What is known beside the snapshots: nothing, the mean of the table, or a row of it.

    Returns
    -------
    CellMNNModel
        In evaluation mode; the base is as it was.

    Raises
    ------
    InputError
        If the base is a model of a single data set.
    """
    return adapt_jointly(base, [course], start, course.subspace)


@torch.no_grad()
def adapt_jointly(
    base: CellMNNModel,
    courses: Sequence[TimeCourse],
    start: Start | int = "inferred",
    subspace: Subspace | None = None,
) -> CellMNNModel:
    """As :func:`adapt`, for several time courses: one row of the table for each."""
    if not base.config.context_cells:
        raise InputError("base", "a model of many data sets", "one of a single one", "take a base")
    require_control(base, given=False)
    embedding, known = _embedding(base, start), []
    latent_dim = max(base.config.latent_dim, *(course.latent_dim for course in courses))
    for course in courses:
        times = torch.as_tensor(course.model_times, dtype=torch.float32, device=base.device)
        snapshots = [torch.as_tensor(snapshot, device=base.device) for snapshot in course.snapshots]
        frame = fit_frame(snapshots, times, latent_dim=latent_dim)
        known.append(_Known(course.latent_dim, embedding, frame, shuffled(snapshots)))
    return _with_network_of(base, known, subspace)


def require_control(base: CellMNNModel, *, given: bool) -> None:
    """Refuse a control that a base does not read, and none where it reads one.

    Raises
    ------
    InputError
        Either way.
    """
    if base.config.reads_control and not given:
        raise InputError(
            "condition",
            "one, of a base that reads a control",
            "none",
            "name the column of conditions and one of them, or take cellmnn-base",
        )
    if given and not base.config.reads_control:
        raise InputError(
            "base", "one that reads a control", "one that reads none", "take cellmnn-conditions"
        )


@torch.no_grad()
def adapt_beside(base: CellMNNModel, course: TimeCourse, control: TimeCourse) -> CellMNNModel:
    """As :func:`adapt`, for a condition that was seen at fewer times than its control.

    Parameters
    ----------
    base : CellMNNModel
        With `config.reads_control`.
    course : TimeCourse
        Snapshots under the condition; one will do.
    control : TimeCourse
        In the same latent space, and in the same unit of time.

    Returns
    -------
    CellMNNModel
        Whose second row is the control. Its model time is that of all observed times together.

    Raises
    ------
    InputError
        If the base does not read a control.
    """
    require_control(base, given=True)
    courses = [course, control]
    everything = np.union1d(course.times, control.times)
    scale = TimeScale.of(everything)
    latent_dim = max(base.config.latent_dim, course.latent_dim)
    snapshots = [
        [torch.as_tensor(cells, device=base.device) for cells in of.snapshots] for of in courses
    ]
    times = [
        torch.as_tensor(scale.to_model(of.times), dtype=torch.float32, device=base.device)
        for of in courses
    ]
    frames = fit_paired_frames(snapshots[0], times[0], snapshots[1], times[1], latent_dim)
    embedding, known = _embedding(base, "inferred"), []
    for of, its_snapshots, frame in zip(courses, snapshots, frames, strict=True):
        observed = dict(zip(of.times, shuffled(its_snapshots), strict=True))
        context = [observed.get(time, its_snapshots[0][:0]) for time in everything]
        known.append(_Known(course.latent_dim, embedding, frame, context))
    return _with_network_of(base, known, course.subspace)


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
    embedding, context = None, []
    if model.config.context_cells:
        embedding, context = model.dataset_embeddings[row], model.context_of(row)
    known = _Known(int(model.dataset_dims[row]), embedding, frame, context)
    return _with_network_of(model, [known], subspace)


class _Known(NamedTuple):
    """What a model keeps of a data set."""

    dims: int
    embedding: Tensor | None  # (num_summary_tokens, hidden_size)
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
        grown.dataset_embeddings[first + row] = tuned.dataset_embeddings[row]
        grown.set_frame_state(tuned.frame_state(row), first + row)
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
            model.dataset_embeddings[row] = entry.embedding
        if entry.frame is not None:
            model.set_frame_state(entry.frame, row)
    if config.context_cells:
        model.set_context([entry.context for entry in known])
    return model.eval()


def _embedding(base: CellMNNModel, start: Start | int) -> Tensor:
    """What to start from beside the cells, (num_summary_tokens, hidden_size)."""
    table = base.dataset_embeddings
    if isinstance(start, (int, np.integer)):
        return table[start]
    return table.mean(0) if start == "mean" and len(table) else table.new_zeros(table.shape[1:])
