r"""The table of the Cell-MNN paper: embryoid bodies, Cite and Multi, 5 components, W1.

    python -m benchmarks.paper_table FOLDER                   # about 10 minutes on 2 cores
    python -m benchmarks.paper_table FOLDER --protocol strict
    python -m benchmarks.paper_table FOLDER --only paper --only ot_cfm    # an hour

FOLDER has the three public files, or some of them; README.md says where they are. Every interior
time is held out and predicted from the others, by fits to each data set ("default", "paper", and
what else is asked for) and by one model that is trained on all of them jointly, each without a
time.
The published numbers are of the setting that `paper` is, but stopped on the held-out time itself.

One JSON for each (data set, held-out time, method) lies in results/paper_table/PROTOCOL.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
import typer
import yaml

from cellmnn_fm import CellMNNModel, InputError
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.latent_space import SpaceOptions
from cellmnn_fm.data.options import Protocol
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.evaluation.folds import Fold, held_out_fold, held_out_times
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.pretraining import corpus_config, pretrain
from studies.bases import BASE_CONFIG
from studies.harness import Cell, console, run_cells
from studies.results import Results
from studies.tables import markdown

from .comparison import LABELS
from .interpolation import SECONDS, baselines, pushed_by_models, scores_of

N_DIMS = 5
SEEDS = 3


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the files.")],
    protocol: Protocol = "published",
    only: Annotated[list[str] | None, typer.Option(help="A method; may be repeated.")] = None,
    processes: int = 2,
    steps: Annotated[int | None, typer.Option(help="Of joint training; as base.yaml.")] = None,
) -> None:
    """Evaluate what has no result yet, then print the table."""
    folder = folder.resolve()
    adatas = read_all(folder)
    results = Results(f"paper_table_{protocol}")
    methods = only or ["baselines", "default", "in_frame", "joint"]
    held_out = {
        name: held_out_times(adata.obs["time"].to_numpy()) for name, adata in adatas.items()
    }
    cells = [
        Cell(
            results,
            (name, f"{left_out:g}", method),
            evaluate_one,
            (folder, name, left_out, method, protocol),
            SEEDS * SECONDS[method],
        )
        for name, times in held_out.items()
        for left_out in times
        for method in methods
        if method != "joint"
    ]
    if "joint" in methods:
        for turn in range(max(map(len, held_out.values()))):
            left_out = {name: times[turn] for name, times in held_out.items() if turn < len(times)}
            arguments = (folder, left_out, protocol, steps)
            cells.append(Cell(results, ("joint", str(turn)), evaluate_jointly, arguments, 60))
    run_cells(cells, processes=processes)
    report(results)


# ---------------------------------------------------------------------------------------------
# The files


def read_eb(file: Path) -> anndata.AnnData:
    """Embryoid bodies: `pcs` (cells, components) and `sample_labels` (cells,), 0 to 4."""
    with np.load(file, allow_pickle=False) as arrays:
        missing = {"pcs", "sample_labels"} - set(arrays)
        if missing:
            actual = ", ".join(arrays) or "none"
            raise InputError(
                file.name, "arrays pcs and sample_labels", actual, "get the right file"
            )
        return coordinates("eb", arrays["pcs"], arrays["sample_labels"])


def read_h5ad(name: str, file: Path) -> anndata.AnnData:
    """Cite and Multi: `obsm["X_pca"]` and `obs["day"]`; nothing else of the file is read."""
    adata = anndata.read_h5ad(file, backed="r")
    if "X_pca" not in adata.obsm or "day" not in adata.obs:
        actual = f"obsm {', '.join(adata.obsm)}; obs {', '.join(adata.obs)}"
        raise InputError(file.name, "obsm X_pca and obs day", actual, "get the right file")
    return coordinates(name, np.asarray(adata.obsm["X_pca"]), adata.obs["day"].to_numpy())


def coordinates(name: str, components: np.ndarray, times: np.ndarray) -> anndata.AnnData:
    """The leading components as they are, and times as numbers."""
    names = np.arange(len(components)).astype(str)
    return anndata.AnnData(
        np.ascontiguousarray(components[:, :N_DIMS], dtype=np.float32),
        obs=pd.DataFrame({"time": np.asarray(times).astype(float)}, index=names),
        var=pd.DataFrame(index=[f"PC{number}" for number in range(1, N_DIMS + 1)]),
        uns={"name": name, "space": "pca"},
    )


FILES: dict[str, tuple[str, Callable[[Path], anndata.AnnData]]] = {
    "eb": ("eb_velocity_v5.npz", read_eb),
    "cite": ("op_cite_inputs_0.h5ad", lambda file: read_h5ad("cite", file)),
    "multi": ("op_train_multi_targets_0.h5ad", lambda file: read_h5ad("multi", file)),
}


def read_all(folder: Path) -> dict[str, anndata.AnnData]:
    """The data sets whose files are there."""
    adatas = {
        name: read(folder / file)
        for name, (file, read) in FILES.items()
        if (folder / file).exists()
    }
    if not adatas:
        expected = ", ".join(file for file, _ in FILES.values())
        raise InputError(str(folder), expected, "none of them", "see benchmarks/README.md")
    return adatas


# ---------------------------------------------------------------------------------------------
# Fits to each, and one to all


def fold_of(adata: anndata.AnnData, at: float, protocol: Protocol) -> Callable[[int], Fold]:
    """The fold of a held-out time, by seed."""
    return held_out_fold(
        read_source(adata),
        read_times(adata, "time"),
        at,
        SpaceOptions(),
        latent_dim=N_DIMS,
        n_dims=N_DIMS,
        protocol=protocol,
    )


def evaluate_one(
    folder: Path, name: str, at: float, method: str, protocol: Protocol
) -> dict[str, Any]:
    """One method on one held-out time."""
    file, read = FILES[name]
    by_seed = fold_of(read(folder / file), at, protocol)
    scores = []
    for seed in range(SEEDS):
        fold = by_seed(seed)
        scored = (
            baselines(fold, seed)
            if method == "baselines"
            else scores_of(fold, method, None, name, seed)
        )
        scores += [{"dataset": name, "time": at, "seed": seed, **score} for score in scored]
    return {"scores": scores}


def evaluate_jointly(
    folder: Path, left_out: dict[str, float], protocol: Protocol, steps: int | None
) -> dict[str, Any]:
    """One model of all data sets, each of which lacks a time; those left out are predicted."""
    settings = yaml.safe_load(BASE_CONFIG.read_text())
    if steps is not None:
        settings["training"]["steps"] = steps
    training = {**settings["training"], "check_every": 0}
    adatas = read_all(folder)
    scores = []
    for seed in range(SEEDS):
        folds = {
            name: fold_of(adatas[name], time, protocol)(seed) for name, time in left_out.items()
        }
        with tempfile.TemporaryDirectory() as temporary:
            corpus = Corpus.create(Path(temporary, "corpus"), latent_dim=N_DIMS)
            for name, fold in folds.items():
                corpus.add_course(name, fold.training)
            model = pretrain(
                corpus,
                corpus_config(corpus, **settings["model"]),
                TrainingConfig(**training),
                SamplingConfig(**settings["sampling"]),
                start=CellMNNModel.from_pretrained(settings["start"]),
                seed=seed,
            ).model
        for row, (name, fold) in enumerate(folds.items()):
            adapted = adapt(model, fold.training, row)
            predicted = pushed_by_models([Dynamics(adapted, fold.training.time_scale)], fold)
            for kind, (states, weights) in predicted.items():
                score = {"method": "joint", "kind": kind, "w1": fold.w1(states, weights)}
                scores.append({"dataset": name, "time": fold.time, "seed": seed, **score})
    return {"scores": scores}


# ---------------------------------------------------------------------------------------------
# The table


def report(results: Results) -> None:
    """Mean over held-out times, with the spread over seeds."""
    scores = [score for outcome in results.read().values() for score in outcome.get("scores", [])]
    names = [name for name in FILES if any(score["dataset"] == name for score in scores)]
    rows = []
    for method, label in LABELS.items():
        for kind in ("", "forward", "two_sided", "as_many_cells"):
            of_method = [s for s in scores if (s["method"], s["kind"]) == (method, kind)]
            if of_method:
                cells = [spread([s for s in of_method if s["dataset"] == name]) for name in names]
                rows.append([f"{label}, {kind.replace('_', '-')}".removesuffix(", "), *cells])
    protocol = results.name.removeprefix("paper_table_")
    text = f"W1, {protocol} protocol, mean ± spread over {SEEDS} seeds\n\n"
    results.show(text + markdown(["method", *names], rows))


def spread(scores: list[dict[str, Any]]) -> str:
    """Mean over times of each seed; mean and standard deviation of these."""
    seeds = sorted({score["seed"] for score in scores})
    if not seeds:
        return ""
    means = [np.mean([s["w1"] for s in scores if s["seed"] == seed]) for seed in seeds]
    deviation = np.std(means, ddof=1) if len(means) > 1 else 0.0
    return f"{np.mean(means):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        console.print(str(error))
        raise SystemExit(2) from None
