"""What a corpus says of itself on the Hub: its data sets, where they are from, how to read them."""

from __future__ import annotations

from collections.abc import Iterable

from huggingface_hub import DatasetCard, DatasetCardData

from .corpus_sets import CorpusEntry

_NOT_STATED = "not stated"
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

| data set | cells | times | publication | licence |
|---|---:|---:|---|---|
{rows}

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
    rows = "\n".join(
        f"| {entry.name} | {sum(entry.cells):,} | {len(entry.times)} | "
        + " | ".join(_stated(entry, key) for key in ("publication", "licence"))
        + " |"
        for entry in entries
    )
    text = _TEXT.format(
        count=len(entries),
        cells=sum(sum(entry.cells) for entry in entries),
        dims=latent_dim,
        first=entries[0].name if entries else "NAME",
        rows=rows,
    )
    return DatasetCard(f"---\n{about.to_yaml()}\n---\n\n{text}")


def plain_cell(text: str) -> str:
    """In a line of Markdown: names of others must not be headings, cells of a table or tags."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _stated(entry: CorpusEntry, key: str) -> str:
    """What is known of its origin."""
    stated = entry.provenance.get(key) or ("simulated" if entry.synthetic else _NOT_STATED)
    return plain_cell(str(stated))
