"""Signs of gene networks against genes that were perturbed in cells of the same kind.

    python -m benchmarks.perturbed    # about 5 minutes on one core; resumable

Truth: ESCAPE, mouse embryonic stem cells in which a factor was lost or gained, and such cells in
which one was induced (tf_induction_mesc), for three courses of such cells; and human zygotes
without OCT4 (POU5F1), targets with p < 0.05, for preimplantation embryos. The sign of an edge is
that of the change with the factor: turned for a loss. Data sets that share cells or a process do
not count in the consensus.

How sure an edge is: |z| over 20 networks of resampled cells, and whether production rates have its
sign, of the association.

Factors are halved by the parity of the SHA-256 of their upper-case symbol: what is chosen, is
chosen on the even ones. Intervals are 95 %, over factors, whose targets are not independent; over
targets where there is one factor.

Result: results/perturbed.md, a line for each data set and truth beside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.questions.grn.comparison import Comparison
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork
from cellmnn_fm.questions.grn.question import FEW_GENES
from cellmnn_fm.questions.grn.reference import Reference, score_signs, signs_of
from studies.data_sets import Data
from studies.results import Results

from .runaway import DATA

RESULTS = Results("perturbed")
STEM_CELLS = ("mesc_primitive_endoderm", "mesc_retinoic_acid_626", "mesc_retinoic_acid")
EMBRYO = "human_preimplantation"
ESCAPE, INDUCED = ("factor lost", "factor gained"), "factor induced"  # which share studies
MOST_P = 0.05
DRAWS = 1000
OURS = ("association", "auto", "consensus", "production", "operator", "jacobian")
MEMBERS = 20


def main(data: Data = DATA) -> None:
    """Compare what has no result yet, and write the table."""
    torch.set_num_threads(1)
    for name in (*STEM_CELLS, EMBRYO):
        if (name,) not in RESULTS.read():
            RESULTS.keep(one_set(data, name), name)
    RESULTS.show("\n".join(table(RESULTS.read())))


def truths(data: Path, name: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Signed edges by what was done to the factor."""
    if name == EMBRYO:
        changes = pd.read_csv(data / "truth" / "oct4_knockout_zygote.tsv", sep="\t", comment="#")
        changes = changes[changes["p"] < MOST_P]
        signs = -np.sign(changes["log_fold_change"]).astype(int)
        edges = {"source": changes["source"], "target": changes["gene"], "sign": signs}
        yield "OCT4 lost", pd.DataFrame(edges)
        return
    file = data / "references" / "escape_logof_signed.tsv.gz"
    escape = pd.read_csv(file, sep="\t", comment="#")
    escape = escape[escape["species"] == "mouse"]
    for kind, words in zip(("LOF", "GOF"), ESCAPE, strict=True):
        yield words, escape[escape["evidence"].str.startswith(kind)]
    yield INDUCED, pd.read_csv(data / "truth" / "tf_induction_mesc.tsv", sep="\t")


def one_set(data: Path, name: str) -> dict[str, Any]:
    """Factor, known sign and estimated ones of every pair, by what was done."""
    adata = anndata.read_h5ad(data / f"{name}.h5ad")
    pipeline = CellMNNPipeline().fit(adata, time_key="time", verdict=False)
    cells = pipeline.cells(adata)
    production = pipeline.grn(cells, estimator="production")
    resampled = pipeline.grn(cells, estimator="association", members=MEMBERS)
    joint = pipeline.grn(cells, estimator="association", consensus=True)
    asymmetry = {"production": production.asymmetry, "association": resampled.asymmetry}
    outcome: dict[str, Any] = {"asymmetry": asymmetry, "pairs": {}}
    for words, edges in truths(data, name):
        known = Reference.of(edges[["source", "target", "sign"]], pipeline.panel.names)
        compared = Comparison.of(cells, known, most_for_trees=0)
        signed = compared.reference.edges[compared.reference.edges["sign"] != 0]
        pairs = {m: signs_of(w, compared.reference) for m, w in compared.weights.items()}
        signs = {method: estimated.astype(int).tolist() for method, (estimated, _) in pairs.items()}
        signs["auto"] = signs["production" if len(pipeline.panel) <= FEW_GENES else "association"]
        signs["consensus"] = edges_of(joint, signed)["sign"].tolist()
        z = edges_of(resampled, signed)["z"].abs()
        outcome["pairs"][words] = {
            "factor": signed["source"].str.upper().tolist(),
            "truth": signed["sign"].tolist(),
            "found": signs,
            "z": z.round(2).tolist(),
        }
    return outcome


def edges_of(network: GeneRegulatoryNetwork, pairs: pd.DataFrame) -> pd.DataFrame:
    """What a network says of some pairs "source" and "target", in their order."""
    between = network.to_dataframe(pairs["source"], pairs["target"])
    return pairs[["source", "target"]].merge(between, how="left", on=["source", "target"])


def is_even(factor: str) -> bool:
    """Whether a factor is of the half on which things are chosen."""
    return hashlib.sha256(factor.upper().encode()).digest()[-1] % 2 == 0


