"""Which genes are transcription factors, and with which sign known ones mostly act."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FILE = Path(__file__).parent / "transcription_factors.tsv"

_WORTH = 5  # targets, of what is known of all factors where one has few


@cache
def transcription_factors() -> pd.DataFrame:
    """The list that ships with the package; its file states sources and licences.

    Returns
    -------
    DataFrame
        "human" and "mouse" symbols (of several orthologs, with blanks between), and how many
        targets a factor "activates" and "represses" in TRRUST, of those whose sign is known.

    Examples
    --------
    >>> transcription_factors().set_index("human").loc["POU5F1", "mouse"]
    'Pou5f1'
    """
    return pd.read_csv(FILE, sep="\t", comment="#", keep_default_na=False)


def are_factors(genes: Sequence[str], symbols: Sequence[str] = ()) -> NDArray[np.bool_]:
    """Which genes are factors, by name or by human symbol, in any case; (genes,)."""
    return _rows(genes, symbols) >= 0


def activating_shares(genes: Sequence[str], symbols: Sequence[str] = ()) -> NDArray[np.float64]:
    """Share of its known targets that a factor activates, (genes,); NaN for other genes.

    Shrunk as if five more targets were known, as many of them activated as over all factors.
    """
    table = transcription_factors()
    activates = table["activates"].to_numpy(dtype=float)
    known = activates + table["represses"].to_numpy(dtype=float)
    shares = (activates + _WORTH * activates.sum() / known.sum()) / (known + _WORTH)
    rows = _rows(genes, symbols)
    return np.where(rows >= 0, shares[rows], np.nan)


@cache
def _row_of_symbol() -> dict[str, int]:
    """Rows of the table by human and mouse symbol, in upper case; human ones go first."""
    table = transcription_factors()
    rows: dict[str, int] = {}
    for row, mouse in enumerate(table["mouse"]):
        rows |= {symbol.upper(): row for symbol in mouse.split()}
    return rows | {symbol.upper(): row for row, symbol in enumerate(table["human"])}


def _rows(genes: Sequence[str], symbols: Sequence[str]) -> NDArray[np.int64]:
    """Row of each gene in the table, (genes,), -1 without."""
    rows = _row_of_symbol()
    pairs = zip(genes, symbols or genes, strict=True)
    found_rows = [rows.get(gene.upper(), rows.get(symbol.upper(), -1)) for gene, symbol in pairs]
    return np.array(found_rows, dtype=np.int64)
