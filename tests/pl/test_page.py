"""The page about a model and a data set: complete, self-contained, and a browser likes it."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.cli.app import app
from cellmnn_fm.pl.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Headings, cells of tables, and where everything comes from."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.cells, self.sources = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # well formed

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


@pytest.fixture(scope="module")
def course():
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 3.0], 30)
    x = rng.normal(size=(90, 8)) + days[:, None] * np.linspace(-1, 1, 8)
    adata = anndata.AnnData(x.astype(np.float32), uns={"name": "<mine> & yours"})
    adata.obs["day"] = days
    adata.var_names = [f"g{i}" for i in range(8)]
    adata.obs_names = ["same"] * 90
    return adata


@pytest.fixture(scope="module")
def written(course, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    CellMNNPipeline().fit(course, time_key="day", steps=10).save_pretrained(folder / "model")
    course.write_h5ad(folder / "cells.h5ad")
    arguments = ["report", folder / "model", folder / "cells.h5ad", "--groups", "2"]
    arguments += ["-o", folder / "report.html"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return folder / "report.html"


def test_all_parts_are_there(written):
    text = written.read_text()
    page = Page(text)
    assert page.headings == [
        "Notices",
        "Data",
        "Model",
        "How far to trust it",
        "Snapshots and dynamics",
        "Fates",
        "Gene regulation",
    ]
    assert "&lt;mine&gt; &amp; yours" in text  # names are no markup
    assert "90 cells at 3 times, 8 variables" in text
    assert "of the variance of these genes" in text
    assert {"fit", "OT-Interpolate", "two halves of the snapshot"} <= set(page.cells)
    assert (
        text.count("<img ") == 10
    )  # loss, W1, streams, paths, two intervals, fates, drivers, trends, network
    assert any(re.fullmatch(r"[+-]\d\.\d{4}", cell) for cell in page.cells)


def test_it_needs_no_network(written):
    sources = Page(written.read_text()).sources
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in written.read_text()
    assert "http" not in re.sub(r'"data:[^"]*"', "", written.read_text())


def test_a_pretrained_model_and_coordinates(course, tmp_path):
    """Without training, without genes, without left-out times."""
    adata = anndata.AnnData(course.X, obs=course.obs, uns={"space": "pca"})
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    write_report(base, adata, tmp_path / "page.html", time_key="day", evaluate=False)
    page = Page((tmp_path / "page.html").read_text())
    assert "Gene regulation" not in page.headings
    assert "Without training on this data set" in (tmp_path / "page.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_it(written, tmp_path, width):
    """Without an error in its console, at the widths of a phone and of a desk."""
    image = tmp_path / "page.png"
    found = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--screenshot={image}", f"--window-size={width},3000", written.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0
    assert "CONSOLE" not in found.stderr
    assert image.read_bytes().startswith(b"\x89PNG")
    assert len(image.read_bytes()) > 20_000
