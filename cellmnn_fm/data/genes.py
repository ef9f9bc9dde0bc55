"""Which genes a data set measured: names become human symbols, columns are matched to a panel."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..model.errors import InputError, listed, require_known
from .options import OnDuplicates, SymbolSource
from .saved_json import as_type, read_json

MIN_COVERAGE = 0.5  # a smaller share of matched genes is warned about

_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{11})(\.\d+)?$")
_DATE_NAME = re.compile(r"^(\d{1,2}-(Mar|Sep|Dec)|(Mar|Sep|Dec)-\d{1,2})$", re.IGNORECASE)
_DAY_NUMBER = re.compile(r"^[34]\d{4}$")  # 1982 to 2036
_SPREADSHEET_EPOCH = date(1899, 12, 30)
_MOST_OF_FAMILY = 15
# columns of var in which symbols are found beside Ensembl ids, lower-cased
_SYMBOL_COLUMNS = (
    *("gene_symbol", "gene_symbols", "symbol", "hgnc_symbol", "gene_name", "gene_names"),
    *("feature_name", "gene_short_name", "gene"),
)


@dataclass(frozen=True)
class Coverage:
    """How much of a data set a panel covers.

    Attributes
    ----------
    matched : int
        Genes in both.
    data_genes, panel_genes : int
        Genes in each.
    variance_share : float, optional
        How much of the variance of the data is in the matched genes, where it is known.
    """

    matched: int
    data_genes: int
    panel_genes: int
    variance_share: float | None = None

    @property
    def share(self) -> float:
        """Matched genes as a share of the smaller of the two."""
        return self.matched / max(1, min(self.data_genes, self.panel_genes))

    def __str__(self) -> str:
        text = (
            f"{self.matched} genes matched, of {self.data_genes} in the data "
            f"and {self.panel_genes} in the panel"
        )
        if self.variance_share is None:
            return text
        return f"{text}, with {self.variance_share:.0%} of the variance of the data"


@dataclass(frozen=True)
class GenePanel:
    """Ordered genes, each with the name it is reported by and its human symbol.

    A panel that data sets share has human symbols for names. Symbols are the common vocabulary:
    genes of other spelling, species or id type are matched by them.

    Parameters
    ----------
    names : tuple of str
        Unique.
    symbols : tuple of str
        Human symbol of each, "" where there is none.

    Examples
    --------
    >>> panel = GenePanel.of_symbols(["GATA6", "NANOG", "SOX2"])
    >>> columns, coverage = panel.match(["Sox2", "Gata6"], ["SOX2", "GATA6"])
    >>> columns  # for each gene of the panel, its column in the data
    array([ 1, -1,  0])
    >>> print(coverage)
    2 genes matched, of 2 in the data and 3 in the panel
    """

    names: tuple[str, ...]
    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.symbols):
            actual = f"{len(self.symbols)} for {len(self.names)} genes"
            raise InputError("symbols", "one for each gene", actual, 'give "" where there is none')
        require_unique(self.names, "genes of a panel", "name each gene once")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """Of names and symbols, in their order."""
        return sha256(json.dumps([self.names, self.symbols]).encode()).hexdigest()

    @classmethod
    def of_symbols(cls, symbols: Sequence[str]) -> GenePanel:
        """A panel of human symbols."""
        return cls(tuple(symbols), tuple(symbols))

    def match(
        self, names: Sequence[str], symbols: Sequence[str]
    ) -> tuple[NDArray[np.int64], Coverage]:
        """Find the genes of the panel among those of a data set, by name, else by symbol.

        Parameters
        ----------
        names, symbols : sequence of str
            Of the data, as :func:`human_symbols` gives them.

        Returns
        -------
        columns : (panel,)
            Column of each gene of the panel in the data, -1 where it was not measured.
        coverage : Coverage

        Raises
        ------
        InputError
            If no gene matches; names likely causes.

        Warns
        -----
        UserWarning
            If less than half of the genes match.
        """
        columns = pd.Index(names).get_indexer(pd.Index(self.names))
        by_id = _by_id(names)
        # a symbol that several genes share says nothing about which of them is meant
        by_symbol = {symbol: column for column, symbol in enumerate(symbols) if symbol}
        repeated = _repeated(symbols) | _repeated(self.symbols)
        for row in np.flatnonzero(columns < 0):
            symbol = self.symbols[row]
            columns[row] = by_id.get(_without_version(self.names[row]), -1)
            if columns[row] < 0 and symbol not in repeated:
                columns[row] = by_symbol.get(symbol, -1)
        coverage = Coverage(int((columns >= 0).sum()), len(names), len(self))
        self.require_covering(coverage, names)
        return columns, coverage

    def positions(self, symbols: Sequence[str]) -> NDArray[np.int64]:
        """For each gene of a data set, by its symbol: where it is in the panel, -1 if absent."""
        columns = pd.Index(self.symbols).get_indexer(pd.Index(symbols))
        columns[np.array([not symbol for symbol in symbols])] = -1
        return columns

    def require_covering(self, coverage: Coverage, names: Sequence[str]) -> None:
        """Refuse data with these `names` if no gene matched, warn if less than half did."""
        if coverage.matched == 0:
            raise InputError(
                "genes",
                f"some of the {len(self)} of the panel, such as {', '.join(self.names[:3])}",
                f"none of them among {len(names)}, such as {', '.join(names[:3])}",
                _likely_cause(names),
            )
        if coverage.share < MIN_COVERAGE:
            warnings.warn(f"low coverage: {coverage}", stacklevel=3)

    def save(self, file: Path) -> None:
        """Write the panel to a JSON file."""
        file.write_text(json.dumps({"names": self.names, "symbols": self.symbols}))

    @classmethod
    def load(cls, file: Path) -> GenePanel:
        """Read a panel from a JSON file."""
        return as_type(cls, read_json(file), str(file))


def human_symbols(var: pd.DataFrame, source: str | Mapping[str, str] | None = None) -> list[str]:
    """The human symbol of every gene, "" where there is none.

    Parameters
    ----------
    var : DataFrame
        Genes in rows, as in `AnnData.var`.
    source : str or mapping, optional
        Column of `var` with human symbols, or a table from the names in `var` to human symbols
        (an Ensembl id is looked up with and without its version). By default the column
        "human_symbol" if there is one; for Ensembl ids a column of symbols; else the names. Mouse
        symbols (Sox2) become human ones by upper case, which is right for 92 % of one-to-one
        orthologs.

    Raises
    ------
    InputError
        If a column is not there, or Ensembl ids come without symbols.

    Examples
    --------
    >>> import pandas as pd
    >>> human_symbols(pd.DataFrame(index=["Sox2", "Pou5f1"]))
    ['SOX2', 'POU5F1']
    >>> var = pd.DataFrame({"gene_name": ["TP53"]}, index=["ENSG00000141510.16"])
    >>> human_symbols(var)
    ['TP53']
    """
    names = var.index.astype(str)
    if isinstance(source, Mapping):
        table = {str(name): str(symbol) for name, symbol in source.items()}
        table |= {_without_version(name): symbol for name, symbol in table.items()}
        return [table.get(name) or table.get(_without_version(name)) or "" for name in names]
    if source is not None and source not in var:
        raise InputError(
            f'var["{source}"]',
            "a column of human symbols",
            f"columns {listed(var.columns) or '(none)'}",
            "name one of those, or give a table",
        )
    column = source or ("human_symbol" if "human_symbol" in var else None)
    if column is not None:
        return _undated([_text(symbol) for symbol in var[column]])
    ensembl = np.array([bool(_ENSEMBL.match(name)) for name in names])
    if ensembl.mean() > 0.5:
        known = [name for name in var.columns if str(name).lower() in _SYMBOL_COLUMNS]
        if not known:
            raise InputError(
                "genes",
                "symbols beside Ensembl ids",
                f"ids such as {names[0]} and no column of symbols in var",
                'add var["human_symbol"], or give a table from ids to symbols',
            )
        symbols = [_text(symbol) for symbol in var[known[0]]]
        symbols = ["" if _ENSEMBL.match(symbol) else symbol for symbol in symbols]
    else:
        symbols = ["" if is_id else name for name, is_id in zip(names, ensembl, strict=True)]
    symbols = _undated(symbols)
    return [symbol.upper() for symbol in symbols] if _look_murine(symbols) else symbols


def _undated(symbols: list[str]) -> list[str]:
    """Without those that a spreadsheet has turned into dates, with a notice."""
    dated = _are_dates(symbols)
    if dated.any():
        shown = listed([symbol for symbol, is_date in zip(symbols, dated, strict=True) if is_date])
        warnings.warn(
            f"{dated.sum()} names of genes are dates of a spreadsheet, {shown}: they are not "
            "matched with other data; restore MARCHF, SEPTIN and DELEC genes to have them",
            stacklevel=3,
        )
    return ["" if is_date else symbol for symbol, is_date in zip(symbols, dated, strict=True)]


def merge_duplicates(
    symbols: Sequence[str], on_duplicates: OnDuplicates = "error"
) -> tuple[list[str], sparse.csr_array]:
    """How columns of genes become columns of unique symbols; those without a symbol are left out.

    Parameters
    ----------
    symbols : sequence of str
        One for each column, "" for none.
    on_duplicates : {"error", "sum", "mean", "first"}
        What becomes of columns with the same symbol.

    Returns
    -------
    unique : list of str
        In order of first appearance.
    selection : (columns, unique)
        Multiply a matrix (cells, columns) by it.

    Raises
    ------
    InputError
        On duplicates, which it names, with "error".
    """
    kept = np.array([column for column, symbol in enumerate(symbols) if symbol], dtype=np.int64)
    codes, unique = pd.factorize(np.array([symbols[column] for column in kept], dtype=object))
    if on_duplicates == "error":
        require_unique(
            [symbols[column] for column in kept],
            "human symbols",
            "merge them with on_duplicates (--on-duplicates) sum, mean or first",
        )
    if on_duplicates == "first":
        _, first = np.unique(codes, return_index=True)
        kept, codes = kept[first], codes[first]
    sizes = np.bincount(codes, minlength=len(unique))
    weights = 1 / sizes[codes] if on_duplicates == "mean" else np.ones(len(codes))
    selection = sparse.csr_array(
        (weights.astype(np.float32), (kept, codes)), shape=(len(symbols), len(unique))
    )
    return [str(symbol) for symbol in unique], selection


def require_unique(names: Sequence[str], what: str, fix: str) -> None:
    """Refuse repeated names, and name them."""
    if repeated := sorted(_repeated(names)):
        raise InputError(what, "unique names", f"{listed(repeated)} repeated", fix)


def _repeated(names: Sequence[str]) -> set[str]:
    """Names that stand there more than once."""
    index = pd.Index(names, dtype=object)
    return {str(name) for name in index[index.duplicated()] if name}


def _likely_cause(names: Sequence[str]) -> str:
    """Why genes may not match, for a warning."""
    if any(_ENSEMBL.match(name) for name in names[:100]):
        return "the wrong id type: these are Ensembl ids, give a column of symbols or a table"
    if _look_murine(names):
        return "the wrong species: these look like mouse symbols, give var['human_symbol']"
    return "the wrong species or id type: give human symbols in var['human_symbol'], or a table"


def _look_murine(symbols: Sequence[str]) -> bool:
    """Whether most symbols are spelled as in mouse: one capital, then a lower-case letter."""
    named = [symbol for symbol in symbols if len(symbol) > 1 and symbol[:2].isalpha()]
    return sum(symbol[0].isupper() and symbol[1].islower() for symbol in named) > len(named) / 2


def _by_id(names: Sequence[str]) -> dict[str, int]:
    """Columns of Ensembl ids, whatever their version; not of those that are there twice."""
    stable_ids = [_without_version(name) if _ENSEMBL.match(name) else "" for name in names]
    repeated = _repeated(stable_ids)
    return {
        stable_id: row
        for row, stable_id in enumerate(stable_ids)
        if stable_id and stable_id not in repeated
    }


def _are_dates(names: Sequence[str]) -> NDArray[np.bool_]:
    """Names that a spreadsheet has made of MARCH1, SEPT2, DEC1: 1-Mar, 2-Sep, or days since 1900.

    Of the families of these names a day is 1 to 15; which gene a date was is not always plain.
    """
    is_date = np.array([bool(_DATE_NAME.match(name)) for name in names], dtype=bool)
    numbers = np.flatnonzero([bool(_DAY_NUMBER.match(name)) for name in names])
    for row in numbers.tolist():
        day = _SPREADSHEET_EPOCH + timedelta(days=int(names[row]))
        is_date[row] = day.month in (3, 9, 12) and day.day <= _MOST_OF_FAMILY
    return is_date


def _without_version(name: str) -> str:
    """ENSG00000141510 for ENSG00000141510.17; other names as they are."""
    match = _ENSEMBL.match(name)
    return match[1] if match else name


def _text(value: object) -> str:
    """As text; empty where there is none."""
    return "" if value is None or value is pd.NA or value != value else str(value).strip()


@dataclass(frozen=True)
class GeneOptions:
    """How the genes of a file are read.

    Parameters
    ----------
    symbols : str or mapping, optional
        Where human symbols are, see :func:`cellmnn_fm.data.genes.human_symbols`.
    on_duplicates : {"error", "sum", "mean", "first"}
        What becomes of genes with the same human symbol, where symbols must be unique.
    """

    symbols: SymbolSource = None
    on_duplicates: OnDuplicates = "error"

    def __post_init__(self) -> None:
        require_known("on_duplicates", self.on_duplicates, get_args(OnDuplicates))
