"""One latent space for data sets that measured different genes, on different scales."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..model.checkpoint import SHARED_SUBSPACE_FILE, find_saved, verify, whole_or_nothing
from ..model.errors import InputError
from .genes import Coverage, GeneOptions, GenePanel, human_symbols, merge_duplicates, require_unique
from .moments import GeneMoments
from .reading import Source, read_source
from .subspace import Subspace, ridge_projection

if TYPE_CHECKING:
    from anndata import AnnData

DEFAULT_SHARED_DIM = 32
MAX_ITERATIONS = 100
_TOLERANCE = 1e-3  # sine of the angle between the spaces of two iterations, root mean square
_LEAST_NOISE = 1e-4

_PANEL_FILE = "gene_panel.json"
_LOADINGS_FILE = "loadings.safetensors"
_MOMENTS_FILE = "moments.safetensors"
_ARRAYS = ("mean", "variance", "eigenvalues", "eigenvectors")


@dataclass(frozen=True)
class Member:
    """What a shared subspace keeps of one data set.

    Parameters
    ----------
    symbols : tuple of str
        Human symbols of its genes, unique.
    moments : GeneMoments
        Of these genes, standardised. Genes that do not vary are left out.
    overlaps : tuple of str
        Names of data sets that share cells with it.
    """

    symbols: tuple[str, ...]
    moments: GeneMoments
    overlaps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_unique(self.symbols, "symbols of a data set", "merge the columns of a gene")
        varies = self.moments.variance > 0
        if not varies.all():
            kept = tuple(np.array(self.symbols, dtype=object)[varies])
            object.__setattr__(self, "symbols", kept)
            object.__setattr__(self, "moments", self.moments.of_genes(varies))


@dataclass(frozen=True)
class SharedSubspace:
    """Probabilistic principal components of many data sets, each with genes of its own.

    For a cell of data set k with the genes j ∈ G_k,

        (x_j - μ_kj) / σ_kj = v_j · z + ε,    z ~ N(0, I),   ε ~ N(0, σ²)

    where means μ and standard deviations σ are the data set's own and the loadings v are shared.
    They are fitted by expectation maximisation to the moments of the data sets, so that no cell is
    looked at twice and a data set can be added later. A data set weighs √(cells / genes), which
    keeps one of 20,000 genes from dictating the space to one of 40.

    Parameters
    ----------
    panel : GenePanel
        The genes, by their human symbols.
    loadings : (genes, latent_dim)
        V, orthogonal columns, the longest first.
    noise_variance : float
        σ².
    members : dict of Member
        By the name of the data set.

    Examples
    --------
    >>> import numpy as np
    >>> from cellmnn_fm.data.shared_subspace import SharedSubspace, Member
    >>> from cellmnn_fm.data.moments import GeneMoments
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(500, 6))
    >>> names = ["A", "B", "C", "D", "E", "F"]
    >>> one = Member(tuple(names[:5]), GeneMoments.gather([x[:250, :5]]))
    >>> other = Member(tuple(names[1:]), GeneMoments.gather([x[250:, 1:]]))
    >>> shared = SharedSubspace.fit({"one": one, "other": other}, n_dims=2)
    >>> subspace = shared.subspace(names, GeneMoments.gather([x]))  # for data with all of them
    >>> residual = x - subspace.reconstruct(subspace.project(x))
    >>> bool(residual.var() < 0.02 * x.var())
    True

    References
    ----------
    Tipping and Bishop 1999, J R Stat Soc B 61:611; Liu, Rubin and Wu 1998, Biometrika 85:755 (the
    expansion by which the iteration converges quickly).
    """

    panel: GenePanel
    loadings: NDArray[np.float32]
    noise_variance: float
    members: Mapping[str, Member]

    @classmethod
    def fit(
        cls, members: Mapping[str, Member], n_dims: int = DEFAULT_SHARED_DIM, seed: int = 0
    ) -> SharedSubspace:
        """Fit the shared loadings.

        Parameters
        ----------
        members : mapping of Member
            By the name of the data set.
        n_dims : int
            Dimensions of the latent space.
        seed : int
            Of the loadings that the iteration starts from.

        Raises
        ------
        InputError
            If there is no data set, or fewer genes than dimensions.
        """
        if not members:
            raise InputError("data sets", "at least 1", 0, "give some")
        symbols = sorted({symbol for member in members.values() for symbol in member.symbols})
        if not 1 <= n_dims <= len(symbols):
            raise InputError(
                "n_dims", f"1 to the number of genes, {len(symbols)}", n_dims, "ask for fewer"
            )
        position = {symbol: column for column, symbol in enumerate(symbols)}
        columns = [
            np.array([position[symbol] for symbol in member.symbols]) for member in members.values()
        ]
        moments = [member.moments for member in members.values()]
        loadings, noise = _maximise(moments, columns, len(symbols), n_dims, seed)
        return cls(
            GenePanel.of_symbols(symbols), loadings.astype(np.float32), float(noise), dict(members)
        )

    @property
    def latent_dim(self) -> int:
        """How many dimensions the latent space has."""
        return self.loadings.shape[1]

    def add(self, members: Mapping[str, Member]) -> SharedSubspace:
        """The fit with more data sets, or with others in place of those of the same name.

        Nothing is read again of the data sets that are there: their moments are enough.
        """
        return self.fit({**self.members, **members}, self.latent_dim)

    def without(self, names: Sequence[str]) -> SharedSubspace:
        """The fit without the data sets of these names."""
        kept = {name: member for name, member in self.members.items() if name not in names}
        return self.fit(kept, self.latent_dim)

    def truncated(self, n_dims: int) -> SharedSubspace:
        """With the first `n_dims` dimensions only."""
        if not 1 <= n_dims <= self.latent_dim:
            raise InputError(
                "n_dims",
                f"1 to the {self.latent_dim} of the shared subspace",
                n_dims,
                "ask for fewer, or fit the shared subspace with more",
            )
        return replace(self, loadings=np.ascontiguousarray(self.loadings[:, :n_dims]))

    def coverage(self, symbols: Sequence[str], moments: GeneMoments) -> Coverage:
        """How much of a data set with these genes the panel covers."""
        known = self.panel.positions(symbols) >= 0
        share = float(moments.variance[known].sum() / moments.variance.sum())
        return Coverage(int(known.sum()), len(known), len(self.panel), share)

    def subspace(self, symbols: Sequence[str], moments: GeneMoments) -> Subspace:
        """The latent space of a data set with these genes, those that are not shared included.

        Parameters
        ----------
        symbols : sequence of str
            Human symbol of each gene of the data set, "" for none. Genes that the panel does not
            have get no loadings.
        moments : GeneMoments
            Of the data set, for means and standard deviations.
        """
        positions = self.panel.positions(symbols)
        known = (positions >= 0) & (moments.variance > 0)
        standard = np.zeros((len(symbols), self.latent_dim))
        standard[known] = self.loadings[positions[known]]
        noise = np.full(len(symbols), self.noise_variance)
        return Subspace.of_arrays(
            moments.mean,
            standard * moments.scale[:, None],
            ridge_projection(standard, noise) / moments.scale[:, None],
            noise * moments.scale**2,
            np.eye(self.latent_dim),
        )

    def _require_fitting(self, folder: Path) -> None:
        """Refuse parts of different subspaces."""
        fix = "fit it again: a save of an earlier version was cut off, or files were mixed"
        if self.loadings.ndim != 2 or len(self.loadings) != len(self.panel):
            actual = f"loadings of shape {self.loadings.shape}"
            raise InputError(str(folder), f"loadings of {len(self.panel)} genes", actual, fix)
        for name, member in self.members.items():
            if len(member.moments.mean) != len(member.symbols):
                actual = f"moments of {len(member.moments.mean)}"
                raise InputError(str(folder), f"{len(member.symbols)} genes of {name}", actual, fix)
        symbols = {symbol for member in self.members.values() for symbol in member.symbols}
        if self.members and list(self.panel.symbols) != sorted(symbols):
            raise InputError(str(folder), "the genes of its data sets, in order", "others", fix)

    def save(self, folder: str | Path) -> None:
        """Save loadings, panel and the moments of the data sets to `folder`, whole or not at all.

        See :func:`cellmnn_fm.model.checkpoint.whole_or_nothing`.
        """
        records, arrays = [], {}
        for number, (name, member) in enumerate(self.members.items()):
            records.append(
                {
                    "name": name,
                    "cells": member.moments.cells,
                    "symbols": member.symbols,
                    "overlaps": member.overlaps,
                }
            )
            for array in _ARRAYS:
                arrays[f"{number}.{array}"] = getattr(member.moments, array)
        content = {"noise_variance": self.noise_variance, "members": records}
        with whole_or_nothing(folder) as staging:
            save_file({"loadings": self.loadings}, staging / _LOADINGS_FILE)
            save_file(arrays, staging / _MOMENTS_FILE)
            self.panel.save(staging / _PANEL_FILE)
            (staging / SHARED_SUBSPACE_FILE).write_text(json.dumps(content))

    @classmethod
    def load(cls, folder: str | Path) -> SharedSubspace:
        """Load what was saved to `folder`.

        Raises
        ------
        InputError
            If a file of it is missing, does not load or does not fit the others.
        """
        folder = find_saved(folder)
        try:
            verify(folder)
            content = json.loads((folder / SHARED_SUBSPACE_FILE).read_text())
            arrays = load_file(folder / _MOMENTS_FILE)
            members = {}
            for number, record in enumerate(content["members"]):
                of_member = {array: arrays[f"{number}.{array}"] for array in _ARRAYS}
                moments = GeneMoments(cells=record["cells"], standardized=True, **of_member)
                symbols, overlaps = tuple(record["symbols"]), tuple(record["overlaps"])
                members[record["name"]] = Member(symbols, moments, overlaps)
            loadings = load_file(folder / _LOADINGS_FILE)["loadings"]
            panel = GenePanel.load(folder / _PANEL_FILE)
            shared = cls(panel, loadings, content["noise_variance"], members)
            shared._require_fitting(folder)
            return shared
        except InputError:
            raise
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise InputError(
                str(folder),
                "a saved shared subspace",
                f"files that are missing or do not load ({error})",
                "make it with `cellmnn subspace fit`, or correct the path",
            ) from error


def _maximise(
    moments: Sequence[GeneMoments],
    columns: Sequence[NDArray[np.int64]],
    num_genes: int,
    n_dims: int,
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    """Loadings (num_genes, n_dims) and noise variance, by expectation maximisation.

    Parameters
    ----------
    moments : sequence of GeneMoments
        Of each data set.
    columns : for each data set, (its genes,)
        Where its genes are among all.
    """
    identity = np.eye(n_dims)
    # the log likelihood of a data set grows with cells and genes: with the root of cells a gene,
    # a large set counts more than a small one, but does not drown it
    sizes = np.array([len(of_set) for of_set in columns])
    weights = np.sqrt([member.cells / size for member, size in zip(moments, sizes, strict=True)])
    weights /= weights.sum()
    measured = np.zeros((num_genes, len(moments)), dtype=bool)
    for number, of_set in enumerate(columns):
        measured[of_set, number] = True
    # genes measured by the same data sets have the same normal equations
    patterns, pattern_of_gene = np.unique(measured, axis=0, return_inverse=True)
    by_pattern = np.argsort(pattern_of_gene, kind="stable")
    stops = np.cumsum(np.bincount(pattern_of_gene))[:-1]
    groups = np.split(by_pattern, stops)

    loadings = 0.1 * np.random.default_rng(seed).normal(size=(num_genes, n_dims))
    noise = 0.5
    for _ in range(MAX_ITERATIONS):
        # expectation: what each data set says of its latent states; cells enter by the covariance
        # of its genes alone, so that a pass costs the same for a thousand cells as for a million
        seconds = np.empty((len(moments), n_dims, n_dims))  # E[z zᵀ] of each data set
        crosses = []  # E[x zᵀ]
        numerator = np.zeros_like(loadings)
        for number, (member, of_set) in enumerate(zip(moments, columns, strict=True)):
            of_genes = loadings[of_set]
            posterior = np.linalg.inv(of_genes.T @ of_genes + noise * identity)
            product = member.times(of_genes)
            crosses.append(product @ posterior)
            seconds[number] = posterior @ (of_genes.T @ product) @ posterior + noise * posterior
            numerator[of_set] += weights[number] * crosses[-1]
        # maximisation: each gene is regressed on the states of those data sets that measured it
        previous = loadings.copy()
        denominator = np.einsum("pk,kde->pde", patterns * weights, seconds)
        inverse = np.linalg.inv(denominator)
        for group, matrix in zip(groups, inverse, strict=True):
            loadings[group] = numerator[group] @ matrix
        # what the loadings leave of the variance, which is 1 in every standardised gene
        left = [
            size
            - 2 * np.vdot(loadings[of_set], cross)
            + np.vdot(loadings[of_set] @ second, loadings[of_set])
            for size, of_set, cross, second in zip(sizes, columns, crosses, seconds, strict=True)
        ]
        noise = max(float(weights @ (np.array(left) / sizes)), _LEAST_NOISE)
        # parameter expansion: back to latent states of unit covariance over all data sets
        loadings = loadings @ np.linalg.cholesky(np.tensordot(weights, seconds, axes=1))
        if _angle(previous, loadings) < _TOLERANCE:
            break
    # the likelihood is the same for every rotation: principal axes, with the sign that most of
    # the weight has, make the result one
    left_vectors, lengths, _ = np.linalg.svd(loadings, full_matrices=False)
    loadings = left_vectors * lengths
    return loadings * np.sign(np.power(loadings, 3).sum(axis=0)), noise


def _angle(one: NDArray, other: NDArray) -> float:
    """Root mean square sine of the angles between the spaces of two matrices' columns."""
    cross = one.T @ other
    cosines2 = np.linalg.solve(one.T @ one, cross) @ np.linalg.solve(other.T @ other, cross.T)
    return float(np.sqrt(max(1 - np.trace(cosines2) / len(cross), 0)))


