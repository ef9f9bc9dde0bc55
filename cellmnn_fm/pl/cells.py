"""Cells and what becomes of them, drawn where the user has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..model.errors import InputError, listed
from .placing import Placing
from .style import (
    SIGNED_COLORS,
    TIME_COLORS,
    UNSEEN,
    VALUE_COLORS,
    finish,
    group_colors,
    new_axes,
    scatter,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_GRID = 40  # points of a stream plot in each direction
_ON_GRID = 30  # neighbours that say how cells move at one
_MOST_POINTS = 20_000  # of a scatter plot: more only hide each other
_PATHS_SHOWN = 150
_MOST_GROUPS = 20  # of a legend


def velocity_stream(
    adata: AnnData,
    basis: str | None = None,
    color: str | None = None,
    *,
    density: float = 1.0,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """Where cells are going, as streamlines over cells coloured by time or anything else.

    Parameters
    ----------
    adata : AnnData
        From `CellMNNPipeline.annotate`.
    basis : str, optional
        Embedding in `obsm`, such as "umap"; see :class:`cellmnn_fm.pl.placing.Placing`.
    color : str, optional
        Column of `obs`, or a gene; the time of the cells by default.
    density : float
        Of the streamlines.
    ax : Axes, optional
        To draw on.
    show : bool, optional
        Whether to show the figure; where there is a place for it by default.
    save : path, optional
        Where to write it.

    Returns
    -------
    Axes, unless the figure is shown.

    Raises
    ------
    InputError
        On cells without latent states, and on names that are not there.
    """
    placing = Placing.of(adata, basis)
    with new_axes(ax, save, size=(4.8, 3.8)) as (axes,):
        _scatter(axes, adata, placing, color, faint=True)
        x, y, u, v = stream_grid(
            placing.placed, placing.of_velocity(adata.obsm["cellmnn_velocity"])
        )
        speed = np.hypot(u, v)
        width = 0.4 + 1.2 * np.nan_to_num(speed / np.nanquantile(speed, 0.9)).clip(0, 1)
        axes.streamplot(
            x, y, u, v, density=1.3 * density, color="0.15", linewidth=width, arrowsize=0.8
        )
        _label(axes, placing)
        return finish([axes], ax, show, save)


def stream_grid(placed: NDArray, velocity: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Velocities on a grid, for streamlines, and nothing where there are no cells.

    A mean over the nearest cells, by a Gaussian kernel of the width of the grid.

    Parameters
    ----------
    placed, velocity : (cells, 2)
        Of cells in two dimensions.

    Returns
    -------
    x, y : (points,)
    u, v : (points, points)
        NaN where no cells are.
    """
    from sklearn.neighbors import NearestNeighbors

    low, high = placed.min(axis=0), placed.max(axis=0)
    margin = 0.02 * (high - low)
    x, y = (
        np.linspace(start, stop, _GRID)
        for start, stop in zip(low - margin, high + margin, strict=True)
    )
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    step = np.array([x[1] - x[0], y[1] - y[0]])
    count = min(_ON_GRID, len(placed))
    search = NearestNeighbors(n_neighbors=count).fit(placed / step)
    distances, nearest = search.kneighbors(grid / step)
    weights = np.exp(-0.5 * np.square(distances / 1.5))
    mass = weights.sum(axis=1)
    moved = (weights[..., None] * velocity[nearest]).sum(axis=1) / np.maximum(mass, 1e-9)[:, None]
    # as much as a single cell within one step
    moved[mass < max(0.6, 0.03 * np.quantile(mass, 0.95))] = np.nan
    u, v = moved.T.reshape(2, _GRID, _GRID)
    return x, y, u, v


