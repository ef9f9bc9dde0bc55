"""What a corpus says of itself on the Hub: its data sets, where they are from, how to read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from .corpus_sets import CorpusEntry

NOT_STATED = "not stated"
_TEXT = """\
# Time courses of single cells in one latent space

{count} time courses, {cells:,} cells, {dims} dimensions. A row is a cell: `z` is its latent state,
`components` are its coordinates in more principal components of its data set alone. Cells are
ordered by time; `manifest.json` says how many there are at each. The genes and loadings of each
data set are in `sets/`, the subspace that they share in `shared_subspace/`.

```python
import datasets
from cellmnn_fm import Corpus

corpus = Corpus.from_hub("REPOSITORY", "corpus")  # all of it, for pretraining
rows = datasets.load_dataset("REPOSITORY", "{first}", split="train", streaming=True)
```

## Data sets

{table}

Cells were measured, or simulated, by others where a publication is named; its licence holds for
them. Data sets that share cells are named in `manifest.json` (`overlaps`): no split may part them.
"""


def corpus_card(entries: Iterable[CorpusEntry], latent_dim: int) -> DatasetCard:
    """The card of a corpus of these data sets, each a configuration of parquet files in data/."""
    entries = list(entries)
    about = DatasetCardData(
        license="other",
        tags=["single-cell", "time-course", "biology"],
        configs=[
            {"config_name": entry.name, "data_files": f"data/{entry.name}.parquet"}
            for entry in entries
        ],
    )
    text = _TEXT.format(
        count=len(entries),
        cells=sum(sum(entry.cells) for entry in entries),
        dims=latent_dim,
        first=entries[0].name if entries else "NAME",
        table=table_of_data_sets([row_of_entry(entry) for entry in entries]),
    )
    return DatasetCard(f"---\n{about.to_yaml()}\n---\n\n{text}")


def table_of_data_sets(rows: Iterable[Iterable[str]]) -> str:
    """In Markdown; a row has the name, cells, times, publication and licence of a data set."""
    lines = [
        "| data set | cells | times | publication, accession | licence |",
        "|---|---:|---:|---|---|",
    ]
    return "\n".join([*lines, *("| " + " | ".join(map(plain_cell, row)) + " |" for row in rows)])


def row_of_entry(entry: CorpusEntry) -> list[str]:
    """The row of a data set of a corpus."""
    unknown = "simulated" if entry.synthetic else NOT_STATED
    return row_of_data_set(entry.name, entry.cells, entry.times, entry.provenance, unknown)


def row_of_data_set(
    name: str,
    cells: Iterable[int],
    times: Iterable[float],
    about: Mapping[str, Any],
    unknown: str = NOT_STATED,
) -> list[str]:
    """The row of any: its `cells` at each of its `times`, and what is stated `about` it."""
    stated = [str(about.get(key) or unknown) for key in ("publication", "licence")]
    return [name, f"{sum(cells):,}", f"{len(list(times))}", *stated]


def plain_cell(text: str) -> str:
    """In a line of Markdown: names of others must not be headings, cells of a table or tags."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
