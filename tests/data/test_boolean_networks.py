"""BoolODE's models: rules as they are read, rates as they are written down, cells as they end."""

from itertools import product

import numpy as np
import pytest

from cellmnn_fm import InputError
from cellmnn_fm.data.boolean_networks import BOOLEAN_NETWORKS, BooleanNetwork, with_dropout


@pytest.mark.parametrize("name", BOOLEAN_NETWORKS)
def test_activity_is_the_rule(name):
    """With all proteins far below or above their threshold it is the rule, evaluated by Python."""
    network = BooleanNetwork.named(name)
    rng = np.random.default_rng(0)
    bound = rng.random((50, len(network.names))) < 0.5
    activity = network.activity(np.where(bound, 40.0, 1.0))
    for cell, state in enumerate(bound):
        genes = dict(zip(network.names, map(bool, state), strict=True))
        expected = [eval(rule, {}, genes) for rule in network.rules.values()]
        np.testing.assert_allclose(activity[cell], expected, atol=1e-4)


def test_activity_is_the_mean_over_what_is_bound():
    """At the threshold every regulator is bound half of the time."""
    network = BooleanNetwork({"a": "(a or b) and not c", "b": "b", "c": "not a"}, 1.0)
    states = list(product([False, True], repeat=3))
    share = np.mean([(a or b) and not c for a, b, c in states])
    np.testing.assert_allclose(network.activity(np.full((1, 3), 10.0)), [[share, 0.5, 0.5]])


def test_edges_and_signs():
    """As many as BEELINE counts; edges to themselves are among them."""
    counts = {}
    for name, network in BOOLEAN_NETWORKS.items():
        edges = network.reference()
        assert not edges.duplicated(["source", "target"]).any()
        others = edges[edges["source"] != edges["target"]]
        counts[name] = (len(others), int((others["sign"] < 0).sum()))
    assert counts["mCAD"] == (13, 9)
    assert counts["VSC"] == (15, 15)
    assert counts["HSC"] == (26, 15)
    assert counts["LI"] == (7, 1)
    both = BooleanNetwork({"a": "(a and b) or not b", "b": "a"}, 1.0).reference()
    assert both.query("source == 'b'")["sign"].tolist() == [0]


def test_levels_without_regulation_are_known():
    """Genes that are on for ever end at 2, with the spread of their own noise."""
    network = BooleanNetwork({"a": "a", "b": "a"}, 10.0, {"a": 2.0, "b": 2.0})
    levels = network.simulate(np.array([5.0, 10.0]), 400, seed=0)
    np.testing.assert_allclose(levels.mean(axis=(0, 1)), 2.0, rtol=0.02)
    # x' = 0.9 x + 0.2 + 0.1 sqrt(x) noise: variance 0.01 · 2 / (1 - 0.9²)
    np.testing.assert_allclose(levels.var(axis=(0, 1)), 0.02 / 0.19, rtol=0.15)


def test_cells_take_one_of_two_fates():
    """Of the bifurcating model: one of its two switches is on at the end, never both."""
    network = BooleanNetwork.named("BF")
    last = network.to_anndata(times=2, cells=100, seed=0)[100:]
    on = np.asarray(last[:, ["g4", "g6"]].X) > 1.0
    assert 0.25 < on[:, 0].mean() < 0.75
    assert on.sum(axis=1).max() == 1


def test_simulations_repeat_and_never_fall_silent():
    network = BooleanNetwork.named("mCAD")
    one, again, other = (network.to_anndata(times=3, cells=30, seed=seed).X for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert (one.max(axis=1) >= 0.2).all()


def test_dropout_takes_low_values():
    x = np.random.default_rng(0).random((2000, 3)).astype(np.float32)
    dropped = with_dropout(x, 0.5, seed=1)
    assert (dropped[x >= np.quantile(x, 0.5, axis=0)] > 0).all()
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match=r"network: expected one of LI, LL, .* found toggle"):
        BooleanNetwork.named("toggle")
