"""Figures. Every function returns a matplotlib Figure, which the caller saves or shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.time_course import TimeCourse
from ..dynamics.snapshots import Dynamics, velocity_at
from ..evaluation.evaluation import Evaluation
from ..evaluation.subspaces import SubspaceReport
from ..model.errors import InputError, listed

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_MAX_POINTS = 1000  # of one snapshot; more only hides the others
_TIME_COLORS = colormaps["viridis"]


def plot_interpolation(
    course: TimeCourse, time: float, states: NDArray, truth: NDArray | None = None
) -> Figure:
    """Observed snapshots by time, and the predicted one over them, in the first two dimensions.

    Parameters
    ----------
    course : TimeCourse
        Observed.
    time : float
        Of the prediction.
    states : (cells, latent_dim)
        The predicted snapshot at that time.
    truth : (cells, latent_dim), optional
        The true one, in a second panel.
    """
    panels = [("predicted", states)]
    if truth is not None:
        panels.append(("observed", truth))
    figure = Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (label, cells) in zip(axes, panels, strict=True):
        _scatter_course(axis, course)
        x, y = _two_dims(cells)
        axis.scatter(x, y, s=9, color="crimson", linewidths=0, alpha=0.6)
        axis.set_title(f"{label} at time {time:g}")
    _time_colorbar(figure, axes[-1], course)
    return figure


def plot_velocity_field(dynamics: Dynamics, course: TimeCourse, *, arrows: int = 60) -> Figure:
    """Velocities dz/dt at observed cells of every time, in the first two dimensions.

    Parameters
    ----------
    dynamics : Dynamics
        The model in the user's time.
    course : TimeCourse
        Observed, for the cells that arrows start at.
    arrows : int
        At most so many for each time.
    """
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axis = figure.subplots()
    _scatter_course(axis, course)
    for time, snapshot in zip(course.times, course.snapshots, strict=True):
        cells = snapshot[:: max(1, len(snapshot) // arrows)]
        velocity = velocity_at(dynamics, cells, time)
        axis.quiver(*_two_dims(cells), *_two_dims(velocity), angles="xy", width=0.003, alpha=0.7)
    _time_colorbar(figure, axis, course)
    return figure


def plot_embedded_velocity(adata: AnnData, basis: str = "X_umap", *, arrows: int = 400) -> Figure:
    """Velocities of observed cells in a two-dimensional embedding of any kind.

    Parameters
    ----------
    adata : AnnData
        From `CellMNNPipeline.annotate`, with the embedding in `obsm`.
    basis : str
        Its key.
    arrows : int
        At most so many.

    Raises
    ------
    InputError
        If there is no such embedding, or it has less than two dimensions.
    """
    if basis not in adata.obsm or adata.obsm[basis].shape[1] < 2:
        actual = listed(adata.obsm) or "none"
        raise InputError(f'obsm["{basis}"]', "an embedding of 2 dimensions", actual, "name another")
    placed = np.asarray(adata.obsm[basis], dtype=np.float64)[:, :2]
    shown = np.arange(0, len(placed), -(-len(placed) // arrows))
    velocity = embedded_velocity(
        adata.obsm["X_cellmnn"], adata.obsm["cellmnn_velocity"], placed, shown
    )
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.scatter(placed[:, 0], placed[:, 1], s=5, color="lightgrey", linewidths=0)
    axis.quiver(*placed[shown].T, *velocity.T, angles="xy", width=0.003, alpha=0.8)
    axis.set(xlabel=f"{basis} 1", ylabel=f"{basis} 2")
    return figure


def embedded_velocity(
    states: NDArray, velocity: NDArray, placed: NDArray, cells: NDArray, neighbours: int = 30
) -> NDArray[np.float64]:
    """Velocities (cells, dims) in an embedding, by the linear map from states around each cell.

    Parameters
    ----------
    states, velocity : (cells, latent_dim)
        z and dz/dt of the cells.
    placed : (cells, dims)
        Of the embedding.
    cells : (some,)
        Which cells.
    neighbours : int
        From which the map is fitted, by least squares with a small ridge.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(neighbours, len(states) - 1)
    _, around = NearestNeighbors(n_neighbors=count + 1).fit(states).kneighbors(states[cells])
    steps = states[around] - states[cells][:, None]  # (cells, neighbours, latent_dim)
    moves = placed[around] - placed[cells][:, None]
    square = np.einsum("cni,cnj->cij", steps, steps)
    mean_square = np.trace(square, axis1=1, axis2=2) / states.shape[1]
    ridge = 1e-3 * mean_square[:, None, None] * np.eye(states.shape[1])
    maps = np.linalg.solve(square + ridge, np.einsum("cni,cnj->cij", steps, moves))
    return np.einsum("ci,cij->cj", velocity[cells], maps)


def plot_trajectories(adata: AnnData) -> Figure:
    """Cells that a pretrained model follows through time, in the first two dimensions.

    Parameters
    ----------
    adata : AnnData
        From `CellMNNPipeline.trajectory`.
    """
    times = adata.obs["time"].unique()
    # cells are drawn as long as they are within what the snapshots show
    states = np.where(adata.obs[["stopped"]], np.nan, adata.obsm["X_cellmnn"])
    states = states.reshape(len(times), -1, states.shape[1])
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axis = figure.subplots()
    for cell in range(states.shape[1]):
        axis.plot(*_two_dims(states[:, cell]), color="lightgrey", linewidth=0.6, zorder=1)
    colors = _TIME_COLORS(Normalize(times[0], times[-1])(times))
    for color, snapshot in zip(colors, states, strict=True):
        x, y = _two_dims(snapshot)
        axis.scatter(x, y, s=6, color=color, linewidths=0, zorder=2)
    axis.set(xlabel="dimension 1", ylabel="dimension 2", title=adata.uns["cellmnn"]["dataset"])
    scale = ScalarMappable(Normalize(times[0], times[-1]), _TIME_COLORS)
    figure.colorbar(scale, ax=axis, label="time")
    return figure


