"""The commands about gene regulatory networks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.files import read_file
from ..data.options import Estimator
from ..data.outputs import EDGES, FIGURES, JSON, require_outputs, save_figure, save_json
from .options import (
    Asked,
    Dataset,
    FileOrDataset,
    Model,
    OfQuestion,
    command,
    load_pipeline,
)
from .output import Columns, Terminal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..fitted.fitted_model import Cells, FittedModel
    from ..questions.grn.estimators import CellStates
    from ..questions.grn.network import GeneRegulatoryNetwork

# heavy modules are imported inside the commands: --help must answer at once

_STRONGEST = 5  # edges that are said

Where = Annotated[str | None, typer.Option(help="column=value: only cells with that value in obs.")]
EstimatorOption = Annotated[
    Estimator,
    typer.Option(
        help="production is right about signs where the truth is simulated; association, which has "
        "hardly a direction, is ahead on real sets of many genes; auto takes production of up to "
        "50 genes and without a file, else association."
    ),
]
DecayOption = Annotated[
    str | None,
    typer.Option(
        help="Decay of mRNA: a rate per unit of time, a table of gene and half-life (.tsv), or "
        "data; the measured default if absent."
    ),
]


@command
def grn(
    model: Model,
    reading: OfQuestion,
    terminal: Terminal,
    file: FileOrDataset = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Edges: .tsv, .csv, .parquet or .graphml.")
    ] = Path("edges.tsv"),
    dataset: Dataset = None,
    genes: Annotated[
        Path | None,
        typer.Option(help="Of a base, without a file: the network of these genes, one a line."),
    ] = None,
    consensus: Annotated[
        bool, typer.Option(help="Add, or without a file show, what the data sets of a base say.")
    ] = False,
    prior: Annotated[
        bool, typer.Option(help="Add what share of its known targets a source activates.")
    ] = False,
    where: Where = None,
    estimator: EstimatorOption = "auto",
    decay: DecayOption = None,
    ridge: Annotated[float | None, typer.Option(help="λ; the measured one if absent.")] = None,
    sources: Annotated[
        str | None,
        typer.Option(
            help="Regulators: a file with one a line, factors or all; transcription factors if "
            "absent, where the network has any."
        ),
    ] = None,
    targets: Annotated[Path | None, typer.Option(help="Targets, one a line.")] = None,
    top: Annotated[int, typer.Option(help="So many edges.")] = 10_000,
    members: Annotated[
        int, typer.Option(help="Resample the cells so often, for a confidence in each edge.")
    ] = 0,
    figure: Annotated[Path | None, typer.Option(help="The strongest edges as a figure.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for that, a heat map, operators and edges in time.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
) -> None:
    """Write the gene regulatory network: who makes whom faster or slower.

    Edges are statistical, not shown to be causes.
    """
    drawn = None if figures is None else figures / "network.png"
    outputs = {"output": (output, EDGES), "figure": (figure, FIGURES), "figures": (drawn, FIGURES)}
    listed_sources = None if sources in (None, "factors", "all") else Path(str(sources))
    inputs = [model, file, genes, listed_sources, targets, decay, *reading.files]
    require_outputs(inputs, outputs)
    pipeline = load_pipeline(model, dataset)
    asked = None if file is None else pipeline.cells(read_file(file), **reading.keywords)
    from ..questions.grn.estimators import DEFAULT_RIDGE
    from ..questions.grn.question import cell_states

    mask = read_where(where, asked)
    edges = pipeline.grn(
        asked,
        genes=None if genes is None else read_lines(genes),
        consensus=consensus,
        where=mask,
        estimator=estimator,
        decay=read_decay(decay),
        ridge=DEFAULT_RIDGE if ridge is None else ridge,
        members=members,
        seed=seed,
    )
    among: Any = None if sources == "all" else "factors"
    if listed_sources is not None:
        among = read_genes(listed_sources, edges.genes)
    elif sources is None and not edges.factors:
        among = None
    picked: dict[str, Any] = {"sources": among, "targets": read_genes(targets, edges.genes)}
    edges.save(output, top_k=top, prior=prior, **picked)
    if figure is not None:
        from ..pl.genes import network as draw_network

        draw_network(edges, **picked, save=figure, show=False)
    if figures is not None:
        known = edges.record["estimator"] == "consensus"
        states = None if known else cell_states(asked or pipeline.fitted, mask)
        _draw(figures, None if known else (asked or pipeline).fitted, states, edges, picked)
    count, cells = len(edges.genes), edges.record["cells"]
    text = f"{output}: {count:,} genes, {cells:,} cells"
    text += f"; {edges.record.get('chosen') or edges.record['estimator']}"
    if "data_sets" in edges.record:
        text += f"; with networks of {len(edges.record['data_sets'])} data sets"
    text += "" if among is None else f"; sources: {sources or 'factors'}"
    text += f"; {edges.kind}, {edges.asymmetry:.1%} asymmetric"
    shown = edges.in_words(_STRONGEST, **picked)
    text += f"\nstrongest: {shown}" if shown else ""
    terminal.say(text, output=str(output), genes=count, cells=cells)
    terminal.wrote(figure, figures)


@command
def grn_evaluate(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE.h5ad", help="Cells.")],
    reference: Annotated[
        Path, typer.Option(help="Known edges: source, target and perhaps sign, .tsv.")
    ],
    reading: Asked,
    terminal: Terminal,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="All figures, .json.")
    ] = None,
    dataset: Dataset = None,
    where: Where = None,
    decay: DecayOption = None,
    trees: Annotated[bool, typer.Option(help="Add forests (GENIE3-like), which are slow.")] = True,
    seed: Annotated[int, typer.Option(help="Of baselines.")] = 0,
) -> None:
    """Compare networks with known edges, beside simple baselines."""
    inputs = [model, file, reference, decay, *reading.files]
    require_outputs(inputs, {"output": (output, JSON)})
    cells = load_pipeline(model, dataset).cells(read_file(file), **reading.keywords)
    from ..questions.grn.comparison import Comparison
    from ..questions.grn.reference import Reference

    compared = Comparison.of(
        cells,
        Reference.read(reference, cells.fitted.panel.names),
        where=read_where(where, cells),
        decay=read_decay(decay),
        most_for_trees=None if trees else 0,
        seed=seed,
    ).to_dict()
    _print_comparison(file.stem, compared, terminal)
    if terminal.as_json:
        terminal.say("", **compared)
    if output is not None:
        save_json(compared, output)
    terminal.wrote(output)


def _draw(
    folder: Path,
    fitted: FittedModel | None,
    cells: CellStates | None,
    network: GeneRegulatoryNetwork,
    picked: dict[str, Any],
) -> None:
    """Network and heat map; of cells also operators, and the strongest edges over time."""
    import numpy as np

    from ..pl.genes import network as draw_network
    from ..pl.network_figures import plot_edges_over_time, plot_heat_map, plot_operators
    from ..questions.grn.estimators import MIN_NETWORK_CELLS, cell_operators, production_network

    draw_network(network, **picked, save=folder / "network.png", show=False)
    save_figure(plot_heat_map(network), folder / "heat_map.png")
    if fitted is None or cells is None:
        return
    about = fitted.subspace, fitted.panel.names, fitted.record.time_scale
    operators = cell_operators(fitted.dynamics, cells)
    save_figure(plot_operators(operators, cells.times), folder / "operators.png")
    counts = dict(zip(*np.unique(cells.times, return_counts=True), strict=True))
    times = [time for time, count in counts.items() if count > MIN_NETWORK_CELLS]
    if len(times) > 1:
        by_time = {time: production_network(cells[cells.times == time], *about) for time in times}
        top = network.to_dataframe(top_k=5, **picked)
        edges = list(zip(top["source"], top["target"], strict=True))
        save_figure(plot_edges_over_time(by_time, edges), folder / "edges_over_time.png")


def read_decay(decay: str | None) -> Any:
    """A rate, a table of half-lives by gene, or "data"."""
    if decay is None or decay == "data":
        return decay
    if Path(decay).is_file():
        import pandas as pd

        from ..model.errors import InputError, listed
        from ..questions.grn.reference import read_table

        table = read_table(decay, "two columns, gene and half-life", header=None)
        if table.shape[1] != 2:
            columns = f"{table.shape[1]} columns"
            raise InputError(decay, "two columns, gene and half-life", columns, "correct it")
        half_lives = pd.to_numeric(table[1], errors="coerce")
        rows = half_lives.notna()
        if not rows.iloc[1:].all() or not rows.any():  # the first may be a header
            bad = listed(table[1][~rows].iloc[-1:])
            raise InputError(decay, "half-lives that are numbers", bad, "correct it")
        return dict(zip(table[0][rows].astype(str), half_lives[rows], strict=True))
    try:
        return float(decay)
    except ValueError as error:
        from ..model.errors import InputError

        raise InputError(
            "decay", "a rate, a file of half-lives, or data", decay, "correct it"
        ) from error


def read_genes(file: Path | None, genes: tuple[str, ...]) -> list[str] | None:
    """Those genes of a list that the network has, in any case; an error if there are none."""
    if file is None:
        return None
    from ..model.errors import InputError, listed

    known = {gene.upper(): gene for gene in genes}
    wanted = read_lines(file)
    known_genes = [known[gene.upper()] for gene in wanted if gene.upper() in known]
    if not known_genes:
        raise InputError(str(file), "genes of the network", "none of them", "give their symbols")
    if missing := [gene for gene in wanted if gene.upper() not in known]:
        warnings.warn(
            f"{file}: {len(missing)} of {len(wanted)} are not in the network: {listed(missing)}",
            stacklevel=2,
        )
    return known_genes


def read_lines(file: Path) -> list[str]:
    """The names in a file, one a line."""
    from ..model.errors import InputError

    if not file.is_file():
        raise InputError("genes", "a file with one a line", f"nothing at {file}", "correct it")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # of spreadsheets, with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            str(file), "a text of genes", f"another file ({error})", "name it"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def read_where(where: str | None, asked: Cells | None) -> NDArray[np.bool_] | None:
    """The cells (cells,) whose column has a value, from "column=value"."""
    if where is None:
        return None
    from ..model.errors import InputError

    column, _, value = where.partition("=")
    obs = getattr(getattr(asked, "adata", None), "obs", {})
    mask = (obs[column].astype(str) == value).to_numpy() if column in obs else None
    if mask is None or not mask.any():
        raise InputError("where", "a column of obs and a value of it", where, "correct it")
    return mask


def _print_comparison(name: str, compared: dict[str, Any], terminal: Terminal) -> None:
    """Scores by method, and signs by transcription factor."""

    def shown(value: Any) -> str:
        return "" if value is None else f"{value:.2f}"

    columns: Columns = {"method": str}
    for column in ("link_auprc_ratio", "link_early_precision_ratio", "link_auroc"):
        columns[column] = shown
    for column in ("sign_accuracy", "sign_balanced_accuracy", "sign_mcc"):
        columns[column] = shown
    rows = [
        {**dict.fromkeys(columns), "method": method, **scores}
        for method, scores in compared["methods"].items()
    ]
    counts = compared["reference"]
    terminal.table(
        f"{name}: {counts['links']} links among {counts['pairs']} pairs, {counts['signed']} signs; "
        f"{counts['conflicting']} of both signs, {counts['outside']} pairs outside the panel",
        rows,
        columns,
    )
    if compared["factors"]:
        terminal.table(
            "signs by transcription factor",
            compared["factors"],
            {
                "factor": str,
                "pairs": str,
                "accuracy": shown,
                "f1": shown,
                "published_tally": shown,
            },
        )
