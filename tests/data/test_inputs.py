"""Files as biologists have them: each case gives the right result, or says what is wrong.

The table of cases is docs/inputs.md.
"""

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.data.files import read_file
from cellmnn_fm.data.notices import gathered
from cellmnn_fm.data.reading import read_source

DOCUMENT = Path(__file__).parents[2] / "docs" / "inputs.md"
CASES = {}


def case(name, outcome):
    """A kind of file; what comes of it is checked, and stands in docs/inputs.md."""

    def register(function):
        CASES[name] = (function, outcome)
        return function

    return register


def base(cells=30, genes=8):
    """Logarithms of expression, some of them 0."""
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 3.0], cells)
    x = rng.normal(size=(3 * cells, genes)) + 2 + days[:, None] * np.linspace(-0.5, 1, genes)
    x = np.maximum(x, 0).astype(np.float32)
    obs = pd.DataFrame({"day": days}, index=[f"c{i}" for i in range(3 * cells)])
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(genes)]))


def with_x(x, **changes):
    adata = base()
    return anndata.AnnData(x, obs=adata.obs, var=adata.var, **changes)


def counts():
    return np.random.default_rng(1).poisson(np.exp(base().X) * 3)


# "as dense": the same states, to rounding, as the plain file has
@case("float32, dense", "as dense")
def plain(tmp_path):
    return base()


@case("float64", "as dense")
def double(tmp_path):
    return with_x(base().X.astype(np.float64))


@case("float16", "close")
def half(tmp_path):
    return with_x(base().X.astype(np.float16))


@case("CSR matrix", "as dense")
def csr(tmp_path):
    return with_x(sparse.csr_matrix(base().X))


@case("CSC matrix", "as dense")
def csc(tmp_path):
    return with_x(sparse.csc_matrix(base().X))


@case("CSR array", "as dense")
def csr_array(tmp_path):
    return with_x(sparse.csr_array(base().X))


@case("CSC array", "as dense")
def csc_array(tmp_path):
    return with_x(sparse.csc_array(base().X))


@case("Fortran order", "as dense")
def fortran(tmp_path):
    return with_x(np.asfortranarray(base().X))


@case("a view of a larger AnnData", "as dense")
def view(tmp_path):
    larger = anndata.concat([base(), base()], index_unique="-")
    return larger[: base().n_obs]


@case("backed, dense", "as dense")
def backed(tmp_path):
    base().write_h5ad(tmp_path / "file.h5ad")
    return read_file(tmp_path / "file.h5ad", backed=True)


@case("backed, CSR", "as dense")
def backed_csr(tmp_path):
    csr(tmp_path).write_h5ad(tmp_path / "file.h5ad")
    return read_file(tmp_path / "file.h5ad", backed=True)


@case("backed, CSC", "as dense")
def backed_csc(tmp_path):
    csc(tmp_path).write_h5ad(tmp_path / "file.h5ad")
    return read_file(tmp_path / "file.h5ad", backed=True)


@case("zarr", "as dense")
def zarr(tmp_path):
    base().write_zarr(tmp_path / "file.zarr")
    return read_file(tmp_path / "file.zarr")


@case(".raw (layer raw)", "as dense")
def raw(tmp_path):
    adata = base()
    adata.raw = adata
    adata.X = np.zeros_like(adata.X)
    return adata, {"layer": "raw"}


@case("a layer", "as dense")
def layer(tmp_path):
    adata = base()
    adata.layers["logged"] = adata.X.copy()
    adata.X = np.zeros_like(adata.X)
    return adata, {"layer": "logged"}


@case("cells in another order", "as dense")
def shuffled(tmp_path):
    return base()[np.random.default_rng(0).permutation(90)].copy()


@case("counts, int64", "notice: X holds counts: taken per 10,000 of a cell, log1p")
def integers(tmp_path):
    return with_x(counts())


@case("counts, float32, sparse", "notice: X holds counts: taken per 10,000 of a cell, log1p")
def sparse_counts(tmp_path):
    return with_x(sparse.csr_matrix(counts().astype(np.float32)))


