"""Files of every age and of every kind: read rightly, or refused in one sentence.

The layouts of anndata 0.5 to 0.8 are written here with h5py and zarr as those versions wrote them,
so that no file of others is needed.
"""

import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.tests.helpers import gen_adata
from scipy import sparse

from cellmnn_fm import CellMNNPipeline, InputError, TimeCourse
from cellmnn_fm.data.files import read_file

STAGES = np.array(["E7", "E8", "E9"])
GENES = [f"GENE{number}" for number in range(12)]


@pytest.fixture(scope="module")
def expected():
    """60 cells of three days, dense."""
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, (60, 12)).astype(np.float32)
    x[0, 0] = 0.5  # on a log scale, as far as a reader can tell
    obs = pd.DataFrame({"stage": np.repeat(STAGES, 20), "depth": rng.random(60)})
    obs.index = [f"cell{number}" for number in range(60)]
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))


def as_compound(frame, codes):
    """A table as one array of records, with the code of each category: anndata before 0.7."""
    columns = {"index": np.array(frame.index, dtype="S16")}
    columns |= {name: codes.get(name, values.to_numpy()) for name, values in frame.items()}
    kinds = [(name, values.dtype) for name, values in columns.items()]
    records = np.empty(len(frame), dtype=kinds)
    for name, values in columns.items():
        records[name] = values
    return records


def write_version_5(file, adata, as_sparse):
    """Records for tables, categories in `uns`; sparse values said by an attribute of their own."""
    codes = {"stage": np.searchsorted(STAGES, adata.obs["stage"].to_numpy(str)).astype(np.int8)}
    with h5py.File(file, "w") as root:
        root["obs"] = as_compound(adata.obs, codes)
        root["var"] = as_compound(adata.var, {})
        root["uns/stage_categories"] = STAGES.astype("S8")
        if not as_sparse:
            root["X"] = adata.X
            return
        values = sparse.csr_matrix(adata.X)
        for part in ("data", "indices", "indptr"):
            root[f"X/{part}"] = getattr(values, part)
        root["X"].attrs["h5sparse_format"] = "csr"
        root["X"].attrs["h5sparse_shape"] = values.shape


def write_version_7(root, adata, as_sparse):
    """Groups for tables, the categories of all columns beside them; `encoding-version` 0.1.0."""
    for name, frame in (("obs", adata.obs), ("var", adata.var)):
        table = root.create_group(name)
        about = {"_index": "_index", "column-order": list(frame.columns)}
        table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", **about})
        put(table, "_index", np.array(frame.index, dtype=object))
        for column, values in frame.items():
            if column != "stage":
                put(table, column, values.to_numpy())
                continue
            put(table, column, np.searchsorted(STAGES, values.to_numpy(str)).astype(np.int8))
            put(table, "__categories/stage", STAGES.astype(object))
            if isinstance(root, h5py.File):
                table[column].attrs["categories"] = table["__categories/stage"].ref
            else:
                table[column].attrs["categories"] = "__categories/stage"
    if not as_sparse:
        put(root, "X", np.asarray(adata.X))
        return
    values = sparse.csr_matrix(adata.X)
    for part in ("data", "indices", "indptr"):
        put(root, f"X/{part}", getattr(values, part))
    about = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
    root["X"].attrs.update({**about, "shape": list(values.shape)})


def put(group, name, values):
    """An array; text as text of any length."""
    if isinstance(group, h5py.Group):
        kind = h5py.string_dtype() if values.dtype == object else values.dtype
        group.create_dataset(name, data=values, dtype=kind)
    elif values.dtype == object:
        from numcodecs import VLenUTF8

        array = group.create_array(
            name, shape=values.shape, dtype=str, filters=[VLenUTF8()], compressors=None
        )
        array[:] = values.astype(str)
    else:
        group.create_array(name, data=values)


@pytest.fixture(params=["dense", "sparse"])
def as_sparse(request):
    return request.param == "sparse"


@pytest.fixture(params=["0.5 h5ad", "0.7 h5ad", "0.7 zarr", "today h5ad", "today zarr"])
def file_of_age(request, tmp_path, expected, as_sparse):
    """A file as a version of anndata wrote it."""
    version, form = request.param.split()
    file = tmp_path / f"old.{form}"
    if version == "0.5":
        write_version_5(file, expected, as_sparse)
    elif version == "0.7" and form == "h5ad":
        with h5py.File(file, "w") as root:
            write_version_7(root, expected, as_sparse)
    elif version == "0.7":
        write_version_7(zarr.open_group(file, mode="w", zarr_format=2), expected, as_sparse)
    else:
        adata = expected.copy()
        adata.X = sparse.csr_matrix(adata.X) if as_sparse else adata.X
        getattr(adata, f"write_{form}")(file)
    return file


def test_files_of_every_age(file_of_age, expected):
    adata = read_file(file_of_age)
    values = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    np.testing.assert_array_equal(values, expected.X)
    assert list(adata.obs_names) == list(expected.obs_names)
    assert list(adata.var_names) == GENES
    assert adata.obs["stage"].astype(str).tolist() == expected.obs["stage"].tolist()
    course, now = (TimeCourse.from_anndata(one, time_key="stage") for one in (adata, expected))
    np.testing.assert_array_equal(course.times, [7, 8, 9])
    for snapshot, today in zip(course.snapshots, now.snapshots, strict=True):
        np.testing.assert_allclose(snapshot, today, atol=1e-4)


KINDS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_anything_that_anndata_holds(kind, tmp_path):
    """70 random files with every kind of column, embedding, layer and array of today's anndata.

    Every column of `obs` and every embedding is tried: a course of all cells, or an InputError.
    """
    rng = np.random.default_rng(list(KINDS).index(kind))
    read, refused = 0, 0
    for number in range(70):
        shape = (int(rng.integers(2, 60)), int(rng.integers(1, 30)))
        dtype = rng.choice([np.float32, np.float64, np.int64])
        adata = gen_adata(shape, KINDS[kind], X_dtype=dtype, random_state=rng)
        adata.obs["day"] = rng.choice([0.0, 1.5, 4.0], shape[0])
        if number % 20 == 0:
            file = tmp_path / f"{number}.h5ad"
            adata.write_h5ad(file)
            adata = read_file(file)
        asked = [(column, None) for column in adata.obs] + [("day", key) for key in adata.obsm]
        for time_key, use_rep in asked:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    course = TimeCourse.from_anndata(adata, time_key=time_key, use_rep=use_rep)
            except InputError:
                refused += 1
                continue
            read += 1
            assert sum(map(len, course.snapshots)) == adata.n_obs
            assert all(np.isfinite(snapshot).all() for snapshot in course.snapshots)
    assert read > 100
    assert refused > 100


def test_results_survive_concat_write_and_read(tmp_path, expected):
    adata = expected.copy()
    pipeline = CellMNNPipeline().fit(adata, time_key="stage", verdict=False, steps=5)
    annotated = pipeline.annotate(adata)
    both = anndata.concat([annotated, annotated], keys=["a", "b"], index_unique="-", label="half")
    both.write_h5ad(tmp_path / "both.h5ad")
    back = read_file(tmp_path / "both.h5ad")
    for key in ("X_cellmnn", "cellmnn_velocity"):
        np.testing.assert_array_equal(
            back.obsm[key], np.concatenate([np.asarray(annotated.obsm[key])] * 2)
        )
    again = pipeline.annotate(back[back.obs["half"] == "a"])
    np.testing.assert_allclose(again.obsm["X_cellmnn"], annotated.obsm["X_cellmnn"], atol=1e-4)
