"""Predicted fates against those of sister cells that carry the same barcode.

    python -m benchmarks.clones                  # 5 minutes on one core

Of hematopoiesis_larry (Weinreb et al. 2020, Science 367:eaaw3381; a subset of 781 cells), 102 cells
of day 4 have sisters of day 6 that are neutrophils or monocytes. A fate is P(neutrophil) over
P(neutrophil or monocyte); it is compared with the share of neutrophils among these sisters, by
Pearson's correlation and by the area under the ROC curve of more neutrophils than monocytes.
Intervals come from 1,000 draws of clones with replacement.

Beside ours: a vote of neighbours and a logistic regression on the components, without any movement;
the transport plan of moscot, and its real-time kernel in CellRank, with their defaults in 5 and 30
components; and, as what states can say at all, ridge regressions that are taught the fates of other
clones. Methods whose package is not there keep the rows that they have. Nothing is chosen on this
set: along many paths means 100 of the default noise, which was set on simulated systems.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier

from cellmnn_fm import CellMNNPipeline
from studies.data_sets import DATA, Data
from studies.harness import machine
from studies.results import Results
from studies.tables import markdown

RESULTS = Results("clones")
DIMS = (5, 30)
FATES = ("Neutrophil", "Monocyte")
FROM, TO = 4.0, 6.0
DRAWS, SEEDS, PATHS = 1000, 3, 100


def main(data: Data = DATA) -> None:
    """Run every method, and write the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    adata, rows, fate = clonal_fates(data)
    clones = adata.obs["clone"].to_numpy()[rows]
    kept = {key[0]: outcome for key, outcome in RESULTS.read().items()} | {"machine": machine()}
    for method, predicted in predictions(adata, rows, fate):
        kept[method] = scored(predicted, fate, clones)
        print(method, kept[method], flush=True)
    RESULTS.replace(kept)
    report()


def clonal_fates(
    data: Path,
) -> tuple[anndata.AnnData, NDArray[np.int64], NDArray[np.float64]]:
    """Cells with their clones, rows of those that have sisters (n,), share of neutrophils (n,)."""
    adata = anndata.read_h5ad(data / "hematopoiesis_larry.h5ad")
    table = pd.read_csv(
        data / "truth" / "hematopoiesis_larry_clones.tsv", sep="\t", dtype={"cell": str}
    ).set_index("cell")
    adata.obs["clone"] = table.loc[adata.obs_names, "clone"].to_numpy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    late = adata.obs[adata.obs["time"] == TO]
    counts = pd.crosstab(late["clone"], late["cell_type"])[list(FATES)]
    counts = counts[counts.sum(axis=1) > 0]
    early = (adata.obs["time"] == FROM) & adata.obs["clone"].isin(counts.index)
    shares = counts[FATES[0]] / counts.sum(axis=1)
    return adata, np.flatnonzero(early), shares.loc[adata.obs["clone"][early]].to_numpy()


