"""Own, shared and aligned spaces of files, and that the strict protocol keeps them blind."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellmnn_fm import InputError
from cellmnn_fm.data.genes import GeneOptions
from cellmnn_fm.data.latent_space import LatentSpace, SpaceOptions
from cellmnn_fm.data.options import FitReading
from cellmnn_fm.data.reading import read_source, read_times
from cellmnn_fm.data.shared_subspace import fit_shared_subspace
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.evaluation.evaluation import Candidate, evaluate
from cellmnn_fm.evaluation.folds import seen_only
from cellmnn_fm.evaluation.subspaces import report_subspaces


def make_course(name, genes, seed, overlaps=(), cells=60):
    """A human or mouse course of a common rank-4 model, with genes of its own."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(0).normal(size=(4, 80))[:, genes]
    days = np.repeat([0.0, 1.0, 3.0], cells)
    z = rng.normal(size=(len(days), 4))
    z[:, 0] += days
    x = z @ loadings + 0.5 * rng.normal(size=(len(days), len(genes))) + 6
    x = (x * rng.uniform(0.5, 2, len(genes))).astype(np.float32)
    symbols = [f"GENE{gene:02d}" for gene in genes]
    mouse = seed % 2
    var = pd.DataFrame(index=[one.capitalize() if mouse else one for one in symbols])
    obs = pd.DataFrame({"day": days}, index=[f"{name}{i}" for i in range(len(days))])
    return anndata.AnnData(x, obs=obs, var=var, uns={"name": name, "overlaps": list(overlaps)})


@pytest.fixture(scope="module")
def courses():
    return {
        "a": make_course("a", np.arange(0, 40), 0),
        "b": make_course("b", np.arange(20, 60), 1, overlaps=["c"]),
        "c": make_course("c", np.arange(40, 80), 2),
        "d": make_course("d", np.arange(0, 80, 2), 3),
    }


@pytest.fixture(scope="module")
def shared(courses):
    return fit_shared_subspace(courses, n_dims=4)


def fit(adata, options=None, **more):
    source = read_source(adata)
    return LatentSpace.fit(source, read_times(adata, "day"), options, **more)


@pytest.mark.parametrize("mode", ["shared", "aligned"])
def test_courses_of_different_genes_and_species_agree(courses, shared, mode):
    """The dimension that goes with time is the same one in every data set."""
    trends = []
    for adata in courses.values():
        space = fit(adata, SpaceOptions(mode, shared))
        z, coverage = space.project(read_source(adata))
        assert coverage.matched == 40
        assert space.coverage.panel_genes == 80
        assert space.coverage.variance_share == pytest.approx(1)
        trends.append(np.corrcoef(adata.obs["day"], z.T)[0, 1:])
    with_time = np.argmax(np.abs(trends[0]))
    for trend in trends[1:]:
        assert np.argmax(np.abs(trend)) == with_time
        assert trend[with_time] == pytest.approx(trends[0][with_time], abs=0.2)


