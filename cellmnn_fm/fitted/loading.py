"""A saved model, of one data set or of many, from wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..model.checkpoint import locked
from ..model.errors import InputError
from ..model.hub import locate, origin
from .fitted_model import RECORD_FILE, FittedModel
from .foundation import FOUNDATION_FILE, GENES_FILE, Foundation

# what comes of files that somebody else may have written
_FOREIGN_ERRORS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError),
    *(OSError, OverflowError, RecursionError, SafetensorError),
)


def load_content(
    name_or_path: str | Path, **download: Any
) -> tuple[FittedModel | Foundation, dict[str, str | None], str | None]:
    """The model, where it was loaded from, and its card.

    Parameters
    ----------
    name_or_path, **download
        See :meth:`CellMNNPipeline.from_pretrained`.

    Raises
    ------
    InputError
        If a file of it is missing or does not load.
    """
    folder, revision = locate(name_or_path, **download)
    with locked(folder.parent, shared=True):  # so that all files are of one save
        if not folder.is_dir():  # which was between its two renames
            folder, revision = locate(name_or_path, **download)
        kind: Any = Foundation if (folder / FOUNDATION_FILE).is_file() else FittedModel
        # a base may know no genes, which its own file says
        needed = [FOUNDATION_FILE] if kind is Foundation else [RECORD_FILE, GENES_FILE]
        for name in ("config.json", *needed):
            if not (folder / name).is_file():
                fix = "fit one there, or correct the path"
                raise InputError(str(folder), "a saved pipeline", f"no {name}", fix)
        try:
            base = origin(name_or_path, folder, revision)
            readme = folder / "README.md"
            card = readme.read_text() if readme.is_file() else None
            return kind.load(folder), base, card
        except InputError:
            raise
        except _FOREIGN_ERRORS as error:
            actual = f"files that do not load ({error})"
            raise InputError(str(folder), "a saved pipeline", actual, "save it again") from error
