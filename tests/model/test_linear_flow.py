"""The closed form, in float64, against matrix exponentials and an ODE solver."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from cellmnn_fm.model.linear_flow import (
    DenseMatrix,
    LinearODE,
    LowRankMatrix,
    bounded_eigvals,
    exp_and_phi1,
)

BATCH, DIM, RANK = 4, 6, 3


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_ode(kind="low_rank", pairs=0, static=0, offset=True, eigvals=None, spread=0.3):
    u, v = spread * torch.randn(2, BATCH, DIM, RANK)
    low_rank = LowRankMatrix(u, v)
    matrix = low_rank if kind == "low_rank" else DenseMatrix(low_rank.dense())
    if eigvals is None:
        eigvals = bounded_eigvals(torch.randn(BATCH, DIM - static), 5.0, static)
    return LinearODE(matrix, eigvals, torch.randn(BATCH, DIM) if offset else None, pairs)


VARIANTS = [
    {"kind": kind, "pairs": pairs, "static": static, "offset": offset}
    for kind in ("low_rank", "dense")
    for pairs, static in ((0, 0), (2, 0), (1, 2), (3, 0))
    for offset in (True, False)
]
TIMES = torch.tensor([-1.3, 0.0, 0.4, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("variant", VARIANTS)
def test_flow_is_the_matrix_exponential_of_the_reported_operator(variant):
    ode = make_ode(**variant)
    z = torch.randn(BATCH, DIM)
    exponential = torch.linalg.matrix_exp(ode.augmented_operator()[:, None] * TIMES[:, None, None])
    augmented = torch.cat([z, torch.ones(BATCH, 1)], dim=-1)[:, None, :, None]
    expected = (exponential @ augmented)[..., :-1, 0]
    torch.testing.assert_close(ode.flow(z, TIMES), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairs", [0, 2])
def test_flow_solves_the_ode_as_scipy_does(pairs):
    ode = make_ode(pairs=pairs)
    z = torch.randn(BATCH, DIM)
    operator, offset = ode.operator().numpy(), ode.offset.numpy()
    for cell in range(BATCH):
        solution = solve_ivp(
            lambda _, x, a=operator[cell], b=offset[cell]: a @ x + b,
            (0, 1.5),
            z[cell].numpy(),
            rtol=1e-10,
            atol=1e-12,
        )
        np.testing.assert_allclose(ode.flow(z, 1.5)[cell], solution.y[:, -1], rtol=1e-7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_steps_are_one(variant):
    ode = make_ode(**variant)
    z = torch.randn(BATCH, DIM)
    torch.testing.assert_close(ode.flow(ode.flow(z, 0.7), -1.1), ode.flow(z, -0.4))


@pytest.mark.parametrize("kind", ["low_rank", "dense"])
def test_no_time_is_no_change(kind):
    ode = make_ode(kind)
    z = torch.randn(BATCH, DIM)
    torch.testing.assert_close(ode.flow(z, 0.0), z, rtol=0, atol=1e-14)


@pytest.mark.parametrize("pairs", [0, 2])
def test_velocity_is_the_time_derivative_of_the_flow(pairs):
    ode = make_ode(pairs=pairs)
    z = torch.randn(BATCH, DIM)
    _, derivative = torch.autograd.functional.jvp(
        lambda t: ode.flow(z, t), torch.tensor(0.6), torch.tensor(1.0)
    )
    torch.testing.assert_close(ode.velocity(ode.flow(z, 0.6)), derivative)
    torch.testing.assert_close(ode.flow_and_velocity(z, 0.6)[1], derivative)
    many = ode.flow(z, TIMES)
    by_one = torch.stack([ode.velocity(many[:, i]) for i in range(len(TIMES))], dim=1)
    torch.testing.assert_close(ode.velocity(many), by_one)


def test_velocity_is_the_operator_applied():
    ode = make_ode(pairs=1)
    z = torch.randn(BATCH, DIM)
    expected = (ode.operator() @ z[..., None])[..., 0] + ode.offset
    torch.testing.assert_close(ode.velocity(z), expected)


@pytest.mark.parametrize("kind", ["low_rank", "dense"])
@pytest.mark.parametrize("pairs", [0, 1])
def test_gradients(kind, pairs):
    def flow(u, v, eigvals, offset, z, delta_t):
        matrix = LowRankMatrix(u, v)
        matrix = matrix if kind == "low_rank" else DenseMatrix(matrix.dense())
        ode = LinearODE(matrix, eigvals, offset, pairs)
        return ode.flow(z, delta_t), ode.determinant()

    shapes = ((2, 4, 2), (2, 4, 2), (2, 4), (2, 4), (2, 4), (3,))
    inputs = tuple((0.4 * torch.randn(shape)).requires_grad_() for shape in shapes)
    assert torch.autograd.gradcheck(flow, inputs)


@pytest.mark.parametrize("complex_", [False, True])
def test_exp_and_phi1_are_exact_and_smooth_near_zero(complex_):
    import mpmath

    direction = 1j if complex_ else 1.0
    for size in (0.0, 1e-12, 1e-6, 9.99e-4, 1.001e-3, 0.1, 3.0, -30.0):
        x = torch.tensor(size * direction)
        with mpmath.workdps(50):
            exact = (
                mpmath.mpf(1) if size == 0 else mpmath.expm1(size * direction) / (size * direction)
            )
            expected = complex(exact)
        exp, phi1 = map(complex, exp_and_phi1(x))
        assert abs(phi1 - expected) < 2e-15 * max(1.0, abs(expected)) + 1e-14
        assert abs(exp - np.exp(size * direction)) < 1e-14 * max(1.0, abs(exp))
    x = torch.tensor([0.0, 5e-4, 2e-3, 0.5], requires_grad=True)
    assert torch.autograd.gradcheck(exp_and_phi1, x)


@pytest.mark.parametrize("pairs", [0, 2])
def test_eigenvalues_at_and_near_zero_drift_linearly(pairs):
    z, slow = torch.randn(BATCH, DIM), torch.full((BATCH, DIM), 1e-9)
    for eigvals in (torch.zeros(BATCH, DIM), slow):
        ode = make_ode(eigvals=eigvals, pairs=pairs)
        torch.testing.assert_close(ode.flow(z, 2.0), z + 2 * ode.offset, rtol=1e-7, atol=1e-7)


def test_repeated_eigenvalues_scale_the_state():
    ode = make_ode(eigvals=torch.full((BATCH, DIM), -0.5), offset=False)
    z = torch.randn(BATCH, DIM)
    torch.testing.assert_close(ode.flow(z, 3.0), z * np.exp(-1.5))


def test_eigenvalues_are_bounded_and_pinned():
    raw = torch.tensor([-1e6, -1.0, 0.0, 1e6])
    eigvals = bounded_eigvals(raw, max_rate=2.0, num_static=2)
    assert eigvals.abs().max() <= 2.0
    assert eigvals[-2:].tolist() == [0.0, 0.0]
    small = torch.tensor([1e-4])
    torch.testing.assert_close(bounded_eigvals(small, 2.0), small, rtol=1e-8, atol=0)


def test_pinned_directions_do_not_move():
    ode = make_ode(static=2, offset=False)
    static = ode.eigvecs.dense()[..., -2:].mT  # eigenvectors lie in columns
    torch.testing.assert_close(ode.velocity(static), torch.zeros_like(static), rtol=0, atol=1e-12)


def test_strong_decay_underflows_to_rest_without_nan():
    ode = make_ode(eigvals=torch.full((BATCH, DIM), -1e4), offset=False)
    assert torch.equal(ode.flow(torch.randn(BATCH, DIM), 1e3), torch.zeros(BATCH, DIM))


def test_ill_conditioned_eigenvectors():
    scale = torch.logspace(0, -6, DIM)
    basis, _ = torch.linalg.qr(torch.randn(DIM, DIM))
    ode = LinearODE(
        DenseMatrix((basis * scale)[None]), torch.linspace(-1, 0.5, DIM)[None], torch.ones(1, DIM)
    )
    z = torch.randn(1, DIM)
    exponential = torch.linalg.matrix_exp(ode.augmented_operator())
    expected = (exponential @ torch.cat([z, torch.ones(1, 1)], -1)[..., None])[..., :-1, 0]
    torch.testing.assert_close(ode.flow(z, 1.0), expected, rtol=1e-7, atol=1e-7)


def test_singular_eigenvectors_do_not_stop_the_run():
    ode = LinearODE(DenseMatrix(torch.zeros(1, DIM, DIM)), torch.ones(1, DIM))
    assert ode.determinant() == 0
    assert ode.flow(torch.ones(1, DIM), 1.0).shape == (1, DIM)


def test_low_rank_equals_dense_with_any_scale():
    u, v = torch.randn(2, BATCH, DIM, RANK)
    low_rank = LowRankMatrix(u, v, torch.rand(BATCH) + 0.5)
    dense = DenseMatrix(low_rank.dense())
    rows = torch.randn(BATCH, 5, DIM)
    torch.testing.assert_close(low_rank.apply(rows), dense.apply(rows))
    torch.testing.assert_close(low_rank.solve(rows), dense.solve(rows))
    torch.testing.assert_close(low_rank.determinant(), torch.linalg.det(low_rank.dense()))
    torch.testing.assert_close(dense.determinant(), torch.linalg.det(low_rank.dense()))
    torch.testing.assert_close(low_rank.apply(low_rank.solve(rows)), rows)


def test_autocast_and_half_precision_are_solved_in_float32():
    ode = make_ode()
    u, v = ode.eigvecs._u, ode.eigvecs._v
    half = [part.bfloat16() for part in (u, v, ode.eigvals, ode.offset)]
    z = torch.randn(BATCH, DIM).bfloat16()
    expected = LinearODE(
        LowRankMatrix(half[0].float(), half[1].float()), half[2].float(), half[3].float()
    ).flow(z.float(), TIMES.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_precision = LinearODE(LowRankMatrix(half[0], half[1]), half[2], half[3])
        found = low_precision.flow(z, TIMES.float())
        determinant = low_precision.determinant()
    assert found.dtype == determinant.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
