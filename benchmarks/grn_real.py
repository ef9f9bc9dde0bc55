"""Gene networks of real time courses against known edges, beside simple baselines.

    python -m benchmarks.grn_real                # half an hour on one core; resumable

A default fit of each data set; every method sees the same cells and the same genes: those of the
references that belong to these cells. Networks of several data sets leave out those that share
cells or a process with the set. Links: BEELINE's references of stem cells, dendritic cells and
blood, SCODE's and ESCAPE's, where 50 links of 5 sources or more are between genes of the set.
Signs: TRRUST of the species.

Human sets and mDC are for choosing, the other mouse sets confirm. Means are over sets, so that one
with many references counts once. Intervals are 95 %, over sources, whose edges are not independent.
Result: results/grn_real.md, a line of JSON a set beside. Regdiffusion runs if it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
import typer
from joblib import Memory
from numpy.typing import NDArray

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.fitted.fitted_model import Cells
from cellmnn_fm.questions.grn.baselines import BASELINES
from cellmnn_fm.questions.grn.baselines import trees as grow_trees
from cellmnn_fm.questions.grn.comparison import ESTIMATORS
from cellmnn_fm.questions.grn.question import cell_states, consensus_network, estimated
from cellmnn_fm.questions.grn.reference import (
    Reference,
    auprc_ratio,
    link_scores,
    score_signs,
    signs_of,
)
from studies.data_sets import Data
from studies.results import Results

from .beeline import regdiffusion as fit_regdiffusion
from .perturbed import accuracy, resampled_rows
from .runaway import DATA

RESULTS = Results("grn_real")
SIGNS = {"Homo sapiens": "trrust_human.tsv", "Mus musculus": "trrust_mouse.tsv"}
# references by the cells that they are about, and data sets of such cells, or on the way to them
BEELINE = {
    "hesc": ("hesc_endoderm", "human_preimplantation", "ipsc_cardiomyocyte_d60"),
    "mesc": (
        *("mesc_primitive_endoderm", "mesc_retinoic_acid_626", "mesc_retinoic_acid"),
        *("mouse_preimplantation_rnaseq", "mouse_preimplantation_qpcr", "mef_ipsc_serum"),
        *("mouse_preimplantation_deng_counts", "mouse_preimplantation_goolam"),
        "mouse_etv2_progenitors",
    ),
    "mdc": ("dendritic_lps",),
    "mhsc": ("hematopoiesis_larry", "mouse_early_blood", "mouse_etv2_progenitors"),
}
OTHERS = {
    "hesc_endoderm": ("scode_hesc_endoderm",),
    "mef_reprogramming_tf": ("scode_mef_reprogramming",),
    "mesc_primitive_endoderm": ("scode_mesc_primitive_endoderm", "escape_gold_primitive_endoderm"),
    "mesc_retinoic_acid_626": ("escape_gold_retinoic_acid",),
}
ONLY_SIGNS = ("mef_neuron", "ipsc_cardiomyocyte", "myoblast_transcriptome")
NO_SIGNS = ("mef_reprogramming_tf", "mesc_retinoic_acid_626")  # their cells are in other sets
SETS = tuple(
    dict.fromkeys([*(name for sets in BEELINE.values() for name in sets), *OTHERS, *ONLY_SIGNS])
)
DEVELOPMENT = (*BEELINE["hesc"], *BEELINE["mdc"], "ipsc_cardiomyocyte", "myoblast_transcriptome")
LEAST_LINKS, LEAST_SOURCES = 50, 5
MOST_FOR_TREES = 1000  # genes, each of which takes a forest
DRAWS = 300
# what takes minutes is kept, for when something of ours changes
KEPT = Memory(Path("build") / "grn_real", verbose=0)
trees, regdiffusion = KEPT.cache(grow_trees), KEPT.cache(fit_regdiffusion)
OURS = ("association", "consensus", "base alone", "production", "operator", "jacobian")
CONTROLS = ("number of sets", "always activation", "shuffled signs")
BY_VALUE = ("association", "consensus", "base alone", "number of sets", "spearman, by value")


def main(data: Data = DATA) -> None:
    """Compare the sets that have no result yet, and write the tables."""
    torch.set_num_threads(1)
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    for name in [name for name in SETS if (name,) not in RESULTS.read()]:
        started = time.perf_counter()
        RESULTS.keep(one_set(data, name, base), name)
        print(name, f"{time.perf_counter() - started:.0f} s", flush=True)
    there = RESULTS.read()
    outcomes = {name: there[(name,)] for name in SETS}
    RESULTS.show("\n\n".join("\n".join(part) for part in tables(outcomes)))


# ---------------------------------------------------------------------------------------------
# One data set


def one_set(data: Path, name: str, base: CellMNNPipeline) -> dict[str, Any]:
    """Scores of links, and estimated signs, of every reference, by method."""
    adata = anndata.read_h5ad(data / f"{name}.h5ad")
    pipeline = CellMNNPipeline().fit(adata, time_key="time", verdict=False)
    cells = pipeline.cells(adata)
    links = dict(known_links(data, name, pipeline.panel.names))
    signs, of_species = None, SIGNS[adata.uns["species"]]
    if name not in NO_SIGNS:
        signs = Reference.read(data / "references" / of_species, pipeline.panel.names)
    edges = [known.edges for known in (*links.values(), signs) if known is not None]
    involved = set(pd.concat(edges)[["source", "target"]].to_numpy().ravel())
    sources = set(pd.concat(edges)["source"])
    genes = tuple(gene for gene in pipeline.panel.names if gene in involved)
    weights = estimates(cells, genes, sources, base)
    outcome: dict[str, Any] = {"genes": len(genes), "links": {}, "signs": None}
    for file, known in links.items():
        outcome["links"][file] = compared(weights, replace(known, genes=genes))
    if signs is not None:
        known = replace(signs, genes=genes)
        papers = pd.read_csv(data / "references" / of_species, sep="\t", comment="#")
        outcome["signs"] = signs_by_method(weights, known, papers, cells)
    return outcome


def known_links(data: Path, name: str, genes: tuple[str, ...]) -> Iterator[tuple[str, Reference]]:
    """References of a data set by name, those with enough links between its genes."""
    patterns = [f"beeline_{kind}_*" for kind, sets in BEELINE.items() if name in sets]
    patterns += [f"{file}.tsv" for file in OTHERS.get(name, ())]
    for pattern in patterns:
        for file in sorted((data / "references").glob(pattern)):
            known = Reference.read(file, genes)
            if len(known.edges) >= LEAST_LINKS and known.edges["source"].nunique() >= LEAST_SOURCES:
                yield file.name.split(".")[0], known


def estimates(
    cells: Cells, genes: tuple[str, ...], sources: set[str], base: CellMNNPipeline
) -> dict[str, NDArray]:
    """Weights (targets, sources) between some genes, by method."""
    states = cell_states(cells)
    networks = {str(name): estimated(cells, states, name) for name in ESTIMATORS}
    joint = consensus_network(base.foundation, cells, estimator="association")
    networks["consensus"] = joint
    rows = np.array([joint.genes.index(gene) for gene in genes])
    weights = {name: network.weights(rows, rows) for name, network in networks.items()}
    assert joint.shared is not None
    weights["base alone"] = joint.shared.weights(rows, rows)
    weights["number of sets"] = joint.shared.counts(rows, rows)
    assert states.expression is not None
    x, times = states.expression[:, rows].astype(np.float64), states.times
    for name, baseline in BASELINES.items():
        if name != "trees":
            weights[name] = baseline(x, times, 0)
    weights["spearman, by value"] = weights["spearman"]
    if len(genes) <= MOST_FOR_TREES:
        weights["trees"] = trees(x, times)
        known_sources = np.array([gene in sources for gene in genes])
        weights["trees over factors"] = trees(x, times, among=known_sources)
        if find_spec("regdiffusion"):
            weights["regdiffusion"] = regdiffusion(x, times, 0)
    weights["always activation"] = np.ones((len(genes),) * 2)
    weights["shuffled signs"] = np.random.default_rng(0).choice([-1.0, 1.0], (len(genes),) * 2)
    return weights


def compared(weights: dict[str, NDArray], known: Reference) -> dict[str, Any]:
    """Scores of links by method, and the lead of our default over the best baseline."""
    rows, columns, linked = known.pairs()
    scores: dict[str, dict[str, Any]] = {}
    strengths = {}
    for method, w in weights.items():
        if method not in ("always activation", "shuffled signs"):
            by_value = method in BY_VALUE
            scores[method] = asdict(link_scores(w, known, by_value=by_value))
            strengths[method] = (w if by_value else np.abs(w))[rows, columns]
    best = max(
        (method for method in scores if method not in (*OURS, *CONTROLS)),
        key=lambda method: scores[method]["auprc_ratio"],
    )
    return {
        "scores": scores,
        "best": best,
        "over_best": lead(linked, strengths["association"], strengths[best], columns),
    }


def lead(linked: NDArray, strength: NDArray, other: NDArray, sources: NDArray) -> list[float]:
    """95 % of the quotient of two AUPRC ratios, over resampled sources."""
    quotients = [
        auprc_ratio(linked[rows], strength[rows]) / auprc_ratio(linked[rows], other[rows])
        for rows in resampled_rows(sources, DRAWS)
        if 0 < linked[rows].sum() < len(rows)
    ]
    return np.quantile(quotients, [0.025, 0.975]).tolist()


def signs_by_method(
    weights: dict[str, NDArray], known: Reference, papers: pd.DataFrame, cells: Cells
) -> dict[str, Any]:
    """Known and estimated signs of pairs, how many papers say so, and how often both are seen."""
    signed = known.edges[known.edges["sign"] != 0]
    papers = papers.assign(
        pair=papers["source"].str.upper() + " " + papers["target"].str.upper(),
        count=papers["evidence"].str.count("PMID") + papers["evidence"].str.count(";"),
    )
    of_pair = papers.groupby("pair")["count"].sum()
    pairs = signed["source"].str.upper() + " " + signed["target"].str.upper()
    expression = cell_states(cells).expression
    assert expression is not None
    seen = dict(zip(cells.fitted.panel.names, (expression > 0).mean(axis=0), strict=True))
    least = np.minimum(signed["source"].map(seen), signed["target"].map(seen))
    signs = {m: signs_of(w, known)[0].astype(int).tolist() for m, w in weights.items()}
    return {
        "truth": signed["sign"].tolist(),
        "factor": signed["source"].str.upper().tolist(),
        "papers": pairs.map(of_pair).fillna(1).astype(int).tolist(),
        "detected": least.round(3).tolist(),
        "found": signs,
    }


# ---------------------------------------------------------------------------------------------
# Tables


def tables(found: dict[str, Any]) -> Iterator[list[str]]:
    """Links by half, by reference; signs pooled, by papers and detection."""
    rows = [
        {"set": name, "reference": file, "half": half_of(name), "method": method, **scores}
        for name, by_set in found.items()
        for file, outcome in by_set["links"].items()
        for method, scores in outcome["scores"].items()
    ]
    kept = pd.DataFrame(rows)
    every = kept.groupby("method")["reference"].count()
    methods = [m for m in every.index if every[m] == every.max()]
    yield links_by_half(kept, methods)
    slow = [m for m in every.index if m not in methods]
    if slow:
        with_all = kept[kept["set"].isin(set(kept[kept["method"] == slow[0]]["set"]))]
        yield [
            f"Of these the sets of up to {MOST_FOR_TREES:,} genes, for which forests were grown.",
            "",
            *links_by_half(with_all, [*methods, *slow]),
        ]
    yield links_by_reference(found)
    yield table_of_signs(found)


def half_of(name: str) -> str:
    """Whether a set is for choosing, or confirms."""
    return "development" if name in DEVELOPMENT else "confirmation"


def links_by_half(kept: pd.DataFrame, methods: list[str]) -> list[str]:
    """Means over sets of means over their references, the best method first."""
    kept = kept[kept["method"].isin(methods)]
    by_set = kept.groupby(["method", "half", "set"]).mean(numeric_only=True)
    half = by_set.groupby(["method", "half"]).mean()
    every = by_set.groupby("method").mean()
    string = kept[kept["reference"].str.contains("string")]
    string_mean = string.groupby(["method", "set"])["auprc_ratio"].mean().groupby("method").mean()
    counts = {part: kept[kept["half"] == part] for part in ("development", "confirmation")}
    heads = [
        f"{part}: {rows['set'].nunique()} sets, {len(rows) // len(methods)} references"
        for part, rows in counts.items()
    ]
    lines = [
        f"| links, AUPRC ratio | {heads[0]} | {heads[1]} | all sets | all references | STRING | "
        "AUROC within a source | precision of 100 | of 1,000 |",
        "|---|" + "---:|" * 8,
    ]
    plain = kept.groupby("method")["auprc_ratio"].mean()
    for method in every["auprc_ratio"].sort_values(ascending=False).index:
        values = [half["auprc_ratio"].get((method, part), np.nan) for part in counts]
        values += [every["auprc_ratio"][method], plain[method], string_mean[method]]
        more = every.loc[method, ["auroc_within", "precision_100", "precision_1000"]]
        cells = [f"{value:.2f}" for value in values] + [f"{value:.3f}" for value in more]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def links_by_reference(found: dict[str, Any]) -> list[str]:
    """AUPRC ratios by reference, and how far ours are ahead."""
    shown = ("association", "consensus", "production", "pearson", "spearman", "spearman, by value")
    lines = [
        "| links, AUPRC ratio | links of pairs | " + " | ".join(shown) + " | best baseline "
        "| association over it |",
        "|---|---:|" + "---:|" * (len(shown) + 2),
    ]
    for name, by_set in found.items():
        for file, outcome in by_set["links"].items():
            scores, best = outcome["scores"], outcome["best"]
            first = scores["association"]
            cells = [f"{scores[m]['auprc_ratio']:.2f}" for m in shown]
            low, high = outcome["over_best"]
            lines.append(
                f"| {name}, {file} | {first['links']:,} of {first['pairs']:,} | "
                + " | ".join(cells)
                + f" | {scores[best]['auprc_ratio']:.2f} ({best}) | {low:.2f} to {high:.2f} |"
            )
    return lines


def table_of_signs(found: dict[str, Any]) -> list[str]:
    """Balanced accuracy: all pairs, means over sets, and pairs that are better known or seen."""
    signed = {name: outcome["signs"] for name, outcome in found.items() if outcome["signs"]}
    parts = [
        pd.DataFrame(
            {
                "set": name,
                **{key: of[key] for key in ("truth", "factor", "papers", "detected")},
                **of["found"],
            }
        )
        for name, of in signed.items()
    ]
    pairs = pd.concat(parts, ignore_index=True)
    methods = [m for m in parts[0].columns[5:] if all(m in part for part in parts)]
    methods = [m for m in methods if m not in ("number of sets", "spearman, by value")]
    human = pairs["set"].isin(DEVELOPMENT)
    columns = {
        "all": pairs,
        "human and mDC": pairs[human],
        "other mouse sets": pairs[~human],
        "2 papers or more": pairs[pairs["papers"] > 1],
        "both in half of the cells": pairs[pairs["detected"] >= 0.5],
    }
    lines = [
        "| signs, TRRUST, balanced accuracy | "
        + " | ".join(f"{words}, {len(rows):,}" for words, rows in columns.items())
        + " | mean of sets |",
        "|---|" + "---:|" * (len(columns) + 1),
    ]
    for method in methods:
        found_signs = pairs[method].to_numpy(), pairs["truth"].to_numpy()
        _, low, high = accuracy(*found_signs, pairs["factor"].to_numpy(), DRAWS)
        cells = [f"{balanced(rows[method], rows['truth']):.3f}" for rows in columns.values()]
        cells[0] += f" ({low:.3f} to {high:.3f})"
        by_set = [balanced(part[method], part["truth"]) for part in parts]
        lines.append(f"| {method} | " + " | ".join([*cells, f"{np.mean(by_set):.3f}"]) + " |")
    return lines


def balanced(found: pd.Series, truth: pd.Series) -> float:
    """Balanced accuracy of signs."""
    return score_signs(found.to_numpy(), truth.to_numpy()).balanced_accuracy


if __name__ == "__main__":
    typer.run(main)