def scored(predicted: NDArray, fate: NDArray, clones: NDArray) -> dict[str, float]:
    """Correlation with its interval, and AUROC, of fates (cells,) of `clones` (cells,)."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(clones == clone) for clone in np.unique(clones)]
    drawn = []
    for _ in range(DRAWS):
        rows = np.concatenate([members[n] for n in rng.integers(len(members), size=len(members))])
        drawn.append(np.corrcoef(predicted[rows], fate[rows])[0, 1])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {
        "correlation": float(np.corrcoef(predicted, fate)[0, 1]),
        "low": float(low),
        "high": float(high),
        "auroc": float(roc_auc_score(fate > 0.5, predicted)),
    }


# ---------------------------------------------------------------------------------------------
# Methods


def predictions(
    adata: anndata.AnnData, rows: NDArray, fate: NDArray
) -> Iterator[tuple[str, NDArray]]:
    """P(neutrophil) over both, of the cells in `rows` (n,) whose `fate` (n,) is known."""
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    models = {"cellmnn-base, zero-shot": [base]}
    for name, growth in (("default fit", False), ("fit with growth", True)):
        models[f"{name}, mean of {SEEDS}"] = [
            CellMNNPipeline().fit(adata, verdict=False, seed=seed, growth=growth, **WHERE)
            for seed in range(SEEDS)
        ]
    for name, pipelines in models.items():
        for paths, along in ((None, ""), (PATHS, ", along many paths")):
            found = [of_pipeline(pipeline, adata, rows, paths) for pipeline in pipelines]
            yield name + along, np.mean(found, axis=0)
    x = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    types = adata.obs["cell_type"].to_numpy()
    last = (adata.obs["time"] == TO).to_numpy() & np.isin(types, FATES)
    for dims in DIMS:
        states = PCA(dims, random_state=0).fit_transform(x)
        scaled = states / states.std(axis=0)
        for name, model in {
            "vote of 20 neighbours": KNeighborsClassifier(20),
            "logistic regression": LogisticRegression(max_iter=5000),
        }.items():
            z = states if name.startswith("vote") else scaled
            model.fit(z[last], types[last] == FATES[0])
            yield f"{name}, no movement, {dims} components", model.predict_proba(z[rows])[:, 1]
        if find_spec("moscot"):
            for method, predicted in transported(adata, states, rows):
                yield f"{method}, {dims} components", predicted
        yield f"taught clonal fates, {dims} components", taught(scaled[rows], fate, adata, rows)


WHERE = {"time_key": "time"}


def of_pipeline(
    pipeline: CellMNNPipeline, adata: anndata.AnnData, rows: NDArray, paths: int | None
) -> NDArray:
    """As the command `cellmnn fates` gives them; cells that run away are undecided."""
    found = pipeline.fates(adata, "cell_type", start=FROM, n_paths=paths, **WHERE)
    table = found.probabilities
    shares = table[FATES[0]] / (table[FATES[0]] + table[FATES[1]])
    return shares.reindex(adata.obs_names[rows]).fillna(0.5).to_numpy()


def transported(
    adata: anndata.AnnData, states: NDArray, rows: NDArray
) -> Iterator[tuple[str, NDArray]]:
    """Moscot's plan from day 4 to day 6, and CellRank's kernel of it, with `states` (cells, d)."""
    from moscot.problems.time import TemporalProblem

    course = anndata.AnnData(states.astype(np.float32), obs=adata.obs.copy())
    course.obsm["X_pca"] = states
    course.obs["day"] = course.obs["time"].astype("category")
    problem = TemporalProblem(course).prepare(time_key="day", joint_attr="X_pca")
    problem = problem.solve(epsilon=1e-2, scale_cost="mean")
    plan = np.asarray(problem[FROM, TO].solution.transport_matrix)
    early, late = (np.flatnonzero(course.obs["time"] == time) for time in (FROM, TO))
    mass = [
        plan[np.searchsorted(early, rows)][:, course.obs["cell_type"].to_numpy()[late] == name]
        for name in FATES
    ]
    first, second = (part.sum(axis=1) for part in mass)
    yield "moscot", np.nan_to_num(first / (first + second), nan=0.5)
    if find_spec("cellrank"):
        yield "CellRank, RealTimeKernel", _of_kernel(problem, course, rows)


def _of_kernel(problem: object, course: anndata.AnnData, rows: NDArray) -> NDArray:
    """Probabilities of being absorbed by the two fates of day 6; undecided where there are none."""
    import cellrank

    kernel = cellrank.kernels.RealTimeKernel.from_moscot(problem)
    kernel.compute_transition_matrix(self_transitions="all", conn_weight=0.2)
    late = course.obs["time"] == TO
    ends = {
        name: list(course.obs_names[late & (course.obs["cell_type"] == name)]) for name in FATES
    }
    estimator = cellrank.estimators.GPCCA(kernel)
    estimator.set_terminal_states(ends)
    estimator.compute_fate_probabilities(use_petsc=False)
    shares = estimator.fate_probabilities[FATES[0]].X.ravel()
    return np.nan_to_num(np.asarray(shares)[rows], nan=0.5)


def taught(
    states: NDArray, fate: NDArray, adata: anndata.AnnData, rows: NDArray
) -> NDArray[np.float64]:
    """Fates of clones by a ridge regression on those of other clones, the best of three penalties.

    Of `states` and `fate` of the cells in `rows` (n,). That it is the best makes it optimistic.
    """
    clones = adata.obs["clone"].to_numpy()[rows]
    tried = []
    for penalty in (10.0, 100.0, 300.0):
        predicted = np.empty(len(fate))
        for known, asked in GroupKFold(10).split(states, fate, clones):
            model = Ridge(alpha=penalty).fit(states[known], fate[known])
            predicted[asked] = model.predict(states[asked])
        tried.append(predicted)
    return max(tried, key=lambda predicted: np.corrcoef(predicted, fate)[0, 1])


def report() -> None:
    """The table."""
    kept: dict[str, dict] = {key[0]: value for key, value in RESULTS.read().items()}
    rows = [
        [name, f"{s['correlation']:.3f} ({s['low']:.2f} to {s['high']:.2f})", f"{s['auroc']:.3f}"]
        for name, s in kept.items()
        if "auroc" in s
    ]
    RESULTS.show(markdown(["102 cells of 58 clones", "correlation (95 %)", "AUROC"], rows))


if __name__ == "__main__":
    typer.run(main)
