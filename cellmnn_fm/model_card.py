"""A stub of a model card, from what a checkpoint records."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData

from .errors import listed
from .fit_record import FitRecord
from .foundation import Foundation

_USE = """
```python
from cellmnn_fm import CellMNNPipeline

pipeline = CellMNNPipeline.from_pretrained(FOLDER_OR_NAME)
```

To be added before it is shared: licence, source and licence of the data, intended use.
Edges between genes that the model suggests are not causes.
"""


def card_of_fit(record: FitRecord) -> ModelCard:
    """The card of a model of one data set."""
    title = record.name or "time course"
    lines = [f"# Cell-MNN of {title}", "", _data_line(record)]
    if record.base is not None:
        lines.append(_base_line(record))
    if record.verdict is not None:
        lines += ["", record.verdict["sentence"]]
    return _card([record], lines)


def card_of_foundation(foundation: Foundation) -> ModelCard:
    """The card of a model of many data sets."""
    tuned = [one.record for one in foundation.datasets.values() if one.record is not None]
    names = listed(foundation.datasets, len(foundation.datasets))
    lines = ["# Cell-MNN of many time courses", "", f"Data sets: {names}."]
    for record in tuned:
        lines += ["", f"Fine-tuned on {record.name}. {_data_line(record)}", _base_line(record)]
        if record.verdict is not None:
            lines.append(record.verdict["sentence"])
    return _card(tuned, lines)


def _data_line(record: FitRecord) -> str:
    times = listed(record.times, len(record.times))
    return f"{sum(record.cells):,} cells at times {times}; {len(record.losses)} training steps."


def _base_line(record: FitRecord) -> str:
    base = record.base or {}
    revision = f", revision {base['revision']}" if base.get("revision") else ""
    found = f"{base.get('name', 'a model that was not saved')}{revision}"
    return f"Base: {found}; weights sha256 {base.get('sha256', 'unknown')}."


def _card(records: list[FitRecord], lines: list[str]) -> ModelCard:
    bases = sorted({str(one.base["name"]) for one in records if one.base is not None})
    data = ModelCardData(
        library_name="cellmnn_fm",
        tags=["single-cell", "time-course", "dynamics"],
        base_model=bases[0] if len(bases) == 1 else bases or None,
    )
    return ModelCard("\n".join(["---", data.to_yaml(), "---", "", *lines, _USE]))
