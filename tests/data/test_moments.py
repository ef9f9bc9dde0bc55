"""Moments gathered in chunks, against those of the whole matrix."""

import numpy as np
import pytest
from scipy import sparse

from cellmnn_fm import InputError
from cellmnn_fm.data.moments import GeneMoments


@pytest.fixture
def x():
    """Low-rank expression in order of time, so that chunks differ, with a gene that is constant."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(600, 5)) * [8, 6, 5, 4, 3]
    scores = scores[np.argsort(scores[:, 0])]
    x = scores @ rng.normal(size=(5, 40)) + 0.5 * rng.normal(size=(600, 40)) + 7
    x[:, 11] = 1.1
    return x.astype(np.float32)


def matrix_of(x, standardize):
    if not standardize:
        return np.cov(x.T.astype(np.float64))
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.corrcoef(x.T.astype(np.float64)))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("chunks", [1, 7, 60])
def test_all_is_exact_with_enough_rank(x, standardize, chunks):
    found = GeneMoments.gather(np.array_split(x, chunks), rank=40, standardize=standardize)
    np.testing.assert_allclose(found.mean, x.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(found.variance, x.var(0, ddof=1, dtype=np.float64), rtol=1e-5)
    assert found.variance[11] == 0
    assert found.scale[11] == 1
    expected = matrix_of(x, standardize)
    values = np.linalg.eigvalsh(expected)[::-1][: len(found.eigenvalues)]
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-3, atol=1e-4 * values[0])
    rebuilt = (found.eigenvectors * found.eigenvalues) @ found.eigenvectors.T
    np.testing.assert_allclose(rebuilt, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("standardize", [True, False])
def test_few_directions_lose_only_what_lies_below(x, standardize):
    whole = GeneMoments.gather([x], rank=5, standardize=standardize)
    chunked = GeneMoments.gather(np.array_split(x, 20), rank=8, standardize=standardize)
    np.testing.assert_allclose(chunked.eigenvalues[:5], whole.eigenvalues, rtol=5e-3)
    cosines = np.linalg.svd(whole.eigenvectors.T @ chunked.eigenvectors[:, :5])[1]
    assert cosines.min() > 0.999


def test_sparse_and_empty_chunks_are_the_same(x):
    x = np.where(x > 7, x, 0)
    dense = GeneMoments.gather(np.array_split(x, 3))
    parts = [sparse.csr_array(part) for part in np.array_split(x, 3)]
    found = GeneMoments.gather([parts[0], parts[1][:0], *parts[1:]])
    for name in ("mean", "variance", "eigenvalues", "eigenvectors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(dense, name))


def test_product_keeps_the_variance_of_every_gene(x):
    moments = GeneMoments.gather([x], rank=5)
    correlation = moments.times(np.eye(40))
    diagonal = np.diag(correlation)
    np.testing.assert_allclose(np.delete(diagonal, 11), 1, atol=1e-4)
    assert diagonal[11] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(correlation, matrix_of(x, True), atol=0.1)


def test_rank_0_gathers_means_and_variances(x):
    found = GeneMoments.gather(np.array_split(x, 4), rank=0)
    np.testing.assert_allclose(found.variance, x.var(0, ddof=1), rtol=1e-5, atol=1e-9)
    assert found.eigenvalues.shape == (0,)


def test_some_genes(x):
    kept = np.arange(40) != 11
    some = GeneMoments.gather([x]).of_genes(kept)
    found = GeneMoments.gather([x[:, kept]])
    np.testing.assert_allclose(some.eigenvalues, found.eigenvalues, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(some.mean, found.mean)


def test_too_few_and_equal_cells_are_refused(x):
    with pytest.raises(InputError, match="cells: expected at least 2, found 1"):
        GeneMoments.gather([x[:1]])
    with pytest.raises(InputError, match="expected cells that differ from each other"):
        GeneMoments.gather([np.ones((5, 3), np.float32)] * 2)
