"""The page in the browser: what it computes, and as a client of the served page sees it."""

import runpy
from pathlib import Path

import anndata
import pandas as pd
import pytest

gr = pytest.importorskip("gradio", reason="the demo needs gradio: pip install 'cellmnn-fm[demo]'")


@pytest.fixture(scope="module")
def demo():
    return runpy.run_path(str(Path(__file__).parents[1] / "demo" / "app.py"))


@pytest.fixture(scope="module")
def course(demo):
    return demo["example"]()


def test_a_file_is_looked_at(demo, course):
    times, groups, about = demo["choices"](course)
    assert times["value"] == "time"
    assert groups["value"] == demo["CLUSTERS"]
    assert "cells, 11 genes" in about
    slider = demo["span"](course, "time")
    read = sorted(anndata.read_h5ad(course).obs["time"].unique())
    assert (slider["minimum"], slider["maximum"]) == (read[0], read[-1])
    assert slider["minimum"] < slider["value"] < slider["maximum"]


def test_answers_come_as_pictures_and_files(demo, course):
    at = demo["span"](course, "time")["value"]
    figure, file = demo["interpolated"](course, "time", at)
    assert figure.axes
    assert set(anndata.read_h5ad(file).obs["time"]) == {at}
    figure, file = demo["fated"](course, "time", demo["CLUSTERS"])
    assert figure.axes
    assert len(pd.read_csv(file, sep="\t")) == anndata.read_h5ad(course).n_obs


def test_errors_are_shown(demo, course, tmp_path):
    with pytest.raises(gr.Error, match="upload a file"):
        demo["interpolated"](None, "time", 0.5)
    with pytest.raises(gr.Error, match="expected"):
        demo["interpolated"](course, "no such column", 0.5)


@pytest.mark.slow
def test_the_served_page(demo, course, monkeypatch):
    """Through HTTP, as the page itself asks."""
    from gradio_client import Client, handle_file

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    page = demo["page"]
    page.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(page.local_url, verbose=False)
        client.predict(handle_file(course), api_name="/choices")
        chosen = handle_file(course), "time", demo["CLUSTERS"], False
        report = client.predict(*chosen, api_name="/reported")
    finally:
        page.close()
    assert "Gene regulation" in Path(report).read_text()
