"""From the genes of a file to latent states: own components, shared ones, or own ones aligned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..model.errors import InputError, require_known
from .batches import BatchEffects
from .genes import Coverage, GeneOptions, GenePanel, human_symbols, merge_duplicates
from .moments import DEFAULT_RANK, GeneMoments, Matrix
from .options import FitReading, SubspaceMode
from .reading import Source
from .shared_subspace import SharedSubspace
from .subspace import Subspace

DEFAULT_LATENT_DIM = 10


@dataclass(frozen=True)
class SpaceOptions:
    """Which latent space a data set gets.

    Parameters
    ----------
    mode : {"own", "shared", "aligned"}
        See :class:`LatentSpace`. For an embedding, which has no genes to align by, "aligned" is
        the own dimensions, each with the sign with which it does not go down with time.
    shared : SharedSubspace, optional
        For the modes "shared" and "aligned".
    genes : GeneOptions
        How genes are read.

    Raises
    ------
    InputError
        On options that contradict each other.
    """

    mode: SubspaceMode = "own"
    shared: SharedSubspace | None = None
    genes: GeneOptions = field(default_factory=GeneOptions)

    def __post_init__(self) -> None:
        require_known("subspace mode", self.mode, get_args(SubspaceMode))
        if (self.mode == "own") != (self.shared is None):
            raise InputError(
                f"subspace mode {self.mode}",
                "no shared subspace" if self.mode == "own" else "a shared subspace",
                "none" if self.shared is None else "one",
                "give one with mode shared or aligned, none with own",
            )


@dataclass(frozen=True)
class LatentSpace:
    """The genes that are read, and the map between them and latent states.

    Three kinds of maps. *own*: z-scored principal components of the data set itself. *shared*: the
    space that data sets have in common, in which the same state has the same coordinates.
    *aligned*: the own components, rotated to agree with the shared space.

    Attributes
    ----------
    panel : GenePanel
        The genes of the subspace, in its order.
    subspace : Subspace
        The map, over these genes.
    coverage : Coverage
        Of the data set by the genes that it is projected from, or aligned by.
    mode : {"own", "shared", "aligned"}
        Which of the three kinds of maps it is.
    batches : BatchEffects, optional
        What is taken off the states of each batch.
    """

    panel: GenePanel
    subspace: Subspace
    coverage: Coverage
    mode: SubspaceMode
    batches: BatchEffects | None = None

    @classmethod
    def fit(
        cls,
        source: Source,
        cell_times: NDArray,
        options: SpaceOptions | None = None,
        *,
        n_dims: int | None = None,
        rows: NDArray[np.bool_] | None = None,
        seed: int = 0,
        moments: GeneMoments | None = None,
    ) -> LatentSpace:
        """Fit the map to a data set.

        Parameters
        ----------
        source : Source
            Values of the cells.
        cell_times : (cells,)
            Time of each cell, for the signs of dimensions that cannot be aligned.
        options : SpaceOptions
            Which latent space; own components by default.
        n_dims : int, optional
            At most so many dimensions; all of an embedding or of the shared subspace, else 10.
        rows : (cells,) mask, optional
            The cells that may be looked at; all by default.
        seed : int
            Of the principal components.
        moments : GeneMoments, optional
            Of these cells, as :func:`own_moments` gathers them, where they are known already.

        Raises
        ------
        InputError
            On options, genes or values that cannot be used.

        Warns
        -----
        UserWarning
            If the shared subspace knows less than half of the genes.
        """
        options = options or SpaceOptions()
        mode, shared = options.mode, options.shared
        if n_dims is not None and n_dims < 1:
            raise InputError("n_dims", "at least 1", n_dims, "ask for more dimensions")
        if mode == "shared" and source.is_embedding:
            raise InputError(
                "mode shared", "genes", f"the embedding {source.name}", "take mode aligned or own"
            )
        if shared is not None and not source.is_embedding:
            shared = shared if n_dims is None else shared.truncated(n_dims)
            if mode == "shared":
                return cls(*_fit_shared(source, shared, options.genes, rows), mode)
            moments = moments or own_moments(source.chunks(rows), shared.latent_dim)
            panel, subspace, coverage = _fit_aligned(source, shared, options.genes, moments)
        else:
            panel = GenePanel(tuple(source.names), tuple(_symbols_if_any(source, options.genes)))
            most = n_dims if shared is None else n_dims or shared.latent_dim
            if moments is None:
                subspace = _fit_own(source, most, rows, seed)
            else:
                subspace = Subspace.of_moments(moments, most or DEFAULT_LATENT_DIM)
            coverage = Coverage(0 if mode == "aligned" else len(panel), len(panel), len(panel))
        if mode == "aligned" and source.is_embedding:
            chunks = source.chunks(rows)
            states = np.concatenate([subspace.project(chunk) for chunk in chunks])
            times = cell_times if rows is None else cell_times[rows]
            subspace = subspace.signed_by_time(states, times)
        return cls(panel, subspace, coverage, mode)

    def project(
        self, source: Source, genes: GeneOptions | None = None
    ) -> tuple[NDArray[np.float32], Coverage]:
        """Latent states of the cells of a file, from those genes of the panel that it has.

        Returns
        -------
        states : (cells, latent_dim)
        coverage : Coverage
            Of the panel by the file.

        Raises
        ------
        InputError
            If it has none of them, or not all coordinates of an embedding.

        Warns
        -----
        UserWarning
            If less than half of the genes match.
        """
        subspace, pick, coverage, _ = self._read(source, genes or GeneOptions())
        states = [subspace.project(pick(chunk)) for chunk in source.chunks()]
        return np.concatenate(states), coverage

    def projection(
        self, source: Source, genes: GeneOptions | None = None
    ) -> Callable[[Matrix], NDArray[np.float32]]:
        """What turns chunks (cells, genes) of a file into their latent states (cells, latent_dim).

        For those who read a file once for several spaces; see :meth:`project`.
        """
        subspace, pick, *_ = self._read(source, genes or GeneOptions())
        return lambda chunk: subspace.project(pick(chunk))

    def expression(
        self,
        source: Source,
        genes: GeneOptions | None = None,
        rows: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Measured expression (cells, genes) of the panel, dense, of some rows of a file.

        Genes that the file lacks have the values that the latent states stand for.

        Of the cells in the mask `rows` (cells,), of all by default.
        """
        subspace, pick, _, present = self._read(source, genes or GeneOptions())
        parts = []
        for chunk in map(pick, source.chunks(rows)):
            x = chunk if isinstance(chunk, np.ndarray) else chunk.toarray()
            full = self.subspace.reconstruct(subspace.project(x))
            full[:, present] = x
            parts.append(full)
        return np.concatenate(parts)

    def explained_variance(self, source: Source, genes: GeneOptions | None = None) -> float:
        """The variance of the genes of the panel that is kept, summed over them.

        It is what ``x̂ = μ + D z`` leaves over, taken off the variance of x around μ.
        """
        subspace, pick, *_ = self._read(source, genes or GeneOptions())
        kept, cells = 0.0, 0
        for chunk in map(pick, source.chunks()):
            x = chunk if isinstance(chunk, np.ndarray) else chunk.toarray()
            residual = x - subspace.reconstruct(subspace.project(x))
            kept += float(np.square(x - subspace.gene_mean).sum(dtype=np.float64))
            kept -= float(np.square(residual).sum(dtype=np.float64))
            cells += len(x)
        return kept / (cells - 1)

    def _read(
        self, source: Source, genes: GeneOptions
    ) -> tuple[Subspace, Callable[[Matrix], Matrix], Coverage, NDArray[np.int64]]:
        """What picks the columns of a file that are in the panel, and the subspace over those.

        Beside them the coverage, and the positions of those columns in the panel.
        """
        names, symbols, selection = source.names, _symbols_if_any(source, genes), None
        if self.mode == "shared":
            names, selection = merge_duplicates(symbols, genes.on_duplicates)
            symbols = names
        columns, coverage = self.panel.match(names, symbols)
        present = np.flatnonzero(columns >= 0)
        if source.is_embedding and len(present) < len(columns):
            raise InputError(
                "coordinates",
                f"the {len(self.panel)} that the model was fitted to",
                f"{len(present)} of them",
                "give the embedding that the model was fitted to",
            )
        picked = columns[present]
        as_they_are = selection is None and np.array_equal(picked, np.arange(source.shape[1]))

        def pick(chunk: Matrix) -> Matrix:
            if selection is not None:
                chunk = chunk @ selection
            return chunk if as_they_are else chunk[:, picked]

        some_missing = len(present) < len(columns)
        subspace = self.subspace.restricted(present) if some_missing else self.subspace
        return subspace, pick, coverage, present

    def over_genes(
        self, source: Source, states: NDArray, genes: GeneOptions | None = None
    ) -> tuple[Subspace, NDArray[np.bool_]]:
        """The subspace over all genes of a file, in its order.

        Genes that are not in the panel get loadings by ridge regression on the latent states.

        Parameters
        ----------
        source : Source
            Values of the cells.
        states : (cells, latent_dim)
            Of its cells.
        genes : GeneOptions, optional
            How genes are read.

        Returns
        -------
        subspace : Subspace
        inferred : (genes,) mask
            The genes that are not in the panel.
        """
        symbols = _symbols_if_any(source, genes or GeneOptions())
        columns, _ = self.panel.match(source.names, symbols)
        present = np.flatnonzero(columns >= 0)
        inferred = np.full(source.shape[1], True)
        inferred[columns[present]] = False
        subspace = self.subspace.of_genes(present)
        if inferred.any():
            others = np.flatnonzero(inferred)
            subspace = subspace.with_genes((chunk[:, others] for chunk in source.chunks()), states)
        order = np.concatenate([columns[present], np.flatnonzero(inferred)])
        return subspace.of_genes(np.argsort(order)), inferred


