"""The corpus on disk: what is added stays, is read lazily, and travels as parquet."""

import json

import anndata
import numpy as np
import pytest
from huggingface_hub import DatasetCard

from cellmnn_fm import InputError, TimeCourse, fit_shared_subspace
from cellmnn_fm.data.corpus import Corpus, group_overlapping
from cellmnn_fm.data.corpus_sets import CoursesInMemory


def make_course(seed, dims=3, cells=30, times=4):
    rng = np.random.default_rng(seed)
    snapshots = [rng.normal(size=(cells + at, dims)) + at for at in range(times)]
    return TimeCourse(snapshots, np.cumsum(rng.uniform(0.5, 2, times)))


@pytest.fixture
def corpus(tmp_path):
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=4)
    corpus.add_course("one", make_course(0), overlaps=["three"])
    corpus.add_course("two", make_course(1, dims=4, cells=1200), provenance={"licence": "MIT"})
    corpus.add_course("three", make_course(2), synthetic=True)
    return corpus


def test_what_is_read_is_what_was_added(corpus):
    again = Corpus(corpus.folder)
    assert list(again.entries) == ["one", "two", "three"]
    assert again.entries["two"].provenance == {"licence": "MIT"}
    for seed, (name, dims) in enumerate({"one": 3, "two": 4, "three": 3}.items()):
        expected = make_course(seed, dims, cells=1200 if name == "two" else 30)
        found = again[name].course()
        np.testing.assert_array_equal(found.times, expected.times)
        for one, other in zip(found.snapshots, expected.snapshots, strict=True):
            np.testing.assert_array_equal(one, other)


def test_cells_are_drawn_from_the_right_snapshot_without_replacement(corpus):
    course = make_course(1, 4, 1200)
    for index in range(4):
        cells = corpus["two"].draw(index, 500, np.random.default_rng(index))
        assert cells.shape == (500, 4)
        assert len(np.unique(cells, axis=0)) == 500
        rows = {row.tobytes() for row in course.snapshots[index]}
        assert all(row.tobytes() in rows for row in cells)
    everything = corpus["one"].draw(2, 999, np.random.default_rng(0))
    np.testing.assert_array_equal(everything[:, :3], make_course(0).snapshots[2])
    assert not everything[:, 3:].any()


def test_states_are_views_of_the_file(corpus):
    states = Corpus(corpus.folder)["two"].states
    assert len(states) == sum(corpus.entries["two"].cells)
    assert not states.flags.owndata
    assert not states.flags.writeable


def test_adding_leaves_the_others_alone(corpus):
    files = {file: file.stat().st_mtime_ns for file in (corpus.folder / "sets").rglob("*.arrow")}
    corpus.add_course("four", make_course(4))
    assert len(files) == 3
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    corpus.remove("one")
    assert list(Corpus(corpus.folder).entries) == ["two", "three", "four"]
    corpus.add_course("one", make_course(0))


def test_data_sets_that_share_cells_are_one_group(corpus):
    assert corpus.groups == {"one": "one", "two": "two", "three": "one"}
    chain = {"a": ["b"], "b": [], "c": ["b", "elsewhere"], "d": []}
    assert group_overlapping(chain) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_parquet_and_back(corpus, tmp_path):
    from datasets import load_dataset

    corpus.to_parquet(tmp_path / "hub")
    again = Corpus.from_parquet(tmp_path / "hub", tmp_path / "again")
    assert again.entries == corpus.entries
    for name in corpus.entries:
        for one, other in zip(
            again[name].course().snapshots, corpus[name].course().snapshots, strict=True
        ):
            np.testing.assert_array_equal(one, other)
    plain = load_dataset(str(tmp_path / "hub"), "two", split="train", cache_dir=str(tmp_path / "c"))
    assert len(plain) == sum(corpus.entries["two"].cells)
    card = DatasetCard.load(tmp_path / "hub" / "README.md")
    assert [config["config_name"] for config in card.data.to_dict()["configs"]] == [*corpus.entries]
    for name, entry in corpus.entries.items():
        assert f"| {name} | {sum(entry.cells):,} | {len(entry.times)} | " in card.text


