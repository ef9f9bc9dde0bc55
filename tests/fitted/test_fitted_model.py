"""Cells are read and projected once, in the same way for every question."""

from collections import Counter

import anndata
import numpy as np
import pytest

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.data import time_course
from cellmnn_fm.data.latent_space import LatentSpace
from cellmnn_fm.data.times import TimeKey
from cellmnn_fm.fitted import fitted_model

QUESTIONS = {
    "annotate": lambda pipeline, adata, **reading: pipeline.annotate(adata, **reading).layers[
        "cellmnn_velocity"
    ],
    "interpolate": lambda pipeline, adata, **reading: pipeline.interpolate(adata, 1.5, **reading).X,
    "trajectory": lambda pipeline, adata, **reading: pipeline.trajectory(adata, **reading).X,
    "fates": lambda pipeline, adata, **reading: pipeline.fates(adata, 2, **reading).probabilities,
    "perturb": lambda pipeline, adata, **reading: pipeline.perturb(
        adata, {"id0": "knock-out"}, 2, **reading
    ).genes["shift"],
    "grn": lambda pipeline, adata, **reading: pipeline.grn(adata, **reading).left,
    "cell_states": lambda pipeline, adata, **reading: pipeline.cell_states(adata, **reading).states,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, make_base):
    return CellMNNPipeline.from_pretrained(make_base(tmp_path_factory.mktemp("base")))


@pytest.fixture
def course(make_adata):
    """Values in a layer, human symbols in a column, two batches; `X` is of no use."""
    adata = make_adata(7, range(3, 23))
    adata.layers["logged"] = adata.X.copy()
    adata.X = np.zeros_like(adata.X)
    adata.var["human"] = adata.var_names
    adata.var_names = [f"id{number}" for number in range(adata.n_vars)]
    adata.obs["run"] = np.tile(["a", "b"], adata.n_obs // 2)
    return adata


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_base_reads_as_it_is_told_and_once(base, course, monkeypatch, question):
    reading = {"time_key": "day", "layer": "logged", "symbols": "human", "batch_key": "run"}
    asked = QUESTIONS[question]
    expected = asked(base.adapt(course, on_duplicates="sum", **reading), course)
    counts = Counter()

    def counted(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            counts[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for owner in (time_course, fitted_model):
        counted(owner, "read_source")
    counted(LatentSpace, "project")
    counted(TimeKey, "read")
    told = asked(base, course, on_duplicates="sum", **reading)
    np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-5)
    assert counts == {"read_source": 1, "project": 1, "read": 1}


def test_cells_that_were_read_are_asked_again_and_again(base, course, monkeypatch):
    reading = {"time_key": "day", "layer": "logged", "symbols": "human"}
    cells = base.cells(course, **reading)
    expected = {name: asked(base, course, **reading) for name, asked in QUESTIONS.items()}
    monkeypatch.setattr(LatentSpace, "project", None)
    for name, asked in QUESTIONS.items():
        np.testing.assert_allclose(asked(base, cells), expected[name], rtol=1e-4, atol=1e-6)
    assert base.cells(cells) is cells
    with pytest.raises(InputError, match="cells: expected no keywords: they are read, found layer"):
        base.interpolate(cells, 1.5, layer="logged")


def test_what_differs_from_the_fit_is_said(course):
    fitted = CellMNNPipeline().fit(
        course, time_key="day", layer="logged", n_dims=3, steps=2, verdict=False
    )
    expected = fitted.interpolate(course, 1.5).X
    plain = anndata.AnnData(
        course.layers["logged"], obs=course.obs.rename(columns={"day": "when"}), var=course.var
    )
    with pytest.raises(InputError, match=r'layers\["logged"\]'):
        fitted.interpolate(plain, 1.5, time_key="when")
    plain.layers["other"] = plain.X
    told = fitted.interpolate(plain, 1.5, time_key="when", layer="other").X
    np.testing.assert_array_equal(told, expected)
    with pytest.raises(InputError, match="batch_key: expected none: the fit had none"):
        fitted.interpolate(course, 1.5, batch_key="run")


def test_a_network_of_some_of_the_cells(base, course):
    cells = base.cells(course, time_key="day", layer="logged", symbols="human")
    late = (course.obs["day"] == 4.0).to_numpy()
    network = base.grn(cells, where=late)
    assert network.record["cells"] == late.sum()
    expected = base.adapt(course, time_key="day", layer="logged", symbols="human")
    np.testing.assert_allclose(
        network.left @ network.right,
        (one := expected.grn(course[late].copy())).left @ one.right,
        rtol=1e-3,
        atol=1e-4,
    )
    with pytest.raises(InputError, match="where: expected some of 120 cells, found 0 of 120"):
        base.grn(cells, where=np.zeros(120, dtype=bool))
