"""Studies and benchmarks, on small generated files; and what they keep."""

import importlib

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmnn_fm import InputError, TimeCourse
from cellmnn_fm.data.boolean_networks import BOOLEAN_NETWORKS
from studies.results import Results


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Import a script by name; its results go elsewhere."""
    monkeypatch.setattr("studies.results.RESULTS", tmp_path / "results")
    return importlib.import_module


@pytest.fixture
def public_files(tmp_path):
    """The three files of the paper's table, as they are published, with few cells."""
    folder, rng = tmp_path / "public", np.random.default_rng(0)
    folder.mkdir()

    def drifting(labels):
        step = np.searchsorted(np.unique(labels), labels)
        return rng.normal(size=(len(labels), 20)) + step[:, None]

    labels = np.repeat(np.arange(5), 40)
    np.savez(folder / "eb_velocity_v5.npz", pcs=drifting(labels), sample_labels=labels, extra=[1])
    for file in ("op_cite_inputs_0.h5ad", "op_train_multi_targets_0.h5ad"):
        day = np.repeat([2, 3, 4, 7], 40)
        pca = drifting(day).astype(np.float32)
        names = [f"c{i}" for i in range(len(day))]
        anndata.AnnData(
            np.zeros((len(day), 3), np.float32),
            obs=pd.DataFrame({"day": day}, index=names),
            obsm={"X_pca": pca},
        ).write_h5ad(folder / file)
    return folder


def test_public_files_are_read(script, public_files):
    table = script("benchmarks.paper_table")
    found = table.read_all(public_files)
    assert [len(one) for one in found.values()] == [200, 160, 160]
    assert all(one.shape[1] == 5 for one in found.values())
    assert sorted(set(found["eb"].obs["time"])) == [0, 1, 2, 3, 4]
    assert sorted(set(found["cite"].obs["time"])) == [2, 3, 4, 7]
    stored = anndata.read_h5ad(public_files / "op_cite_inputs_0.h5ad").obsm["X_pca"]
    np.testing.assert_array_equal(found["cite"].X, stored[:, :5])
    (public_files / "op_cite_inputs_0.h5ad").unlink()
    assert list(table.read_all(public_files)) == ["eb", "multi"]


def test_other_files_are_refused(script, public_files, tmp_path):
    table = script("benchmarks.paper_table")
    np.savez(public_files / "eb_velocity_v5.npz", data=np.zeros(3))
    with pytest.raises(InputError, match=r"expected arrays pcs and sample_labels, found data"):
        table.read_all(public_files)
    with pytest.raises(InputError, match=r"expected eb_velocity_v5.npz, .* found none of them"):
        table.read_all(tmp_path)
    anndata.AnnData(np.zeros((2, 2))).write_h5ad(public_files / "other.h5ad")
    with pytest.raises(InputError, match="expected obsm X_pca and obs day"):
        table.read_h5ad("cite", public_files / "other.h5ad")


@pytest.mark.slow
def test_the_table_of_the_paper(script, public_files, monkeypatch, tmp_path):
    table = script("benchmarks.paper_table")
    monkeypatch.setattr(table, "SEEDS", 1)
    for at in ("eb", "cite", "multi"):
        times = table.held_out_times(table.read_all(public_files)[at].obs["time"].to_numpy())
        one = table.evaluate_one(public_files, at, times[0], "default", "published")
        kinds = {score["kind"]: score["w1"] for score in one["scores"]}
        assert set(kinds) == {"forward", "two_sided", "as_many_cells"}
        assert all(0 < w1 < 2 for w1 in kinds.values())
    joint = table.evaluate_jointly(public_files, {"eb": 1, "cite": 3}, "published", 5)
    assert {score["dataset"] for score in joint["scores"]} == {"eb", "cite"}
    results = Results("paper_table_published")
    results.keep(one, "one")
    results.keep(joint, "joint")
    table.report(results)
    lines = results.path(".md").read_text().splitlines()
    assert lines[2] == "| method | eb | cite | multi |"
    assert any(line.startswith("| ours: one model of all data sets, two-sided |") for line in lines)


# ---------------------------------------------------------------------------------------------
# What the benchmarks share


def squared(number):
    if number < 0:
        raise InputError("number", "0 or more", number, "give another")
    return {"square": number**2}


def hungry(gigabytes):
    kept = np.ones(int(gigabytes * 1e9 / 8))
    return {"sum": float(kept.sum())}


def endless():
    while True:
        pass