@case("counts, backed CSC", "notice: X holds counts: taken per 10,000 of a cell, log1p")
def backed_counts(tmp_path):
    with_x(sparse.csc_matrix(counts().astype(np.float32))).write_h5ad(tmp_path / "file.h5ad")
    return read_file(tmp_path / "file.h5ad", backed=True)


@case("counts in a layer", 'notice: layers["counts"] holds counts: taken per 10,000')
def layer_counts(tmp_path):
    adata = base()
    adata.layers["counts"] = counts()
    return adata, {"layer": "counts"}


@case("TPM or FPKM", "taken as linear, log1p")
def tpm(tmp_path):
    linear = np.expm1(base().X) + 0.25
    return with_x((linear / linear.sum(axis=1, keepdims=True) * 1e6).astype(np.float32))


@case("logged by scanpy, whole numbers", "as it is")
def flagged(tmp_path):
    return with_x(counts().astype(np.float32), uns={"log1p": {"base": None}})


@case("z-scored", "notice: X has negative values: taken as scaled, and left as it is")
def scaled(tmp_path):
    x = base().X
    return with_x((x - x.mean(axis=0)) / x.std(axis=0))


@case("a gene that is 0 in all cells", "fits")
def zero_gene(tmp_path):
    adata = base()
    adata.X[:, 2] = 0
    return adata


@case("a cell that is 0 in all genes", "fits")
def zero_cell(tmp_path):
    adata = base()
    adata.X[5] = 0
    return adata


@case("counts with an empty cell", "notice: X holds counts")
def empty_cell(tmp_path):
    x = counts()
    x[5] = 0
    return with_x(x)


@case("all values 0", "error: expression: expected cells that differ from each other")
def nothing(tmp_path):
    return with_x(np.zeros_like(base().X))


@case("NaN", "error: X: expected finite values, found 2 of 720 NaN or infinite")
def nan(tmp_path):
    adata = base()
    adata.X[[3, 7], 0] = np.nan
    return adata


@case("infinity, sparse", "error: X: expected finite values, found 1 of")
def infinite(tmp_path):
    x = base().X
    x[3, 0] = np.inf
    return with_x(sparse.csr_matrix(x))


@case("cells of the same name", "fits")
def same_cells(tmp_path):
    adata = base()
    adata.obs_names = ["cell"] * adata.n_obs
    return adata


@case("genes of the same name", "error: var_names: expected unique names, found g0 repeated")
def same_genes(tmp_path):
    adata = base()
    adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    return adata


@case("an empty name of a gene", "fits")
def empty_name(tmp_path):
    adata = base()
    adata.var_names = ["", *adata.var_names[1:]]
    return adata


@case("names beyond ASCII", "fits")
def unicode(tmp_path):
    adata = base()
    adata.var_names = ["β-catenin", "Ωmega", "基因", *adata.var_names[3:]]
    adata.obs_names = [f"célula {at}" for at in range(adata.n_obs)]
    return adata


@case("1 gene", "fits")
def one_gene(tmp_path):
    return base()[:, :1].copy()


@case("100,000 genes, sparse", "fits")
def many_genes(tmp_path):
    x = sparse.random(90, 100_000, 0.02, format="csr", dtype=np.float32, random_state=0)
    return anndata.AnnData(x, obs=base().obs)


@case("a single time", "error: times: expected 2 or more different ones, found 1 (1)")
def one_time(tmp_path):
    return base()[base().obs["day"] == 1].copy()


@case("two times", "fits")
def two_times(tmp_path):
    return base()[base().obs["day"] != 1].copy()


@case("a time with 1 cell", "error: cells: expected 2 or more at every time, found 1 at 3")
def lone_cell(tmp_path):
    return base()[:61].copy()


@case("a time with 2 to 5 cells", "notice: 4 cells at time 3: too few to tell much of it")
def few_cells(tmp_path):
    return base()[:64].copy()


@case("one time with 99 % of the cells", "fits")
def lopsided(tmp_path):
    adata = base(600)
    return adata[np.r_[:6, 600:1200, 1200:1206]].copy()


