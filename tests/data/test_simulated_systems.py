"""Simulated systems and the tasks that are made of them: true, seeded, usable."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from cellmnn_fm.data.simulated_systems import FAMILIES, draw_system
from cellmnn_fm.data.simulated_tasks import SimulatedTasks, SimulationConfig
from cellmnn_fm.model.errors import InputError


def systems_of(family, count, growing=False):
    """Of a family, without noise."""
    drawn = (draw_system(seed, 4, (family,)) for seed in range(200))
    kept = (one for one in drawn if (one.growth is not None) == growing and one.noise == 0.0)
    return list(islice(kept, count))


@pytest.mark.parametrize("family", FAMILIES)
def test_velocity_is_what_moves_the_cells(family):
    errors = []
    for system in systems_of(family, 5):
        assert system.family == family
        time, step = 0.4 * system.horizon, 1e-3 * system.horizon
        before, at, after = (
            system.followed(np.array([when]), 30, np.random.default_rng(0))
            for when in (time - step, time, time + step)
        )
        moved = (after.states - before.states) / (2 * step)
        errors.append(np.square(moved - at.velocity).mean() / np.square(at.velocity).mean())
    # to the error of the steps, whose number differs, and which are too long for a few
    assert np.median(errors) < 0.03**2


def test_cells_multiply_by_their_growth():
    """Snapshots hold cells in proportion to how much they have multiplied."""
    (system,) = systems_of("linear", 1, growing=True)
    times = np.array([0.0, system.horizon])
    drawn = system.followed(times, 4000, np.random.default_rng(0))
    # the same cells without their growth, weighed by it
    followed = replace(system, growth=None).followed(times, 16000, np.random.default_rng(1))
    path = [
        replace(system, growth=None).followed(np.array([t]), 16000, np.random.default_rng(2))
        for t in np.linspace(0, system.horizon, 60)
    ]
    log_mass = np.mean([system.growth(cells.states[0]) for cells in path], axis=0) * system.horizon
    weights = np.exp(log_mass - log_mass.max())
    expected = weights @ path[-1].states[0] / weights.sum()
    spread = path[-1].states[0].std(axis=0)
    plain = followed.states[1].mean(axis=0)
    found = drawn.states[1].mean(axis=0)
    off, without = (np.abs((mean - expected) / spread).max() for mean in (found, plain))
    assert off < without / 2
    assert without > 0.1
    np.testing.assert_array_equal(drawn.growth, system.growth(drawn.states))


def test_a_batch_follows_from_seed_and_step_alone():
    tasks = SimulatedTasks(SimulationConfig(tasks=4), seed=3, steps=200)
    again = SimulatedTasks(SimulationConfig(tasks=4), seed=3, steps=200)
    again[150], again[7]  # whatever was asked before
    for one, other in zip(tasks[9], again[9], strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)
    other = SimulatedTasks(SimulationConfig(tasks=4), seed=4, steps=200)[9]
    assert tasks[9].query.shape != other.query.shape or not torch.equal(tasks[9].query, other.query)


def test_processes_share_a_batch():
    whole = SimulatedTasks(SimulationConfig(tasks=4), 0, 10)[5]
    halves = [SimulatedTasks(SimulationConfig(tasks=4), 0, 10, rank, 2)[5] for rank in range(2)]
    for rank, half in enumerate(halves):
        assert torch.equal(half.context, whole.context[rank::2])
        assert torch.equal(half.velocity, whole.velocity[rank::2])


def test_batches_are_usable():
    tasks = SimulatedTasks(SimulationConfig(tasks=4), 0, 1000)
    shapes = set()
    for step in range(0, 640, 80):
        batch = tasks[step]
        for values in batch:
            if isinstance(values, torch.Tensor):
                assert torch.isfinite(values.float()).all()
        y = batch.frame.to_frame(batch.query, batch.query_times)
        assert torch.isfinite(y).all()
        assert batch.shown.any(-1).all()
        cells = batch.context[batch.shown]
        assert cells.mean(0).abs().max() < 0.3
        assert 0.5 < cells.square().mean() < 2
        first, last = batch.frame.times[:, :1], batch.frame.times[:, -1:]
        assert ((batch.query_times >= first - 1e-5) & (batch.query_times <= last + 1e-5)).all()
        shapes.add((batch.context.shape[1], batch.context.shape[-1]))
    assert len(shapes) > 3


def test_families_can_be_left_out():
    config = SimulationConfig(tasks=3, dims=(3, 3), families=("linear",))
    batch = SimulatedTasks(config, 0, 1)[0]
    assert batch.query.shape[-1] == 3
    assert all(draw_system(seed, 3, ("linear",)).family == "linear" for seed in range(5))


def test_bad_numbers_are_refused():
    with pytest.raises(InputError, match="dims: expected fewest and most dimensions"):
        SimulationConfig(dims=(4, 2))
    with pytest.raises(InputError, match="tasks: expected at least 1"):
        SimulationConfig(tasks=0)
