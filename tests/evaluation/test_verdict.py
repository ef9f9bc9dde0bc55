"""The verdict on a fit: right where the truth is known, in words that say it."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.latent_space import LatentSpace
from cellmnn_fm.data.options import FitReading
from cellmnn_fm.evaluation.candidates import fit_preset
from cellmnn_fm.evaluation.verdict import Verdict, judge

READING = FitReading(time_key="day", use_rep="X")


def turning(cells=120, seed=0, times=5, radius=6.0):
    """A tight cloud on a half circle, where straight lines are wrong."""
    rng = np.random.default_rng(seed)
    at = np.repeat(np.arange(times, dtype=float), cells)
    angle = np.pi * at / (times - 1)
    z = rng.normal(size=(len(at), 2)) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    obs = pd.DataFrame({"day": at}, index=[f"c{i}" for i in range(len(at))])
    return anndata.AnnData(z.astype(np.float32), obs=obs)


def frame_bent(bend):
    """The untrained frame with its mean off the straight line by so much of the step."""
    frame = fit_preset("default", True, steps=0)

    def fit(fold, seed):
        dynamics, steps = frame(fold, seed)
        state = dynamics.model.frame_state()
        middle = (state.mean[1:] + state.mean[:-1]) / 2
        away = middle - state.mean.mean(0)
        # a further time in every interval, with the root of the one before
        order = torch.argsort(torch.cat([state.times, (state.times[1:] + state.times[:-1]) / 2]))
        bent = state.map(lambda values: torch.cat([values, values[:-1]])[order])
        times = torch.cat([state.times, (state.times[1:] + state.times[:-1]) / 2])[order]
        mean = torch.cat([state.mean, middle + bend * away])[order]
        bent = replace(bent, times=times, mean=mean)
        dynamics.model.frame_state = lambda dataset_id=0: bent
        return dynamics, steps

    return fit


def test_it_tells_better_from_worse():
    """On a half circle the mean is off the chord, outwards: better if bent so, worse inwards."""
    adata = turning()
    better = judge(adata, frame_bent(0.3), READING)
    worse = judge(adata, frame_bent(-0.6), READING)
    same = judge(adata, frame_bent(0.0), READING)
    assert (better.outcome, worse.outcome, same.outcome) == ("better", "worse", "no better")
    assert better.ratio < 0.95 < 1.05 < worse.ratio
    assert same.ratio == pytest.approx(1.0, abs=0.04)
    for verdict in (better, worse, same):
        assert verdict.times == [1.0, 2.0, 3.0]
        assert verdict.interval[0] < verdict.ratio < verdict.interval[1]
        assert verdict.ratio == pytest.approx(sum(verdict.w1) / sum(verdict.baseline))
    again = judge(adata, frame_bent(0.3), READING)
    assert again == better


@pytest.mark.slow
def test_the_interval_covers_and_shrinks():
    """It covers what other samples of the cells say, and halves with four times as many."""
    widths = []
    for cells in (30, 120):
        found = [judge(turning(cells, seed), frame_bent(0.0), READING) for seed in range(10)]
        expected = np.mean([one.ratio for one in found])
        assert np.mean([one.interval[0] < expected < one.interval[1] for one in found]) >= 0.9
        widths.append(np.mean([one.interval[1] - one.interval[0] for one in found]))
    assert 0.3 < widths[1] / widths[0] < 0.8


def test_what_is_said():
    better = str(Verdict("better", [1.0, 2.5], [0.9, 0.9], [1.0, 1.0], 0.9, (0.86, 0.95)))
    assert better.startswith("Better than OT-Interpolate: the snapshots at 1, 2.5, left out")
    assert "came out 10 % closer to what was measured than with cells matched" in better
    assert "(W1 0.90 against 1.00, ratio 0.90, 95 % interval 0.86 to 0.95)." in better
    worse = str(Verdict("worse", [1.0], [1.2], [1.0], 1.2, (1.1, 1.3)))
    assert "came out 20 % further from what was measured than" in worse
    same = str(Verdict("no better", [1.0], [1.0], [1.0], 1.0, (0.9, 1.1)))
    assert same.startswith("No better than OT-Interpolate")
    assert "came out about as far from what was measured as with" in same


def test_nothing_to_check():
    verdict = judge(turning(times=2), frame_bent(0.0), READING)
    assert verdict.outcome == "unknown"
    assert str(verdict).startswith("No verdict: no time between two others has 15 or more cells")
    few = turning(cells=10)
    assert judge(few, frame_bent(0.0), READING).outcome == "unknown"


def test_it_sees_nothing_of_a_left_out_time(monkeypatch):
    """Components, scales and fits are made without it."""
    seen = []
    fit_space = LatentSpace.fit.__func__

    def watched(cls, source, cell_times, options=None, *, rows=None, **more):
        seen.append(set(np.unique(cell_times[rows])))
        return fit_space(cls, source, cell_times, options, rows=rows, **more)

    monkeypatch.setattr(LatentSpace, "fit", classmethod(watched))
    courses = []
    frame = frame_bent(0.0)

    def fit(fold, seed):
        courses.append(set(fold.training.times))
        return frame(fold, seed)

    judge(turning(), fit, FitReading(time_key="day"))
    everything = {0.0, 1.0, 2.0, 3.0, 4.0}
    assert seen == courses == [everything - {at} for at in (1.0, 2.0, 3.0)]


def test_large_snapshots_are_thinned_out():
    adata = turning(cells=2500, times=3)
    sizes = []
    frame = frame_bent(0.0)

    def fit(fold, seed):
        sizes.extend(len(one) for one in fold.training.snapshots)
        return frame(fold, seed)

    judge(adata, fit, READING)
    assert set(sizes) == {2000}


def test_a_fit_ends_with_it(adata):
    fitted = CellMNNPipeline().fit(adata, time_key="day", n_dims=3, steps=5)
    verdict = fitted.record.verdict
    assert verdict["times"] == [1.0]
    assert verdict["outcome"] in {"better", "no better", "worse"}
    assert (
        CellMNNPipeline().fit(adata, time_key="day", steps=1, verdict=False).record.verdict is None
    )
