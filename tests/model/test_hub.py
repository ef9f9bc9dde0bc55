"""Sharing over real HTTP: the real client against a server that these tests start."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from hub_server import TOKEN, HubServer
from huggingface_hub import constants
from huggingface_hub.utils import _http
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cellmnn_fm import CellMNNModel, CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.model.hub import available

DOCUMENT = Path(__file__).parents[2] / "docs" / "sharing.md"
CASES = {}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server; the client of this process talks to it, with an empty cache and a token."""
    server = HubServer()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between attempts
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.close()


@pytest.fixture(scope="module")
def course():
    """A time course for models that take no time to fit."""
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 3.0], 20)
    x = rng.normal(size=(60, 6)) + days[:, None] * np.linspace(-1, 1, 6)
    found = anndata.AnnData(x.astype(np.float32))
    found.obs["day"] = days
    found.var_names = [f"g{i}" for i in range(6)]
    return found


@pytest.fixture(scope="module")
def fitted(course):
    return CellMNNPipeline().fit(course, time_key="day", steps=2, verdict=False)


def load(name="me/model", **options):
    return CellMNNPipeline.from_pretrained(name, **options)


def same(one, other):
    """Whether two pipelines have the same weights, bit for bit."""
    weights, others = one.model.state_dict(), other.model.state_dict()
    return weights.keys() == others.keys() and all(
        torch.equal(weights[name], others[name]) for name in weights
    )


# ---------------------------------------------------------------------------------------------
# Faults: what happens, and the message or "loads"


def case(name, outcome):
    """A fault; what it leads to is checked, and stands in docs/sharing.md."""

    def register(function):
        CASES[name] = (function, outcome)
        return function

    return register


def pushed(hub, fitted, files=None):
    """A model on the server, with some files replaced or (None) removed."""
    fitted.push_to_hub("me/model")
    content = hub.files("me/model")
    for name, replacement in (files or {}).items():
        if replacement is None:
            content.pop(name)
        else:
            content[name] = replacement
    return content


