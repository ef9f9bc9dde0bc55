"""AnnData in, AnnData out, and the same after loading."""

import subprocess
import sys

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.data.shared_subspace import fit_shared_subspace
from cellmnn_fm.dynamics.snapshots import velocity_at


@pytest.fixture
def fitted(adata):
    return CellMNNPipeline().fit(adata, time_key="day", n_dims=4, steps=20, verdict=False)


def test_fit_returns_a_new_pipeline(adata, fitted):
    assert fitted.panel.names == tuple(adata.var_names)
    assert fitted.record.times == [0.0, 1.0, 3.0]
    assert fitted.record.cells == [30, 30, 30]
    assert len(fitted.record.losses) == 20
    empty = CellMNNPipeline()
    assert empty.fit(adata, time_key="day", steps=1, verdict=False) is not empty
    with pytest.raises(InputError, match="pipeline: expected a fitted one"):
        empty.interpolate(adata, 0.5)


def test_interpolation_is_an_anndata_in_gene_space(adata, fitted):
    found = fitted.interpolate(adata, 0.5)
    assert found.shape == (60, 8)
    assert list(found.var_names) == list(adata.var_names)
    assert found.obs["weight"].sum() == pytest.approx(1)
    assert set(found.obs["source_time"]) == {0.0, 1.0}
    assert set(found.obs["source_cell"]) == set(adata.obs_names[:60])
    assert (found.obs["time"] == 0.5).all()
    subspace = fitted.subspace
    np.testing.assert_allclose(found.X, subspace.reconstruct(found.obsm["X_cellmnn"]), rtol=1e-5)
    np.testing.assert_array_equal(found.varm["cellmnn_loadings"], subspace.loadings)
    means = adata.X[:30].mean(0), found.X.mean(0), adata.X[30:60].mean(0)
    assert (np.abs(means[1] - (means[0] + means[2]) / 2) < 0.5).all()


