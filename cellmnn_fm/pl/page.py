"""One page about a model and a data set, that opens without a network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..data.notices import gathered
from ..data.options import FitKeywords, ReadingKeywords
from ..data.outputs import PAGES, require_file, save_text
from ..evaluation.evaluation import readable_method
from ..evaluation.folds import held_out_times
from ..fitted.fitted_model import Cells
from ..fitted.record import FitRecord
from ..model.errors import InputError
from ..pipeline import CellMNNPipeline
from ..questions.grn.question import cell_states
from ..questions.terminal_groups import MIN_GROUP_CELLS
from .cells import fates, interpolation, trajectories, velocity_stream
from .genes import drivers, gene_trends, network
from .quality import losses, verdict

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

_TEMPLATE = Path(__file__).with_name("template.html")
_EDGES = 20
_DRIVERS = 8
_TRENDS = 4
_MOST_PATHS, _ALL_PATHS = 30, 15_000  # of a cell, and of all: a minute or two on a core
_FOLLOWED, _TIMES = 150, 50  # cells and times of smooth paths
# where cell types are, in files of others
GROUP_COLUMNS = (
    "cell_type",
    "celltype",
    "cell_types",
    "annotation",
    "cluster",
    "leiden",
    "louvain",
)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes
    ----------
    title, text : str
        Heading, and what stands below it.
    table : DataFrame, optional
        Below the text.
    images : list of (caption, data URI)
        Figures, below the table.
    """

    title: str
    text: str = ""
    table: pd.DataFrame | None = None
    images: list[tuple[str, str]] = field(default_factory=list)


def write_report(
    pipeline: CellMNNPipeline,
    adata: AnnData,
    file: str | Path,
    *,
    groups: str | int | None = None,
    evaluate: bool = True,
    progress: bool = False,
    **reading: Unpack[ReadingKeywords],
) -> None:
    """Write a page (.html) about what a model says of a data set, and how far to trust it.

    Parameters
    ----------
    pipeline : CellMNNPipeline
        Fitted or pretrained.
    adata : AnnData
        Observed cells, which the page is about.
    file : path
        Of the page.
    groups : str or int, optional
        For the fates: column of `obs`, or how many clusters of the last cells. By default a column
        of cell types where the file has one by a usual name, else two clusters.
    evaluate : bool
        Whether to leave each interior time out and fit again, with one seed, beside baselines.
    progress : bool
        Whether to show a progress bar.
    **reading
        Keywords of :class:`cellmnn_fm.data.options.ReadingOptions`.

    Raises
    ------
    InputError
        On unusable input.
    """
    import jinja2

    require_file(file, PAGES)
    with gathered() as (notices, alarms):
        cells = pipeline.cells(adata, **reading)
        asked = CellMNNPipeline(cells.fitted)
        annotated, followed = asked.annotate(cells, layers=False), _followed(asked, cells)
        sections = [
            _data(cells),
            _training(cells.fitted.record),
            *_evaluation(pipeline, cells, evaluate, progress, reading),
            _snapshots(asked, cells, annotated, followed),
            *_fates(asked, cells, annotated, followed, groups),
            *_network(asked, cells),
        ]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.from_string(_TEMPLATE.read_text()).render(
        title=f"Cell-MNN: {cells.fitted.record.name or 'time course'}",
        version=version("cellmnn-fm"),
        sections=sections,
        notices=notices + alarms,
    )
    save_text(page, file)


def _data(cells: Cells) -> Section:
    """What was read, and how much of it the latent space keeps."""
    import pandas as pd

    course, fitted = cells.course, cells.fitted
    sizes = [len(snapshot) for snapshot in course.snapshots]
    states = cell_states(cells)
    text = (
        f"{sum(sizes):,} cells at {len(sizes)} times, {cells.adata.n_vars:,} variables; "
        f"{fitted.record.coverage}. {course.latent_dim} latent dimensions"
    )
    if states.expression is not None:
        kept = _captured(states.expression, fitted.subspace.reconstruct(states.states))
        text += f" keep {kept:.1%} of the variance of these genes"
    unit = f" ({fitted.record.time_unit}s)" if fitted.record.time_unit else ""
    table = {f"time{unit}": course.times, "cells": sizes}
    names = [cells.time_names[time] for time in course.times]
    if names != [f"{time:g}" for time in course.times]:
        table = {"label": names, **table}
    return Section("Data", f"{text}.", pd.DataFrame(table))


