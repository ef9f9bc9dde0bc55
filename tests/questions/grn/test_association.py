"""Associations: closed forms, known confounders, and how edges are ranked."""

import numpy as np
import pytest

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.data.gene_networks import GeneNetwork
from cellmnn_fm.data.subspace import Subspace
from cellmnn_fm.data.time_course import TimeScale
from cellmnn_fm.questions.grn import question
from cellmnn_fm.questions.grn.association import association_network, ridge_of, without_size
from cellmnn_fm.questions.grn.estimators import CellStates
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork

GENES = tuple(f"g{number}" for number in range(12))
GAP = TimeScale(0.0, 1.0)


def states_of(x):
    """Cells of which only the expression matters."""
    return CellStates(np.zeros((len(x), 2)), np.zeros((len(x), 2)), np.zeros(len(x)), x)


def subspace(genes):
    rng = np.random.default_rng(0)
    return Subspace.pca(rng.normal(size=(30, genes)), 2)


@pytest.fixture(scope="module")
def sized():
    """Counts of genes that have nothing in common but the size of their cells; and one pair."""
    rng = np.random.default_rng(0)
    size = np.exp(0.8 * rng.normal(size=(2000, 1)))
    level = np.exp(0.3 * rng.normal(size=(2000, 12)))
    level[:, :4] = np.exp(rng.normal(size=(2000, 4)))
    level[:, 1] = level[:, 0]
    level[:, 3] = 1 / level[:, 2]
    return np.log1p(rng.poisson(5 * size * level)).astype(float)


def test_the_size_of_cells_is_taken_out(sized):
    """Where plain correlation joins all genes with all."""
    network = association_network(states_of(sized), subspace(12), GENES, GAP)
    found = network.left @ network.right
    plain = np.corrcoef(sized.T)
    others = ~np.eye(12, dtype=bool)
    others[:4, :4] = False
    assert plain[4:, 4:].min() > 0.5
    assert np.abs(found[others]).max() < 0.35
    assert found[0, 1] > 0.2
    assert found[2, 3] < np.sort(found[others])[0]


def test_closed_form(sized):
    """Least squares of ranks; then (R + C_vr / k) (1 + R / λ)⁻¹, k 5 a gap, λ 100 for few genes."""
    ranks = without_size(sized, np.zeros(len(sized))).astype(np.float64)
    np.testing.assert_allclose(ranks.std(axis=0), 1, rtol=1e-5)
    for explained in (sized.mean(axis=1), (sized > sized.min(axis=0)).mean(axis=1)):
        centred = explained - explained.mean()
        np.testing.assert_allclose(ranks.T @ centred / len(sized), 0, atol=1e-6)
    rng = np.random.default_rng(3)
    velocity, space = rng.normal(size=(len(sized), 2)), subspace(12)
    cells = CellStates(np.zeros((len(sized), 2)), velocity, np.zeros(len(sized)), sized)
    network = association_network(cells, space, GENES, TimeScale(0.0, 2.0))
    moving = velocity @ (space.loadings / sized.std(axis=0)[:, None]).T
    moving -= moving.mean(axis=0)
    r, c = ranks.T @ ranks / len(sized), moving.T @ ranks / len(sized)
    expected = (r + c / (5 / 2)) @ np.linalg.inv(np.eye(12) + r / ridge_of(12))
    np.testing.assert_allclose(network.left @ network.right, expected, atol=1e-5)
    still = association_network(states_of(sized), space, GENES, GAP)
    assert still.asymmetry == pytest.approx(0, abs=1e-9)  # velocities alone make a direction
    assert network.asymmetry > 1e-6


def test_monotone_transforms_change_nothing(sized):
    """Ranks are what counts: logarithms, roots and units of single genes do not."""
    x = sized.copy()
    x[:, 5:] = np.sqrt(x[:, 5:])
    one, other = (np.argsort(values[:, 6], kind="stable") for values in (x, sized))
    np.testing.assert_array_equal(one, other)
    scaled = without_size(3 * sized, np.zeros(len(sized)))
    np.testing.assert_allclose(scaled, without_size(sized, np.zeros(len(sized))), atol=1e-5)


