"""Systems with a known truth are recovered."""

import numpy as np
import pytest
from scipy.linalg import expm

from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS, ROTATION_CONTRACTION
from cellmnn_fm.evaluation.metrics import wasserstein1


def test_linear_snapshots_follow_the_operator():
    system = KNOWN_SYSTEMS["linear"]
    late = system.snapshot(3.0, 200, np.random.default_rng(0))
    initial = system.draw_initial(np.random.default_rng(0), 200)
    np.testing.assert_allclose(late, initial @ expm(3 * ROTATION_CONTRACTION).T, atol=1e-4)


def test_snapshots_share_no_cells_and_repeat_by_seed():
    system = KNOWN_SYSTEMS["oscillator"]
    one, again, other = (system.course(50, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.snapshots[3], again.snapshots[3])
    assert not np.allclose(one.snapshots[3], other.snapshots[3])
    at_start = system.draw_initial(np.random.default_rng(0), 50)
    pushed = system.snapshot(system.times[1], 50, np.random.default_rng(0))
    assert np.abs(at_start - one.snapshots[0]).max() < 1e-5  # the same draw
    assert not np.allclose(pushed, one.snapshots[1])  # the next one is not it


def test_bistable_cells_take_both_branches():
    late = KNOWN_SYSTEMS["bistable"].snapshot(6.0, 500, np.random.default_rng(0))
    assert 0.35 < (late[:, 0] > 0.5).mean() < 0.65
    assert (np.abs(late[:, 0]) > 0.8).mean() > 0.9


def test_oscillator_cells_end_on_the_cycle():
    late = KNOWN_SYSTEMS["oscillator"].snapshot(12.0, 100, np.random.default_rng(0))
    np.testing.assert_allclose(np.hypot(*late.T), 1, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN_SYSTEMS)
def test_known_systems_are_recovered(recovered, name):
    found = recovered(name)
    assert found.w1 < 1.1 * found.floor
    if name == "linear":
        assert found.velocity_error < 0.05
    before = found.course.snapshots[KNOWN_SYSTEMS[name].held_out - 1]
    truth = found.course.snapshots[KNOWN_SYSTEMS[name].held_out]
    assert found.w1 < 0.5 * wasserstein1(before, truth)
