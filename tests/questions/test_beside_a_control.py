"""A condition beside its control, from files: read, predicted, saved; and what is refused."""

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.gene_networks import GeneNetwork

ASKED = {"time_key": "day", "condition_key": "treatment", "condition": "drug"}


@pytest.fixture(scope="module")
def base():
    return CellMNNPipeline.from_pretrained("cellmnn-conditions")


@pytest.fixture(scope="module")
def adata():
    """A gene network, and the same without a gene, at five times."""
    network = GeneNetwork.make("bifurcating", genes=12, seed=0)
    parts = {
        "none": network.to_anndata(cells=60, seed=0),
        "drug": network.without("G1").to_anndata(cells=50, seed=1),
    }
    whole = anndata.concat(parts, label="treatment", index_unique="-")
    whole.obs["day"] = whole.obs["time"]
    return whole


@pytest.fixture(scope="module")
def seen(adata):
    """With the drug at two of the times."""
    return adata[(adata.obs["treatment"] == "none") | adata.obs["day"].isin([1.0, 3.0])].copy()


def error(predicted, truth):
    return np.linalg.norm(np.average(predicted.X, 0, predicted.obs["weight"]) - truth.mean(0))


def test_closer_than_the_control(base, adata, seen):
    """Between and beyond the times of the condition, on the simulated knock-out."""
    for day in (2.0, 4.0):
        predicted = base.interpolate(seen, day, **ASKED)
        here = adata[adata.obs["day"] == day]
        truth, control = (here[here.obs["treatment"] == kind].X for kind in ("drug", "none"))
        assert error(predicted, truth) < 0.6 * np.linalg.norm(control.mean(0) - truth.mean(0))
    assert predicted.uns["cellmnn"]["condition"] == "drug"
    assert predicted.uns["cellmnn"]["control"] == "none"
    assert set(predicted.obs["source_time"]) == {3.0}
    assert "cellmnn_margin" not in predicted.var  # nobody knows it for conditions


def test_no_warning_between_the_times_of_the_control(base, seen, recwarn):
    base.interpolate(seen, 4.0, **ASKED)
    assert not [w for w in recwarn if "beyond" in str(w.message)]
    with pytest.warns(UserWarning, match="time 4.5 is 0.5 beyond"):
        base.interpolate(seen, 4.5, **ASKED)


def test_one_snapshot_is_enough(base, seen):
    single = seen[(seen.obs["treatment"] == "none") | (seen.obs["day"] == 1.0)]
    predicted = base.interpolate(single, [0.0, 3.0], **ASKED)
    assert predicted.n_obs == 100
    followed = base.trajectory(single, **ASKED, n_steps=2)  # from its own first time
    assert followed.obs["time"].unique().tolist() == [1.0, 2.0, 3.0, 4.0]


def test_other_questions(base, seen):
    cells = base.cells(seen, **ASKED)
    assert base.annotate(cells).n_obs == 100
    assert base.grn(cells).genes == tuple(seen.var_names) or len(base.grn(cells).genes) == 12
    assert len(base.fates(cells, 2).probabilities) == 100


def test_adapted_saved_loaded(base, seen, tmp_path):
    """A model of the condition answers as the base does, also from its folder."""
    adapted = base.adapt(seen, **ASKED)
    adapted.save_pretrained(tmp_path / "model")
    again = CellMNNPipeline.from_pretrained(tmp_path / "model")
    assert again.record.beside == {"condition": "drug", "control": "none"}
    assert "drug beside none" in repr(again)
    of_drug = seen[seen.obs["treatment"] == "drug"].copy()
    one, two = base.interpolate(seen, 2.0, **ASKED), again.interpolate(of_drug, 2.0)
    np.testing.assert_allclose(one.X, two.X, atol=1e-4)
    with pytest.raises(
        InputError, match="blend: expected a model from a pretrained one, found a c"
    ):
        again.interpolate(of_drug, 2.0, blend=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition_key": "nothing"}, 'condition column "nothing": expected a column of obs'),
        ({"condition": None}, "condition: expected one of drug, none in condition column"),
        ({"condition": "placebo"}, "condition: expected one of drug, none .* found placebo"),
        ({"control": "drug"}, "control: expected one of none"),
        ({"condition_key": None}, "condition_key: expected a column of obs, found none for drug"),
        ({"condition_key": None, "condition": None}, "condition: expected one, of a base that"),
    ],
)
def test_what_is_refused(base, seen, changes, message):
    with pytest.raises(InputError, match=message):
        base.interpolate(seen, 2.0, **{**ASKED, **changes})


def test_three_conditions_need_a_control(base, seen):
    three = seen.copy()
    three.obs["treatment"] = three.obs["treatment"].astype(str)
    three.obs.loc[three.obs_names[::7], "treatment"] = "other"
    with pytest.raises(InputError, match="control: expected one label beside the condition"):
        base.interpolate(three, 2.0, **ASKED)
    assert base.interpolate(three, 2.0, control="none", **ASKED).n_obs < 100


def test_bases_that_read_no_control(seen):
    with pytest.raises(InputError, match="base: expected one that reads a control"):
        CellMNNPipeline.from_pretrained("cellmnn-simulated").interpolate(seen, 2.0, **ASKED)
    fitted = CellMNNPipeline().fit(seen, time_key="day", steps=2, verdict=False)
    with pytest.raises(InputError, match="condition_key: expected none, but of a base that reads"):
        fitted.interpolate(seen, 2.0, **ASKED)


def test_the_command(seen, tmp_path):
    seen.write_h5ad(tmp_path / "cells.h5ad")
    arguments = ["interpolate", "cellmnn-conditions", tmp_path / "cells.h5ad", "--time-key", "day"]
    arguments += ["--condition-key", "treatment", "--condition", "drug", "--at", "2"]
    arguments += ["-o", tmp_path / "out.h5ad", "--figure", tmp_path / "figure.png"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert anndata.read_h5ad(tmp_path / "out.h5ad").n_obs == 100
    assert (tmp_path / "figure.png").exists()
