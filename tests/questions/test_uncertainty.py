"""Regions of the mean: what they are made of, and how often they hold."""

import json
from typing import get_args

import numpy as np
import pytest

from cellmnn_fm import CellMNNPipeline, InputError, TimeCourse
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
from cellmnn_fm.dynamics.snapshots import Dynamics, Interpolation, interpolate, velocity_at
from cellmnn_fm.fitted.record import Recipe
from cellmnn_fm.questions.uncertainty import (
    CALIBRATION_FILE,
    MeanRegion,
    expected_error,
    known_errors,
    mean_region,
    quantile,
)
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train

RECIPES = get_args(Recipe)


@pytest.fixture(scope="module")
def course():
    rng = np.random.default_rng(0)
    return TimeCourse([rng.normal(size=(40, 3)) + 4 * t for t in (0, 1, 3)], [0.0, 1.0, 3.0])


def test_what_is_expected(course):
    """Half way: the step itself, and the cells of both ends and of the snapshot to come."""
    ends = [one.astype(float) for one in course.snapshots[1:]]
    step2 = ((ends[1].mean(axis=0) - ends[0].mean(axis=0)) ** 2).sum()
    trace = np.mean([one.var(axis=0).sum() for one in ends])
    assert expected_error(course, 2.0) == pytest.approx(np.sqrt(step2 + 1.5 * trace / 40))
    assert expected_error(course, 1.0) < 0.15 * expected_error(course, 2.0)
    assert expected_error(course, 2.9) < expected_error(course, 2.5) < expected_error(course, 2.0)
    assert expected_error(course, -0.5) is None
    last = course.snapshots[2].astype(float)
    beyond = np.sqrt(step2 / 16 + 2 * last.var(axis=0).sum() / 40)  # a quarter of the last step
    assert expected_error(course, 3.5) == pytest.approx(beyond)