@case("no cells", "error: X: expected values of cells and genes, found 0 cells")
def no_cells(tmp_path):
    return base()[:0].copy()


@case("a file that is none", "error: expected an AnnData file, .h5ad or .zarr, found")
def no_file(tmp_path):
    (tmp_path / "file.h5ad").write_text("hello")
    return read_file(tmp_path / "file.h5ad")


def fit(made):
    adata, options = made if isinstance(made, tuple) else (made, {})
    pipeline = CellMNNPipeline().fit(adata, time_key="day", steps=2, verdict=False, **options)
    assert np.isfinite(pipeline.annotate(adata).obsm["X_cellmnn"]).all()
    found = pipeline.interpolate(adata, 2.0 if len(pipeline.record.times) > 2 else 1.0)
    assert np.isfinite(found.X).all()
    return pipeline.time_course(adata)


def states(course):
    """All cells in an order of their own."""
    return np.concatenate([one[np.lexsort(np.round(one.T, 3))] for one in course.snapshots])


@pytest.mark.parametrize("name", CASES)
def test_cases(name, tmp_path):
    function, outcome = CASES[name]
    with gathered() as (notices, _):
        if outcome.startswith("error: "):
            with pytest.raises(InputError) as error:
                fit(function(tmp_path))
            assert outcome.removeprefix("error: ") in str(error.value)
            return
        course = fit(function(tmp_path))
    said = [
        one for one in notices if "cells at time" in one or "taken as" in one or "taken per" in one
    ]
    if outcome in ("as dense", "close"):
        expected = states(fit(plain(tmp_path)))
        tolerance = 2e-2 if outcome == "close" else 2e-3
        signs = np.sign((states(course) * expected).sum(axis=0))
        np.testing.assert_allclose(states(course) * signs, expected, atol=tolerance)
        assert not said
    elif outcome in ("fits", "as it is"):
        assert not [one for one in said if "taken" in one]
    else:
        assert any(outcome.removeprefix("notice: ") in one for one in said), said


def test_the_document_has_the_cases(table_of):
    lines = [f"| {name} | {outcome} |" for name, (_, outcome) in CASES.items()]
    assert table_of(DOCUMENT, "| case | outcome |", lines) == lines


def test_counts_are_what_scanpy_makes_of_them(noted):
    """Per 10,000 of a cell, log1p; the same for every layout."""
    x = counts()
    expected = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    for values in (x, x.astype(np.float32), sparse.csr_matrix(x), sparse.csc_array(x)):
        with noted("holds counts"):
            source = read_source(with_x(values))
        matrix = source.matrix()
        dense = matrix.toarray() if sparse.issparse(matrix) else matrix
        np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(source.column(3), expected[:, 3], rtol=1e-5, atol=1e-5)
        rows = np.concatenate(
            [one.toarray() if sparse.issparse(one) else one for one in source.chunks()]
        )
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(8, 30), st.integers(1, 6)),
        # less than 2⁻¹⁶ is no measured value, and its square may vanish
        elements=st.just(0.0) | st.floats(2**-16, 10, width=32),
    ),
    st.integers(2, 4),
    st.booleans(),
)
def test_any_expression_fits_or_says_why_not(x, times, as_sparse):
    """Whatever the values: states without holes, or an error in one line."""
    obs = pd.DataFrame({"day": np.sort(np.resize(np.arange(float(times)), len(x)))})
    obs.index = obs.index.astype(str)
    adata = anndata.AnnData(sparse.csr_matrix(x) if as_sparse else x, obs=obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if np.ptp(x, axis=0).max() == 0:
            with pytest.raises(InputError, match="expression: expected cells that differ"):
                CellMNNPipeline().fit(adata, time_key="day", steps=1, verdict=False)
            return
        pipeline = CellMNNPipeline().fit(adata, time_key="day", steps=1, verdict=False)
        assert np.isfinite(pipeline.annotate(adata).obsm["cellmnn_velocity"]).all()
        assert np.isfinite(pipeline.interpolate(adata, 0.5).X).all()
