"""How fast cells multiply and die."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ..data.introduced import Introduced
from ..data.population import PopulationSize
from ..dynamics.snapshots import growth_rates
from ..fitted.fitted_model import Cells
from ..model.errors import InputError, listed
from ..model.modeling_cellmnn import CellMNNModel


def require_growth(model: CellMNNModel) -> None:
    """Refuse a model in which cells do not multiply."""
    if not model.config.growth:
        raise InputError("model", "one with growth", "one without", "fit it with growth")


@dataclass(frozen=True)
class GrowthTable(Introduced):
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

    def __repr__(self) -> str:
        low, high = self.rates.quantile([0.05, 0.95])
        of_what = "absolute" if self.absolute else "relative to all cells of a time"
        return (
            f"GrowthTable of {len(self.rates):,} cells, {of_what}\n"
            f"{low:.3g} to {high:.3g} for 90 % of them; rates, groups"
        )

    def _table(self) -> pd.DataFrame | None:
        """Of the groups."""
        return self.groups


def growth(
    cells: Cells,
    groups: str | None = None,
    *,
    population: Mapping[float, float] | None = None,
    absolute: bool = False,
) -> GrowthTable:
    """How fast cells multiply; see :meth:`CellMNNPipeline.growth`.

    Parameters
    ----------
    cells : Cells
        Observed, as a fitted model reads them.
    groups, population, absolute
        See there.

    Raises
    ------
    InputError
        If the model was fitted without growth, and on columns or counts that cannot be used.
    """
    fitted, adata, times = cells.fitted, cells.adata, cells.times
    require_growth(fitted.model)
    if groups is not None and groups not in adata.obs:
        raise InputError("groups", f"one of {listed(adata.obs.columns)}", groups, "name one")
    of_fit = fitted.record.population if population is None else None
    absolute = absolute or population is not None or of_fit is not None
    size = PopulationSize.of(population or of_fit) if absolute else None
    rates = growth_rates(fitted.dynamics, cells.states, times, absolute=of_fit is not None)
    if size is not None and of_fit is None:
        rates = rates + size.common_rate(times)
    of_cells = pd.Series(rates, index=adata.obs_names, name="rate")
    if groups is None:
        return GrowthTable(of_cells, None, absolute)
    labels = adata.obs[groups].astype(object).to_numpy()
    named = pd.DataFrame({"time": times, "group": labels, "rate": rates}).dropna()
    table = named.groupby(["time", "group"])["rate"].agg(rate="mean", cells="size")
    table = table.reset_index()
    table["share"] = table["cells"] / table.groupby("time")["cells"].transform("sum")
    if size is not None:
        table["size"] = table["share"] * size.at(table["time"].to_numpy())
    return GrowthTable(of_cells, table, absolute)
