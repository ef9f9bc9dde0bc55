"""Noise on the way: closed forms, snapshots that stay, and a process that is known."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from typer.testing import CliRunner

from cellmnn_fm import CellMNNConfig, CellMNNModel, CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
from cellmnn_fm.data.time_course import TimeCourse
from cellmnn_fm.dynamics.diffusion import Diffusion
from cellmnn_fm.dynamics.kernel_density import KernelDensity
from cellmnn_fm.dynamics.rollout import roll_out
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.model.gaussian_frame import fit_frame
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import train

CELLS = 1000


def framed(course):
    """The frame alone: a network that says nothing."""
    dims = course.latent_dim
    config = CellMNNConfig(
        latent_dim=dims, rank=1, frame=True, num_frame_times=len(course.times), init_scale=0.0
    )
    model = CellMNNModel(config).eval()
    times = torch.from_numpy(course.model_times).float()
    model.set_frame_state(fit_frame([torch.from_numpy(one) for one in course.snapshots], times))
    return Dynamics(model, course.time_scale)


@pytest.fixture(scope="module")
def relaxing():
    """dx = -x dt + 0.8 dW in two dimensions, and so many snapshots that lines are curves."""
    rng, times = np.random.default_rng(0), np.linspace(0.0, 2.0, 9)
    variance = 0.32 + (4.0 - 0.32) * np.exp(-2 * times)
    snapshots = [
        (np.exp(-time) * np.array([3.0, 0.0]) + np.sqrt(v) * rng.normal(size=(CELLS, 2)))
        for time, v in zip(times, variance, strict=True)
    ]
    course = TimeCourse([one.astype(np.float32) for one in snapshots], times)
    return course, framed(course)


def test_an_ornstein_uhlenbeck_step_in_closed_form():
    """Towards the mean of one kernel: e^-κΔ of the distance is left, and 1 - e^-2κΔ of S comes."""
    states = np.random.default_rng(1).normal(size=(50, 3)) @ np.diag([1.0, 2.0, 0.5])
    density = KernelDensity.around(states, np.ones(50))
    wide = KernelDensity(density.mean, density.root, 0 * density.kernels, density.log_weights, 1.0)
    covariance, steps = np.diag([0.3, 0.1, 0.2]), 3
    z = torch.tensor(states[:1]).repeat(200_000, 1)
    generator = torch.Generator().manual_seed(0)
    once = wide.disturbed(z, covariance, generator)
    for _ in range(steps):  # the semigroup: as many steps as one wishes
        z = wide.disturbed(z, covariance / steps, generator)
    spread = density.root @ density.root
    decay = torch.linalg.matrix_exp(torch.tensor(-0.5 * covariance @ np.linalg.inv(spread))).numpy()
    mean = density.mean + decay @ (states[0] - density.mean)
    for found in (once, z):
        np.testing.assert_allclose(found.mean(0), mean, atol=0.01)
        np.testing.assert_allclose(np.cov(found.T), spread - decay @ spread @ decay.T, atol=0.02)


def test_kernels_have_the_mean_and_covariance_of_the_cells():
    rng = np.random.default_rng(2)
    states, weights = rng.normal(size=(80, 3)) ** 3, rng.random(80)
    density = KernelDensity.around(states, weights)
    share = weights / weights.sum()
    mean, log_share = share @ states, np.exp(density.log_weights)
    np.testing.assert_allclose(density.mean, mean)
    np.testing.assert_allclose(log_share @ density.kernels, 0, atol=1e-12)
    within = (density.kernels * log_share[:, None]).T @ density.kernels
    np.testing.assert_allclose(within + density.bandwidth**2 * np.eye(3), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(
        density.root @ density.root, np.cov(states.T, aweights=share, ddof=0)
    )


def test_the_density_is_that_of_its_kernels():
    rng = np.random.default_rng(3)
    states, weights, asked = rng.normal(size=(20, 2)), rng.random(20), rng.normal(size=(5, 2))
    density = KernelDensity.around(states, weights)
    spread = density.root @ density.root
    places = density.mean + density.kernels @ density.root
    expected = sum(
        weight * multivariate_normal(place, density.bandwidth**2 * spread).pdf(asked)
        for weight, place in zip(weights / weights.sum(), places, strict=True)
    )
    np.testing.assert_allclose(np.exp(density.log_density(asked)), expected)


def test_no_noise_is_the_single_path(relaxing):
    course, dynamics = relaxing
    some, times = course.snapshots[2][:20], np.array([0.0, 1.1, 2.0])
    still = Diffusion.of(dynamics, course, 0.0).roll_out(some, 0.5, times, n_paths=3, n_steps=4)
    alone = roll_out(dynamics, some, 0.5, times, n_steps=4)
    for name in ("states", "velocity", "log_growth", "stopped"):
        expected = np.repeat(getattr(alone, name), 3, axis=1)
        np.testing.assert_allclose(getattr(still, name), expected, atol=1e-5)


def test_paths_of_one_cell_are_those_of_the_process(relaxing):
    """From x: mean e^-t x, variance 0.32 (1 - e^-2t), though models know the snapshots alone."""
    course, dynamics = relaxing
    diffusion = Diffusion(dynamics, course, 0.64 * np.eye(2))
    start = np.array([[4.0, -1.5]], dtype=np.float32)
    times = np.array([0.5, 2.0])
    paths = diffusion.roll_out(start, 0.0, times, n_paths=1500).states
    for found, time in zip(paths, times, strict=True):
        np.testing.assert_allclose(found.mean(axis=0), np.exp(-time) * start[0], atol=0.15)
        variance = 0.32 * (1 - np.exp(-2 * time))
        np.testing.assert_allclose(found.var(axis=0), variance, rtol=0.25)


@pytest.mark.parametrize(("start", "end"), [(0.0, 2.0), (2.0, 0.5)])
def test_snapshots_stay_as_they_are(relaxing, start, end):
    """Forward and backward in time, whatever the noise."""
    course, dynamics = relaxing
    cells = course.snapshots[int(4 * start)]
    wanted = course.snapshots[int(4 * end)]
    for noise in (0.3, 1.0):
        diffusion = Diffusion.of(dynamics, course, noise)
        paths = diffusion.roll_out(cells, start, np.array([end]), n_paths=1)
        np.testing.assert_allclose(paths.states[0].mean(0), wanted.mean(0), atol=0.1)
        np.testing.assert_allclose(paths.states[0].std(0), wanted.std(0), rtol=0.12)


def test_draws_depend_on_the_seed_alone(relaxing):
    course, dynamics = relaxing
    some = course.snapshots[0][:5]
    one, again, other = (
        Diffusion.of(dynamics, course, 0.5, seed).roll_out(some, 0.0, np.array([2.0]), n_paths=4)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.states, again.states)
    assert np.abs(one.states - other.states).max() > 0.01
    global_state = torch.random.get_rng_state()
    Diffusion.of(dynamics, course, 0.5).roll_out(some, 0.0, np.array([2.0]), n_paths=2)
    assert torch.equal(global_state, torch.random.get_rng_state())


@pytest.mark.slow
def test_the_splitting_probability_of_a_switch_with_known_noise():
    """Along one path it is 0 or 1; the study has finer figures (`studies/doubt.py`)."""
    system, noise, rng = KNOWN_SYSTEMS["bistable"], 0.4, np.random.default_rng(0)

    def followed(x, duration, step=0.02):
        for _ in range(round(duration / step)):
            x = x + step * system.velocity(x) + noise * step**0.5 * rng.normal(size=x.shape)
        return x

    snapshots = [followed(system.draw_initial(rng, 1000), time) for time in system.times]
    course = TimeCourse([one.astype(np.float32) for one in snapshots], np.array(system.times))
    dynamics = train(course, *preset_configs("default", course)).dynamics
    places = np.stack([np.linspace(-0.4, 0.4, 5), np.zeros(5)], axis=1)
    truth = [(followed(np.tile(x, (20_000, 1)), 3.0)[:, 0] > 0).mean() for x in places]
    diffusion = Diffusion(dynamics, course, noise**2 * np.eye(2))
    to = diffusion.roll_out(places.astype(np.float32), 0.0, np.array([3.0]), n_paths=1000)
    found = (to.states[0, :, 0] > 0).reshape(5, -1).mean(axis=1)
    assert np.abs(found - truth).max() < 0.1


@pytest.fixture(scope="module")
def fitted():
    adata = KNOWN_SYSTEMS["bistable"].to_anndata(cells=60, seed=0)
    adata.obs["side"] = np.where(adata.X[:, 0] > 0, "right", "left")
    return adata, CellMNNPipeline().fit(adata, time_key="time", verdict=False)


def test_questions_along_many_paths(fitted):
    adata, pipeline = fitted
    followed = pipeline.trajectory(adata, [1.5, 3.0], cells=7, n_paths=5)
    assert followed.shape == (2 * 7 * 5, 2)
    assert followed.obs_names.is_unique
    assert followed.obs["path"].max() == 4
    assert followed.obs.groupby("source_cell")["path"].nunique().eq(5).all()
    assert followed.uns["cellmnn"]["n_paths"] == 5

    one, many = (pipeline.fates(adata, "side", start=0.0, n_paths=n) for n in (None, 20))
    assert one.low is None
    assert one.with_intervals is one.probabilities
    assert (many.low <= many.probabilities + 1e-9).all(axis=None)
    assert (many.probabilities <= many.high + 1e-9).all(axis=None)
    np.testing.assert_allclose(many.shares, one.shares, atol=0.1)  # snapshots are the same
    sure = [(table.probabilities.max(axis=1) > 0.9).mean() for table in (one, many)]
    assert sure[1] < sure[0]
    columns = ["left", "right", "left low", "right low", "left high", "right high"]
    assert many.with_intervals.columns.tolist() == columns

    plain, noisy = (pipeline.interpolate(adata, 1.3, n_paths=n) for n in (None, 20))
    np.testing.assert_array_equal(plain.X, noisy.X)
    assert "cellmnn_low" not in plain.obsm
    low, high = noisy.obsm["cellmnn_low"], noisy.obsm["cellmnn_high"]
    assert (low < high).all()
    inside = (low <= noisy.obsm["X_cellmnn"]) & (noisy.obsm["X_cellmnn"] <= high)
    assert inside.mean() > 0.8


def test_what_cannot_be_asked(fitted):
    adata, pipeline = fitted
    with pytest.raises(InputError, match="n_paths: expected a whole number, 1 or more, found 0"):
        pipeline.fates(adata, "side", n_paths=0)
    with pytest.raises(InputError, match="noise: expected"):
        pipeline.interpolate(adata, 1.3, n_paths=3, noise=-1.0)
    with pytest.raises(InputError, match="adata: expected observed cells, for many paths"):
        pipeline.trajectory(n_paths=3)
    diffusion = Diffusion.of(pipeline.fitted.dynamics, pipeline.time_course(adata), 0.5)
    with pytest.raises(InputError, match="times: expected finite ones"):
        diffusion.roll_out(np.zeros((1, 2)), 0.0, np.array([np.nan]), n_paths=2)


def test_the_commands(fitted, tmp_path):
    adata, pipeline = fitted
    adata.write_h5ad(tmp_path / "cells.h5ad")
    pipeline.save_pretrained(tmp_path / "model")
    where = [str(tmp_path / "model"), str(tmp_path / "cells.h5ad")]
    for command in (
        ["fates", *where, "--groups", "side", "--n-paths", "3", "-o", str(tmp_path / "fates.tsv")],
        ["interpolate", *where, "--at", "1.3", "--n-paths", "3", "-o", str(tmp_path / "at.h5ad")],
        ["trajectory", *where, "--cells", "4", "--n-paths", "3", "-o", str(tmp_path / "t.h5ad")],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert "left low" in (tmp_path / "fates.tsv").read_text().splitlines()[0]
