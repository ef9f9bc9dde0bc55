"""Velocities of `annotate`, as scVelo and CellRank take them; neither is needed otherwise.

CellRank 2.0.7 cannot be installed beside us in one go: its dependency pygpcca pins jinja2 3.0.3.
With `pip install --no-deps cellrank pygpcca docrep progressbar2 pygam python-utils` after scVelo
these tests run.
"""

import anndata
import numpy as np
import pytest

from cellmnn_fm import CellMNNPipeline

KEYS = {"vkey": "cellmnn_velocity", "xkey": "cellmnn_expression"}


@pytest.fixture(scope="module")
def annotated(data_folder):
    """Cells of a real course, and their neighbours in the latent space."""
    adata = anndata.read_h5ad(data_folder / "ipsc_cardiomyocyte.h5ad")[::3].copy()
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    cells = base.annotate(adata, time_key="time")
    scanpy = pytest.importorskip("scanpy", reason="needs scanpy")
    scanpy.pp.neighbors(cells, use_rep="X_cellmnn", n_neighbors=20)
    return cells


def later(transitions, adata):
    """How much later than a cell the cells are that it goes to, on the mean of all cells."""
    times = adata.obs["time"].to_numpy()
    kept = times < times.max()
    return float((transitions @ times - times)[kept].mean())


@pytest.fixture(scope="module")
def transitions(annotated):
    """From cell to cell, as scVelo has them of the velocities."""
    scvelo = pytest.importorskip("scvelo", reason="needs scVelo")
    scvelo.tl.velocity_graph(annotated, **KEYS, show_progress_bar=False)
    return scvelo.utils.get_transition_matrix(annotated, vkey=KEYS["vkey"])


def test_scvelo_builds_its_graph(annotated, transitions):
    assert later(transitions, annotated) > 0.1


def test_cellrank_has_a_kernel_of_it(annotated, transitions):
    """Its own kernel of velocities stops with numpy 2.4 (an argument of a check was renamed)."""
    cellrank = pytest.importorskip("cellrank", reason="needs CellRank")
    kernel = cellrank.kernels.PrecomputedKernel(transitions, adata=annotated)
    drawn = kernel.transition_matrix
    np.testing.assert_allclose(np.asarray(drawn.sum(axis=1)).ravel(), 1, rtol=1e-5)
    assert later(drawn, annotated) > 0.1
    estimator = cellrank.estimators.GPCCA(kernel)
    estimator.compute_eigendecomposition(k=4)
    assert estimator.eigendecomposition is not None
