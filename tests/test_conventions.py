"""Results are where the documents say, and files bring them back."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmnn_fm import CellMNNPipeline

DOCUMENT = Path(__file__).parents[1] / "docs" / "anndata.md"


@pytest.fixture
def results(adata):
    fitted = CellMNNPipeline().fit(adata, time_key="day", growth=True, steps=2, verdict=False)
    return {
        "annotate": fitted.annotate(adata, ahead=True),
        "interpolate": fitted.interpolate(adata, 2.0, n_paths=3),
        "fates": with_fates(fitted, adata),
        "trajectory": fitted.trajectory(adata),
    }


def with_fates(fitted, adata):
    annotated = fitted.annotate(adata)
    fitted.fates(adata, 2).add_to(annotated)
    return annotated


def test_keys_are_those_of_the_document(results):
    call, missing = "", []
    for line in DOCUMENT.read_text().splitlines():
        if found := re.match(r"\| (?:`(\w+)`)? ?\| (`.*`) \|", line):
            call = found[1] or call
            for part, key in re.findall(r'`(\w+)\["(\w+)"\]`', found[2]):
                if key not in getattr(results[call], part):
                    missing.append((call, part, key))
    assert call == "trajectory"
    assert not missing


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.parametrize("call", ["annotate", "interpolate", "fates", "trajectory"])
def test_files_bring_everything_back(results, tmp_path, form, call):
    kept = results[call]
    file = tmp_path / f"file.{form}"
    getattr(kept, f"write_{form}")(file)
    found = getattr(anndata, f"read_{form}")(file)
    np.testing.assert_array_equal(found.X, kept.X)
    for part in ("obsm", "varm", "layers"):
        assert set(getattr(found, part)) == set(getattr(kept, part))
        for key, values in getattr(kept, part).items():
            np.testing.assert_array_equal(getattr(found, part)[key], values)
    for part in ("obs", "var"):
        for name, values in getattr(kept, part).items():
            again = getattr(found, part)[name]
            if pd.api.types.is_numeric_dtype(values):
                np.testing.assert_allclose(again, values)
            else:
                assert again.astype(str).tolist() == values.astype(str).tolist()
    assert set(found.uns["cellmnn"]) == set(kept.uns["cellmnn"])


def test_scanpy_plots_them(results):
    scanpy = pytest.importorskip("scanpy")
    axes = scanpy.pl.embedding(results["annotate"], "X_cellmnn", color="cellmnn_growth", show=False)
    assert axes.get_xlabel().endswith("cellmnn1")
