"""Where the real data are, and how many tests are skipped without them."""

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

DATA = Path(os.environ.get("CELLMNN_DATA", Path(__file__).parents[2] / "shared" / "data"))
NO_DATA = "real data are not there: set CELLMNN_DATA"


@pytest.fixture(scope="session")
def data_folder():
    if not (DATA / "catalog.json").is_file():
        pytest.skip(NO_DATA)
    return DATA


@pytest.fixture
def adata():
    """A small time course of genes that drift, 3 times of 30 cells, 8 genes."""
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 3.0], 30)
    x = rng.normal(size=(90, 8)) + days[:, None] * np.linspace(-1, 1, 8)
    obs = pd.DataFrame({"day": days}, index=[f"c{i}" for i in range(90)])
    return anndata.AnnData(
        x.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(8)])
    )


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    absent = [report for report in skipped if NO_DATA in str(report.longrepr)]
    if absent:
        terminalreporter.write_line(f"{len(absent)} tests on real data skipped ({NO_DATA})")