def test_at_an_observed_time_the_rest_is_sampling():
    """Differences of means of two samples are within the region, as often as is expected."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        snapshots = [rng.normal(size=(50, 2)) + t for t in (0, 1)]
        course = TimeCourse(snapshots, [0.0, 1.0])
        other = rng.normal(size=(50, 2))
        error = np.linalg.norm(snapshots[0].mean(axis=0) - other.mean(axis=0))
        ratios.append(error / expected_error(course, 0.0))
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, abs=0.1)


def test_quantiles_are_conformal():
    """Of exchangeable errors the next one is within the quantile as often as was asked for."""
    rng = np.random.default_rng(0)
    held = [errors[-1] <= quantile(errors[:-1], 0.9) for errors in rng.lognormal(size=(4000, 20))]
    assert np.mean(held) == pytest.approx(0.9, abs=0.06)
    assert np.mean(held) >= 0.9 - 0.02
    assert quantile(np.arange(1.0, 10.0), 0.9) == 9.0
    with pytest.raises(InputError, match=r"level: expected above 0 and at most 0\.9, found 0\.95"):
        quantile(np.arange(1.0, 10.0), 0.95)


def test_margins_hold_for_all_genes_at_once():
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(200, 4))
    region = MeanRegion(np.zeros(4), 0.7, 0.9)
    directions = rng.normal(size=(500, 4))
    edge = 0.7 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert (np.abs(edge @ loadings.T) <= region.margins(loadings) + 1e-9).all()
    along = 0.7 * loadings / np.linalg.norm(loadings, axis=1, keepdims=True)
    np.testing.assert_allclose((along * loadings).sum(axis=1), region.margins(loadings))


def test_the_calibration_covers_groups_it_has_not_seen():
    """At 90 % between 85 and 95 %, over all left-out times of all data sets."""
    known = json.loads(CALIBRATION_FILE.read_text())
    for groups in [*known["errors"].values(), *known["beyond"].values()]:
        held = []
        for group, errors in groups.items():
            others = [one for name in groups if name != group for one in groups[name]]
            held += [error <= quantile(np.array(others), 0.9) for error in errors]
        assert len(held) >= 25
        assert 0.85 <= np.mean(held) <= 0.95


def test_fits_from_scratch_are_less_sure(course):
    predicted = Interpolation(
        time=2.0,
        states=np.ones((4, 3), np.float32),
        weights=np.full(4, 0.25),
        source_index=np.ones(4, int),
        source_cell=np.arange(4),
        stopped=np.zeros(4, bool),
    )
    radii = {recipe: mean_region(course, predicted, recipe).radius for recipe in RECIPES}
    assert radii["scratch"] > radii["zero_shot"]
    wide = mean_region(course, predicted, "zero_shot", level=0.95)
    assert wide.radius > radii["zero_shot"]
    np.testing.assert_allclose(wide.mean, 1.0)
    assert all(len(known_errors(recipe)) >= 70 for recipe in RECIPES)


def test_interpolations_carry_it(adata):
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    scratch = CellMNNPipeline().fit(adata, time_key="day", steps=3, verdict=False)
    assert scratch.record.recipe == "scratch"
    assert base.adapt(adata, time_key="day").record.recipe == "zero_shot"
    tuned = base.finetune(adata, time_key="day", steps=1, verdict=False)
    assert tuned.record.recipe == "fine_tuned"
    assert base.of_dataset("hesc_endoderm").record.recipe == "zero_shot"
    found = scratch.interpolate(adata, 2.0)
    mean = np.average(found.X, axis=0, weights=found.obs["weight"])
    np.testing.assert_allclose(found.var["cellmnn_mean"], mean, rtol=1e-4, atol=1e-5)
    assert (found.var["cellmnn_margin"] > 0).all()
    assert found.uns["cellmnn"]["level"] == 0.9
    wider = scratch.interpolate(adata, 2.0, level=0.95)
    assert wider.uns["cellmnn"]["mean_radius"] > found.uns["cellmnn"]["mean_radius"]
    with pytest.warns(UserWarning, match="beyond the observed times"):
        beyond = scratch.interpolate(adata, 4.0)
    assert beyond.uns["cellmnn"]["mean_radius"] > 0
    nowhere = ((scratch, 4.0, {"damping": 1.0}), (tuned, 4.0, {}), (scratch, -0.5, {}))
    for pipeline, at, how in nowhere:  # where errors are not known
        with pytest.warns(UserWarning, match="beyond the observed times"):
            assert "cellmnn_margin" not in pipeline.interpolate(adata, at, **how).var
    assert "cellmnn_margin" not in scratch.interpolate(adata, 2.0, two_sided=False).var
    sliced = CellMNNPipeline().fit(adata, time_key="day", preset="sliced", steps=3, verdict=False)
    assert sliced.record.recipe == "sliced"
    assert sliced.record.settings["distance"] == "sliced"
    paper = CellMNNPipeline().fit(adata, time_key="day", preset="paper", steps=2, verdict=False)
    assert "cellmnn_margin" not in paper.interpolate(adata, 2.0).var


def test_a_blend_is_half_way(adata):
    """Between what the base says and a fit to the same cells in the same space."""
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    alone, found = (base.interpolate(adata, 2.0, time_key="day", blend=b) for b in (False, True))
    adapted = base.adapt(adata, time_key="day")
    course = adapted.time_course(adata)
    fit = train(course, *preset_configs("sliced", course))
    own = interpolate(fit.dynamics, course, 2.0)
    half = (alone.obsm["X_cellmnn"] + own.states) / 2
    np.testing.assert_allclose(found.obsm["X_cellmnn"], half, rtol=1e-5, atol=1e-5)
    assert (found.obs_names == alone.obs_names).all()
    assert found.uns["cellmnn"]["blend"]
    assert "cellmnn_margin" in found.var
    velocities = [
        velocity_at(Dynamics(model, fit.time_scale), found.obsm["X_cellmnn"], 2.0)
        for model in (adapted.model, fit.model)
    ]
    np.testing.assert_allclose(
        found.obsm["cellmnn_velocity"], np.mean(velocities, axis=0), rtol=1e-4, atol=1e-4
    )
    scratch = CellMNNPipeline().fit(adata, time_key="day", steps=3, verdict=False)
    with pytest.raises(InputError, match="blend: expected a model from a pretrained one, found a"):
        scratch.interpolate(adata, 2.0, blend=True)


@pytest.mark.parametrize("name", KNOWN_SYSTEMS)
def test_known_systems_are_within_it(name):
    """The true mean half way between two snapshots of a system that no calibration has seen."""
    system = KNOWN_SYSTEMS[name]
    adata = system.to_anndata(cells=300, seed=0)
    kept = adata[~np.isin(adata.obs["time"], system.times[1::2])].copy()
    fitted = CellMNNPipeline().fit(kept, time_key="time", verdict=False)
    for at in system.times[1::2]:
        found = fitted.interpolate(kept, at)
        truth = system.snapshot(at, 20_000, np.random.default_rng(1)).mean(axis=0)
        assert (np.abs(truth - found.var["cellmnn_mean"]) <= found.var["cellmnn_margin"]).all()
