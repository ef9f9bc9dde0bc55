"""Estimators of regulation where they are as badly off as with real data: large known networks.

    python -m benchmarks.grn_large            # 15 minutes on one core; resumable

Networks of 400 and 4,000 genes, 100 of them factors, of which a random half is measured: 200 and
2,000 genes, 50 factors. 5 snapshots of 300 cells; Poisson counts (1 where a gene is fully on) of
cells whose depth differs (standard deviation of its logarithm 0.5), scaled to the median cell, and
logarithms. Four kinds of networks, 2 seeds. Links: of measured factors with all measured genes,
AUPRC over that of chance. Signs: balanced accuracy. Settings were chosen on linear and bifurcating
networks; cyclic and trifurcating ones confirm. Result: results/grn_large.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import get_args

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from cellmnn_fm.data.gene_networks import GeneNetwork, Topology
from cellmnn_fm.questions.grn.association import association_network, without_size
from cellmnn_fm.questions.grn.baselines import BASELINES, trees
from cellmnn_fm.questions.grn.estimators import production_network
from cellmnn_fm.questions.grn.reference import auprc_ratio, score_signs
from studies.results import Results
from studies.tables import markdown

from .grn_simulated import dense, fitted

RESULTS = Results("grn_large")
SIZES = (200, 2000)
SEEDS = 2
FACTORS = 100
CHOSEN_ON = ("linear", "bifurcating")
DECAYS = (1.2, 2.4, 5.0, 10.0)
RIDGES = (0.025, 0.05, 0.1, 0.2, 0.5)  # of the number of genes
PRODUCTION_RIDGES = (3.0, 30.0, 100.0)
MOST_FOR_TREES = 200
BY_VALUE = ("association", "ranks", "spearman, by value")  # beginnings of names


def main() -> None:
    """Make the cases that are not there yet, and the table."""
    torch.set_num_threads(1)
    cases = list(product(SIZES, get_args(Topology), range(SEEDS)))
    there = RESULTS.read()
    for genes, topology, seed in cases:
        if (str(genes), topology, str(seed)) not in there:
            RESULTS.keep(scored(genes, topology, seed), str(genes), topology, str(seed))
            print(genes, topology, seed, flush=True)
    report()


def scored(genes: int, topology: Topology, seed: int) -> dict[str, dict[str, float]]:
    """AUPRC ratio and signs of every method on one simulation."""
    network = GeneNetwork.make(topology, 2 * genes, seed, factors=FACTORS)
    adata = network.to_anndata(seed=seed, counts=1.0, depth=0.5)
    rng = np.random.default_rng((seed, 3))
    factors = rng.choice(FACTORS, FACTORS // 2, replace=False)
    others = FACTORS + rng.choice(2 * genes - FACTORS, genes - FACTORS // 2, replace=False)
    seen = np.sort(np.concatenate([factors, others]))
    x, times = np.asarray(adata.X)[:, seen], adata.obs["time"].to_numpy()
    edges = network.edges[np.ix_(seen, seen)]
    sources = FACTORS // 2  # which come first
    between = ~np.eye(genes, dtype=bool)[:, :sources]
    truth = edges[:, :sources][between]
    outcome = {}
    for name, weights in estimates(x, times, sources, seed):
        w = weights[:, :sources][between]
        strength = w if name.startswith(BY_VALUE) else np.abs(w)
        signs = score_signs(np.sign(w[truth != 0]).astype(int), truth[truth != 0])
        outcome[name] = {
            "auprc_ratio": auprc_ratio(truth != 0, strength),
            "signs": signs.balanced_accuracy,
        }
    return outcome


def estimates(x: NDArray, times: NDArray, sources: int, seed: int) -> Iterator[tuple[str, NDArray]]:
    """Weights (targets, sources) by method, of `x` (cells, genes) at `times` (cells,)."""
    dynamics, cells, subspace = fitted(x, times, seed)
    genes, scale = tuple(map(str, range(x.shape[1]))), dynamics.time_scale
    about = cells, subspace, genes, scale
    yield "association", dense(association_network(*about))
    yield "production", dense(production_network(*about))
    for ridge in PRODUCTION_RIDGES:
        yield f"production, λ {ridge:g}", dense(production_network(*about, ridge=ridge))
    ranks = without_size(x, times)
    yield "ranks without size", ranks.T @ ranks / len(x)
    for decay in DECAYS:
        weights = dense(association_network(*about, decay=decay, ridge=0.2 * len(genes)))
        yield f"ranks, k {decay:g}", weights
    for ridge in RIDGES:
        weights = dense(association_network(*about, ridge=ridge * len(genes)))
        yield f"ranks, λ {ridge:g}", weights
    values = x.astype(np.float64)
    for name, baseline in BASELINES.items():
        if name != "trees":
            yield name, baseline(values, times, seed)
    yield "spearman, by value", BASELINES["spearman"](values, times, seed)
    if x.shape[1] <= MOST_FOR_TREES:
        yield "trees over factors", trees(values, times, seed, np.arange(x.shape[1]) < sources)


def report() -> None:
    """Means over seeds and topologies, by size and half."""
    rows = [
        {"genes": int(genes), "half": topology in CHOSEN_ON, "method": method, **scores}
        for (genes, topology, _), by_method in RESULTS.read().items()
        for method, scores in by_method.items()
    ]
    kept = pd.DataFrame(rows).groupby(["method", "genes", "half"]).mean()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = [(genes, half) for genes in SIZES for half in (True, False)]
    head = ["AUPRC ratio / signs"]
    head += [
        f"{genes:,} genes, {'chosen on' if half else 'confirmed on'}" for genes, half in columns
    ]
    lines = []
    for method in methods:
        cells = []
        for genes, half in columns:
            if (method, genes, half) in kept.index:
                scores = kept.loc[(method, genes, half)]
                cells.append(f"{scores['auprc_ratio']:.2f} / {scores['signs']:.3f}")
            else:
                cells.append("")
        lines.append([method, *cells])
    RESULTS.show(markdown(head, lines))


if __name__ == "__main__":
    typer.run(main)
