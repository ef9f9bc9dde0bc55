"""Which cells of a file are under a condition, and which are its control."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model.errors import InputError, listed
from .options import QuestionReading
from .reading import read_column

if TYPE_CHECKING:
    from anndata import AnnData


class ConditionCells(NamedTuple):
    """Cells of a condition and of its control.

    Attributes
    ----------
    condition, control : str
        Their labels.
    rows, control_rows : (cells,) mask
        Of the file.
    """

    condition: str
    control: str
    rows: NDArray[np.bool_]
    control_rows: NDArray[np.bool_]


def read_condition(adata: AnnData, options: QuestionReading) -> ConditionCells | None:
    """The cells of a condition and of its control; None if no condition was asked for.

    Raises
    ------
    InputError
        On a column or labels that are not there, and on more than one label that may be the
        control's.
    """
    key = options.condition_key
    if key is None:
        if options.condition is not None or options.control is not None:
            named = options.condition or options.control
            raise InputError("condition_key", "a column of obs", f"none for {named}", "name it")
        return None
    name = f'condition column "{key}"'
    column = read_column(adata, key, name)
    labels = column.astype(str).where(column.notna(), "").to_numpy()
    known = [label for label in np.unique(labels) if label]
    condition = _known_label("condition", options.condition, known, name)
    others = [label for label in known if label != condition]
    if options.control is None and len(others) != 1:
        expected = "one label beside the condition, or the name of it"
        raise InputError("control", expected, listed(others) or "none", "name one of them")
    control = _known_label("control", options.control or others[0], others, name)
    return ConditionCells(condition, control, labels == condition, labels == control)


def _known_label(what: str, label: str | None, known: list[str], column: str) -> str:
    """A label, if it is one of those that are known."""
    if label is None or str(label) not in known:
        actual = "none" if label is None else f"{label}"
        raise InputError(what, f"one of {listed(known)} in {column}", actual, "name one")
    return str(label)
