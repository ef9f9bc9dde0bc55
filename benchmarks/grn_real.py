"""Gene networks of real time courses against known edges, beside simple baselines.

    python -m benchmarks.grn_real                # about 5 minutes on one core; resumable

A default fit of each data set; every method sees the same cells and the genes of the reference.
Signs: TRRUST of the species, pooled over sets. Links: the references of SCODE, BEELINE and ESCAPE.
Intervals are 95 %, from resampled pairs. Result: results/grn_real.md, one JSON file a set beside.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch
import typer

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.questions.grn.reference import (
    Comparison,
    Reference,
    auprc_ratio,
    score_signs,
    signs_of,
)
from studies.data_sets import Data
from studies.results import Results

from .runaway import DATA

RESULTS = Results("grn_real")
SIGNS = {"Homo sapiens": "trrust_human.tsv", "Mus musculus": "trrust_mouse.tsv"}
LINKS = {
    "hesc_endoderm": ["scode_hesc_endoderm.tsv", "beeline_hesc_specific.tsv"],
    "mef_neuron": [],
    "mef_reprogramming_tf": ["scode_mef_reprogramming.tsv"],
    "mesc_primitive_endoderm": [
        "scode_mesc_primitive_endoderm.tsv",
        "escape_gold_primitive_endoderm.tsv",
    ],
    "dendritic_lps": [
        "beeline_mdc_string.tsv",
        "beeline_mdc_specific.tsv",
        "beeline_mdc_nonspecific.tsv",
    ],
    "mesc_retinoic_acid_626": ["escape_gold_retinoic_acid.tsv"],
    "hematopoiesis_larry": [],
    "ipsc_cardiomyocyte": [],
    "mouse_early_blood": [],
    "myoblast_transcriptome": [],
    "human_preimplantation": [],
}
NO_SIGNS = ("mef_reprogramming_tf", "mesc_retinoic_acid_626")  # the former has mef_neuron's cells
MOST_FOR_TREES = 300  # genes; a forest is grown for each
DRAWS = 300
OURS = ("production", "association", "operator", "jacobian")


def main(
    data: Data = DATA,
) -> None:
    """Compare the sets that have no result yet, and write the table."""
    torch.set_num_threads(1)
    there = RESULTS.read()
    missing = [name for name in LINKS if (name,) not in there]
    print(f"{len(missing)} sets to go, {len(missing) / 2:.0f} minutes")
    for name in missing:
        started = time.perf_counter()
        RESULTS.keep(one_set(data, name), name)
        print(name, f"{time.perf_counter() - started:.0f} s", flush=True)
    there = RESULTS.read()
    outcomes = {name: there[(name,)] for name in LINKS}
    lines = [*table_of_signs(outcomes), "", *table_of_links(outcomes)]
    RESULTS.show("\n".join(lines))


def one_set(data: Path, name: str) -> dict[str, Any]:
    """Signs and strengths of the pairs of every reference, by method."""
    adata = anndata.read_h5ad(data / f"{name}.h5ad")
    pipeline = CellMNNPipeline().fit(adata, time_key="time", verdict=False)
    cells = pipeline.cells(adata)
    outcome: dict[str, Any] = {"signs": None, "links": {}}
    signs = [] if name in NO_SIGNS else [SIGNS[adata.uns["species"]]]
    for file in [*signs, *LINKS[name]]:
        try:
            known = Reference.read(data / "references" / file, pipeline.panel.names)
            compared = Comparison.of(cells, known, most_for_trees=MOST_FOR_TREES)
        except InputError as error:
            print(f"{name}, {file}: {error}")
            continue
        if file in SIGNS.values():
            pairs = {m: signs_of(w, compared.reference) for m, w in compared.weights.items()}
            outcome["signs"] = {
                "truth": pairs["production"][1].tolist(),
                "found": {
                    method: estimated.astype(int).tolist()
                    for method, (estimated, _) in pairs.items()
                },
            }
        else:
            rows, columns, linked = compared.reference.pairs()
            strengths = {
                method: (w if method in compared.by_value else np.abs(w))[rows, columns]
                for method, w in compared.weights.items()
            }
            ratios = {m: auprc_ratio(linked, strength) for m, strength in strengths.items()}
            best = max((method for method in ratios if method not in OURS), key=ratios.__getitem__)
            outcome["links"][file] = {
                "links": int(linked.sum()),
                "pairs": len(linked),
                "ratios": ratios,
                "best": best,
                "interval": interval(linked, strengths["production"]),
                "over_best": interval(linked, strengths["production"], strengths[best]),
            }
    return outcome


def interval(
    linked: np.ndarray, strength: np.ndarray, other: np.ndarray | None = None
) -> list[float]:
    """95 % of the AUPRC ratio, or of its quotient with another, over resampled pairs."""
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(DRAWS):
        rows = rng.integers(len(linked), size=len(linked))
        ratio = auprc_ratio(linked[rows], strength[rows])
        resampled.append(ratio if other is None else ratio / auprc_ratio(linked[rows], other[rows]))
    return np.quantile(resampled, [0.025, 0.975]).tolist()


# ---------------------------------------------------------------------------------------------
# Tables


def table_of_signs(found: dict[str, Any]) -> list[str]:
    """Balanced accuracy by set and pooled, with an interval, and paired with the best baseline."""
    signed = {name: outcome["signs"] for name, outcome in found.items() if outcome["signs"]}
    methods = [m for m in next(iter(signed.values()))["found"] if m != "trees"]
    truth = np.concatenate([signs["truth"] for signs in signed.values()])
    pooled = {m: np.concatenate([signs["found"][m] for signs in signed.values()]) for m in methods}
    lines = [
        f"| signs, balanced accuracy | pooled, {len(truth)} pairs | MCC | "
        + " | ".join(f"{name}, {len(signs['truth'])}" for name, signs in signed.items())
        + " |",
        "|---|---:|---:|" + "---:|" * len(signed),
    ]
    for method in methods:
        found_signs = pooled[method]
        low, high = sign_interval(found_signs, truth)
        score = score_signs(found_signs, truth)
        by_set = [
            score_signs(
                np.array(signs["found"][method]), np.array(signs["truth"])
            ).balanced_accuracy
            for signs in signed.values()
        ]
        lines.append(
            f"| {method} | {score.balanced_accuracy:.3f} ({low:.3f} to {high:.3f}) "
            f"| {score.mcc:.3f} | " + " | ".join(f"{accuracy:.2f}" for accuracy in by_set) + " |"
        )
    baselines = [m for m in methods if m not in OURS]
    best = max(baselines, key=lambda m: score_signs(pooled[m], truth).balanced_accuracy)
    low, high = sign_interval(pooled["production"], truth, pooled[best])
    lines += ["", f"production less {best}, the best baseline: {low:+.3f} to {high:+.3f} (95 %)."]
    return lines


def sign_interval(
    found: np.ndarray, truth: np.ndarray, other: np.ndarray | None = None
) -> tuple[float, float]:
    """95 % of the balanced accuracy, or of its lead, over resampled pairs."""

    def accuracy(signs: np.ndarray, rows: np.ndarray) -> float:
        return score_signs(signs[rows], truth[rows]).balanced_accuracy

    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4 * DRAWS):
        rows = rng.integers(len(truth), size=len(truth))
        drawn.append(accuracy(found, rows) - (0 if other is None else accuracy(other, rows)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def table_of_links(found: dict[str, Any]) -> list[str]:
    """AUPRC ratios by reference."""
    rows = [
        (name, file, compared)
        for name, by_set in found.items()
        for file, compared in by_set["links"].items()
    ]
    methods = list(dict.fromkeys(m for *_, compared in rows for m in compared["ratios"]))
    methods = [m for m in methods if m not in ("always_activation", "shuffled_signs")]
    lines = [
        "| links, AUPRC ratio | links of pairs | " + " | ".join(methods) + " | interval "
        "| over the best baseline |",
        "|---|---:|" + "---:|" * (len(methods) + 2),
    ]
    for name, file, compared in rows:
        cells = [f"{compared['ratios'][m]:.2f}" if m in compared["ratios"] else "" for m in methods]
        low, high = compared["interval"]
        lead = compared["over_best"]
        lines.append(
            f"| {name}, {file.removesuffix('.tsv')} | {compared['links']:,} of "
            f"{compared['pairs']:,} | "
            + " | ".join(cells)
            + f" | {low:.2f} to {high:.2f} | {lead[0]:.2f} to {lead[1]:.2f} ({compared['best']}) |"
        )
    return lines


if __name__ == "__main__":
    typer.run(main)
