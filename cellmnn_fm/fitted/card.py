"""Model cards, from what checkpoints record of themselves; figures come from files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.corpus_card import (
    NOT_STATED,
    plain_cell,
    row_of_data_set,
    row_of_entry,
    table_of_data_sets,
)
from ..model.errors import InputError, listed
from .foundation import Foundation
from .record import FitRecord

_PACKAGE = Path(__file__).parents[1]
# in an installed package, and in a clone
_TEMPLATES = (
    _PACKAGE / "fitted" / "card_template.md",
    _PACKAGE.parent / "model_cards" / "template.md",
)
_TAGS = ["single-cell", "time-course", "dynamics", "gene-regulatory-network", "biology"]
_USE_OF_BASE = """\
`pipeline.interpolate(adata, at=2.5, time_key="day")` predicts a time that was not measured, for
a new time course and without training; `pipeline.finetune(adata, time_key="day")`
learns from it; `pipeline.of_dataset(name)` answers for the data sets below without their files.
Without the package: `AutoModel.from_pretrained(..., trust_remote_code=True)`."""
_USE_OF_NETWORKS = """
`pipeline.grn(genes=[...])` says which of these genes go together in the data sets below."""
_USE_WITHOUT_DATA_SETS = """\
`pipeline.interpolate(adata, at=2.5, time_key="day")` predicts a time that was not measured, for
a new time course and without training; `pipeline.adapt(adata, time_key="day")` is a model of it.
Without the package: `AutoModel.from_pretrained(..., trust_remote_code=True)`."""
_USE_WITH_CONTROL = """\
`pipeline.interpolate(adata, at=2.5, time_key="day", condition_key="treatment", condition="drug")`
predicts a time at which the drug was not measured, from cells under it at one time or more, beside
a time course without; `pipeline.adapt(...)` with the same keywords is a model of the condition.
Without the package: `AutoModel.from_pretrained(..., trust_remote_code=True)`."""
_USE_OF_FIT = """\
`pipeline.interpolate(adata, at=2.5)` predicts a time that was not measured, `pipeline.fates`,
`pipeline.perturb` and `pipeline.grn` ask where cells go and which genes drive them."""
_INTENDED = """\
Research: to interpolate time courses of single cells between measured times, to follow cells, and
to raise hypotheses on fates and regulation that are tested in cells. Not for clinical decisions."""
_LIMITS = """\
- Edges between genes are associations: edges are not causes, and neither are predicted effects of
  knock-outs.
- Snapshots show distributions, not cells: many dynamics fit the same snapshots.
- Nothing checks a prediction beyond the last measured time.
- Without growth in the model, cells that multiply look like cells that move."""


@dataclass(frozen=True)
class CardText:
    """The parts of a card; none may be empty.

    Attributes
    ----------
    title, summary, name, how_to_use, intended_use, limits, training_data, results, training, \
