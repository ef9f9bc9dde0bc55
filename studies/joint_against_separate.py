"""One model of all data sets against a model for each, on times that neither has seen.

    python -m studies.joint_against_separate    # about 5 minutes on 2 cores

Of every gene-level data set that allows it, the middle one of the times that can be held out is
left out: of the subspace, of the joint model's corpus, and of the separate fits. The joint model
answers with the embedding that it learned for the data set beside its cells; where two times are
left, nothing could be learned from, with the cells alone. Separate fits are the default preset,
without and with the frame, each with more tasks a data set than the joint model. Result:
results/joint_against_separate.jsonl and .md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import typer
import yaml

from cellmnn_fm import CellMNNModel, CellMNNPipeline
from cellmnn_fm.data.options import ReadingOptions, Start
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.evaluation.candidates import preset_candidates
from cellmnn_fm.evaluation.evaluation import Candidate, evaluate
from cellmnn_fm.evaluation.folds import MIN_HELD_OUT_CELLS, Fold
from cellmnn_fm.evaluation.metrics import with_interval
from cellmnn_fm.fitted.foundation import save_foundation
from cellmnn_fm.training.adaptation import adapt
from pretraining.build_corpus import GENES, build, read_list

from .bases import BASE_CONFIG, pretrained
from .data_sets import DATA, Data
from .results import Results

RESULTS = Results("joint_against_separate")
METHODS = ("joint", "separate", "separate_in_frame", "untrained_two_sided")


def main(
    config: Annotated[Path, typer.Option(help="Model, training and sampling.")] = BASE_CONFIG,
    data: Data = DATA,
    seeds: int = 3,
) -> None:
    """Train the joint model, evaluate all, print the table."""
    held_out = {
        entry["name"]: middle_time(anndata.read_h5ad(data / entry["file"])) for entry in read_list()
    }
    with tempfile.TemporaryDirectory() as folder:
        joint_base(data, Path(folder, "joint"), held_out, config)
        base = CellMNNPipeline.from_pretrained(Path(folder, "joint"))
    outcome = {}
    for row, entry in enumerate(read_list()):
        name, adata = entry["name"], anndata.read_h5ad(data / entry["file"])
        if held_out[name] is None:
            continue
        times = len(base.foundation.dataset(name).entry.times)
        start: Start | int = row if times > 2 else "inferred"
        evaluation = evaluate(
            adata,
            [joint_candidate(base.model, start), *separate_candidates()],
            base.foundation.reading(
                ReadingOptions(time_key="time", on_duplicates=GENES.on_duplicates)
            ),
            held_out=[held_out[name]],
            seeds=seeds,
        )
        outcome[name] = evaluation.to_dict()
        print(name, {m: round(evaluation.summary[m]["w1_mean"], 3) for m in METHODS}, flush=True)
    RESULTS.replace(outcome)
    report(outcome)


def joint_base(
    data: Path, folder: Path, held_out: dict[str, float | None], config: Path = BASE_CONFIG
) -> dict[str, Any]:
    """Train one model on all listed data sets, each without its held-out time, and save it."""
    settings = yaml.safe_load(config.read_text())
    adatas = {entry["name"]: anndata.read_h5ad(data / entry["file"]) for entry in read_list()}
    seen = {name: without(adata, held_out[name]) for name, adata in adatas.items()}
    with tempfile.TemporaryDirectory() as temporary:
        corpus = build(Path(temporary, "corpus"), seen, read_list())
        save_foundation(folder, pretrained(corpus, settings), corpus, {"settings": settings})
    return {"data_sets": len(seen)}


def middle_time(adata: anndata.AnnData) -> float | None:
    """The middle one of the times that can be held out."""
    times, cells = np.unique(adata.obs["time"].to_numpy(float), return_counts=True)
    able = times[1:-1][cells[1:-1] >= MIN_HELD_OUT_CELLS]
    return float(able[len(able) // 2]) if len(able) else None


def without(adata: anndata.AnnData, time: float | None) -> anndata.AnnData:
    """All cells but those of a time."""
    return adata if time is None else adata[adata.obs["time"] != time].copy()


def joint_candidate(model: CellMNNModel, start: Start | int) -> Candidate:
    """The joint model's answer for one of its data sets."""

    def fit(fold: Fold, seed: int) -> tuple[Dynamics, int]:
        return Dynamics(adapt(model, fold.training, start), fold.training.time_scale), 0

    return Candidate(fit, {"joint": "two_sided"})


def separate_candidates() -> list[Candidate]:
    """Default fits without and with the frame, and the untrained frame."""
    plain, untrained = preset_candidates("default")
    in_frame, _ = preset_candidates("default", frame=True)
    return [
        Candidate(plain.fit, {"separate": "two_sided"}),
        Candidate(in_frame.fit, {"separate_in_frame": "two_sided"}),
        untrained,
    ]


def report(outcome: dict[str, Any]) -> None:
    """Print W1 by data set and the ratios of joint to separate."""
    lines = [
        "| data set | held out | joint | separate | separate in the frame | untrained frame |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    w1: dict[str, list[float]] = {method: [] for method in METHODS}
    for name, evaluated in outcome.items():
        for method in METHODS:
            w1[method].append(evaluated["summary"][method]["w1_mean"])
        cells = [f"{w1[method][-1]:.3f}" for method in METHODS]
        lines.append("| " + " | ".join([name, f"{evaluated['folds'][0]['time']:g}", *cells]) + " |")
    ratios = [
        with_interval([a / b for a, b in zip(w1["joint"], w1[method], strict=True)])
        for method in METHODS[1:]
    ]
    lines.append("| **joint over it, mean** | | | " + " | ".join(ratios) + " |")
    RESULTS.show("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