def plot_fates(states: NDArray, probabilities: pd.DataFrame) -> Figure:
    """Cells in the first two dimensions, coloured by the probability of each terminal group.

    Parameters
    ----------
    states : (cells, latent_dim)
        Latent states of the cells.
    probabilities : DataFrame
        From `CellMNNPipeline.fates`: a row for each of the cells, a column for each group.
    """
    groups = list(probabilities.columns)
    figure = Figure(figsize=(3.4 * len(groups) + 0.8, 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(groups), sharex=True, sharey=True))
    for axis, group in zip(axes, groups, strict=True):
        dots = axis.scatter(*_two_dims(states), c=probabilities[group], s=5, vmin=0, vmax=1)
        axis.set(title=group, xlabel="dimension 1")
    axes[0].set_ylabel("dimension 2")
    figure.colorbar(dots, ax=list(axes), label="probability")
    return figure


def plot_gene_trends(adata: AnnData, genes: Sequence[str]) -> Figure:
    """Expression of genes in cells that were followed: median, and a band of 80 % of the cells.

    Cells are left out once they would leave what the snapshots show.

    Parameters
    ----------
    adata : AnnData
        From `CellMNNPipeline.trajectory`.
    genes : sequence of str
        Those that are drawn.
    """
    if missing := [gene for gene in genes if gene not in adata.var_names]:
        raise InputError("genes", "genes of the trajectory", listed(missing), "correct them")
    kept = ~adata.obs["stopped"]
    if not kept.any():
        raise InputError("cells", "some within what the snapshots show", "none", "follow others")
    times = np.unique(adata.obs["time"][kept])
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    for gene in genes:
        x = np.asarray(adata[:, gene].X).ravel()
        bands = [
            np.quantile(x[kept & (adata.obs["time"] == time)], [0.1, 0.5, 0.9]) for time in times
        ]
        low, median, high = np.array(bands).T
        (line,) = axis.plot(times, median, marker="o", markersize=3, label=gene)
        axis.fill_between(times, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel="time", ylabel="expression")
    axis.legend(frameon=False)
    return figure


def plot_evaluation(evaluation: Evaluation) -> Figure:
    """Mean W1 of every method with its spread over seeds, and each held-out time as a dot."""
    summary = evaluation.summary
    figure = Figure(figsize=(7, 0.45 * len(summary) + 1.2), layout="constrained")
    axis = figure.subplots()
    rows = list(summary)
    axis.barh(
        rows,
        [summary[method]["w1_mean"] for method in rows],
        xerr=[summary[method]["w1_sd"] or 0.0 for method in rows],
        color="lightsteelblue",
    )
    axis.scatter(
        [score.w1 for score in evaluation.scores],
        [score.method for score in evaluation.scores],
        s=10,
        color="black",
        alpha=0.5,
        zorder=3,
    )
    axis.invert_yaxis()
    axis.set_xlabel("W1 to the held-out snapshot")
    return figure


def plot_subspace_reports(reports: Mapping[str, SubspaceReport]) -> Figure:
    """Coverage and captured variance of data sets, by name."""
    bars = {
        "genes in the panel": [report.to_dict()["coverage"] for report in reports.values()],
        "variance, own components (aligned too)": [
            report.variance_own_pca for report in reports.values()
        ],
        "variance, shared": [report.variance_shared for report in reports.values()],
    }
    figure = Figure(figsize=(7, 0.5 * len(reports) + 1.6), layout="constrained")
    axis = figure.subplots()
    rows = np.arange(len(reports))
    colors = ("lightgrey", "lightsteelblue", "steelblue")
    for number, ((label, values), color) in enumerate(zip(bars.items(), colors, strict=True)):
        axis.barh(rows + 0.27 * (number - 1), values, height=0.25, label=label, color=color)
    axis.set_yticks(rows, list(reports))
    axis.invert_yaxis()
    axis.set(xlabel="part of the whole", xlim=(0, 1))
    axis.margins(y=0.02)
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def plot_losses(losses: list[dict[str, float]]) -> Figure:
    """Loss and its parts at every training step."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for part in losses[0]:
        axis.plot([step[part] for step in losses], label=part)
    axis.plot([sum(step.values()) for step in losses], label="loss", color="black")
    axis.set(xlabel="step", ylabel="loss", yscale="symlog")
    axis.legend(frameon=False)
    return figure


def _scatter_course(axis: Axes, course: TimeCourse) -> None:
    """Cells in the first two dimensions, coloured by time."""
    colors = _TIME_COLORS(Normalize(course.times[0], course.times[-1])(course.times))
    for color, snapshot in zip(colors, course.snapshots, strict=True):
        shown = snapshot[:: -(-len(snapshot) // _MAX_POINTS)]
        x, y = _two_dims(shown)
        axis.scatter(x, y, s=5, color=color, linewidths=0, alpha=0.5)
    axis.set(xlabel="dimension 1", ylabel="dimension 2")


def _time_colorbar(figure: Figure, axis: Axes, course: TimeCourse) -> None:
    """What the colours mean."""
    scale = ScalarMappable(Normalize(course.times[0], course.times[-1]), _TIME_COLORS)
    figure.colorbar(scale, ax=axis, label="time")


def _two_dims(states: NDArray) -> NDArray:
    """The first two dimensions as rows; zeros in place of a second that is not there."""
    return np.pad(states, ((0, 0), (0, 1)))[:, :2].T
