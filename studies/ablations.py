r"""What a network that reads snapshots owes to each of its parts: short trainings without it.

    python -m studies.ablations                  # an hour on two cores
    python -m studies.ablations --part 0/2       # half of it

Trainings on simulated systems from the same weights, with the same systems and equally many steps,
but for what is left out; and real courses on top of them, or alone. Judged on the systems of
studies.simulated, beside the default fits that were made there, and zero-shot on the real courses
that settings are chosen on, of which no training has seen anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
import yaml

from cellmnn_fm import CellMNNConfig, CellMNNModel
from cellmnn_fm.data.simulated_systems import FAMILIES
from cellmnn_fm.data.simulated_tasks import SimulationConfig
from cellmnn_fm.evaluation.metrics import with_interval
from cellmnn_fm.fitted.foundation import Foundation
from cellmnn_fm.model.checkpoint import whole_or_nothing
from cellmnn_fm.model.in_context import NOT_SHOWN, InContextHypernetwork, Memory
from cellmnn_fm.model.linear_flow import bounded_low_rank
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.loop import remove_training_state
from cellmnn_fm.training.simulated import pretrain_simulated

from .bases import BASE_CONFIG, make_base
from .data_sets import DATA, DEVELOPMENT, Data, groups_of
from .leave_group_out import evaluate_unseen
from .results import Results
from .simulated import SYSTEMS, adapted, course_of, systems_of, velocity_error

CONFIG = Path("pretraining/configs/simulated.yaml")
STEPS = 600
RELEASED = "cellmnn-simulated"
OTHERS = {  # that are no training of STEPS
    "released": "the released network",
    "no_operators": "its operators at zero, offsets alone",
    "base": "real courses on top of it, as cellmnn-base",
    "real": f"real courses alone, {STEPS // 2} steps from nothing",
}


@dataclass(frozen=True)
class Variant:
    """What differs from the training of the released network.

    Attributes
    ----------
    label : str
        For the table.
    steps : int
        Of the training.
    model, simulation : dict
        In place of what the config has.
    pooled : bool
        Whether points read the summary of a data set alone, and none of its cells.
    """

    label: str
    steps: int = STEPS
    model: dict[str, Any] = field(default_factory=dict)
    simulation: dict[str, Any] = field(default_factory=dict)
    pooled: bool = False


VARIANTS = {
    "full": Variant("as it is"),
    "half": Variant("half the training", steps=STEPS // 2),
    "pooled": Variant("points read a summary, no cells", pooled=True),
    "no_velocity": Variant(
        "snapshots alone, no velocities",
        simulation={"velocity_weight": 0.0, "operator_weight": 0.0},
    ),
    "no_flow": Variant("velocities alone, no snapshots", simulation={"flow_weight": 0.0}),
    "small": Variant("half the width", model={"hidden_size": 32, "vector_channels": 8}),
    **{
        f"without_{family}": Variant(
            f"no {family.replace('_', ' ')} in training",
            simulation={"families": tuple(name for name in FAMILIES if name != family)},
        )
        for family in FAMILIES
    },
}


def main(
    data: Data = DATA,
    models: Annotated[Path, typer.Option(help="Folder of the models.")] = Path("bases/ablations"),
    part: Annotated[str, typer.Option(help="I/N: every N-th variant from the I-th on.")] = "0/1",
) -> None:
    """Train and judge all variants that have no result yet, then print the table."""
    results = Results("ablations")
    first, count = map(int, part.split("/"))
    for name in list(VARIANTS)[first::count]:
        if (name,) not in results.read():
            checks = trained(VARIANTS[name], models / name)
            results.keep(judged(str(models / name), data) | {"checks": checks}, name)
            print(name, summary(results.read()[(name,)]), flush=True)
    for name in list(OTHERS)[first::count]:
        if (name,) not in results.read():
            results.keep(other(name, data, models / name), name)
            print(name, summary(results.read()[(name,)]), flush=True)
    if all((name,) in results.read() for name in [*VARIANTS, *OTHERS]):
        report(results)


# ---------------------------------------------------------------------------------------------
# One variant


def trained(variant: Variant, folder: Path) -> list[Any]:
    """Train it into a folder; steps, and what the validation says after each."""
    settings = yaml.safe_load(CONFIG.read_text())
    training = settings["training"] | {"steps": variant.steps, "check_every": 100}
    with pooled() if variant.pooled else nullcontext():
        run = pretrain_simulated(
            CellMNNConfig(**settings["model"] | variant.model),
            TrainingConfig(**training),
            SimulationConfig(**settings["simulation"] | variant.simulation),
            folder=folder,
            progress=True,
        )
    record = {"variant": variant.label, "steps": variant.steps}
    with whole_or_nothing(folder) as staging:
        Foundation(run.model, "own", None, {}, record).save(staging)
    remove_training_state(folder)
    return [[step, scores["velocity"]] for step, scores in run.checks]


def other(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """What is not a training on simulated systems, judged as these are."""
    if name == "released":
        return judged(RELEASED, data)
    if name == "no_operators":
        with without_operators():
            return judged(RELEASED, data)
    groups = groups_of(data)
    left_out = {groups[one] for one in DEVELOPMENT}
    settings = yaml.safe_load(BASE_CONFIG.read_text())
    if name == "real":
        del settings["start"]
        settings["sampling"]["simulated_share"] = 0.0
        settings["training"] |= {"steps": STEPS // 2, "learning_rate": 1e-3, "ema_decay": 0.98}
    members = [one for one in groups if groups[one] in left_out]
    if not (folder / "config.json").exists():
        make_base(folder, data, members, settings, "aligned")
    return judged(str(folder), data)


@contextmanager
def without_operators() -> Iterator[None]:
    """Networks that say how a point moves, and not how that depends on the state."""

    def zero(*given: Any) -> Any:
        return tuple(0.0 * part for part in bounded_low_rank(*given))

    with patch("cellmnn_fm.model.modeling_cellmnn.bounded_low_rank", zero):
        yield


@contextmanager
def pooled() -> Iterator[None]:
    """Networks whose points see no cell: what they know of a data set went through a few tokens."""
    whole = InContextHypernetwork.remember

    def remember(self: InContextHypernetwork, *given: Any) -> Memory:
        memory = whole(self, *given)
        sources = []
        for source in memory.sources:
            key = source.key.clone()
            key[:, :, : -len(self.summary), -1] = NOT_SHOWN
            sources.append(source._replace(key=key))
        return memory._replace(sources=tuple(sources))

    with patch.object(InContextHypernetwork, "remember", remember):
        yield


def judged(base: str, data: Path) -> dict[str, Any]:
    """Velocity errors on unseen systems by family, and W1 on real courses over OT-Interpolate."""
    variant = VARIANTS.get(Path(base).name)
    with pooled() if variant and variant.pooled else nullcontext():
        model = CellMNNModel.from_pretrained(base)
        errors = {family: zero_shot(model, family) for family in FAMILIES}
        real = {
            name: evaluate_unseen(data / f"{name}.h5ad", Path(base), seeds=1)
            for name in DEVELOPMENT
        }
    ratios = {
        name: outcome["summary"]["zero_shot"]["ratio_to_ot_interpolate"]
        for name, outcome in real.items()
    }
    return {"errors": errors, "real": ratios}


def zero_shot(model: CellMNNModel, family: str) -> list[float]:
    """Velocity errors of systems of a family."""
    return [
        velocity_error(adapted(model, course_of(batch)), batch)
        for batch in systems_of(family, SYSTEMS)
    ]


# ---------------------------------------------------------------------------------------------
# The tables


def summary(outcome: dict[str, Any]) -> str:
    """One variant in a line."""
    errors = np.concatenate(list(outcome["errors"].values()))
    return f"velocity {np.median(errors):.3f}, real {with_interval([*outcome['real'].values()])}"


def report(results: Results) -> None:
    """Print the tables, and write them as Markdown beside the results."""
    found = {key[0]: outcome for key, outcome in results.read().items()}
    fits = {
        key[0]: outcome["fit"]
        for key, outcome in Results(f"simulated_{RELEASED}").read().items()
        if key[0] in FAMILIES
    }
    row = partial(_row, fits=fits)
    lines = [
        f"| training of {STEPS} steps | velocity error | over the default fit "
        "| better than the fit | real courses, development |",
        "|---|---:|---:|---:|---:|",
        *(
            row(VARIANTS[name].label, found[name])
            for name in VARIANTS
            if not name.startswith("without_")
        ),
        *(row(label, found[name]) for name, label in OTHERS.items()),
        "",
        "| family | trained with it | never saw it | over the default fit | better than the fit |",
        "|---|---:|---:|---:|---:|",
    ]
    unseen = []
    for family in FAMILIES:
        errors = found[f"without_{family}"]["errors"][family]
        unseen.append(errors)
        seen = np.median(found["full"]["errors"][family])
        lines.append(
            f"| {family.replace('_', ' ')} | {seen:.3f} | " + _beside(errors, fits[family]) + " |"
        )
    seen = np.median(np.concatenate(list(found["full"]["errors"].values())))
    everything = np.concatenate(list(fits.values()))
    lines.append(f"| **all** | {seen:.3f} | {_beside(np.concatenate(unseen), everything)} |")
    steps = [step for step, _ in found["full"]["checks"]]
    lines += [
        "",
        "| validation error after so many steps | " + " | ".join(map(str, steps)) + " |",
        "|---|" + "---:|" * len(steps),
        *(
            f"| {VARIANTS[name].label} | "
            + " | ".join(f"{score:.3f}" for _, score in found[name]["checks"])
            + " |"
            for name in ("full", "small")
        ),
    ]
    results.show("\n".join(lines))


def _row(label: str, outcome: dict[str, Any], fits: dict[str, list[float]]) -> str:
    """A line of the first table."""
    errors = np.concatenate([outcome["errors"][family] for family in FAMILIES])
    beside = _beside(errors, np.concatenate([fits[family] for family in FAMILIES]))
    return f"| {label} | {beside} | {with_interval([*outcome['real'].values()])} |"


def _beside(errors: Any, fits: Any) -> str:
    """Median error, its ratio to that of fits of the same systems, and how often it is smaller."""
    ratio = np.median(errors) / np.median(fits)
    return f"{np.median(errors):.3f} | {ratio:.3f} | {np.mean(np.array(errors) < fits):.0%}"


if __name__ == "__main__":
    typer.run(main)