def _captured(measured: Any, reconstructed: np.ndarray) -> float:
    """The share of variance (cells, genes) that a reconstruction keeps."""
    dense = np.asarray(measured.toarray() if hasattr(measured, "toarray") else measured)
    return float(1 - (dense - reconstructed).var(axis=0).sum() / dense.var(axis=0).sum())


def _training(record: FitRecord) -> Section:
    """How the model came about."""
    base = "" if record.base is None else f" Base: {record.base['name']}."
    if not record.losses:
        return Section("Model", f"Without training on this data set.{base}")
    text = f"{len(record.losses)} training steps in {record.seconds:.1f} s.{base}"
    return Section(
        "Model", text, images=[("Loss and its parts", _image(losses(record.losses, show=False)))]
    )


def _evaluation(
    pipeline: CellMNNPipeline,
    cells: Cells,
    evaluate: bool,
    progress: bool,
    reading: ReadingKeywords,
) -> list[Section]:
    """Predictions of left-out times beside baselines."""
    import pandas as pd

    record = cells.fitted.record
    title = "How far to trust it"
    said = "" if record.verdict is None else record.verdict["sentence"]
    if not evaluate or not held_out_times(cells.times):
        return [Section(title, said or "Not checked: no time was left out.")]
    judge = pipeline if pipeline.is_pretrained else CellMNNPipeline()
    of_fit: FitKeywords = {"use_rep": record.use_rep, "layer": record.layer}
    of_fit |= {**reading, "time_key": record.time_key_for(reading.get("time_key"))}
    evaluation = judge.evaluate(cells.adata, seeds=1, progress=progress, **of_fit)
    rows = [
        {
            "method": readable_method(method),
            "W1": f"{row['w1_mean']:.3f}",
            "ratio to OT-Interpolate": f"{row['ratio_to_ot_interpolate']:.3f}",
            "ratio of energy distances": f"{row['energy_over_ot_interpolate']:.3f}",
        }
        for method, row in evaluation.summary.items()
    ]
    text = (
        f"{said} Each interior time left out and predicted from the others by a new fit (strict, "
        "one seed): W1 to what was measured, in 5 dimensions, and beside it the energy distance, "
        "which few cells do not bias. Lower is better; floor is two halves of a snapshot."
    )
    figure = ("Left-out W1", _image(verdict(evaluation, show=False)))
    return [Section(title, text.strip(), pd.DataFrame(rows), [figure])]


