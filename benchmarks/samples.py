"""How often two conditions that do not differ are found to differ, by cells and by samples.

    python -m benchmarks.samples                 # an hour on one core; resumable

Simulated courses of three times in three dimensions, 20 cells a sample and time. Cells of a sample
share a shift (0.5 of the spread of cells) that has nothing to do with the condition. Designs: eight
donors, four in each condition, followed through all times; six donors that are in both; and at each
time four other animals in each condition. Where there is an effect, cells of the second condition
drift apart by one spread between times. By cells is what a test without `sample_key` does. "Found"
is p_adjusted ≤ 0.05 at the last time, of 19 permutations.

Real: neural differentiation in three species, whose clones are the samples; that species is the
condition means that everything in which these cell lines differ counts as its effect.
"""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.questions.conditions import compare_conditions
from cellmnn_fm.training.adaptation import adapt
from studies.data_sets import DATA, Data
from studies.harness import Cell, run_cells
from studies.results import Results
from studies.tables import markdown

RESULTS = Results("samples")
DESIGNS = {"donors": 8, "pairs": 6, "animals": 24}
EFFECTS = {0.0: 60, 1.0: 20}  # how many simulations of each
CELLS, TIMES, DIMS = 20, 3, 3
OF_SAMPLE = 0.5
PERMUTATIONS = 19
COLOURS = {"cells": "tab:orange", "samples": "tab:blue"}
SPECIES = ("human", "cynomolgus", "gorilla")


def main(data: Data = DATA, processes: int = 1) -> None:
    """Run what is missing, and write the tables."""
    cells = [
        Cell(RESULTS, (design, f"{effect:g}", str(seed)), simulated, (design, effect, seed), 4)
        for design in DESIGNS
        for effect, count in EFFECTS.items()
        for seed in range(count)
    ]
    cells += [
        Cell(RESULTS, ("species", *pair), species, (*pair, data), 150)
        for pair in combinations(SPECIES, 2)
    ]
    run_cells(cells, processes=processes)
    report()


def simulated(design: str, effect: float, seed: int) -> dict[str, float]:
    """p_adjusted at the last time, by cells and by samples."""
    warnings.simplefilter("ignore")
    base = CellMNNPipeline.from_pretrained("cellmnn-simulated").model
    states, times, second, samples = drawn(design, effect, seed)
    outcome = {}
    for unit, of in {"cells": None, "samples": samples}.items():
        compared = compare_conditions(
            states,
            times,
            second.astype(int),
            lambda course: adapt(base, course),
            samples=of,
            permutations=PERMUTATIONS,
            seed=seed,
        )
        outcome[unit] = float(compared.trajectories["p_adjusted"].iloc[-1])
    return outcome


def drawn(design: str, effect: float, seed: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """States (cells, dims), times, whether of the second condition, and samples, all (cells,)."""
    rng = np.random.default_rng((seed, len(design)))
    shifts = OF_SAMPLE * rng.normal(size=(DESIGNS[design], DIMS))
    numbers = np.arange(DESIGNS[design])
    if design == "animals":  # each of one time: four and four at every one of them
        rows = [(number, number // 8, number % 2) for number in numbers]
    elif design == "donors":
        rows = [(number, time, number % 2) for number in numbers for time in range(TIMES)]
    else:
        rows = [(n, time, side) for n in numbers for time in range(TIMES) for side in range(2)]
    samples, times, second = np.repeat(np.array(rows), CELLS, axis=0).T
    states = rng.normal(size=(len(samples), DIMS)) + shifts[samples]
    states[:, 0] += 2 * times
    states[:, 1] += effect * times * second
    return states.astype(np.float32), times.astype(float), second == 1, samples.astype(str)


def species(one: str, other: str, data: Path) -> dict[str, Any]:
    """Distance at the last time and p, by cells and by clones."""
    warnings.simplefilter("ignore")
    parts = [anndata.read_h5ad(data / f"ipsc_neural_{name}.h5ad") for name in (one, other)]
    both = anndata.concat(dict(zip((one, other), parts, strict=True)), label="species")
    both.obs_names_make_unique()
    base = CellMNNPipeline.from_pretrained("cellmnn-simulated")
    cells = base.cells(both, time_key="time")
    outcome: dict[str, Any] = {}
    for unit, key in {"cells": None, "samples": "replicate"}.items():
        compared = base.compare(cells, "species", sample_key=key, permutations=PERMUTATIONS)
        last = compared.trajectories.iloc[-1]
        outcome[unit] = {name: float(last[name]) for name in last.index}
        outcome[unit]["about"] = compared.replicates.sentence
    return outcome


def report() -> None:
    """Shares that are found, and the species."""
    kept = RESULTS.read()
    rows = []
    for design in DESIGNS:
        for effect in EFFECTS:
            of = [kept[key] for key in kept if key[:2] == (design, f"{effect:g}")]
            found = {unit: np.mean([p[unit] <= 0.05 for p in of]) for unit in ("cells", "samples")}
            rows.append(
                [design, f"{effect:g}", str(len(of)), *map("{:.2f}".format, found.values())]
            )
    head = ["simulated", "effect", "courses", "found by cells", "found by samples"]
    parts = [markdown(head, rows)]
    rows = []
    for key, outcome in kept.items():
        if key[0] == "species":
            for unit, found in outcome.items():
                if unit in ("cells", "samples"):
                    interval = (
                        f"{found['distance']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
                    )
                    null, p = f"{found['null']:.2f}", f"{found['p_adjusted']:.3f}"
                    rows.append([" and ".join(key[1:]), unit, interval, null, p])
    parts.append(markdown(["species", "exchanged", "distance", "exchanged labels", "p"], rows))
    RESULTS.show("\n\n".join(parts))
    RESULTS.draw(_figure(kept))


def _figure(kept: dict) -> Figure:
    """How often a difference is found, by what is exchanged, with 95 % of the binomial."""
    titles = {
        "animals": "other animals\nat each time",
        "donors": "donors, followed",
        "pairs": "donors in\nboth",
    }
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, effect in zip(figure.subplots(1, 2, sharey=True), EFFECTS, strict=True):
        for shift, (unit, colour) in zip((-0.18, 0.18), COLOURS.items(), strict=True):
            for place, design in enumerate(titles):
                runs = [kept[key][unit] for key in kept if key[:2] == (design, f"{effect:g}")]
                share = np.mean(np.array(runs) <= 0.05)
                test = binomtest(round(share * len(runs)), len(runs)).proportion_ci()
                label = f"{unit} exchanged" if not place else None
                axes.bar(place + shift, share, 0.34, color=colour, label=label)
                axes.vlines(place + shift, test.low, test.high, color="0.2", lw=1)
        axes.axhline(0.05, color="0.3", lw=1, ls=":")
        axes.set_xticks(range(len(titles)), titles.values())
        axes.set_title("no effect of the condition" if not effect else "an effect", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("share of courses\nwith p ≤ 0.05")
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    typer.run(main)
