"""Where the real data are, and how many tests are skipped without them."""

import functools
import os
import re
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmnn_fm import fit_shared_subspace
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.notices import gathered
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS, branching_course
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.evaluation.recovery import recover
from cellmnn_fm.fitted.foundation import save_foundation
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.pretraining import corpus_config, pretrain

DATA = Path(os.environ.get("CELLMNN_DATA", Path(__file__).parents[2] / "shared" / "data"))
NO_DATA = "real data are not there: set CELLMNN_DATA"


@pytest.fixture(scope="session")
def data_folder():
    if not (DATA / "catalog.json").is_file():
        pytest.skip(NO_DATA)
    return DATA


@pytest.fixture(scope="session")
def table_of():
    """The lines of a table of a document; WRITE_DOCUMENTS=1 puts new ones there first."""

    def table(document, header, lines):
        text = document.read_text().splitlines()
        start = text.index(header) + 2  # below the rule
        stop = next(at for at in range(start, len(text) + 1) if "".join(text[at : at + 1]) == "")
        if os.environ.get("WRITE_DOCUMENTS"):
            text[start:stop], stop = lines, start + len(lines)
            document.write_text("\n".join(text) + "\n")
        return text[start:stop]

    return table


@pytest.fixture
def noted():
    """A block that says something of the kind as information."""

    @contextmanager
    def check(pattern):
        with gathered() as (notices, _):
            yield
        assert any(re.search(pattern, text) for text in notices), notices

    return check


@pytest.fixture
def adata():
    """A small time course of genes that drift, 3 times of 30 cells, 8 genes."""
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 3.0], 30)
    x = rng.normal(size=(90, 8)) + days[:, None] * np.linspace(-1, 1, 8)
    obs = pd.DataFrame({"day": days}, index=[f"c{i}" for i in range(90)])
    symbols = ["EOMES", "FOS", "GATA6", "JUN", "KLF4", "NANOG", "POU5F1", "SOX2"]
    var = pd.DataFrame({"human_symbol": symbols}, index=[f"g{i}" for i in range(8)])
    return anndata.AnnData(x.astype(np.float32), obs=obs, var=var)


@pytest.fixture(scope="session")
def make_adata():
    """Time courses of 4 times of 30 cells with the same three factors, each with some genes."""

    def make(seed, genes):
        rng = np.random.default_rng(seed)
        day = np.repeat([0.0, 1.0, 2.0, 4.0], 30)
        mix = np.random.default_rng(0).normal(size=(3, 30))[:, genes]
        z = rng.normal(size=(120, 3)) + day[:, None] * [1.0, 0.5, 0.0]
        x = (z @ mix + 0.3 * rng.normal(size=(120, len(genes)))).astype(np.float32)
        obs = pd.DataFrame({"day": day}, index=[f"c{i}" for i in range(120)])
        return anndata.AnnData(
            x, obs=obs, var=pd.DataFrame(index=[f"GENE{gene}" for gene in genes])
        )

    return make


@pytest.fixture(scope="session")
def recovered():
    """Known systems as recovered by a fit, by name; each is fitted once."""
    return functools.cache(lambda name: recover(KNOWN_SYSTEMS[name]))


@pytest.fixture(scope="session")
def make_base(make_adata):
    """A small base of data sets "one" and "two" and a synthetic one, without "out"; its folder."""

    def make(folder, subspace_mode="aligned"):
        adatas = {
            "one": make_adata(0, range(0, 20)),
            "two": make_adata(1, range(5, 25)),
            "out": make_adata(2, range(10, 30)),
        }
        shared = fit_shared_subspace(adatas, n_dims=4)
        corpus = Corpus.create(folder / "corpus", shared=shared, subspace_mode=subspace_mode)
        for name, adata in adatas.items():
            corpus.add_anndata(name, adata, time_key="day")
        corpus.add_course("made", branching_course(0, 4), synthetic=True)
        config = corpus_config(
            corpus,
            context_cells=16,
            hidden_size=8,
            num_hidden_layers=1,
            vector_channels=4,
            num_attention_heads=2,
            num_summary_tokens=2,
            rank=2,
        )
        training, sampling = TrainingConfig(steps=3), SamplingConfig(tasks=2, cells=8)
        trained = pretrain(corpus, config, training, sampling, leave_out=["out"])
        save_foundation(folder / "model", trained.model, corpus, {"leave_out": ["out"], "steps": 3})
        return folder / "model"

    return make


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    absent = [report for report in skipped if NO_DATA in str(report.longrepr)]
    if absent:
        terminalreporter.write_line(f"{len(absent)} tests on real data skipped ({NO_DATA})")
