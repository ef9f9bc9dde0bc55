"""What an evaluation compares: fits by preset, the untrained frame, a pretrained model."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from ..data.growth_genes import Growth
from ..data.options import EvaluatedPreset, Preset
from ..dynamics.snapshots import Dynamics, interpolate
from ..model.errors import InputError
from ..model.modeling_cellmnn import CellMNNModel
from ..training.adaptation import adapt
from ..training.configs import preset_configs
from ..training.one_course import train
from .evaluation import Candidate, Prediction
from .folds import FitFold, Fold

_ALL: dict[str, Prediction] = {name: name for name in get_args(Prediction)}


def preset_candidates(
    preset: EvaluatedPreset, *, frame: bool = False, growth: Growth = False
) -> list[Candidate]:
    """Default fits and the untrained frame, and those of another preset beside them.

    Parameters
    ----------
    preset : {"default", "sliced", "paper", "leaky"}
        "leaky" is the published setting with its stop on the held-out time.
    frame : bool
        Whether the fits of presets other than the published work in the Gaussian frame.
    growth : bool, str or GrowthGenes
        Whether cells multiply in them, see :meth:`CellMNNPipeline.fit`.
    """
    if preset not in get_args(EvaluatedPreset):
        known = "default, sliced, paper or leaky"
        raise InputError("preset", known, preset, "choose one of the four")
    candidates = [
        Candidate(fit_preset("default", frame, growth=growth), _ALL),
        Candidate(fit_preset("default", True, steps=0), {"untrained_two_sided": "two_sided"}),
    ]
    if preset == "sliced":
        fit = fit_preset("sliced", frame, growth=growth)
        candidates.append(Candidate(fit, _both_sizes("sliced")))
    if preset in ("paper", "leaky"):
        candidates.append(Candidate(fit_preset("paper"), {"paper": "forward"}))
    if preset == "leaky":
        candidates.append(Candidate(fit_preset("paper", leaky=True), {"paper_leaky": "forward"}))
    return candidates


def foundation_candidate(base: CellMNNModel) -> Candidate:
    """What a pretrained model says of a data set without any training."""
    return Candidate(without_training(base), _both_sizes("zero_shot"))


def blend_candidate(base: CellMNNModel) -> Candidate:
    """Half-way between what a pretrained model says and what a fit from scratch does."""
    return Candidate(without_training(base), _both_sizes("blend"), beside=fit_preset("sliced"))


def _both_sizes(name: str) -> dict[str, Prediction]:
    """A two-sided prediction, and a draw from it of as many cells as the previous snapshot has."""
    return {name: "two_sided", f"{name}_same_size": "two_sided_same_size"}


def without_training(base: CellMNNModel) -> FitFold:
    """A base, adapted."""

    def fit(fold: Fold, seed: int) -> tuple[Dynamics, int]:
        return Dynamics(adapt(base, fold.training), fold.training.time_scale), 0

    return fit


def fit_preset(
    preset: Preset,
    frame: bool = False,
    *,
    growth: Growth = False,
    steps: int | None = None,
    leaky: bool = False,
) -> FitFold:
    """A fit from scratch, as a function of (fold, seed).

    Parameters
    ----------
    preset : {"default", "sliced", "paper"}
        The recipe.
    frame : bool
        Whether it works in the Gaussian frame.
    growth : bool, str or GrowthGenes
        Whether cells multiply in it.
    steps : int, optional
        In place of the preset's.
    leaky : bool
        Whether to stop on the held-out W1, as published.
    """

    def fit(fold: Fold, seed: int) -> tuple[Dynamics, int]:
        def held_out_w1(dynamics: Dynamics) -> float:
            predicted = interpolate(dynamics, fold.around, fold.time, two_sided=False)
            return fold.w1(predicted.states, predicted.weights)

        config, training = preset_configs(preset, fold.training, frame=frame, growth=growth)
        if steps is not None:
            training = replace(training, steps=steps)
        validate = held_out_w1 if leaky else None
        trained = train(fold.training, config, training, seed=seed, validate=validate)
        return trained.dynamics, len(trained.losses)

    return fit
