"""The loop: it learns, it repeats itself, and it goes on where it was stopped."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from cellmnn_fm import CellMNNConfig, InputError
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS
from cellmnn_fm.data.time_course import TimeCourse, TimeScale
from cellmnn_fm.dynamics.snapshots import interpolate
from cellmnn_fm.training import one_course as training_module
from cellmnn_fm.training.configs import TrainingConfig, preset_configs
from cellmnn_fm.training.loop import remove_training_state
from cellmnn_fm.training.losses import energy_distance
from cellmnn_fm.training.one_course import draw, once, train

COURSE = KNOWN_SYSTEMS["linear"].course(cells=80, seed=0)
CONFIG = CellMNNConfig(latent_dim=2, rank=2, hidden_size=16)
SHORT = TrainingConfig(steps=12, save_every=5)


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for (_, a), b in pairs)


def test_training_lowers_the_loss():
    trained = train(COURSE, CONFIG, TrainingConfig(steps=80))
    distances = [step["distance"] for step in trained.losses]
    assert np.mean(distances[-10:]) < 0.3 * np.mean(distances[:5])
    assert not trained.model.training
    assert trained.time_scale == COURSE.time_scale


def test_same_seed_same_weights_and_the_global_state_is_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    runs = [train(COURSE, CONFIG, SHORT, seed=seed) for seed in (1, 1, 2)]
    assert same_weights(runs[0].model, runs[1].model)
    assert not same_weights(runs[0].model, runs[2].model)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_cells_are_drawn_without_replacement():
    sizes = [30, 10]
    rows, again, other = (draw(sizes, 20, np.random.default_rng((0, n))) for n in (3, 3, 4))
    np.testing.assert_array_equal(rows, again)
    assert (rows != other).any()
    assert rows.shape == (2, 20)
    assert len(set(rows[0])) == 20
    assert set(rows[0]) <= set(range(30))
    weights = once(sizes, 20)
    assert weights.sum(-1).tolist() == [20, 10]
    assert set(rows[1][weights[1] > 0]) == set(range(30, 40))  # all of a small snapshot, once


def test_a_snapshot_of_few_cells_counts_as_those_cells():
    """The loss of 10 cells filled up to 64 is that of the 10."""
    x, y = torch.randn(2, 10, 3), torch.randn(2, 40, 3)
    filled = x.flatten(0, 1)[draw([10, 10], 64, np.random.default_rng(0))]
    weights = once([10, 10], 64)
    torch.testing.assert_close(energy_distance(filled, y, weights), energy_distance(x, y))


class Stop:
    """A validation that interrupts at a given call."""

    def __init__(self, at=None):
        self.left = at

    def __call__(self, dynamics):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return float(sum(p.detach().abs().sum() for p in dynamics.model.parameters()))


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("interrupted_at", [1, 2, 3])
def test_resumed_is_bit_for_bit_uninterrupted(tmp_path, frame, interrupted_at):
    config = CellMNNConfig(
        latent_dim=2, rank=2, hidden_size=16, frame=frame, num_frame_times=9 if frame else 0
    )
    training = replace(SHORT, check_every=3, patience=99)
    expected = train(COURSE, config, training, validate=Stop())
    with pytest.raises(KeyboardInterrupt):
        train(COURSE, config, training, validate=Stop(interrupted_at), folder=tmp_path)
    resumed = train(COURSE, config, training, validate=Stop(), folder=tmp_path)
    assert same_weights(resumed.model, expected.model)
    assert resumed.losses == expected.losses
    assert resumed.seconds > 0


def test_a_run_with_other_settings_does_not_take_over_a_state(tmp_path):
    train(COURSE, CONFIG, SHORT, folder=tmp_path)
    for other in ({"seed": 1}, {"training": replace(SHORT, gamma=0.2)}):
        with pytest.raises(InputError, match="expected the state of a run with these settings"):
            train(
                COURSE,
                CONFIG,
                other.get("training", SHORT),
                seed=other.get("seed", 0),
                folder=tmp_path,
            )
    remove_training_state(tmp_path)
    assert not list(tmp_path.iterdir())
    train(COURSE, CONFIG, SHORT, seed=1, folder=tmp_path)


def test_patience_stops_and_keeps_the_best():
    scores = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    kept = {}

    def validate(dynamics):
        score = next(scores)
        kept[score] = {name: value.clone() for name, value in dynamics.model.state_dict().items()}
        return score

    trained = train(
        COURSE, CONFIG, TrainingConfig(steps=50, check_every=2, patience=3), validate=validate
    )
    assert len(trained.losses) == 10
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, kept[1.0][name])


def test_without_steps_the_model_is_untrained():
    trained = train(COURSE, CONFIG, TrainingConfig(steps=0))
    assert trained.losses == []


def widen(narrow, wide):
    """Give the model of 5 dimensions, 2 of them real, the operator of one of 2 dimensions."""
    before, after = (dict(model.hypernetwork.named_parameters()) for model in (narrow, wide))
    real, dim, rank = narrow.config.latent_dim, wide.config.latent_dim, narrow.config.rank
    rows = {
        "eigvecs": torch.arange(2 * dim * rank).reshape(2, dim, rank)[:, :real].flatten(),
        "eigvals": torch.arange(real),
        "offset": torch.arange(real),
    }
    starts = np.cumsum([0, *wide.hypernetwork.head.sizes.values()])
    of_head = [rows[name] + start for name, start in zip(rows, starts, strict=False)]
    with torch.no_grad():
        for name, values in before.items():
            if name.startswith("head"):
                after[name][torch.cat(of_head)] = values
            elif name == "layers.0.weight":
                after[name][:, :real] = values[:, :real]
                after[name][:, dim:] = values[:, real:]
            else:
                after[name].copy_(values)


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("distance", ["energy", "mmd"])
def test_padded_training_is_the_unpadded_one(monkeypatch, frame, distance):
    """All losses and predictions of a whole run agree, padding or not."""
    frames = {"frame": frame, "num_frame_times": len(COURSE.times) if frame else 0}
    narrow_config = CellMNNConfig(latent_dim=2, rank=2, hidden_size=16, **frames)
    wide_config = CellMNNConfig(
        latent_dim=5, rank=2, hidden_size=16, dataset_dims=[2], num_genes=2, **frames
    )
    start = training_module._new_model(COURSE, narrow_config, 0)
    torch.nn.init.normal_(
        start.hypernetwork.head.weight,
        std=0.002 if frame else 0.02,
        generator=torch.Generator().manual_seed(0),
    )

    def prepared(course, config, seed):
        model = new_model(course, config, seed)
        if config is narrow_config:
            model.load_state_dict(start.state_dict())
        else:
            widen(start, model)
        return model

    new_model = training_module._new_model
    monkeypatch.setattr(training_module, "_new_model", prepared)
    recipe = replace(SHORT, distance=distance)
    narrow, wide = (train(COURSE, config, recipe) for config in (narrow_config, wide_config))
    for one, other in zip(narrow.losses, wide.losses, strict=True):
        assert other == pytest.approx(one, rel=5e-3)  # rounding grows from step to step
    assert wide.losses[0] == pytest.approx(narrow.losses[0], rel=1e-6, abs=1e-6)
    cells = torch.from_numpy(COURSE.snapshots[0])[None]
    times, targets = torch.zeros(1), torch.tensor([0.5, 1.0, 9.0])
    expected = narrow.model(cells, times, targets)
    found = wide.model(torch.nn.functional.pad(cells, (0, 3)), times, targets)
    for name in ("states", "velocity", "learned_velocity"):
        torch.testing.assert_close(found[name][..., :2], expected[name], rtol=1e-3, atol=1e-4)
        assert not found[name][..., 2:].any()
    torch.testing.assert_close(found.determinant, expected.determinant, rtol=1e-3, atol=1e-4)


def test_padding_must_be_declared():
    with pytest.raises(
        InputError, match=r"dataset_dims: expected \[2\], the dimensions .* found \[5\]; set them"
    ):
        train(COURSE, CellMNNConfig(latent_dim=5), SHORT)


def test_growth_and_dense_and_mmd_train():
    config = CellMNNConfig(latent_dim=2, rank=None, growth=True, hidden_size=16)
    trained = train(COURSE, config, TrainingConfig(steps=60, distance="mmd"))
    assert set(trained.losses[0]) == {"distance", "kinetic", "invertibility", "growth"}
    assert trained.losses[-1]["distance"] < trained.losses[0]["distance"]


@pytest.mark.slow
def test_bf16_autocast_trains():
    code = (
        "from tests.training.test_one_course import COURSE, CONFIG, SHORT, train\n"
        "t = train(COURSE, CONFIG, SHORT)\n"
        "assert all(p.isfinite().all() for p in t.model.parameters())\n"
        "print(t.losses[-1]['distance'] < t.losses[0]['distance'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "True"


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("dim", [1, 70])
def test_any_number_of_dimensions_trains(dim, frame):
    """One dimension, and more than a covariance root keeps dense."""
    rng = np.random.default_rng(0)
    course = TimeCourse([rng.normal(size=(100, dim)) + t for t in range(3)], np.arange(3.0))
    config, training = preset_configs("default", course, frame=frame)
    trained = train(course, config, replace(training, steps=30))
    before, after = (
        np.mean([step["distance"] for step in steps])
        for steps in (trained.losses[:5], trained.losses[-5:])
    )
    if frame:  # starts at the distance of samples of the same distribution, and stays there
        assert abs(after - before) < 0.1
    else:
        assert after < before
    halfway = interpolate(trained.dynamics, course, 0.5)
    assert halfway.states.shape == (200, dim)
    assert abs(halfway.states.mean() - 0.5) < 0.3


def test_paper_preset_states_the_published_facts():
    config, training = preset_configs("paper", COURSE)
    assert (config.hidden_size, config.num_hidden_layers, config.rank) == (96, 4, None)
    assert (config.offset, config.hidden_act, config.init_scale) == (False, "leaky_relu", 0.01)
    assert training.steps == 1000 * (9 * 80 // 200)
    assert training.check_every == 10 * (9 * 80 // 200)
    assert (training.patience, training.source_cells, training.target_cells) == (10, 25, 200)
    assert (training.learning_rate, training.weight_decay) == (2e-4, 1e-5)
    assert (training.schedule, training.ema_decay, training.gradient_clip) == (
        "constant",
        None,
        None,
    )
    assert (training.distance, training.gamma, training.both_directions) == ("mmd", 0.1, False)
    assert (training.kinetic_weight, training.kinetic_grid) == (0.1, 0.1)
    assert training.invertibility_weight == 1.0
    trained = train(COURSE, config, replace(training, steps=3))
    assert trained.time_scale == TimeScale(0.0, 1.0)  # raw labels
    with pytest.raises(InputError, match="preset paper: expected no frame"):
        preset_configs("paper", COURSE, frame=True)
    with pytest.raises(InputError, match="preset: expected default, sliced or paper, found papper"):
        preset_configs("papper", COURSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps: expected at least 0, found -1"),
        ({"source_cells": 1}, "source_cells: expected at least 2, found 1"),
        ({"distance": "w2"}, "distance: expected energy or mmd or sliced, found w2"),
        ({"schedule": "cosine"}, "schedule: expected one_cycle or constant, found cosine"),
    ],
)
def test_training_settings_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**options)


def cellmnn_fit(folder, *launcher):
    return [
        *launcher,
        "cellmnn_fm",
        "fit",
        str(folder / "course.h5ad"),
        "--time-key",
        "time",
        "-o",
        str(folder / "model"),
        "--steps",
        "250",
        "--no-verdict",
    ]


@pytest.mark.multiprocess
def test_killed_and_started_again(tmp_path):
    """SIGKILL in the middle; the same command then ends in the weights of an unbroken run."""
    from cellmnn_fm import CellMNNPipeline

    adata = KNOWN_SYSTEMS["linear"].to_anndata(cells=80, seed=0)
    adata.write_h5ad(tmp_path / "course.h5ad")
    command = cellmnn_fit(tmp_path, sys.executable, "-m")
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "model").glob("training_state/step_*")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "model" / "config.json").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert not (tmp_path / "model" / "training_state").exists()
    resumed = CellMNNPipeline.from_pretrained(tmp_path / "model")
    unbroken = CellMNNPipeline().fit(adata, time_key="time", steps=250, verdict=False)
    assert same_weights(resumed.model, unbroken.model)


@pytest.mark.multiprocess
def test_two_processes(tmp_path):
    """Two gloo processes draw different cells, agree on the weights, and save once."""
    from cellmnn_fm import CellMNNPipeline

    adata = KNOWN_SYSTEMS["linear"].to_anndata(cells=80, seed=0)
    adata.write_h5ad(tmp_path / "course.h5ad")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
    ]
    run = subprocess.run(
        cellmnn_fit(tmp_path, *launcher),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("250 steps in") == 1
    two = CellMNNPipeline.from_pretrained(tmp_path / "model")
    one = CellMNNPipeline().fit(adata, time_key="time", steps=250, verdict=False)
    assert not same_weights(one.model, two.model)
    assert two.record.losses[-1]["distance"] < 0.3 * two.record.losses[0]["distance"]
