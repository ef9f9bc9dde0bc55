"""Files that are written: refused before any work where they would harm, and whole or not there."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

CELLS = (".h5ad", ".zarr")
TABLES = (".tsv", ".csv", ".parquet")
FIGURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg")
EDGES = (*TABLES, ".graphml")
JSON = (".json",)
PAGES = (".html",)
FOLDER = ()
STANDARD_OUTPUT = "-"

_REFUSED = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

# a cell that begins with one of these is run by spreadsheets; a number is none
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def require_outputs(
    inputs: Iterable[str | Path | None], outputs: Mapping[str, tuple[Path | None, tuple[str, ...]]]
) -> None:
    """Refuse outputs that cannot be written, or would harm what is there, before any work.

    Parameters
    ----------
    inputs : iterable of path
        Files and folders that are read; names of models that are no paths do no harm.
    outputs : mapping
        For each, by what it is called: its path, and the extensions that it may have; none for a
        folder of a model.

    Raises
    ------
    InputError
        On an output that is an input, lies in one, or is another output; on one of another
        extension; on a file that is there and not a plain file, or a folder that is not ours; and
        where nothing can be written.
    """
    read = [
        Path(os.path.realpath(source))
        for source in inputs
        if source is not None and _exists(source)
    ]
    written: dict[Path, str] = {}
    for name, (path, formats) in outputs.items():
        if path is None or (formats == JSON and str(path) == STANDARD_OUTPUT):
            continue
        place = _place(path, name)
        for source in read:
            if place == source or (source.is_dir() and place.is_relative_to(source)):
                actual = (
                    f"{path}, which is an input" if place == source else f"{path}, in {source.name}"
                )
                raise InputError(name, "a path beside the inputs", actual, "name another one")
        if place in written:
            raise InputError(name, "a path of its own", f"that of {written[place]}", "name another")
        written[place] = name
        if formats == FOLDER:
            from ..model.checkpoint import require_replaceable

            require_replaceable(place)
        else:
            _require_file(place, path, formats, name)
        _require_writable(place, path, name)


def require_file(file: str | Path, formats: tuple[str, ...], what: str = "output") -> None:
    """As :func:`require_outputs`, for a single file."""
    require_outputs([], {what: (Path(file), formats)})


@contextmanager
def written_whole(file: str | Path) -> Iterator[Path]:
    """A path to write to, whose file (or zarr folder) takes the place of `file` at the end.

    It lies in a hidden folder beside `file`, under the same name. Whatever goes wrong, `file` is as
    it was; of several that write it at once, the last one wins.

    Raises
    ------
    InputError
        Where the system will not write any more: a full disk, a limit.
    """
    target = Path(os.path.realpath(file))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cellmnn-", dir=target.parent) as folder:
            staging = Path(folder) / Path(file).name  # the extension tells the format
            yield staging
            if staging.is_file():
                with staging.open("rb") as written:
                    os.fsync(written.fileno())
            if target.is_dir():  # a zarr store; folders do not replace each other
                target.rename(Path(folder) / "replaced")
            os.replace(staging, target)
    except (OSError, RuntimeError) as error:
        if (why := _refusal(error)) is None:
            raise
        fix = "make room: what was there is as it was"
        raise InputError(str(file), "room to write it", why, fix) from error


def _refusal(error: BaseException | None) -> str | None:
    """Why the system writes no more, which HDF5 wraps in errors of its own; if that is why."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REFUSED:
            return os.strerror(error.errno).lower()
        error = error.__cause__ or error.__context__
    return None


def save_figure(figure: Figure, file: str | Path, dpi: int = 150) -> None:
    """Write a figure, its format by the extension."""
    with written_whole(file) as staging:
        figure.savefig(staging, dpi=dpi)


def save_text(text: str, file: str | Path) -> None:
    """Write a text."""
    with written_whole(file) as staging:
        staging.write_text(text, encoding="utf-8")


def save_json(content: Any, file: str | Path) -> None:
    """Write JSON; to the standard output if that is meant."""
    text = json.dumps(content, indent=1)
    if str(file) == STANDARD_OUTPUT:
        sys.stdout.write(f"{text}\n")
    else:
        save_text(text, file)


def save_table(table: pd.DataFrame, file: str | Path, index_label: str | None = None) -> None:
    """Write a table (.tsv, .csv or .parquet), its index only if that has a name here.

    In text, names that a spreadsheet would take for a formula get an apostrophe in front.
    """
    file, index = Path(file), index_label is not None
    if index:
        table = table.rename_axis(index_label)
    with written_whole(file) as staging:
        if file.suffix == ".parquet":
            (table.reset_index() if index else table).to_parquet(staging, index=False)
            return
        table = table.reset_index() if index else table
        texts = table.select_dtypes(exclude="number").columns
        table = table.assign(**{str(name): table[name].map(_harmless) for name in texts})
        table.columns = [_harmless(name) for name in table.columns]
        table.to_csv(staging, sep="," if file.suffix == ".csv" else "\t", index=False)


def save_cells(adata: AnnData, file: str | Path) -> None:
    """Write AnnData, .h5ad or .zarr."""
    file = Path(file)
    with written_whole(file) as staging:
        if file.suffix == ".zarr":
            write_zarr(adata, staging)
        else:
            adata.write_h5ad(staging)


def write_zarr(adata: AnnData, folder: Path) -> None:
    """Write AnnData as zarr, in the version that anndata takes, without its word on that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data")
        adata.write_zarr(folder)


def _harmless(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _exists(path: str | Path) -> bool:
    """Whether there is something, a broken link included."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _place(path: Path, what: str) -> Path:
    """Where it is, links followed."""
    try:
        place = Path(os.path.realpath(path))
        place.exists()  # which says if the name is too long
    except (OSError, ValueError) as error:
        raise InputError(what, "a path", f"{path} ({error})", "name another one") from error
    return place


def _require_file(place: Path, path: Path, formats: tuple[str, ...], what: str) -> None:
    """Refuse a path that is no plain file of one of the formats."""
    if path.suffix not in formats:
        expected = f"a file {' or '.join(formats)}"
        raise InputError(what, expected, str(path), "rename it: the format follows the extension")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        fix = "pip install 'cellmnn-fm[train]', or write .tsv"
        raise InputError(what, "the package pyarrow, for parquet", "none", fix)
    if not place.exists():
        return
    if place.is_dir():
        if path.suffix == ".zarr" and any(
            (place / name).is_file() for name in ("zarr.json", ".zgroup")
        ):
            return
        raise InputError(what, "a file", f"a folder, {path}", "name a file in it")
    if not place.is_file():
        raise InputError(what, "a plain file", f"{path}, a device or pipe", "name a file")
    if not os.access(place, os.W_OK):
        raise InputError(what, "a file that may be replaced", f"{path}, read-only", "name another")


def _require_writable(place: Path, path: Path, what: str) -> None:
    """Whether a file can be made beside it, or in the first folder above that is there."""
    above = place.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise InputError(what, "a path in a folder", f"{path}: {above} is a file", "correct it")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            what, "a path that can be written", f"{path}: {above}: {reason.lower()}", "name another"
        ) from error
