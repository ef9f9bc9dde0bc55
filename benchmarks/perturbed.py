"""Signs of gene networks against genes that were perturbed in cells of the same kind.

    python -m benchmarks.perturbed    # about 5 minutes on one core; resumable

Truth: ESCAPE, mouse embryonic stem cells in which a factor was lost or gained, for three courses of
such cells; and human zygotes without OCT4 (POU5F1), targets with p < 0.05, for preimplantation
embryos. The sign of an edge is that of the change with the factor: turned for a loss.

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
from cellmnn_fm.questions.grn.question import FEW_GENES
from cellmnn_fm.questions.grn.reference import Comparison, Reference, score_signs, signs_of
from studies.data_sets import Data
from studies.results import Results

from .runaway import DATA

RESULTS = Results("perturbed")
STEM_CELLS = ("mesc_primitive_endoderm", "mesc_retinoic_acid_626", "mesc_retinoic_acid")
EMBRYO = "human_preimplantation"
MOST_P = 0.05
DRAWS = 1000
OURS = ("production", "association", "auto", "operator", "jacobian")


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
    for kind, words in {"LOF": "factor lost", "GOF": "factor gained"}.items():
        yield words, escape[escape["evidence"].str.startswith(kind)]


def one_set(data: Path, name: str) -> dict[str, Any]:
    """Factor, known sign and estimated ones of every pair, by what was done."""
    adata = anndata.read_h5ad(data / f"{name}.h5ad")
    pipeline = CellMNNPipeline().fit(adata, time_key="time", verdict=False)
    cells = pipeline.cells(adata)
    asymmetry = pipeline.grn(cells, estimator="production").asymmetry
    outcome: dict[str, Any] = {"asymmetry": asymmetry, "pairs": {}}
    for words, edges in truths(data, name):
        known = Reference.of(edges[["source", "target", "sign"]], pipeline.panel.names)
        compared = Comparison.of(cells, known, most_for_trees=0)
        signed = compared.reference.edges[compared.reference.edges["sign"] != 0]
        pairs = {m: signs_of(w, compared.reference) for m, w in compared.weights.items()}
        found = {method: signs.astype(int).tolist() for method, (signs, _) in pairs.items()}
        found["auto"] = found["production" if len(pipeline.panel) <= FEW_GENES else "association"]
        outcome["pairs"][words] = {
            "factor": signed["source"].str.upper().tolist(),
            "truth": signed["sign"].tolist(),
            "found": found,
        }
    return outcome


def is_even(factor: str) -> bool:
    """Whether a factor is of the half on which things are chosen."""
    return hashlib.sha256(factor.upper().encode()).digest()[-1] % 2 == 0


def accuracy(
    found: NDArray, truth: NDArray, factors: NDArray, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Balanced accuracy, and 95 % of it over factors (or targets, of one factor)."""
    rng = np.random.default_rng(0)
    names, of_pair = np.unique(factors, return_inverse=True)
    groups = [np.flatnonzero(of_pair == number) for number in range(len(names))]
    if len(groups) == 1:
        groups = [np.array([row]) for row in range(len(truth))]
    drawn = []
    for _ in range(draws):
        picked = rng.integers(len(groups), size=len(groups))
        rows = np.concatenate([groups[number] for number in picked])
        if len(set(truth[rows])) > 1:
            drawn.append(score_signs(found[rows], truth[rows]).balanced_accuracy)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return score_signs(found, truth).balanced_accuracy, float(low), float(high)


def table(results: dict[Any, Any]) -> list[str]:
    """A row for each method: stem cells pooled, by half and by what was done; embryos."""
    stem = [results[(name,)]["pairs"] for name in STEM_CELLS]
    oct4 = results[(EMBRYO,)]["pairs"]["OCT4 lost"]
    columns = {
        "even factors": pooled(stem, even=True),
        "odd factors (confirmation)": pooled(stem, even=False),
        "factor lost": pooled(stem, kind="factor lost"),
        "factor gained": pooled(stem, kind="factor gained"),
        "OCT4 lost, embryos": pooled([{"OCT4 lost": oct4}]),
    }
    shares = ", ".join(
        f"{name} {results[(name,)]['asymmetry']:.1%}" for name in (*STEM_CELLS, EMBRYO)
    )
    lines = [
        "Signs of edges against perturbed genes: balanced accuracy (95 %, over factors).",
        f"Asymmetry of the network of production rates: {shares}.",
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
    return lines


def pooled(
    sets: list[dict[str, Any]], *, even: bool | None = None, kind: str | None = None
) -> tuple[NDArray, NDArray, dict[str, list[int]]]:
    """Known signs, factors and estimated signs of all pairs of some kind."""
    truth: list[int] = []
    factors: list[str] = []
    found: dict[str, list[int]] = {}
    for pairs in sets:
        for words, of_kind in pairs.items():
            if kind is not None and words != kind:
                continue
            rows = [
                row
                for row, factor in enumerate(of_kind["factor"])
                if even is None or is_even(factor) == even
            ]
            truth += [of_kind["truth"][row] for row in rows]
            factors += [of_kind["factor"][row] for row in rows]
            for method, signs in of_kind["found"].items():
                found.setdefault(method, []).extend(signs[row] for row in rows)
    return np.array(truth), np.array(factors), found


if __name__ == "__main__":
    typer.run(main)
