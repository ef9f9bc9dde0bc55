"""Checkpoints: whole or not at all, whatever kills a save; and nothing is trusted."""

import ast
import json
import os
import pickletools
import zipfile
from pathlib import Path

import pytest
import torch
from on_disk import exit_code_of_kill

import cellmnn_fm
from cellmnn_fm import CellMNNConfig, CellMNNModel, CellMNNPipeline
from cellmnn_fm.model import checkpoint
from cellmnn_fm.model.checkpoint import (
    MANIFEST_FILE,
    inside,
    recover,
    require_tensors,
    tensor_shapes,
    verify,
    whole_or_nothing,
)


def make_model(seed=0):
    torch.manual_seed(seed)
    return CellMNNModel(CellMNNConfig(latent_dim=3, rank=2, hidden_size=8, num_hidden_layers=1))


def is_model(folder, model):
    """Whether what is loaded from the folder is that model."""
    loaded = CellMNNModel.from_pretrained(folder).state_dict()
    return all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def write(folder, **files):
    with whole_or_nothing(folder) as staging:
        for name, text in files.items():
            (staging / name).write_text(text)


@pytest.mark.parametrize("place", ["elsewhere", "inside"])
@pytest.mark.parametrize("at", range(1, 36))
def test_a_kill_at_any_step_leaves_a_whole_checkpoint(tmp_path, at, place):
    """The process ends before the n-th system call of a save: the old or the new model loads."""
    old, new = make_model(0), make_model(1)
    folder = tmp_path / "model"
    old.save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")

    def save():
        if place == "inside":  # of a folder that one is in the files are replaced
            os.chdir(folder)
        new.save_pretrained(folder)

    code = exit_code_of_kill(at, save)
    assert is_model(folder, new) or is_model(folder, old)
    if code == 0:
        assert is_model(folder, new)
    else:
        assert at < 35, "more steps than are tried"
    new.save_pretrained(folder)
    assert is_model(folder, new)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_what_was_there(tmp_path):
    write(tmp_path / "one", a="old")

    def fail():
        with whole_or_nothing(tmp_path / "one") as staging:
            (staging / "a").write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert (tmp_path / "one" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_the_folder_one_is_in_keeps_its_place(tmp_path, monkeypatch):
    """Renamed, it would be lost to the process."""
    folder = tmp_path / "one"
    write(folder, a="1", b="2")
    monkeypatch.chdir(folder)
    write(".", a="3", c="4")
    assert sorted(path.name for path in Path().iterdir()) == ["a", "c", MANIFEST_FILE]
    verify(Path())
    assert Path("a").read_text() == "3"


def test_what_is_no_longer_saved_goes_and_what_is_not_ours_stays(tmp_path):
    folder = tmp_path / "one"
    write(folder, a="1", b="2")
    (folder / "mine.txt").write_text("mine")
    write(folder, a="3")
    assert sorted(path.name for path in folder.iterdir()) == ["a", MANIFEST_FILE, "mine.txt"]
    verify(folder)
    recover(folder)  # nothing to do
    assert (folder / "a").read_text() == "3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a").write_text("12"), r"a: expected 1 bytes, found 2"),
        (lambda folder: (folder / "a").write_text("2"), r"a: expected sha256 \w+, found"),
        (lambda folder: (folder / "a").unlink(), r"a: expected a file of the checkpoint"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("{"), r"json: expected JSON, found"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("[]"), r"json: expected a manifest"),
        (
            lambda folder: (folder / MANIFEST_FILE).write_text(
                '{"format_version": 9, "files": {}}'
            ),
            r"json: expected format_version at most 1, found 9; upgrade",
        ),
    ],
)
def test_changed_files_are_noticed(tmp_path, change, message):
    write(tmp_path / "one", a="1")
    verify(tmp_path / "one")
    change(tmp_path / "one")
    with pytest.raises(ValueError, match=message):
        verify(tmp_path / "one")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..\\x"])
def test_names_do_not_lead_out(tmp_path, name):
    with pytest.raises(ValueError, match="expected names of files in it, found"):
        inside(tmp_path, name)
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expected names of files in it, found"):
        tensor_shapes(tmp_path)


def test_weights_are_measured_before_they_are_read(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    shapes = tensor_shapes(tmp_path / "model")
    assert shapes["hypernetwork.layers.0.weight"] == (8, 4)
    require_tensors(tmp_path / "model", shapes)
    with pytest.raises(ValueError, match=r"missing x.*hypernetwork\.head\.bias of shape"):
        require_tensors(tmp_path / "model", {**shapes, "x": (1,), "hypernetwork.head.bias": (1,)})
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="expected safetensors, found"):
        tensor_shapes(tmp_path / "model")


def test_saved_folders_hold_no_pickles(adata, tmp_path):
    fitted = CellMNNPipeline().fit(adata, time_key="day", steps=1, verdict=False)
    fitted.save_pretrained(tmp_path / "model", with_code=True)
    suffixes = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".md", ".py"}
    bundled = Path(checkpoint.__file__).parent / "pretrained"
    for path in [*(tmp_path / "model").iterdir(), *bundled.rglob("*")]:
        if path.is_file():
            assert not zipfile.is_zipfile(path), path
            with pytest.raises(Exception, match=r"."):
                list(pickletools.genops(path.read_bytes()))


def test_loading_code_knows_no_pickles():
    """Nothing that unpickles is called in the package."""
    forbidden = {("torch", "load"), ("np", "load"), ("numpy", "load"), ("joblib", "load")}
    for path in Path(cellmnn_fm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names.append(getattr(node, "module", None) or "")
                assert not {"pickle", "joblib", "dill", "cloudpickle"} & set(names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in forbidden, path


def test_the_bundled_model_is_what_was_saved():
    folder = Path(checkpoint.__file__).parent / "pretrained" / "cellmnn-base"
    assert (folder / MANIFEST_FILE).is_file()
    verify(folder)
