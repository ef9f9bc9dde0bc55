"""Genes: how they go with time and fate, which of them drive fates, and each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..model.errors import InputError, listed
from .cells import unit_of
from .style import DOWN, SIGNED_COLORS, UP, finish, group_colors, new_axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from ..questions.fates import FateTable
    from ..questions.grn.network import GeneRegulatoryNetwork

_BAND = (0.25, 0.75)
_LEAST_SHARE = 0.02  # of all paths, for a curve of a fate
_SMOOTHING = 0.03  # of the whole time, in which a curve is a mean


def gene_trends(
    followed: AnnData,
    genes: str | Sequence[str],
    fates: FateTable | None = None,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """Genes in cells that are followed: the mean over time, a curve for each fate.

    The band holds half of the cells. A cell counts for a fate by its probability to end there;
    cells are left out once they would leave what the snapshots show.

    Parameters
    ----------
    followed : AnnData
        From `CellMNNPipeline.trajectory`; many times make smooth curves.
    genes : str or sequence of str
        A panel for each.
    fates : FateTable, optional
        Of the cells that were followed. Without, one curve for all.
    ax, show, save
        As for :func:`cellmnn_fm.pl.velocity_stream`; `ax` for a single gene.

    Raises
    ------
    InputError
        On genes that are not there, and without any cell to draw.
    """
    from matplotlib.ticker import MaxNLocator

    genes = [genes] if isinstance(genes, str) else list(genes)
    if missing := [gene for gene in genes if gene not in followed.var_names]:
        raise InputError("genes", "genes of the trajectory", listed(missing), "correct them")
    kept = ~followed.obs["stopped"].to_numpy()
    if not kept.any():
        raise InputError("cells", "some within what the snapshots show", "none", "follow others")
    time_of_cell = followed.obs["time"].to_numpy()
    times = np.unique(time_of_cell[kept])
    weights = _fate_weights(followed, fates)
    weights = weights.loc[:, (weights[kept].mean() >= _LEAST_SHARE).to_numpy()]
    colors = group_colors(list(weights.columns))
    with new_axes(ax, save, len(genes), (2.9, 2.5), same_scale=False) as axes:
        for axis, gene in zip(axes, genes, strict=True):
            x = np.asarray(followed[:, gene].X).ravel()
            for name in weights:
                weight = weights[name].to_numpy() * kept
                curve = np.array(
                    [
                        _summary(x[then], weight[then])
                        for then in (time_of_cell == time for time in times)
                    ]
                )
                mean, low, high = _smoothed(curve, times).T
                axis.plot(times, mean, color=colors[name], label=name, lw=1.8)
                axis.fill_between(times, low, high, color=colors[name], alpha=0.18, linewidth=0)
            axis.set(title=gene, xlabel=f"time{unit_of(followed, brackets=True)}")
            axis.yaxis.set_major_locator(MaxNLocator(5))
        axes[0].set_ylabel("expression")
        if fates is not None:
            handles, labels = axes[0].get_legend_handles_labels()
            axes[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return finish(axes, ax, show, save)


def drivers(
    fates: FateTable,
    genes: int | Sequence[str] = 10,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """Genes that go with fates, as a heat map.

    Parameters
    ----------
    fates : FateTable
        From `CellMNNPipeline.fates`.
    genes : int or sequence of str
        So many for each fate, those that raise its probability most; or these.
    ax, show, save
        As for :func:`cellmnn_fm.pl.velocity_stream`.
    """
    table = fates.drivers
    if isinstance(genes, int):
        names = list(
            dict.fromkeys(
                gene
                for group in table
                for gene in table[group].sort_values(ascending=False, kind="stable").index[:genes]
            )
        )
    else:
        names = list(genes)
        if missing := [gene for gene in names if gene not in table.index]:
            raise InputError("genes", "genes of the fates", listed(missing), "correct them")
    values = table.loc[names].to_numpy()
    most = np.abs(values).max() or 1.0
    size = (1.9 + 0.55 * values.shape[1], 1.2 + 0.19 * len(names))
    with new_axes(ax, save, size=size) as (axes,):
        image = axes.imshow(
            values, cmap=SIGNED_COLORS, vmin=-most, vmax=most, aspect="auto", interpolation="none"
        )
        axes.set_xticks(range(values.shape[1]), list(table.columns), rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.5, aspect=18)
        bar.set_label("change of probability\nper standard deviation", fontsize=7)
        bar.outline.set_visible(False)
        return finish([axes], ax, show, save)


def network(
    grn: GeneRegulatoryNetwork,
    top_k: int = 30,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    **selection: Any,
) -> Axes | list[Axes] | None:
    """The strongest edges: positive in red, negative in blue.

    Two genes that are joined in both directions by edges of one sign share a line without arrow:
    snapshots cannot tell which of them drives the other. In a network that is co-expression only
    no edge has an arrow, unless its reverse has the other sign.

    Parameters
    ----------
    grn : GeneRegulatoryNetwork
        From `CellMNNPipeline.grn`.
    top_k : int
        How many edges.
    ax, show, save
        As for :func:`cellmnn_fm.pl.velocity_stream`.
    **selection
        As for :meth:`GeneRegulatoryNetwork.to_dataframe`, such as `targets`.
    """
    import networkx
    from matplotlib.lines import Line2D

    graph = grn.to_networkx(top_k=top_k, **selection)
    if not graph.number_of_edges():
        raise InputError("edges", "one or more", "none", "ask for more, or select others")
    most = max(abs(weight) for _, _, weight in graph.edges(data="weight"))
    both, alone, directed = [], [], grn.kind == "directed"
    for source, target, weight in graph.edges(data="weight"):
        back = graph.get_edge_data(target, source, {"weight": 0.0})["weight"]
        if back * weight < 0 or (back == 0 and directed):
            alone.append((source, target, weight))
        elif back == 0:  # its reverse is as strong, and just beyond the `top_k`
            both.append((source, target, weight))
        elif source < target:
            both.append((source, target, weight if abs(weight) > abs(back) else back))
    with new_axes(ax, save, size=(6.0, 5.6)) as (axes,):
        places = _laid_out(graph)
        networkx.draw_networkx_nodes(
            graph, places, ax=axes, node_color="#f2f2f2", edgecolors="0.7", node_size=260
        )
        networkx.draw_networkx_labels(graph, places, ax=axes, font_size=6.5)
        for edges, arrows in ((both, False), (alone, True)):
            for source, target, weight in edges:
                networkx.draw_networkx_edges(
                    graph,
                    places,
                    [(source, target)],
                    ax=axes,
                    edge_color=UP if weight > 0 else DOWN,
                    width=0.5 + 2.5 * abs(weight) / most,
                    alpha=0.85,
                    arrows=True,
                    arrowstyle="-|>" if arrows else "-",
                    connectionstyle="arc3,rad=0.08" if arrows else "arc3",
                    node_size=260,
                )
        signs = {"positive": UP, "negative": DOWN}
        lines = [Line2D([], [], color=color, label=name) for name, color in signs.items()]
        axes.legend(handles=lines, loc="lower left")
        axes.margins(0.12)
        axes.axis("off")
        return finish([axes], ax, show, save)


def _laid_out(graph: Any) -> dict[str, NDArray]:
    """Places of the genes: parts that hang together beside each other, none over another."""
    import networkx

    whole = networkx.Graph()
    whole.add_nodes_from(sorted(graph))
    whole.add_edges_from(sorted(graph.edges()))
    parts = sorted(networkx.connected_components(whole), key=lambda part: (-len(part), min(part)))
    # one long edge from each part to the largest keeps it in sight
    for part in parts[1:]:
        whole.add_edge(min(part), min(parts[0]), weight=0.15)
    start = networkx.circular_layout(whole)
    spread = 3.2 / np.sqrt(len(whole))
    return networkx.spring_layout(whole, k=spread, pos=start, iterations=400, seed=0)


def _fate_weights(followed: AnnData, fates: FateTable | None) -> pd.DataFrame:
    """How much each row counts for each fate."""
    if fates is None:
        return pd.DataFrame({"all cells": np.ones(followed.n_obs)}, index=followed.obs_names)
    source = followed.obs["source_cell"].astype(str)
    probabilities = fates.probabilities
    by_name = probabilities[~probabilities.index.duplicated()]  # of cells of one name the first
    known = by_name.reindex(source).set_axis(followed.obs_names)
    if known.isna().all(axis=None):
        raise InputError("fates", "those of the cells that were followed", "others", "ask for them")
    return known.fillna(0.0)


def _summary(x: NDArray, weight: NDArray) -> tuple[float, float, float]:
    """Mean and the ends of the band, of values (cells,) with weights (cells,)."""
    if not weight.sum():
        return np.nan, np.nan, np.nan
    order = np.argsort(x)
    reached = np.cumsum(weight[order]) / weight.sum()
    low, high = (float(x[order][np.searchsorted(reached, share)]) for share in _BAND)
    return float(np.average(x, weights=weight)), low, high


def _smoothed(curve: NDArray, times: NDArray) -> NDArray[np.float64]:
    """Means over near times, (times, columns), of `curve` (times, columns) at `times` (times,)."""
    width = max(_SMOOTHING * (times[-1] - times[0]), 1e-12)
    near = np.exp(-0.5 * np.square((times[:, None] - times) / width))
    known = np.isfinite(curve).all(axis=1)
    near = near * known
    total = near.sum(axis=1, keepdims=True)
    smooth = near @ np.where(known[:, None], curve, 0.0) / np.maximum(total, 1e-12)
    return np.where(known[:, None], smooth, np.nan)
