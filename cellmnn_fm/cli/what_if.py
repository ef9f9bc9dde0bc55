"""The commands that ask a model what would be: genes set by hand, one of two conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.files import read_file
from ..data.options import Response
from ..data.outputs import TABLES, require_outputs, save_table
from .options import (
    Base,
    Dataset,
    End,
    File,
    Groups,
    Model,
    OfCourse,
    OfQuestion,
    Start,
    column_or_count,
    command,
    load_pipeline,
)
from .output import Columns, Terminal

# heavy modules are imported inside the commands: --help must answer at once


@command
def perturb(
    model: Model,
    file: File,
    groups: Groups,
    genes: Annotated[
        list[str],
        typer.Option("--gene", help="GENE (knocked out), GENE=over-express or GENE=value; repeat."),
    ],
    reading: OfQuestion,
    terminal: Terminal,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Shift of every gene at the end, .tsv.")
    ] = Path("perturbation.tsv"),
    dataset: Dataset = None,
    start: Annotated[
        float | None, typer.Option(help="The time whose cells are perturbed; the first if absent.")
    ] = None,
    end: End = None,
    response: Annotated[
        Response,
        typer.Option(
            help="By the network of genes, which are held; or by the flow, once they were moved."
        ),
    ] = "network",
    seed: Annotated[int, typer.Option(help="Of the resampled cells.")] = 0,
) -> None:
    """Set genes to values, and say how fates and expression at the end shift.

    A prediction of a model that knows associations: to be tested in cells.
    """
    require_outputs([model, file, *reading.files], {"output": (output, TABLES)})
    adata = read_file(file)
    from ..questions.perturbation import read_settings

    shifts = load_pipeline(model, dataset).perturb(
        adata,
        read_settings(genes),
        column_or_count(groups, adata),
        start=start,
        end=end,
        response=response,
        seed=seed,
        **reading.keywords,
    )
    save_table(shifts.genes, output, index_label="gene")
    rows = shifts.fates.reset_index(names="group").to_dict("records")
    columns: Columns = {"group": str}
    columns |= dict.fromkeys(("before", "after", "shift", "low", "high"), "{:.3f}".format)
    terminal.table("probability of each group at the end", rows, columns)
    if terminal.as_json:
        terminal.say("", fates=rows, inferred=shifts.inferred)
    elif shifts.inferred:
        terminal.say(f"placed by regression: {', '.join(shifts.inferred)}")
    terminal.wrote(output)


@command
def screen(
    model: Model,
    file: File,
    groups: Groups,
    reading: OfQuestion,
    terminal: Terminal,
    regulators: Annotated[
        list[str] | None,
        typer.Option("--gene", help="To be knocked out; repeat. All genes of the model if absent."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Shift, p and q of every gene and group, .tsv.")
    ] = Path("screen.tsv"),
    dataset: Dataset = None,
    start: Start = None,
    end: End = None,
    seed: Annotated[int, typer.Option(help="Of the genes that regulate nothing.")] = 0,
) -> None:
    """Knock out every gene by itself, and say which of them shift where cells end.

    p and q are against genes that regulate nothing.
    """
    require_outputs([model, file, *reading.files], {"output": (output, TABLES)})
    adata = read_file(file)
    table = load_pipeline(model, dataset).screen(
        adata,
        column_or_count(groups, adata),
        regulators,
        start=start,
        end=end,
        seed=seed,
        progress=terminal.progress,
        **reading.keywords,
    )
    save_table(table.set_index("gene"), output, index_label="gene")
    significant = int((table["q"] <= 0.1).sum())
    rows = table.head(10).to_dict("records")
    columns: Columns = {"gene": str, "group": str, "shift": "{:+.3f}".format}
    columns |= dict.fromkeys(("p", "q"), "{:.3f}".format)
    terminal.table(f"{significant} of {len(table)} shifts with q ≤ 0.1; the largest", rows, columns)
    if terminal.as_json:
        terminal.say("", output=str(output), significant=significant, rows=table.to_dict("records"))
    terminal.wrote(output)


@command
def compare(
    base: Base,
    file: File,
    condition: Annotated[str, typer.Option(help="Column of obs with two values.")],
    reading: OfCourse,
    terminal: Terminal,
    sample_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs with the donor, animal or culture of each cell, which are "
            "exchanged as a whole."
        ),
    ] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column of obs with the groups at the end, for the fates.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Distance by time, .tsv.")
    ] = None,
    permutations: Annotated[
        int, typer.Option(help="How often labels are exchanged, at most.")
    ] = 200,
    seed: Annotated[int, typer.Option(help="Of the permutations.")] = 0,
) -> None:
    """Compare two conditions: where they lead the same cells, and to which fates."""
    require_outputs([base, file, *reading.files], {"output": (output, TABLES)})
    adata = read_file(file)
    compared = load_pipeline(base).compare(
        adata,
        condition,
        sample_key=sample_key,
        groups=groups,
        permutations=permutations,
        seed=seed,
        progress=terminal.progress,
        **reading.keywords,
    )
    distances = compared.trajectories
    if output is not None:
        save_table(distances, output, index_label=str(distances.index.name))
    first, second = compared.conditions
    every_table = {"trajectories": distances, "fates": compared.fates}
    titles = {"trajectories": f"{first} and {second}", "fates": "fates"}
    content: dict[str, Any] = dict.fromkeys(every_table)
    for name, table in every_table.items():
        if table is not None:
            content[name] = table.reset_index().to_dict("records")
            columns: Columns = {str(table.index.name): str}
            columns |= dict.fromkeys(table.columns, "{:.3f}".format)
            terminal.table(titles[name], content[name], columns)
    about = compared.replicates.sentence
    terminal.say(
        about, conditions=compared.conditions, unit=compared.replicates.unit, about=about, **content
    )
    terminal.wrote(output)
