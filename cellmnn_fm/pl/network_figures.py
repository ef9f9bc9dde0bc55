"""Figures of gene regulatory networks and of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..model.errors import InputError
from ..questions.grn.network import GeneRegulatoryNetwork


def plot_heat_map(network: GeneRegulatoryNetwork, top_k: int = 100, genes: int = 30) -> Figure:
    """Weights between the genes with the strongest edges; rows are targets."""
    table = network.to_dataframe(top_k=top_k)
    names = list(dict.fromkeys(table[["source", "target"]].to_numpy().ravel()))[:genes]
    rows = np.array([network.genes.index(name) for name in names], dtype=int)
    weights = network.weights(rows, rows)
    np.fill_diagonal(weights, 0.0)
    figure = Figure(figsize=(0.25 * len(names) + 2, 0.25 * len(names) + 1.5), layout="constrained")
    axis = figure.subplots()
    most = np.abs(weights).max()
    image = axis.imshow(weights, cmap="RdBu_r", vmin=-most, vmax=most)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set(xlabel="source", ylabel="target")
    figure.colorbar(image, ax=axis, label="weight", shrink=0.7)
    return figure


def plot_edges_over_time(
    networks: Mapping[float, GeneRegulatoryNetwork], edges: Sequence[tuple[str, str]]
) -> Figure:
    """Weights of some edges (source, target) in networks of single times."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    times = sorted(networks)
    for source, target in edges:
        weights = [networks[time].interaction(source, target) for time in times]
        axis.plot(times, weights, marker="o", label=f"{source} → {target}")
    axis.axhline(0, color="grey", lw=0.5)
    axis.set(xlabel="time", ylabel="weight")
    axis.legend(frameon=False, fontsize=8)
    return figure


def plot_operators(
    operators: NDArray,
    times: NDArray,
    labels: Sequence[str] | None = None,
    *,
    clusters: int = 4,
    method: str = "pca",
) -> Figure:
    """Operators of cells in two dimensions: by time, by cluster, and by label where there are some.

    Parameters
    ----------
    operators : (cells, latent_dim, latent_dim)
        A of every cell.
    times : (cells,)
        When each cell was taken, in the user's time.
    labels : sequence of str, optional
        Cell types, for instance.
    clusters : int
        Of k-means.
    method : {"pca", "umap"}
        "umap" needs the package umap-learn.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    flat = operators.reshape(len(operators), -1)
    if method == "umap":
        from umap import UMAP

        placed = UMAP(random_state=0).fit_transform(flat)
    elif method == "pca":
        placed = PCA(2).fit_transform(flat)
    else:
        raise InputError("method", "pca or umap", method, "choose one of the two")
    cluster = KMeans(min(clusters, len(flat)), n_init=10, random_state=0).fit_predict(flat)
    panels = {"time": times, "cluster": cluster}
    if labels is not None:
        panels["label"] = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    figure = Figure(figsize=(3.6 * len(panels), 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        colors = "viridis" if title == "time" else "tab10"
        dots = axis.scatter(*placed.T, c=values, s=6, cmap=colors)
        axis.set(title=title, xlabel=f"{method} 1", ylabel=f"{method} 2")
        if title == "time":
            figure.colorbar(dots, ax=axis)
    return figure
