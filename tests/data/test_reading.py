"""Values of an AnnData wherever and however they are stored, in chunks and as a whole."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellmnn_fm import InputError
from cellmnn_fm.data import reading
from cellmnn_fm.data.reading import read_source

LAYOUTS = {
    "dense": np.asarray,
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: x.astype(np.int64),
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "csr_int32": lambda x: sparse.csr_matrix(x.astype(np.int32)),
}
PLACES = {"X": {}, "layer": {"layer": "counts"}, "raw": {"layer": "raw"}}


@pytest.fixture
def counts():
    return (
        np.random.default_rng(0).binomial(2, 0.35, size=(90, 13)).astype(np.float32)
    )  # no counts: at most 2


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_CELLS", 20)
    monkeypatch.setattr(reading, "_CHUNK_VALUES", 200)


def as_anndata(values):
    adata = anndata.AnnData(
        values.copy(), var=pd.DataFrame(index=[f"g{i}" for i in range(values.shape[1])])
    )
    adata.raw = adata.copy()
    adata.layers["counts"] = values.copy()
    return adata


def joined(chunks):
    parts = list(chunks)
    assert max(len(part) if isinstance(part, np.ndarray) else part.shape[0] for part in parts) <= 20
    assert all(isinstance(part, np.ndarray | sparse.csr_array) for part in parts)
    assert all(part.dtype == np.float32 for part in parts)
    return np.concatenate(
        [part if isinstance(part, np.ndarray) else part.toarray() for part in parts]
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backed", [False, True], ids=["memory", "disk"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_all_layouts_in_all_places(counts, small_chunks, tmp_path, layout, place, backed):
    adata = as_anndata(LAYOUTS[layout](counts))
    if backed:
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    source = read_source(adata, **PLACES[place])
    assert source.on_disk == (backed and place != "layer")
    assert source.names == [f"g{i}" for i in range(13)]
    np.testing.assert_array_equal(joined(source.chunks()), counts)
    rows = np.random.default_rng(1).random(90) < 0.4
    rows[20:40] = False  # a chunk without any
    np.testing.assert_array_equal(joined(source.chunks(rows)), counts[rows])
    whole = source.matrix()
    np.testing.assert_array_equal(
        whole if isinstance(whole, np.ndarray) else whole.toarray(), counts
    )


def test_views_are_read(counts, small_chunks):
    view = as_anndata(sparse.csr_matrix(counts))[::2, 3:]
    np.testing.assert_array_equal(joined(read_source(view).chunks()), counts[::2, 3:])


def test_columns_on_disk_are_read_once(counts, small_chunks, tmp_path, monkeypatch):
    """Rows of a matrix stored by columns never need the whole of it."""
    adata = as_anndata(sparse.csc_matrix(counts))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    source = read_source(anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    asked = []
    original = type(source.values).__getitem__

    def watched(self, index):
        part = original(self, index)
        asked.append(part.shape)
        return part

    monkeypatch.setattr(type(source.values), "__getitem__", watched)
    np.testing.assert_array_equal(joined(source.chunks()), counts)
    assert sum(shape[1] for shape in asked) == 13
    assert max(np.prod(shape) for shape in asked) <= 400


def test_raw_is_a_layer_of_that_name_if_there_is_one(counts):
    adata = as_anndata(counts)
    adata.layers["raw"] = counts * 2
    assert read_source(adata, layer="raw").name == 'layers["raw"]'
    del adata.layers["raw"]
    assert read_source(adata, layer="raw").name == "raw.X"
    adata.raw = None
    with pytest.raises(InputError, match=r'layers\["raw"\]: expected an array, found keys counts'):
        read_source(adata, layer="raw")


def test_raw_has_genes_of_its_own(counts):
    adata = as_anndata(counts)[:, :4].copy()
    assert read_source(adata, layer="raw").names == [f"g{i}" for i in range(13)]


def test_an_embedding_may_be_a_table(counts):
    adata = as_anndata(counts)
    adata.obsm["X_pca"] = pd.DataFrame(counts[:, :2], index=adata.obs_names, columns=["a", "b"])
    source = read_source(adata, use_rep="X_pca")
    assert source.is_embedding
    np.testing.assert_array_equal(source.matrix(), counts[:, :2])


@pytest.mark.parametrize("layout", ["dense", "csr_matrix"])
def test_bad_values_on_disk_are_refused(counts, tmp_path, layout):
    counts[70, 3] = np.nan
    as_anndata(LAYOUTS[layout](counts)).write_h5ad(tmp_path / "cells.h5ad")
    source = read_source(anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    with pytest.raises(InputError, match=r"X: expected finite values, found 1 of \d+ NaN"):
        list(source.chunks())
