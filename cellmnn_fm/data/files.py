"""From files on disk to AnnData: bounded by the memory that there is, and never a traceback."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

# heavy modules are imported inside the functions: commands must answer --help at once

_MOST_IN_MEMORY = 2**28  # bytes of X that are read at once; what is more stays on disk
_EXPECTED = "an AnnData file, .h5ad or .zarr"
_REWRITE = "write it with anndata"


def read_file(file: Path, *, backed: bool | None = None) -> AnnData:
    """The AnnData in a file.

    Parameters
    ----------
    file : Path
        An .h5ad, or the folder of a .zarr.
    backed : bool, optional
        Whether `X` of an .h5ad is left on disk; by default where it would take much memory.

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

    try:
        with warnings.catch_warnings():
            # names of cells may repeat: nothing is looked up by them
            warnings.filterwarnings("ignore", "Observation names are not unique")
            if file.is_dir():
                if (file / "config.json").is_file():
                    fix = "give the model first, then the file"
                    raise InputError(str(file), _EXPECTED, "the folder of a model", fix)
                _require_memory(file, _zarr_bytes(file), "keep fewer layers")
                return anndata.read_zarr(file)
            on_disk = _is_left_on_disk(file, backed)
            return anndata.read_h5ad(file, backed="r" if on_disk else None)
    except InputError:
        raise
    except Exception as error:  # whatever readers make of what is no AnnData
        raise InputError(str(file), _EXPECTED, f"something else ({error})", _REWRITE) from error


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

    members = zarr.open_group(folder, mode="r").members(max_depth=None)
    return sum(array.nbytes for _, array in members if isinstance(array, zarr.Array))
