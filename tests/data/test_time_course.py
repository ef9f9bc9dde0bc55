"""From AnnData to snapshots: what is read, and what is refused with which words."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellmnn_fm import InputError, TimeCourse
from cellmnn_fm.data.time_course import TimeScale


def test_genes_become_scaled_components(adata):
    course = TimeCourse.from_anndata(adata, time_key="day", n_dims=4)
    assert course.times.tolist() == [0.0, 1.0, 3.0]
    assert [snapshot.shape for snapshot in course.snapshots] == [(30, 4)] * 3
    states = np.concatenate(course.snapshots)
    np.testing.assert_allclose(states.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(states.std(0, ddof=1), 1, rtol=1e-4)
    centred = adata.X - adata.X.mean(0)
    explained = np.linalg.svd(centred, compute_uv=False)[:4] ** 2
    scores = states * np.linalg.norm(course.subspace.loadings, axis=0)
    np.testing.assert_allclose((scores**2).sum(0), explained, rtol=1e-4)


def test_an_embedding_is_taken_as_it_is(adata):
    adata.obsm["X_pca"] = adata.X[:, :3] * 7 + 50
    course = TimeCourse.from_anndata(adata, time_key="day", use_rep="X_pca")
    np.testing.assert_array_equal(np.concatenate(course.snapshots), adata.obsm["X_pca"])
    two = TimeCourse.from_anndata(adata, time_key="day", use_rep="X_pca", n_dims=2)
    assert two.latent_dim == 2
    adata.uns["space"] = "pca"  # coordinates in X, as in the shared files
    as_x = TimeCourse.from_anndata(adata, time_key="day")
    np.testing.assert_array_equal(np.concatenate(as_x.snapshots), adata.X)


@pytest.mark.parametrize(
    "convert",
    [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, lambda x: x.astype(np.float64)],
    ids=["csr_matrix", "csc_matrix", "csr_array", "float64"],
)
def test_kinds_of_matrices_give_the_same_states(adata, convert):
    expected = TimeCourse.from_anndata(adata, time_key="day", n_dims=3)
    adata.X = convert(adata.X)
    found = TimeCourse.from_anndata(adata, time_key="day", n_dims=3)
    for one, other in zip(found.snapshots, expected.snapshots, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_layers_and_order_of_cells(adata):
    adata.layers["log"] = adata.X.copy()
    adata.X[:] = 0
    shuffled = adata[np.random.default_rng(0).permutation(90)].copy()
    course = TimeCourse.from_anndata(shuffled, time_key="day", layer="log", n_dims=3)
    for time, snapshot in zip(course.times, course.snapshots, strict=True):
        expected = shuffled.layers["log"][shuffled.obs["day"] == time]
        np.testing.assert_allclose(course.subspace.project(expected), snapshot, atol=1e-5)


@pytest.mark.parametrize(
    "column",
    [
        np.repeat([0, 1, 3], 30),
        pd.Categorical(np.repeat([0.0, 1.0, 3.0], 30)),
        pd.Categorical(np.repeat(["0", "1", "3"], 30)),
        np.repeat(["0", "1.0", "3"], 30),
        np.repeat(np.float32([0, 1, 3]), 30),
    ],
    ids=["int", "categorical", "categorical_text", "text", "float32"],
)
def test_numeric_times_of_any_kind(adata, column):
    adata.obs["t"] = column
    assert TimeCourse.from_anndata(adata, time_key="t").times.tolist() == [0.0, 1.0, 3.0]


def test_time_scale_keeps_uneven_gaps():
    scale = TimeScale.of([-2.0, 0.0, 10.0, 16.0])
    times = np.array([-2.0, 0.0, 10.0, 16.0])
    assert scale.to_model(times)[[0, -1]].tolist() == [0.0, 3.0]
    np.testing.assert_allclose(np.diff(scale.to_model(times)), np.diff(times) / 6)
    np.testing.assert_allclose(scale.to_user(scale.to_model(times)), times)


def no_column(adata):
    del adata.obs["day"]


def nan_time(adata):
    adata.obs.loc[adata.obs_names[:4], "day"] = np.nan


def infinite_time(adata):
    adata.obs.loc[adata.obs_names[:4], "day"] = np.inf


def text_time(adata):
    adata.obs["day"] = ["early"] * 45 + ["late"] * 45


def one_time(adata):
    adata.obs["day"] = 2.0


def lonely_cell(adata):
    adata.obs.loc[adata.obs_names[0], "day"] = 7.0


def nan_value(adata):
    adata.X[3, 2] = np.nan


def infinite_sparse(adata):
    adata.X[5, 1] = np.inf
    adata.X = sparse.csr_matrix(adata.X)


def equal_cells(adata):
    adata.X[:] = 1.0


def nothing_in_x(adata):
    adata.X = None


BAD_INPUT = {
    no_column: 'time column "day": expected a column of obs, found columns (none); name the column',
    nan_time: 'time column "day": expected a time for every cell, found 4 of 90 without; remove',
    infinite_time: 'time column "day": expected finite numbers, found inf; remove',
    text_time: 'time column "day": expected numbers, or labels such as day3',
    one_time: "times: expected 2 or more different ones, found 1 (2); dynamics need snapshots",
    lonely_cell: "cells: expected 2 or more at every time, found 1 at 7; remove those times",
    nan_value: "X: expected finite values, found 1 of 720 NaN or infinite; remove or impute them",
    infinite_sparse: "X: expected finite values, found 1 of 720 NaN or infinite; remove or impute",
    equal_cells: "expression: expected cells that differ from each other, found all of them equal",
    nothing_in_x: "X: expected values of cells and genes, found nothing; check how the file",
}


@pytest.mark.parametrize("spoil", BAD_INPUT, ids=lambda spoil: spoil.__name__)
def test_bad_input_is_refused_in_one_line(adata, spoil):
    spoil(adata)
    with pytest.raises(InputError) as caught:
        TimeCourse.from_anndata(adata, time_key="day")
    message = str(caught.value)
    assert message.startswith(BAD_INPUT[spoil])
    assert "\n" not in message


def test_no_genes_are_refused(adata):
    with pytest.raises(InputError, match="expected values of cells and genes, found 90 cells, 0"):
        TimeCourse.from_anndata(adata[:, :0].copy(), time_key="day")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_rep": "X_umap"}, r'obsm\["X_umap"\]: expected an array, found keys \(none\)'),
        ({"layer": "raw"}, r'layers\["raw"\]: expected an array, found keys \(none\)'),
        (
            {"layer": "a", "use_rep": "b"},
            "expected use_rep or layer, found use_rep='b' and layer='a'",
        ),
        ({"n_dims": 0}, "n_dims: expected at least 1, found 0"),
    ],
)
def test_options_that_name_nothing_are_refused(adata, options, message):
    with pytest.raises(InputError, match=message):
        TimeCourse.from_anndata(adata, time_key="day", **options)


def test_snapshots_given_directly_are_validated():
    cells = np.zeros((3, 2))
    with pytest.raises(InputError, match="expected 2 times, found 3"):
        TimeCourse([cells, cells], np.arange(3.0))
    with pytest.raises(InputError, match="times: expected ascending"):
        TimeCourse([cells, cells], np.array([1.0, 0.0]))
    with pytest.raises(InputError, match=r"at time 1: expected an array \(cells, 2\)"):
        TimeCourse([cells, np.zeros((3, 4))], np.array([0.0, 1.0]))
    with pytest.raises(InputError, match="at time 0: expected finite values, found 6 of 6"):
        TimeCourse([cells * np.nan, cells], np.array([0.0, 1.0]))


def test_sizes_are_one_for_each_snapshot():
    snapshots = [np.zeros((3, 2)), np.ones((3, 2))]
    course = TimeCourse(snapshots, [0.0, 1.0], sizes=[10, 30])
    np.testing.assert_array_equal(course.sizes, [10.0, 30.0])
    for sizes in ([10.0], [10.0, 0.0], [10.0, np.nan]):
        with pytest.raises(InputError, match="sizes: expected a positive one for each snapshot"):
            TimeCourse(snapshots, [0.0, 1.0], sizes=sizes)


def test_more_components_than_there_are_give_those_there_are(adata):
    course = TimeCourse.from_anndata(adata, time_key="day", n_dims=99)
    assert course.latent_dim == 8
    adata.X[:, 4:] = adata.X[:, :4]  # rank 4
    assert TimeCourse.from_anndata(adata, time_key="day", n_dims=8).latent_dim == 4


def test_real_files_are_read(data_folder):
    import json

    catalog = json.loads((data_folder / "catalog.json").read_text())
    for entry in catalog:
        course = TimeCourse.from_anndata(
            anndata.read_h5ad(data_folder / entry["file"]), time_key="time", n_dims=3
        )
        assert sum(map(len, course.snapshots)) == entry["cells"]
        assert len(course.times) == len(entry["cells_per_time"])
