r"""Zero-shot on data sets that a model never saw: pretrain without a group, evaluate on it.

    python pretraining/leave_group_out.py                    # all groups: about 15 minutes
    python pretraining/leave_group_out.py --development      # those that settings are chosen on
    python pretraining/leave_group_out.py --development --set sampling.rotate=0 \
        --results ablations/rotate --bases ablations/bases/rotate

For every group of data sets that share cells or a process: the shared subspace and the model are
fitted without the group, then every interior time of its data sets is predicted from the others,
strictly, without training on them. Data sets of coordinates only are tested too; they are never
pretrained on. Beside it the untrained frame in the same space, so that what pretraining adds is
seen. One JSON file for each group lies in results/; those that are there are not made again, and
the bases are kept in --bases for fine-tuning.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import anndata
import torch
import typer
import yaml
from build_corpus import GENES, LATENT_DIM, SYNTHETIC, build, open_files, read_list

from cellmnn_fm import CellMNNModel, CellMNNPipeline
from cellmnn_fm.data.corpus import Corpus, group_overlapping
from cellmnn_fm.data.latent_space import SpaceOptions
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.data.time_course import TimeScale
from cellmnn_fm.evaluation.candidates import foundation_candidate
from cellmnn_fm.evaluation.evaluation import Candidate, evaluate
from cellmnn_fm.evaluation.folds import Fold
from cellmnn_fm.evaluation.metrics import with_interval
from cellmnn_fm.fitted.foundation import save_foundation
from cellmnn_fm.training.adaptation import adapt
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.pretraining import corpus_config, pretrain

HERE = Path(__file__).parent
# settings are chosen on the groups of these, and confirmed on the others
DEVELOPMENT = (
    *("mef_neuron", "mesc_primitive_endoderm", "lung_epithelium", "dendritic_lps_antiviral"),
    *("mouse_early_blood", "hesc_pca5", "mesc_retinoic_acid", "myoblast_transcriptome"),
)
MINUTES = 0.8  # a group, on one core
TIME_KEYS = {"emt_a549": "time_index"}  # as published benchmarks have it


def main(
    config: Annotated[Path, typer.Option(help="Model, training and sampling.")] = HERE
    / "configs"
    / "base.yaml",
    data: Annotated[
        Path, typer.Option(envvar="CELLMNN_DATA", help="Folder of the .h5ad files.")
    ] = Path("../shared/data"),
    mode: Annotated[Literal["shared", "aligned"], typer.Option(help="Latent space.")] = "aligned",
    development: Annotated[bool, typer.Option(help="Development groups only.")] = False,
    results: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    bases: Annotated[Path, typer.Option(help="Folder of the models.")] = Path("bases"),
    seeds: int = 3,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="section.name=value; may be repeated.")
    ] = None,
    part: Annotated[str, typer.Option(help="I/N: every N-th group from the I-th on.")] = "0/1",
) -> None:
    """Pretrain and evaluate all groups that have no result yet, then print the table."""
    settings = yaml.safe_load(config.read_text())
    for one in change or []:
        path, value = one.split("=")
        section, name = path.split(".")
        settings[section][name] = yaml.safe_load(value)
    results = results or HERE / "results" / f"leave_group_out_{mode}"
    for group, outcome in for_missing_groups(
        results,
        data,
        bases / mode,
        settings,
        lambda _, path, folder: evaluate_unseen(path, folder, seeds),
        mode=mode,
        names=DEVELOPMENT if development else None,
        part=part,
        minutes=MINUTES,
    ):
        print(group, *(summary(name, one) for name, one in outcome.items()), flush=True)
    report(results)


def for_missing_groups(
    results: Path,
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
    results.mkdir(parents=True, exist_ok=True)
    catalog = json.loads((data / "catalog.json").read_text())
    groups = group_overlapping({one["name"]: one.get("overlaps") or [] for one in catalog})
    files = {one["name"]: data / one["file"] for one in catalog}
    wanted = sorted({groups[name] for name in names or groups})
    first, count = map(int, part.split("/"))
    missing = [one for one in wanted[first::count] if not (results / f"{one}.json").exists()]
    print(f"{len(missing)} groups to go, {len(missing) * minutes:.0f} minutes at {minutes:g} each")
    for group in missing:
        file, folder = results / f"{group}.json", bases / group
        members = {name: files[name] for name in groups if groups[name] == group}
        if not (folder / "config.json").exists():
            make_base(folder, data, [*members], settings, mode)
        outcome = {name: evaluated(name, path, folder) for name, path in members.items()}
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(outcome, indent=1))
        partial.replace(file)
        yield group, outcome


# ---------------------------------------------------------------------------------------------
# One group


def make_base(
    folder: Path, data: Path, members: list[str], settings: dict[str, Any], mode: Any
) -> None:
    """Pretrain without the data sets of a group; nothing of them is in the subspace either."""
    listed = [one for one in read_list() if one["name"] not in members]
    corpus_folder = folder.with_name(f"{folder.name}_corpus")
    shutil.rmtree(corpus_folder, ignore_errors=True)
    corpus = build(corpus_folder, open_files(data, listed), listed, mode, LATENT_DIM, SYNTHETIC)
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
        validation=[name for name in settings["validation"] if name in corpus.groups.values()],
        seed=settings["seed"],
        progress=True,
    ).model


def untrained(base: CellMNNModel) -> Candidate:
    """The frame alone: the base without what it learned."""

    def fit(fold: Fold, seed: int) -> tuple[CellMNNModel, TimeScale, int]:
        model = adapt(base, fold.training)
        for layer in (model.hypernetwork.head, model.mean_head):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        return model, fold.training.time_scale, 0

    return Candidate(fit, {"untrained": "two_sided"})


def evaluate_unseen(file: Path, folder: Path, seeds: int) -> dict[str, Any]:
    """Zero-shot and untrained beside the baselines; why not, where there is no time to hold out."""
    pipeline = CellMNNPipeline.from_pretrained(folder)
    options = SpaceOptions(pipeline.foundation.subspace_mode, pipeline.foundation.shared, GENES)
    adata = anndata.read_h5ad(file)
    if adata.uns.get("space") == "pca" and options.mode == "shared":
        return {"skipped": "coordinates have no place in a shared subspace"}
    try:
        found = evaluate(
            adata,
            [foundation_candidate(pipeline.model), untrained(pipeline.model)],
            time_key=TIME_KEYS.get(file.stem, "time"),
            options=options,
            seeds=seeds,
        )
    except ValueError as error:
        return {"skipped": str(error)}
    return found.to_dict()


# ---------------------------------------------------------------------------------------------
# All groups


def summary(name: str, outcome: dict[str, Any]) -> str:
    """One data set in a line."""
    if "skipped" in outcome:
        return f"{name}: skipped"
    rows = outcome["summary"]
    ratios = [rows[method]["ratio_to_ot_interpolate"] for method in ("zero_shot", "untrained")]
    return f"{name}: zero-shot {ratios[0]:.3f}, untrained {ratios[1]:.3f}"


def report(results: Path) -> None:
    """Print the table, and write it as Markdown beside the results."""
    found = {
        name: one["summary"]
        for file in sorted(results.glob("*.json"))
        for name, one in json.loads(file.read_text()).items()
        if "summary" in one
    }
    methods = ("zero_shot", "zero_shot_same_size", "untrained")
    ratios = {
        method: {name: rows[method]["ratio_to_ot_interpolate"] for name, rows in found.items()}
        for method in methods
    }
    lines = [
        "| unseen data set | OT-Interpolate W1 | zero-shot | as many cells | untrained frame |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, rows in found.items():
        cells = [f"{ratios[method][name]:.3f}" for method in methods]
        baseline = f"{rows['ot_interpolate']['w1_mean']:.3f}"
        lines.append("| " + " | ".join([name, baseline, *cells]) + " |")
    parts = {
        "all": list(found),
        "development": [name for name in found if name in DEVELOPMENT],
        "others": [name for name in found if name not in DEVELOPMENT],
    }
    for label, names in parts.items():
        if len(names) > 1:
            cells = [with_interval([ratios[method][name] for name in names]) for method in methods]
            lines.append(f"| **{label}, {len(names)}** | | " + " | ".join(cells) + " |")
            paired = [ratios["zero_shot"][name] / ratios["untrained"][name] for name in names]
            lines.append(f"| {label}, zero-shot over untrained | | {with_interval(paired)} | | |")
    text = "\n".join(lines)
    print(text)
    results.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
