"""Time courses of several files, in zarr of both versions, at addresses: as if of one file."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

from cellmnn_fm import Corpus, InputError, fit_shared_subspace
from cellmnn_fm.cli.app import app
from cellmnn_fm.data import files, reading
from cellmnn_fm.data.files import checksum, open_file, read_file
from cellmnn_fm.data.moments import GeneMoments
from cellmnn_fm.data.several_files import read_several


@pytest.fixture
def course(adata):
    """Counts, sparse, with a layer; three days that labels name."""
    rng = np.random.default_rng(1)
    rates = np.exp(0.3 * adata.X)
    adata.X = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    adata.layers["dense"] = adata.X.toarray()
    adata.obs["stage"] = adata.obs["day"].map("day{:g}".format)
    del adata.var["human_symbol"]
    adata.var_names = ["EOMES", "FOS", "GATA6", "JUN", "KLF4", "NANOG", "POU5F1", "SOX2"]
    return adata


@pytest.fixture
def corpus(course, tmp_path):
    shared = fit_shared_subspace({"one": course}, n_dims=4)
    return Corpus.create(tmp_path / "corpus", shared=shared)


def states(corpus, name):
    return np.concatenate(corpus[name].course().snapshots)


def test_several_files_are_one_course(course, corpus, tmp_path):
    """Each time in a file of its own, one of them stored by columns."""
    parts = []
    for number, day in enumerate([0.0, 1.0, 3.0]):
        part = course[course.obs["day"] == day].copy()
        part.X = sparse.csc_matrix(part.X) if number == 1 else part.X
        part.write_h5ad(tmp_path / f"{number}.h5ad")
        parts.append(open_file(tmp_path / f"{number}.h5ad"))
    corpus.add_anndata("one", course, time_key="day")
    corpus.add_anndata("parts", parts, time_key="stage")
    assert corpus.entries["parts"].times == [0, 1, 3]
    np.testing.assert_allclose(states(corpus, "parts"), states(corpus, "one"), atol=1e-5)
    source, times = read_several(parts, "stage")
    assert source.shape == course.shape
    assert source.on_disk
    np.testing.assert_array_equal(times, course.obs["day"])
    whole = sparse.vstack(list(source.chunks())).toarray()
    np.testing.assert_allclose(source.matrix().toarray(), whole)
    some = np.arange(90) % 3 == 0
    np.testing.assert_allclose(sparse.vstack(list(source.chunks(some))).toarray(), whole[some])
    np.testing.assert_allclose(source.column(2), whole[:, 2])


def test_files_that_are_not_of_one_course_are_refused(course, corpus):
    with pytest.raises(InputError, match="genes of file 2: expected the 8 of the first file"):
        corpus.add_anndata("x", [course, course[:, ::-1].copy()], time_key="day")
    logs = course.copy()
    logs.X = np.log1p(logs.X.toarray())
    with pytest.raises(InputError, match="values of file 2: expected counts values, found log"):
        corpus.add_anndata("x", [course, logs], time_key="day")
    other = course.copy()
    other.obs = pd.DataFrame(index=other.obs_names)
    with pytest.raises(InputError, match='"day" in every file, found none in'):
        corpus.add_anndata("x", [course, other], time_key="day")
    assert not corpus.entries


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_zarr_stays_on_disk(course, tmp_path, version, layout):
    course.X = {"csr": course.X, "csc": sparse.csc_matrix(course.X), "dense": course.X.toarray()}[
        layout
    ]
    with anndata.settings.override(zarr_write_format=version):
        course.write_zarr(tmp_path / "course.zarr")
    opened = open_file(tmp_path / "course.zarr")
    assert not isinstance(opened.X, np.ndarray)
    assert not sparse.issparse(opened.X)
    for layer in (None, "dense"):
        expected = reading.read_source(course, layer=layer).matrix()
        found = reading.read_source(opened, layer=layer)
        assert found.on_disk
        parts = [p if isinstance(p, np.ndarray) else p.toarray() for p in found.chunks()]
        dense = expected if isinstance(expected, np.ndarray) else expected.toarray()
        np.testing.assert_allclose(np.concatenate(parts), dense, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_large_zarr_stays_on_disk_by_default(course, tmp_path, monkeypatch):
    course.write_zarr(tmp_path / "course.zarr")
    assert sparse.issparse(read_file(tmp_path / "course.zarr").X)
    monkeypatch.setattr(files, "_MOST_IN_MEMORY", 100)
    assert not sparse.issparse(read_file(tmp_path / "course.zarr").X)


@pytest.fixture
def address(tmp_path):
    """Of a server of this folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_addresses_are_read(course, tmp_path, address):
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    course.write_h5ad(tmp_path / "course.h5ad")
    course.write_zarr(tmp_path / "course.zarr")
    for name in ("course.h5ad", "course.zarr"):
        opened = open_file(f"{address}/{name}")
        assert opened.obs["day"].tolist() == course.obs["day"].tolist()
        np.testing.assert_array_equal(opened.X[:5].toarray(), course.X[:5].toarray())
    with pytest.raises(InputError, match=r"expected an AnnData file, \.h5ad or \.zarr, found some"):
        open_file(f"{address}/nothing.h5ad")


def test_the_commands(course, corpus, tmp_path):
    corpus.shared.save(tmp_path / "space")
    for number, day in enumerate([0.0, 1.0, 3.0]):
        course[course.obs["day"] == day].copy().write_h5ad(tmp_path / f"{number}.h5ad")
    parts = [tmp_path / f"{number}.h5ad" for number in range(3)]

    def run(*words):
        return CliRunner().invoke(app, ["corpus", *map(str, words)])

    made = run("create", tmp_path / "new", "--subspace", tmp_path / "space")
    assert "an empty corpus of 4 dimensions" in made.output
    added = run("add", tmp_path / "new", *parts, "--time-key", "stage", "--name", "whole")
    assert added.exit_code == 0, added.output
    assert "whole: 90 cells at 3 times; 1 data sets" in added.output
    again = run("add", tmp_path / "new", *parts, "--time-key", "stage", "--name", "whole")
    assert "data set: expected a new name, found whole" in again.stderr
    entry = Corpus(tmp_path / "new").entries["whole"]
    assert entry.provenance["sha256"] == checksum(parts)
    assert "whole" in run("list", tmp_path / "new").output
    assert run("remove", tmp_path / "new", "whole").exit_code == 0
    assert "one of none, found whole" in run("remove", tmp_path / "new", "whole").stderr


@pytest.mark.parametrize("cells", [50, 300, 3000])
@pytest.mark.parametrize("standardize", [False, True])
def test_moments_of_chunks_are_exact(cells, standardize):
    """However few or many cells there are, up to 4,096 genes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(cells, 400)) @ np.diag(rng.uniform(0.1, 2, 400)) + rng.normal(size=400)
    x = x.astype(np.float32)
    moments = GeneMoments.gather(np.array_split(x, 7), rank=20, standardize=standardize)
    expected = np.corrcoef(x.T) if standardize else np.cov(x.T)
    values, vectors = np.linalg.eigh(expected)
    np.testing.assert_allclose(moments.eigenvalues, values[::-1][:20], rtol=1e-4)
    signs = np.sign((vectors[:, ::-1][:, :20] * moments.eigenvectors).sum(axis=0))
    np.testing.assert_allclose(moments.eigenvectors * signs, vectors[:, ::-1][:, :20], atol=5e-3)
