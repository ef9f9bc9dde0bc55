"""Tables and figures of studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def new_axes(width: float = 5, height: float = 3.5) -> Axes:
    """Axes of a figure of its own."""
    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def save(ax: Axes, file: Path) -> None:
    """Save and close the figure of these axes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(file, dpi=120)
    plt.close(ax.figure)


def dot_plot(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], xlabel: str, line: float
) -> Figure:
    """A row for each label, a dot for each series, and a line at the value to beat."""
    figure, ax = plt.subplots(figsize=(7, 0.24 * len(labels) + 1.4), layout="constrained")
    rows = range(len(labels))[::-1]
    for number, (name, values) in enumerate(series.items()):
        ax.plot(values, rows, "o", ms=5, color=f"C{number}", label=name, alpha=0.85)
    ax.axvline(line, color="black", lw=0.6)
    ax.set_yticks(rows, labels, fontsize=8)
    ax.grid(axis="y", lw=0.3)
    ax.set(xlabel=xlabel)
    figure.legend(loc="outside upper right", ncols=len(series), frameon=False, fontsize=8)
    return figure
