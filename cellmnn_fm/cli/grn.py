"""The commands about gene regulatory networks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..data.files import read_file
from ..data.outputs import (
    EDGES,
    FIGURES,
    JSON,
    STANDARD_OUTPUT,
    require_outputs,
    save_figure,
    save_json,
)
from .console import (
    AsJson,
    Dataset,
    FileOrDataset,
    Model,
    Quiet,
    TimeKeyOrFit,
    TimeMap,
    asked_time_key,
    load_pipeline,
    plain_errors,
    print_table,
    say,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from ..data.times import TimeKey
    from ..pipeline import CellMNNPipeline
    from ..questions.grn.network import GeneRegulatoryNetwork

# heavy modules are imported inside the commands: --help must answer at once

Where = Annotated[str | None, typer.Option(help="column=value: only cells with that value in obs.")]
EstimatorOption = Annotated[
    Literal["production", "operator", "jacobian"],
    typer.Option(help="production is the one that is right about signs where the truth is known."),
]
DecayOption = Annotated[
    str | None,
    typer.Option(
        help="Decay of mRNA: a rate per unit of time, a table of gene and half-life (.tsv), or "
        "data; the measured default if absent."
    ),
]


def grn(
    model: Model,
    file: FileOrDataset = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Edges: .tsv, .csv, .parquet or .graphml.")
    ] = Path("edges.tsv"),
    dataset: Dataset = None,
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    where: Where = None,
    estimator: EstimatorOption = "production",
    decay: DecayOption = None,
    ridge: Annotated[float | None, typer.Option(help="λ; the measured one if absent.")] = None,
    sources: Annotated[
        Path | None, typer.Option(help="Regulators, one a line; all genes if absent.")
    ] = None,
    targets: Annotated[Path | None, typer.Option(help="Targets, one a line.")] = None,
    top: Annotated[int, typer.Option(help="So many edges.")] = 10_000,
    members: Annotated[
        int, typer.Option(help="Resample the cells so often, for a confidence in each edge.")
    ] = 0,
    figures: Annotated[Path | None, typer.Option(help="Folder for figures.")] = None,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the gene regulatory network: who makes whom faster or slower.

    Edges are statistical, not shown to be causes.
    """
    with plain_errors(quiet=quiet):
        drawn = None if figures is None else figures / "network.png"
        outputs = {"output": (output, EDGES), "figures": (drawn, FIGURES)}
        require_outputs([model, file, sources, targets, decay], outputs)
        pipeline, adata, asked = _asked(model, file, dataset, time_key, time_map, where)
        from ..questions.grn.estimators import DEFAULT_RIDGE

        network = pipeline.grn(
            adata,
            time_key=asked,
            estimator=estimator,
            decay=read_decay(decay),
            ridge=DEFAULT_RIDGE if ridge is None else ridge,
            members=members,
            seed=seed,
        )
        picked: dict[str, Any] = {
            "sources": read_genes(sources, network.genes),
            "targets": read_genes(targets, network.genes),
        }
        network.save(output, top_k=top, **picked)
        if figures is not None:
            _draw(figures, pipeline, adata, asked, network, picked)
        genes, cells = len(network.genes), network.record["cells"]
        say(
            f"{output}: {genes} genes, {cells} cells",
            quiet=quiet,
            as_json=as_json,
            output=str(output),
            genes=genes,
            cells=cells,
        )


