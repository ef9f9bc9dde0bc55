"""Models that never saw a group of data sets, nor anything that shares cells with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cellmnn_fm import CellMNNModel, CellMNNPipeline
from cellmnn_fm.data.corpus import Corpus, group_overlapping
from cellmnn_fm.data.simulated_tasks import SimulationConfig
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.evaluation.evaluation import Candidate
from cellmnn_fm.evaluation.folds import Fold
from cellmnn_fm.fitted.foundation import save_foundation
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.pretraining import corpus_config, pretrain
from pretraining.build_corpus import LATENT_DIM, build, open_files, read_list

from .harness import Cell
from .results import Results

BASE_CONFIG = Path(__file__).parents[1] / "pretraining" / "configs" / "base.yaml"


def for_missing_groups(
    results: Results,
    data: Path,
    bases: Path,
    settings: dict[str, Any],
    evaluated: Callable[[str, Path, Path], dict[str, Any]],
    *,
    mode: Any,
    names: Sequence[str] | None = None,
    part: str = "0/1",
    minutes: float,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make a base without each group that has no result yet, evaluate its data sets, and keep that.

    `evaluated` is the result of a data set: of its name, its file, and the folder of the base.
    """
    catalog = json.loads((data / "catalog.json").read_text())
    groups = group_overlapping({entry["name"]: entry.get("overlaps") or [] for entry in catalog})
    files = {entry["name"]: data / entry["file"] for entry in catalog}
    wanted = sorted({groups[name] for name in names or groups})
    first, count = map(int, part.split("/"))
    there = results.read()
    missing = [group for group in wanted[first::count] if (group,) not in there]
    print(f"{len(missing)} groups to go, {len(missing) * minutes:.0f} minutes at {minutes:g} each")
    for group in missing:
        folder = bases / group
        members = {name: files[name] for name in groups if groups[name] == group}
        if not (folder / "config.json").exists():
            make_base(folder, data, [*members], settings, mode)
        outcome = {name: evaluated(name, path, folder) for name, path in members.items()}
        results.keep(outcome, group)
        yield group, outcome


def make_base(
    folder: Path, data: Path, members: list[str], settings: dict[str, Any], mode: Any
) -> None:
    """Pretrain without the data sets of a group; nothing of them is in the subspace either."""
    listed = [entry for entry in read_list() if entry["name"] not in members]
    corpus_folder = folder.with_name(f"{folder.name}_corpus")
    shutil.rmtree(corpus_folder, ignore_errors=True)
    corpus = build(corpus_folder, open_files(data, listed), listed, mode, LATENT_DIM)
    model = pretrained(corpus, settings)
    save_foundation(folder, model, corpus, {"settings": settings, "without": members})
    shutil.rmtree(corpus_folder)


def pretrained(corpus: Corpus, settings: dict[str, Any]) -> CellMNNModel:
    """A model of a corpus, by the settings of a file like configs/base.yaml."""
    return pretrain(
        corpus,
        corpus_config(corpus, **settings["model"]),
        TrainingConfig(**settings["training"]),
        SamplingConfig(**settings["sampling"]),
        start=CellMNNModel.from_pretrained(settings["start"]) if "start" in settings else None,
        simulation=SimulationConfig(**settings["simulation"]),
        validation=[name for name in settings["validation"] if name in corpus.groups.values()],
        seed=settings["seed"],
        progress=True,
    ).model


def untrained(base: CellMNNModel) -> Candidate:
    """The frame alone: a network of the same kind before it has learned anything."""
    fresh = CellMNNModel(base.config)

    def fit(fold: Fold, seed: int) -> tuple[Dynamics, int]:
        return Dynamics(adapt(fresh, fold.training), fold.training.time_scale), 0

    return Candidate(fit, {"untrained": "two_sided"})


def base_cells(
    data: Path, folder: Path, groups: dict[str, str], names: Sequence[str]
) -> list[Cell]:
    """Bases that lack one group each."""
    settings = yaml.safe_load(BASE_CONFIG.read_text())
    wanted = {groups[name] for name in names}
    wanted = {group for group in wanted if not (folder / group / "config.json").exists()}
    return [
        Cell(
            Results("bases", folder),
            (group,),
            make_one_base,
            (folder / group, data, [name for name in groups if groups[name] == group], settings),
            seconds=60,
        )
        for group in sorted(wanted)
    ]


def make_one_base(
    folder: Path, data: Path, members: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """See :func:`make_base`."""
    make_base(folder, data, members, settings, "aligned")
    return {"without": members}


@cache
def pipeline_of(folder: Path) -> CellMNNPipeline:
    """A base; its foundation says of which data sets."""
    return CellMNNPipeline.from_pretrained(folder)