def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@case("push without a token", "token for me/model: expected one that may write there, found none")
def push_without_token(hub, fitted, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    fitted.push_to_hub("me/model")


@case("push with HF_HUB_DISABLE_IMPLICIT_TOKEN", "token for me/model: expected one that may write")
def push_without_implicit_token(hub, fitted, monkeypatch):
    """The token in the environment is not used then, by the command neither."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    with tempfile.TemporaryDirectory() as folder:
        fitted.save_pretrained(f"{folder}/model")
        result = CliRunner().invoke(app, ["push", f"{folder}/model", "me/model"])
    assert result.exit_code == 2
    assert not hub.repos
    fitted.push_to_hub("me/model")


@case("push with a wrong token", "token for me/model: expected one that may write there, found")
def push_with_wrong_token(hub, fitted, monkeypatch):
    try:
        fitted.push_to_hub("me/model", token="hf_wrong")
    finally:
        assert not hub.repos
        fitted.push_to_hub("me/model", token=TOKEN)
        assert same(load(), fitted)


@case("upload breaks off", "Hub, me/model: expected an answer, found")
def interrupted_upload(hub, fitted, monkeypatch):
    """Nothing is committed, and the same call completes it."""
    try:
        with hub.failing("/lfs/", "drop", "PUT"):
            fitted.push_to_hub("me/model")
    finally:
        assert not hub.files("me/model")
        fitted.push_to_hub("me/model")
        assert same(load(), fitted)


@case("the commit fails after the upload", "Hub, me/model: expected an answer, found")
def failed_commit(hub, fitted, monkeypatch):
    """What was there stays as it was."""
    fitted.push_to_hub("me/model")
    before = dict(hub.files("me/model"))
    try:
        with hub.failing("/commit/", 500):
            fitted.push_to_hub("me/model", commit_message="again")
    finally:
        assert hub.files("me/model") == before


@case("a shaky connection, which recovers", "loads")
def shaky_upload(hub, fitted, monkeypatch):
    with hub.failing("/lfs/", 503, "PUT", times=2):
        fitted.push_to_hub("me/model")
    return load()


@case("no repository of that name", "me/nothing: expected a folder, cellmnn-base, or a model of")
def unknown_repo(hub, fitted, monkeypatch):
    load("me/nothing")


@case("a private one without a token", "me/model: expected a folder, cellmnn-base, or a model of")
def private_repo(hub, fitted, monkeypatch):
    fitted.push_to_hub("me/model", private=True)
    assert same(load(), fitted)
    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.delenv("HF_TOKEN")
    load()


@case("no revision of that name", "me/model: expected a revision of the model, found none")
def unknown_revision(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    load(revision="v9")


@case("an earlier commit by its name", "loads")
def earlier_revision(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    first = hub.repos["model", "me/model"].sha(1)
    hub.repos["model", "me/model"].commits.append({})
    found = load(revision=first)
    assert found.origin["revision"] == first
    return found


@case("download breaks off, then again", "loads")
def interrupted_download(hub, fitted, monkeypatch):
    """An error first; the same call completes it from what is there."""
    pushed(hub, fitted)
    with hub.failing("/resolve/.*safetensors", "cut", "GET"), pytest.raises(InputError):
        load()
    return load()


@case("server out of reach, nothing cached", "me/model: expected a folder, cellmnn-base, or a")
def unreachable(hub, fitted, monkeypatch):
    hub.close()
    load()


@case("server out of reach, model cached", "loads")
def unreachable_but_cached(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    load()
    hub.close()
    return load()


@case(
    "the Hub answers 500, a new download is asked for", "Hub, me/model: expected an answer, found"
)
def failing_but_cached(hub, fitted, monkeypatch):
    """What is in the cache must not pass for new."""
    pushed(hub, fitted)
    load()
    with hub.failing(".*", 500):
        load(force_download=True)


@case("connections break, model cached", "loads")
def broken_but_cached(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    load()
    with hub.failing(".*", "drop"):
        return load()


@case("connections break, nothing cached", "Hub, me/model: expected an answer, found")
def broken_connections(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    with hub.failing(".*", "drop"):
        load()


@case("HF_HUB_OFFLINE, nothing cached", "me/model: expected a folder, cellmnn-base, or a model in")
def offline_and_nothing(hub, fitted, monkeypatch):
    offline(monkeypatch)
    started = time.perf_counter()
    try:
        load()
    finally:
        assert time.perf_counter() - started < 1  # seconds: nothing is waited for
        assert not hub.requests


@case("HF_HUB_OFFLINE, model cached", "loads")
def offline_and_cached(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    load()
    offline(monkeypatch)
    hub.requests.clear()
    found = load()
    assert not hub.requests
    return found


@case("a file is missing on the Hub", "expected a file of the checkpoint, found nothing")
def missing_file(hub, fitted, monkeypatch):
    pushed(hub, fitted, {"gaussian_frame.py": None})
    load()


@case("the weights are missing on the Hub", "expected a file of the checkpoint, found nothing")
def missing_weights(hub, fitted, monkeypatch):
    pushed(hub, fitted, {"model.safetensors": None})
    load()


@case("a bit flips on the way", "expected sha256")
def flipped_bit(hub, fitted, monkeypatch):
    """The client checks sizes only. With force_download it is whole again."""
    pushed(hub, fitted)
    try:
        with hub.failing("/resolve/.*safetensors", "flip", "GET"):
            load()
    finally:
        assert same(load(force_download=True), fitted)


@case("files of two checkpoints mixed", "expected sha256")
def mixed_files(hub, fitted, monkeypatch):
    content = dict(pushed(hub, fitted))
    other = CellMNNModel(fitted.model.config)
    other.set_subspace(**vars(fitted.subspace))
    CellMNNPipeline(replace(fitted.fitted, model=other)).push_to_hub("me/model")
    hub.files("me/model")["model.safetensors"] = content["model.safetensors"]
    load()


@case("a card that was edited on the Hub", "loads")
def edited_card(hub, fitted, monkeypatch):
    pushed(hub, fitted, {"README.md": b"---\nlicense: mit\n---\n\nBetter words.\n"})
    return load()


def changed_config(hub, fitted, **changes):
    config = json.loads(pushed(hub, fitted)["config.json"])
    config = {name: value for name, value in {**config, **changes}.items() if value is not None}
    hub.files("me/model").update({"config.json": json.dumps(config).encode()})
    hub.files("me/model").pop("manifest.json")


@case("a configuration of a newer version", "config: expected format_version at most 2, found 3")
def newer_config(hub, fitted, monkeypatch):
    changed_config(hub, fitted, format_version=3, new_field=3)
    load()


@case("a configuration from before versions", "loads")
def older_config(hub, fitted, monkeypatch):
    changed_config(hub, fitted, format_version=None)
    return load()


@case("a configuration that asks for 10^12 numbers", "hidden_size: expected 0 to 65536")
def huge_config(hub, fitted, monkeypatch):
    """Refused by shape, before anything is allocated."""
    changed_config(hub, fitted, hidden_size=10**6)
    started = time.perf_counter()
    try:
        load()
    finally:
        assert time.perf_counter() - started < 5


@case("a configuration of 10^9 layers", "num_hidden_layers: expected 0 to 65536")
def deep_config(hub, fitted, monkeypatch):
    changed_config(hub, fitted, num_hidden_layers=10**9)
    load()


@case("a model of another kind", "expected")
def another_kind(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    hub.files("me/model")["config.json"] = b'{"model_type": "bert", "vocab_size": 10}'
    hub.files("me/model").pop("manifest.json")
    load()


def changed_weights(hub, fitted, tmp_path, change):
    pushed(hub, fitted)
    (tmp_path / "weights").write_bytes(hub.files("me/model")["model.safetensors"])
    weights = load_file(tmp_path / "weights")
    change(weights)
    save_file(weights, tmp_path / "weights", metadata={"format": "pt"})
    hub.files("me/model")["model.safetensors"] = (tmp_path / "weights").read_bytes()
    hub.files("me/model").pop("manifest.json")


@case("a tensor is missing", "missing hypernetwork.head.bias")
def missing_tensor(hub, fitted, monkeypatch, tmp_path):
    changed_weights(hub, fitted, tmp_path, lambda weights: weights.pop("hypernetwork.head.bias"))
    load()


@case("a tensor is unexpected", "unexpected stranger")
def unexpected_tensor(hub, fitted, monkeypatch, tmp_path):
    changed_weights(hub, fitted, tmp_path, lambda one: one.update(stranger=torch.zeros(3)))
    load()


def sharded(hub, fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    fitted.model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    for path in (tmp_path / "shards").glob("model*"):
        shutil.copy(path, tmp_path / "model")
    fitted.push_to_hub("me/model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    files.pop("manifest.json")
    hub.repos["model", "me/model"].commits[-1] = files
    assert len([name for name in files if name.endswith(".safetensors")]) > 2


@case("a sharded checkpoint", "loads")
def sharded_checkpoint(hub, fitted, monkeypatch, tmp_path):
    sharded(hub, fitted, tmp_path)
    return load()


@case("a shard is missing", "expected a file of weights, found nothing")
def missing_shard(hub, fitted, monkeypatch, tmp_path):
    sharded(hub, fitted, tmp_path)
    files = hub.files("me/model")
    files.pop(next(name for name in files if name.startswith("model-00002")))
    monkeypatch.setattr("cellmnn_fm.fitted.loading.origin", lambda *arguments: {})
    load()


@case("names that lead out of the folder", "expected names of files in it, found '../../etc/passwd")
def escaping_path(hub, fitted, monkeypatch):
    pushed(hub, fitted)
    manifest = json.loads(hub.files("me/model")["manifest.json"])
    manifest["files"]["../../etc/passwd"] = {"size": 1, "sha256": "0"}
    hub.files("me/model")["manifest.json"] = json.dumps(manifest).encode()
    load()


@case("pickled weights alone", "expected a saved pipeline, found files that do not load")
def pickled_weights(hub, fitted, monkeypatch):
    """Not even downloaded."""
    pushed(hub, fitted, {"model.safetensors": None, "manifest.json": None})
    hub.files("me/model")["pytorch_model.bin"] = b"\x80\x04."
    try:
        load()
    finally:
        assert not any("pytorch_model.bin" in path for _, path in hub.requests)


@case("an adapter in place of a model", "expected a whole model, found an adapter")
def adapter(hub, fitted, monkeypatch):
    pushed(hub, fitted, {"adapter_config.json": b'{"base_model_name_or_path": "evil/base"}'})
    load()


@pytest.mark.hub
@pytest.mark.parametrize("name", CASES)
def test_faults(hub, fitted, monkeypatch, tmp_path, name):
    """The right result, or an error that says what was expected."""
    function, outcome = CASES[name]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    values = {"hub": hub, "fitted": fitted, "monkeypatch": monkeypatch, "tmp_path": tmp_path}
    arguments = [values[one] for one in names]
    if outcome == "loads":
        assert same(function(*arguments), fitted)
        return
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert outcome in str(caught.value)
    assert ": expected " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_document_has_the_cases(table_of):
    lines = [f"| {name} | {outcome} |" for name, (_, outcome) in CASES.items()]
    assert len(lines) >= 20
    assert table_of(DOCUMENT, "| case | outcome |", lines) == lines


# ---------------------------------------------------------------------------------------------
# What works


@pytest.mark.hub
def test_a_push_removes_what_is_no_longer_there(hub, fitted):
    pushed(hub, fitted, {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"})
    fitted.push_to_hub("me/model", commit_message="again")
    assert "model-00001-of-00002.safetensors" not in hub.files("me/model")
    assert hub.files("me/model")["notes.txt"] == b"mine"
    assert same(load(), fitted)


@pytest.mark.hub
def test_the_commands(hub, fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    result = run("push", tmp_path / "model", "me/model", "--message", "first")
    assert result.exit_code == 0, result.output
    assert "/me/model/commit/" in result.output
    assert hub.repos["model", "me/model"].private  # unless one says so
    assert run("push", tmp_path / "model", "me/open", "--public").exit_code == 0
    assert not hub.repos["model", "me/open"].private
    result = run("pull", "me/model", "-o", tmp_path / "copy")
    assert result.exit_code == 0, result.output
    assert same(load(tmp_path / "copy"), fitted)
    result = run("models", "--json")
    names = [(one["name"], one["where"]) for one in json.loads(result.stdout)]
    known = ("cellmnn-base", "cellmnn-conditions", "cellmnn-simulated")
    bundled = [(name, "package") for name in known]
    assert names == [*bundled, ("me/model", "cache")]
    assert available()[3].revision == hub.repos["model", "me/model"].sha(1)
    assert "cellmnn-base" in run("models").output
    result = run("pull", "me/nothing")
    assert result.exit_code == 2
    assert "me/nothing: expected a folder" in result.stderr


@pytest.mark.hub
def test_a_model_pushes_itself(hub, fitted):
    fitted.model.push_to_hub("me/alone")
    assert "modeling_cellmnn.py" in hub.files("me/alone")
    again = CellMNNModel.from_pretrained("me/alone")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, fitted.model.state_dict()[name])
    assert not hasattr(fitted.model.config, "auto_map")


def in_fresh_process(hub, code, tmp_path, **environment):
    """Run code with an empty cache and only this server; its last line, as JSON."""
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**variables, **environment},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout.strip().splitlines()[-1])


WITHOUT_PACKAGE = """
    import sys

    for absent in ("cellmnn_fm", "anndata", "accelerate", "peft", "datasets", "scipy", "pandas"):
        sys.modules[absent] = None  # cannot be imported
"""


@pytest.mark.hub
def test_auto_model_needs_no_package(hub, fitted, tmp_path):
    """Only torch and transformers: the modules of the model come with the checkpoint."""
    fitted.push_to_hub("me/model")
    code = (
        WITHOUT_PACKAGE
        + """
    import json, torch
    from transformers import AutoConfig, AutoModel
    model = AutoModel.from_pretrained("me/model", trust_remote_code=True)
    config = AutoConfig.from_pretrained("me/model", trust_remote_code=True)
    z = torch.zeros(1, 3, model.config.latent_dim)
    output = model(z, torch.zeros(1), torch.tensor([1.0]))
    print(json.dumps([type(model).__module__, config.latent_dim, output.states.flatten().tolist()]))
    """
    )
    module, dims, states = in_fresh_process(hub, code, tmp_path)
    assert module.startswith("transformers_modules.")
    assert dims == fitted.model.config.latent_dim
    z = torch.zeros(1, 3, dims)
    expected = fitted.model(z, torch.zeros(1), torch.tensor([1.0])).states.flatten()
    torch.testing.assert_close(torch.tensor(states), expected.detach())


@pytest.mark.hub
def test_the_bundled_model_needs_no_network(hub, tmp_path):
    code = """
    import json, time
    from cellmnn_fm import CellMNNPipeline
    started = time.perf_counter()
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    print(json.dumps([time.perf_counter() - started, len(base.foundation.datasets)]))
    """
    seconds, datasets = in_fresh_process(hub, code, tmp_path, HF_HUB_OFFLINE="1")
    assert datasets == 29
    assert seconds < 20  # no time-out of a network is waited for
    assert not hub.requests


@pytest.mark.hub
def test_the_whole_cycle(hub, make_base, make_adata, tmp_path):
    """Pretrain, push; fresh process: pull, fine-tune, push; AutoModel loads it."""
    CellMNNPipeline.from_pretrained(make_base(tmp_path)).push_to_hub("me/base")
    make_adata(2, range(10, 30)).write_h5ad(tmp_path / "new.h5ad")
    code = """
    import anndata, json
    from cellmnn_fm import CellMNNPipeline
    base = CellMNNPipeline.from_pretrained("me/base")
    tuned = base.finetune(anndata.read_h5ad("new.h5ad"), time_key="day", steps=3, verdict=False)
    tuned.push_to_hub("me/tuned")
    print(json.dumps(tuned.record.base))
    """
    base = in_fresh_process(hub, code, tmp_path)
    assert base["name"] == "me/base"
    assert base["revision"] == hub.repos["model", "me/base"].sha(1)
    card = hub.files("me/tuned")["README.md"].decode()
    assert "base_model: me/base" in card
    code = (
        WITHOUT_PACKAGE
        + """
    import json
    from transformers import AutoModel
    model = AutoModel.from_pretrained("me/tuned", trust_remote_code=True)
    print(json.dumps(model.config.num_datasets))
    """
    )
    assert in_fresh_process(hub, code, tmp_path) == 1
    tuned = load("me/tuned")
    found = tuned.interpolate(anndata.read_h5ad(tmp_path / "new.h5ad"), 3.0)
    assert np.isfinite(found.X).all()


@pytest.mark.hub
def test_a_corpus_is_a_data_set_of_the_hub(hub, make_base, tmp_path):
    """Push, pull to the same corpus, and stream one time course of it."""
    make_base(tmp_path)
    corpus = Corpus(tmp_path / "corpus")
    result = CliRunner().invoke(app, ["push", str(corpus.folder), "me/corpus"])
    assert result.exit_code == 0, result.output
    assert hub.repos["dataset", "me/corpus"].private
    arguments = ["pull", "me/corpus", "--corpus", "-o", str(tmp_path / "again")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    again = Corpus(tmp_path / "again")
    with pytest.raises(InputError, match="me/none: expected a folder, cellmnn-base, or a model"):
        Corpus.from_hub("me/none", tmp_path / "none")
    assert again.entries == corpus.entries
    for name, entry in corpus.entries.items():
        for at in range(len(entry.times)):
            cells = [one[name].draw(at, 10**6, np.random.default_rng(0)) for one in (again, corpus)]
            np.testing.assert_array_equal(*cells)
    code = """
    import json
    from datasets import load_dataset
    rows = load_dataset("me/corpus", "two", split="train", streaming=True)
    print(json.dumps([rows.column_names, sum(1 for _ in rows)]))
    """
    columns, cells = in_fresh_process(hub, code, tmp_path)
    assert cells == sum(corpus.entries["two"].cells)
    assert columns
