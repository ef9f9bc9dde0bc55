"""Knock-outs by the network: closed form, known networks, and a screen over genes."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.boolean_networks import BooleanNetwork
from cellmnn_fm.data.gene_networks import GeneNetwork
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork
from cellmnn_fm.questions.network_response import NetworkResponse


def solved(network, decay, times, held, changes):
    """The same deviations by scipy, in full: one variable a gene, c constant between times."""
    spread, rest = network.spread, np.delete(np.arange(len(network.genes)), held)
    weights = network.left @ network.right
    means = (changes[:-1] + changes[1:]) / 2 / spread[held]

    def slope(time, delta):
        c = means[min(np.searchsorted(times, time, side="right") - 1, len(means) - 1)]
        return weights[np.ix_(rest, rest)] @ delta + weights[np.ix_(rest, held)] @ c - decay * delta

    delta = np.zeros(len(rest))
    for begin, end in pairwise(times):
        inside = (begin, end - 1e-12)
        delta = solve_ivp(slope, inside, delta, rtol=1e-10, atol=1e-12).y[:, -1]
    moved = np.zeros(len(network.genes))
    moved[rest] = delta * spread[rest]
    return moved


@pytest.mark.parametrize("held", [[1], [0, 3]])
def test_deviations_are_those_of_the_ode(held):
    rng = np.random.default_rng(0)
    genes, rank, decay = 6, 4, 2.0
    network = GeneRegulatoryNetwork(
        tuple("ABCDEF"),
        0.5 * rng.normal(size=(genes, rank)),
        rng.normal(size=(rank, genes)),
        np.zeros(genes),
        rng.uniform(0.5, 2.0, genes),
        record={"decay": decay},
    )
    times, changes = np.array([0.0, 0.7, 1.0, 2.5]), rng.normal(size=(3, 4, len(held)))
    found = NetworkResponse(network, times).deviations(held, changes)
    expected = [solved(network, decay, times, held, one) for one in changes]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_what_would_grow_for_ever_stays():
    """A gene that makes itself faster than it decays."""
    left, right = np.array([[0.0, 0.0], [1.0, 5.0]]), np.eye(2)
    network = GeneRegulatoryNetwork(
        ("A", "B"), left, right, np.zeros(2), np.ones(2), record={"decay": 1.0}
    )
    response = NetworkResponse(network, np.array([0.0, 100.0]))
    found = response.deviations([0], -np.ones((1, 2, 1)))
    assert np.isfinite(found).all()
    assert found[0, 1] == pytest.approx(-100.0, rel=0.1)


@pytest.fixture(scope="module")
def chain():
    """A chain of genes, each switched on by the one before, and the course of its wild type."""
    network = BooleanNetwork.named("BF")
    adata = network.to_anndata(times=6, cells=150, seed=0)
    fitted = CellMNNPipeline().fit(adata, time_key="time", verdict=False)
    x = pd.DataFrame(np.asarray(adata.X), adata.obs_names, adata.var_names)
    adata.obs["fate"] = np.where(x["g4"] > x["g6"], "g4", "g6")
    return network, adata, fitted


def test_knock_outs_go_the_way_of_the_simulation(chain):
    """Signs of the shifts of all other genes, where these are large."""
    network, adata, fitted = chain
    last = float(adata.obs["time"].max())
    wild = np.asarray(adata[adata.obs["time"] == last].X).mean(axis=0)
    spread = np.asarray(adata.X).std(axis=0)
    right = []
    for gene in ("g1", "g4", "g6"):
        without = network.without(gene).simulate(np.array([0.0, last]), 150, seed=9)[-1]
        true = pd.Series((without.mean(axis=0) - wild) / spread, network.names)
        shift = fitted.perturb(adata, {gene: "knock-out"}, "fate").genes["shift"]
        large = [name for name in network.names if name != gene and abs(true[name]) > 0.3]
        right += [np.sign(shift[name]) == np.sign(true[name]) for name in large]
        assert shift[gene] < 0
    assert len(right) >= 6
    assert np.mean(right) > 0.75


def test_a_value_that_a_gene_has_anyway_changes_nothing(chain):
    """And that is said, with the time at which it would."""
    _, adata, fitted = chain
    times = sorted(adata.obs["time"].unique())
    late = np.asarray(adata[adata.obs["time"] >= times[-2], "g1"].X)
    with pytest.warns(UserWarning, match="g1 is near that value .* highest at time 0.666667"):
        found = fitted.perturb(adata, {"g1": float(late.mean())}, "fate", start=times[-2])
    assert found.fates["shift"].abs().max() < 0.02


def test_a_screen_finds_the_switch(chain):
    _, adata, fitted = chain
    table = fitted.screen(adata, "fate")
    assert list(table.columns) == ["gene", "group", "shift", "p", "q"]
    assert len(table) == 2 * 7
    assert table["shift"].abs().is_monotonic_decreasing
    assert (table["q"] >= table["p"] - 1e-12).all()
    of_first = table[table["group"] == "g4"].set_index("gene")["shift"]
    assert of_first["g4"] < 0 < of_first["g6"]
    for gene in ("g4", "g6"):
        alone = fitted.perturb(adata, {gene: "knock-out"}, "fate").fates.loc["g4", "shift"]
        assert of_first[gene] == pytest.approx(alone, abs=0.02)
    some = fitted.screen(adata, "fate", ["g4", "g1"])
    assert set(some["gene"]) == {"g4", "g1"}
    again = fitted.screen(adata, "fate", ["g4", "g1"])
    pd.testing.assert_frame_equal(some, again)


def test_shuffled_genes_are_not_found(chain):
    """Of genes that are associated with nothing, few have a small p."""
    _, adata, _ = chain
    noise = np.random.default_rng(0).gamma(2.0, size=(adata.n_obs, 20)).astype(np.float32)
    more = anndata_with(adata, noise)
    fitted = CellMNNPipeline().fit(more, time_key="time", verdict=False)
    table = fitted.screen(more, "fate")
    rows = table[table["gene"].str.startswith("noise")]
    assert (rows["p"] < 0.05).mean() <= 0.1
    assert table.loc[table["gene"] == "g4", "q"].max() < 0.1


def anndata_with(adata, noise):
    """With further genes, of these values."""
    import anndata

    names = [*adata.var_names, *(f"noise{number}" for number in range(noise.shape[1]))]
    x = np.hstack([np.asarray(adata.X), noise])
    return anndata.AnnData(x, obs=adata.obs, var=pd.DataFrame(index=names))


def test_knocked_out_networks():
    network = BooleanNetwork.named("mCAD").without("Fgf8")
    x = network.simulate(np.array([0.0, 5.0]), 20, seed=0)[-1]
    assert x[:, network.names.index("Fgf8")].mean() < 0.1
    genes = GeneNetwork.make("linear", genes=10, seed=0)
    x = genes.without("G0").simulate((0.0, 3.0), 20, seed=0)
    assert not x[..., 0].any()
    assert genes.simulate((0.0, 3.0), 20, seed=0)[..., 0].any()
    for one, name in ((network, "no"), (genes, "no")):
        with pytest.raises(InputError, match="gene: expected one of"):
            one.without(name)


def test_what_is_refused(chain):
    _, adata, fitted = chain
    with pytest.raises(InputError, match="regulators: expected genes of the model, found no"):
        fitted.screen(adata, "fate", ["no"])
    with pytest.raises(InputError, match="regulators: expected one or more, found none"):
        fitted.screen(adata, "fate", [])
    with pytest.raises(InputError, match="response: expected"):
        fitted.perturb(adata, {"g4": 0.0}, "fate", response="other")


def test_the_command(chain, tmp_path):
    _, adata, fitted = chain
    adata.write_h5ad(tmp_path / "cells.h5ad")
    fitted.save_pretrained(tmp_path / "model")
    arguments = ["screen", tmp_path / "model", tmp_path / "cells.h5ad", "--groups", "fate"]
    arguments += ["--gene", "g4", "--gene", "g1", "-o", tmp_path / "screen.tsv"]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(tmp_path / "screen.tsv", sep="\t")) == 4
