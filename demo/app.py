"""A page in the browser that asks cellmnn-base about a file: `python demo/app.py`.

Needs `pip install 'cellmnn-fm[demo]'`. What is uploaded stays on the machine that serves the page.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from matplotlib.figure import Figure

from cellmnn_fm import CellMNNPipeline, InputError, pl, write_report
from cellmnn_fm.data.boolean_networks import BooleanNetwork
from cellmnn_fm.data.files import read_file
from cellmnn_fm.data.notices import gathered
from cellmnn_fm.pl.page import GROUP_COLUMNS
from cellmnn_fm.questions.annotation import states_alone

CLUSTERS = "two clusters of the last cells"
USUAL_TIMES = ("time", "day", "days", "hour", "hours", "timepoint", "stage", "age")
MOST_CELLS = 20_000  # a page is to answer while one waits
PREDICTED, FATES, PATHS = "snapshot.h5ad", "fates.tsv", 30


@cache
def base() -> CellMNNPipeline:
    """The model, loaded once."""
    return CellMNNPipeline.from_pretrained("cellmnn-base")


@cache
def example() -> str:
    """A file to try: cells of a simulated gene network that end in one of two fates."""
    file = Path(tempfile.mkdtemp(), "simulated.h5ad")
    BooleanNetwork.named("HSC").to_anndata(times=6, cells=200, seed=0).write_h5ad(file)
    return str(file)


@contextmanager
def explained() -> Iterator[None]:
    """A block whose errors and notices are shown in the page."""
    try:
        with gathered() as (notices, alarms):
            yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    for text in notices:
        gr.Info(text)
    for text in alarms:
        gr.Warning(text)


def opened(path: str | None) -> Any:
    """The cells of a file that was uploaded."""
    if path is None:
        raise gr.Error("file: expected one, found none; upload a file", print_exception=False)
    adata = _read(path, Path(path).stat().st_mtime_ns)
    if adata.n_obs > MOST_CELLS:
        raise gr.Error(
            f"file: expected at most {MOST_CELLS:,} cells here, found {adata.n_obs:,}; "
            "take the command line, or fewer",
            print_exception=False,
        )
    return adata


@lru_cache(maxsize=1)
def _read(path: str, _changed: int) -> Any:
    """The last file that was asked about, until it changes."""
    return read_file(Path(path))


def choices(path: str | None) -> tuple[Any, Any, str]:
    """Columns of times and of groups to choose from, and what the file is."""
    if path is None:
        return gr.update(choices=[], value=None), gr.update(choices=[CLUSTERS], value=CLUSTERS), ""
    with explained():
        adata = opened(path)
    few = [name for name in adata.obs if adata.obs[name].nunique() <= 100]
    usual = [name for name in few if name.lower() in USUAL_TIMES]
    typed = [name for name in few if name.lower() in GROUP_COLUMNS]
    return (
        gr.update(choices=few, value=(usual or few or [None])[0]),
        gr.update(choices=[CLUSTERS, *few], value=(typed or [CLUSTERS])[0]),
        f"{adata.n_obs:,} cells, {adata.n_vars:,} genes",
    )


def span(path: str | None, time_key: str | None) -> Any:
    """A slider over the observed times, in the middle of the widest gap."""
    if path is None or time_key is None:
        return gr.update(interactive=False)
    with explained():
        times = base().cells(opened(path), time_key=time_key).course.times
    gap = pd.Series(times).diff().idxmax()
    middle = float(times[gap - 1 : gap + 1].mean())
    first, last = float(times[0]), float(times[-1])
    step = (last - first) / 200
    return gr.update(minimum=first, maximum=last, step=step, value=middle, interactive=True)


def interpolated(path: str | None, time_key: str, at: float) -> tuple[Figure, str]:
    """The predicted snapshot among the observed ones, and as a file."""
    with explained():
        cells = base().cells(opened(path), time_key=time_key)
        predicted = base().interpolate(cells, at)
        figure = drawn(pl.interpolation, states_alone(cells), predicted)
    file = Path(tempfile.mkdtemp(), PREDICTED)
    predicted.write_h5ad(file)
    return figure, str(file)


def fated(path: str | None, time_key: str, groups: str) -> tuple[Figure, str]:
    """Where cells end, along many paths with noise, and as a table."""
    with explained():
        cells = base().cells(opened(path), time_key=time_key)
        table = base().fates(cells, grouped(groups), n_paths=PATHS)
        placed = states_alone(cells)
        table.add_to(placed)
        figure = drawn(pl.fates, placed)
    file = Path(tempfile.mkdtemp(), FATES)
    table.with_intervals.to_csv(file, sep="\t", index_label="cell")
    return figure, str(file)


def reported(path: str | None, time_key: str, groups: str, evaluate: bool) -> str:
    """The page about the file."""
    file = Path(tempfile.mkdtemp(), "report.html")
    with explained():
        options = {"groups": grouped(groups), "evaluate": evaluate}
        write_report(base(), opened(path), file, time_key=time_key, **options)
    return str(file)


def grouped(groups: str) -> str | int:
    """Groups as questions take them."""
    return 2 if groups == CLUSTERS else groups


def drawn(draw: Callable[..., Any], *content: Any) -> Figure:
    """The figure that a function of `cellmnn_fm.pl` draws."""
    axes = draw(*content, show=False)
    return (axes[0] if isinstance(axes, list) else axes).get_figure(root=True)


with gr.Blocks(title="cellmnn_fm") as page:
    gr.Markdown(
        "# A time course, between and beyond its snapshots\n"
        "Upload cells at several times: `cellmnn-base` answers without training. What it says are "
        "predictions, to be tested in cells."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            upload = gr.File(label="AnnData (.h5ad)", file_types=[".h5ad"], type="filepath")
            simulated = gr.Button("Try simulated cells", size="sm")
            about = gr.Markdown()
            time_key = gr.Dropdown([], label="Column with the time of each cell")
            groups = gr.Dropdown([CLUSTERS], value=CLUSTERS, label="Cell types at the end")
        with gr.Column(scale=3):
            with gr.Tab("A time that nobody measured"):
                at = gr.Slider(0, 1, label="Time", interactive=False)
                ask_snapshot = gr.Button("Interpolate", variant="primary")
                snapshot = gr.Plot(show_label=False)
                snapshot_file = gr.File(label="Predicted cells")
            with gr.Tab("Where cells end"):
                ask_fates = gr.Button("Follow cells", variant="primary")
                fates = gr.Plot(show_label=False)
                fates_file = gr.File(label="Probabilities of every cell")
            with gr.Tab("All of it, on one page"):
                evaluate = gr.Checkbox(True, label="Leave times out, and compare with baselines")
                ask_report = gr.Button("Write the report", variant="primary")
                report_file = gr.File(label="Report")
    simulated.click(example, outputs=upload)
    upload.change(choices, upload, [time_key, groups, about]).then(span, [upload, time_key], at)
    time_key.input(span, [upload, time_key], at)
    ask_snapshot.click(interpolated, [upload, time_key, at], [snapshot, snapshot_file])
    ask_fates.click(fated, [upload, time_key, groups], [fates, fates_file])
    ask_report.click(reported, [upload, time_key, groups, evaluate], report_file)

if __name__ == "__main__":
    page.launch()
