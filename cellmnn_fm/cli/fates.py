"""The commands about fates of cells, and about how fast they multiply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.files import read_file
from ..data.outputs import FIGURES, TABLES, require_outputs, save_figure, save_table
from .console import (
    AsJson,
    Base,
    Dataset,
    File,
    Model,
    Quiet,
    TimeKey,
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

# heavy modules are imported inside the commands: --help must answer at once

Groups = Annotated[
    str,
    typer.Option(help="Column of obs with the groups at the end, or how many clusters of them."),
]
End = Annotated[float | None, typer.Option(help="When the groups count; the last time if absent.")]


def fates(
    model: Model,
    file: File,
    groups: Groups,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Probabilities of every cell, .tsv.")
    ] = Path("fates.tsv"),
    drivers: Annotated[Path | None, typer.Option(help="Driver genes of every group, .tsv.")] = None,
    figure: Annotated[Path | None, typer.Option(help="The fate map as a figure.")] = None,
    dataset: Dataset = None,
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    start: Annotated[
        float | None, typer.Option(help="Only cells of this time; all if absent.")
    ] = None,
    end: End = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Follow cells to the end, and say in which group they are then."""
    with plain_errors(quiet=quiet):
        tables = {"output": (output, TABLES), "drivers": (drivers, TABLES)}
        require_outputs([model, file], {**tables, "figure": (figure, FIGURES)})
        adata = read_file(file)
        pipeline = load_pipeline(model, dataset)
        asked = asked_time_key(pipeline, time_key, time_map)
        found = pipeline.fates(
            adata, column_or_count(groups, adata), time_key=asked, start=start, end=end
        )
        save_table(found.probabilities, output, index_label="cell")
        if drivers is not None:
            save_table(found.drivers, drivers, index_label="gene")
        if figure is not None:
            from ..report.figures import plot_fates

            annotated = pipeline.annotate(adata, time_key=asked, layers=False)
            states = annotated.obsm["X_cellmnn"][found.rows]
            save_figure(plot_fates(states, found.probabilities), figure)
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.shares.items())
        say(
            f"{output}: {len(found.probabilities)} cells; {shares}",
            quiet=quiet,
            as_json=as_json,
            output=str(output),
            cells=len(found.probabilities),
            shares=found.shares.to_dict(),
            accuracy=found.accuracy,
        )


def growth(
    model: Model,
    file: File,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Rate of every cell, .tsv.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column of obs, such as cell types, to take means over.")
    ] = None,
    population: Annotated[
        list[str] | None,
        typer.Option(help="TIME=CELLS, how many cells there were; repeat, for absolute rates."),
    ] = None,
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How fast cells multiply, births less deaths, in a model that was fitted with growth.

    Without counts of the population rates are relative to the mean of the cells of the same time.
    """
    with plain_errors(quiet=quiet):
        require_outputs([model, file], {"output": (output, TABLES)})
        adata = read_file(file)
        from ..questions.growth_queries import read_population

        pipeline = load_pipeline(model)
        asked = asked_time_key(pipeline, time_key, time_map)
        found = pipeline.growth(
            adata,
            groups,
            population=None if population is None else read_population(population),
            time_key=asked,
        )
        if output is not None:
            save_table(found.rates.to_frame(), output, index_label="cell")
        if as_json or quiet:
            rows = None if found.groups is None else found.groups.to_dict("records")
            say("", quiet=True, as_json=as_json, absolute=found.absolute, groups=rows)
            return
        title = "absolute rates" if found.absolute else "rates, relative to all cells of a time"
        if found.groups is None:
            typer.echo(f"{title}: {found.rates.min():.3g} to {found.rates.max():.3g}")
            return
        columns: dict[str, Any] = {"time": "{:g}".format, "group": str, "rate": "{:.3f}".format}
        columns |= {"cells": str, "share": "{:.1%}".format}
        if found.absolute:
            columns["size"] = "{:,.0f}".format
        print_table(f"{groups}: {title}", found.groups.to_dict("records"), columns)


def perturb(
    model: Model,
    file: File,
    groups: Groups,
    genes: Annotated[
        list[str],
        typer.Option("--gene", help="GENE (knocked out), GENE=over-express or GENE=value; repeat."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Shift of every gene at the end, .tsv.")
    ] = Path("perturbation.tsv"),
    dataset: Dataset = None,
    time_key: TimeKeyOrFit = None,
    time_map: TimeMap = None,
    start: Annotated[
        float | None, typer.Option(help="The time whose cells are perturbed; the first if absent.")
    ] = None,
    end: End = None,
    seed: Annotated[int, typer.Option(help="Of the resampled cells.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Set genes to values, and say how fates and expression at the end shift.

    A prediction of a model that knows associations: to be tested in cells.
    """
    with plain_errors(quiet=quiet):
        require_outputs([model, file], {"output": (output, TABLES)})
        adata = read_file(file)
        from ..questions.fate_queries import read_settings

        pipeline = load_pipeline(model, dataset)
        asked = asked_time_key(pipeline, time_key, time_map)
        found = pipeline.perturb(
            adata,
            read_settings(genes),
            column_or_count(groups, adata),
            time_key=asked,
            start=start,
            end=end,
            seed=seed,
        )
        save_table(found.genes, output, index_label="gene")
        rows = found.fates.reset_index(names="group").to_dict("records")
        if as_json:
            say("", quiet=True, as_json=True, fates=rows, inferred=found.inferred)
        elif not quiet:
            columns: dict[str, Any] = {"group": str}
            for name in ("before", "after", "shift", "low", "high"):
                columns[name] = "{:.3f}".format
            print_table("probability of each group at the end", rows, columns)
            if found.inferred:
                typer.echo(f"placed by regression: {', '.join(found.inferred)}")


def compare(
    base: Base,
    file: File,
    time_key: TimeKey,
    condition: Annotated[str, typer.Option(help="Column of obs with two values.")],
    groups: Annotated[
        str | None, typer.Option(help="Column of obs with the groups at the end, for the fates.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Distance by time, .tsv.")
    ] = None,
    permutations: Annotated[int, typer.Option(help="Of the labels, within times.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the permutations.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two conditions: where they lead the same cells, and to which fates."""
    with plain_errors(quiet=quiet):
        require_outputs([base, file], {"output": (output, TABLES)})
        adata = read_file(file)
        found = load_pipeline(base).compare(
            adata,
            condition,
            time_key=time_key,
            groups=groups,
            permutations=permutations,
            seed=seed,
            progress=not quiet,
        )
        if output is not None:
            table = found.trajectories
            save_table(table, output, index_label=str(table.index.name))
        if as_json or quiet:
            tables = {
                name: None if table is None else table.reset_index().to_dict("records")
                for name, table in (("trajectories", found.trajectories), ("fates", found.fates))
            }
            say("", quiet=True, as_json=as_json, conditions=found.conditions, **tables)
            return
        first, second = found.conditions
        for title, table in (
            (f"{first} and {second}", found.trajectories),
            ("fates", found.fates),
        ):
            if table is not None:
                columns: dict[str, Any] = {str(table.index.name): str}
                columns |= dict.fromkeys(table.columns, "{:.3f}".format)
                print_table(title, table.reset_index().to_dict("records"), columns)


def column_or_count(groups: str, adata: AnnData) -> str | int:
    """A column of obs, or a number of clusters where there is no column of that name."""
    return int(groups) if groups.isdigit() and groups not in adata.obs else groups
