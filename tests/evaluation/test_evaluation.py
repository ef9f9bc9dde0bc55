"""The protocol: metrics, baselines, and that a held-out time stays unseen."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.data.options import FitReading
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.evaluation.evaluation import Candidate, evaluate
from cellmnn_fm.evaluation.metrics import energy, ot_interpolate, random_halves, wasserstein1


def test_wasserstein1_agrees_with_scipy_on_a_line():
    rng = np.random.default_rng(0)
    x, y, wx, wy = rng.normal(size=30), rng.normal(size=20) + 1, rng.random(30), rng.random(20)
    assert wasserstein1(x[:, None], y[:, None]) == pytest.approx(wasserstein_distance(x, y))
    assert wasserstein1(x[:, None], y[:, None], wx, wy) == pytest.approx(
        wasserstein_distance(x, y, wx, wy)
    )


def test_ot_interpolate_moves_a_shifted_cloud_along():
    rng = np.random.default_rng(0)
    earlier = rng.normal(size=(50, 3))
    shift = np.array([4.0, 0.0, -8.0])
    later = rng.permutation(earlier) + shift
    found = ot_interpolate(earlier, later, 0.25, rng)
    np.testing.assert_allclose(found, earlier + 0.25 * shift, atol=1e-9)


def test_ot_interpolate_splits_a_cell_at_random():
    earlier, later = np.zeros((1, 1)), np.array([[-1.0], [1.0]])
    found = [ot_interpolate(earlier, later, 1.0, np.random.default_rng(i))[0, 0] for i in range(20)]
    assert set(found) == {-1.0, 1.0}


def test_floor_is_what_sampling_costs():
    rng = np.random.default_rng(0)
    few, many = (wasserstein1(*random_halves(rng.normal(size=(n, 2)), rng)) for n in (40, 800))
    assert 0 < many < few < 1


def test_energy_is_least_at_the_truth_where_w1_is_not():
    rng = np.random.default_rng(0)
    truth, same, narrow = (rng.normal(size=(200, 25, 5)) for _ in range(3))
    narrow *= 0.7
    w1, its_energy = (
        [np.mean([d(x, y) for x, y in zip(cells, truth, strict=True)]) for cells in (same, narrow)]
        for d in (wasserstein1, energy)
    )
    assert w1[0] > 1.05 * w1[1]
    assert abs(its_energy[0]) < 0.02 < its_energy[1]
    assert np.isfinite(energy(same[0, :1], truth[0]))
    assert energy(same[0], truth[0], np.full(25, 3.0)) == pytest.approx(energy(same[0], truth[0]))


@pytest.fixture
def drifting():
    """Four times, one of them with 5 cells; genes drift linearly."""
    rng = np.random.default_rng(0)
    day = np.repeat([0.0, 1.0, 2.0, 4.0, 6.0], [40, 30, 5, 50, 40])
    x = rng.normal(size=(len(day), 12)) + day[:, None] * np.linspace(0, 1, 12)
    obs = pd.DataFrame({"day": day}, index=[f"c{i}" for i in range(len(day))])
    return anndata.AnnData(x.astype(np.float32), obs=obs)


def test_table_has_every_method_fold_and_seed(drifting):
    evaluation = CellMNNPipeline().evaluate(drifting, time_key="day", n_dims=3, seeds=2)
    methods = [
        "previous",
        "next",
        "ot_interpolate",
        "floor",
        "forward",
        "two_sided",
        "two_sided_same_size",
        "untrained_two_sided",
    ]
    assert list(evaluation.summary) == methods
    found = {(score.time, score.seed, score.method) for score in evaluation.scores}
    assert found == {(t, s, m) for t in (1.0, 4.0) for s in (0, 1) for m in methods}
    as_dict = evaluation.to_dict()
    assert as_dict["n_dims"] == 3
    for method, row in as_dict["summary"].items():
        own = [fold for fold in as_dict["folds"] if fold["method"] == method]
        assert row["w1_mean"] == pytest.approx(np.mean([fold["w1"] for fold in own]))
        by_seed = [np.mean([f["w1"] for f in own if f["seed"] == seed]) for seed in (0, 1)]
        assert row["w1_sd"] == pytest.approx(np.std(by_seed, ddof=1))
        assert row["energy_mean"] == pytest.approx(np.mean([fold["energy"] for fold in own]))
    ratio = as_dict["summary"]["two_sided"]["ratio_to_ot_interpolate"]
    assert ratio == pytest.approx(
        as_dict["summary"]["two_sided"]["w1_mean"] / as_dict["summary"]["ot_interpolate"]["w1_mean"]
    )


class Spy:
    """A candidate that keeps what it was shown and predicts with an untrained model."""

    def __init__(self):
        self.folds = []

    def __call__(self, fold, seed):
        import torch

        from cellmnn_fm import CellMNNConfig, CellMNNModel

        self.folds.append(fold)
        torch.manual_seed(seed)
        model = CellMNNModel(CellMNNConfig(latent_dim=fold.training.latent_dim, rank=1)).eval()
        return Dynamics(model, fold.training.time_scale), 0


def test_strict_never_shows_the_held_out_time(drifting):
    """Whatever the held-out cells are, a fit sees the same numbers."""
    spoilt = drifting.copy()
    spoilt.X[(spoilt.obs["day"] == 1.0).to_numpy()] = 1000.0 + np.random.default_rng(1).normal(
        size=(30, 12)
    )
    seen = {}
    for protocol in ("strict", "published"):
        spies = [Spy(), Spy()]
        for spy, data in zip(spies, (drifting, spoilt), strict=True):
            candidate = Candidate(spy, {"spy": "two_sided"})
            evaluate(
                data, [candidate], FitReading(time_key="day", n_dims=3), protocol=protocol, seeds=1
            )
        first, other = (spy.folds[0].training for spy in spies)
        assert 1.0 not in first.times
        seen[protocol] = [
            np.array_equal(a, b) for a, b in zip(first.snapshots, other.snapshots, strict=True)
        ]
    assert all(seen["strict"])
    assert not any(seen["published"])


def test_large_snapshots_are_capped(drifting):
    big = anndata.concat(dict.fromkeys(map(str, range(40)), drifting), index_unique="-")
    spy = Spy()
    reading = FitReading(time_key="day", n_dims=2)
    evaluate(big, [Candidate(spy, {"spy": "two_sided"})], reading, seeds=1)
    fold = spy.folds[0]
    assert max(map(len, fold.around.snapshots)) == len(fold.truth) == 1000
    assert len(fold.training.snapshots[0]) == 1600  # a fit may use them all


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "loose"}, "protocol: expected strict or published, found loose"),
        ({"seeds": 0}, "seeds: expected a whole number, 1 or more, found 0"),
        ({"preset": "best"}, "preset: expected default, sliced, paper or leaky, found best"),
    ],
)
def test_unknown_options_are_refused(drifting, options, message):
    with pytest.raises(InputError, match=message):
        CellMNNPipeline().evaluate(drifting, time_key="day", **options)


def test_two_times_leave_nothing_to_hold_out(drifting):
    two = drifting[drifting.obs["day"] < 1.5].copy()
    with pytest.raises(
        InputError, match="held-out times: expected a time between two others with 15"
    ):
        CellMNNPipeline().evaluate(two, time_key="day")


@pytest.mark.parametrize(
    ("preset", "methods"),
    [("leaky", {"paper", "paper_leaky"}), ("sliced", {"sliced", "sliced_same_size"})],
)
def test_other_presets_join_the_table(drifting, monkeypatch, preset, methods):
    from cellmnn_fm.training import configs as recipes

    def brief(preset, course, **options):
        config, training = recipes.preset_configs(preset, course, **options)
        return config, replace(training, steps=4, check_every=2)

    monkeypatch.setattr("cellmnn_fm.evaluation.candidates.preset_configs", brief)
    evaluation = CellMNNPipeline().evaluate(
        drifting, time_key="day", n_dims=2, seeds=1, preset=preset
    )
    assert methods <= set(evaluation.summary)


@pytest.mark.slow
def test_real_embryoid_bodies_beat_optimal_transport(data_folder):
    """The main figure of the README, on one seed."""
    adata = anndata.read_h5ad(data_folder / "embryoid_body_pca.h5ad")
    evaluation = CellMNNPipeline().evaluate(adata, time_key="time_index", seeds=1)
    summary = evaluation.summary
    assert summary["two_sided"]["ratio_to_ot_interpolate"] < 1
    assert summary["untrained_two_sided"]["ratio_to_ot_interpolate"] == pytest.approx(1, abs=0.02)
    assert summary["ot_interpolate"]["w1_mean"] < summary["previous"]["w1_mean"]
