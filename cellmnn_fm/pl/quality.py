"""How good a model is: left-out snapshots, training, subspaces, and systems that are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..data.time_course import TimeCourse
from ..dynamics.snapshots import Dynamics, velocity_at
from ..evaluation.evaluation import Evaluation, readable_method
from .cells import stream_grid
from .style import TIME_COLORS, UNSEEN, finish, new_axes, scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..evaluation.subspaces import SubspaceReport

_OURS, _BASELINE = "#0072b2", "0.55"
_BASELINES = ("previous", "next", "ot_interpolate", "floor")


def verdict(
    evaluation: Evaluation,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """Every method on every left-out time, beside straight lines by optimal transport.

    Parameters
    ----------
    evaluation : Evaluation
        From `CellMNNPipeline.evaluate`.
    ax, show, save
        As for :func:`cellmnn_fm.pl.velocity_stream`.
    """
    scores, summary = evaluation.scores, evaluation.summary
    baseline = {
        (score.time, score.seed): score.w1 for score in scores if score.method == "ot_interpolate"
    }
    methods = sorted(summary, key=lambda method: -summary[method]["w1_mean"])
    with new_axes(ax, save, size=(6.0, 1.1 + 0.3 * len(methods))) as (axes,):
        axes.axvline(1, color="0.8", lw=1, zorder=0)
        for row, method in enumerate(methods):
            ratios = [
                score.w1 / baseline[score.time, score.seed]
                for score in scores
                if score.method == method
            ]
            color = _BASELINE if method in _BASELINES else _OURS
            axes.scatter(ratios, [row] * len(ratios), s=10, color=color, alpha=0.35, linewidths=0)
            mean = summary[method]["ratio_to_ot_interpolate"]
            axes.scatter([mean], [row], s=46, color=color, edgecolors="white", zorder=3)
            axes.annotate(
                f"{mean:.2f}", (mean, row), (0, 6), textcoords="offset points", ha="center",
                fontsize=7, color=color,
            )  # fmt: skip
        axes.set_yticks(range(len(methods)), [readable_method(method) for method in methods])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(y=0.08)
        axes.set_xlabel("W1 to the left-out snapshot over that of OT-Interpolate")
        return finish([axes], ax, show, save)


def losses(
    parts: list[dict[str, float]],
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """Loss and its parts at every training step.

    Parameters
    ----------
    parts : list of dict
        By step, as in `pipeline.record.losses`.
    ax, show, save
        As for :func:`cellmnn_fm.pl.velocity_stream`.
    """
    with new_axes(ax, save, size=(5.0, 3.0)) as (axes,):
        for part in parts[0]:
            axes.plot([step[part] for step in parts], label=part, lw=1)
        axes.plot([sum(step.values()) for step in parts], label="loss", color="0.15", lw=1.2)
        axes.set(xlabel="step", ylabel="loss", yscale="symlog")
        axes.legend(loc="upper right")
        return finish([axes], ax, show, save)


def subspaces(
    reports: Mapping[str, SubspaceReport],
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """Coverage and captured variance of data sets, by name.

    Parameters
    ----------
    reports : mapping of SubspaceReport
        By data set.
    ax, show, save
        As for :func:`cellmnn_fm.pl.velocity_stream`.
    """
    bars = {
        "genes in the panel": [report.to_dict()["coverage"] for report in reports.values()],
        "variance, own components (aligned too)": [
            report.variance_own_pca for report in reports.values()
        ],
        "variance, shared": [report.variance_shared for report in reports.values()],
    }
    rows = np.arange(len(reports))
    with new_axes(ax, save, size=(7, 0.5 * len(reports) + 1.6)) as (axes,):
        colors = ("0.85", "#56b4e9", "#0072b2")
        for number, ((label, values), color) in enumerate(zip(bars.items(), colors, strict=True)):
            axes.barh(rows + 0.27 * (number - 1), values, height=0.25, label=label, color=color)
        axes.set_yticks(rows, list(reports))
        axes.invert_yaxis()
        axes.set(xlabel="part of the whole", xlim=(0, 1))
        axes.margins(y=0.02)
        axes.figure.legend(loc="outside lower center")
        return finish([axes], ax, show, save)


def known_system(
    course: TimeCourse,
    dynamics: Dynamics,
    time: float,
    predicted: NDArray,
    truth: NDArray,
    *,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes] | None:
    """A system whose truth is known: a predicted snapshot, the true one, and velocities.

    Parameters
    ----------
    course : TimeCourse
        What the model has seen.
    dynamics : Dynamics
        Of the model.
    time : float
        Of the snapshot that it has not seen.
    predicted, truth : (cells, latent_dim)
        That snapshot.
    show, save
        As for :func:`cellmnn_fm.pl.velocity_stream`.
    """
    with new_axes(None, save, 3, (3.2, 3.0)) as axes:
        for axis in axes:
            for number, cells in enumerate(course.snapshots):
                share = np.full(len(cells), course.times[number])
                dots = scatter(
                    axis, _two_dims(cells), c=share, cmap=TIME_COLORS, s=4, alpha=0.5,
                    vmin=course.times[0], vmax=course.times[-1],
                )  # fmt: skip
            axis.set_xlabel("dimension 1")
        axes[0].set_ylabel("dimension 2")
        for axis, cells, title in zip(
            axes, (predicted, truth), ("predicted", "true"), strict=False
        ):
            scatter(axis, _two_dims(cells), s=6, color=UNSEEN, alpha=0.7)
            axis.set_title(f"{title} at time {time:g}")
        placed = np.concatenate([_two_dims(cells) for cells in course.snapshots])
        moving = [
            velocity_at(dynamics, cells, float(at))
            for cells, at in zip(course.snapshots, course.times, strict=True)
        ]
        if np.ptp(placed, axis=0).min() > 0:
            grid = stream_grid(placed, np.concatenate([_two_dims(part) for part in moving]))
            axes[2].streamplot(*grid, color="0.15", linewidth=0.8, arrowsize=0.7, density=0.9)
        axes[2].set_title("velocity")
        axes[0].figure.colorbar(dots, ax=axes, label="time", shrink=0.8, aspect=25)
        return finish(axes, None, show, save)


def _two_dims(states: NDArray) -> NDArray:
    """The first two dimensions (cells, 2); zeros in place of a second that is not there."""
    return np.pad(states, ((0, 0), (0, 1)))[:, :2]
