"""Knocked-out genes of simulated networks: what a wild-type course lets one predict.

    python -m benchmarks.knockouts               # 10 minutes on one core; resumable

BoolODE's ten models (:mod:`cellmnn_fm.data.boolean_networks`, 8 times) and the four gene networks
(:mod:`cellmnn_fm.data.gene_networks`, 20 genes, 5 times), 200 cells a time. Every gene is knocked
out in turn, in the simulation from the beginning; how far the means of all other genes are from the
wild type at the end, in standard deviations of the course, is to be predicted from the wild type
alone. Scores, the mean over models: correlation with the true shift; share of right signs where it
is above 0.3; area under the ROC curve of whether it is. "Followers" are genes that only follow:
nothing leads from the knocked-out gene to them, so that their shift should be 0; given is its mean
size, and for the others. Fates are two clusters of the wild type at the end (of gene networks that
branch, and BF, BFC, mCAD, GSD, HSC), told by all genes but the one that is knocked out: correlation
of the shift of the first one's share. A screen finds a gene where q ≤ 0.1; given is how often the
true shift is above 0.1 there, and how many of such are found.

Beside the response of the network, which is the default: that of the flow; correlation (each gene
falls by its correlation with the knocked-out one); and that nothing happens. Settings are those of
`cellmnn grn`, which were chosen on links, on other seeds.
"""

from __future__ import annotations

import warnings
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.boolean_networks import BOOLEAN_NETWORKS
from cellmnn_fm.data.gene_networks import GeneNetwork
from cellmnn_fm.questions.terminal_groups import FateQuestion, fate_question
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

RESULTS = Results("knockouts")
TOPOLOGIES = ("linear", "cyclic", "bifurcating", "trifurcating")
BRANCHING = ("bifurcating", "trifurcating", "BF", "BFC", "mCAD", "GSD", "HSC")
SEEDS = (2, 3)
CELLS, LARGE, DECIDED = 200, 0.3, 0.1
METHODS = ("network", "flow", "correlation")


def main(processes: int = 1) -> None:
    """Run what is missing, and write the table."""
    cells = [
        Cell(RESULTS, (model, str(seed)), knocked_out, (model, seed), 20)
        for seed in SEEDS
        for model in (*BOOLEAN_NETWORKS, *TOPOLOGIES)
    ]
    run_cells(cells, processes=processes)
    report()


def knocked_out(model: str, seed: int) -> dict[str, Any]:
    """True and predicted shifts of every gene by every knock-out, and of the first fate."""
    warnings.simplefilter("ignore")
    network, times = _network(model, seed)
    wild, names = network.simulate(times, CELLS, seed), list(network.names)
    obs = pd.DataFrame({"time": np.repeat(times, CELLS)})
    obs.index = obs.index.map("cell{}".format)
    x = wild.reshape(-1, len(names)).astype(np.float32)
    adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=names))
    spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    pipeline = CellMNNPipeline().fit(adata, time_key="time", verdict=False, seed=seed)
    cells = pipeline.cells(adata)
    table = pipeline.fates(cells, 2)  # two clusters at the end
    first = table.probabilities.columns[0]
    asked = fate_question(cells, 2, None, None)
    correlation = np.corrcoef(x.T)
    reach = _reached(network.reference(), names)
    rows = []
    fates: dict[str, Any] = {}
    for number, gene in enumerate(names):
        without = network.without(gene).simulate(times[[0, -1]], CELLS, seed + 100)[-1]
        true = (without.mean(axis=0) - wild[-1].mean(axis=0)) / spread
        lowest = (x[:, number].min() - x[obs["time"] == times[-1], number].mean()) / spread[number]
        predicted = {"correlation": correlation[:, number] * lowest}
        others = without.copy()
        others[:, number] = wild[-1, :, number].mean()  # of which no fate is made
        fates[gene] = {"true": _share(asked, others, first)}
        for response in ("network", "flow"):
            shift = pipeline.perturb(cells, {gene: "knock-out"}, 2, response=response)
            predicted[response] = shift.genes.loc[names, "shift"].to_numpy() / spread
            fates[gene][response] = float(shift.fates.loc[first, "shift"])
        rows += [
            [number, target, bool(reach[target, number]), float(true[target])]
            + [float(predicted[method][target]) for method in METHODS]
            for target in range(len(names))
            if target != number
        ]
    screened = pipeline.screen(cells, 2)
    of_first = screened[screened["group"] == first].set_index("gene")
    for gene in names:
        fates[gene]["q"] = float(of_first.loc[gene, "q"])
    return {"shifts": rows, "fates": fates}


def _network(model: str, seed: int) -> tuple[Any, NDArray[np.float64]]:
    """A model, and when its cells are taken."""
    if model in BOOLEAN_NETWORKS:
        network = BOOLEAN_NETWORKS[model]
        return network, (np.arange(8) + 0.5) * network.duration / 8
    return GeneNetwork.make(model, seed=seed), np.arange(5.0)  # type: ignore[arg-type]


