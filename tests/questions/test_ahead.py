"""Which cells are ahead of their time: where they have not started together."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS


@pytest.fixture(scope="module")
def asynchronous():
    """Cells that turn and contract, up to one unit late, and by how much."""
    system, rng = KNOWN_SYSTEMS["linear"], np.random.default_rng(0)
    times = np.repeat([1.0, 2.0, 3.0, 4.0], 80)
    come = times - rng.uniform(0, 1, size=len(times))
    start = system.draw_initial(rng, len(times))
    x = np.concatenate(
        [system.followed(start[[row]], come[row])[0] for row in range(len(times))]
    ).astype(np.float32)
    obs = pd.DataFrame({"time": times, "come": come}, index=[f"c{at}" for at in range(len(times))])
    adata = anndata.AnnData(x, obs=obs, uns={"space": "pca"})
    return adata, CellMNNPipeline().fit(adata, time_key="time", verdict=False)


def test_ranks_go_with_the_true_progress(asynchronous):
    adata, pipeline = asynchronous
    found = pipeline.annotate(adata, ahead=True).obs
    for time in (2.0, 3.0):
        rows = found["time"] == time
        assert spearmanr(found.loc[rows, "cellmnn_ahead"], found.loc[rows, "come"])[0] > 0.5
    late = found["time"] + found["cellmnn_ahead"]
    assert late.between(1.0, 4.0).all()
    assert "cellmnn_ahead" not in pipeline.annotate(adata).obs


def test_it_is_the_same_cell_by_cell_and_for_a_base(asynchronous, make_base, tmp_path):
    adata, pipeline = asynchronous
    whole = pipeline.annotate(adata, ahead=True).obs["cellmnn_ahead"]
    order = np.random.default_rng(0).permutation(adata.n_obs)
    mixed = pipeline.annotate(adata[order].copy(), ahead=True).obs["cellmnn_ahead"]
    np.testing.assert_allclose(mixed.loc[whole.index], whole, atol=1e-4)
    base = CellMNNPipeline.from_pretrained(make_base(tmp_path / "base"))
    of_base = base.annotate(adata, ahead=True, time_key="time", use_rep="X").obs["cellmnn_ahead"]
    assert np.corrcoef(of_base, whole)[0, 1] > 0.8


def test_the_command(asynchronous, tmp_path):
    adata, pipeline = asynchronous
    adata.write_h5ad(tmp_path / "cells.h5ad")
    pipeline.save_pretrained(tmp_path / "model")
    arguments = ["annotate", tmp_path / "model", tmp_path / "cells.h5ad", "--ahead"]
    result = CliRunner().invoke(app, [*map(str, arguments), "-o", str(tmp_path / "out.h5ad")])
    assert result.exit_code == 0, result.output
    assert "cellmnn_ahead" in anndata.read_h5ad(tmp_path / "out.h5ad").obs