reproduce : str
        In Markdown; `name` is what `from_pretrained` is given.
    """

    title: str
    summary: str
    name: str
    how_to_use: str
    intended_use: str
    limits: str
    training_data: str
    results: str
    training: str
    reproduce: str

    def __post_init__(self) -> None:
        if empty := [field.name for field in fields(self) if not getattr(self, field.name).strip()]:
            raise InputError("model card", "all of its parts", f"no {listed(empty)}", "fill it in")


def rendered(text: CardText, data: ModelCardData) -> ModelCard:
    """The card, checked: its metadata must be complete and its template filled.

    Raises
    ------
    InputError
        On metadata that are missing.
    """
    needed = ("license", "library_name", "tags")
    if missing := [name for name in needed if not getattr(data, name)]:
        raise InputError("model card", "all metadata", f"no {listed(missing)}", "fill it in")
    template = next(path for path in _TEMPLATES if path.is_file()).read_text()
    content = {field.name: getattr(text, field.name) for field in fields(text)}
    return ModelCard.from_template(data, template_str=template, **content)


def card_of_fit(record: FitRecord, licence: str | None = None) -> ModelCard:
    """The card of a model of one data set.

    Parameters
    ----------
    record : FitRecord
        Of the fit.
    licence : str, optional
        Of the weights; "other" by default.
    """
    title = plain_cell(record.name or "time course")
    summary = f"A model of one time course of single cells, {title}."
    if record.base is not None:
        summary += f" {_base_line(record)}"
    text = CardText(
        title=f"Cell-MNN of {title}",
        summary=summary,
        name="FOLDER_OR_NAME",
        how_to_use=_USE_OF_FIT,
        intended_use=_INTENDED,
        limits=_LIMITS,
        training_data=table_of_data_sets([_row_of_record(record)]),
        results=_verdict_of([record]),
        training=_training_of(record),
        reproduce=_reproduce(record),
    )
    return rendered(text, _card_data([record], licence))


def card_of_foundation(
    foundation: Foundation,
    name: str = "FOLDER_OR_NAME",
    licence: str | None = None,
    *,
    results: str | None = None,
    evaluated: Sequence[EvalResult] = (),
    reproduce: str | None = None,
) -> ModelCard:
    """The card of a model of many data sets.

    Parameters
    ----------
    foundation : Foundation
        Of the base.
    name : str
        What `from_pretrained` is given.
    licence : str, optional
        Of the weights; "other" by default.
    results : str, optional
        How good it is on data sets that it has not seen, in Markdown.
    evaluated : sequence of EvalResult
        The same, for the metadata.
    reproduce : str, optional
        How it was made.
    """
    tuned = [known.record for known in foundation.datasets.values() if known.record is not None]
    rows = [row_of_entry(known.entry) for known in foundation.datasets.values()]
    if rows:
        summary = f"One model of {len(rows)} time courses of single cells."
        data = table_of_data_sets(rows)
    else:
        summary = "A model of simulated systems alone: it has seen no real cell."
        data = "None. Systems are simulated on the way (`cellmnn_fm/data/simulated_systems.py`)."
    for record in tuned:
        summary += f" Fine-tuned on {plain_cell(record.name)}. {_base_line(record)}"
    trained = foundation.record
    text = CardText(
        title=name if name != "FOLDER_OR_NAME" else "Cell-MNN of many time courses",
        summary=summary,
        name=name,
        how_to_use=_how_to_use(foundation),
        intended_use=_INTENDED,
        limits=_LIMITS,
        training_data=data,
        results=results or _verdict_of(tuned),
        training=_training_of_foundation(trained),
        reproduce=reproduce or "From the settings above, with `pretraining/pretrain.py`.",
    )
    return rendered(text, _card_data(tuned, licence, list(foundation.datasets), evaluated, name))


def _how_to_use(foundation: Foundation) -> str:
    """The calls that a base answers."""
    if foundation.model.config.reads_control:
        return _USE_WITH_CONTROL
    if not foundation.datasets:
        return _USE_WITHOUT_DATA_SETS
    return _USE_OF_BASE + (_USE_OF_NETWORKS if foundation.networks else "")


def _card_data(
    records: Sequence[FitRecord],
    licence: str | None,
    datasets: list[str] | None = None,
    evaluated: Sequence[EvalResult] = (),
    name: str = "",
) -> ModelCardData:
    """Metadata of the card, for the Hub."""
    bases = sorted({str(record.base["name"]) for record in records if record.base is not None})
    names = datasets or [record.name for record in records if record.name]
    results: dict[str, Any] = {}
    if evaluated:
        results = {"eval_results": list(evaluated), "model_name": name}
    return ModelCardData(
        license=licence or "other",
        library_name="cellmnn_fm",
        tags=_TAGS,
        datasets=names or None,
        base_model=bases[0] if len(bases) == 1 else bases or None,
        **results,
    )


def _row_of_record(record: FitRecord) -> list[str]:
    """The row of a data set that a model was fitted to."""
    return row_of_data_set(record.name or NOT_STATED, record.cells, record.times, record.about)


def _base_line(record: FitRecord) -> str:
    """What a fine-tuned model started from."""
    base = record.base or {}
    revision = f", revision {base['revision']}" if base.get("revision") else ""
    name = f"{base.get('name', 'a model that was not saved')}{revision}"
    return f"Base: {name}; weights sha256 {base.get('sha256', 'unknown')}."


def _verdict_of(records: Sequence[FitRecord]) -> str:
    """The sentences of the fits, or that there are none."""
    verdicts = [record.verdict["sentence"] for record in records if record.verdict is not None]
    if not verdicts:
        return "Not measured: `pipeline.evaluate` compares left-out times with baselines."
    return "\n\n".join(verdicts)


def _training_of(record: FitRecord) -> str:
    """Steps and settings of a fit."""
    settings = {name: value for name, value in record.settings.items() if value is not None}
    steps = f"{len(record.losses)} steps in {record.seconds:.1f} s"
    return f"{steps}, on times {listed(record.times, len(record.times))}. {_as_text(settings)}"


def _training_of_foundation(record: Mapping[str, Any]) -> str:
    """Steps, settings and machine of a pretraining."""
    device = record.get("device", NOT_STATED)
    hardware = f"{record.get('processes', 1)} process(es), device {device}"
    threads = f", {record['threads']} thread(s)" if record.get("threads") else ""
    took = f"{record.get('steps', 0)} steps in {record.get('seconds', 0):.1f} s"
    return f"Hardware: {hardware}{threads}. {took}. {_as_text(record.get('settings', {}))}"


def _as_text(settings: Mapping[str, Any]) -> str:
    """Settings in one line."""
    flat = []
    for section, values in settings.items():
        parts = values if isinstance(values, dict) else {"": values}
        flat += [f"{section}.{name}".rstrip(".") + f" = {value}" for name, value in parts.items()]
    return "Settings: " + ", ".join(flat) + "." if flat else "Settings: the defaults."


def _reproduce(record: FitRecord) -> str:
    """The call that makes the fit again."""
    if record.base is not None:
        command = f"cellmnn finetune {record.base['name']} FILE.h5ad --time-key {record.time_key}"
    else:
        command = f"cellmnn fit FILE.h5ad --time-key {record.time_key}"
    return f"```\n{command} -o model\n```"
