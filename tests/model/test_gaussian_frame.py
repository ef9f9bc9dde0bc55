"""The frame: moments, their interpolation, and the generator of the flow it makes."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from sklearn.covariance import oas

from cellmnn_fm.model.gaussian_frame import FrameState, fit_frame, stack_frames
from cellmnn_fm.model.linear_flow import DenseMatrix, LinearODE, LowRankMatrix

TIMES = torch.tensor([0.0, 1.0, 1.5, 3.0], dtype=torch.float64)


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def make_snapshots(dim=4, cells=200):
    rng = np.random.default_rng(0)
    return [
        torch.from_numpy(rng.normal(size=(cells, dim)) @ rng.normal(size=(dim, dim)) + 2 * i)
        for i in range(len(TIMES))
    ]


@pytest.fixture
def frame():
    return fit_frame(make_snapshots(), TIMES)


def test_every_snapshot_has_mean_zero_and_unit_covariance():
    rng = torch.Generator().manual_seed(0)
    scale = f64([3.0, 1.0, 2.0, 0.5])
    snapshots = [torch.randn(5000, 4, generator=rng).double() * scale + i for i in range(4)]
    frame = fit_frame(snapshots, TIMES)
    for snapshot, time in zip(snapshots, TIMES, strict=True):
        y = frame.to_frame(snapshot, time)
        torch.testing.assert_close(y.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-9)
        torch.testing.assert_close(torch.cov(y.T), torch.eye(4).double(), rtol=0, atol=0.02)


def test_covariance_is_shrunk_as_scikit_learn_does():
    snapshots = make_snapshots(dim=30, cells=60)
    root = fit_frame(snapshots, TIMES).root_at(TIMES).dense()
    for snapshot, found in zip(snapshots, root @ root, strict=True):
        expected, shrinkage = oas(snapshot.numpy())  # drops terms of order 1 / dim
        assert shrinkage > 0.05
        np.testing.assert_allclose(found, expected, atol=0.01 * np.trace(expected) / 30)


def test_root_is_symmetric_positive_and_linear_in_time(frame):
    root = frame.root_at(TIMES).dense()
    torch.testing.assert_close(root, root.mT)
    assert torch.linalg.eigvalsh(root).min() > 0
    halfway = frame.root_at(f64(2.25)).dense()
    torch.testing.assert_close(halfway, (root[2] + root[3]) / 2)
    mean = frame.mean_at(f64(2.25))
    torch.testing.assert_close(mean, (frame.mean[2] + frame.mean[3]) / 2)


def test_there_and_back(frame):
    t = f64([-1.0, 0.2, 1.0, 2.9, 4.0])
    y = torch.randn(5, 7, 4).double()
    torch.testing.assert_close(frame.to_frame(frame.from_frame(y, t), t), y)


@pytest.mark.parametrize(
    ("t", "forward"),
    [(0.4, True), (2.0, False), (1.0, True), (1.0, False), (3.7, True), (-0.3, False)],
)
def test_rates_are_one_sided_derivatives(frame, t, forward):
    step = 1e-6 if forward else -1e-6
    t, later = f64(t), f64(t + step)
    mean_rate = (frame.mean_at(later) - frame.mean_at(t)) / step
    torch.testing.assert_close(
        frame.mean_rate_at(t, forward=forward), mean_rate, rtol=1e-4, atol=1e-5
    )
    root_rate = (frame.root_at(later).dense() - frame.root_at(t).dense()) / step
    torch.testing.assert_close(
        frame.root_rate_at(t, forward=forward).dense(), root_rate, rtol=1e-4, atol=1e-5
    )


def test_beyond_the_observed_times_the_root_rests_and_the_mean_slows_down(frame):
    ends = f64([3.0, 4.0, 400.0])
    roots = frame.root_at(ends).dense()
    torch.testing.assert_close(roots[1], roots[0])
    last_step = frame.mean[-1] - frame.mean[-2]
    torch.testing.assert_close(frame.mean_at(ends)[2], frame.mean[-1] + last_step)
    first = frame.mean_at(f64([-400.0]))[0]
    torch.testing.assert_close(first, 2 * frame.mean[0] - frame.mean[1])


def make_ode(dim=4):
    torch.manual_seed(1)
    u, v = 0.3 * torch.randn(2, 1, dim, 2).double()
    eigvals, offset = torch.randn(2, 1, dim).double()
    return LinearODE(LowRankMatrix(u, v), eigvals, offset)


@pytest.mark.parametrize("forward", [True, False])
def test_generator_in_z_drives_the_flow(frame, forward):
    """Both by finite differences of the flow and by integrating A_z(t) and b_z(t) with scipy."""
    ode, y0 = make_ode(), torch.randn(1, 4).double()
    start, stop = (1.05, 1.45) if forward else (1.45, 1.05)

    def flow(t):
        y = ode.flow(y0, f64(t - start))
        return frame.from_frame(y, f64(t))[0].numpy()

    def generator(t, z):
        learned, gauge, offset = frame.instantaneous(
            ode.operator(), ode.offset, f64(t), forward=forward
        )
        return ((learned + gauge)[0] @ torch.from_numpy(z) + offset[0]).numpy()

    middle, step = 1.2, 1e-6
    difference = (flow(middle + step) - flow(middle - step)) / (2 * step)
    np.testing.assert_allclose(generator(middle, flow(middle)), difference, rtol=1e-5, atol=1e-6)
    solution = solve_ivp(generator, (start, stop), flow(start), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(solution.y[:, -1], flow(stop), rtol=1e-6)


def test_velocity_agrees_with_the_generator(frame):
    ode, y = make_ode(), torch.randn(1, 4).double()
    t = f64(2.0)
    z = frame.from_frame(y, t)
    learned, gauge, offset = frame.instantaneous(ode.operator(), ode.offset, t)
    expected = ((learned + gauge) @ z[..., None])[..., 0] + offset
    found = frame.motion(y, t) + frame.root_at(t).apply(ode.velocity(y))
    torch.testing.assert_close(found, expected)


def test_few_cells_are_shrunk_to_an_invertible_root():
    rng = torch.Generator().manual_seed(0)
    snapshots = [torch.randn(4, 20, generator=rng).double() for _ in range(2)]
    frame = fit_frame(snapshots, f64([0.0, 1.0]))
    eigenvalues = torch.linalg.eigvalsh(frame.root_at(f64(0.0)).dense())
    assert eigenvalues.min() > 0.1
    assert eigenvalues.max() < 3


def test_flat_snapshots_stay_invertible():
    flat = torch.zeros(50, 3).double()
    flat[:, 0] = torch.linspace(0, 1, 50)
    frame = fit_frame([flat, torch.randn(50, 3).double()], f64([0.0, 1.0]))
    assert torch.isfinite(frame.to_frame(flat, f64(0.0))).all()


def test_weights_count_as_repetition():
    snapshot = torch.randn(6, 3).double()
    weights = f64([3.0, 1, 1, 1, 1, 1])
    other = torch.randn(6, 3).double()
    times = f64([0.0, 1.0])
    weighted = fit_frame([snapshot, other], times, [weights, torch.ones(6).double()])
    repeated = fit_frame([torch.cat([snapshot, snapshot[:1], snapshot[:1]]), other], times)
    torch.testing.assert_close(weighted.mean[0], repeated.mean[0])


def test_many_dimensions_use_low_rank_roots():
    dim = 80
    rng = torch.Generator().manual_seed(0)
    scale = torch.logspace(0.5, -1, dim).double()
    snapshots = [torch.randn(500, dim, generator=rng).double() * scale + i for i in range(3)]
    frame = fit_frame(snapshots, torch.arange(3.0).double())
    t = f64([0.0, 0.7, 2.0])
    root = frame.root_at(t)
    assert isinstance(root, LowRankMatrix)
    y = torch.randn(3, 10, dim).double()
    torch.testing.assert_close(frame.to_frame(frame.from_frame(y, t), t), y)
    torch.testing.assert_close(root.solve(y), DenseMatrix(root.dense()).solve(y))
    spread = root.dense()[0].square().sum()
    torch.testing.assert_close(spread, torch.cov(snapshots[0].T).trace(), rtol=0.02, atol=0)


def test_state_is_what_a_frame_needs():
    frame = fit_frame(make_snapshots(), TIMES)
    again = FrameState(**{name: value.clone() for name, value in vars(frame).items()})
    t = f64(0.3)
    torch.testing.assert_close(again.mean_at(t), frame.mean_at(t), rtol=0, atol=0)


@pytest.mark.parametrize(("dim", "latent_dim"), [(4, 9), (5, 80), (40, 80), (70, 90)])
def test_padding_rests_at_zero(dim, latent_dim):
    """In the real dimensions nothing changes; in the others m = 0 and L = 1."""
    snapshots = make_snapshots(dim)
    times = torch.arange(float(len(snapshots)))
    own, padded = fit_frame(snapshots, times), fit_frame(snapshots, times, latent_dim=latent_dim)
    wide = torch.nn.functional.pad(snapshots[0], (0, latent_dim - dim))
    t, later = times[0], torch.tensor(1.3)
    y = padded.to_frame(wide, t)
    moved = padded.from_frame(y, later)
    assert not y[:, dim:].any()
    assert not moved[:, dim:].any()
    assert not padded.motion(y, later)[:, dim:].any()
    if dim <= 32 or dim > 64:  # else some directions do not fit into the low-rank root
        expected = own.from_frame(own.to_frame(snapshots[0], t), later)
        torch.testing.assert_close(moved[:, :dim], expected, rtol=1e-4, atol=1e-4)
    if dim <= 32:
        root = padded.root_at(later).dense()
        torch.testing.assert_close(root[dim:, dim:], torch.eye(latent_dim - dim).to(root))


def test_a_continued_frame_is_the_same_where_it_was(frame):
    longer = frame.continued(len(TIMES) + 3)
    assert len(longer.times) == len(TIMES) + 3
    assert frame.continued(len(TIMES)) is frame
    y = make_snapshots()[0]
    for t in f64([0.4, 1.0, float(TIMES[-1])]):
        for forward in (True, False):
            if forward and t == TIMES[-1]:  # where it goes on, the root of the shorter one rests
                continue
            expected = frame.motion(y, t, forward=forward)
            torch.testing.assert_close(longer.motion(y, t, forward=forward), expected)
    ahead = longer.mean_rate_at(TIMES[-1], forward=True)
    torch.testing.assert_close(ahead, frame.mean_rate_at(TIMES[-1], forward=True))
    rests = longer.root_rate_at(TIMES[-1], forward=True).dense()
    torch.testing.assert_close(rests, torch.zeros_like(rests))


@pytest.mark.parametrize("dim", [3, 70])
def test_a_batch_of_frames_is_each_of_them(dim):
    rng = np.random.default_rng(0)
    frames = [
        fit_frame([torch.from_numpy(rng.normal(size=(50, dim)) * (i + 1)) for i in range(3)], t)
        for t in (f64([0.0, 1.0, 2.0]), f64([0.0, 0.5, 2.0]))
    ]
    batch = stack_frames(frames)
    t = f64([[-0.5, 0.0, 0.7, 1.0], [0.5, 1.1, 2.0, 2.3]])
    y = torch.from_numpy(rng.normal(size=(2, 4, 6, dim)))
    forward = torch.tensor([[True, False, True, False]] * 2)
    calls = {
        "mean": lambda frame, t, y, forward: frame.mean_at(t),
        "mean_rate": lambda frame, t, y, forward: frame.mean_rate_at(t, forward=forward),
        "to": lambda frame, t, y, forward: frame.to_frame(y, t),
        "from": lambda frame, t, y, forward: frame.from_frame(y, t),
        "motion": lambda frame, t, y, forward: frame.motion(y, t, forward=forward),
    }
    for call in calls.values():
        expected = [call(frame, t[i], y[i], forward[i]) for i, frame in enumerate(frames)]
        torch.testing.assert_close(call(batch, t, y, forward), torch.stack(expected))
