"""From files on disk, or at an address, to AnnData: bounded by the memory that there is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

# heavy modules are imported inside the functions: commands must answer --help at once

_MOST_IN_MEMORY = 2**28  # bytes of X that are read at once; what is more stays on disk
_EXPECTED = "an AnnData file, .h5ad or .zarr"
_REWRITE = "write it with anndata"
# what is read with the table of cells; matrices are read where they are asked for
_TABLES = ("obs", "var", "uns", "obsm", "varm")


def read_file(file: Path, *, backed: bool | None = None) -> AnnData:
    """The AnnData in a file.

    Parameters
    ----------
    file : Path
        An .h5ad, or the folder of a .zarr (of version 2 or 3 of the format).
    backed : bool, optional
        Whether `X` (and layers of a .zarr) is left on disk; by default where it would take much
        memory.

    Raises
    ------
    InputError
        On what is no AnnData, and on what does not fit in the memory that is left.
    """
    if not file.exists():
        fix = "correct the path"
        raise InputError("input file", "an .h5ad or .zarr file", f"nothing at {file}", fix)
    if not file.is_dir() and not file.is_file():
        raise InputError(str(file), _EXPECTED, "a device or pipe", "name a file")
    import anndata

    with _explained(str(file)):
        if not file.is_dir():
            on_disk = _is_left_on_disk(file, backed)
            return anndata.read_h5ad(file, backed="r" if on_disk else None)
        if (file / "config.json").is_file():
            fix = "give the model first, then the file"
            raise InputError(str(file), _EXPECTED, "the folder of a model", fix)
        needed = _zarr_bytes(file)
        if needed > _MOST_IN_MEMORY if backed is None else backed:
            return _matrices_on_disk(_zarr_group(file))
        _require_memory(file, needed, "keep fewer layers")
        return anndata.read_zarr(file)


def open_file(place: str | Path) -> AnnData:
    """The AnnData at a path or an address, its matrices left there.

    Parameters
    ----------
    place : str or path
        An .h5ad or .zarr on disk, or its address: whatever fsspec opens ("https://", "s3://",
        "hf://", ...), where its package is installed.

    Raises
    ------
    InputError
        On what is no AnnData, and if the address cannot be read.
    """
    if "://" not in str(place):
        return read_file(Path(place), backed=True)
    import fsspec

    address = str(place)
    with _explained(address):
        if address.rstrip("/").endswith(".zarr"):
            return _matrices_on_disk(_zarr_group(address))
        import h5py

        return _matrices_on_disk(h5py.File(fsspec.open(address, "rb").open(), "r"))


def read_named(
    files: list[Path], names: list[str] | None = None, *, backed: bool | None = None
) -> dict[str, AnnData]:
    """The AnnData in several files, by their names: as given, in the file, or of the file."""
    if names is not None and len(names) != len(files):
        raise InputError("names", f"{len(files)}, one for each file", len(names), "give as many")
    named: dict[str, AnnData] = {}
    for number, file in enumerate(files):
        adata = read_file(file, backed=backed)
        name = names[number] if names else str(adata.uns.get("name", file.stem))
        if name in named:
            raise InputError("names of data sets", "different ones", f"{name} twice", "name them")
        named[name] = adata
    return named


def checksum(places: Iterable[str | Path]) -> dict[str, str]:
    """SHA-256 of each file on disk by its place; of folders and addresses there is none."""
    import hashlib

    sums = {}
    for place in map(str, places):
        if Path(place).is_file():
            with Path(place).open("rb") as content:
                sums[place] = hashlib.file_digest(content, "sha256").hexdigest()
    return sums


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """A block in which whatever readers make of what is no AnnData is one error."""
    try:
        with warnings.catch_warnings():
            # names of cells may repeat: nothing is looked up by them
            warnings.filterwarnings("ignore", "Observation names are not unique")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(place, _EXPECTED, f"something else ({error})", _REWRITE) from error


def _matrices_on_disk(content: Any) -> AnnData:
    """An AnnData of a group of HDF5 or zarr; `X` and layers are read where they are asked for."""
    import anndata
    from anndata.io import read_elem

    if "obs" not in content:
        raise InputError("input file", _EXPECTED, f"one with {listed(content)}", _REWRITE)
    tables = {name: read_elem(content[name]) for name in _TABLES if name in content}
    layers = content.get("layers", {})
    return anndata.AnnData(
        X=_on_disk(content["X"]) if "X" in content else None,
        layers={name: _on_disk(layers[name]) for name in layers},
        **tables,
    )


def _on_disk(matrix: Any) -> Any:
    """A matrix of a file, which gives out rows."""
    from anndata.io import sparse_dataset

    kind = str(matrix.attrs.get("encoding-type", ""))
    return sparse_dataset(matrix) if kind in ("csr_matrix", "csc_matrix") else matrix


def _zarr_group(place: str | Path) -> Any:
    """A zarr store of any version of the format."""
    import zarr

    return zarr.open_group(str(place), mode="r")


def _is_left_on_disk(file: Path, backed: bool | None) -> bool:
    """Whether X stays in an .h5ad, which must be one, and fit in memory."""
    import h5py

    with h5py.File(file) as content:
        if "obs" not in content:
            if "matrix" in content:
                fix = "read it with scanpy.read_10x_h5, and write it with write_h5ad"
                raise InputError(str(file), _EXPECTED, "an .h5 file of 10x", fix)
            raise InputError(str(file), _EXPECTED, f"HDF5 with {listed(content)}", _REWRITE)
        values, everything = _hdf5_bytes(content.get("X")), _hdf5_bytes(content)
    on_disk = values > _MOST_IN_MEMORY if backed is None else backed
    needed = everything - values if on_disk else everything
    _require_memory(file, needed, "leave X on disk (--backed), or keep fewer layers")
    return on_disk


def _require_memory(file: Path, needed: int, fix: str) -> None:
    """Refuse files that declare more than there is, before anything is allocated."""
    from psutil import virtual_memory

    if needed > (free := virtual_memory().available):
        actual = f"one of {needed / 1e9:.1f} GB, with {free / 1e9:.1f} GB left"
        raise InputError(str(file), "a file that fits in memory", actual, fix)


def _hdf5_bytes(content: Any) -> int:
    """What a group or data set takes in memory, as the file declares it."""
    import h5py

    if isinstance(content, h5py.Dataset):
        return int(content.size or 0) * content.dtype.itemsize
    return sum(_hdf5_bytes(content[name]) for name in content or ())


def _zarr_bytes(folder: Path) -> int:
    """What a zarr store takes in memory, as it declares."""
    import zarr

    members = _zarr_group(folder).members(max_depth=None)
    return sum(array.nbytes for _, array in members if isinstance(array, zarr.Array))