def own_moments(chunks: Iterable[Matrix], n_dims: int) -> GeneMoments:
    """Covariance of the genes as they are, for `n_dims` components, in one pass over the cells.

    Of `chunks` (cells, genes).
    """
    rank = max(DEFAULT_RANK, 2 * n_dims)  # what chunks lose by merging lies far below
    return GeneMoments.gather(chunks, rank=rank, standardize=False)


def _fit_own(
    source: Source, n_dims: int | None, rows: NDArray[np.bool_] | None, seed: int
) -> Subspace:
    """Principal components of genes, or the scaled coordinates of an embedding."""
    if source.is_embedding:
        matrix = source.matrix()
        return Subspace.standardized(matrix if rows is None else matrix[rows], n_dims)
    n_dims = n_dims or DEFAULT_LATENT_DIM
    if source.on_disk:
        return Subspace.of_moments(own_moments(source.chunks(rows), n_dims), n_dims)
    matrix = source.matrix()
    return Subspace.pca(matrix if rows is None else matrix[rows], n_dims, seed)


def _fit_shared(
    source: Source, shared: SharedSubspace, genes: GeneOptions, rows: NDArray[np.bool_] | None
) -> tuple[GenePanel, Subspace, Coverage]:
    """The genes that the shared subspace knows, standardised by the data set's own moments."""
    symbols, selection = merge_duplicates(
        human_symbols(source.var, genes.symbols), genes.on_duplicates
    )
    moments = GeneMoments.gather((chunk @ selection for chunk in source.chunks(rows)), rank=0)
    coverage = shared.coverage(symbols, moments)
    shared.panel.require_covering(coverage, symbols)
    known = np.flatnonzero(shared.panel.positions(symbols) >= 0)
    panel = GenePanel.of_symbols([symbols[gene] for gene in known])
    return panel, shared.subspace(panel.symbols, moments.of_genes(known)), coverage


