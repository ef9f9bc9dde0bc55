"""Two conditions: told apart where they differ, and only there."""

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.questions.replicates import Replicates


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
        make_course(3.0), "condition", time_key="day", groups="type", permutations=30
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


def of_donors(adata, number, paired=False):
    """The same cells, as those of so many donors in each condition, or of so many in both."""
    adata, rng = adata.copy(), np.random.default_rng(0)
    donor = rng.integers(number, size=adata.n_obs).astype(str)
    side = "" if paired else adata.obs["condition"].str[0].to_numpy().astype(str)
    adata.obs["donor"] = np.char.add(donor, side)
    return adata


def test_samples_are_exchanged_as_a_whole(base):
    pipeline, adata = CellMNNPipeline.from_pretrained(base), make_course(3.0)
    how = {"time_key": "day", "groups": "type", "permutations": 31}
    by_cells = pipeline.compare(adata, "condition", **how | {"permutations": 3})
    assert by_cells.replicates.unit == "cells"
    assert "no replicates" in by_cells.replicates.sentence
    for paired, ways, unit in ((False, 20, "samples"), (True, 32, "pairs")):
        donors = of_donors(adata, 5 if paired else 3, paired)
        found = pipeline.compare(donors, "condition", sample_key="donor", **how)
        assert found.replicates.unit == unit
        assert f"p is {1 / ways:.2g} at the least" in found.replicates.sentence
        # the arrangement that was observed, and the one with all labels exchanged
        assert found.trajectories.loc[2.0, "p"] == pytest.approx(2 / ways)
        for name in ("distance", "p"):  # what is exchanged does not change what is seen
            same = found.trajectories[name], by_cells.trajectories[name]
            assert name == "p" or np.allclose(*same)
        effect = found.fates.loc["up"]
        assert effect["low"] <= effect["difference"] <= effect["high"] < 0
        assert (found.trajectories["low"] < found.trajectories["high"]).all()
        assert found.trajectories.loc[2.0, "null"] < found.trajectories.loc[2.0, "low"]


def test_who_is_exchanged_with_whom():
    times = np.repeat([0.0, 1.0], 8)
    animals = np.repeat(np.arange(8), 2).astype(str)  # two and two at each time
    first = np.tile(np.repeat([True, False], 4), 2)
    replicates = Replicates(first, times, animals)
    assert replicates.arrangements == 6 * 6
    masks = list(replicates.relabelled(100, np.random.default_rng(0)))
    assert len(masks) == 35
    assert len({mask.tobytes() for mask in masks}) == 35
    for mask in masks:
        assert [mask[times == time].sum() for time in (0.0, 1.0)] == [4, 4]
        assert all(len(np.unique(mask[animals == name])) == 1 for name in "01234567")
    few = list(replicates.relabelled(10, np.random.default_rng(0)))
    assert len(few) == 10
    for rows in replicates.resampled(5, np.random.default_rng(0)):
        for time in (0.0, 1.0):
            assert first[rows][times[rows] == time].sum() == 4

    mixed = np.where(animals == "7", "0", animals)  # one animal is at both times, in both
    assert Replicates(first, times, mixed).unit == "pairs and samples"
    with pytest.raises(InputError, match="samples: expected 3 or more ways to exchange them"):
        Replicates(first, times, first.astype(str))


def test_few_samples_cannot_be_significant(base):
    """Each time has cells of both conditions in every arrangement: there may be no other one."""
    pipeline, adata = CellMNNPipeline.from_pretrained(base), make_course(3.0)
    adata.obs["donor"] = adata.obs["condition"]
    with pytest.raises(InputError, match="samples: expected 3 or more ways"):
        pipeline.compare(adata, "condition", sample_key="donor", time_key="day")
    adata.obs.loc[adata.obs_names[0], "donor"] = None
    with pytest.raises(InputError, match="donor: expected a sample for every cell, found none for"):
        pipeline.compare(adata, "condition", sample_key="donor", time_key="day")


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
    assert "no replicates" in " ".join(result.output.split())
    assert len(pd.read_csv(tmp_path / "distance.tsv", sep="\t")) == 2
