"""Gene networks of BEELINE's ten models, by its own scores, beside the methods that it compares.

    python -m benchmarks.beeline                 # half an hour on two cores; resumable

The models are simulated as BoolODE does (:mod:`cellmnn_fm.data.boolean_networks`), 2,000 cells of
8 times, as they are and with 50 and 70 % drop-out. Scores are those of BEELINE (Pratapa et al.
2020, Nat Methods 17:147; its evaluators as of March 2026): area under precision and recall over
that of chance, and early precision over that of chance of activating and of inhibiting edges,
whose mean is "signed early precision" here. Edges of genes to themselves do not count.

GRNBoost2 is arboreto's (its GENIE3 takes two minutes where this takes two seconds), regdiffusion
its authors'; PIDC has no Python package and is written here after Chan et al. 2017 (Cell Syst
5:251); SCODE, as elsewhere, is our own too. A method whose package is not
there is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import product

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from cellmnn_fm.data.boolean_networks import BOOLEAN_NETWORKS, with_dropout
from cellmnn_fm.questions.grn.baselines import BASELINES
from cellmnn_fm.questions.grn.estimators import production_network
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

from .grn_simulated import dense, fitted

RESULTS = Results("beeline")
TIMES, CELLS = 8, 250  # 2,000 cells
DROPOUT = (0.0, 0.5, 0.7)
SEEDS = 3

# (cells, genes), times (cells,), seed → weights (targets, sources)
Method = Callable[[NDArray, NDArray, int], NDArray]


def main(seeds: int = SEEDS, processes: int = 2) -> None:
    """Run what is missing, and write the table."""
    cells = [
        Cell(RESULTS, (name, str(seed), f"{dropout:g}"), scored, (name, seed, dropout), 40)
        for seed, dropout, name in product(range(seeds), DROPOUT, BOOLEAN_NETWORKS)
    ]
    run_cells(cells, processes=processes)
    report()


def scored(name: str, seed: int, dropout: float) -> dict[str, dict[str, float]]:
    """Scores of every method on one simulation of a model."""
    network = BOOLEAN_NETWORKS[name]
    adata = network.to_anndata(TIMES, CELLS, seed)
    x, times = np.asarray(adata.X), adata.obs["time"].to_numpy()
    if dropout:
        x = with_dropout(x, dropout, seed)
    return {
        method: beeline_scores(
            edge_list(estimate(x, times, seed), network.names),
            network.reference(),
        )
        for method, estimate in methods().items()
    }


# ---------------------------------------------------------------------------------------------
# Methods


def methods() -> dict[str, Method]:
    """Those that can be run here, by name."""
    known: dict[str, Method] = {"production": production}
    known |= {name: BASELINES[name] for name in ("pearson", "partial_correlation", "scode")}
    known["pidc"] = pidc
    if find_spec("arboreto"):
        known["grnboost2"] = grnboost2
    if find_spec("regdiffusion"):
        known["regdiffusion"] = regdiffusion
    return known


def production(x: NDArray, times: NDArray, seed: int) -> NDArray:
    """Ours: rates of production regressed on expression, with the velocities of a default fit."""
    dynamics, cells, subspace = fitted(x, times, seed)
    genes = tuple(map(str, range(x.shape[1])))
    return dense(production_network(cells, subspace, genes, dynamics.time_scale))


def grnboost2(x: NDArray, times: NDArray, seed: int) -> NDArray:
    """Stochastic gradient boosting with early stops, arboreto's settings."""
    from arboreto.core import SGBM_KWARGS, infer_partial_network

    genes = [str(gene) for gene in range(x.shape[1])]
    weights = np.zeros((len(genes),) * 2)
    for target, gene in enumerate(genes):
        links = infer_partial_network(
            regressor_type="GBM",
            regressor_kwargs=SGBM_KWARGS,
            tf_matrix=x,
            tf_matrix_gene_names=genes,
            target_gene_name=gene,
            target_gene_expression=x[:, target],
            include_meta=False,
            early_stop_window_length=25,
            seed=seed,
        )
        weights[target, links["TF"].astype(int)] = links["importance"]
    return weights


def regdiffusion(x: NDArray, times: NDArray, seed: int) -> NDArray:
    """A denoising model whose adjacency matrix is read, its authors' settings."""
    from regdiffusion import RegDiffusionTrainer

    told_apart = x[np.ptp(x, axis=1) > 0]  # it divides by the range of each cell
    trainer = RegDiffusionTrainer(told_apart.astype(np.float32), device="cpu", seed=seed)
    trainer.train()
    return np.asarray(trainer.get_adj()).T


def pidc(x: NDArray, times: NDArray, seed: int) -> NDArray:
    """Proportion of information about a gene that is unique to another, over all third genes.

    In the context of either gene: the sum of the two distribution functions over their scores.
    Values are discretised by Bayesian blocks, probabilities are frequencies.
    """
    levels = [_levels(x[:, gene]) for gene in range(x.shape[1])]
    genes = range(len(levels))
    pairs = {(a, b): _joint(levels[a], levels[b]) for a in genes for b in genes if a != b}
    specific = {pair: _specific_information(joint) for pair, joint in pairs.items()}
    scores = np.zeros((len(levels),) * 2)
    for target in genes:
        chance = np.bincount(levels[target]) / len(x)
        total = {source: chance @ specific[source, target] for source in genes if source != target}
        for a in total:
            for b in total:
                redundant = chance @ np.minimum(specific[a, target], specific[b, target])
                if a != b and total[a] > 0:
                    scores[target, a] += (total[a] - redundant) / total[a]
    scores += scores.T  # of both as targets
    off = ~np.eye(len(levels), dtype=bool)
    confidence = np.zeros_like(scores)
    for gene in genes:
        mean, spread = scores[gene][off[gene]].mean(), scores[gene][off[gene]].std()
        confidence[gene] = _gamma_share(scores[gene], mean, spread)
    return np.where(off, confidence + confidence.T, 0.0)