def accuracy(
    found: NDArray, truth: NDArray, factors: NDArray, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Balanced accuracy, and 95 % of it over factors (or targets, of one factor)."""
    clusters = factors if len(set(factors)) > 1 else np.arange(len(truth))
    drawn = [
        score_signs(found[rows], truth[rows]).balanced_accuracy
        for rows in resampled_rows(clusters, draws)
        if len(set(truth[rows])) > 1
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return score_signs(found, truth).balanced_accuracy, float(low), float(high)


def resampled_rows(clusters: NDArray, draws: int) -> Iterator[NDArray[np.int64]]:
    """Rows of clusters that are drawn with replacement, of `clusters` (rows,), so often."""
    rng = np.random.default_rng(0)
    _, number_of = np.unique(clusters, return_inverse=True)
    in_order = np.argsort(number_of, kind="stable")
    groups = np.split(in_order, np.cumsum(np.bincount(number_of))[:-1])
    for _ in range(draws):
        picked = rng.integers(len(groups), size=len(groups))
        yield np.concatenate([groups[number] for number in picked])


def table(results: dict[Any, Any]) -> list[str]:
    """A row for each method: stem cells pooled, by half and by what was done; embryos."""
    stem = [results[(name,)]["pairs"] for name in STEM_CELLS]
    oct4 = results[(EMBRYO,)]["pairs"]["OCT4 lost"]
    columns = {
        "even factors": pooled(stem, *ESCAPE, even=True),
        "odd factors (confirmation)": pooled(stem, *ESCAPE, even=False),
        "factor lost": pooled(stem, ESCAPE[0]),
        "factor gained": pooled(stem, ESCAPE[1]),
        "induced, even factors": pooled(stem, INDUCED, even=True),
        "induced, odd factors": pooled(stem, INDUCED, even=False),
        "OCT4 lost, embryos": pooled([{"OCT4 lost": oct4}], "OCT4 lost"),
    }
    asymmetry = {name: results[(name,)]["asymmetry"] for name in (*STEM_CELLS, EMBRYO)}
    shares = "; ".join(
        f"{name} {of['association']:.1%}, {of['production']:.1%}" for name, of in asymmetry.items()
    )
    lines = [
        "Signs of edges against perturbed genes: balanced accuracy (95 %, over factors).",
        f"Asymmetry of the networks of associations and of production rates: {shares}.",
        "",
        "| method | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
        "| pairs, factors | "
        + " | ".join(f"{len(t):,}, {len(set(f))}" for t, f, _ in columns.values())
        + " |",
    ]
    for method in (*OURS, *(m for m in oct4["found"] if m not in OURS)):
        cells = []
        for truth, factors, found in columns.values():
            value, low, high = accuracy(np.array(found[method]), truth, factors)
            cells.append(f"{value:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*lines, "", *confidence([*stem, {"OCT4 lost": oct4}])]


def confidence(sets: list[dict[str, Any]]) -> list[str]:
    """Balanced accuracy of the association by |z| and by agreement, with shares of the pairs."""
    of_kinds = [kind for pairs in sets for words, kind in pairs.items() if words != INDUCED]
    truth = np.concatenate([kind["truth"] for kind in of_kinds])
    signs = np.concatenate([kind["found"]["association"] for kind in of_kinds])
    agrees = signs == np.concatenate([kind["found"]["production"] for kind in of_kinds])
    z = np.concatenate([kind["z"] for kind in of_kinds])
    lines = [
        "| association, all but induced: balanced accuracy (share of pairs) | production agrees "
        "| production disagrees | both |",
        "|---|---:|---:|---:|",
    ]
    limits = {
        "|z| below 1": (0, 1),
        "1 to 3": (1, 3),
        "3 and more": (3, np.inf),
        "all": (0, np.inf),
    }
    for words, (low, high) in limits.items():
        inside = (z >= low) & (z < high)
        parts = [inside & agrees, inside & ~agrees, inside]
        cells = [
            f"{score_signs(signs[rows], truth[rows]).balanced_accuracy:.3f} ({rows.mean():.0%})"
            for rows in parts
        ]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return lines


def pooled(
    sets: list[dict[str, Any]], *kinds: str, even: bool | None = None
) -> tuple[NDArray, NDArray, dict[str, list[int]]]:
    """Known signs, factors and estimated signs of all pairs of these kinds."""
    truth: list[int] = []
    factors: list[str] = []
    by_method: dict[str, list[int]] = {}
    for pairs in sets:
        for words, of_kind in pairs.items():
            if words not in kinds:
                continue
            rows = [
                row
                for row, factor in enumerate(of_kind["factor"])
                if even is None or is_even(factor) == even
            ]
            truth += [of_kind["truth"][row] for row in rows]
            factors += [of_kind["factor"][row] for row in rows]
            for method, signs in of_kind["found"].items():
                by_method.setdefault(method, []).extend(signs[row] for row in rows)
    return np.array(truth), np.array(factors), by_method


if __name__ == "__main__":
    typer.run(main)
