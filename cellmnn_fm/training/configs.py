"""Recipes: how a model is built and trained, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..data.growth_genes import Growth, GrowthGenes
from ..data.options import Preset
from ..data.time_course import TimeCourse
from ..model.configuration_cellmnn import CellMNNConfig
from ..model.errors import InputError

Distance = Literal["energy", "mmd", "sliced"]


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The defaults are the measured recipe (`pretraining/LOG.md`).

    Parameters
    ----------
    steps : int
        Most optimiser steps.
    check_every, patience : int
        Check every so many steps, and keep the weights of the best check; never if 0. A check looks
        at the mean training loss since the last, or at a validation. With a patience, stop once so
        many in a row saw no improvement.
    accumulation : int
        Parts of a step whose gradients are summed up before the weights change.
    source_cells, target_cells : int
        Cells drawn from each observed time in a step, to start from and to compare with.
    learning_rate, weight_decay : float
        Of AdamW.
    schedule : {"one_cycle", "constant"}
        One cycle has 10 % of warm-up, and `learning_rate` is its peak.
    ema_decay : float, optional
        Of the moving average of the weights that is kept; None keeps the weights themselves.
    gradient_clip : float, optional
        Longest gradient of a step; none is shortened if absent.
    distance : {"energy", "mmd", "sliced"}
        Between a pushed and an observed snapshot.
    gamma : float
        Discount of a pair of snapshots for each one in between.
    both_directions : bool
        Whether snapshots are also pushed back in time.
    kinetic_weight, invertibility_weight, growth_weight : float
        Of the penalties in a fit of one time course.
    population_weight : float
        Of sizes of the population, where they are known.
    growth_prior : {"rates", "scores"}
        What is known of the growth of cells, if anything: rates, or scores whose scale is learned.
    kinetic_grid : float, optional
        Step in model time of a grid for the kinetic energy; None takes the observed times.
    raw_times : bool
        Whether model time is the user's time, in place of 0 to n - 1.
    save_every : int
        Steps between saved states, where there is a folder for them.

    Raises
    ------
    InputError
        On a number that is too small, and on an unknown distance or schedule.
    """

    steps: int = 150
    check_every: int = 0
    patience: int = 0
    accumulation: int = 1
    source_cells: int = 64
    target_cells: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    ema_decay: float | None = 0.995
    gradient_clip: float | None = 5.0
    distance: Distance = "energy"
    gamma: float = 0.1
    both_directions: bool = True
    kinetic_weight: float = 3.0
    kinetic_grid: float | None = None
    invertibility_weight: float = 10.0
    growth_weight: float = 0.3
    growth_prior: Literal["rates", "scores"] = "rates"
    population_weight: float = 100.0
    raw_times: bool = False
    save_every: int = 100

    def __post_init__(self) -> None:
        least = {
            "steps": 0,
            "source_cells": 2,
            "target_cells": 2,
            "save_every": 1,
            "accumulation": 1,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                value = getattr(self, name)
                raise InputError(name, f"at least {minimum}", value, "give a larger number")
        for name, known in {
            "distance": get_args(Distance),
            "growth_prior": ("rates", "scores"),
            "schedule": ("one_cycle", "constant"),
        }.items():
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise InputError(name, " or ".join(known), value, "choose one of them")


def preset_configs(
    preset: Preset, course: TimeCourse, *, frame: bool = False, growth: Growth = False
) -> tuple[CellMNNConfig, TrainingConfig]:
    """Model and training of a named preset for one time course.

    Parameters
    ----------
    preset : {"default", "sliced", "paper"}
        "sliced" is the default with sliced W1 in place of the energy distance: closer to held-out
        snapshots (`studies/recipe.py`), while what is known of networks and growth was measured
        with the default. "paper" is the setting of the published code of Cell-MNN (ICLR 2026), but
        for its stop: that looks at the held-out time, this one at the training loss.
    course : TimeCourse
        The time course to be fitted.
    frame : bool
        Whether a preset other than "paper" works in the Gaussian frame.
    growth : bool, str or GrowthGenes
        Whether cells multiply and die at a learned rate, and what is known of it (the values
        themselves are in `course`).
    """
    if preset not in get_args(Preset):
        raise InputError("preset", "default, sliced or paper", preset, "choose one of the three")
    dim, num_times = course.latent_dim, len(course.times)
    num_genes = 0 if course.subspace is None else len(course.subspace.gene_mean)
    growth_prior: Literal["rates", "scores"] = (
        "scores" if isinstance(growth, GrowthGenes) else "rates"
    )
    growth_weight = 10.0 if isinstance(growth, str) else 0.3  # rates are known, or not
    if preset != "paper":
        config = CellMNNConfig(
            latent_dim=dim,
            rank=min(4, dim),
            frame=frame,
            num_frame_times=num_times,
            growth=growth is not False,
            num_genes=num_genes,
        )
        training = TrainingConfig(distance="sliced" if preset == "sliced" else "energy")
        if growth is False:
            return config, training
        # movement and growth part more slowly than movement alone is found (LOG)
        return config, replace(
            training, steps=400, growth_weight=growth_weight, growth_prior=growth_prior
        )
    if frame:
        raise InputError("preset paper", "no frame", "frame=True", "leave the frame off")
    config = CellMNNConfig(
        latent_dim=dim,
        hidden_size=96,
        num_hidden_layers=4,
        rank=None,
        offset=False,
        max_rate=1e4,  # none, in effect
        num_frame_times=num_times,
        growth=growth is not False,
        num_genes=num_genes,
    )
    batch = 200
    epoch = max(1, sum(map(len, course.snapshots)) // batch)
    training = TrainingConfig(
        steps=1000 * epoch,
        check_every=10 * epoch,
        patience=10,
        source_cells=max(2, batch // (num_times - 1)),
        target_cells=batch,
        learning_rate=2e-4,
        schedule="constant",
        ema_decay=None,
        gradient_clip=None,
        distance="mmd",
        both_directions=False,
        kinetic_weight=0.1,
        kinetic_grid=0.1,
        invertibility_weight=1.0,
        growth_weight=growth_weight,
        growth_prior=growth_prior,
        raw_times=True,
        save_every=1000,
    )
    return config, training
