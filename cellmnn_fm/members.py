"""Data sets as members of a shared subspace: read, fitted together, and left out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from .errors import InputError
from .gene_moments import GeneMoments
from .gene_panel import human_symbols, merge_duplicates
from .latent_space import GeneOptions, SpaceOptions
from .reading import Source, read_source
from .shared_subspace import DEFAULT_SHARED_DIM, Member, SharedSubspace

if TYPE_CHECKING:
    from anndata import AnnData


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
    genes : GeneOptions, optional
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
    """
    if options.shared is None:
        return options
    members = dict(options.shared.members)
    own = members.pop(name, None)
    for other, member in options.shared.members.items():
        if name in member.overlaps or (own is not None and other in own.overlaps):
            members.pop(other, None)
    if own is not None:
        members[name] = read_member(source, options.genes, overlaps=own.overlaps, rows=rows)
    elif len(members) == len(options.shared.members):
        return options
    return replace(options, shared=SharedSubspace.fit(members, options.shared.latent_dim))
