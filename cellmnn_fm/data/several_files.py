"""One time course in several files: the cells of one after those of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..model.errors import InputError
from .moments import Matrix
from .reading import Source, read_source, read_times
from .times import TimeKey

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class JoinedSource(Source):
    """The values of several files, read in chunks of their own.

    Attributes
    ----------
    parts : tuple of Source
        Of the files, in their order; `values` are those of the first.
    """

    parts: tuple[Source, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Cells of all files, and genes."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def on_disk(self) -> bool:
        """Whether some of the values are read from a file when they are needed."""
        return any(part.on_disk for part in self.parts)

    def matrix(self) -> Matrix:
        """All values in memory, 32-bit; sparse where all files are."""
        matrices = [part.matrix() for part in self.parts]
        if all(sparse.issparse(matrix) for matrix in matrices):
            return sparse.csr_array(sparse.vstack(matrices))
        return np.concatenate([m if isinstance(m, np.ndarray) else m.toarray() for m in matrices])

    def chunks(self, rows: NDArray[np.bool_] | None = None) -> Iterator[Matrix]:
        """The values of all cells, or of those in the mask `rows` (cells,), file by file."""
        start = 0
        for part in self.parts:
            stop = start + part.shape[0]
            yield from part.chunks(None if rows is None else rows[start:stop])
            start = stop


def read_several(
    adatas: Sequence[AnnData], time_key: str | TimeKey
) -> tuple[Source, NDArray[np.float64]]:
    """The values of the cells of several files, and the time (cells,) of each.

    Parameters
    ----------
    adatas : sequence of AnnData
        In memory or backed, with the same genes in the same order.
    time_key : str or TimeKey
        Column of `obs`, in all of them.

    Raises
    ------
    InputError
        If they differ in their genes or in what their values are.
    """
    sources = [read_source(adata) for adata in adatas]
    first = sources[0]
    if len(sources) == 1:
        return first, read_times(adatas[0], time_key)
    for number, source in enumerate(sources[1:], 2):
        if source.names != first.names:
            raise InputError(
                f"genes of file {number}",
                f"the {len(first.names)} of the first file, in their order",
                f"{len(source.names)} that are others, or in another order",
                "write the files with the same var_names",
            )
        if (source.scale, source.is_embedding) != (first.scale, first.is_embedding):
            raise InputError(
                f"values of file {number}", f"{first.scale} values", source.scale, "write all alike"
            )
    import anndata

    column = time_key.column if isinstance(time_key, TimeKey) else time_key
    missing = [n for n, adata in enumerate(adatas, 1) if column not in adata.obs]
    if missing:
        fix = "name a column that all have"
        raise InputError("time column", f'"{column}" in every file', f"none in {missing}", fix)
    labels = pd.concat([adata.obs[[column]] for adata in adatas], ignore_index=True)
    labels.index = labels.index.astype(str)
    together = anndata.AnnData(obs=labels, uns={"time_unit": adatas[0].uns.get("time_unit", "")})
    joined = JoinedSource(
        first.name, first.values, first.var, first.is_embedding, first.scale, tuple(sources)
    )
    return joined, read_times(together, time_key)


def shown(
    chunks: Iterable[Matrix], cells: int, text: str, progress: bool = True
) -> Iterator[Matrix]:
    """The same chunks (cells, genes) of so many `cells`, with a bar of how many were read."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as display:
        task = display.add_task(text, total=cells)
        for chunk in chunks:
            yield chunk
            display.advance(task, chunk.shape[0])
