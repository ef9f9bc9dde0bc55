"""A pretrained model as users get it: by name, for new data sets, and for those it knows."""

import anndata
import numpy as np
import pytest
import torch

from cellmnn_fm import CellMNNConfig, CellMNNModel, CellMNNPipeline, InputError
from cellmnn_fm.fitted.fitting import named


@pytest.fixture(scope="module", params=["aligned", "shared"])
def base(request, tmp_path_factory, make_base):
    """A small base of two data sets and a synthetic one, without a third; the folder it is in."""
    return make_base(tmp_path_factory.mktemp("base"), request.param)


def test_it_knows_its_data_sets_and_nothing_of_others(base):
    pipeline = CellMNNPipeline.from_pretrained(base)
    foundation = pipeline.foundation
    assert list(foundation.datasets) == ["one", "two"]
    assert foundation.record["steps"] == 3
    assert foundation.shared.panel.names == tuple(sorted(f"GENE{i}" for i in range(30)))
    assert not pipeline.model.frame_mean[2].any()
    with pytest.raises(InputError, match="data set: expected one of one, two, found out"):
        pipeline.of_dataset("out")
    with pytest.raises(InputError, match="pipeline: expected a fitted one"):
        _ = pipeline.record


def test_a_known_data_set_is_followed_without_its_file(base, make_adata):
    pipeline = CellMNNPipeline.from_pretrained(base)
    found = pipeline.of_dataset("two").trajectory(times=[0.0, 1.5, 4.0], cells=2000)
    assert found.shape == (6000, 20)
    assert found.obs["time"].unique().tolist() == [0.0, 1.5, 4.0]
    adata = make_adata(1, range(5, 25))
    assert list(found.var_names) == list(adata.var_names)
    for time in (0.0, 4.0):
        mean = found.X[(found.obs["time"] == time).to_numpy()].mean(0)
        truth = adata.X[(adata.obs["day"] == time).to_numpy()].mean(0)
        assert np.corrcoef(mean, truth)[0, 1] > 0.9
    assert len(pipeline.of_dataset("two").trajectory(cells=5)) == 20  # at its observed times


def test_a_new_data_set_needs_no_training(base, make_adata, tmp_path):
    pipeline = CellMNNPipeline.from_pretrained(base)
    before = {name: value.clone() for name, value in pipeline.model.state_dict().items()}
    adata = make_adata(7, range(3, 23))
    for start in ("inferred", "mean", "one"):
        adapted = pipeline.adapt(adata, time_key="day", start=start)
        found = adapted.interpolate(adata, 1.5)
        assert list(found.var_names) == list(adata.var_names)
        assert found.n_obs == 60
    assert adapted.record.coverage.matched == 20
    embedding = adapted.model.dataset_embeddings[0]
    assert torch.equal(embedding, pipeline.model.dataset_embeddings[0])
    assert all(torch.equal(v, before[n]) for n, v in pipeline.model.state_dict().items())
    adapted = pipeline.adapt(adata, time_key="day")
    adapted.save_pretrained(tmp_path / "adapted")
    loaded = CellMNNPipeline.from_pretrained(tmp_path / "adapted")
    np.testing.assert_array_equal(
        loaded.interpolate(adata, 1.5).X, adapted.interpolate(adata, 1.5).X
    )
    directly = pipeline.interpolate(adata, 1.5, time_key="day")
    np.testing.assert_array_equal(directly.X, adapted.interpolate(adata, 1.5).X)
    annotated = pipeline.annotate(adata, time_key="day")
    np.testing.assert_array_equal(
        annotated.obsm["X_cellmnn"], adapted.annotate(adata).obsm["X_cellmnn"]
    )
    assert pipeline.time_course(adata, time_key="day").times.tolist() == [0.0, 1.0, 2.0, 4.0]
    with pytest.raises(InputError, match="time_key: expected the column of times, found none"):
        pipeline.interpolate(adata, 1.5)


@pytest.mark.slow
def test_evaluation_adds_what_is_said_without_training(base, make_adata):
    pipeline = CellMNNPipeline.from_pretrained(base)
    adata = make_adata(7, range(3, 23))
    found = pipeline.evaluate(adata, time_key="day", seeds=1, n_dims=2)
    assert {"zero_shot", "blend", "untrained_two_sided", "two_sided"} <= set(found.summary)
    adata.uns.update(name="seven", overlaps=["one", "elsewhere"])
    with pytest.warns(UserWarning, match="the model was pretrained on one, held-out times incl"):
        pipeline.evaluate(adata, time_key="day", seeds=1, n_dims=2)
    with pytest.raises(InputError, match="subspace: expected none: a pretrained model has its own"):
        pipeline.evaluate(adata, time_key="day", subspace=pipeline.foundation.shared)


def test_a_broken_base_is_refused(base, tmp_path):
    import shutil

    shutil.copytree(base, tmp_path / "broken")
    (tmp_path / "broken" / "datasets.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"expected \d+ bytes, found 7"):
        CellMNNPipeline.from_pretrained(tmp_path / "broken")


def test_the_released_base_loads_by_name(monkeypatch, tmp_path):
    """Without a network, from wherever; a local folder of that name goes first."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    config = CellMNNConfig.from_pretrained("cellmnn-base")
    model = CellMNNModel.from_pretrained("cellmnn-base")
    pipeline = CellMNNPipeline.from_pretrained("cellmnn-base")
    assert config.latent_dim == model.config.latent_dim == 8
    assert config.dataset_dims == model.config.dataset_dims
    assert len(pipeline.foundation.datasets) == 29
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    for name, known in pipeline.foundation.datasets.items():
        found = pipeline.of_dataset(name).trajectory(cells=3, n_steps=1)
        assert np.isfinite(found.X).all(), name
        assert found.n_vars == len(known.panel)
    CellMNNModel(CellMNNConfig(latent_dim=2, rank=1)).save_pretrained("cellmnn-base")
    assert CellMNNModel.from_pretrained("cellmnn-base").config.latent_dim == 2


def test_the_released_base_is_small():
    from pathlib import Path

    import cellmnn_fm

    folder = Path(cellmnn_fm.__file__).parent / "model" / "pretrained" / "cellmnn-base"
    assert 0 < sum(file.stat().st_size for file in folder.rglob("*")) < 20e6
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".md"}


@pytest.mark.slow
def test_zero_shot_on_a_file_it_never_saw(data_folder):
    """The base was not trained on sets of coordinates."""
    adata = anndata.read_h5ad(data_folder / "emt_a549.h5ad")
    pipeline = CellMNNPipeline.from_pretrained("cellmnn-base")
    evaluation = pipeline.evaluate(adata, time_key="time_index", seeds=1)
    summary = evaluation.summary
    assert summary["zero_shot"]["ratio_to_ot_interpolate"] < 1.05


def test_a_name_that_the_base_has_gets_a_number():
    """What the file calls itself is no reason to refuse it; a name that was given is."""
    base = CellMNNPipeline.from_pretrained("cellmnn-base").foundation
    adata = anndata.AnnData(np.ones((3, 2)), uns={"name": "mef_neuron"})
    assert list(named(adata, None, base)) == ["mef_neuron_2"]
    assert list(named(adata, "mef_neuron", base)) == ["mef_neuron"]
    adata.uns["name"] = "mine"
    assert list(named(adata, None, base)) == ["mine"]
