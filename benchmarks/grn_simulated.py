"""Estimators of gene regulation on simulated networks whose edges are known.

    python -m benchmarks.grn_simulated             # about 10 minutes on one core; resumable

Four topologies x 5 seeds, 20 genes, 5 times x 300 cells, clean and as Poisson counts (3 where a
gene is fully on). Settings were chosen on linear and bifurcating networks; cyclic and trifurcating
ones confirm them. AUPRC ratio: of known links among all pairs, over chance; signs: share of all
true edges whose sign is right. Result: results/grn_simulated.md, one JSON file a case beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from cellmnn_fm.data.gene_networks import GeneNetwork, Topology
from cellmnn_fm.data.subspace import Subspace
from cellmnn_fm.data.time_course import TimeCourse
from cellmnn_fm.dynamics.snapshots import velocities
from cellmnn_fm.questions.grn.baselines import BASELINES
from cellmnn_fm.questions.grn.estimators import CellStates, operator_network, production_network
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork
from cellmnn_fm.questions.grn.reference import Reference, link_scores, sign_scores
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train
from studies.results import Results
from studies.tables import dot_plot

RESULTS = Results("grn_simulated")
SEEDS = 5
COUNTS = {"clean": None, "counts": 3.0}
DIMS = 10
DECAYS = (0.6, 1.2, 2.4, 5.0, 10.0)  # per time, which is the gap; the true one is 1.2
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)


def main() -> None:
    """Make the cases that are not there yet, and the table."""
    torch.set_num_threads(1)
    cases = [
        (topology, str(seed), noise)
        for topology in get_args(Topology)
        for seed in range(SEEDS)
        for noise in COUNTS
    ]
    there = RESULTS.read()
    missing = [case for case in cases if case not in there]
    print(f"{len(missing)} cases to go, {len(missing) * 0.3:.0f} minutes")
    for topology, seed, noise in missing:
        case = topology, int(seed), noise
        scores = {name: weights_scores(weights, case) for name, weights in estimates(*case)}
        RESULTS.keep(scores, *case)
        print(*case, f"AUPRC ratio {scores['production']['auprc_ratio']:.1f}", flush=True)
    write_table(
        {(kind, int(seed), noise): scores for (kind, seed, noise), scores in RESULTS.read().items()}
    )


def estimates(topology: Topology, seed: int, noise: str) -> Iterator[tuple[str, np.ndarray]]:
    """Weights (targets, sources) by method."""
    network = GeneNetwork.make(topology, seed=seed)
    adata = network.to_anndata(seed=seed, counts=COUNTS[noise])
    x, times = np.asarray(adata.X, dtype=np.float64), adata.obs["time"].to_numpy()
    forms = [(frame, offset) for frame in (False, True) for offset in (True, False)]
    fits = {form: fitted(np.asarray(adata.X), times, seed, *form) for form in forms}
    for (frame, offset), (dynamics, cells, subspace) in fits.items():
        about = subspace, network.names
        form = f"{', in the frame' if frame else ''}{'' if offset else ', b off'}"
        yield f"production{form}", dense(production_network(cells, *about, dynamics.time_scale))
        for part in ("learned", "frame") if frame else ("learned",):
            named = f"{form}, {part} part" if frame else form
            yield f"operator{named}", dense(operator_network(dynamics, cells, *about, part=part))
            yield (
                f"jacobian{named}",
                dense(operator_network(dynamics, cells, *about, part=part, jacobian=True)),
            )
    dynamics, cells, subspace = fits[False, True]
    about = subspace, network.names, dynamics.time_scale
    latent = CellStates(cells.states, cells.velocity, cells.times)
    yield "production, from latent states alone", dense(production_network(latent, *about))
    yield "production, decay from the data", dense(production_network(cells, *about, decay="data"))
    for decay in DECAYS:
        yield f"k {decay:g}", dense(production_network(cells, *about, decay=decay))
    for ridge in RIDGES:
        yield f"λ {ridge:g}", dense(production_network(cells, *about, ridge=ridge))
    for name, baseline in BASELINES.items():
        yield name, baseline(x, times, seed)


def fitted(
    x: NDArray, times: NDArray, seed: int, frame: bool = False, offset: bool = True
) -> tuple:
    """Dynamics, cells and subspace of a default fit to `x` (cells, genes) at `times` (cells,)."""
    subspace = Subspace.pca(x, DIMS, seed)
    states = subspace.project(x)
    course = TimeCourse.from_cells(states, times)
    config, training = preset_configs("default", course, frame=frame)
    dynamics = train(course, config.replaced(offset=offset), training, seed=seed).dynamics
    velocity = velocities(dynamics, states, times)
    return dynamics, CellStates(states, velocity, times, x), subspace


def dense(network: GeneRegulatoryNetwork) -> np.ndarray:
    """All weights; there are few genes."""
    return network.left @ network.right


def weights_scores(weights: np.ndarray, case: tuple) -> dict[str, float]:
    """Links among all pairs of genes, and the signs of all true edges."""
    network = GeneNetwork.make(case[0], seed=case[1])
    reference = Reference.of(network.reference(), network.names)
    links = link_scores(weights, reference, every_pair=True)
    return {
        "auprc_ratio": links.auprc_ratio,
        "auroc": links.auroc,
        "early_precision_ratio": links.early_precision_ratio,
        "signs": sign_scores(weights, reference).accuracy,
    }


# ---------------------------------------------------------------------------------------------
# Tables


def write_table(found: dict[tuple, dict[str, dict[str, float]]]) -> None:
    """Means over seeds, by topology; with a 95 % interval over all cases."""
    methods = list(next(iter(found.values())))
    lines = ["AUPRC ratio / signs right, means over seeds.", ""]
    for noise in COUNTS:
        head = [*get_args(Topology), "chosen on", "confirmed on", "all"]
        lines += [f"| {noise} | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
        for method in [name for name in methods if name.split()[0] not in ("k", "λ")]:
            row = [mean(found, method, noise, [topology]) for topology in get_args(Topology)]
            row += [mean(found, method, noise, ["linear", "bifurcating"])]
            row += [mean(found, method, noise, ["cyclic", "trifurcating"])]
            row += [mean(found, method, noise, get_args(Topology))]
            lines.append(f"| {method} | " + " | ".join(row) + " |")
        lines.append("")
    lines += ["| production | clean | counts |", "|---|---:|---:|"]
    for method in [name for name in methods if name.split()[0] in ("k", "λ")]:
        row = [mean(found, method, noise, get_args(Topology)) for noise in COUNTS]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    RESULTS.show("\n".join(lines))
    shown = ("production", "operator", "jacobian", *BASELINES)
    ratios = {
        noise: [
            float(
                np.mean(
                    [
                        scores[name]["auprc_ratio"]
                        for (*_, kind), scores in found.items()
                        if kind == noise
                    ]
                )
            )
            for name in shown
        ]
        for noise in COUNTS
    }
    labels = [name.replace("_", " ") for name in shown]
    xlabel = "AUPRC over that of chance, known networks; higher is better"
    RESULTS.draw(dot_plot(labels, ratios, xlabel, line=1.0))


def mean(found: dict, method: str, noise: str, topologies: Sequence[str]) -> str:
    """AUPRC ratio and signs over seeds and topologies."""
    scores = [
        by_method[method]
        for (topology, _, kind), by_method in found.items()
        if kind == noise and topology in topologies
    ]
    parts = [np.mean([score[part] for score in scores]) for part in ("auprc_ratio", "signs")]
    return f"{parts[0]:.1f} / {parts[1]:.3f}"


if __name__ == "__main__":
    typer.run(main)