def _snapshots(
    asked: CellMNNPipeline, cells: Cells, annotated: AnnData, followed: AnnData
) -> Section:
    """Predicted snapshots, velocities and followed cells."""
    course, images = cells.course, []
    stream = velocity_stream(annotated, show=False)
    images.append(("Where cells are going: streamlines of the velocity dz/dt.", _image(stream)))
    out = followed.obs["stopped"].to_numpy()[-followed.n_obs // _TIMES :].mean()
    text = f"{_FOLLOWED} cells of the first time at most, followed to the last"
    text += (
        f"; {out:.0%} leave what the snapshots show." if out else "; all stay among what was seen."
    )
    images.append((text, _image(trajectories(annotated, followed, show=False))))
    for before, after in pairwise(course.times):
        time = float(before + after) / 2
        predicted = asked.interpolate(cells, time)
        stopped = predicted.obs["stopped"].mean()
        names = " and ".join(cells.time_names[at] for at in (before, after))
        caption = f"Predicted half-way between {names}, where nothing was measured"
        caption += f" ({stopped:.0%} of the cells left out)." if stopped else "."
        if "cellmnn_margin" in predicted.var:
            margin = predicted.var["cellmnn_margin"].median()
            caption += f" The mean of a gene is within {margin:.2g} (median of genes, 90 %)."
        figure = interpolation(annotated, predicted, show=False)
        images.append((caption, _image(figure)))
    where = "the UMAP of the file" if "X_umap" in annotated.obsm else "components of expression"
    return Section("Snapshots and dynamics", f"Drawn in {where}.", images=images)


def _followed(asked: CellMNNPipeline, cells: Cells) -> AnnData:
    """Cells of the first time at many times, for smooth paths and trends."""
    times = np.linspace(cells.course.times[0], cells.course.times[-1], _TIMES).tolist()
    return asked.trajectory(cells, times, cells=_FOLLOWED, n_steps=4)


def _fates(
    asked: CellMNNPipeline,
    cells: Cells,
    annotated: AnnData,
    followed: AnnData,
    groups: str | int | None,
) -> list[Section]:
    """Where cells end up, and what goes with it."""
    import pandas as pd

    named = _groups(cells) if groups is None else groups
    paths = min(_ALL_PATHS // len(cells.states), _MOST_PATHS) or None
    if named is None:
        return []
    try:
        table = asked.fates(cells, named, n_paths=paths)
    except InputError:
        if groups is not None:
            raise
        return []  # groups that nobody asked for, and that are too small
    table.add_to(annotated)
    rows = []
    for group in table.drivers:
        order = table.drivers[group].sort_values(ascending=False, kind="stable")
        rows.append(
            {
                "group": group,
                "share at the end": f"{table.shares[group]:.1%}",
                "genes that go with it": ", ".join(order.index[:_DRIVERS]),
                "genes that go against it": ", ".join(order.index[::-1][:_DRIVERS]),
            }
        )
    first = cells.times[table.rows] == cells.course.times[0]
    likely = table.probabilities[first].max(axis=1)
    source = (
        f'column "{named}"' if isinstance(named, str) else f"{named} clusters of the last cells"
    )
    along = "one path each, without noise," if paths is None else f"{paths} noisy paths"
    text = (
        f"Cells are followed along {along} to the last time; groups are those of {source}. "
        f"Of the cells of the first time {(likely > 0.9).mean():.0%} have one fate with P > 0.9. "
        "Associations, not causes."
    )
    images = [
        ("Probability of each group, for every cell.", _image(fates(annotated, show=False))),
        (
            f"The {_DRIVERS} genes that go with each group most.",
            _image(drivers(table, _DRIVERS, show=False)),
        ),
    ]
    trends = list(dict.fromkeys(table.drivers.idxmax()))[:_TRENDS]
    if set(trends) <= set(annotated.var_names):
        figure = gene_trends(followed, trends, table, show=False)
        caption = (
            "The first of these genes along the paths to each group: mean, and half of the cells."
        )
        images.append((caption, _image(figure)))
    return [Section("Fates", text, pd.DataFrame(rows), images)]


def _network(asked: CellMNNPipeline, cells: Cells) -> list[Section]:
    """The strongest edges, where there are genes."""
    try:
        grn = asked.grn(cells)
        edges = grn.to_dataframe(top_k=_EDGES)
    except InputError:  # coordinates have no genes
        return []
    strongest = edges.iloc[0]
    verb = "goes with" if strongest["weight"] > 0 else "goes against"
    edges = edges.drop(columns="sign", errors="ignore")
    edges["weight"] = edges["weight"].map("{:+.4f}".format)
    text = (
        f"The {len(edges)} strongest edges of the gene network of all cells; the first: "
        f"{strongest['source']} {verb} {strongest['target']}. Edges are not causes."
    )
    figure = network(grn, top_k=_EDGES, show=False)
    caption = (
        "Red: up together. Blue: one up, the other down. Lines without arrow: both ways alike."
    )
    return [Section("Gene regulation", text, edges, [(caption, _image(figure))])]


def _groups(cells: Cells) -> str | int | None:
    """Cell types of the last cells, as files call them; else two clusters, if there are enough."""
    last = cells.times == cells.course.times[-1]
    for column in GROUP_COLUMNS:
        if column in cells.adata.obs:
            sizes = cells.adata.obs[column][last].value_counts()
            if (sizes >= MIN_GROUP_CELLS).sum() > 1:
                return column
    return 2 if last.sum() >= 2 * MIN_GROUP_CELLS else None


def _image(axes: Axes | list[Axes] | None) -> str:
    """A figure inside of the page."""
    import matplotlib.pyplot as plt

    panel = axes[0] if isinstance(axes, list) else axes
    assert panel is not None
    figure = panel.get_figure(root=True)
    assert figure is not None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