def interpolation(
    adata: AnnData,
    predicted: AnnData,
    basis: str | None = None,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """A predicted snapshot among the observed ones.

    Parameters
    ----------
    adata : AnnData
        Observed cells, from `CellMNNPipeline.annotate`.
    predicted : AnnData
        From `CellMNNPipeline.interpolate`, of the same pipeline.
    basis, ax, show, save
        As for :func:`velocity_stream`.
    """
    placing, times = Placing.of(adata, basis), predicted.obs["time"].unique()
    size = (4.8, 3.8) if len(times) == 1 else (3.6, 3.2)
    with new_axes(ax, save, len(times), size) as axes:
        for number, (axis, time) in enumerate(zip(axes, times, strict=True)):
            _scatter(axis, adata, placing, None, explained=number == len(times) - 1)
            then = (predicted.obs["time"] == time) & ~predicted.obs["stopped"]
            weight = predicted.obs["weight"].to_numpy()[then]
            placed = placing.of_states(predicted.obsm["X_cellmnn"][then])
            dots = 9 * (weight / weight.mean()).clip(0.3, 3)
            scatter(axis, placed, s=dots, color=UNSEEN, alpha=0.7, zorder=3)
            axis.set_title(f"predicted at {time:g}{unit_of(adata)}", color=UNSEEN)
            _label(axis, placing)
        return finish(axes, ax, show, save)


def trajectories(
    adata: AnnData,
    followed: AnnData,
    basis: str | None = None,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """Paths of cells that were followed, over the observed ones.

    Parameters
    ----------
    adata : AnnData
        Observed cells, from `CellMNNPipeline.annotate`.
    followed : AnnData
        From `CellMNNPipeline.trajectory`, of the same pipeline. Many times make smooth paths:
        `times=numpy.linspace(first, last, 50)`.
    basis, ax, show, save
        As for :func:`velocity_stream`.
    """
    from matplotlib.collections import LineCollection

    placing = Placing.of(adata, basis)
    times = np.sort(followed.obs["time"].unique())
    states = np.where(followed.obs[["stopped"]], np.nan, followed.obsm["X_cellmnn"])
    # ordered by time, and cells within
    states = states.reshape(len(times), -1, states.shape[1])[:, :_PATHS_SHOWN]
    inside = np.isfinite(states).all(axis=-1)
    paths = np.full((*inside.shape, 2), np.nan)
    paths[inside] = placing.of_states(states[inside])
    with new_axes(ax, save, size=(4.8, 3.8)) as (axes,):
        observed = placing.placed[_shown(len(placing.placed))]
        scatter(axes, observed, s=_dot_size(len(observed)), color="0.85")
        segments = np.stack([paths[:-1], paths[1:]], axis=2).reshape(-1, 2, 2)
        middle = np.repeat((times[:-1] + times[1:]) / 2, paths.shape[1])
        whole = np.isfinite(segments).all(axis=(1, 2))
        lines = LineCollection(
            list(segments[whole]), array=middle[whole], cmap=TIME_COLORS, linewidths=0.7, alpha=0.8
        )
        lines.set_clim(times[0], times[-1])
        axes.add_collection(lines)
        start, stop = paths[0], paths[-1]
        scatter(axes, start, s=6, color="0.2", zorder=3, label="start")
        scatter(
            axes, stop, s=12, color="white", edgecolors="0.2", linewidths=0.6, zorder=3, label="end"
        )
        axes.legend(loc="best", handletextpad=0.2)
        _colorbar(axes, lines, f"time{unit_of(adata, brackets=True)}")
        _label(axes, placing)
        return finish([axes], ax, show, save)


def fates(
    adata: AnnData,
    basis: str | None = None,
    key: str = "cellmnn_fates",
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """How likely each end is for every cell: one panel for two fates, one for each of more.

    Parameters
    ----------
    adata : AnnData
        Annotated cells with fates, see :meth:`cellmnn_fm.questions.fates.FateTable.add_to`.
    basis : str, optional
        As for :func:`velocity_stream`; "circle" for a projection in which each fate is a corner,
        and cells are the nearer to it the more likely they end there.
    key : str
        Of the fates in `obsm`.
    ax, show, save
        As for :func:`velocity_stream`; `ax` for two fates alone, and for a circle.
    """
    probabilities = fate_probabilities(adata, key)
    followed = probabilities.notna().all(axis=1).to_numpy()
    names = list(probabilities.columns)
    if basis == "circle":
        return _fate_circle(adata[followed], probabilities[followed], ax, show, save)
    placing = Placing.of(adata, basis)
    single = len(names) == 2
    panels = 1 if single else len(names)
    with new_axes(ax, save, panels, (4.8, 3.8) if single else (3.0, 2.9)) as axes:
        order = np.random.default_rng(0).permutation(np.flatnonzero(followed))
        order = order[:_MOST_POINTS]
        shown = names[:1] if single else names
        for axis, name in zip(axes, shown, strict=True):
            scatter(axis, placing.placed[~followed], s=4, color="0.88")
            dots = scatter(
                axis,
                placing.placed[order],
                c=probabilities[name].to_numpy()[order],
                cmap=SIGNED_COLORS if single else VALUE_COLORS,
                vmin=0,
                vmax=1,
                s=_dot_size(len(order)) + 2,
            )
            axis.set_title("" if single else name)
            _label(axis, placing)
        bar = axes[0].figure.colorbar(dots, ax=list(axes), shrink=0.8, aspect=25)
        if single:
            bar.set_ticks([0, 0.5, 1], labels=[names[1], "0.5", names[0]])
        else:
            bar.set_label("probability")
        return finish(axes, ax, show, save)


def _fate_circle(
    adata: AnnData,
    probabilities: pd.DataFrame,
    ax: Axes | None,
    show: bool | None,
    save: str | Path | None,
) -> Axes | list[Axes] | None:
    """Cells among corners, one for each fate."""
    names = list(probabilities.columns)
    if len(names) < 3:
        raise InputError("basis circle", "three fates or more", len(names), "take an embedding")
    angles = 2 * np.pi * np.arange(len(names)) / len(names) + np.pi / 2
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    placed = probabilities.to_numpy() @ corners
    times = _times(adata)
    with new_axes(ax, save, size=(4.6, 3.8)) as (axes,):
        axes.plot(*np.vstack([corners, corners[:1]]).T, color="0.8", lw=0.8, zorder=0)
        dots = scatter(axes, placed, c=times, cmap=TIME_COLORS, s=8, alpha=0.8)
        for corner, name in zip(corners, names, strict=True):
            x, y = 1.06 * corner
            side = "center" if abs(x) < 0.3 else ("left" if x > 0 else "right")
            axes.text(x, y, name, ha=side, va="bottom" if y > 0 else "top", fontsize=8)
        axes.set(xlim=(-1.5, 1.5), ylim=(-1.25, 1.3), aspect="equal")
        axes.axis("off")
        _colorbar(axes, dots, f"time{unit_of(adata, brackets=True)}")
        return finish([axes], ax, show, save)


def growth(
    adata: AnnData,
    basis: str | None = None,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """How fast cells multiply, relative to those of their time.

    Parameters
    ----------
    adata : AnnData
        From `CellMNNPipeline.annotate`, of a fit with growth.
    basis, ax, show, save
        As for :func:`velocity_stream`.
    """
    if "cellmnn_growth" not in adata.obs:
        raise InputError("adata", "cells with growth", "none", "fit with growth, then annotate")
    placing, rates = Placing.of(adata, basis), adata.obs["cellmnn_growth"].to_numpy()
    most = float(np.quantile(np.abs(rates), 0.99)) or 1.0
    with new_axes(ax, save, size=(4.8, 3.8)) as (axes,):
        order = _shown(len(rates))
        dots = scatter(
            axes,
            placing.placed[order],
            c=rates[order],
            cmap=SIGNED_COLORS,
            vmin=-most,
            vmax=most,
            s=_dot_size(len(order)) + 2,
        )
        per = unit_of(adata).strip().rstrip("s") or "unit of time"
        _colorbar(axes, dots, f"births less deaths, per {per}")
        _label(axes, placing)
        return finish([axes], ax, show, save)


def fate_probabilities(adata: AnnData, key: str) -> pd.DataFrame:
    """Fates of all cells of a file, NaN for those that were not followed.

    Raises
    ------
    InputError
        If there are none.
    """
    if key not in adata.obsm or not isinstance(adata.obsm[key], pd.DataFrame):
        actual = listed(adata.obsm) or "none"
        raise InputError(
            f'obsm["{key}"]', "fates", actual, "call pipeline.fates(...).add_to(adata)"
        )
    return adata.obsm[key]


def _scatter(
    axes: Axes,
    adata: AnnData,
    placing: Placing,
    color: str | None,
    *,
    faint: bool = False,
    explained: bool = True,
) -> None:
    """Observed cells, coloured by time, a column of `obs` or a gene, with what colours mean."""
    values, title = _times(adata), f"time{unit_of(adata, brackets=True)}"
    if color is not None:
        values, title = _values(adata, color), color
    order = _shown(len(values))
    look: dict[str, Any] = {"s": _dot_size(len(order))}
    look["alpha"] = 0.55 if faint else 0.7
    placed = placing.placed[order]
    if isinstance(values.dtype, pd.CategoricalDtype):
        names = [str(name) for name in values.cat.categories]
        of_file = adata.uns.get(f"{color}_colors")
        colors = group_colors(names)
        if of_file is not None and len(of_file) >= len(names):
            colors = dict(zip(names, of_file, strict=False))
        labels = values.astype(str).to_numpy()[order]
        for name in names[:_MOST_GROUPS]:
            rows = labels == name
            scatter(axes, placed[rows], color=colors[name], label=name, **look)
        legend = axes.legend(
            title=title, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
        return
    numbers = values.to_numpy(dtype=float)[order]
    colors_of = TIME_COLORS if color is None else VALUE_COLORS
    dots = scatter(axes, placed, c=numbers, cmap=colors_of, **look)
    if explained:
        _colorbar(axes, dots, title)


def _values(adata: AnnData, color: str) -> pd.Series:
    """A column of `obs`, categorical where it is none of numbers, or the values of a gene."""
    if color in adata.obs:
        column = adata.obs[color]
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        return column if numeric else column.astype("category")
    if color in adata.var_names:
        values = adata[:, color].X
        dense = values if isinstance(values, np.ndarray) else values.toarray()
        return pd.Series(np.asarray(dense).ravel(), index=adata.obs_names)
    near = listed(adata.obs.columns)
    raise InputError("color", f"a column of obs ({near}) or a gene", color, "name one")


def _times(adata: AnnData) -> pd.Series:
    """The times of annotated cells."""
    if "cellmnn_time" not in adata.obs:
        raise InputError(
            "adata", "annotated cells", "ones without cellmnn_time", "call pipeline.annotate"
        )
    return adata.obs["cellmnn_time"]


def unit_of(adata: AnnData, *, brackets: bool = False) -> str:
    """The unit of time, where the file has one: " days", or " (days)"."""
    unit = adata.uns.get("cellmnn", {}).get("time_unit", "")
    if not unit:
        return ""
    return f" ({unit}s)" if brackets else f" {unit}s"


def _shown(count: int) -> NDArray[np.int64]:
    """Some of so many cells, in no order: the last would hide the others."""
    return np.random.default_rng(0).permutation(count)[:_MOST_POINTS]


def _dot_size(count: int) -> float:
    """Of a cell among so many."""
    return float(np.clip(12_000 / max(count, 1), 2, 18))


def _colorbar(axes: Axes, dots: Any, label: str) -> None:
    """What colours mean."""
    bar = axes.figure.colorbar(dots, ax=axes, shrink=0.7, aspect=22, label=label)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_alpha(1)


def _label(axes: Axes, placing: Placing) -> None:
    """Names of the two dimensions, and ticks where they mean something."""
    axes.set(xlabel=placing.labels[0], ylabel=placing.labels[1])
    if not placing.has_scale:
        axes.set(xticks=[], yticks=[])
