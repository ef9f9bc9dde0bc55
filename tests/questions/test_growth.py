"""Growth and death, where the truth is known: a switch whose branches multiply at other rates."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, GrowthGenes, InputError, TimeCourse
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.growth_genes import read_growth
from cellmnn_fm.data.population import PopulationSize
from cellmnn_fm.data.reading import read_source
from cellmnn_fm.data.synthetic import GROWING_SWITCH as SWITCH
from cellmnn_fm.dynamics.rollout import log_descendants, roll_out
from cellmnn_fm.dynamics.snapshots import Dynamics, as_shares, growth_rates, interpolate
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train
from cellmnn_fm.training.pretraining import corpus_config


@pytest.fixture(scope="module")
def adata():
    """1,000 cells at 7 times, from the saddle to two branches: x above 0 grows, below it dies."""
    found = SWITCH.to_anndata(cells=1000, seed=0)
    found.obs["branch"] = np.where(found.X[:, 0] > 0, "up", "down")
    found.obs["true_rate"] = SWITCH.growth(found.X)
    return found


def fits(adata, growth):
    return [
        CellMNNPipeline().fit(adata, time_key="time", growth=growth, seed=seed, verdict=False)
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def growing(adata):
    return fits(adata, growth=True)


@pytest.fixture(scope="module")
def fitted(growing):
    return growing[0]


@pytest.fixture(scope="module")
def mass_preserving(adata):
    return fits(adata, growth=False)


def difference(rates, adata, late):
    rows = adata.obs["time"].between(*late).to_numpy()
    up = (adata.obs["branch"] == "up").to_numpy()
    return rates[rows & up].mean() - rates[rows & ~up].mean()


def test_differences_of_rates_are_recovered(adata, growing):
    """Within 15 % of the truth on the mean of two fits, once the branches have parted."""
    late = (1.0, 2.5)
    truth = difference(adata.obs["true_rate"].to_numpy(), adata, late)
    found = [difference(one.growth(adata).rates.to_numpy(), adata, late) for one in growing]
    np.testing.assert_allclose(np.mean(found), truth, rtol=0.15)
    np.testing.assert_allclose(found, truth, rtol=0.25)


def test_rates_are_relative_to_their_time(adata, fitted):
    found = fitted.growth(adata, "branch")
    assert not found.absolute
    means = found.rates.groupby(adata.obs["time"]).mean()
    np.testing.assert_allclose(means, 0, atol=1e-6)
    assert set(found.groups["group"]) == {"up", "down"}
    np.testing.assert_allclose(found.groups.groupby("time")["share"].sum(), 1)
    assert found.groups["cells"].sum() == adata.n_obs


def test_fates_are_right_where_those_without_growth_are_wrong(adata, growing, mass_preserving):
    """The sign of x never changes: half of the first cells have most of the last descendants."""
    up = (adata.obs["branch"][adata.obs["time"] == 0] == "up").to_numpy()
    last = (adata.obs["branch"][adata.obs["time"] == 3.0] == "up").mean()
    assert up.mean() < 0.55 < 0.75 < last
    tables = [
        [one.fates(adata, "branch", start=0.0) for one in some]
        for some in (growing, mass_preserving)
    ]
    right, wrong = (
        np.mean([((one.probabilities["up"] > 0.5).to_numpy() == up).mean() for one in some])
        for some in tables
    )
    assert right > 0.87
    assert wrong < 0.83
    ending_up, turned_up = (
        np.mean([one.probabilities["up"].mean() for one in some]) for some in tables
    )
    assert ending_up == pytest.approx(up.mean(), abs=0.08)
    # without growth cells must change sides to make up the shares of the end
    assert turned_up > up.mean() + 0.15
    for one in tables[1]:
        assert (one.descendants == 1).all()
    found = tables[0][0]
    assert found.shares["up"] == pytest.approx(last, abs=0.1)
    above = found.descendants[found.probabilities["up"] > 0.9].mean()
    assert above > 2 * found.descendants[found.probabilities["up"] < 0.1].mean()


@pytest.mark.slow
def test_without_differences_none_are_found():
    still = SWITCH.__class__(**{**vars(SWITCH), "growth": None})
    adata = still.to_anndata(cells=1000, seed=0)
    fitted = CellMNNPipeline().fit(adata, time_key="time", growth=True, verdict=False)
    adata.obs["branch"] = np.where(adata.X[:, 0] > 0, "up", "down")
    rates = fitted.growth(adata).rates.to_numpy()
    assert abs(difference(rates, adata, (1.0, 2.5))) < 0.12


def test_known_rates_are_used(adata):
    """Cell by cell, which those that are learned are not."""
    known = CellMNNPipeline().fit(
        adata, time_key="time", growth="true_rate", verdict=False, steps=150
    )
    truth = adata.obs["true_rate"].to_numpy()
    late = (1.0, 2.5)
    expected = difference(truth, adata, late)
    rates = known.growth(adata).rates.to_numpy()
    assert difference(rates, adata, late) == pytest.approx(expected, rel=0.15)
    rows = adata.obs["time"].between(*late).to_numpy()
    assert np.corrcoef(rates[rows], truth[rows])[0, 1] > 0.85
    assert known.record.settings["growth"] == "true_rate"


def test_absolute_rates_need_counts(adata, fitted):
    """With true counts at all times the mean rates are right, and so are the sizes of groups."""
    initial = SWITCH.draw_initial(np.random.default_rng(1), 20_000)
    masses, up = {}, initial[:, 0] > 0
    for at in SWITCH.times:
        grown = np.exp(SWITCH.followed(initial, at)[1])
        masses[at] = (grown[up].sum(), grown[~up].sum())
    counts = {at: sum(both) for at, both in masses.items()}
    found = fitted.growth(adata, "branch", population=counts)
    assert found.absolute
    late = adata.obs["time"].between(1.0, 2.5).to_numpy()
    expected = adata.obs["true_rate"][late].mean()
    assert found.rates[late].mean() == pytest.approx(expected, abs=0.05)
    sizes = found.groups.set_index(["time", "group"])["size"]
    for at, (above, below) in masses.items():
        assert sizes[at, "up"] == pytest.approx(above, rel=0.15)
        assert sizes[at, "down"] == pytest.approx(below, rel=0.15)


@pytest.mark.parametrize(
    ("population", "message"),
    [
        (None, "population: expected how many cells there were at two or more times, found none"),
        ({1.0: 5.0}, "population: expected how many cells .* found one, at 1"),
        ({0.0: 5.0, 1.0: 0.0}, "population: expected positive counts"),
    ],
)
def test_population_is_counted(adata, fitted, population, message):
    with pytest.raises(InputError, match=message):
        fitted.growth(adata, population=population, absolute=True)


def test_sizes_in_a_fit_make_rates_absolute(adata, tmp_path):
    """Their means are right, also early, where counts between times say something else."""
    initial = SWITCH.draw_initial(np.random.default_rng(1), 20_000)
    sizes = {time: float(np.exp(SWITCH.followed(initial, time)[1]).mean()) for time in SWITCH.times}
    told = CellMNNPipeline().fit(
        adata, time_key="time", growth=True, population=sizes, verdict=False, steps=200
    )
    found, truth = told.growth(adata, "branch"), adata.obs["true_rate"].to_numpy()
    assert found.absolute
    assert np.corrcoef(found.rates, truth)[0, 1] > 0.75
    assert abs((found.rates - truth).mean()) < 0.06
    total = found.groups.groupby("time")["size"].sum()
    np.testing.assert_allclose(total, [sizes[time] for time in total.index], rtol=1e-6)
    told.save_pretrained(tmp_path / "model")
    again = CellMNNPipeline.from_pretrained(tmp_path / "model").growth(adata)
    np.testing.assert_allclose(again.rates, found.rates, atol=1e-6)
    relative = told.growth(adata, population={0.0: 1.0, 3.0: 2.0}).rates
    assert relative[adata.obs["time"] == 1.0].mean() == pytest.approx(np.log(2) / 3, abs=1e-5)


@pytest.mark.parametrize(
    ("growth", "population", "message"),
    [
        (False, {0.0: 1.0, 3.0: 2.0}, "population: expected a fit with growth, found none"),
        (True, {0.0: 1.0}, "population: expected how many cells .* found one, at 0"),
    ],
)
def test_sizes_that_a_fit_refuses(adata, growth, population, message):
    with pytest.raises(InputError, match=message):
        CellMNNPipeline().fit(adata, time_key="time", growth=growth, population=population)


def test_sizes_on_the_command_line(adata, tmp_path):
    adata.write_h5ad(tmp_path / "course.h5ad")
    fit = ["fit", str(tmp_path / "course.h5ad"), "--time-key", "time", "--growth", "learned"]
    fit += ["--population", "0=1000", "--population", "3=1500", "--steps", "3", "--no-verdict"]
    ran = CliRunner().invoke(app, [*fit, "-o", str(tmp_path / "model")])
    assert ran.exit_code == 0, ran.output
    told = CellMNNPipeline.from_pretrained(tmp_path / "model")
    assert told.record.population == {0.0: 1000.0, 3.0: 1500.0}
    assert told.growth(adata).absolute


def test_sizes_between_and_beyond_counts():
    size = PopulationSize.of({4.0: 80.0, 0.0: 10.0, 2.0: 20.0})
    np.testing.assert_allclose(
        size.at(np.array([-2.0, 0.0, 1.0, 2.0, 3.0, 6.0])), [5, 10, 200**0.5, 20, 40, 320]
    )
    np.testing.assert_allclose(size.common_rate(np.array([1.0, 2.0, 9.0])), np.log([2, 4, 4]) / 2)


def test_growth_adds_up(adata, fitted):
    """In steps as over the whole; weights of an interpolation are shares of the descendants."""
    model, scale = fitted.model, fitted.record.time_scale
    course = fitted.time_course(adata)
    cells = course.snapshots[2]
    whole = roll_out(Dynamics(model, scale), cells, 1.0, [1.5], n_steps=2)
    half = roll_out(Dynamics(model, scale), cells, 1.0, [1.25], n_steps=1)
    rest = roll_out(Dynamics(model, scale), half.states[0], 1.25, [1.5], n_steps=1)
    np.testing.assert_allclose(
        whole.log_growth[0], half.log_growth[0] + rest.log_growth[0], rtol=1e-3, atol=1e-4
    )
    step = 1e-3
    ahead = (
        roll_out(Dynamics(model, scale), cells, 1.0, [1.0 + step], n_steps=1).log_growth[0] / step
    )
    rates = growth_rates(Dynamics(model, scale), cells, np.full(len(cells), 1.0))
    np.testing.assert_allclose(ahead - ahead.mean(), rates, rtol=1e-3, atol=1e-4)
    predicted = interpolate(Dynamics(model, scale), course, 1.25)
    np.testing.assert_allclose(predicted.weights.sum(), 1.0)
    np.testing.assert_allclose(
        predicted.weights[: len(cells)], as_shares(half.log_growth[0]) / 2, rtol=1e-4
    )


@pytest.mark.slow
def test_a_frame_is_that_of_descendants(adata):
    """Its moments at the first time are those of cells weighted by their descendants."""
    times = adata.obs["time"].to_numpy()
    known = adata.obs["true_rate"].to_numpy()
    course = TimeCourse.from_cells(np.asarray(adata.X), times, growth=known)
    config, training = preset_configs("default", course, frame=True, growth="true_rate")
    trained = train(course, config, replace(training, growth_weight=10.0))
    first, last = course.snapshots[0], course.snapshots[-1]
    _, log_truth = SWITCH.followed(first.astype(float), 3.0)
    truth = (as_shares(log_truth) @ first)[0]
    assert first[:, 0].mean() < 0.02 < 0.14 < truth
    frame = trained.model.frame_state()
    assert frame.mean[0, 0].item() == pytest.approx(truth, abs=0.03)
    np.testing.assert_allclose(frame.mean[-1].numpy(), last.mean(axis=0), atol=1e-5)
    log_growth = log_descendants(trained.dynamics, course)
    assert np.corrcoef(log_growth[0], log_truth)[0, 1] > 0.9


def test_genes_are_scored():
    rng = np.random.default_rng(0)
    import anndata

    cycling = rng.normal(size=300)
    x = rng.normal(size=(300, 4)) + np.outer(cycling, [3.0, 3.0, -3.0, 0.0])
    names = ["Mki67", "Top2a", "Bax", "Actb"]
    adata = anndata.AnnData(x.astype(np.float32), var=pd.DataFrame(index=names))
    score = read_growth(adata, GrowthGenes())
    assert np.corrcoef(score, cycling)[0, 1] > 0.95
    assert score.mean() == pytest.approx(0, abs=1e-6)
    assert score.std() == pytest.approx(1)
    own = read_growth(adata, GrowthGenes(proliferation=("ACTB",), apoptosis=()))
    assert np.corrcoef(own, x[:, 3])[0, 1] > 0.99
    with pytest.raises(InputError, match="growth genes: expected some of XIST, found none that"):
        read_growth(adata, GrowthGenes(proliferation=("XIST",), apoptosis=()))
    adata.uns["space"] = "pca"
    with pytest.raises(InputError, match="growth: expected genes to score, found the embedding X"):
        GrowthGenes().score(read_source(adata))


@pytest.mark.slow
def test_scores_have_a_learned_scale(adata):
    """A score that goes with the rate leads to it; one that goes against it is not believed."""
    truth = adata.obs["true_rate"].to_numpy()
    late = (1.0, 2.5)
    expected = difference(truth, adata, late)
    times = adata.obs["time"].to_numpy()
    states = np.asarray(adata.X) / np.asarray(adata.X).std(axis=0)
    for sign in (1, -1):
        course = TimeCourse.from_cells(states, times, growth=sign * 3 * truth)
        config, training = preset_configs("default", course, growth=GrowthGenes())
        assert training.growth_prior == "scores"
        trained = train(course, config, training)
        rates = growth_rates(trained.dynamics, states, times)
        assert difference(rates, adata, late) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(
    ("growth", "message"),
    [
        ("nobody", 'growth column "nobody": expected a column of obs, found time'),
        ("branch", 'growth column "branch": expected numbers, found text, such as '),
    ],
)
def test_what_is_refused(adata, growth, message):
    with pytest.raises(InputError, match=message):
        CellMNNPipeline().fit(adata, time_key="time", growth=growth)


def test_growth_is_of_fits_from_scratch(adata, mass_preserving):
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    with pytest.raises(TypeError, match="unexpected keyword argument 'growth'"):
        base.finetune(adata, time_key="time", growth=True)
    with pytest.raises(InputError, match="growth: expected none in joint training, found growth"):
        corpus_config(None, growth=True)
    with pytest.raises(InputError, match="model: expected one with growth, found one without"):
        mass_preserving[0].growth(adata)


def test_outputs_and_commands(adata, fitted, tmp_path):
    annotated = fitted.annotate(adata)
    np.testing.assert_allclose(annotated.obs["cellmnn_growth"], fitted.growth(adata).rates)
    followed = fitted.trajectory(adata, cells=50, n_steps=2)
    means = followed.obs.groupby("time")["descendants"].mean()
    np.testing.assert_allclose(means, 1, rtol=1e-4)
    small = adata[::10].copy()
    small.write_h5ad(tmp_path / "cells.h5ad")

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    file, model = tmp_path / "cells.h5ad", tmp_path / "model"
    result = run(
        *("fit", file, "--time-key", "time", "-o", model, "--growth", "learned", "--steps", 20),
    )
    assert result.exit_code == 0, result.output
    result = run(
        *("growth", model, file, "--groups", "branch", "-o", tmp_path / "rates.tsv"),
        *("--population", "0=100", "--population", "3=250"),
    )
    assert result.exit_code == 0, result.output
    assert "branch" in result.output
    assert "cells" in result.output
    table = pd.read_csv(tmp_path / "rates.tsv", sep="\t")
    assert list(table.columns) == ["cell", "rate"]
    assert len(table) == small.n_obs
    result = run("growth", model, file, "--population", "soon=3")
    assert result.exit_code == 2
    assert "population: expected TIME=CELLS, found soon=3" in result.stderr
    result = run("fit", file, "--time-key", "time", "-o", model, "--growth", "nobody")
    assert result.exit_code == 2
    assert 'growth column "nobody": expected a column of obs' in result.stderr
    result = run("fit", file, "--time-key", "time", "-o", model, "--proliferation", "MKI67")
    assert "growth: expected genes, to name some, found nothing" in result.stderr
    loaded = CellMNNPipeline.from_pretrained(model)
    assert loaded.record.settings["growth"] is True