def test_what_follows_time_stays(sized):
    """Sizes that are all owed to the time are left; those within a time are taken out."""
    times = np.repeat([0.0, 1.0], 1000)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 6)) + 3 * times[:, None]  # all genes go up
    kept = np.corrcoef(without_size(x, times).T)
    assert kept[~np.eye(6, dtype=bool)].min() > 0.5
    taken = np.corrcoef(without_size(x, np.zeros(2000)).T)
    assert taken[~np.eye(6, dtype=bool)].max() < 0.2
    within = without_size(sized, times)
    for time in (0, 1):
        cells = times == time
        inside = sized[cells].mean(axis=1) - sized[cells].mean()
        assert np.abs(within[cells].T @ inside).max() / cells.sum() < 0.05


NAMES_OF_MANY = tuple(f"g{number}" for number in range(180))


def test_many_genes_keep_a_hundred_factors():
    """The leading ones, as a full decomposition has them."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 5)) @ rng.normal(size=(5, 180)) + 0.1 * rng.normal(size=(150, 180))
    network = association_network(states_of(x), subspace(180), NAMES_OF_MANY, GAP)
    assert network.left.shape == (180, 100)
    ranks = without_size(x, np.zeros(len(x))).astype(np.float64)
    r = ranks.T @ ranks / len(x)
    off = network.left @ network.right - r @ np.linalg.inv(np.eye(180) + r / ridge_of(180))
    assert np.abs(off[~np.eye(180, dtype=bool)]).max() < 0.02


def test_positive_edges_come_first(sized):
    network = association_network(states_of(sized), subspace(12), GENES, GAP)
    table = network.to_dataframe()
    assert table["weight"].is_monotonic_decreasing
    assert {table.loc[0, "source"], table.loc[0, "target"]} == {"g0", "g1"}
    top = network.to_dataframe(top_k=5)
    np.testing.assert_allclose(top["weight"], table["weight"][:5])
    assert set(table.tail(2)["source"]) == {"g2", "g3"}


def test_genes_that_say_nothing():
    """Constant ones have no edges; few cells have no network."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    x = np.concatenate([x, np.ones((50, 1))], axis=1)
    found = association_network(states_of(x), subspace(4), tuple("abcd"), GAP)
    weights = found.left @ found.right
    assert np.isfinite(weights).all()
    np.testing.assert_array_equal(weights[3], 0)
    with pytest.raises(InputError, match="cells: expected 10 or more, found 5"):
        association_network(states_of(x[:5]), subspace(4), tuple("abcd"), GAP)


def test_from_the_pipeline():
    """Members give a confidence; without a file it is of the distributions that a model knows."""
    adata = GeneNetwork.make("bifurcating", genes=12, seed=0).to_anndata(cells=80, seed=0)
    fitted = CellMNNPipeline().fit(adata, time_key="time", frame=True, steps=5, verdict=False)
    network = fitted.grn(adata, estimator="association", members=5)
    table = network.to_dataframe(top_k=10)
    assert table["sign_consistency"].min() > 0.5
    assert "association" in repr(network)
    assert len(fitted.grn(estimator="association").to_dataframe(top_k=3)) == 3
    with pytest.raises(InputError, match="estimator: expected production with around"):
        fitted.grn(adata, estimator="association", around=adata.obs_names[0])


def test_the_asymmetric_share():
    """Of the squared weights, as of the matrix itself."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(9, 3)), rng.normal(size=(3, 9))
    weights = left @ right
    expected = np.square((weights - weights.T) / 2).sum() / np.square(weights).sum()
    network = GeneRegulatoryNetwork(tuple("abcdefghi"), left, right)
    assert network.asymmetry == pytest.approx(expected)
    assert network.kind == "directed"
    twins = GeneRegulatoryNetwork(tuple("abcdefghi"), left, left.T)
    assert twins.asymmetry == pytest.approx(0, abs=1e-12)
    assert twins.kind == "co-expression only"


def test_auto_takes_what_can_be_told(monkeypatch):
    """Production of few genes, and says so."""
    adata = GeneNetwork.make("bifurcating", genes=12, seed=0).to_anndata(cells=80, seed=0)
    fitted = CellMNNPipeline().fit(adata, time_key="time", steps=5, verdict=False)
    for most, chosen in ((12, "production"), (11, "association")):
        monkeypatch.setattr(question, "FEW_GENES", most)
        found = fitted.grn(adata, members=2)
        assert found.record["estimator"] == chosen
        assert found.record["chosen"].startswith(f"{chosen}, of 12 genes")
        expected = fitted.grn(adata, estimator=chosen)
        np.testing.assert_allclose(found.left @ found.right, expected.left @ expected.right)
