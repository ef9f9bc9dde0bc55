"""Pairs of a condition and its control, and the network that reads both."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellmnn_fm import CellMNNConfig, CellMNNModel, InputError, TimeCourse
from cellmnn_fm.data.paired_frames import fit_paired_frames
from cellmnn_fm.data.simulated_systems import FAMILIES, draw_system, perturbed
from cellmnn_fm.data.simulated_tasks import SimulatedTasks, SimulationConfig
from cellmnn_fm.dynamics.snapshots import Dynamics, mixture
from cellmnn_fm.training.adaptation import adapt, adapt_beside
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.simulated import SimulatedErrors, SimulatedStep, pretrain_simulated

PAIRS = SimulationConfig(tasks=3, pairs=True)


@pytest.fixture(scope="module")
def batch():
    return SimulatedTasks(PAIRS, seed=0, steps=200)[5]


def small(**changes):
    sizes = {"hidden_size": 16, "vector_channels": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_summary_tokens": 2, "rank": 2, "latent_dim": 4}
    about = {"frame": True, "num_frame_times": 2, "num_datasets": 0, "context_cells": 20}
    return CellMNNConfig(**{**sizes, **about, "reads_control": True, **changes})


def awake(config, seed=0):
    """A network whose last layers are not zero."""
    torch.manual_seed(seed)
    model = CellMNNModel(config).eval()
    for parameter in model.hypernetwork.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_task_shows_some_of_the_condition(batch):
    times = batch.frame.times.shape[1]
    assert batch.context.shape == batch.control.context.shape
    seen = batch.shown.any(-1).sum(-1)
    assert ((seen >= 1) & (seen < times)).all()
    assert batch.control.shown.any(-1).all()  # all of the control
    # what is asked for is at none of the times that are shown
    known = zip(batch.frame.times, batch.shown.any(-1), batch.target_time, strict=True)
    assert not any(float(target) in its_times[mask].tolist() for its_times, mask, target in known)
    for number in range(3):  # and is pushed from there, in the right direction
        for side in range(2):
            start, target = batch.query_times[number, side], batch.target_time[number]
            assert batch.forward[number, side] == (start < target)


def test_pairs_depend_on_seed_and_step_alone(batch):
    again = SimulatedTasks(PAIRS, seed=0, steps=200)
    again[3]
    torch.testing.assert_close(again[5].control.context, batch.control.context)
    second = SimulatedTasks(PAIRS, seed=0, steps=200, process=1, processes=3)[5]
    torch.testing.assert_close(second.context, batch.context[[1]])
    torch.testing.assert_close(second.control.context, batch.control.context[[1]])


@pytest.mark.parametrize("family", FAMILIES)
def test_conditions_of_every_family(family):
    """Other velocities, the same for all cells at one place, and mostly the same start."""
    rng = np.random.default_rng(0)
    changed = 0
    for seed in range(8):
        system = replace(draw_system(seed, 3, (family,)), noise=0.0)
        other = perturbed(system, rng)
        x = system.draw_initial(np.random.default_rng(1), 50)
        velocity, control = other.velocity(x), system.velocity(x)
        assert velocity.shape == control.shape
        np.testing.assert_allclose(other.velocity(x[:7]), velocity[:7], rtol=1e-12)
        np.testing.assert_array_equal(system.velocity(x), control)  # which is left as it is
        changed += not np.allclose(velocity, control)
    assert changed >= 5


def test_an_untrained_network_is_the_frame(batch):
    """What is left to learn is all that the expected frame misses."""
    errors = SimulatedErrors(CellMNNModel(small()), batch)
    motion = batch.frame.motion(errors.y, batch.query_times, forward=batch.forward)
    torch.testing.assert_close(errors.velocity(), motion)


def test_the_control_is_read(batch):
    """Its cells matter, their order does not; the mark tells them from those of the condition."""
    model = awake(small(latent_dim=batch.query.shape[-1]))

    def velocity(control, network=model):
        return SimulatedErrors(network, batch._replace(control=control)).velocity()

    control = batch.control
    with torch.no_grad():
        plain = velocity(control)
        order = torch.randperm(control.context.shape[2])
        mixed = control._replace(
            context=control.context[:, :, order], shown=control.shown[:, :, order]
        )
        torch.testing.assert_close(velocity(mixed), plain, atol=1e-4, rtol=1e-3)
        moved = control._replace(context=control.context + 0.5)
        assert not torch.allclose(velocity(moved), plain, atol=1e-3)
        model.hypernetwork.control_mark.zero_()
        assert not torch.allclose(velocity(control), plain, atol=1e-3)


def test_gradients_reach_the_mark(batch):
    model = awake(small(latent_dim=batch.query.shape[-1])).train()
    sum(SimulatedStep(model, PAIRS)(batch).values()).backward()
    assert model.hypernetwork.control_mark.grad.abs().sum() > 0


def test_training_goes_down():
    training = TrainingConfig(steps=12, learning_rate=3e-3)
    trained = pretrain_simulated(small(latent_dim=8), training, replace(PAIRS, dims=(2, 3)))
    totals = [sum(step.values()) for step in trained.losses]
    assert len(totals) == 12
    assert np.isfinite(totals).all()


@pytest.fixture(scope="module")
def pair():
    """A control of four times, and its condition at two of them."""
    rng = np.random.default_rng(0)
    control = [rng.normal(size=(30, 3)) + np.array([t, np.sin(t), 0]) for t in range(4)]
    condition = [rng.normal(size=(25, 3)) + np.array([t, 2.0, t]) for t in (1, 3)]
    return TimeCourse(condition, [1.0, 3.0]), TimeCourse(control, [0.0, 1.0, 2.0, 3.0])


def test_the_model_of_a_condition(pair):
    """It has the frame of the pair, remembers both, and answers as before when it is saved."""
    course, control = pair
    base = awake(small())
    model = adapt_beside(base, course, control)
    times = torch.tensor([0.0, 1.0, 2.0, 3.0])
    tensors = [[torch.tensor(cells) for cells in of.snapshots] for of in (course, control)]
    frame, _ = fit_paired_frames(tensors[0], times[[1, 3]], tensors[1], times, latent_dim=4)
    torch.testing.assert_close(model.frame_state().mean, frame.mean)
    counts = [[len(cells) for cells in model.context_of(row)] for row in (0, 1)]
    assert counts == [[0, 20, 0, 20], [20, 20, 20, 20]]
    predicted = mixture(Dynamics(model, control.time_scale), course, 2.0)
    other = TimeCourse([cells + 1 for cells in control.snapshots], control.times)
    again = mixture(Dynamics(adapt_beside(base, course, other), control.time_scale), course, 2.0)
    assert not np.allclose(predicted.states, again.states, atol=1e-3)
    assert predicted.weights.sum() == pytest.approx(1)


def test_saved_and_loaded(pair, tmp_path):
    model = adapt_beside(awake(small()), *pair)
    model.save_pretrained(tmp_path)
    again = CellMNNModel.from_pretrained(tmp_path)
    dynamics = [Dynamics(which, pair[1].time_scale) for which in (model, again)]
    states = [mixture(which, pair[0], 2.5).states for which in dynamics]
    np.testing.assert_array_equal(*states)


def test_one_or_the_other(pair):
    """A base that reads a control needs one, and the others cannot read it."""
    course, control = pair
    with pytest.raises(InputError, match="condition: expected one, of a base that reads a control"):
        adapt(awake(small()), control)
    with pytest.raises(InputError, match="base: expected one that reads a control, found one that"):
        adapt_beside(awake(small(reads_control=False)), course, control)
    with pytest.raises(InputError, match="reads_control: expected False without context_cells"):
        CellMNNConfig(reads_control=True)