def _share(asked: FateQuestion, without: NDArray, first: str) -> float:
    """By how much the share of the first fate is higher in cells (cells, genes) of a knock-out."""
    subspace = asked.cells.fitted.subspace
    states = (without - subspace.gene_mean) @ subspace.projection
    number = asked.groups.names.index(first)
    shares = [
        float(asked.groups.probabilities(torch.as_tensor(z))[:, number].mean())
        for z in (states, asked.cells.states[asked.last])
    ]
    return shares[0] - shares[1]


def _reached(reference: pd.DataFrame, names: list[str]) -> NDArray[np.bool_]:
    """Whether a path of edges leads to the row from the column."""
    edges = np.zeros((len(names),) * 2, dtype=bool)
    for source, target in zip(reference["source"], reference["target"], strict=True):
        edges[names.index(target), names.index(source)] = True
    reach = edges
    for _ in names:
        reach = reach | (reach.astype(int) @ edges.astype(int) > 0)
    return reach


# ---------------------------------------------------------------------------------------------
# The tables


def report() -> None:
    """Scores of all methods, of BoolODE's models and of the gene networks; fates; the screen."""
    kept = RESULTS.read()
    parts = []
    for title, models in (("BoolODE's models", BOOLEAN_NETWORKS), ("gene networks", TOPOLOGIES)):
        scores = {
            method: [_scores(kept[m, str(s)], method) for m in models for s in SEEDS]
            for method in METHODS
        }
        rows = [
            [method, *(f"{np.nanmean([one[key] for one in of]):.2f}" for key in of[0])]
            for method, of in scores.items()
        ]
        rows.append(["nothing happens", "", "", "0.50", "0.00", "0.00"])
        head = [title, "correlation", "right signs", "AUROC", "size, followers", "size, others"]
        parts.append(markdown(head, rows))
    shifts = [
        list(found.values())
        for model in BRANCHING
        for seed in SEEDS
        for found in kept[model, str(seed)]["fates"].values()
    ]
    true, by_network, by_flow, q = np.array(shifts).T
    large = np.abs(true) > DECIDED
    rows = []
    for name, values in (("network", by_network), ("flow", by_flow)):
        signs = (np.sign(values) == np.sign(true))[large].mean()
        ranks = roc_auc_score(large, np.abs(values))
        rows.append(
            [name, f"{np.corrcoef(true, values)[0, 1]:.2f}", f"{signs:.2f}", f"{ranks:.2f}"]
        )
    head = [f"shift of a fate, {len(true)} knock-outs", "correlation", "right signs", "AUROC"]
    parts.append(markdown(head, rows))
    found = q <= 0.1
    parts.append(
        f"Screen: {found.sum()} of {len(q)} knock-outs have q ≤ 0.1; {large[found].mean():.0%} of "
        f"them shift the fate by more than {DECIDED:g} ({large.mean():.0%} of all do), and "
        f"{found[large].mean():.0%} of those that do are found."
    )
    RESULTS.show("\n\n".join(parts))
    RESULTS.draw(_figure(kept))


def _figure(kept: dict) -> Figure:
    """Predicted and true shifts of all other genes, by what leads to them."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, method in zip(figure.subplots(1, 3, sharey=True), METHODS, strict=True):
        values = np.concatenate([np.array(run["shifts"], dtype=float) for run in kept.values()])
        predicted, true = values[:, 4 + METHODS.index(method)], values[:, 3]
        for reached, colour in ((1, "tab:blue"), (0, "tab:orange")):
            rows = values[:, 2] == reached
            label = "genes that it leads to" if reached else "other genes"
            axes.plot(
                true[rows].clip(-3, 3),
                predicted[rows].clip(-3, 3),
                ".",
                ms=3,
                alpha=0.4,
                color=colour,
                label=label,
                rasterized=True,
            )
        axes.plot([-3, 3], [-3, 3], color="0.6", lw=1)
        axes.set(xlabel="true shift (sd)", title=method)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("predicted shift (sd)")
    figure.axes[0].legend(frameon=False, fontsize=8, markerscale=3)
    return figure


def _scores(outcome: dict[str, Any], method: str) -> dict[str, float]:
    """Of one model and seed."""
    values = np.array(outcome["shifts"], dtype=float)
    reached, true = values[:, 2] == 1, values[:, 3]
    predicted = values[:, 4 + METHODS.index(method)]
    large = np.abs(true) > LARGE
    size = np.abs(predicted)
    return {
        "correlation": float(np.corrcoef(true, predicted)[0, 1]),
        "signs": float((np.sign(predicted) == np.sign(true))[large].mean()),
        "auroc": float(roc_auc_score(large, size)) if 0 < large.mean() < 1 else np.nan,
        "followers": float(size[~reached].mean()) if (~reached).any() else np.nan,
        "others": float(size[reached].mean()),
    }


if __name__ == "__main__":
    typer.run(main)
