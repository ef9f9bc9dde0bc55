"""One space for many panels: known truth, closed forms, and what is kept for later."""

import numpy as np
import pytest

from cellmnn_fm import InputError
from cellmnn_fm.data.moments import GeneMoments
from cellmnn_fm.data.shared_subspace import Member, SharedSubspace

GENES = np.array([f"GENE{i:03d}" for i in range(500)])


def make_sets(count, cells, rank, missing, seed=0):
    """Sets of one rank-`rank` model, half of each gene's variance noise, on scales of their own."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(len(GENES), rank))
    loadings *= np.sqrt(0.5) / np.linalg.norm(loadings, axis=1, keepdims=True)
    sets = {}
    for number in range(count):
        kept = np.sort(rng.permutation(len(GENES))[: round(len(GENES) * (1 - missing))])
        z = rng.normal(size=(cells, rank))
        x = z @ loadings[kept].T + np.sqrt(0.5) * rng.normal(size=(cells, len(kept)))
        x = x * rng.uniform(0.1, 10, len(kept)) + rng.uniform(-5, 5, len(kept))
        sets[f"set{number}"] = (tuple(GENES[kept]), x.astype(np.float32), z)
    return loadings, sets


def members_of(sets):
    return {name: Member(genes, GeneMoments.gather([x])) for name, (genes, x, _) in sets.items()}


@pytest.fixture(scope="module")
def small():
    """5 sets of rank 3, and their shared subspace."""
    loadings, sets = make_sets(5, 300, 3, 0.5)
    return loadings, sets, SharedSubspace.fit(members_of(sets), n_dims=3)


def largest_angle(one, other):
    bases = [np.linalg.qr(matrix)[0] for matrix in (one, other)]
    return np.degrees(np.arccos(np.linalg.svd(bases[0].T @ bases[1])[1].clip(-1, 1).min()))


def test_the_true_space_is_found():
    """20 sets of 2,000 cells, rank 8, 500 genes, half noise, 60 % of the genes missing."""
    loadings, sets = make_sets(20, 2000, 8, 0.6)
    shared = SharedSubspace.fit(members_of(sets), n_dims=8)
    assert shared.panel.names == tuple(GENES)
    assert largest_angle(shared.loadings, loadings) < 10
    assert shared.noise_variance == pytest.approx(0.5, abs=0.03)


def test_loadings_are_orthogonal_and_ordered(small):
    _, _, shared = small
    gram = shared.loadings.T @ shared.loadings
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-3 * gram[0, 0])
    assert (np.diff(np.diag(gram)) <= 0).all()
    truncated = shared.truncated(2)
    np.testing.assert_array_equal(truncated.loadings, shared.loadings[:, :2])
    with pytest.raises(InputError, match="n_dims: expected 1 to the 3 of the shared subspace"):
        shared.truncated(4)


def test_states_of_a_set_are_its_true_ones(small):
    """Whatever genes it has: states are the true ones, up to one rotation for all sets."""
    loadings, sets, shared = small
    order = np.searchsorted(GENES, shared.panel.names)
    to_true = np.linalg.lstsq(shared.loadings, loadings[order], rcond=None)[0]
    for genes, x, z in sets.values():
        subspace = shared.subspace(genes, GeneMoments.gather([x]))
        found = subspace.project(x) @ to_true
        assert all(np.corrcoef(found[:, j], z[:, j])[0, 1] > 0.95 for j in range(3))


def test_projection_is_the_posterior_mean_and_scaling_is_undone(small):
    """Against Vᵀ (V Vᵀ + σ² I)⁻¹, which the ridge equals by the matrix inversion lemma."""
    _, sets, shared = small
    genes, x, _ = sets["set1"]
    moments = GeneMoments.gather([x])
    subspace = shared.subspace(genes, moments)
    v = shared.loadings[shared.panel.positions(genes)].astype(np.float64)
    covariance = v @ v.T + shared.noise_variance * np.eye(len(v))
    standardised = (x - moments.mean) / moments.scale
    expected = standardised @ np.linalg.solve(covariance, v)
    z = subspace.project(x)
    np.testing.assert_allclose(z, expected, atol=1e-3)
    np.testing.assert_allclose(
        subspace.reconstruct(z), moments.mean + moments.scale * (expected @ v.T), atol=0.02
    )
    # with all genes there, the ridge for missing ones is the same projection
    again = subspace.restricted(np.arange(len(genes))).project(x)
    np.testing.assert_allclose(again, z, atol=1e-3)


def test_units_and_order_of_genes_do_not_matter(small):
    _, sets, shared = small
    genes, x, _ = sets["set2"]
    z = shared.subspace(genes, GeneMoments.gather([x])).project(x)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(genes))
    other = (x * rng.uniform(0.1, 10, x.shape[1]).astype(np.float32) + 3)[:, order]
    shuffled = tuple(genes[i] for i in order)
    found = shared.subspace(shuffled, GeneMoments.gather([other])).project(other)
    np.testing.assert_allclose(found, z, atol=1e-3)


def test_a_set_added_later_is_a_set_from_the_start(small, tmp_path):
    """Without its file: the moments of the others come from the folder."""
    _, sets, shared = small
    members = members_of(sets)
    last = {"set4": members.pop("set4")}
    SharedSubspace.fit(members, n_dims=3).save(tmp_path)
    later = SharedSubspace.load(tmp_path).add(last)
    np.testing.assert_array_equal(later.loadings, shared.loadings)
    assert later.noise_variance == shared.noise_variance
    fewer = later.without(["set4"])
    assert sorted(fewer.members) == sorted(members)
    common = shared.panel.positions(fewer.panel.names)
    assert largest_angle(fewer.loadings, shared.loadings[common]) < 15


def test_saved_and_loaded_is_the_same(small, tmp_path):
    _, _, shared = small
    member = Member(("A", "B"), GeneMoments.gather([np.eye(2, dtype=np.float32)]), ("other",))
    shared = SharedSubspace.fit({**shared.members, "tiny": member}, n_dims=3)
    shared.save(tmp_path)
    loaded = SharedSubspace.load(tmp_path)
    np.testing.assert_array_equal(loaded.loadings, shared.loadings)
    assert loaded.panel == shared.panel
    assert loaded.noise_variance == shared.noise_variance
    assert list(loaded.members) == list(shared.members)
    for name, one in shared.members.items():
        other = loaded.members[name]
        assert (other.symbols, other.overlaps) == (one.symbols, one.overlaps)
        for array in ("mean", "variance", "eigenvalues", "eigenvectors"):
            np.testing.assert_array_equal(
                getattr(other.moments, array), getattr(one.moments, array)
            )


def test_a_large_panel_does_not_dictate_the_space():
    """400 genes and 40 of these, with different directions, and room for one."""
    rng = np.random.default_rng(0)
    alternating = np.resize([1.0, -1.0], 400)
    large = rng.normal(size=(200, 1)) * alternating + rng.normal(size=(200, 400))
    small = rng.normal(size=(200, 1)) * np.ones(40) + rng.normal(size=(200, 40))
    shared = SharedSubspace.fit(
        {
            "large": Member(tuple(GENES[:400]), GeneMoments.gather([large])),
            "small": Member(tuple(GENES[:40]), GeneMoments.gather([small])),
        },
        n_dims=1,
    )
    direction = shared.loadings[:40, 0]
    assert abs(direction.sum()) > abs(direction @ alternating[:40])
    assert abs(shared.loadings[40:, 0] @ alternating[40:]) > 0.5 * 360 * 0.5


def test_genes_that_do_not_vary_are_left_out():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    x[:, 2] = 3
    member = Member(("A", "B", "C", "D"), GeneMoments.gather([x]))
    assert member.symbols == ("A", "B", "D")
    assert member.moments.eigenvectors.shape[0] == 3
    shared = SharedSubspace.fit({"one": member}, n_dims=2)
    subspace = shared.subspace(
        ["A", "B", "C", "D", "", "X"], GeneMoments.gather([np.pad(x, ((0, 0), (0, 2)))])
    )
    assert not subspace.loadings[[2, 4, 5]].any()
    assert np.isfinite(subspace.projection).all()


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InputError, match="data sets: expected at least 1, found 0"):
        SharedSubspace.fit({})
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    member = Member(("A", "B"), GeneMoments.gather([x]))
    with pytest.raises(InputError, match="n_dims: expected 1 to the number of genes, 2, found 3"):
        SharedSubspace.fit({"one": member}, n_dims=3)
    with pytest.raises(InputError, match="symbols of a data set: expected unique names, found A"):
        Member(("A", "A"), GeneMoments.gather([x]))


@pytest.mark.parametrize("name", ["loadings.safetensors", "shared_subspace.json"])
def test_a_broken_folder_is_refused(small, tmp_path, name):
    small[2].save(tmp_path)
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(InputError, match=f"{name}: expected .* bytes, found 1"):
        SharedSubspace.load(tmp_path)
    (tmp_path / "manifest.json").unlink()  # as before there were any
    with pytest.raises(InputError, match="expected a saved shared subspace, found files that"):
        SharedSubspace.load(tmp_path)
