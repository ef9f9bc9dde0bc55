"""Two conditions: told apart where they differ, and only there."""

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app


@pytest.fixture(scope="module")
def base(make_base, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def make_course(effect, seed=0, cells=60):
    """Cells that drift along one axis; in the second condition, after time 1, along another."""
    rng = np.random.default_rng(seed)
    day = np.repeat([0.0, 1.0, 2.0], 2 * cells)
    treated = np.tile([False, True], len(day) // 2)
    z = rng.normal(size=(len(day), 3))
    z[:, 0] += 2 * day
    z[:, 1] += effect * np.maximum(day - 1, 0) * treated
    mix = np.random.default_rng(0).normal(size=(3, 20))
    obs = pd.DataFrame(
        {
            "day": day,
            "condition": np.where(treated, "treated", "control"),
            "type": np.where(z[:, 1] > 1.5, "up", "down"),
        },
        index=[f"c{at}" for at in range(len(day))],
    )
    var = pd.DataFrame(index=[f"GENE{at}" for at in range(20)])
    return anndata.AnnData((z @ mix).astype(np.float32), obs=obs, var=var)


def test_a_difference_is_found_where_it_is(base):
    pipeline = CellMNNPipeline.from_pretrained(base)
    found = pipeline.compare(
        make_course(3.0), "condition", time_key="day", groups="type", permutations=60
    )
    assert found.conditions == ("control", "treated")
    assert found.trajectories.index.tolist() == [1.0, 2.0]
    assert found.trajectories.loc[2.0, "p_adjusted"] < 0.05
    assert found.trajectories.loc[1.0, "p"] > 0.05
    assert found.fates.loc["up", "difference"] < -0.2
    assert found.fates.loc["up", "p"] < 0.05
    np.testing.assert_allclose(
        found.fates["difference"], found.fates["first"] - found.fates["second"], atol=1e-6
    )


@pytest.mark.slow
def test_none_is_found_where_there_is_none(base):
    pipeline = CellMNNPipeline.from_pretrained(base)
    p = [
        pipeline.compare(make_course(0.0, seed), "condition", time_key="day", permutations=19)
        .trajectories["p_adjusted"]
        .min()
        for seed in range(3)
    ]
    assert np.median(p) > 0.1
    again = pipeline.compare(make_course(0.0, 2), "condition", time_key="day", permutations=19)
    assert again.trajectories["p_adjusted"].min() == p[-1]
    assert again.fates is None


def test_what_cannot_be_compared(base):
    pipeline, adata = CellMNNPipeline.from_pretrained(base), make_course(1.0)
    three = adata.copy()
    three.obs["condition"] = np.resize(["a", "b", "c"], adata.n_obs)
    apart = adata.copy()
    apart.obs["condition"] = np.where(adata.obs["day"] < 1, "early", "late")
    for data, options, message in (
        (three, {}, "conditions: expected two, found a, b, c"),
        (apart, {}, "conditions: expected two or more times with 2 or more cells of both, found"),
        (adata, {"condition": "kind"}, "column: expected one of day, condition, type, found kind"),
        (adata, {"groups": "kind"}, "column: expected one of day, condition, type, found kind"),
        (adata, {"permutations": 0}, "permutations: expected a whole number, 1 or more, found 0"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.compare(data, **{"condition": "condition", "time_key": "day", **options})
    fitted = pipeline.adapt(adata, time_key="day")
    with pytest.raises(InputError, match="compare: expected a pretrained pipeline"):
        fitted.compare(adata, "condition", time_key="day")


def test_the_command(base, tmp_path):
    make_course(3.0).write_h5ad(tmp_path / "cells.h5ad")
    arguments = ["compare", base, tmp_path / "cells.h5ad", "--time-key", "day"]
    arguments += ["--condition", "condition", "--groups", "type", "--permutations", 9]
    arguments += ["-o", tmp_path / "distance.tsv"]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    assert "control and treated" in result.output
    assert "fates" in result.output
    assert len(pd.read_csv(tmp_path / "distance.tsv", sep="\t")) == 2