@pytest.mark.parametrize("mode", ["shared", "aligned"])
def test_anndata_are_projected(adata, tmp_path, mode):
    adata.uns["overlaps"] = ["other"]
    del adata.var["human_symbol"]
    shared = fit_shared_subspace({"one": adata}, n_dims=4)
    corpus = Corpus.create(tmp_path / "corpus", shared=shared, subspace_mode=mode)
    corpus.add_anndata("one", adata, time_key="day")
    assert corpus.entries["one"].overlaps == ["other"]
    again = Corpus(corpus.folder)
    panel, subspace = again.subspace("one")
    assert panel.names == tuple(adata.var_names)
    states = np.concatenate(again["one"].course().snapshots)
    np.testing.assert_allclose(states, subspace.project(adata.X), atol=1e-5)
    np.testing.assert_array_equal(again.shared.loadings, shared.loadings)


def test_what_cannot_be_added_is_refused(corpus, tmp_path):
    with pytest.raises(InputError, match="data set: expected a new name, found one"):
        corpus.add_course("one", make_course(0))
    with pytest.raises(InputError, match="wide: expected at most 4 dimensions, found 5"):
        corpus.add_course("wide", make_course(0, dims=5))
    with pytest.raises(InputError, match="data set name: expected letters"):
        corpus.add_course("../escape", make_course(0))
    with pytest.raises(InputError, match=r"data set: expected one of one, two, three.*found four"):
        corpus["four"]
    with pytest.raises(InputError, match=r"expected a corpus, found no manifest\.json"):
        Corpus(tmp_path)
    with pytest.raises(InputError, match="expected no corpus yet, found one"):
        Corpus.create(corpus.folder, latent_dim=4)
    with pytest.raises(InputError, match="corpus: expected latent_dim or a shared subspace"):
        Corpus.create(tmp_path / "neither")


def test_a_killed_addition_leaves_the_corpus_as_it_was(corpus, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cellmnn_fm.data.corpus.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        corpus.add_course("four", make_course(4))
    monkeypatch.undo()
    again = Corpus(corpus.folder)
    assert list(again.entries) == ["one", "two", "three"]
    again.add_course("four", make_course(4))
    assert sum(Corpus(corpus.folder).entries["four"].cells) == 126


def test_the_listed_files_are_those_of_the_collection(data_folder):
    import hashlib
    import tomllib
    from pathlib import Path

    listed = tomllib.loads(
        (Path(__file__).parents[2] / "pretraining" / "datasets.toml").read_text()
    )["datasets"]
    catalog = {
        one["name"]: one
        for one in json.loads((data_folder / "catalog.json").read_text())
        if one["space"] == "gene"
    }
    names = [one["name"] for one in listed]
    assert names == [name for name in catalog if name in names]
    for one in listed:
        file = data_folder / one["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == one["sha256"]
        assert one["licence"] == catalog[one["name"]]["licence"]
        assert anndata.read_h5ad(file, backed="r").uns["name"] == one["name"]


def test_courses_in_memory_are_those_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    courses = {
        "a": TimeCourse([rng.normal(size=(n, 3)) for n in (9, 5, 7)], [0.0, 1.0, 4.0]),
        "b": TimeCourse([rng.normal(size=(n, 4)) for n in (6, 8)], [0.0, 2.0]),
    }
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=4)
    for name, course in courses.items():
        corpus.add_course(name, course)
    memory = CoursesInMemory(courses, 4)
    assert memory.entries == corpus.entries
    assert len(memory) == len(corpus) == 2
    for name in courses:
        for at in range(len(corpus.entries[name].times)):
            drawn = [one[name].draw(at, 6, np.random.default_rng(1)) for one in (memory, corpus)]
            np.testing.assert_array_equal(*drawn)
