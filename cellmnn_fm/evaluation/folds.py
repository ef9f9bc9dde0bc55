"""What a fit may see when one time is left out, and what its prediction is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..data.batches import BatchEffects
from ..data.growth_genes import read_growth
from ..data.latent_space import LatentSpace, SpaceOptions
from ..data.options import FitReading, Protocol
from ..data.reading import Source, read_batches, read_source
from ..data.shared_subspace import SharedSubspace, read_member
from ..data.subspace import Subspace
from ..data.time_course import TimeCourse
from ..dynamics.snapshots import Dynamics
from .metrics import wasserstein1

if TYPE_CHECKING:
    from anndata import AnnData

MIN_HELD_OUT_CELLS = 15
DEFAULT_SCORED_DIMS = 5  # of the z-scored components in which W1 is taken
MAX_CELLS = 1000


@dataclass(frozen=True)
class Fold:
    """What a fit may see of a time course, and what its prediction is compared with.

    Attributes
    ----------
    training : TimeCourse
        All cells of all times but the held-out one.
    around : TimeCourse
        The snapshots before and after it, at most 1,000 cells each.
    time : float
        The held-out time.
    truth : (cells, dims)
        The held-out snapshot, at most 1,000 cells.
    scored_in : callable
        From latent states to the z-scored components in which W1 is taken.
    """

    training: TimeCourse
    around: TimeCourse
    time: float
    truth: NDArray
    scored_in: Callable[[NDArray], NDArray]

    def w1(self, states: NDArray, weights: NDArray | None = None) -> float:
        """W1 from predicted latent states, with their weights, to the held-out snapshot.

        `states` (cells, latent_dim) and `weights` (cells,).
        """
        return wasserstein1(self.scored_in(states), self.scored_in(self.truth), weights)

    @property
    def share(self) -> np.float64:  # of double precision: lines between float32 states are too
        """How far the held-out time is on the way from the snapshot before to the one after."""
        before, after = self.around.times
        return (self.time - before) / (after - before)

    def scored_around(self) -> list[NDArray]:
        """The snapshots before and after, in the components in which W1 is taken."""
        return [self.scored_in(snapshot) for snapshot in self.around.snapshots]


FitFold = Callable[[Fold, int], tuple[Dynamics, int]]
"""Dynamics, and steps that were taken, of (fold, seed)."""


def held_out_times(cell_times: NDArray) -> list[float]:
    """Times between two others with enough cells to compare a prediction with.

    Of `cell_times` (cells,).
    """
    times, counts = np.unique(cell_times, return_counts=True)
    inner = zip(times[1:-1], counts[1:-1], strict=True)
    return [float(time) for time, cells in inner if cells >= MIN_HELD_OUT_CELLS]


def read_folds(
    adata: AnnData, cell_times: NDArray, reading: FitReading, options: SpaceOptions
) -> Callable[..., Callable[[int], Fold]]:
    """What a fit may see of a file, read once, as a function of the time that is left out.

    Parameters
    ----------
    adata : AnnData
        The time course.
    cell_times : (cells,)
        When each cell was taken.
    reading : FitReading
        How the fit reads the file.
    options : SpaceOptions
        The latent space of the fit. Under "strict" a shared subspace is refitted without the cells
        of the left-out time.

    Returns
    -------
    callable
        :func:`held_out_fold` of the left-out time, `latent_dim`, `n_dims` and `protocol`.

    Raises
    ------
    InputError
        On values, growth or batches that cannot be used.
    """
    source = read_source(adata, reading.use_rep, reading.layer)
    growth = read_growth(adata, reading.growth, reading.layer, options.genes.symbols)
    batches = read_batches(adata, reading.batch_key)
    name = str(adata.uns.get("name", ""))

    def fold_of(
        at: float, *, latent_dim: int | None, n_dims: int, protocol: Protocol = "strict"
    ) -> Callable[[int], Fold]:
        seen = options
        if protocol == "strict":
            seen = seen_only(source, name, cell_times != at, options)
        return held_out_fold(
            source,
            cell_times,
            at,
            seen,
            latent_dim=latent_dim,
            n_dims=n_dims,
            protocol=protocol,
            growth=growth,
            batches=batches,
        )

    return fold_of


def held_out_fold(
    source: Source,
    cell_times: NDArray,
    at: float,
    options: SpaceOptions,
    *,
    latent_dim: int | None,
    n_dims: int,
    protocol: Protocol = "strict",
    growth: NDArray | None = None,
    batches: NDArray | None = None,
) -> Callable[[int], Fold]:
    """What a fit may see when one time is left out, as a function of the seed.

    Parameters
    ----------
    source : Source
        Values of the cells.
    cell_times : (cells,)
        When each cell was taken.
    at : float
        The time that is left out.
    options : SpaceOptions
        The latent space to fit.
    latent_dim : int, optional
        Of the fit, as for :meth:`LatentSpace.fit`.
    n_dims : int
        W1 is taken in so many leading components.
    protocol : {"strict", "published"}
        Whether the held-out cells may be seen by it.
    growth : (cells,), optional
        What is known of it, see :class:`TimeCourse`.
    batches : (cells,), optional
        See :class:`cellmnn_fm.data.batches.BatchEffects`; one that is of no other time stays as
        it is.
    """
    seen = cell_times != at if protocol == "strict" else np.full(len(cell_times), True)
    space = LatentSpace.fit(source, cell_times, options, n_dims=latent_dim, rows=seen)
    states, _ = space.project(source, options.genes)
    if batches is not None:
        effects = BatchEffects.fit(states[seen], cell_times[seen], batches[seen])
        known = np.isin(batches, effects.names)
        states[known] = effects.removed(states[known], batches[known], cell_times[known])
    scored_in = _components(space, states[seen], n_dims)
    return lambda seed: _make_fold(states, cell_times, at, seed, scored_in, growth)


def _components(space: LatentSpace, states: NDArray, n_dims: int) -> Callable[[NDArray], NDArray]:
    """From latent states to z-scored principal components of the expression they stand for."""
    if space.mode == "own":
        return lambda z: z[:, :n_dims]
    if space.mode == "aligned":
        return lambda z: space.subspace.own_scores(z)[:, :n_dims]
    # distances of expression are those of Rz where D = QR
    _, triangle = np.linalg.qr(space.subspace.loadings.astype(np.float64))
    components = Subspace.pca(states @ triangle.T, n_dims)
    return lambda z: components.project(z @ triangle.T)


def _make_fold(
    states: NDArray,
    cell_times: NDArray,
    at: float,
    seed: int,
    scored_in: Callable[[NDArray], NDArray],
    growth: NDArray | None,
) -> Fold:
    """Of states (cells, latent_dim); at most 1,000 cells are predicted from and compared with."""
    rng = np.random.default_rng(seed)

    def sample(time: float) -> NDArray:
        cells = states[cell_times == time]
        return cells if len(cells) <= MAX_CELLS else rng.choice(cells, MAX_CELLS, replace=False)

    kept = cell_times != at
    known = None if growth is None else growth[kept]
    training = TimeCourse.from_cells(states[kept], cell_times[kept], growth=known)
    after = int(np.searchsorted(training.times, at))
    neighbours = training.times[[after - 1, after]]
    around = TimeCourse([sample(time) for time in neighbours], neighbours)
    return Fold(training, around, float(at), sample(at), scored_in)


def seen_only(
    source: Source, name: str, rows: NDArray[np.bool_], options: SpaceOptions
) -> SpaceOptions:
    """The options with the shared subspace that would be, had it never seen some of the cells.

    Parameters
    ----------
    source : Source
        A data set.
    name : str
        Its name. If it is a member of the shared subspace, its moments are replaced by those of
        the cells that may be seen; members that share cells with it are left out.
    rows : (cells,) mask
        The cells that may be seen.
    options : SpaceOptions
        With the shared subspace of all data sets, if any.
    """
    if options.shared is None:
        return options
    members = dict(options.shared.members)
    own_member = members.pop(name, None)
    for other, member in options.shared.members.items():
        if name in member.overlaps or (own_member is not None and other in own_member.overlaps):
            members.pop(other, None)
    if own_member is not None:
        members[name] = read_member(source, options.genes, overlaps=own_member.overlaps, rows=rows)
    elif len(members) == len(options.shared.members):
        return options
    return replace(options, shared=SharedSubspace.fit(members, options.shared.latent_dim))
