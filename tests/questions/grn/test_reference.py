"""Scores against hand-made references, baselines against what they are."""

import numpy as np
import pandas as pd
import pytest

from cellmnn_fm import InputError
from cellmnn_fm.data.gene_networks import DECAY, GeneNetwork
from cellmnn_fm.questions.grn.baselines import BASELINES, partial_correlation, pearson, scode
from cellmnn_fm.questions.grn.reference import (
    Reference,
    by_factor,
    link_scores,
    score_signs,
    sign_scores,
)

GENES = ("A", "B", "C", "D")


def table(*edges):
    return pd.DataFrame(edges, columns=["source", "target", "sign"])


def test_what_a_reference_keeps():
    reference = Reference.of(
        table(
            ("a", "b", 1),
            ("A", "B", 1),  # again
            ("A", "C", 1),
            ("A", "C", -1),  # both signs
            ("B", "C", 0),
            ("B", "C", -1),  # unknown, then known
            ("B", "B", 1),  # itself
            ("A", "X", 1),  # outside
        ),
        GENES,
    )
    assert reference.edges.to_numpy().tolist() == [["A", "B", 1], ["A", "C", 0], ["B", "C", -1]]
    assert (reference.conflicting, reference.outside) == (1, 1)
    at, of, linked = reference.pairs()
    pairs = {(GENES[s], GENES[t]): bool(k) for t, s, k in zip(at, of, linked, strict=True)}
    assert pairs == {("A", "B"): True, ("A", "C"): True, ("B", "C"): True}
    assert len(reference.pairs(every=True)[0]) == 12
    with pytest.raises(InputError, match="reference: expected columns source and target, found"):
        Reference.of(pd.DataFrame({"from": ["A"]}), GENES)


def test_files_with_comments(tmp_path):
    file = tmp_path / "known.tsv"
    file.write_text("# origin: here\nsource\ttarget\tsign\nA\tB\t-1\n")
    assert Reference.read(file, GENES).edges.to_numpy().tolist() == [["A", "B", -1]]
    with pytest.raises(InputError, match=r"reference: expected a .tsv file, found nothing at"):
        Reference.read(tmp_path / "none.tsv", GENES)


def test_links():
    """A perfect ranking, a worthless one, and a constant one, which is chance."""
    reference = Reference.of(table(("A", "B", 1), ("A", "C", -1)), GENES)
    weights = np.full((4, 4), 0.1)
    weights[1, 0], weights[2, 0] = 2.0, -3.0
    best = link_scores(weights, reference, every_pair=True)
    assert (best.pairs, best.links) == (12, 2)
    assert best.auprc_ratio == pytest.approx(6.0)
    assert best.early_precision_ratio == pytest.approx(6.0)
    assert best.auroc == pytest.approx(1.0)
    constant = link_scores(np.ones((4, 4)), reference, every_pair=True)
    assert constant.auprc_ratio == pytest.approx(1.0)
    assert constant.early_precision_ratio == pytest.approx(1.0)
    assert constant.auroc == pytest.approx(0.5)
    with pytest.raises(InputError, match="reference: expected some of the pairs linked, found 2"):
        link_scores(weights, reference)


def test_signs():
    edges = [("A", "B", 1), ("A", "C", 1), ("A", "D", 1), ("B", "C", -1)]
    reference = Reference.of(table(*edges), GENES)
    weights = np.zeros((4, 4))
    weights[1, 0], weights[2, 0], weights[3, 0], weights[2, 1] = 1, 1, -1, -1
    found = sign_scores(weights, reference)
    assert (found.pairs, found.positive) == (4, 3)
    assert found.accuracy == 0.75
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    from sklearn.metrics import matthews_corrcoef

    assert found.mcc == pytest.approx(matthews_corrcoef([1, 1, 1, -1], [1, 1, -1, -1]))
    always = score_signs(np.ones(4), np.array([1, 1, 1, -1]))
    assert (always.accuracy, always.balanced_accuracy, always.mcc) == (0.75, 0.5, 0.0)
    assert sign_scores(np.zeros((4, 4)), reference).accuracy == 0.0
    with pytest.raises(InputError, match="reference: expected edges of known sign, found none"):
        sign_scores(weights, Reference.of(table(("A", "B", 0)), GENES))


def test_the_published_tally_rewards_always_activating():
    edges = [("A", "B", 1), ("A", "C", -1), ("A", "D", -1)]
    reference = Reference.of(table(*edges), GENES)
    always = by_factor(np.ones((4, 4)), reference, ["A"]).iloc[0]
    assert always["published_tally"] == 1.0
    assert always["f1"] == pytest.approx(2 / (2 + 2))
    right = np.ones((4, 4))
    right[2:, 0] = -1
    perfect = by_factor(right, reference, ["A"]).iloc[0]
    assert perfect["f1"] == 1.0
    assert perfect["published_tally"] == pytest.approx(2 / (2 + 2))
    assert by_factor(right, reference, ["B"]).empty


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_square_finite_and_repeatable(name):
    rng = np.random.default_rng(0)
    times = np.repeat([0.0, 1.0, 2.0, 4.0], 20)
    x = rng.normal(size=(80, 4)) + times[:, None] * [1.0, -1.0, 0.0, 2.0]
    x[:, 2] = 3.0  # a gene that does not vary
    one, again = (BASELINES[name](x, times, 1) for _ in range(2))
    assert one.shape == (4, 4)
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, again)


def test_correlations():
    rng = np.random.default_rng(0)
    a = rng.normal(size=2000)
    b = a + rng.normal(size=2000)
    c = b + rng.normal(size=2000)
    x = np.stack([a, b, c], axis=1)
    times = np.zeros(2000)
    assert pearson(x, times)[0, 2] > 0.5
    partial = partial_correlation(x, times, ridge=1e-6)
    assert abs(partial[0, 2]) < 0.06
    assert partial[0, 1] > 0.3


