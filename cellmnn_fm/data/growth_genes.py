"""What is known of how fast cells multiply: a column of rates, or genes that tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..model.errors import InputError, listed
from .genes import GenePanel, human_symbols
from .reading import Source, read_source, require_finite

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class GrowthGenes:
    """Genes whose expression says how fast cells multiply, as human symbols.

    Parameters
    ----------
    proliferation, apoptosis : tuple of str
        Genes of dividing and of dying cells.
    """

    proliferation: tuple[str, ...] = (
        *("MKI67", "TOP2A", "PCNA", "MCM2", "MCM3", "MCM4", "MCM5", "MCM6", "MCM7", "RRM2"),
        *("TYMS", "CDK1", "CCNA2", "CCNB1", "CCNB2", "CDC20", "AURKA", "AURKB", "BUB1", "PLK1"),
        *("BIRC5", "UBE2C", "TPX2", "CENPF", "NUSAP1", "HMGB2"),
    )
    apoptosis: tuple[str, ...] = (
        *("BAX", "BAK1", "BBC3", "PMAIP1", "BID", "BIK", "BMF", "HRK", "APAF1", "CASP3"),
        *("CASP7", "CASP8", "CASP9", "FAS", "FADD", "TNFRSF10B", "TP53I3", "CYCS", "DIABLO"),
    )

    def score(self, source: Source, symbols: Any = None) -> NDArray[np.float64]:
        """Mean z-score of the genes of division less that of those of death, of unit spread.

        Raises
        ------
        InputError
            If none of the genes is there and varies.
        """
        if source.is_embedding:
            raise InputError(
                "growth", "genes to score", f"the embedding {source.name}", "give a column of rates"
            )
        names, total = source.names, np.zeros(source.shape[0])
        known = human_symbols(source.var, symbols)
        there = {*names, *known}
        for sign, genes in ((1.0, self.proliferation), (-1.0, self.apoptosis)):
            panel = GenePanel.of_symbols([gene for gene in genes if gene in there])
            columns = panel.match(names, known)[0] if len(panel) else np.empty(0, dtype=np.int64)
            values = [source.column(int(column)) for column in columns if column >= 0]
            scores = [(x - x.mean()) / x.std() for x in values if x.std() > 0]
            total += sign * np.mean(scores, axis=0) if scores else 0.0
        if not total.std() > 0:
            wanted = listed([*self.proliferation, *self.apoptosis])
            raise InputError("growth genes", f"some of {wanted}", "none that vary", "name others")
        return (total - total.mean()) / total.std()


Growth = bool | str | GrowthGenes
"""Whether cells multiply at a learned rate; the column of `obs` with known rates; or genes."""


def read_growth(
    adata: AnnData, growth: Growth, layer: str | None = None, symbols: Any = None
) -> NDArray[np.float64] | None:
    """What is known of how fast each cell multiplies, (cells,), if anything.

    Parameters
    ----------
    adata : AnnData
        With the genes, or the column, that are meant.
    growth : bool, str or GrowthGenes
        True or False: nothing. A column of `obs`: net rates per unit of time, births less deaths.
        Genes: scores, see :meth:`GrowthGenes.score`.
    layer : str, optional
        Where the genes are read, see :func:`read_source`.
    symbols : str or mapping, optional
        See :func:`cellmnn_fm.data.genes.human_symbols`.

    Raises
    ------
    InputError
        On a column that is not there or not of finite numbers, and on genes that are not there.
    """
    if isinstance(growth, bool):
        return None
    if isinstance(growth, GrowthGenes):
        return growth.score(read_source(adata, None, layer), symbols)
    if growth not in adata.obs:
        columns = listed(adata.obs.columns) or "(none)"
        raise InputError(f'growth column "{growth}"', "a column of obs", columns, "name one")
    if not pd.api.types.is_numeric_dtype(adata.obs[growth]):
        actual = f"text, such as {listed(adata.obs[growth].astype(str), 3)}"
        fix = "name a column of net rates per unit of time"
        raise InputError(f'growth column "{growth}"', "numbers", actual, fix)
    rates = pd.to_numeric(adata.obs[growth], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    require_finite(rates, f'growth column "{growth}"')
    return rates
