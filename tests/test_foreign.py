"""Folders, configurations and training states of others: nothing of them runs, moves or grows.

The tables of cases are in docs/faults.md.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from on_disk import everything, exit_code_of_kill
from safetensors.numpy import load_file, save_file

from cellmnn_fm import (
    CellMNNConfig,
    CellMNNModel,
    CellMNNPipeline,
    Corpus,
    InputError,
    TimeCourse,
    fit_shared_subspace,
)
from cellmnn_fm.data.outputs import save_text, written_whole
from cellmnn_fm.data.shared_subspace import SharedSubspace
from cellmnn_fm.model.checkpoint import MANIFEST_FILE, verify, whole_or_nothing
from cellmnn_fm.training import loop
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train

DOCUMENT = Path(__file__).parents[1] / "docs" / "faults.md"


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def small_model(seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = CellMNNConfig(latent_dim=3, rank=2, hidden_size=8, num_hidden_layers=1)
        return CellMNNModel(config)


def small_course(seed=0):
    rng = np.random.default_rng(seed)
    return TimeCourse([rng.normal(size=(20, 2)) + t for t in range(3)], np.arange(3.0))


def is_one_of(folder, models):
    """Whether what is loaded is one of them, as a whole."""
    found = CellMNNModel.from_pretrained(folder).state_dict()
    return any(
        all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())
        for model in models
    )


# ---------------------------------------------------------------------------------------------
# Training states


def trained(folder, steps=4):
    config, training = preset_configs("default", small_course())
    return train(
        small_course(), config, replace(training, steps=steps, save_every=2), folder=folder
    )


def test_a_state_holds_no_pickle(tmp_path):
    trained(tmp_path)
    (state,) = (tmp_path / "training_state").glob("step_*")
    assert {path.name for path in state.iterdir()} == {"state.json", "state.safetensors"}
    load_file(state / "state.safetensors")
    json.loads((state / "state.json").read_text())


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "custom_checkpoint_0.pkl"])
def test_a_pickle_in_a_state_is_not_run(tmp_path, name):
    trained(tmp_path / "run")
    (state,) = (tmp_path / "run" / "training_state").glob("step_*")
    (state / name).write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    if name.startswith("state"):
        with pytest.raises(InputError, match=r"delete .*training_state to start again"):
            trained(tmp_path / "run", steps=6)
    else:  # which nobody reads; the state is that of a run of other settings
        with pytest.raises(InputError, match="found that of another run"):
            trained(tmp_path / "run", steps=6)
    assert not (tmp_path / "mark").exists()


def test_states_of_earlier_versions_are_refused(tmp_path):
    """They were pickles."""
    state = tmp_path / "run" / "training_state" / "step_000000002"
    state.mkdir(parents=True)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "fingerprint"):
        (state / name).write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    with pytest.raises(InputError, match="expected the state of a training, found files that do"):
        trained(tmp_path / "run")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("part", ["loop", "optimizer", "scheduler", "average", "model"])
def test_a_damaged_state_says_what_to_do(tmp_path, part):
    trained(tmp_path)
    (state,) = (tmp_path / "training_state").glob("step_*")
    content = json.loads((state / "state.json").read_text())
    content["state"]["items"] = [
        [name, value if name != part else {"items": [["strange", 1]]}]
        for name, value in content["state"]["items"]
    ]
    (state / "state.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"delete .*training_state to start again"):
        trained(tmp_path)


def test_two_trainings_in_one_folder(tmp_path):
    """The second one says so at once."""
    (tmp_path / "training_state").mkdir()
    code = f"""
import fcntl, os, sys, time
fcntl.flock(os.open({str(tmp_path / "training_state")!r}, os.O_RDONLY), fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="expected that nobody else writes there now"):
            trained(tmp_path)
    finally:
        other.kill()
        other.wait()
    trained(tmp_path)  # the lock went with the process


# ---------------------------------------------------------------------------------------------
# Several that write


