"""One page about a model and a data set, that opens without a network."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..data.options import FitKeywords, ReadingKeywords
from ..data.outputs import PAGES, require_file, save_text
from ..evaluation.folds import held_out_times
from ..fitted.fitted_model import Cells
from ..fitted.record import FitRecord
from ..model.errors import InputError
from ..pipeline import CellMNNPipeline
from ..questions.grn.question import cell_states
from .figures import (
    plot_evaluation,
    plot_fates,
    plot_interpolation,
    plot_losses,
    plot_trajectories,
    plot_velocity_field,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("template.html")
_EDGES = 20
_DRIVERS = 8
_FOLLOWED = 100  # cells


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
        For the fates: column of `obs`, or how many clusters of the last cells.
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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        cells = pipeline.cells(adata, **reading)
        asked = CellMNNPipeline(cells.fitted)
        sections = [
            _data(cells),
            _training(cells.fitted.record),
            *_evaluation(pipeline, cells, evaluate, progress, reading),
            _snapshots(asked, cells),
            *_fates(asked, cells, groups),
            *_network(asked, cells),
        ]
    said = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.from_string(_TEMPLATE.read_text()).render(
        title=f"Cell-MNN: {cells.fitted.record.name or 'time course'}",
        version=version("cellmnn-fm"),
        sections=sections,
        notices=list(dict.fromkeys(said)),
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
    return Section("Data", f"{text}.", pd.DataFrame({f"time{unit}": course.times, "cells": sizes}))


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
        "Model", text, images=[("Loss and its parts", _image(plot_losses(record.losses)))]
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
    title, verdict = "How far to trust it", record.verdict
    said = "" if verdict is None else verdict["sentence"]
    if not evaluate or not held_out_times(cells.times):
        return [Section(title, said or "Not checked: no time was left out.")]
    judge = pipeline if pipeline.is_pretrained else CellMNNPipeline()
    of_fit: FitKeywords = {"use_rep": record.use_rep, "layer": record.layer}
    of_fit |= {**reading, "time_key": record.time_key_for(reading.get("time_key"))}
    evaluation = judge.evaluate(cells.adata, seeds=1, progress=progress, **of_fit)
    rows = [
        {
            "method": method.replace("_", " "),
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
    figure = ("Left-out W1", _image(plot_evaluation(evaluation)))
    return [Section(title, text.strip(), pd.DataFrame(rows), [figure])]


def _snapshots(asked: CellMNNPipeline, cells: Cells) -> Section:
    """Predicted snapshots, velocities and followed cells."""
    course, images = cells.course, []
    for before, after in pairwise(course.times):
        time = float(before + after) / 2
        predicted = asked.interpolate(cells, time)
        states = predicted.obsm["X_cellmnn"][~predicted.obs["stopped"].to_numpy()]
        caption = f"Observed snapshots, and the predicted one at {time:g}"
        images.append((caption, _image(plot_interpolation(course, time, states))))
    velocity = plot_velocity_field(cells.fitted.dynamics, course)
    images.append(("Where cells are going", _image(velocity)))
    followed = asked.trajectory(cells, cells=_FOLLOWED, n_steps=4)
    images.append(("Cells of the first time, followed", _image(plot_trajectories(followed))))
    return Section("Snapshots and dynamics", "In the first two latent dimensions.", images=images)


def _fates(asked: CellMNNPipeline, cells: Cells, groups: str | int | None) -> list[Section]:
    """Where cells end up, if groups were asked for."""
    import pandas as pd

    if groups is None:
        return []
    table = asked.fates(cells, groups)
    states = cells.states[table.rows]
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
    text = "Cells are followed to the last time. Associations, not causes."
    images = [("Probability of each group", _image(plot_fates(states, table.probabilities)))]
    return [Section("Fates", text, pd.DataFrame(rows), images)]


def _network(asked: CellMNNPipeline, cells: Cells) -> list[Section]:
    """The strongest edges, where there are genes."""
    try:
        edges = asked.grn(cells).to_dataframe(top_k=_EDGES)
    except InputError:  # coordinates have no genes
        return []
    edges = edges.drop(columns="sign", errors="ignore")
    edges["weight"] = edges["weight"].map("{:+.4f}".format)
    text = "The strongest edges of the gene network of all cells. Edges are not causes."
    return [Section("Gene regulation", text, edges)]


def _image(figure: Figure) -> str:
    """A figure inside of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