def test_scode_finds_a_linear_ode():
    """Two genes, one that decays and one that follows: dx/dt = A x along pseudotime."""
    at = np.linspace(0, 1, 200)
    x = np.stack([np.exp(-2 * at), 1 - np.exp(-2 * at), np.exp(-2 * at)], axis=1)
    operator = scode(x, at, dims=2, iterations=300, runs=3)
    velocity = np.stack([-2 * x[:, 0], 2 * x[:, 0], -2 * x[:, 0]], axis=1)
    found = x @ operator.T
    assert np.corrcoef(found.ravel(), velocity.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("topology", ["linear", "cyclic", "bifurcating", "trifurcating"])
def test_simulated_networks(topology):
    network = GeneNetwork.make(topology, genes=15, seed=1)
    reference = network.reference()
    assert (reference["source"] != reference["target"]).all()
    assert {-1, 1} >= set(reference["sign"])
    assert set(reference["target"]) | {"G0"} == set(network.names)
    adata = network.to_anndata(times=(0.0, 2.0, 4.0), cells=40, seed=0, counts=5.0)
    assert adata.shape == (120, 15)
    np.testing.assert_allclose(adata.X, np.log1p(adata.layers["counts"]))
    again = network.to_anndata(times=(0.0, 2.0, 4.0), cells=40, seed=0, counts=5.0)
    np.testing.assert_array_equal(adata.X, again.X)


def test_large_networks_hang_on_a_small_one():
    """One to three factors drive a gene that is none of the core; counts are scaled to a size."""
    network = GeneNetwork.make("cyclic", genes=150, seed=2, factors=40)
    small = GeneNetwork.make("cyclic", genes=20, seed=2)
    np.testing.assert_array_equal(network.edges[:20, :20], small.edges)
    assert not network.edges[:, 40:].any()
    regulators = np.abs(network.edges[20:]).sum(axis=1)
    assert {1, 2, 3} == set(regulators)
    # a core that nothing else drives moves as it does alone
    x = np.random.default_rng(0).uniform(size=(5, 150))
    np.testing.assert_allclose(network.production(x)[:, :20], small.production(x[:, :20]))
    adata = network.to_anndata(times=(0.0, 1.0), cells=30, seed=0, counts=2.0, depth=0.5)
    sizes = adata.layers["counts"].sum(axis=1)
    scaled = np.expm1(adata.X).sum(axis=1)
    np.testing.assert_allclose(scaled[sizes > 0], np.median(sizes), rtol=1e-3)
    assert sizes.std() / sizes.mean() > 0.3
    with pytest.raises(InputError, match="factors: expected 20 or more, and of 10,000 genes"):
        GeneNetwork.make("cyclic", genes=30, factors=31)


def test_how_far_a_gene_is_on():
    """On by any of its activators, off by any of its repressors: products of Hill functions."""
    network = GeneNetwork.make("bifurcating", genes=12, seed=0)
    x = np.random.default_rng(0).uniform(0, 2, size=(7, 12))
    bound = x**4 / (x**4 + 0.5**4)
    for gene, signs in enumerate(network.edges):
        activated = 1 - np.prod(1 - bound[:, signs > 0], axis=1) if (signs > 0).any() else 1.0
        expected = activated * np.prod(1 - bound[:, signs < 0], axis=1)
        np.testing.assert_allclose(network.production(x)[:, gene], expected)


def test_within_a_source_and_among_the_first():
    """That a source has many links does not help; precision of what is first, by hand."""
    genes = [f"S{n}" for n in range(2)] + [f"T{n}" for n in range(60)]
    edges = [("S0", f"T{n}") for n in range(40)] + [("S1", f"T{n}") for n in range(5)]
    known = Reference.of(pd.DataFrame(edges, columns=["source", "target"]), genes)
    weights = np.zeros((62, 62))
    weights[:, 0], weights[:, 1] = 2.0, 1.0  # all that is known is which source has more links
    scores = link_scores(weights, known)
    assert scores.auroc > 0.7
    assert scores.auroc_within == pytest.approx(0.5)
    assert scores.precision_100 is None  # there are 80 pairs
    wide = Reference.of(
        pd.DataFrame([(f"S{n % 2}", f"T{n}") for n in range(60)], columns=["source", "target"]),
        genes,
    )
    right = np.zeros((62, 62))
    at, of, truth = wide.pairs()
    right[at[truth], of[truth]] = 1.0
    assert link_scores(right, wide).precision_100 == pytest.approx(60 / 100)
    assert link_scores(right, wide).auroc_within == 1.0


def test_fates_exclude_each_other():
    network = GeneNetwork.make("bifurcating", genes=10, seed=0)
    late = network.simulate((0.0, 6.0), cells=200, seed=0)[1]
    first, second = late[:, 1] > 0.5, late[:, 2] > 0.5
    assert (first & second).mean() < 0.1
    assert 0.2 < first.mean() < 0.8


def test_a_repressed_chain_decays_as_it_should():
    """Without its regulators a gene relaxes to the basal level at the rate of decay."""
    network = GeneNetwork.make("linear", genes=10, seed=0)
    on = network.production(np.zeros((1, 10)))[0]
    activated = (network.edges > 0).any(axis=1)
    assert (on[activated] == 0).all()
    assert (on[~activated] == 1).all()
    assert DECAY > 0
    for kind, genes in (("round", 20), ("linear", 5)):
        with pytest.raises(InputError, match=r"topology: expected|genes: expected 10 to 100"):
            GeneNetwork.make(kind, genes=genes)