def test_threads_that_save_to_one_folder(tmp_path):
    """Each time one of them is there as a whole; readers never fail."""
    models = [small_model(seed) for seed in range(4)]
    models[0].save_pretrained(tmp_path / "model")
    problems = []

    def at_once(task):
        try:
            task()
        except BaseException as error:  # of a thread
            problems.append(error)

    def save(model):
        for _ in range(3):
            model.save_pretrained(tmp_path / "model")

    def read():
        for _ in range(10):
            assert is_one_of(tmp_path / "model", models)

    threads = [threading.Thread(target=at_once, args=(lambda m=m: save(m),)) for m in models]
    threads += [threading.Thread(target=at_once, args=(read,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert is_one_of(tmp_path / "model", models)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_threads_that_write_one_file(tmp_path):
    def write(letter):
        for _ in range(20):
            save_text(letter * 100_000, tmp_path / "page.html")

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = (tmp_path / "page.html").read_text()
    assert len(set(text)) == 1
    assert len(text) == 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("at", range(1, 8))
def test_a_kill_while_a_file_is_written(tmp_path, at):
    """The old file, or the new one."""
    save_text("old", tmp_path / "table.tsv")
    calls = ("fsync", "replace", "mkdir", "rmdir", "unlink", "write")
    code = exit_code_of_kill(at, lambda: save_text("new", tmp_path / "table.tsv"), calls)
    assert (tmp_path / "table.tsv").read_text() in ("old", "new")
    if code == 0:
        assert (tmp_path / "table.tsv").read_text() == "new"


def test_a_failure_leaves_the_old_file(tmp_path):
    save_text("old", tmp_path / "table.tsv")

    def fail():
        with written_whole(tmp_path / "table.tsv") as staging:
            staging.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert (tmp_path / "table.tsv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.tsv"]


# ---------------------------------------------------------------------------------------------
# Folders of models


def linked_ready(folder, mine):
    (folder / ".ready").symlink_to(mine)


def linked_replaced(folder, mine):
    shutil.move(folder, folder.with_name("elsewhere"))
    folder.with_name(f".{folder.name}.replaced").symlink_to(mine)


def manifest_that_lists_a_folder(folder, mine):
    (folder / "sub").symlink_to(mine)
    ready = folder / ".ready"
    ready.mkdir()
    files = {"sub/notes.txt": {"size": 4, "sha256": ""}}
    (ready / MANIFEST_FILE).write_text(json.dumps({"format_version": 1, "files": files}))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"] |= files
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def linked_weights(folder, mine):
    shutil.move(folder / "model.safetensors", mine / "model.safetensors")
    (folder / "model.safetensors").symlink_to(mine / "model.safetensors")


def linked_card(folder, mine):
    (folder / "README.md").symlink_to(mine / "notes.txt")


FOLDERS = {
    ".ready is a link to another folder": (linked_ready, "loads"),
    ".NAME.replaced is a link": (linked_replaced, "error"),
    "a manifest lists sub/file, sub a link out": (
        manifest_that_lists_a_folder,
        "expected names of files in it, found 'sub/notes.txt'",
    ),
    "the weights are a link out": (linked_weights, "found model.safetensors, a link to"),
    "the card is a link out": (linked_card, "found README.md, a link to"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_loading_only_reads(tmp_path, case):
    prepare, outcome = FOLDERS[case]
    mine, folder = tmp_path / "mine", tmp_path / "theirs" / "model"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    folder.parent.mkdir()
    small_model().save_pretrained(folder)
    prepare(folder, mine)
    before = everything(tmp_path)
    if outcome == "loads":
        CellMNNModel.from_pretrained(folder)
    elif outcome == "error":
        with pytest.raises((ValueError, OSError)):
            CellMNNModel.from_pretrained(folder)
    else:
        with pytest.raises(InputError) as error:
            CellMNNModel.from_pretrained(folder)
        assert outcome in str(error.value)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("case", [".ready is a link to another folder", ".NAME.replaced is a link"])
def test_saving_moves_nothing_of_others(tmp_path, case):
    mine, folder = tmp_path / "mine", tmp_path / "theirs" / "model"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    folder.parent.mkdir()
    small_model().save_pretrained(folder)
    FOLDERS[case][0](folder, mine)
    before = everything(mine)
    small_model(1).save_pretrained(folder)
    assert is_one_of(folder, [small_model(1)])
    assert everything(mine) == before


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    for seed in range(2):
        small_model(seed).save_pretrained(tmp_path / "model")
        assert is_one_of(tmp_path / "model", [small_model(seed)])
    assert (tmp_path / "model").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["model"]


def test_what_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text('{"model_type": "bert"}')
    before = everything(tmp_path)
    for place in ("notes.txt", "project"):
        with pytest.raises(InputError, match=r"expected .*found"):
            small_model().save_pretrained(tmp_path / place)
    assert everything(tmp_path) == before


def test_others_may_read_the_weights(tmp_path):
    """All files of a model have the mode of a file that is simply written."""
    small_model().save_pretrained(tmp_path / "model")
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


# ---------------------------------------------------------------------------------------------
# Configurations and weights


def configured(**changes):
    def prepare(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return prepare


def endless_number(folder):
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"max_rate": 5.0', f'"max_rate": {10**400}'))


def long_header(folder):
    with (folder / "model.safetensors").open("wb") as file:
        file.write((90 * 2**20).to_bytes(8, "little"))
        file.truncate(100 * 2**20)


def piped_weights(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def of_nan(folder):
    arrays = load_file(folder / "model.safetensors")
    name = next(name for name in arrays if arrays[name].dtype == np.float32)
    arrays[name] = np.full_like(arrays[name], np.nan)
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})


CONFIGS = {
    "10^12 data sets": (configured(num_datasets=10**12), "num_datasets: expected 0 to 16777216"),
    "10^7 data sets": (configured(num_datasets=10**7), "expected 10000000 data sets, found"),
    "10^6 labels": (configured(num_labels=10**6), "num_labels: expected at most 1024"),
    "2^16 dimensions and units": (
        configured(latent_dim=2**16, hidden_size=2**16, rank=2**16),
        "weights of",
    ),
    "a negative size": (configured(hidden_size=-3), "hidden_size: expected 0 to 65536, found -3"),
    "a text for a size": (configured(latent_dim="3"), "expected fields of the right types"),
    "a list for a name": (configured(hidden_act=["silu"]), "expected fields of the right types"),
    "an infinite rate": (configured(max_rate=float("inf")), "max_rate: expected at most 1e+06"),
    "a rate that is no number": (configured(max_rate=float("nan")), "max_rate: expected at most"),
    "a rate of 400 digits": (endless_number, "max_rate: expected at most 1e+06, found a number of"),
    "attention from a repository": (
        configured(_attn_implementation="somebody/kernels"),
        "_attn_implementation: expected eager or sdpa",
    ),
    "a field that nobody knows": (
        configured(shell="rm"),
        "expected fields of CellMNNConfig, found",
    ),
    "weights with a header of 90 MB": (long_header, "found a header of 94371840 bytes"),
    "weights that are a pipe": (piped_weights, "expected a file of weights, found nothing"),
    "weights that are NaN": (of_nan, "expected finite numbers, found NaN or infinite ones in"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_and_weights(tmp_path, case):
    """One line, in no time, and nothing allocated."""
    prepare, outcome = CONFIGS[case]
    small_model().save_pretrained(tmp_path)
    (tmp_path / MANIFEST_FILE).unlink()  # else the hashes would tell
    prepare(tmp_path)
    started = time.perf_counter()
    with pytest.raises(InputError) as error:
        CellMNNModel.from_pretrained(tmp_path)
    assert time.perf_counter() - started < 10
    assert outcome in str(error.value)
    assert len(str(error.value)) < 2000


def leaves(content, path=()):
    """Paths to all parts of JSON, but only to the first two of a list."""
    yield path
    if isinstance(content, dict):
        for name, part in content.items():
            yield from leaves(part, (*path, name))
    elif isinstance(content, list):
        for number, part in enumerate(content[:2]):
            yield from leaves(part, (*path, number))


def changed_at(content, path, value):
    if not path:
        return value
    content = content.copy()
    content[path[0]] = changed_at(content[path[0]], path[1:], value)
    return content


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, [], {}, float("nan"), 10**30, "x"], ids=repr)
@pytest.mark.parametrize("name", ["pipeline.json", "gene_panel.json", "config.json"])
def test_any_part_of_a_record_may_be_strange(tmp_path, adata, name, value):
    """The right answer, or one line: no other error, and no NaN."""
    CellMNNPipeline().fit(adata, time_key="day", steps=2, verdict=False).save_pretrained(tmp_path)
    (tmp_path / MANIFEST_FILE).unlink()
    content = json.loads((tmp_path / name).read_text())
    for path in leaves(content):
        (tmp_path / name).write_text(json.dumps(changed_at(content, path, value)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = CellMNNPipeline.from_pretrained(tmp_path).interpolate(adata, 2.0)
            except InputError:
                continue
        assert np.isfinite(found.X).all(), path


def test_precision_of_a_model(tmp_path):
    model = small_model()
    for change in (model.half, model.bfloat16):
        with pytest.raises(InputError, match="model: expected 32 or 64 bits, found 16"):
            change()
    z, times = torch.randn(1, 5, 3), torch.tensor([0.0])
    single = model(z, times, times + 1).states
    double = model.double()(z.double(), times.double(), times.double() + 1).states
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------
# Corpora and subspaces


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\\b", "a\nb", "a\x00b"])
def test_names_of_data_sets(tmp_path, name):
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=2)
    corpus.add_course("one", small_course())
    before = everything(tmp_path)
    with pytest.raises(InputError, match="data set name: expected letters"):
        corpus.add_course(name, small_course())
    assert everything(tmp_path) == before
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    manifest["sets"][0]["name"] = name
    (tmp_path / "corpus" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="data set name: expected letters"):
        Corpus(tmp_path / "corpus")


def test_a_corpus_takes_no_folder_of_others(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes.txt").write_text("mine")
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=2)
    corpus.add_course("one", small_course())
    corpus.to_parquet(tmp_path / "parquet")
    (tmp_path / "parquet" / "run.py").write_text("print('no')")
    (tmp_path / "parquet" / "sets" / "one" / "state.pkl").write_bytes(b"no")
    before = everything(tmp_path)
    for make in (
        lambda place: Corpus.create(place, latent_dim=2),
        corpus.to_parquet,
        lambda place: Corpus.from_parquet(tmp_path / "parquet", place),
    ):
        with pytest.raises(InputError, match="expected an empty folder, found other files"):
            make(tmp_path / "project")
    assert everything(tmp_path) == before
    copy = Corpus.from_parquet(tmp_path / "parquet", tmp_path / "copy")
    np.testing.assert_array_equal(copy["one"].states, corpus["one"].states)
    names = {path.name for path in (tmp_path / "copy").rglob("*")}
    assert not names & {"run.py", "state.pkl"}


def test_threads_that_add_to_one_corpus(tmp_path):
    """Each through a corpus of its own: all data sets are there in the end."""
    Corpus.create(tmp_path / "corpus", latent_dim=2)
    opened = [Corpus(tmp_path / "corpus") for _ in range(4)]

    def add(number):
        for at in range(3):
            opened[number].add_course(f"set_{number}_{at}", small_course())

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Corpus(tmp_path / "corpus")
    assert len(found) == 12
    for name in found.entries:
        np.testing.assert_array_equal(found[name].states, np.concatenate(small_course().snapshots))


@pytest.fixture
def subspaces(make_adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = fit_shared_subspace({"one": make_adata(0, range(0, 12))}, n_dims=2)
        both = fit_shared_subspace({"two": make_adata(1, range(5, 20))}, n_dims=2, add_to=one)
    return one, both


@pytest.mark.parametrize("at", range(1, 22))
def test_a_kill_while_a_subspace_is_saved(tmp_path, subspaces, at):
    one, both = subspaces
    one.save(tmp_path / "shared")
    exit_code_of_kill(at, lambda: both.save(tmp_path / "shared"))
    found = SharedSubspace.load(tmp_path / "shared")
    assert found.panel in (one.panel, both.panel)
    assert len(found.loadings) == len(found.panel)


@pytest.mark.parametrize("change", ["reversed", "doubled", "cut"])
def test_parts_of_different_subspaces(tmp_path, subspaces, change):
    subspaces[1].save(tmp_path)
    (tmp_path / MANIFEST_FILE).unlink()
    file = tmp_path / "gene_panel.json"
    panel = json.loads(file.read_text())
    changed = {
        "reversed": {name: values[::-1] for name, values in panel.items()},
        "doubled": {
            name: [*values, *(f"{one}x" for one in values)] for name, values in panel.items()
        },
        "cut": {name: values[:-1] for name, values in panel.items()},
    }[change]
    file.write_text(json.dumps(changed))
    with pytest.raises(InputError, match="fit it again"):
        SharedSubspace.load(tmp_path)


@pytest.mark.parametrize("change", ["reversed", "cut"])
def test_genes_of_a_corpus(tmp_path, make_adata, subspaces, change):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        corpus = Corpus.create(tmp_path / "corpus", shared=subspaces[1])
        corpus.add_anndata("one", make_adata(0, range(0, 12)), time_key="day")
    file = tmp_path / "corpus" / "sets" / "one" / "gene_panel.json"
    panel = json.loads(file.read_text())
    cut = slice(None, None, -1) if change == "reversed" else slice(-1)
    file.write_text(json.dumps({name: values[cut] for name, values in panel.items()}))
    with pytest.raises(InputError, match="genes that it was fitted to, in order, found others"):
        corpus.subspace("one")


# ---------------------------------------------------------------------------------------------
# What a caller has set in torch


def as_it_is():
    return torch.enable_grad()


class DefaultDtype:
    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "float64 as the default": DefaultDtype,
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta as the default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_torch_change_nothing(adata, setting):
    def answer():
        fitted = CellMNNPipeline().fit(adata, time_key="day", steps=3, verdict=False)
        return fitted.interpolate(adata, 2.0).X, fitted.trajectory(adata).X

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = answer()
        with SETTINGS[setting]():
            found = answer()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fits_in_threads_are_those_of_their_seeds():
    course = small_course()
    config, training = preset_configs("default", course)
    training = replace(training, steps=3)

    def weights(seed):
        found = train(course, config, training, seed=seed).model
        return torch.cat([one.flatten() for one in found.parameters()])

    alone = [weights(seed) for seed in range(6)]
    found = [None] * 6

    def fit(seed):
        found[seed] = weights(seed)

    threads = [threading.Thread(target=fit, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_accumulation_of_a_caller_changes_nothing(monkeypatch):
    course = small_course()
    config, training = preset_configs("default", course)
    training = replace(training, steps=3)
    expected = train(course, config, training).losses
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    assert train(course, config, training).losses == expected


def test_lower_precision_of_a_caller_is_said(monkeypatch):
    class Lower:
        mixed_precision = "bf16"

    monkeypatch.setattr(accelerate, "Accelerator", Lower)
    with pytest.warns(UserWarning, match="accelerate is set to bf16 here: so are fits"):
        loop.own_accelerator()


# ---------------------------------------------------------------------------------------------
# Interruptions

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGQUIT": 131}


@contextmanager
def long_fit(folder, name, *options):
    """A fit that does not end by itself, and does not outlive the block.

    Tests that were started in the background may have been told to ignore the signal.
    """
    words = ["fit", "cells.h5ad", "--time-key", "day", "-o", "model", "--steps", "100000"]
    run = subprocess.Popen(
        [sys.executable, "-m", "cellmnn_fm.cli", *words, *options],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),
    )
    try:
        yield run
    finally:
        run.kill()


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("name", "after"),
    [("SIGINT", 0.3), ("SIGINT", 1.5), ("SIGTERM", 0.8), ("SIGHUP", 1.5), ("SIGQUIT", 0.5)],
)
def test_interrupted_at_any_moment(tmp_path, make_adata, name, after):
    """One line, and 128 + n; also while modules are imported, once Python itself has started."""
    make_adata(0, range(0, 12)).write_h5ad(tmp_path / "cells.h5ad")
    with long_fit(tmp_path, name, "-q") as run:
        time.sleep(after)
        run.send_signal(getattr(signal, name))
        _, said = run.communicate(timeout=60)
    assert run.returncode == SIGNALS[name], said
    (line,) = [one for one in said.splitlines() if one.strip()]
    assert line.startswith("interrupted")


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_interrupted_trainings_keep_their_state(tmp_path, make_adata, name):
    """That of the last step, whatever `save_every` is."""
    make_adata(0, range(0, 12)).write_h5ad(tmp_path / "cells.h5ad")
    with long_fit(tmp_path, name) as run:
        while not (saved := list(tmp_path.glob("model/training_state/step_*"))):
            time.sleep(0.05)
        time.sleep(0.5)
        run.send_signal(getattr(signal, name))
        _, said = run.communicate(timeout=60)
    assert run.returncode == SIGNALS[name]
    assert said.strip().splitlines()[-1].startswith("interrupted: the same command goes on")
    (now,) = tmp_path.glob("model/training_state/step_*")
    # the regular ones are of every hundredth step; one of those is met by chance in 1 %
    assert now.name > saved[0].name
    assert int(now.name.removeprefix("step_")) % 100 != 0  # by chance, in 1 %


# ---------------------------------------------------------------------------------------------
# The document


def test_the_document_has_the_cases(table_of):
    folders = [
        f"| {case} | {'an error' if outcome == 'error' else outcome} |"
        for case, (_, outcome) in FOLDERS.items()
    ]
    configs = [f"| {case} | {outcome} |" for case, (_, outcome) in CONFIGS.items()]
    settings = [f"| {setting} | the same answer, to the bit |" for setting in SETTINGS]
    signals = [f"| {name} | {code} |" for name, code in SIGNALS.items()]
    assert (
        table_of(DOCUMENT, "| a folder of somebody else | what comes of it |", folders) == folders
    )
    assert table_of(DOCUMENT, "| a configuration or weights | what is said |", configs) == configs
    assert table_of(DOCUMENT, "| set in torch | what comes of it |", settings) == settings
    assert table_of(DOCUMENT, "| signal | exit code |", signals) == signals


def test_a_folder_is_whole_after_it(tmp_path):
    """The manifest of what was saved is right, and nothing else lies there."""
    with whole_or_nothing(tmp_path / "one") as staging:
        (staging / "a").write_text("1")
    verify(tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"a", MANIFEST_FILE}
