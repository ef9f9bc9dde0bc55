"""AnnData in, AnnData out, and the same after loading."""

import anndata
import numpy as np
import pytest
import torch

from cellmnn_fm import CellMNNPipeline, InputError


@pytest.fixture
def fitted(adata):
    return CellMNNPipeline().fit(adata, time_key="day", n_dims=4, steps=20)


def test_fit_returns_a_new_pipeline(adata, fitted):
    assert fitted.genes == list(adata.var_names)
    assert fitted.record.times == [0.0, 1.0, 3.0]
    assert fitted.record.cells == [30, 30, 30]
    assert len(fitted.record.losses) == 20
    empty = CellMNNPipeline()
    assert empty.fit(adata, time_key="day", steps=1) is not empty
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
    assert loaded.genes == fitted.genes
    np.testing.assert_array_equal(
        loaded.interpolate(adata, 2.2).X, fitted.interpolate(adata, 2.2).X
    )


def test_interpolated_cells_survive_a_file(adata, fitted, tmp_path):
    found = fitted.interpolate(adata, 2.0, two_sided=False)
    found.write_h5ad(tmp_path / "found.h5ad")
    again = anndata.read_h5ad(tmp_path / "found.h5ad")
    np.testing.assert_array_equal(again.X, found.X)
    np.testing.assert_array_equal(again.obsm["X_cellmnn"], found.obsm["X_cellmnn"])
    assert dict(again.uns["cellmnn"]) == {"at": 2.0, "two_sided": False, "n_steps": 1}


def test_genes_may_come_in_any_order_but_must_be_there(adata, fitted):
    shuffled = adata[:, ::-1].copy()
    np.testing.assert_allclose(
        fitted.interpolate(shuffled, 0.5).X, fitted.interpolate(adata, 0.5).X, atol=1e-5
    )
    with pytest.raises(
        InputError, match=r"genes: expected the 8 .* found 2 of them missing, such as g0"
    ):
        fitted.interpolate(adata[:, 2:].copy(), 0.5)


def test_embeddings_come_back_as_coordinates(adata):
    adata.obsm["X_emb"] = adata.X[:, :3] * 10 + 100
    pipeline = CellMNNPipeline().fit(adata, time_key="day", use_rep="X_emb", steps=20)
    found = pipeline.interpolate(adata, 0.5)
    assert list(found.var_names) == ["X_emb_0", "X_emb_1", "X_emb_2"]
    assert abs(found.X.mean() - adata.obsm["X_emb"][:60].mean()) < 5
    assert abs(found.obsm["X_cellmnn"].mean()) < 1


def test_the_frame_is_saved_with_the_model(adata, tmp_path):
    fitted = CellMNNPipeline().fit(adata, time_key="day", frame=True, n_dims=3, steps=5)
    fitted.save_pretrained(tmp_path)
    frame = CellMNNPipeline.from_pretrained(tmp_path).model.frame_state()
    for name, value in vars(fitted.model.frame_state()).items():
        assert torch.equal(getattr(frame, name), value)
    assert frame.mean.abs().sum() > 0


def test_repeated_gene_names_are_refused(adata):
    adata.var_names = ["same", "same", *adata.var_names[2:]]
    with pytest.raises(InputError, match="var_names: expected unique names, found same repeated"):
        CellMNNPipeline().fit(adata, time_key="day", steps=1)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pipeline.json"])
def test_a_broken_file_is_refused(fitted, tmp_path, name):
    fitted.save_pretrained(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="expected a saved pipeline, found files that do not load"):
        CellMNNPipeline.from_pretrained(tmp_path)


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a saved pipeline, found no config\.json"):
        CellMNNPipeline.from_pretrained(tmp_path)
