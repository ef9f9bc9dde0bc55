"""How figures look: one style, colours that everybody can tell apart, and how they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.outputs import FIGURES, require_file, save_figure
from ..model.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from numpy.typing import NDArray

STYLE: dict[Any, Any] = {
    "axes.edgecolor": "0.35",
    "axes.labelcolor": "0.2",
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.dpi": 110,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "xtick.color": "0.35",
    "xtick.labelsize": 8,
    "ytick.color": "0.35",
    "ytick.labelsize": 8,
}
TIME_COLORS, VALUE_COLORS, SIGNED_COLORS = "viridis", "cividis", "RdBu_r"
UP, DOWN = "#b2182b", "#2166ac"  # the ends of `SIGNED_COLORS`
UNSEEN = "#d55e00"  # what was predicted
# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, yellow last, which is faint on white
GROUP_COLORS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#f0e442"),
)
PANEL = (4.2, 3.6)  # inches


@contextmanager
def new_axes(
    ax: Axes | None,
    save: str | Path | None,
    panels: int = 1,
    size: tuple[float, float] = PANEL,
    *,
    same_scale: bool = True,
) -> Iterator[list[Axes]]:
    """Axes to draw on: those that were given, or some of a new figure.

    Parameters
    ----------
    ax : Axes, optional
        Given by the user, for a single panel.
    save : path, optional
        Where the figure goes, refused before anything is drawn if it is none.
    panels : int
        Beside each other.
    size : (width, height)
        Of each, in inches.
    same_scale : bool
        Whether panels share their axes.
    """
    import matplotlib.pyplot as plt

    if save is not None:
        require_file(save, FIGURES, "save")
    if ax is not None and panels > 1:
        raise InputError("ax", f"none for a figure of {panels} panels", "one", "leave it out")
    with plt.rc_context(STYLE):
        if ax is not None:
            yield [ax]
            return
        figure, axes = plt.subplots(
            1,
            panels,
            figsize=(size[0] * panels, size[1]),
            squeeze=False,
            sharex=same_scale,
            sharey=same_scale,
            layout="constrained",
        )
        try:
            yield list(axes[0])
        except BaseException:
            plt.close(figure)
            raise


def scatter(axes: Axes, placed: NDArray, **look: Any) -> PathCollection:
    """Cells `placed` (cells, 2) as dots without edges."""
    return axes.scatter(placed[:, 0], placed[:, 1], **{"linewidths": 0, **look})


def finish(
    axes: Sequence[Axes], ax: Axes | None, show: bool | None, save: str | Path | None
) -> Axes | list[Axes] | None:
    """Save and show a figure; what a function of :mod:`cellmnn_fm.pl` gives back.

    Axes, or a list of them, unless they are shown. `ax` are those that the user gave, `show` and
    `save` what was asked for; without, a figure is shown where it has a place to be, in a notebook
    for instance, unless it is saved or part of another one.
    """
    import matplotlib.pyplot as plt

    figure = axes[0].get_figure(root=True)
    assert figure is not None
    if save is not None:
        save_figure(figure, Path(save))
    if show is None:
        backend = plt.get_backend().lower()
        shows = backend not in ("agg", "pdf", "svg", "ps", "cairo", "template")
        show = shows and ax is None and save is None
    if show:
        plt.show()
        return None
    if save is not None and ax is None:
        plt.close(figure)
    return axes[0] if len(axes) == 1 else list(axes)


def group_colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for each group; beyond eight, of a longer and less distinct list."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if len(names) <= len(GROUP_COLORS):
        return dict(zip(names, GROUP_COLORS, strict=False))
    spectrum = colormaps["turbo"]
    return {
        name: to_hex(spectrum(0.03 + 0.94 * number / (len(names) - 1)))
        for number, name in enumerate(names)
    }
