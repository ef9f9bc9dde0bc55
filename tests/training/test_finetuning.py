"""Fine-tuning: what changes and what does not, what is remembered, what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from typer.testing import CliRunner

from cellmnn_fm import CellMNNModel, CellMNNPipeline, InputError, TimeCourse
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.training.adaptation import adapt, adapt_jointly, extended, of_dataset
from cellmnn_fm.training.finetuning import DEFAULT_STEPS, finetune, finetuning_config

SCRIPT = Path(__file__).parents[2] / "finetune" / "finetune.py"


@pytest.fixture(scope="module")
def folder(make_base, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(folder):
    return CellMNNPipeline.from_pretrained(folder)


def make_course(seed=0, times=4, cells=30, dims=4):
    """A cloud that turns a corner, so that there is something to learn of its mean."""
    rng = np.random.default_rng(seed)
    at = np.arange(times, dtype=float)
    means = np.stack([np.minimum(at, 1.5), np.maximum(at - 1.5, 0)], axis=1)
    snapshots = [rng.normal(size=(cells, dims)) for _ in at]
    for snapshot, mean in zip(snapshots, means, strict=True):
        snapshot[:, :2] += 3 * mean
    return TimeCourse(snapshots, at)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---------------------------------------------------------------------------------------------
# What changes


@pytest.mark.parametrize("mode", ["embedding", "full", "lora"])
def test_what_a_mode_changes(base, mode):
    """Beside the new row: nothing, the network, or its matrices; never the base."""
    course, before = make_course(), state(base.model)
    start = state(adapt(base.model, course))
    tuned = finetune(base.model, {"new": course}, mode=mode, training=finetuning_config(5)).model
    assert not changed(before, state(base.model))
    found = changed(start, state(tuned))
    network = {name for name, _ in tuned.named_parameters() if name.startswith("hypernetwork")}
    layers = {
        f"hypernetwork.{name}.weight"
        for name, part in tuned.hypernetwork.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    # what a softmax does not see, and vectors that a summary begins without
    unseen = {name for name in network if name.endswith("key.bias")}
    first = "hypernetwork.gather.0.attention.vector_"
    unseen |= {f"{first}query.weight", f"{first}key.weight"}
    expected = {"embedding": set(), "full": network - unseen, "lora": layers}[mode]
    assert found - unseen == {"dataset_embeddings", *expected} - unseen
    assert type(tuned) is CellMNNModel
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    if mode == "lora":
        change = tuned.hypernetwork.gates.weight - start["hypernetwork.gates.weight"]
        assert torch.linalg.matrix_rank(change.detach(), rtol=1e-4) <= 4


def test_embedding_mode_leaves_the_grown_base_as_it_was(base):
    """Every tensor but the new row: the network, the other rows, their frames and dimensions."""
    course = make_course()
    tuned = finetune(
        base.model, {"new": course}, mode="embedding", training=finetuning_config(5)
    ).model
    grown, before = extended(base.model, tuned), base.model
    rows = before.config.num_datasets
    assert grown.config.num_datasets == rows + 1
    for name, value in before.state_dict().items():
        found = grown.state_dict()[name]
        if name.startswith(("dataset_", "frame_", "context")):
            common = tuple(slice(size) for size in value.shape)
            found = found[common]
        assert torch.equal(found, value), name
    assert torch.equal(grown.dataset_embeddings[rows], tuned.dataset_embeddings[0])
    again = of_dataset(grown, rows)
    assert not changed(state(tuned), state(again))


def test_training_lowers_the_loss_of_held_out_snapshots(base):
    course = make_course(cells=100)
    training = finetuning_config(150, learning_rate=3e-3)
    losses = finetune(base.model, {"new": course}, training=training, anchor=0.0).losses
    first, last = (
        np.mean([one["distance"] for one in part]) for part in (losses[:20], losses[-20:])
    )
    assert last < 0.7 * first


def test_the_anchor_holds_it_near_the_base(base):
    course, training = make_course(), finetuning_config(40, ema_decay=None)
    start = adapt(base.model, course).hypernetwork.gates.weight

    def moved(anchor):
        tuned = finetune(base.model, {"new": course}, training=training, anchor=anchor).model
        return float((tuned.hypernetwork.gates.weight - start).norm().detach())

    free, held, fixed = moved(0.0), moved(30.0), moved(1e6)
    assert fixed < held < free
    assert fixed < 0.3 * free


def test_starts_differ_and_are_kept_without_steps(base):
    course, training = make_course(), finetuning_config(0)
    table = base.model.dataset_embeddings
    for start, expected in (("mean", table.mean(0)), (1, table[1])):
        found = finetune(base.model, {"new": course}, start=start, training=training)
        torch.testing.assert_close(found.model.dataset_embeddings[0], expected)
        assert found.losses == []


def test_the_global_random_state_is_left_alone(base):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    finetune(base.model, {"new": make_course()}, mode="lora", training=finetuning_config(2))
    base.model.resize_dataset_embeddings(9)
    assert torch.equal(torch.rand(3), expected)


def test_the_same_seed_gives_the_same_model(base):
    def run(seed):
        training = finetuning_config(4)
        return state(
            finetune(base.model, {"new": make_course()}, training=training, seed=seed).model
        )

    assert not changed(run(0), run(0))
    assert changed(run(0), run(1))


def test_several_are_learned_jointly(base):
    """One row for each, with its frame; a course without a time to hold out is named."""
    courses = {"four": make_course(0), "two": make_course(1, times=2, dims=3)}
    with pytest.warns(UserWarning, match="two: no time between two others has 8 or more cells"):
        tuned = finetune(base.model, courses, training=finetuning_config(3)).model
    assert tuned.dataset_dims.tolist() == [4, 3]
    assert tuned.frame_counts.tolist() == [4, 2]
    for row, course in enumerate(courses.values()):
        alone = adapt(base.model, course).frame_state()
        torch.testing.assert_close(tuned.frame_state(row).mean, alone.mean)


def test_two_snapshots_leave_the_base_s_answer(base):
    course = make_course(times=2)
    with pytest.warns(UserWarning, match="nothing to learn from; the base's answer is kept"):
        found = finetune(base.model, {"new": course})
    assert found.losses == []
    assert not changed(state(adapt_jointly(base.model, [course])), state(found.model))


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_killed_run_goes_on(base, tmp_path, monkeypatch, mode):
    """The same bytes, for weights beside low-rank factors too."""
    courses = {"new": make_course()}
    training = finetuning_config(12, save_every=4)
    whole = finetune(base.model, courses, mode=mode, training=training)
    step, count = torch.optim.AdamW.step, iter(range(100))

    def killed(*args, **kwargs):
        if next(count) == 9:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(base.model, courses, mode=mode, training=training, folder=tmp_path)
    monkeypatch.undo()
    resumed = finetune(base.model, courses, mode=mode, training=training, folder=tmp_path)
    assert not changed(state(whole.model), state(resumed.model))
    assert whole.losses == resumed.losses
    with pytest.raises(InputError, match="the state of a run with these settings and data"):
        finetune(base.model, courses, mode=mode, training=training, anchor=1.0, folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "all"}, "mode: expected embedding or full or lora, found all"),
        ({"anchor": -1.0}, "anchor: expected a finite number, 0 or more, found -1"),
        ({"sampling": SamplingConfig(tasks=3)}, "tasks: expected a multiple of 1 processes times"),
    ],
)
def test_bad_options_are_refused(base, options, message):
    training = replace(finetuning_config(2), accumulation=2)
    with pytest.raises(InputError, match=message):
        finetune(base.model, {"new": make_course()}, training=training, **options)


def test_more_dimensions_than_the_base_was_trained_in(base):
    tuned = finetune(base.model, {"new": make_course(dims=5)}, training=finetuning_config(2)).model
    assert tuned.config.latent_dim == 5
    assert all(value.isfinite().all() for value in state(tuned).values())


# ---------------------------------------------------------------------------------------------
# From AnnData


def test_finetune_one(base, folder, make_adata, tmp_path):
    adata = make_adata(7, range(3, 23))
    adata.uns["name"] = "seven"
    tuned = base.finetune(adata, time_key="day", steps=3)
    record = tuned.record
    assert record.name == "seven"
    assert record.base == {
        "name": folder.name,
        "revision": None,
        "sha256": base.origin["sha256"],
    }
    assert len(record.losses) == record.settings["steps"] == 3
    assert record.settings["mode"] == "full"
    assert record.verdict["times"] == [1.0, 2.0]
    assert tuned.model.config.num_datasets == 1
    tuned.save_pretrained(tmp_path / "tuned")
    loaded = CellMNNPipeline.from_pretrained(tmp_path / "tuned")
    assert loaded.record == record
    np.testing.assert_array_equal(loaded.interpolate(adata, 1.5).X, tuned.interpolate(adata, 1.5).X)
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "base_model: model" in card
    assert record.verdict["sentence"] in card
    assert record.base["sha256"] in card
    assert str(folder.parent) not in card + (tmp_path / "tuned" / "pipeline.json").read_text()
    with pytest.raises(InputError, match="fit: expected a pipeline without a model, found one th"):
        tuned.fit(adata, time_key="day")
    with pytest.raises(InputError, match="a pretrained one; call its finetune"):
        base.fit(adata, time_key="day")
    with pytest.raises(InputError, match="pipeline: expected a fitted one"):
        tuned.finetune(adata, time_key="day")


def test_finetune_several(base, make_adata, tmp_path):
    adatas = {"seven": make_adata(7, range(3, 23)), "eight": make_adata(8, range(6, 26))}
    grown = base.finetune(adatas, time_key="day", steps=3, mode="embedding", verdict=False)
    assert list(grown.foundation.datasets) == ["one", "two", "seven", "eight"]
    grown.save_pretrained(tmp_path / "grown")
    loaded = CellMNNPipeline.from_pretrained(tmp_path / "grown")
    for name, adata in adatas.items():
        mine = loaded.of_dataset(name)
        assert mine.record.settings["jointly_with"] == [one for one in adatas if one != name]
        expected = grown.of_dataset(name).interpolate(adata, 1.5)
        np.testing.assert_array_equal(mine.interpolate(adata, 1.5).X, expected.X)
    # what it said of the data sets of the base, and of new ones, it still says
    for name in ("one", "two"):
        before, after = (
            one.of_dataset(name).trajectory(times=[0.0, 2.0], cells=5) for one in (base, loaded)
        )
        np.testing.assert_array_equal(before.X, after.X)
    again = loaded.finetune(make_adata(9, range(20)), time_key="day", steps=2, verdict=False)
    assert again.record.base["name"] == "grown"
    with pytest.raises(InputError, match="data set: expected a new name, found one, which the ba"):
        base.finetune({"one": adatas["seven"]}, time_key="day")


def test_a_known_data_set_is_asked_with_its_file(base, make_adata):
    adata = make_adata(0, range(20))
    known = base.of_dataset("one")
    found = known.interpolate(adata, 1.5, time_key="day")
    assert list(found.var_names) == list(adata.var_names)
    adapted = base.adapt(adata, time_key="day", start="one").interpolate(adata, 1.5)
    np.testing.assert_allclose(found.X, adapted.X, atol=1e-3)
    with pytest.raises(InputError, match="data set: expected one of one, two, found three"):
        base.of_dataset("three")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "nobody"}, "data set: expected one of one, two, found nobody"),
        ({"mode": "some"}, "mode: expected embedding or full or lora, found some"),
    ],
)
def test_options_that_are_refused(base, make_adata, options, message):
    with pytest.raises(InputError, match=message):
        base.finetune(make_adata(7, range(3, 23)), time_key="day", **options)


def test_options_of_the_other_kind_are_unknown(base, adata):
    for name, value in {"n_dims": 3, "frame": True, "preset": "paper", "growth": True}.items():
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            base.finetune(adata, time_key="day", **{name: value})
    with pytest.raises(TypeError, match="unexpected keyword argument 'mode'"):
        CellMNNPipeline().fit(adata, time_key="day", mode="full")
    with pytest.raises(InputError, match="adata: expected one AnnData, found several"):
        CellMNNPipeline().fit({"a": adata}, time_key="day")


def test_a_data_set_of_the_base_is_no_test(base, make_adata):
    adata = make_adata(0, range(20))
    adata.uns["name"] = "one"
    with pytest.warns(UserWarning, match="the model was pretrained on one, held-out times incl"):
        base.finetune(adata, time_key="day", steps=1, name="again")


# ---------------------------------------------------------------------------------------------
# From the command line


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def files(make_adata, tmp_path):
    found = [tmp_path / "seven.h5ad", tmp_path / "eight.h5ad"]
    make_adata(7, range(3, 23)).write_h5ad(found[0])
    make_adata(8, range(6, 26)).write_h5ad(found[1])
    return found


def test_the_command(folder, files, tmp_path):
    tuned = tmp_path / "tuned"
    result = run(
        *("finetune", folder, files[0], "--time-key", "day", "-o", tuned),
        *("--steps", 3, "--mode", "lora", "--start", "two", "--anchor", 1),
    )
    assert result.exit_code == 0, result.output
    assert "seven, 120 cells at 4 times, 3 steps" in result.output
    assert "than OT-Interpolate: the snapshots at 1, 2, left out" in result.output
    record = CellMNNPipeline.from_pretrained(tuned).record
    assert (record.settings["mode"], record.settings["start"]) == ("lora", "two")
    result = run("interpolate", tuned, files[0], "--at", 1.5, "-o", tmp_path / "found.h5ad")
    assert result.exit_code == 0, result.output

    both = tmp_path / "both"
    common = ("--time-key", "day", "--steps", 2, "--no-verdict", "-o", both, "-q")
    result = run("finetune", folder, *files, *common)
    assert (result.exit_code, result.output) == (0, "")
    options = ("--at", 1.5, "--dataset", "eight", "-o", tmp_path / "found.h5ad")
    result = run("interpolate", both, files[1], *options, "--time-key", "day")
    assert result.exit_code == 0, result.output
    result = run("annotate", both, files[1], *options[2:], "--time-key", "day")
    assert result.exit_code == 0, result.output
    result = run("finetune", folder, *files, "--name", "x", "--name", "x", *common)
    assert result.exit_code == 2
    assert "names of data sets: expected different ones, found x twice" in result.stderr
    result = run("finetune", folder, *files, "--name", "x", *common)
    assert "names: expected 2, one for each file, found 1" in result.stderr


def test_the_script_with_each_config(folder, files, tmp_path):
    spec = importlib.util.spec_from_file_location("finetune_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    configs = sorted((SCRIPT.parent / "configs").glob("*.yaml"))
    assert [config.stem for config in configs] == ["embedding", "full", "lora"]
    for config in configs:
        output = tmp_path / config.stem
        script.main(str(folder), files[:1], output, "day", config, verdict=False)
        record = json.loads((output / "pipeline.json").read_text())
        assert record["settings"]["mode"] == config.stem
        assert len(record["losses"]) == DEFAULT_STEPS
        assert not (output / "training_state").exists()
    (tmp_path / "bad.yaml").write_text("mode: full\ntraining: {speed: 1}\nsampling: {}\n")
    with pytest.raises(typer.Exit):
        script.main(str(folder), files[:1], tmp_path / "bad", "day", tmp_path / "bad.yaml")


@pytest.mark.multiprocess
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_two_processes_are_one(folder, files, tmp_path, mode):
    """The same global tasks: the same weights."""
    config = SCRIPT.parent / "configs" / f"{mode}.yaml"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, str(SCRIPT), str(folder), str(files[0])]
        command += ["-o", str(output), "--time-key", "day", "--config", str(config)]
        subprocess.run([*command, "--no-verdict"], env=environment, check=True)
        found.append(load_file(output / "model.safetensors"))
    for name, value in found[0].items():
        # Adam takes steps of one size, however small the gradient: sums in another order are seen
        torch.testing.assert_close(found[1][name], value, rtol=1e-2, atol=1e-3)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