@pytest.mark.slow
def test_cells_are_kept_and_not_run_again(script, tmp_path, capsys):
    harness, results = script("studies.harness"), Results("squares")
    cells = [
        harness.Cell(results, (str(number),), squared, (number,), seconds=60.0)
        for number in (3, -1)
    ]
    found = harness.run_cells(cells)
    assert found[0]["square"] == 9
    assert found[0]["versions"]["torch"]
    assert found[0]["machine"]["cores"] >= 1
    assert found[1]["skipped"].startswith("number: expected 0 or more, found -1")
    kept = results.path(".jsonl").read_text()
    harness.run_cells(cells)
    said = capsys.readouterr().out
    assert "2 of 2 cells to go, about 2.0 minutes" in said
    assert "0 of 2 cells to go" in said
    assert results.path(".jsonl").read_text() == kept


@pytest.mark.slow
def test_limits_end_what_takes_too_much(script):
    harness = script("studies.harness")
    done = harness.within_limits(hungry, 0.1, seconds=60, gigabytes=1)
    assert done["outcome"] == "done"
    assert done["peak_gb"] > 0.05
    too_much = harness.within_limits(hungry, 2.0, seconds=60, gigabytes=0.5)
    assert too_much["outcome"] == "out of memory"
    assert harness.within_limits(endless, seconds=5, gigabytes=1)["outcome"] == "out of time"


# ---------------------------------------------------------------------------------------------
# Methods of others


def test_unknown_and_missing_methods_are_refused(script, monkeypatch):
    peers = script("benchmarks.peers")
    course = TimeCourse([np.zeros((3, 2)), np.ones((3, 2))], np.array([0.0, 1.0]))
    with pytest.raises(InputError, match="method: expected ot_cfm, i_cfm"):
        peers.fit_peer("nobody", course, 0)
    monkeypatch.setattr(peers, "installed", list)
    with pytest.raises(InputError, match="ot_cfm: expected the package torchcfm, found none; pip"):
        peers.fit_peer("ot_cfm", course, 0)


def test_times_become_indices_of_snapshots(script):
    peers = script("benchmarks.peers")
    course = TimeCourse([np.zeros((3, 2))] * 3, np.array([0.0, 1.0, 5.0]))
    assert [peers.index_of(course, at) for at in (0.0, 0.5, 3.0, 5.0)] == [0.0, 0.5, 1.5, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ot_cfm", "i_cfm", "sb_cfm"])
def test_flow_matching_moves_cells_to_the_next_snapshot(script, name):
    pytest.importorskip("torchcfm")
    peers, rng = script("benchmarks.peers"), np.random.default_rng(0)
    snapshots = [rng.normal(size=(100, 3)).astype(np.float32) + 3 * at for at in range(3)]
    course = TimeCourse(snapshots, np.array([0.0, 1.0, 4.0]))
    push = peers.fit_cfm(name, course, rng, steps=300)
    assert abs(push(snapshots[0], 0.0, 1.0).mean() - 3) < 0.5
    assert abs(push(snapshots[2], 2.0, 1.5).mean() - 4.5) < 0.7


@pytest.mark.parametrize(
    ("name", "decimals", "area", "early", "activation", "inhibition"),
    [
        ("HSC", 2, 0.23253349044971636, 0.8136094674556213, 0.9090909090909091, 1.4666666666666668),
        ("mCAD", 1, 0.8240842490842488, 0.989010989010989, 2.0, 1.2345679012345678),
        ("VSC", 1, 0.43642036659834216, 1.6333333333333333, float("nan"), 1.6333333333333333),
        ("BF", 2, 0.18213468950059442, 0.0, 0.0, 0.0),
    ],
)
def test_scores_are_those_of_beeline(name, decimals, area, early, activation, inhibition):
    """To the last digit: of its evaluators of March 2026, on the same edges, many of them tied."""
    beeline = importlib.import_module("benchmarks.beeline")
    network = BOOLEAN_NETWORKS[name]
    weights = np.random.default_rng(0).normal(size=(len(network.names),) * 2).round(decimals)
    weights[np.abs(weights) < 0.3] = 0
    scores = beeline.beeline_scores(beeline.edge_list(weights, network.names), network.reference())
    found = [scores[part] for part in ("auprc", "early", "activation", "inhibition")]
    np.testing.assert_allclose(found, [area, early, activation, inhibition], rtol=1e-15)


def test_pidc_finds_what_only_one_gene_says(monkeypatch):
    """A gene that copies another is told from one that copies the copy."""
    beeline = importlib.import_module("benchmarks.beeline")
    rng = np.random.default_rng(0)
    first = rng.integers(3, size=2000).astype(float)
    second = np.where(rng.random(2000) < 0.8, first, rng.integers(3, size=2000))
    third = np.where(rng.random(2000) < 0.8, second, rng.integers(3, size=2000))
    x = np.stack([first, second, third, rng.integers(3, size=2000)], axis=1)
    monkeypatch.setattr(beeline, "_levels", lambda values: values.astype(int))
    weights = beeline.pidc(x, np.zeros(2000), 0)
    np.testing.assert_allclose(weights, weights.T)
    assert min(weights[0, 1], weights[1, 2]) > weights[0, 2] > weights[0, 3]
