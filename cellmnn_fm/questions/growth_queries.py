"""Questions about growth to a fitted model, about AnnData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ..data.times import TimeKey
from ..dynamics.snapshots import growth_rates
from ..model.errors import InputError, listed
from ..model.torch_defaults import with_torch_defaults
from .growth import PopulationSize, require_growth
from .queries import FittedQueries

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class GrowthTable:
    """How fast cells multiply: births less deaths, per unit of time.

    Attributes
    ----------
    rates : Series
        Of each cell; relative to the mean of the cells of its time, unless `absolute`.
    groups : DataFrame, optional
        For each "time" and "group": mean "rate", "cells", their "share" of the snapshot and, if
        `absolute`, the "size" of the group.
    absolute : bool
        Whether counts told what all cells have in common.
    """

    rates: pd.Series
    groups: pd.DataFrame | None
    absolute: bool


class GrowthQueries(FittedQueries):
    """How fast cells multiply and die, and how many there are."""

    @with_torch_defaults
    def growth(
        self,
        adata: AnnData,
        groups: str | None = None,
        *,
        population: Mapping[float, float] | None = None,
        absolute: bool = False,
        time_key: str | TimeKey | None = None,
    ) -> GrowthTable:
        """How fast the cells of `adata` multiply.

        Rates of single cells are noisy; means of groups are what to read.

        Parameters
        ----------
        adata : AnnData
            Observed cells.
        groups : str, optional
            Column of `obs`, such as cell types, to take means over.
        population : mapping, optional
            How many cells there were at two or more times, in any unit, see
            :class:`cellmnn_fm.questions.growth.PopulationSize`; for absolute rates and sizes of
            groups.
        absolute : bool
            Ask for absolute rates, which is an error without `population`.
        time_key : str, optional
            Column of times, where it differs from that of the fit.

        Raises
        ------
        InputError
            If the model was fitted without growth, and on columns or counts that cannot be used.

        Examples
        --------
        >>> from cellmnn_fm import CellMNNPipeline
        >>> from cellmnn_fm.data.synthetic import GROWING_SWITCH
        >>> adata = GROWING_SWITCH.to_anndata(cells=100, seed=0)
        >>> adata.obs["branch"] = (adata.X[:, 0] > 0).astype(str)
        >>> pipeline = CellMNNPipeline().fit(adata, time_key="time", growth=True, verdict=False)
        >>> found = pipeline.growth(adata, "branch", population={0.0: 1000, 3.0: 1350})
        >>> list(found.groups.columns)
        ['time', 'group', 'rate', 'cells', 'share', 'size']
        """
        fitted = self.fitted_to(adata, time_key)
        require_growth(fitted.model)
        if groups is not None and groups not in adata.obs:
            raise InputError("groups", f"one of {listed(adata.obs.columns)}", groups, "name one")
        absolute = absolute or population is not None
        size = PopulationSize.of(population) if absolute else None
        _, states, times, _ = fitted._read(adata, time_key)
        rates = growth_rates(fitted.model, states, times, fitted.record.time_scale)
        if size is not None:
            rates = rates + size.common_rate(times)
        found = pd.Series(rates, index=adata.obs_names, name="rate")
        if groups is None:
            return GrowthTable(found, None, absolute)
        labels = adata.obs[groups].astype(object).to_numpy()
        cells = pd.DataFrame({"time": times, "group": labels, "rate": rates}).dropna()
        table = cells.groupby(["time", "group"])["rate"].agg(rate="mean", cells="size")
        table = table.reset_index()
        table["share"] = table["cells"] / table.groupby("time")["cells"].transform("sum")
        if size is not None:
            table["size"] = table["share"] * size.at(table["time"].to_numpy())
        return GrowthTable(found, table, absolute)


def read_population(counts: Sequence[str]) -> dict[float, float]:
    """Counts by time from "TIME=CELLS", as a command line has them."""
    try:
        return {float(time): float(cells) for time, cells in (one.split("=") for one in counts)}
    except ValueError:
        raise InputError("population", "TIME=CELLS", listed(counts), "give two numbers") from None