def fit_shared_subspace(
    adatas: Mapping[str, AnnData],
    *,
    n_dims: int = DEFAULT_SHARED_DIM,
    layer: str | None = None,
    genes: GeneOptions | None = None,
    add_to: SharedSubspace | None = None,
    progress: bool = False,
) -> SharedSubspace:
    """Fit one latent space to many data sets, in one pass over the cells of each.

    Parameters
    ----------
    adatas : mapping of AnnData
        By name, in memory or backed, each with genes of its own. `uns["overlaps"]` names those
        that share cells with it.
    n_dims : int
        Dimensions of the latent space.
    layer : str, optional
        In place of `X`; "raw" for `.raw`.
    genes : GeneOptions, optional
        How genes are read.
    add_to : SharedSubspace, optional
        One that is there, with its dimensions; its data sets are not read again.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        On an embedding, and on genes or values that cannot be used.
    """
    sources = {name: read_source(adata, layer=layer) for name, adata in adatas.items()}
    for name, source in sources.items():
        if source.is_embedding:
            raise InputError(name, "genes", "an embedding", "leave it out: it has no gene names")
    members = {}
    for name, source in track(
        sources.items(),
        "reading",
        console=Console(stderr=True),
        disable=not progress,
        transient=True,
    ):
        overlaps = tuple(str(other) for other in adatas[name].uns.get("overlaps", ()))
        members[name] = read_member(source, genes, overlaps=overlaps)
    return SharedSubspace.fit(members, n_dims) if add_to is None else add_to.add(members)


def read_member(
    source: Source,
    genes: GeneOptions | None = None,
    *,
    overlaps: tuple[str, ...] = (),
    rows: NDArray[np.bool_] | None = None,
) -> Member:
    """What a shared subspace keeps of a data set, in one pass over its cells.

    Parameters
    ----------
    source : Source
        Values of the cells.
    genes : GeneOptions, optional
        How genes are read.
    overlaps : tuple of str
        Names of data sets that share cells with it.
    rows : (cells,) mask, optional
        The cells that are looked at; all by default.
    """
    genes = genes or GeneOptions()
    symbols = human_symbols(source.var, genes.symbols)
    unique, selection = merge_duplicates(symbols, genes.on_duplicates)
    moments = GeneMoments.gather(chunk @ selection for chunk in source.chunks(rows))
    return Member(tuple(unique), moments, overlaps)