def _fit_aligned(
    source: Source, shared: SharedSubspace, genes: GeneOptions, moments: GeneMoments
) -> tuple[GenePanel, Subspace, Coverage]:
    """Own components over all genes, rotated by those in common if there are any."""
    symbols = human_symbols(source.var, genes.symbols)
    subspace = Subspace.of_moments(moments, shared.latent_dim)
    coverage = shared.coverage(symbols, moments)
    shared.panel.require_covering(coverage, symbols)
    subspace = subspace.aligned(shared.subspace(symbols, moments).projection)
    return GenePanel(tuple(source.names), tuple(symbols)), subspace, coverage


def _symbols_if_any(source: Source, genes: GeneOptions) -> list[str]:
    """Human symbols, which own components of genes can do without."""
    if source.is_embedding:
        return [""] * source.shape[1]
    try:
        return human_symbols(source.var, genes.symbols)
    except InputError:
        if genes.symbols is not None:
            raise
        return [""] * source.shape[1]


def space_options(reading: FitReading) -> SpaceOptions:
    """Options of the latent space of a fit; the shared subspace may be in a folder."""
    shared = reading.subspace
    if isinstance(shared, (str, Path)):
        shared = SharedSubspace.load(shared)
    mode = reading.subspace_mode or ("own" if shared is None else "aligned")
    return SpaceOptions(
        mode, shared, GeneOptions(reading.symbols, reading.on_duplicates or "error")
    )