def _levels(values: NDArray) -> NDArray[np.int64]:
    """Which of the bins of its gene a value (cells,) is in."""
    from astropy.stats import bayesian_blocks

    edges = bayesian_blocks(values.astype(np.float64)) if len(np.unique(values)) > 1 else [0.0]
    return np.unique(np.searchsorted(edges[1:-1], values, side="right"), return_inverse=True)[1]


def _joint(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Frequencies of two levels, (levels of a, levels of b)."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    return joint


def _specific_information(joint: NDArray) -> NDArray[np.float64]:
    """What one gene says of each level of another, (levels,), of `joint` (levels, levels)."""
    source, target = joint.sum(axis=1), joint.sum(axis=0)
    ratio = np.divide(joint, source[:, None] * target, where=joint > 0, out=np.ones_like(joint))
    return (joint / target * np.log2(ratio)).sum(axis=0)


def _gamma_share(values: NDArray, mean: float, spread: float) -> NDArray[np.float64]:
    """The gamma distribution function of these moments at `values` (genes,)."""
    from scipy.stats import gamma

    if spread == 0 or mean <= 0:
        return np.zeros_like(values)
    return gamma.cdf(values, (mean / spread) ** 2, scale=spread**2 / mean)


# ---------------------------------------------------------------------------------------------
# BEELINE's scores


def edge_list(weights: NDArray, genes: tuple[str, ...]) -> pd.DataFrame:
    """All pairs of genes: "source", "target", "weight", of `weights` (targets, sources)."""
    rows, columns = np.nonzero(~np.eye(len(genes), dtype=bool))
    names = np.array(genes)
    return pd.DataFrame(
        {"source": names[columns], "target": names[rows], "weight": weights[rows, columns]}
    )


def beeline_scores(edges: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """How well ranked edges find those of a reference.

    Parameters
    ----------
    edges : DataFrame
        "source", "target" and "weight" of all pairs of genes.
    reference : DataFrame
        "source", "target" and "sign".

    Returns
    -------
    dict
        "auprc", "auprc_ratio", "early" (precision over chance), "activation" and "inhibition" (the
        same of edges of one sign, those of the other sign left out), "signed_early" (their mean)
        and "signs": the share of true edges whose weight has the right sign.
    """
    from sklearn.metrics import auc, precision_recall_curve

    known = reference[reference["source"] != reference["target"]]
    signs = {(row.source, row.target): row.sign for row in known.itertuples()}
    pairs = list(zip(edges["source"], edges["target"], strict=True))
    sign = np.array([signs.get(pair, 0) for pair in pairs])
    linked = np.array([pair in signs for pair in pairs])
    strength = np.abs(edges["weight"].to_numpy())
    precision, recall, _ = precision_recall_curve(linked, strength)
    area = float(auc(recall, precision))
    parts = {
        name: early_precision(strength[sign != -of], (sign == of)[sign != -of], len(edges))
        for name, of in (("activation", 1), ("inhibition", -1))
    }
    right = np.sign(edges["weight"].to_numpy()) == sign
    return {
        "auprc": area,
        "auprc_ratio": area / linked.mean(),
        "early": early_precision(strength, linked, len(edges)),
        **parts,
        "signed_early": float(np.nanmean(list(parts.values()))),
        "signs": float(right[sign != 0].mean()),
    }


def early_precision(strength: NDArray, linked: NDArray[np.bool_], pairs: int) -> float:
    """Precision of as many pairs as there are links, over that of chance; ties are all taken.

    Of pairs with `strength` (candidates,), some of which are `linked` (candidates,); `pairs` is how
    many there are in all. NaN where no pair is linked.
    """
    count = int(linked.sum())
    if not count:
        return float("nan")
    least = np.sort(strength)[::-1][count - 1]
    positive = strength[strength > 0]
    least = max(least, positive.min() if len(positive) else 0.0)
    return float(linked[strength >= least].mean() / (count / pairs))


# ---------------------------------------------------------------------------------------------
# The table


def report() -> None:
    """Medians over seeds, by model and method; and how often each method is first."""
    kept = pd.DataFrame(
        {"model": model, "seed": seed, "dropout": dropout, "method": method, **scores}
        for (model, seed, dropout), by_method in RESULTS.read().items()
        for method, scores in by_method.items()
        if isinstance(scores, dict) and "auprc" in scores
    )
    names = [name for name in methods() if name in set(kept["method"])]
    parts = []
    for dropout, score in product(DROPOUT, ("auprc_ratio", "signed_early", "early", "signs")):
        of_score = kept[kept["dropout"] == f"{dropout:g}"].pivot_table(
            score, "model", "method", aggfunc="median"
        )[names]
        of_score = of_score.loc[[name for name in BOOLEAN_NETWORKS if name in of_score.index]]
        rows = [
            [model, *(f"**{v:.2f}**" if v >= row.max() - 1e-9 else f"{v:.2f}" for v in row)]
            for model, row in of_score.iterrows()
        ]
        rows.append(["median", *(f"{value:.2f}" for value in of_score.median())])
        first = (of_score.to_numpy() >= of_score.to_numpy().max(axis=1, keepdims=True) - 1e-9).sum(
            0
        )
        rows.append(["first on", *map(str, first)])
        parts.append(f"{score}, drop-out {dropout:.0%}\n\n{markdown(['model', *names], rows)}")
    RESULTS.show("\n\n".join(parts))


if __name__ == "__main__":
    typer.run(main)
