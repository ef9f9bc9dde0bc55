"""Fates and perturbations, where the truth is simulated."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.gene_networks import GeneNetwork
from cellmnn_fm.dynamics.rollout import roll_out
from cellmnn_fm.questions import fates, perturbation
from cellmnn_fm.questions.fates import cell_fates
from cellmnn_fm.questions.perturbation import compared, linear_response
from cellmnn_fm.questions.terminal_groups import TerminalGroups


@pytest.fixture(scope="module")
def simulated():
    """Two fates that exclude each other: G1 is on in the first, G2 in the second."""
    network = GeneNetwork.make("bifurcating", genes=12, seed=0)
    adata = network.to_anndata(cells=200, seed=0)
    x = np.asarray(adata.X)
    adata.obs["fate"] = np.where(x[:, 1] > x[:, 2], "first", "second")
    adata.obs.loc[adata.obs["time"] < 4, "fate"] = None
    adata.obs["truth"] = np.where(x[:, 1] > x[:, 2], "first", "second")
    return adata, CellMNNPipeline().fit(adata, time_key="time", verdict=False)


def test_fates_are_those_of_the_branches(simulated):
    """Where cells lean half way is where they end; the shares of the end are kept."""
    adata, fitted = simulated
    found = fitted.fates(adata, "fate", start=2.0)
    assert found.accuracy > 0.95
    assert list(found.probabilities.columns) == ["first", "second"]
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-5)
    leaning = adata.obs.loc[found.probabilities.index, "truth"] == "first"
    assert np.corrcoef(found.probabilities["first"], leaning)[0, 1] > 0.8
    late = adata[adata.obs["time"] == 4].obs["fate"] == "first"
    assert found.probabilities["first"].mean() == pytest.approx(late.mean(), abs=0.12)
    everything = fitted.fates(adata, "fate")
    assert len(everything.probabilities) >= 0.99 * adata.n_obs  # few would leave the snapshots


def test_driver_genes_are_those_of_the_switch(simulated):
    adata, fitted = simulated
    drivers = fitted.fates(adata, "fate", start=2.0).drivers
    assert drivers.loc["G1", "first"] > 0.02
    assert drivers.loc["G2", "first"] < -0.02
    np.testing.assert_allclose(drivers["first"], -drivers["second"], atol=1e-5)
    assert drivers["first"].abs().nlargest(3).index.isin(["G1", "G2", "G3", "G4"]).all()


def test_gradients_are_slopes(simulated):
    """By central differences, in double precision."""
    adata, fitted = simulated
    cells = fitted.cells(adata)
    states, times = cells.states, cells.times
    late = times == 4
    groups = TerminalGroups.fit(states[late], adata.obs["fate"][late].tolist())
    rows = np.flatnonzero(times == 2)[:5]
    step = 1e-2

    def ends(of_cells, z):
        return cell_fates(fitted.fitted.dynamics, z, times[of_cells], groups, 4.0)

    for dim in (0, 1):
        shift = np.zeros(states.shape[1], dtype=np.float32)
        shift[dim] = step
        ahead, behind = (ends(rows, states[rows] + sign * shift).probabilities for sign in (1, -1))
        slopes = (ahead - behind) / (2 * step)
        for row, slope in zip(rows, slopes, strict=True):
            found = ends([row], states[[row]]).slope[:, dim]
            np.testing.assert_allclose(found, slope, rtol=0.15, atol=0.02)
        np.testing.assert_allclose(
            ends(rows, states[rows]).slope[:, dim], slopes.mean(axis=0), rtol=0.1, atol=0.02
        )


def test_slopes_of_some_cells_are_those_of_all(simulated, monkeypatch):
    """On the mean; probabilities do not depend on which cells have slopes taken."""
    adata, fitted = simulated
    whole = fitted.fates(adata, "fate")
    monkeypatch.setattr(fates, "_MOST_SLOPES", 300)
    some = fitted.fates(adata, "fate")
    np.testing.assert_allclose(some.probabilities, whole.probabilities, atol=1e-6)
    correlation = np.corrcoef(some.drivers["first"], whole.drivers["first"])[0, 1]
    assert correlation > 0.98


def test_knock_outs_shift_fates_as_in_the_simulation(simulated):
    """Without G1 cells take the second fate, and the other way round; late genes do nothing."""
    adata, fitted = simulated
    for gene, sign in (("G1", -1), ("G2", 1)):
        for how, way in (("knock-out", 1), ("over-express", -1)):
            found = fitted.perturb(adata, {gene: how}, "fate", start=1.0)
            row = found.fates.loc["first"]
            assert np.sign(row["shift"]) == sign * way
            assert abs(row["shift"]) > 0.1
            assert row["low"] <= row["shift"] <= row["high"]
            assert row["low"] * row["high"] > 0
            assert found.inferred == []
    silent = fitted.perturb(adata, {"G10": "knock-out"}, "fate", start=1.0)  # downstream only
    assert abs(silent.fates.loc["first", "shift"]) < 0.1


def test_genes_outside_the_fit_are_flagged(simulated):
    adata, _ = simulated
    some = CellMNNPipeline().fit(
        adata[:, [name for name in adata.var_names if name != "G2"]].copy(),
        time_key="time",
        verdict=False,
    )
    with pytest.raises(
        InputError, match="genes of the model, found G2, which it was not fitted to"
    ):
        some.perturb(adata, {"G2": "knock-out"}, "fate", start=1.0)
    found = some.perturb(adata, {"G2": "knock-out"}, "fate", start=1.0, response="flow")
    assert found.inferred == ["G2"]
    assert found.fates.loc["first", "shift"] > 0.05


def test_the_response_is_that_of_a_small_move(simulated):
    """Finite differences of the path, for moves that are small."""
    adata, fitted = simulated
    cells = fitted.cells(adata)
    states, times = cells.states, cells.times
    rows = np.flatnonzero(times == 2)[:20]
    moves = 1e-2 * np.random.default_rng(0).normal(size=states[rows].shape).astype(np.float32)
    dynamics = fitted.fitted.dynamics
    response = linear_response(dynamics, states[rows], moves, times[rows], 4.0)
    ends = [
        roll_out(dynamics, states[rows] + sign * moves, 2.0, [4.0], n_steps=4).states
        for sign in (1, -1)
    ]
    moved = (ends[0] - ends[1])[0] / 2
    np.testing.assert_allclose(response.moved, moved, rtol=0.2, atol=3e-3)
    unmoved = roll_out(dynamics, states[rows], 2.0, [4.0], n_steps=4).states[0]
    assert not response.log_growth.any()
    np.testing.assert_allclose(response.final, unmoved, rtol=1e-4, atol=1e-5)


def test_the_interval_is_that_of_a_mean():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(400, 2)), rng.normal(size=(400, 2)) + np.array([1.0, 0.0])
    found = compared(before, after, ["a", "b"])
    half = 1.96 * (after - before).std(axis=0) / 20
    np.testing.assert_allclose((found["high"] - found["low"]) / 2, half, rtol=0.25)
    np.testing.assert_allclose(found["shift"], (after - before).mean(axis=0))


def test_three_groups_and_their_probabilities():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [6, 0, 0], [0, 6, 0]])
    states = np.concatenate([rng.normal(size=(40, 3)) + centre for centre in centres])
    groups = TerminalGroups.fit(states, ["a"] * 40 + ["b"] * 40 + ["c"] * 40)
    found = groups.probabilities(torch.tensor(centres, dtype=torch.float64)).numpy()
    assert (found.argmax(axis=1) == [0, 1, 2]).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert groups.accuracy > 0.98
    with pytest.raises(InputError, match="terminal groups: expected 2 or more of 5 or more cells"):
        TerminalGroups.fit(states[:44], ["a"] * 40 + ["b"] * 4)


def test_cells_that_run_away_are_left_out(simulated, monkeypatch):
    """With a warning, and not as numbers that are none."""
    adata, fitted = simulated
    last = np.flatnonzero(adata.obs["time"] == 1.0)[-1]

    def explode(function):
        def lost(*arguments, **options):
            found = function(*arguments, **options)
            if isinstance(found, fates.Fates):
                found.followed[-1] = False
                return found
            parts = found if isinstance(found, tuple) else vars(found).values()
            for part in parts:
                part[-1] = np.nan
            return found

        return lost

    for module, name in ((fates, "cell_fates"), (perturbation, "linear_response")):
        monkeypatch.setattr(module, name, explode(getattr(module, name)))
    with pytest.warns(UserWarning, match="1 of 200 cells run away in this model"):
        found = fitted.fates(adata, "fate", start=1.0)
    assert len(found.probabilities) == 199
    assert adata.obs_names[last] not in found.probabilities.index
    assert np.isfinite(found.drivers.to_numpy()).all()
    how = {"start": 1.0, "response": "flow"}
    with pytest.warns(UserWarning, match="1 of 200 cells run away in this model"):
        shift = fitted.perturb(adata, {"G1": "knock-out"}, "fate", **how)
    assert np.isfinite(shift.genes.to_numpy()).all()


def test_clusters_stand_in_for_labels(simulated):
    """The two branches are found, and named by the genes of the switch or what follows them."""
    adata, fitted = simulated
    found = fitted.fates(adata, 2, start=2.0)
    labelled = fitted.fates(adata, "fate", start=2.0)
    first = np.corrcoef(found.probabilities.T, labelled.probabilities["first"])[:2, 2]
    assert np.abs(first).min() > 0.9
    assert [name[:3] for name in found.probabilities.columns] == ["1: ", "2: "]
    assert len({gene for name in found.probabilities.columns for gene in name[3:].split()}) == 4
    with pytest.raises(InputError, match="groups: expected 2 to 40 clusters of the last cells"):
        fitted.fates(adata, 1)


@pytest.mark.parametrize(
    ("genes", "options", "message"),
    [
        ({"X": "knock-out"}, {}, "genes: expected genes of the data, found X"),
        ({}, {}, "genes: expected one or more, found none"),
        ({"G1": "delete"}, {}, "G1: expected a value, knock-out or over-express, found delete"),
        (
            {"G1": 0.0},
            {"groups": "kind"},
            "groups: expected a column of obs, or how many clusters, found kind",
        ),
        ({"G1": 0.0}, {"start": 9.0}, "start: expected one of 0, 1, 2, 3, 4, found 9"),
        ({"flat": 0.0}, {}, "genes: expected genes that vary between cells, found flat"),
    ],
)
def test_what_is_refused(simulated, genes, options, message):
    adata, fitted = simulated
    if "flat" in genes:
        x = np.concatenate([np.asarray(adata.X), np.ones((adata.n_obs, 1), np.float32)], axis=1)
        var = pd.DataFrame(index=[*adata.var_names, "flat"])
        adata = type(adata)(x, obs=adata.obs, var=var)
    with pytest.raises(InputError, match=message):
        fitted.perturb(adata, genes, **{"groups": "fate", **options})


def test_fates_go_into_the_file(simulated, tmp_path):
    """Where other packages look for them, and through a file and back."""
    adata, fitted = simulated
    table, annotated = fitted.fates(adata, "fate", start=2.0), fitted.annotate(adata)
    table.add_to(annotated)
    annotated.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    kept = again.obsm["cellmnn_fates"].iloc[table.rows]
    pd.testing.assert_frame_equal(kept, table.probabilities, check_names=False)
    others = np.setdiff1d(np.arange(adata.n_obs), table.rows)
    assert again.obsm["cellmnn_fates"].iloc[others].isna().all(axis=None)
    likeliest = again.obs["cellmnn_fates"].iloc[table.rows].astype(str)
    assert (likeliest == table.probabilities.idxmax(axis=1)).all()
    drivers = again.varm["cellmnn_fates_drivers"]
    np.testing.assert_allclose(drivers.loc[table.drivers.index], table.drivers)
    with pytest.raises(InputError, match="adata: expected the cells of these fates, found others"):
        table.add_to(annotated[::-1].copy())


def test_the_commands(simulated, tmp_path):
    adata, fitted = simulated
    adata = adata.copy()
    adata.obs["fate"] = adata.obs["fate"].astype("category")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    fitted.save_pretrained(tmp_path / "model")

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    common = (tmp_path / "model", tmp_path / "cells.h5ad", "--groups", "fate", "--start", 1)
    result = run(
        *("fates", *common, "-o", tmp_path / "fates.tsv"),
        *("--drivers", tmp_path / "drivers.tsv", "--figure", tmp_path / "fates.png"),
    )
    assert result.exit_code == 0, result.output
    assert "200 cells; first " in result.output
    assert pd.read_csv(tmp_path / "fates.tsv", sep="\t").shape == (200, 3)
    assert pd.read_csv(tmp_path / "drivers.tsv", sep="\t").shape == (12, 3)
    assert (tmp_path / "fates.png").read_bytes().startswith(b"\x89PNG")
    result = run("perturb", *common, "--gene", "G1", "-o", tmp_path / "shift.tsv")
    assert result.exit_code == 0, result.output
    assert "probability of each group" in result.output
    table = pd.read_csv(tmp_path / "shift.tsv", sep="\t")
    assert list(table.columns) == ["gene", "before", "after", "shift", "low", "high"]
    result = run("perturb", *common, "--gene", "nobody=2", "-o", tmp_path / "shift.tsv")
    assert result.exit_code == 2
    assert "genes: expected genes of the data, found nobody" in result.stderr
    result = run(
        *("trajectory", *common[:2], "--start", 1, "--gene", "G1", "-o", tmp_path / "path.h5ad"),
        *("--trends", tmp_path / "trends.png"),
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "trends.png").read_bytes().startswith(b"\x89PNG")
    result = run(
        *("annotate", *common[:2], "-o", tmp_path / "annotated.h5ad"),
        *("--figure", tmp_path / "velocities.png"),
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "velocities.png").read_bytes().startswith(b"\x89PNG")