def test_aligned_keeps_the_variance_of_own_components(courses, shared):
    adata = courses["b"]
    report = report_subspaces(read_source(adata), read_times(adata, "day"), shared)
    assert report.variance_aligned == pytest.approx(report.variance_own_pca, rel=1e-4)
    assert 0.8 < report.variance_shared < report.variance_own_pca
    as_dict = report.to_dict()
    assert (as_dict["coverage"], as_dict["genes_matched"], as_dict["panel_genes"]) == (1.0, 40, 80)
    # against the singular values
    centred = adata.X - adata.X.mean(0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    assert report.variance_own_pca == pytest.approx(values[:4].sum() / values.sum(), rel=1e-4)


def test_disjoint_halves_of_the_genes_align(courses, shared):
    adata = courses["a"]
    order = np.random.default_rng(0).permutation(40)
    one, other = (
        fit(adata[:, half], SpaceOptions("aligned", shared)).project(read_source(adata[:, half]))[0]
        for half in (np.sort(order[:20]), np.sort(order[20:]))
    )
    agreement = [np.corrcoef(one[:, j], other[:, j])[0, 1] for j in range(4)]
    assert np.median(agreement) > 0.9


def test_genes_that_a_file_lacks_are_made_up_for(courses, shared):
    adata = courses["a"]
    for options in (None, SpaceOptions("shared", shared), SpaceOptions("aligned", shared)):
        space = fit(adata, options, n_dims=4)
        z, _ = space.project(read_source(adata))
        kept = np.sort(np.random.default_rng(0).permutation(40)[7:])
        found, coverage = space.project(read_source(adata[:, kept[::-1]]))
        assert coverage.matched == 33
        assert np.linalg.norm(found - z) < 0.2 * np.linalg.norm(z)


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_on_disk_and_in_memory_are_the_same(courses, shared, tmp_path, layout):
    adata = courses["b"].copy()
    adata.X = layout(np.where(adata.X > 6, adata.X, 0))
    adata.write_h5ad(tmp_path / "b.h5ad")
    backed = anndata.read_h5ad(tmp_path / "b.h5ad", backed="r")
    for options in (None, SpaceOptions("shared", shared), SpaceOptions("aligned", shared)):
        states = [
            fit(one, options, n_dims=3).project(read_source(one))[0] for one in (adata, backed)
        ]
        signs = np.sign((states[0] * states[1]).sum(0))
        np.testing.assert_allclose(states[1] * signs, states[0], atol=2e-3)


def test_genes_that_nobody_knows_are_refused(courses, shared):
    strange = courses["a"].copy()
    strange.var_names = [f"OTHER{i}" for i in range(40)]
    for mode in ("shared", "aligned"):
        with pytest.raises(InputError, match="the wrong species or id type"):
            fit(strange, SpaceOptions(mode, shared))


def test_an_embedding_has_signs_by_time(courses, shared):
    """It has no genes to be aligned by."""
    adata = courses["a"].copy()
    z, _ = fit(adata, SpaceOptions("own")).project(read_source(adata))
    for sign in (1, -1):
        adata.obsm["X_pca"] = sign * z
        source = read_source(adata, use_rep="X_pca")
        options = SpaceOptions("aligned", shared)
        embedded = LatentSpace.fit(source, read_times(adata, "day"), options)
        assert (np.corrcoef(adata.obs["day"], embedded.project(source)[0].T)[0, 1:] >= 0).all()


def test_duplicates_are_named_or_merged(courses, shared):
    adata = courses["a"].copy()
    adata.var["human_symbol"] = ["GENE01", *adata.var_names[1:]]
    with pytest.raises(InputError, match="human symbols: expected unique names, found GENE01 rep"):
        fit(adata, SpaceOptions("shared", shared))
    space = fit(adata, SpaceOptions("shared", shared, GeneOptions(on_duplicates="first")))
    assert len(space.panel) == 39
    assert len(fit(adata, SpaceOptions("aligned", shared)).panel) == 40


def test_ids_are_read_through_a_table(courses, shared):
    adata = courses["a"].copy()
    table = {f"ENSG{i:011d}": symbol for i, symbol in enumerate(adata.var_names)}
    adata.var_names = [f"{name}.3" for name in table]
    options = SpaceOptions("shared", shared, GeneOptions(table))
    z = fit(adata, options).project(read_source(adata), options.genes)[0]
    expected = fit(courses["a"], SpaceOptions("shared", shared))
    np.testing.assert_array_equal(z, expected.project(read_source(courses["a"]))[0])
    # own components need no symbols, neither do they need them in another file
    own = fit(adata)
    np.testing.assert_array_equal(own.panel.names, adata.var_names)


def test_all_genes_of_a_file_get_loadings(courses, shared):
    """Those in the panel keep theirs, others get those of a regression."""
    adata = courses["d"]
    part = adata[:, 10:].copy()
    for options in (None, SpaceOptions("shared", shared), SpaceOptions("aligned", shared)):
        space = fit(part, options, n_dims=4)
        states, _ = space.project(read_source(adata[:, ::-1]))
        subspace, inferred = space.over_genes(read_source(adata[:, ::-1]), states)
        expected = inferred[::-1][:10] if options is None or options.mode == "aligned" else None
        if expected is not None:
            assert expected.all()
            assert inferred.sum() == 10
        known = np.flatnonzero(~inferred)
        names = adata.var_names[::-1][known]
        at = [list(part.var_names).index(name) for name in names]
        np.testing.assert_allclose(subspace.loadings[known], space.subspace.loadings[at], atol=1e-5)
        x = adata.X[:, ::-1]
        left = np.square(x - subspace.reconstruct(states)).mean(0) / x.var(0)
        assert np.median(left[inferred]) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "common"}, "subspace mode: expected own or shared or aligned, found common"),
        ({"mode": "aligned"}, "subspace mode aligned: expected a shared subspace, found none"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SpaceOptions(**options)
    with pytest.raises(InputError, match="on_duplicates: expected error or sum or mean or first"):
        GeneOptions(on_duplicates="max")


def test_embeddings_have_no_shared_space(courses, shared):
    adata = courses["a"].copy()
    adata.obsm["X_pca"] = adata.X[:, :3]
    with pytest.raises(InputError, match=r"mode shared: expected genes, found the embedding obsm"):
        LatentSpace.fit(
            read_source(adata, use_rep="X_pca"),
            read_times(adata, "day"),
            SpaceOptions("shared", shared),
        )
    adata.uns["space"] = "pca"
    with pytest.raises(InputError, match="a: expected genes, found an embedding; leave it out"):
        fit_shared_subspace({"a": adata})


def test_what_may_not_be_seen_is_left_out(courses, shared):
    """The set is known by its cells that may be seen; those that share cells with it go."""
    adata = courses["c"]
    rows = (adata.obs["day"] != 1.0).to_numpy()
    blind = seen_only(read_source(adata), "c", rows, SpaceOptions("shared", shared))
    assert sorted(blind.shared.members) == ["a", "c", "d"]
    assert blind.shared.members["c"].moments.cells == rows.sum()
    stranger = SpaceOptions("shared", shared)
    assert seen_only(read_source(adata), "unknown", rows, stranger) is stranger
    assert seen_only(read_source(adata), "c", rows, SpaceOptions()).shared is None


@pytest.mark.parametrize("mode", ["shared", "aligned"])
def test_strict_never_shows_the_held_out_time(courses, shared, mode):
    """Whatever the held-out cells are, a fit sees the same numbers in the same space."""

    class Spy:
        def __call__(self, fold, seed):
            import torch

            from cellmnn_fm import CellMNNConfig, CellMNNModel

            self.fold = fold
            torch.manual_seed(seed)
            config = CellMNNConfig(latent_dim=fold.training.latent_dim, rank=1)
            return Dynamics(CellMNNModel(config).eval(), fold.training.time_scale), 0

    spoilt = courses["a"].copy()
    held_out = (spoilt.obs["day"] == 1.0).to_numpy()
    spoilt.X[held_out] = np.random.default_rng(5).normal(size=(held_out.sum(), 40)) * 30
    same = {}
    for protocol in ("strict", "published"):
        spies = [Spy(), Spy()]
        for spy, adata in zip(spies, (courses["a"], spoilt), strict=True):
            members = fit_shared_subspace({**courses, "a": adata}, n_dims=4)
            evaluate(
                adata,
                [Candidate(spy, {"spy": "two_sided"})],
                FitReading(time_key="day", n_dims=3, subspace=members, subspace_mode=mode),
                protocol=protocol,
                seeds=1,
            )
        one, other = (spy.fold for spy in spies)
        assert one.scored_in(one.truth).shape[1] == 3
        assert one.training.latent_dim == 4
        probe = one.training.snapshots[0]
        same[protocol] = np.array_equal(probe, other.training.snapshots[0]) and np.array_equal(
            one.scored_in(probe), other.scored_in(probe)
        )
    assert same == {"strict": True, "published": False}


def test_aligned_scores_are_in_the_same_components_as_own_ones(courses, shared):
    """The baselines, which do not depend on a fit, are the same to rounding."""
    adata = courses["d"]
    found = {
        mode: evaluate(
            adata,
            [],
            FitReading(
                time_key="day",
                n_dims=3,
                subspace=None if mode == "own" else shared,
                subspace_mode=mode,
            ),
            seeds=1,
        ).summary
        for mode in ("own", "aligned", "shared")
    }
    for method in ("previous", "next", "ot_interpolate"):
        w1 = {mode: summary[method]["w1_mean"] for mode, summary in found.items()}
        assert w1["aligned"] == pytest.approx(w1["own"], rel=2e-3)
        assert w1["shared"] == pytest.approx(w1["own"], rel=0.2)


@pytest.mark.slow
def test_every_file_of_the_collection_goes_through_both_modes(data_folder):
    import json

    genes = GeneOptions(on_duplicates="mean")
    catalog = json.loads((data_folder / "catalog.json").read_text())
    adatas = {
        entry["name"]: anndata.read_h5ad(data_folder / entry["file"], backed="r")
        for entry in catalog
        if entry["space"] == "gene"
    }
    shared = fit_shared_subspace(adatas, n_dims=8, genes=genes)
    for adata in adatas.values():
        source, times = read_source(adata), read_times(adata, "time")
        report = report_subspaces(source, times, shared, genes)
        assert report.coverage.matched >= 0.7 * report.coverage.data_genes
        assert report.variance_aligned == pytest.approx(report.variance_own_pca, rel=1e-3)
        assert 0 < report.variance_shared <= report.variance_own_pca