def grn_evaluate(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE.h5ad", help="Cells.")],
    reference: Annotated[
        Path, typer.Option(help="Known edges: source, target and perhaps sign, .tsv.")
    ],
    dataset: Dataset = None,
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    where: Where = None,
    decay: DecayOption = None,
    trees: Annotated[bool, typer.Option(help="Add forests (GENIE3-like), which are slow.")] = True,
    seed: Annotated[int, typer.Option(help="Of baselines.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="All figures, .json.")] = None,
    quiet: Quiet = False,
) -> None:
    """Compare networks with known edges, beside simple baselines."""
    with plain_errors(quiet=quiet):
        require_outputs([model, file, reference, decay], {"json": (json_file, JSON)})
        pipeline, adata, asked = _asked(model, file, dataset, time_key, time_map, where)
        from ..questions.grn.reference import Comparison, Reference

        assert adata is not None
        found = Comparison.of(
            pipeline,
            adata,
            Reference.read(reference, pipeline.panel.names),
            time_key=asked,
            decay=read_decay(decay),
            most_for_trees=None if trees else 0,
            seed=seed,
        ).to_dict()
        if not quiet and str(json_file) != STANDARD_OUTPUT:
            _print_comparison(file.stem, found)
        if json_file is not None:
            save_json(found, json_file)


def _draw(
    folder: Path,
    pipeline: CellMNNPipeline,
    adata: AnnData | None,
    time_key: str | TimeKey | None,
    network: GeneRegulatoryNetwork,
    picked: dict[str, Any],
) -> None:
    """Network, heat map, operators; with several times also the strongest edges over time."""
    from ..questions.grn.estimators import MIN_NETWORK_CELLS, cell_operators, production_network
    from ..report.network_figures import (
        plot_edges_over_time,
        plot_heat_map,
        plot_network,
        plot_operators,
    )

    save_figure(plot_network(network, **picked), folder / "network.png")
    save_figure(plot_heat_map(network), folder / "heat_map.png")
    cells, scale = pipeline.cell_states(adata, time_key), pipeline.record.time_scale
    operators = cell_operators(pipeline.model, cells, scale)
    save_figure(plot_operators(operators, cells.times), folder / "operators.png")
    times = [at for at in sorted(set(cells.times)) if (cells.times == at).sum() > MIN_NETWORK_CELLS]
    if len(times) > 1:
        by_time = {
            at: production_network(
                cells[cells.times == at], pipeline.subspace, pipeline.panel.names, scale
            )
            for at in times
        }
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

    if not file.is_file():
        raise InputError("genes", "a file with one a line", f"nothing at {file}", "correct it")
    known = {gene.upper(): gene for gene in genes}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # of spreadsheets, with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            str(file), "a text of genes", f"another file ({error})", "name it"
        ) from error
    wanted = [line.strip() for line in lines if line.strip()]
    found = [known[gene.upper()] for gene in wanted if gene.upper() in known]
    if not found:
        raise InputError(str(file), "genes of the network", "none of them", "give their symbols")
    if missing := [gene for gene in wanted if gene.upper() not in known]:
        warnings.warn(
            f"{file}: {len(missing)} of {len(wanted)} are not in the network: {listed(missing)}",
            stacklevel=2,
        )
    return found


def _asked(
    model: str,
    file: Path | None,
    dataset: str | None,
    time_key: str | None,
    time_map: list[str] | None,
    where: str | None,
) -> tuple[CellMNNPipeline, AnnData | None, str | TimeKey | None]:
    """The pipeline, adapted to all cells of the file if need be, and the cells that are meant."""
    from ..model.errors import InputError

    adata = None if file is None else read_file(file)
    pipeline = load_pipeline(model, dataset)
    asked = asked_time_key(pipeline, time_key, time_map)
    if adata is None:
        return pipeline, None, asked
    pipeline = pipeline.fitted_to(adata, asked)
    if where is not None:
        column, _, value = where.partition("=")
        if column not in adata.obs or not (adata.obs[column].astype(str) == value).any():
            raise InputError("where", "a column of obs and a value of it", where, "correct it")
        adata = adata[(adata.obs[column].astype(str) == value).to_numpy()]
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    return pipeline, adata, asked


def _print_comparison(name: str, found: dict[str, Any]) -> None:
    def shown(value: Any) -> str:
        return "" if value is None else f"{value:.2f}"

    columns: dict[str, Any] = {"method": str}
    for column in ("link_auprc_ratio", "link_early_precision_ratio", "link_auroc"):
        columns[column] = shown
    for column in ("sign_accuracy", "sign_balanced_accuracy", "sign_mcc"):
        columns[column] = shown
    rows = [
        {**dict.fromkeys(columns), "method": method, **scores}
        for method, scores in found["methods"].items()
    ]
    counts = found["reference"]
    print_table(
        f"{name}: {counts['links']} links among {counts['pairs']} pairs, {counts['signed']} signs; "
        f"{counts['conflicting']} of both signs, {counts['outside']} pairs outside the panel",
        rows,
        columns,
    )
    if found["factors"]:
        print_table(
            "signs by transcription factor",
            found["factors"],
            {
                "factor": str,
                "pairs": str,
                "accuracy": shown,
                "f1": shown,
                "published_tally": shown,
            },
        )
