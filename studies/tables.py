"""Tables and figures of studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


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
