"""Leave one time out: how well a held-out snapshot is predicted, beside simple baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ..data.introduced import Introduced
from ..data.latent_space import space_options
from ..data.options import FitReading, Protocol
from ..data.reading import read_times
from ..dynamics.snapshots import Dynamics, blended, interpolate
from ..model.errors import InputError
from .folds import (
    DEFAULT_SCORED_DIMS,
    MIN_HELD_OUT_CELLS,
    FitFold,
    Fold,
    held_out_times,
    read_folds,
)
from .metrics import energy, ot_interpolate, random_halves, wasserstein1

if TYPE_CHECKING:
    from anndata import AnnData


Prediction = Literal["forward", "two_sided", "two_sided_same_size"]

_READABLE = {
    "previous": "snapshot before",
    "next": "snapshot after",
    "ot_interpolate": "OT-Interpolate",
    "floor": "two halves of the snapshot",
    "forward": "fit, forward",
    "two_sided": "fit",
    "untrained_two_sided": "frame, untrained",
    "zero_shot": "pretrained",
    "paper": "fit as published",
    "paper_leaky": "fit as published, leaky",
    "sliced": "fit, preset sliced",
    "blend": "pretrained + fit",
}


def readable_method(method: str) -> str:
    """What a method of an evaluation is, for people: "two_sided_same_size" is "fit, as many cells".

    Predictions from two sides have the cells of both; W1 falls with their number.
    """
    kind = method.removesuffix("_same_size")
    name = _READABLE.get(kind, kind.replace("_", " "))
    return name if kind == method else f"{name}, as many cells"


@dataclass(frozen=True)
class Score:
    """One method on one held-out time with one seed.

    Attributes
    ----------
    time : float
        The held-out time.
    seed : int
        Of the fit and of the cells drawn.
    method : str
        As in the table.
    w1, energy : float
        Distances in z-scored dimensions: 1-Wasserstein and energy distance.
    seconds : float
        Fit and prediction.
    steps : int
        Optimiser steps of the fit.
    """

    time: float
    seed: int
    method: str
    w1: float
    energy: float
    seconds: float
    steps: int = 0


class MethodSummary(TypedDict):
    """Means over held-out times and seeds; the spread is over seeds, None for a single one.

    Energy distances are near 0, and their ratios say nothing, where straight lines are the truth.
    """

    w1_mean: float
    w1_sd: float | None
    ratio_to_ot_interpolate: float
    energy_mean: float
    energy_over_ot_interpolate: float
    seconds: float
    steps: float


@dataclass(frozen=True)
class Evaluation(Introduced):
    """Scores of all methods on all held-out times.

    Attributes
    ----------
    settings : dict
        What was evaluated, and how.
    scores : list of Score
        One for each method, held-out time and seed.
    """

    settings: dict[str, Any]
    scores: list[Score]

    @property
    def summary(self) -> dict[str, MethodSummary]:
        """By method, over all held-out times and seeds."""
        methods = list(dict.fromkeys(score.method for score in self.scores))
        seeds = sorted({score.seed for score in self.scores})
        straight = [score for score in self.scores if score.method == "ot_interpolate"]
        baseline = np.mean([score.w1 for score in straight])
        its_energy = np.mean([score.energy for score in straight])
        rows: dict[str, MethodSummary] = {}
        for method in methods:
            of_method = [score for score in self.scores if score.method == method]
            by_seed = [np.mean([s.w1 for s in of_method if s.seed == seed]) for seed in seeds]
            mean_energy = np.mean([s.energy for s in of_method])
            rows[method] = {
                "w1_mean": float(np.mean(by_seed)),
                "w1_sd": float(np.std(by_seed, ddof=1)) if len(seeds) > 1 else None,
                "ratio_to_ot_interpolate": float(np.mean(by_seed) / baseline),
                "energy_mean": float(mean_energy),
                "energy_over_ot_interpolate": float(mean_energy / its_energy),
                "seconds": float(np.mean([s.seconds for s in of_method])),
                "steps": float(np.mean([s.steps for s in of_method])),
            }
        return rows

    @property
    def sentence(self) -> str:
        """What it says of the model that is asked about: the pretrained one, or else the fit."""
        method = "zero_shot" if any(s.method == "zero_shot" for s in self.scores) else "two_sided"
        times = sorted({score.time for score in self.scores})

        def w1(name: str, time: float) -> float:
            return float(np.mean([s.w1 for s in self.scores if (s.method, s.time) == (name, time)]))

        closer = sum(w1(method, time) < w1("ot_interpolate", time) for time in times)
        ratio = self.summary[method]["ratio_to_ot_interpolate"]
        side = "below" if ratio < 1 else "above"
        return (
            f"{readable_method(method)}: W1 is {abs(ratio - 1):.0%} {side} that of OT-Interpolate, "
            f"and closer at {closer} of {len(times)} left-out times"
        )

    @property
    def table(self) -> pd.DataFrame:
        """A row for each method, by the name that people read: W1 and its sd, ratios, seconds."""
        return pd.DataFrame.from_dict(
            {
                readable_method(method): {
                    "W1": row["w1_mean"],
                    "sd": row["w1_sd"],
                    "/ OT": row["ratio_to_ot_interpolate"],
                    "energy / OT": row["energy_over_ot_interpolate"],
                    "s": row["seconds"],
                }
                for method, row in self.summary.items()
            },
            orient="index",
        ).rename_axis("method")

    def __repr__(self) -> str:
        return f"Evaluation of {len(self.summary)} methods\n{self.sentence}"

    def _table(self) -> pd.DataFrame:
        """Of the methods."""
        return self.table

    def to_dict(self) -> dict[str, Any]:
        """Settings, summary and every value, ready for JSON."""
        folds = [asdict(score) for score in self.scores]
        return {**self.settings, "summary": self.summary, "folds": folds}


@dataclass(frozen=True)
class Candidate:
    """A way to fit a model, and the predictions it is judged by.

    Attributes
    ----------
    fit : callable
        (dynamics, steps taken) of (fold, seed).
    methods : dict
        For each name in the table, what is predicted with the model: the previous snapshot pushed
        forward, the previous and the next pushed and mixed, or a draw from that mixture of as many
        cells as the previous snapshot has. W1 falls with the number of cells that represent a
        prediction, so only the draw compares like with like.
    beside : callable, optional
        Another fit, half-way to which every cell is predicted, see
        :func:`cellmnn_fm.dynamics.snapshots.blended`.
    """

    fit: FitFold
    methods: dict[str, Prediction]
    beside: FitFold | None = None


def evaluate(
    adata: AnnData,
    candidates: Sequence[Candidate],
    reading: FitReading,
    *,
    protocol: Protocol = "strict",
    held_out: Sequence[float] | None = None,
    seeds: int = 3,
    progress: bool = False,
) -> Evaluation:
    """Predict every interior time of a time course from the others.

    Beside the candidates: the previous and the next snapshot, OT-Interpolate and the half-split
    floor.

    Parameters
    ----------
    adata : AnnData
        The time course; 3 or more times.
    candidates : sequence of Candidate
        What is compared with the baselines.
    reading : FitReading
        W1 is taken in its `n_dims` z-scored principal components, or leading coordinates of an
        embedding; 5 by default, fewer where there are fewer. In mode "own" they are the latent
        space too. In a shared subspace fits have all of its dimensions; W1 is taken in the own
        components (or coordinates) with mode "aligned", and in components of the reconstructed
        expression with "shared". The data set is known to it by `uns["name"]`. What batches do is
        estimated without the held-out time under "strict".
    protocol : {"strict", "published"}
        Whether components, centring, scaling and the shared subspace are fitted without the
        held-out time, or on all times as in the papers.
    held_out : sequence of float, optional
        Of the times that can be held out only these.
    seeds : int
        Seeds 0, 1, ...; each draws cells, partners and weights of its own.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        If no interior time has 15 or more cells, and on unusable input.
    """
    if protocol not in get_args(Protocol):
        raise InputError("protocol", "strict or published", protocol, "choose one of the two")
    if seeds < 1:
        raise InputError("seeds", "at least 1", seeds, "ask for one or more")
    n_dims = DEFAULT_SCORED_DIMS if reading.n_dims is None else reading.n_dims
    options = space_options(reading)
    cell_times = read_times(adata, reading.time_key)
    folds = read_folds(adata, cell_times, reading, options)
    able = held_out_times(cell_times)
    held_out = able if held_out is None else [time for time in able if time in held_out]
    if not held_out:
        times, counts = np.unique(cell_times, return_counts=True)
        actual = ", ".join(f"{n} at {time:g}" for time, n in zip(times, counts, strict=True))
        raise InputError(
            "held-out times",
            f"a time between two others with {MIN_HELD_OUT_CELLS} or more cells",
            f"cells: {actual}",
            "an evaluation needs 3 or more times",
        )
    scores: list[Score] = []
    dims = [n_dims, 0]
    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("evaluating", total=len(held_out) * seeds)
        for left_out in held_out:
            fold_of = folds(
                left_out,
                latent_dim=n_dims if options.mode == "own" else None,
                n_dims=n_dims,
                protocol=protocol,
            )
            for seed in range(seeds):
                fold = fold_of(seed)
                dims = [fold.scored_in(fold.truth[:1]).shape[1], fold.truth.shape[1]]
                scores += _baselines(fold, seed)
                for candidate in candidates:
                    scores += _candidate_scores(candidate, fold, seed)
                bar.advance(task)
    settings = {
        "time_key": getattr(reading.time_key, "column", reading.time_key),
        "cells": len(cell_times),
        "times": np.unique(cell_times).tolist(),
        "n_dims": dims[0],
        "latent_dim": dims[1],
        "subspace_mode": options.mode,
        "protocol": protocol,
        "seeds": seeds,
    }
    return Evaluation(settings, scores)


def _baselines(fold: Fold, seed: int) -> list[Score]:
    """Neighbouring snapshots, straight lines between them, and two halves of the truth."""
    earlier, later = fold.scored_around()
    truth = fold.scored_in(fold.truth)
    rng = np.random.default_rng((seed, 1))
    halves = random_halves(truth, rng)

    def score(method: str, predict: Callable[[], NDArray]) -> Score:
        started = time.perf_counter()
        predicted = predict()
        seconds = time.perf_counter() - started
        return Score(fold.time, seed, method, *_distances(predicted, truth), seconds)

    return [
        score("previous", lambda: earlier),
        score("next", lambda: later),
        score("ot_interpolate", lambda: ot_interpolate(earlier, later, fold.share, rng)),
        Score(fold.time, seed, "floor", *_distances(*halves), seconds=0.0),
    ]


def _candidate_scores(candidate: Candidate, fold: Fold, seed: int) -> list[Score]:
    """Of every prediction of a candidate, on one fold."""
    started = time.perf_counter()
    fits = [candidate.fit, candidate.beside] if candidate.beside else [candidate.fit]
    models = [fit(fold, seed) for fit in fits]
    fitted = time.perf_counter() - started
    steps = sum(taken for _, taken in models)
    scores, truth = [], fold.scored_in(fold.truth)
    for method, kind in candidate.methods.items():
        started = time.perf_counter()
        states, weights = _predict([dynamics for dynamics, _ in models], fold, seed, kind)
        seconds = fitted + time.perf_counter() - started  # distances themselves are not timed
        distances = _distances(fold.scored_in(states), truth, weights)
        scores.append(Score(fold.time, seed, method, *distances, seconds, steps))
    return scores


def _distances(x: NDArray, y: NDArray, x_weights: NDArray | None = None) -> tuple[float, float]:
    """W1 and energy distance of two clouds, as scores have them."""
    return wasserstein1(x, y, x_weights), energy(x, y, x_weights)


def _predict(
    models: Sequence[Dynamics], fold: Fold, seed: int, what: Prediction
) -> tuple[NDArray, NDArray | None]:
    """States (cells, latent_dim) and weights (cells,) of one kind of prediction."""
    two_sided = what != "forward"
    predictions = [
        interpolate(dynamics, fold.around, fold.time, two_sided=two_sided) for dynamics in models
    ]
    predicted = reduce(blended, predictions)
    if what != "two_sided_same_size":
        return predicted.states, predicted.weights
    rng = np.random.default_rng((seed, 2))
    size = len(fold.around.snapshots[0])
    return rng.choice(predicted.states, size, replace=False, p=predicted.weights), None
