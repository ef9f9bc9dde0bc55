"""What a model says, as AnnData: in memory, or written in chunks where that would be too much."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.genes import Coverage
from ..data.outputs import CELLS, require_file, write_zarr, written_whole
from ..data.subspace import Subspace

if TYPE_CHECKING:
    from anndata import AnnData

_CHUNK_VALUES = 2**23  # of cells and genes that are formed at once, 32 MB
_ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}  # as AnnData marks them


@dataclass(frozen=True)
class Result:
    """Cells with their latent states, and what these mean for genes, not formed yet.

    Attributes
    ----------
    cells : AnnData
        All that is no matrix of cells and genes.
    subspace : Subspace, optional
        Over the genes of `cells`; needed where these have expression or velocity.
    expression, velocity : tuple of str, optional
        Where x̂ = μ + D z and dx/dt = D dz/dt go: ("X",), or ("layers", key).
    floor : float, optional
        Below which there is no expression: what is predicted below it is raised to it.
    source : path, optional
        A file on disk that `cells` are those of, whose matrices are copied as they are.
    """

    cells: AnnData
    subspace: Subspace | None
    expression: tuple[str, ...] = ()
    velocity: tuple[str, ...] = ()
    floor: float | None = None
    source: Path | None = None

    def given(self, file: str | Path | None) -> AnnData:
        """In memory, or written to a file where one is asked for."""
        return self.in_memory() if file is None else self.written(file)

    def in_memory(self) -> AnnData:
        """All of it."""
        result = self.cells
        for place, values_of in self._matrices():
            values = values_of(slice(None))
            if place == ("X",):
                result.X = values
            else:
                result.layers[place[1]] = values
        return result

    def written(self, file: str | Path) -> AnnData:
        """All written to `file` (.h5ad or .zarr) in chunks; what comes back has no matrices."""
        with written_whole(file) as staging:
            if staging.suffix == ".zarr":
                self._write_zarr(staging)
            else:
                self._write_h5ad(staging)
        return self.cells

    def _write_h5ad(self, staging: Path) -> None:
        """All parts, then the matrices of genes in chunks."""
        import h5py
        from anndata.io import write_elem

        if self.source is None:
            self.cells.write_h5ad(staging)
        else:
            shutil.copyfile(self.source, staging)
        with h5py.File(staging, "r+") as group:
            if self.source is not None:
                for name in ("obs", "var", "uns", "obsm", "varm"):
                    if name in group:
                        del group[name]
                    value = getattr(self.cells, name)
                    write_elem(group, name, value if name in ("obs", "var") else dict(value))
            self._fill(group, lambda parent, name, shape: parent.create_dataset(name, shape, "f4"))

    def _write_zarr(self, staging: Path) -> None:
        """The same, with chunks of cells as those of the store."""
        import zarr

        write_zarr(self.cells, staging)
        size = max(1, _CHUNK_VALUES // max(1, self.cells.n_vars))

        def create(parent: Any, name: str, shape: tuple[int, int]) -> Any:
            chunks = (min(size, max(1, shape[0])), shape[1])
            return parent.create_array(name, shape=shape, dtype="f4", chunks=chunks)

        self._fill(zarr.open_group(staging, mode="r+"), create)
        zarr.consolidate_metadata(staging)  # which readers go by, where it is there

    def _fill(self, group: Any, create: Any) -> None:
        """Write the matrices of genes, a few cells at a time."""
        shape = self.cells.shape
        size = max(1, _CHUNK_VALUES // max(1, shape[1]))
        for place, values_of in self._matrices():
            parent = group
            for name in place[:-1]:
                parent = parent.require_group(name)
            if place[-1] in parent:
                del parent[place[-1]]
            target = create(parent, place[-1], shape)
            target.attrs.update(_ARRAY)
            for start in range(0, shape[0], size):
                rows = slice(start, start + size)
                target[rows] = values_of(rows)

    def _matrices(self) -> list[tuple[tuple[str, ...], Callable[[slice], NDArray[np.float32]]]]:
        """Place of each matrix of cells and genes, and its values in some rows."""
        if self.subspace is None:
            return []
        obsm, loadings, centre = self.cells.obsm, self.subspace.loadings, self.subspace.gene_mean

        def expression(rows: slice) -> NDArray[np.float32]:
            values = (centre + obsm["X_cellmnn"][rows] @ loadings.T).astype(np.float32)
            return values if self.floor is None else np.maximum(values, np.float32(self.floor))

        def velocity(rows: slice) -> NDArray[np.float32]:
            return (obsm["cellmnn_velocity"][rows] @ loadings.T).astype(np.float32)

        places = ((self.expression, expression), (self.velocity, velocity))
        return [(place, values_of) for place, values_of in places if place]


def require_cells_file(file: str | Path | None) -> None:
    """Refuse a file that :meth:`Result.written` cannot write, if one is asked for."""
    if file is not None:
        require_file(file, CELLS, "file")


def written_coverage(coverage: Coverage) -> dict[str, float]:
    """As it goes into a file, which has no place for what is not known."""
    return {name: value for name, value in asdict(coverage).items() if value is not None}
