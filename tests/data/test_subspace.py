"""The map between genes and latent states: closed forms and exact inverses."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import ortho_group

from cellmnn_fm import InputError
from cellmnn_fm.data.moments import GeneMoments
from cellmnn_fm.data.subspace import Subspace


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(200, 6)) * [9, 7, 5, 4, 3, 2] @ rng.normal(size=(6, 50))
    return (signal + rng.normal(size=(200, 50)) + 5).astype(np.float32)


def total_variance(values):
    return np.square(values - values.mean(0)).sum()


@pytest.mark.parametrize("as_sparse", [False, True])
def test_components_are_seeded_and_invertible(as_sparse):
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, size=(40, 600)).astype(np.float32)
    x = sparse.csr_array(x) if as_sparse else x
    one, other = Subspace.pca(x, 5, seed=3), Subspace.pca(x, 5, seed=3)
    np.testing.assert_array_equal(one.loadings, other.loadings)
    scales = np.linalg.norm(one.loadings, axis=0)
    vectors = one.loadings / scales
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(one.projection, vectors / scales, rtol=1e-5)
    z = rng.normal(size=(7, 5)).astype(np.float32)
    np.testing.assert_allclose(one.project(one.reconstruct(z)), z, atol=1e-4)


def test_moments_give_the_same_components(x):
    exact = Subspace.pca(x, 4)
    found = Subspace.of_moments(
        GeneMoments.gather(np.array_split(x, 5), rank=30, standardize=False), 4
    )
    signs = np.sign((found.loadings * exact.loadings).sum(0))
    np.testing.assert_allclose(found.loadings * signs, exact.loadings, atol=1e-2)
    np.testing.assert_allclose(found.noise_variance, exact.noise_variance, rtol=1e-2)


def test_missing_genes_are_made_up_for_by_the_posterior_mean(x):
    """The ridge against Dᵀ (D Dᵀ + Ψ)⁻¹, which it equals by the matrix inversion lemma."""
    subspace = Subspace.pca(x, 4)
    kept = np.arange(0, 50, 2)
    loadings = subspace.loadings[kept].astype(np.float64)
    covariance = loadings @ loadings.T + np.diag(subspace.noise_variance[kept])
    expected = (x[:, kept] - subspace.gene_mean[kept]) @ np.linalg.solve(covariance, loadings)
    found = subspace.restricted(kept).project(x[:, kept])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    z = subspace.project(x)
    assert np.linalg.norm(found - z) < 0.25 * np.linalg.norm(z)
    rotation = ortho_group.rvs(4, random_state=0)
    aligned = subspace.aligned(subspace.projection @ rotation)
    np.testing.assert_allclose(
        aligned.own_scores(aligned.restricted(kept).project(x[:, kept])), expected, atol=1e-4
    )


def test_alignment_finds_a_rotation_and_keeps_everything(x):
    own = Subspace.pca(x, 4)
    scores = own.project(x)
    spread = np.linalg.norm(own.loadings, axis=0)
    rotation = ortho_group.rvs(4, random_state=1)
    aligned = own.aligned(own.projection * spread @ rotation)
    z = aligned.project(x)
    target = scores * spread @ rotation
    np.testing.assert_allclose(z, target / target.std(0, ddof=1), atol=1e-3)
    np.testing.assert_allclose(z.std(0, ddof=1), 1, rtol=1e-4)
    np.testing.assert_allclose(aligned.own_scores(z), scores, atol=1e-4)
    np.testing.assert_allclose(aligned.reconstruct(z), own.reconstruct(scores), atol=1e-3)
    kept = total_variance(aligned.reconstruct(z)), total_variance(own.reconstruct(scores))
    assert kept[0] == pytest.approx(kept[1], rel=1e-6)
    np.testing.assert_allclose(aligned.projection.T @ aligned.loadings, np.eye(4), atol=1e-4)


def test_alignment_is_over_the_genes_in_common(x):
    """The anchor knows half of the genes, and more dimensions than there are own ones."""
    own = Subspace.pca(x, 3)
    anchor = Subspace.pca(x, 6)
    partial = np.zeros((50, 6))
    partial[:25] = anchor.restricted(np.arange(25)).projection
    z = own.aligned(partial).project(x)
    other = (x - x.mean(0)) @ partial
    assert all(np.corrcoef(z[:, j], other[:, j])[0, 1] > 0.9 for j in range(3))


def test_signs_go_up_with_time(x):
    own = Subspace.pca(x, 3)
    times = np.linspace(0, 1, len(x))
    z = own.project(x)
    signed = own.signed_by_time(z, times)
    for j, trend in enumerate(np.corrcoef(times, signed.project(x).T)[0, 1:]):
        assert trend >= 0
        assert abs(trend) == pytest.approx(abs(np.corrcoef(times, z[:, j])[0, 1]), abs=1e-5)
    np.testing.assert_allclose(signed.own_scores(signed.project(x)), z, atol=1e-5)


def test_padding_is_zero_and_changes_nothing_else(x):
    own = Subspace.pca(x, 3)
    padded = own.padded(5)
    z = padded.project(x)
    np.testing.assert_array_equal(z[:, :3], own.project(x))
    assert not z[:, 3:].any()
    np.testing.assert_allclose(padded.reconstruct(z), own.reconstruct(z[:, :3]), atol=1e-5)
    np.testing.assert_allclose(padded.own_scores(z)[:, :3], z[:, :3], atol=1e-5)
    kept = np.arange(0, 50, 3)
    restricted = padded.restricted(kept).project(x[:, kept])
    np.testing.assert_allclose(
        restricted[:, :3], own.restricted(kept).project(x[:, kept]), atol=1e-5
    )
    assert not restricted[:, 3:].any()


@pytest.mark.parametrize("as_sparse", [False, True])
def test_new_genes_by_regression_on_the_latent_states(x, as_sparse):
    own = Subspace.pca(x[:, :40], 6)
    z = own.project(x[:, :40])
    exact = z @ np.random.default_rng(1).normal(size=(6, 2)) + 3
    new = np.concatenate([exact, x[:, 40:]], axis=1).astype(np.float32)
    extended = own.with_genes([sparse.csr_array(new) if as_sparse else new], z)
    np.testing.assert_array_equal(extended.loadings[:40], own.loadings)
    assert not extended.projection[40:].any()
    rebuilt = extended.reconstruct(z)[:, 40:]
    np.testing.assert_allclose(rebuilt[:, :2], exact, atol=0.05)
    left = np.square(rebuilt[:, 2:] - new[:, 2:]).mean(0)
    np.testing.assert_allclose(extended.noise_variance[42:], left, rtol=0.02)
    assert (left < 0.5 * new[:, 2:].var(0)).all()


def test_sparse_input_is_projected_as_dense(x):
    x = np.where(x > 5, x, 0)
    own = Subspace.pca(x, 4)
    np.testing.assert_allclose(own.project(sparse.csr_array(x)), own.project(x), atol=1e-4)


def test_equal_cells_are_refused():
    with pytest.raises(InputError, match="expected cells that differ"):
        Subspace.standardized(np.ones((5, 3), np.float32))
