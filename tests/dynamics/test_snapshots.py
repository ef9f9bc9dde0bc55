"""Pushing and interpolating: times, sides, weights."""

import numpy as np
import pytest
import torch

from cellmnn_fm import CellMNNConfig, CellMNNModel, InputError, TimeCourse
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate, push, velocity_at

COURSE = TimeCourse(
    [np.random.default_rng(i).normal(size=(20 + i, 2)) + i for i in range(3)],
    np.array([10.0, 14.0, 30.0]),
)
SCALE = COURSE.time_scale


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CellMNNModel(CellMNNConfig(latent_dim=2, rank=2, init_scale=0.3)).eval()


def test_push_takes_the_users_time(model):
    cells = COURSE.snapshots[0]
    z = torch.from_numpy(cells)[None]
    direct = model(z, torch.tensor([0.0]), torch.tensor([0.4, -0.1])).states[0]
    pushed = push(Dynamics(model, SCALE), cells, 10.0, np.array([14.0, 9.0]))
    np.testing.assert_allclose(pushed, direct.detach(), rtol=1e-5)
    np.testing.assert_array_equal(push(Dynamics(model, SCALE), cells, 10.0, 14.0), pushed[0])


def test_steps_relinearise(model):
    cells = COURSE.snapshots[0]
    one, two = (push(Dynamics(model, SCALE), cells, 10.0, 30.0, n_steps=n) for n in (1, 2))
    assert not np.allclose(one, two)
    halfway = push(Dynamics(model, SCALE), cells, 10.0, 20.0)
    np.testing.assert_allclose(push(Dynamics(model, SCALE), halfway, 20.0, 30.0), two, rtol=1e-5)
    both = push(Dynamics(model, SCALE), cells, 10.0, np.array([20.0, 30.0]), n_steps=2)
    np.testing.assert_allclose(both[1], two)
    fine = [push(Dynamics(model, SCALE), cells, 10.0, 30.0, n_steps=n) for n in (32, 64)]
    assert np.abs(fine[1] - fine[0]).max() < 0.2 * np.abs(fine[1] - one).max()
    with pytest.raises(InputError, match="n_steps: expected a whole number, 1 or more, found 0"):
        push(Dynamics(model, SCALE), cells, 10.0, 30.0, n_steps=0)


def test_many_cells_are_pushed_in_chunks(model, monkeypatch):
    cells = COURSE.snapshots[2]
    expected = push(Dynamics(model, SCALE), cells, 30.0, np.array([14.0, 20.0]))
    monkeypatch.setattr("cellmnn_fm.dynamics.snapshots._CHUNK", 7)
    np.testing.assert_allclose(
        push(Dynamics(model, SCALE), cells, 30.0, np.array([14.0, 20.0])), expected, rtol=1e-4
    )


def test_interpolation_mixes_both_sides_by_nearness(model):
    found = interpolate(Dynamics(model, SCALE), COURSE, 18.0)
    assert found.source_index.tolist() == [1] * 21 + [2] * 22
    assert found.source_cell.tolist() == [*range(21), *range(22)]
    assert found.weights[:21].sum() == pytest.approx(12 / 16)
    assert found.weights.sum() == pytest.approx(1)
    forward = push(Dynamics(model, SCALE), COURSE.snapshots[1], 14.0, 18.0)
    backward = push(Dynamics(model, SCALE), COURSE.snapshots[2], 30.0, 18.0)
    np.testing.assert_array_equal(found.states, np.concatenate([forward, backward]))
    one_sided = interpolate(Dynamics(model, SCALE), COURSE, 18.0, two_sided=False)
    np.testing.assert_array_equal(one_sided.states, forward)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_observed_time_gives_what_was_observed(model, index):
    found = interpolate(Dynamics(model, SCALE), COURSE, float(COURSE.times[index]))
    assert set(found.source_index) == {index}
    np.testing.assert_allclose(found.states, COURSE.snapshots[index], atol=1e-5)


@pytest.mark.parametrize(("at", "source"), [(32.5, 2), (8.0, 0)])
def test_extrapolation_says_how_far(model, at, source):
    distance = max(at - 30, 10 - at)
    with pytest.warns(UserWarning, match=f"time {at:g} is {distance:g} beyond .* 10 to 30"):
        found = interpolate(Dynamics(model, SCALE), COURSE, at)
    assert set(found.source_index) == {source}


def test_a_time_must_be_a_number(model):
    with pytest.raises(InputError, match="expected a finite number, found nan"):
        interpolate(Dynamics(model, SCALE), COURSE, np.nan)


def test_velocity_is_per_the_users_time(model):
    cells, step = COURSE.snapshots[0], 1e-2
    moved = push(Dynamics(model, SCALE), cells, 10.0, np.array([10 + step, 10 - step]))
    np.testing.assert_allclose(
        velocity_at(Dynamics(model, SCALE), cells, 10.0),
        (moved[0] - moved[1]) / (2 * step),
        atol=2e-4,
    )