def test_saved_and_loaded_gives_the_same_cells(adata, fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    loaded = CellMNNPipeline.from_pretrained(tmp_path)
    assert loaded.record == fitted.record
    assert loaded.panel == fitted.panel
    np.testing.assert_array_equal(
        loaded.interpolate(adata, 2.2).X, fitted.interpolate(adata, 2.2).X
    )


def test_interpolated_cells_survive_a_file(adata, fitted, tmp_path):
    found = fitted.interpolate(adata, 2.0, two_sided=False)
    found.write_h5ad(tmp_path / "found.h5ad")
    again = anndata.read_h5ad(tmp_path / "found.h5ad")
    np.testing.assert_array_equal(again.X, found.X)
    np.testing.assert_array_equal(again.obsm["X_cellmnn"], found.obsm["X_cellmnn"])
    settings = dict(again.uns["cellmnn"])
    coverage = {"matched": 8, "data_genes": 8, "panel_genes": 8}
    assert settings.pop("coverage") == coverage
    assert settings == {
        "at": 2.0,
        "two_sided": False,
        "n_steps": 1,
        "blend": False,
        "damping": 0.25,
    }


def test_genes_may_come_in_any_order_and_some_may_be_missing(adata, fitted):
    expected = fitted.interpolate(adata, 0.5)
    shuffled = fitted.interpolate(adata[:, ::-1].copy(), 0.5)
    np.testing.assert_allclose(shuffled.X, expected.X, atol=1e-5)
    some = fitted.interpolate(adata[:, 1:].copy(), 0.5)
    assert some.uns["cellmnn"]["coverage"]["matched"] == 7
    assert list(some.var_names) == list(adata.var_names)
    assert np.abs(some.X.mean(0) - expected.X.mean(0)).max() < 0.5
    other = adata[:, :5].copy()
    del other.var["human_symbol"]
    other.var_names = ["g0", "g1", "x", "y", "z"]
    with pytest.warns(UserWarning, match="low coverage: 2 genes matched, of 5 in the data and 8"):
        fitted.interpolate(other, 0.5)
    other.var_names = list("vwxyz")
    with pytest.raises(
        InputError, match=r"genes: expected some of the 8 of the panel, such as g0, g1, g2, found"
    ):
        fitted.interpolate(other, 0.5)


def test_coordinates_must_all_be_there(adata):
    adata.uns["space"] = "pca"
    pipeline = CellMNNPipeline().fit(adata, time_key="day", steps=1, verdict=False)
    with pytest.raises(InputError, match=r"coordinates: expected the 8 .* found 6 of them"):
        pipeline.interpolate(adata[:, 2:].copy(), 0.5)


@pytest.fixture
def shared(adata):
    """A shared subspace of the course and of one of other cells with some other genes."""
    del adata.var["human_symbol"]
    other = adata.copy()
    other.X = np.random.default_rng(1).normal(size=other.shape).astype(np.float32) + adata.X[::-1]
    other.var_names = [f"g{i}" for i in range(2, 10)]
    return fit_shared_subspace({"one": adata, "other": other}, n_dims=4)


@pytest.mark.parametrize("mode", ["shared", pytest.param("aligned", marks=pytest.mark.slow)])
def test_a_shared_subspace_is_part_of_the_checkpoint(adata, shared, tmp_path, mode):
    """What a new process says of genes, it knows from the checkpoint alone."""
    shared.save(tmp_path / "subspace")
    fitted = CellMNNPipeline().fit(
        adata,
        time_key="day",
        subspace=tmp_path / "subspace",
        subspace_mode=mode,
        steps=5,
        verdict=False,
    )
    assert fitted.model.config.latent_dim == 4
    assert fitted.record.subspace_mode == mode
    assert fitted.record.coverage.panel_genes == 10
    fitted.save_pretrained(tmp_path / "model")
    adata.write_h5ad(tmp_path / "course.h5ad")
    code = f"""
import anndata
from cellmnn_fm import CellMNNPipeline
pipeline = CellMNNPipeline.from_pretrained({str(tmp_path / "model")!r})
adata = anndata.read_h5ad({str(tmp_path / "course.h5ad")!r})
pipeline.interpolate(adata, 0.5).write_h5ad({str(tmp_path / "found.h5ad")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    found, expected = anndata.read_h5ad(tmp_path / "found.h5ad"), fitted.interpolate(adata, 0.5)
    assert list(found.var_names) == list(adata.var_names)
    np.testing.assert_array_equal(found.X, expected.X)
    np.testing.assert_array_equal(found.obsm["X_cellmnn"], expected.obsm["X_cellmnn"])
    np.testing.assert_array_equal(found.varm["cellmnn_loadings"], fitted.subspace.loadings)
    np.testing.assert_array_equal(
        found.layers["cellmnn_velocity"], expected.layers["cellmnn_velocity"]
    )


def test_aligned_is_the_default_of_a_shared_subspace(adata, shared):
    fitted = CellMNNPipeline().fit(
        adata, time_key="day", subspace=shared, n_dims=3, steps=1, verdict=False
    )
    assert fitted.record.subspace_mode == "aligned"
    assert fitted.model.config.latent_dim == 3
    own = fitted.subspace.own_scores(fitted.annotate(adata).obsm["X_cellmnn"])
    np.testing.assert_allclose(own.std(0, ddof=1), 1, rtol=1e-3)
    evaluation = CellMNNPipeline().evaluate(
        adata, time_key="day", subspace=shared, n_dims=2, seeds=1
    )
    assert evaluation.settings["subspace_mode"] == "aligned"
    assert (evaluation.settings["n_dims"], evaluation.settings["latent_dim"]) == (2, 4)


@pytest.mark.parametrize("mode", ["own", "shared", "aligned"])
def test_annotation_of_observed_cells(adata, shared, tmp_path, mode):
    """Velocities in gene space are those in latent space; genes of no fit get loadings too."""
    options = {} if mode == "own" else {"subspace": shared, "subspace_mode": mode}
    fitted = CellMNNPipeline().fit(
        adata[:, :6].copy(), time_key="day", steps=5, verdict=False, **options
    )
    found = fitted.annotate(adata)
    assert found.var["cellmnn_inferred"].tolist() == [False] * 6 + [True] * 2
    assert "cellmnn" not in adata.uns
    loadings = found.varm["cellmnn_loadings"]
    np.testing.assert_allclose(loadings[:6], fitted.subspace.loadings, atol=1e-6)
    np.testing.assert_allclose(
        found.layers["cellmnn_velocity"], found.obsm["cellmnn_velocity"] @ loadings.T, atol=1e-5
    )
    late = (adata.obs["day"] == 3).to_numpy()
    states = found.obsm["X_cellmnn"][late]
    velocity = velocity_at(fitted.fitted.dynamics, states, 3.0)
    np.testing.assert_allclose(found.obsm["cellmnn_velocity"][late], velocity, rtol=1e-5)
    left = np.square(found.X - found.layers["cellmnn_expression"]).mean(0)
    assert (left < found.X.var(0) * 1.01).all()
    found.write_h5ad(tmp_path / "annotated.h5ad")
    again = anndata.read_h5ad(tmp_path / "annotated.h5ad")
    np.testing.assert_array_equal(
        again.layers["cellmnn_expression"], found.layers["cellmnn_expression"]
    )
    lean = fitted.annotate(adata, layers=False)
    assert not list(lean.layers)
    backed = anndata.read_h5ad(tmp_path / "annotated.h5ad", backed="r")
    np.testing.assert_allclose(
        fitted.annotate(backed).obsm["X_cellmnn"], found.obsm["X_cellmnn"], atol=1e-5
    )


def test_a_course_on_disk_is_fitted_in_chunks(adata, tmp_path):
    adata.X = sparse.csr_matrix(np.where(adata.X > 0, adata.X, 0))
    adata.write_h5ad(tmp_path / "course.h5ad")
    backed = anndata.read_h5ad(tmp_path / "course.h5ad", backed="r")
    fitted = CellMNNPipeline().fit(backed, time_key="day", n_dims=3, steps=5, verdict=False)
    found, expected = fitted.interpolate(backed, 0.5), fitted.interpolate(adata, 0.5)
    np.testing.assert_allclose(found.X, expected.X, atol=1e-5)


def test_embeddings_come_back_as_coordinates(adata):
    adata.obsm["X_emb"] = adata.X[:, :3] * 10 + 100
    pipeline = CellMNNPipeline().fit(
        adata, time_key="day", use_rep="X_emb", steps=20, verdict=False
    )
    found = pipeline.interpolate(adata, 0.5)
    assert list(found.var_names) == ["X_emb_0", "X_emb_1", "X_emb_2"]
    assert abs(found.X.mean() - adata.obsm["X_emb"][:60].mean()) < 5
    assert abs(found.obsm["X_cellmnn"].mean()) < 1


def test_the_frame_is_saved_with_the_model(adata, tmp_path):
    fitted = CellMNNPipeline().fit(
        adata, time_key="day", frame=True, n_dims=3, steps=5, verdict=False
    )
    fitted.save_pretrained(tmp_path)
    frame = CellMNNPipeline.from_pretrained(tmp_path).model.frame_state()
    for name, value in vars(fitted.model.frame_state()).items():
        assert torch.equal(getattr(frame, name), value)
    assert frame.mean.abs().sum() > 0


def test_repeated_gene_names_are_refused(adata):
    adata.var_names = ["same", "same", *adata.var_names[2:]]
    with pytest.raises(InputError, match="var_names: expected unique names, found same repeated"):
        CellMNNPipeline().fit(adata, time_key="day", steps=1, verdict=False)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pipeline.json"])
def test_a_broken_file_is_refused(fitted, tmp_path, name):
    fitted.save_pretrained(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{name}: expected {len(content)} bytes, found"):
        CellMNNPipeline.from_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()  # as in models of before there were any
    with pytest.raises(InputError, match=r"expected .*found"):
        CellMNNPipeline.from_pretrained(tmp_path)


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a saved pipeline, found no config\.json"):
        CellMNNPipeline.from_pretrained(tmp_path)


def test_what_is_nowhere_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a folder, cellmnn-base, or a model of the Hub"):
        CellMNNPipeline.from_pretrained(tmp_path / "nothing")


def test_cells_of_a_single_time_may_be_asked_about(adata, fitted):
    some = adata[adata.obs["day"] == 1.0].copy()
    everything = fitted.annotate(adata)[adata.obs["day"] == 1.0]
    found = fitted.annotate(some)
    np.testing.assert_allclose(
        found.obsm["cellmnn_velocity"], everything.obsm["cellmnn_velocity"], rtol=1e-4, atol=1e-6
    )
    with pytest.raises(InputError, match="times: expected 2 or more different ones, found 1"):
        fitted.interpolate(some, 1.0)


def test_objects_introduce_themselves(adata):
    """In a line or two, with what to do next."""
    assert "fit, or from_pretrained" in repr(CellMNNPipeline())
    fitted = CellMNNPipeline().fit(adata, time_key="day", steps=2, verdict=False)
    lines = repr(fitted).splitlines()
    assert len(lines) == 2
    assert f"{adata.n_obs:,} cells" in lines[0]
    assert "without a verdict" in lines[1]
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    assert "pretrained on 29 data sets" in repr(base)
    adata.obs["side"] = np.where(np.arange(adata.n_obs) % 2, "left", "right")
    table = fitted.fates(adata, "side")
    assert "along one path each: left" in repr(table)
    gene = fitted.panel.names[0]
    shift = fitted.perturb(adata, {gene: "knock-out"}, "side")
    compared = base.compare(adata, "side", permutations=2, time_key="day")
    for answer, words in ((shift, "shifts fates by left"), (compared, "left and right")):
        assert words in repr(answer)
        assert len(repr(answer).splitlines()) == 2
    network = fitted.grn(adata)
    assert "not shown to be causes" in repr(network)
    in_notebooks = [
        (fitted, "<p>CellMNNPipeline of "),
        (table, f"<p>{adata.n_obs - 10} rows more</p>"),
        (shift, "<th>after</th>"),
        (compared, "<th>distance</th>"),
        (network, "<th>target</th>"),
        (fitted.evaluate(adata, time_key="day", seeds=1), "<th>energy / OT</th>"),
    ]
    for answer, shown in in_notebooks:
        assert shown in answer._repr_html_()
