"""Frames of a condition beside its control: closed forms, and what is known at both ends."""

import numpy as np
import pytest
import torch

from cellmnn_fm.data.paired_frames import fit_paired_frames
from cellmnn_fm.model.gaussian_frame import fit_frame

TIMES = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)


def snapshot(mean, seed, scale=1.0, cells=4000):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(cells, 3, generator=generator, dtype=torch.float64)
    return scale * noise + torch.tensor(mean, dtype=torch.float64)


@pytest.fixture(scope="module")
def control():
    """Goes along a curve, and spreads on the way."""
    return [snapshot([t, 3 * np.sin(t), 0.0], int(t), 1 + t / 4) for t in TIMES.tolist()]


def covariances(frame):
    root = frame.root_at(frame.times).dense()
    return root @ root.mT


def test_a_condition_that_goes_along(control):
    """A constant shift of its control: everywhere its moments, shifted."""
    shift = torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)
    seen = [control[1] + shift, control[3] + shift]
    frame, other = fit_paired_frames(seen, TIMES[[1, 3]], control, TIMES)
    torch.testing.assert_close(frame.times, TIMES)
    torch.testing.assert_close(frame.mean, other.mean + shift)
    torch.testing.assert_close(covariances(frame), covariances(other))
    its_own = fit_frame(control, TIMES)
    torch.testing.assert_close(other.mean, its_own.mean)
    torch.testing.assert_close(covariances(other), covariances(its_own))


def test_a_condition_that_stands_still(control):
    """While its control moves: it is expected where it was seen, also beyond."""
    seen = [snapshot([1.0, 1.0, 1.0], seed) for seed in (7, 8)]
    frame, _ = fit_paired_frames(seen, TIMES[[0, 2]], control, TIMES)
    expected = torch.ones(4, 3, dtype=torch.float64)
    torch.testing.assert_close(frame.mean, expected, atol=0.1, rtol=0)


def test_what_was_seen_is_kept(control):
    seen = [snapshot([0.0, 5.0, 0.0], 3, 0.5), snapshot([9.0, 1.0, 2.0], 4, 2.0)]
    frame, _ = fit_paired_frames(seen, TIMES[[1, 2]], control, TIMES)
    its_own = fit_frame(seen, TIMES[[1, 2]])
    torch.testing.assert_close(frame.mean[[1, 2]], its_own.mean)
    torch.testing.assert_close(covariances(frame)[[1, 2]], covariances(its_own))


def test_one_snapshot_moves_with_the_control(control):
    shift = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    frame, other = fit_paired_frames([control[2] + shift], TIMES[[2]], control, TIMES)
    torch.testing.assert_close(frame.mean, other.mean + shift)


def test_times_at_which_only_one_was_seen(control):
    """A control that is not there is linear between its neighbours."""
    seen = [snapshot([1.0, 0.0, 0.0], 5)]
    at = torch.tensor([3.0], dtype=torch.float64)
    frame, other = fit_paired_frames(seen, at, control, TIMES)
    assert frame.times.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(other.mean[3], (other.mean[2] + other.mean[4]) / 2)


@pytest.mark.parametrize("cells", [2, 3])
def test_few_cells_have_a_frame(control, cells):
    """Flat snapshots too: every root can be inverted."""
    seen = [snapshot([0.0, 0.0, 0.0], 1, cells=cells), snapshot([1.0, 0.0, 0.0], 2, cells=cells)]
    frame, _ = fit_paired_frames(seen, TIMES[[0, 3]], control, TIMES, latent_dim=5)
    assert frame.mean.shape == (4, 5)
    y = frame.to_frame(torch.zeros(4, 1, 5, dtype=torch.float64), frame.times)
    assert torch.isfinite(y).all()


def test_a_condition_that_is_its_control(control):
    """No step at all, and equal snapshots: nothing is divided by nothing."""
    still = [control[0]] * 4
    frame, other = fit_paired_frames([control[0]] * 2, TIMES[[0, 1]], still, TIMES)
    torch.testing.assert_close(frame.mean, other.mean)
