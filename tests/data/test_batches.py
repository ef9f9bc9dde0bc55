"""Batches: what they add is taken off, what times add stays."""

import warnings

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.batches import BatchEffects

SHARES = {0.0: 0.8, 1.0: 0.5, 2.0: 0.2, 3.0: 0.5}  # of the first batch


def cells(effect, seed=0, size=300):
    """States that drift; the second batch is shifted and wider, and has more late cells."""
    rng = np.random.default_rng(seed)
    times = np.repeat(list(SHARES), size)
    batch = np.where(rng.random(len(times)) < np.vectorize(SHARES.get)(times), "a", "b")
    noise = rng.normal(size=(len(times), 3))
    drift = times[:, None] * [1.0, 0.5, 0.0]
    second = (batch == "b")[:, None]
    clean = drift + noise
    return times, batch, clean, drift + np.where(second, (1 + 0.5 * effect) * noise + effect, noise)


def test_shift_and_scale_are_those_that_were_put_in():
    times, batch, clean, states = cells(2.0, size=2000)
    effects = BatchEffects.fit(states, times, batch)
    np.testing.assert_allclose(effects.shift[1] - effects.shift[0], 2.0, atol=0.15)
    np.testing.assert_allclose(effects.scale[1] / effects.scale[0], 2.0, rtol=0.05)
    found = effects.removed(states, batch, times)
    weights = (batch == "b").mean()
    np.testing.assert_allclose(
        (effects.shift * [[1 - weights], [weights]]).sum(axis=0), 0, atol=1e-9
    )
    for time in SHARES:
        rows = times == time
        means, spreads = (
            [getattr(found[rows & (batch == one)], how)(axis=0) for one in "ab"]
            for how in ("mean", "std")
        )
        np.testing.assert_allclose(means[0], means[1], atol=0.35)
        np.testing.assert_allclose(spreads[0], spreads[1], rtol=0.1)
    # the drift is that of the clean cells, though the batches are not as many at each time
    drift = found[times == 3].mean(axis=0) - found[times == 0].mean(axis=0)
    expected = clean[times == 3].mean(axis=0) - clean[times == 0].mean(axis=0)
    np.testing.assert_allclose(drift, expected, atol=0.15)
    raw = states[times == 3].mean(axis=0) - states[times == 0].mean(axis=0)
    assert np.abs(raw - expected).max() > 0.4


def test_without_effects_little_changes():
    times, batch, clean, _ = cells(0.0, size=1000)
    effects = BatchEffects.fit(clean, times, batch)
    assert np.abs(effects.shift).max() < 0.06
    np.testing.assert_allclose(effects.scale, 1, atol=0.05)
    one = np.full(len(times), "a")
    alone = BatchEffects.fit(clean, times, one)
    np.testing.assert_allclose(alone.removed(clean, one, times), clean, rtol=1e-5, atol=1e-5)


def test_confounded_batches_are_left_with_a_warning():
    """Each time its own batch: nothing can be told. Two parts: within each something can."""
    times, _, clean, _ = cells(0.0)
    with pytest.warns(UserWarning, match="batch and time are confounded: times 0; 1; 2; 3 share"):
        effects = BatchEffects.fit(clean, times, times)
    np.testing.assert_allclose(effects.removed(clean, times, times), clean, rtol=1e-5, atol=1e-5)
    halves = np.where(times < 2, "early", "late") + np.resize(["1", "2"], len(times))
    shifted = clean + 3.0 * np.char.endswith(halves, "2")[:, None]
    with pytest.warns(UserWarning, match="times 0, 1; 2, 3 share no batch"):
        effects = BatchEffects.fit(shifted, times, halves)
    found = effects.removed(shifted, halves, times)
    np.testing.assert_allclose(found - found.mean(axis=0), clean - clean.mean(axis=0), atol=0.5)
    gap, expected = (
        one[times >= 2].mean(axis=0) - one[times < 2].mean(axis=0) for one in (found, shifted)
    )
    np.testing.assert_allclose(gap, expected, atol=0.05)


@pytest.fixture(scope="module")
def course():
    times, batch, clean, states = cells(2.0, size=60)
    mix = np.random.default_rng(1).normal(size=(3, 12))
    adata = anndata.AnnData((states @ mix).astype(np.float32))
    adata.obs["day"], adata.obs["run"] = times, batch
    adata.uns["clean"] = (clean @ mix).astype(np.float32)
    return adata


def test_fits_take_them_off(course, tmp_path):
    options = {"time_key": "day", "n_dims": 3, "steps": 20, "verdict": False}
    fitted = CellMNNPipeline().fit(course, batch_key="run", **options)
    plain = CellMNNPipeline().fit(course, **options)
    second = (course.obs["run"] == "b").to_numpy()

    def gap(pipeline):
        states = pipeline.annotate(course, layers=False).obsm["X_cellmnn"]
        gaps = []
        for time in SHARES:
            rows = (course.obs["day"] == time).to_numpy()
            gaps.append(states[rows & second].mean(axis=0) - states[rows & ~second].mean(axis=0))
        return np.linalg.norm(np.mean(gaps, axis=0))

    assert gap(fitted) < 0.35 * gap(plain)
    fitted.save_pretrained(tmp_path)
    again = CellMNNPipeline.from_pretrained(tmp_path)
    assert again.record.batch_key == "run"
    np.testing.assert_array_equal(
        again.interpolate(course, 1.5).X, fitted.interpolate(course, 1.5).X
    )
    strange = course.copy()
    strange.obs["run"] = "c"
    with pytest.raises(InputError, match="batches: expected some of a, b, found c"):
        again.interpolate(strange, 1.5)
    del strange.obs["run"]
    with pytest.raises(InputError, match='batch column "run": expected a column of obs'):
        again.annotate(strange)


@pytest.mark.slow
def test_predictions_and_evaluations_use_them(course):
    """With batches taken off, a left-out time is as well predicted as without batches at all."""
    clean = course.copy()
    clean.X = clean.uns["clean"]
    options = {"time_key": "day", "n_dims": 3, "seeds": 1}

    def w1(adata, **more):
        return CellMNNPipeline().evaluate(adata, **options, **more).summary["two_sided"]["w1_mean"]

    assert w1(course, batch_key="run") < 1.25 * w1(clean)
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    named = course.copy()
    named.var_names = list(base.foundation.shared.panel.names[:12])
    adapted = base.adapt(named, time_key="day", batch_key="run")
    assert adapted.record.batches["names"] == ["a", "b"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = base.finetune(named, time_key="day", batch_key="run", steps=1, verdict=True)
    assert tuned.record.verdict["outcome"] != "unknown"


def test_the_command_line(course, tmp_path):
    course[:, :].copy().write_h5ad(tmp_path / "cells.h5ad")
    common = ["fit", str(tmp_path / "cells.h5ad"), "--time-key", "day", "-o", str(tmp_path / "m")]
    options = ["--steps", "2", "--no-verdict", "--batch-key"]
    result = CliRunner().invoke(app, [*common, *options, "run"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [*common, *options, "lane"])
    assert result.exit_code == 2
    assert 'batch column "lane": expected a column of obs, found columns day, run' in result.stderr
