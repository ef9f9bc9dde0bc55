"""Distances and penalties, against plain loops and closed forms."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from cellmnn_fm.training.losses import (
    energy_distance,
    invertibility_penalty,
    kinetic_energy,
    mmd2,
    pair_weights,
    sliced_wasserstein,
    unit_directions,
)


@pytest.fixture
def clouds():
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 7, 4).double(), torch.randn(2, 3, 5, 4).double() + 0.5
    return x, y, torch.rand(2, 3, 7).double() + 0.1, torch.rand(2, 3, 5).double() + 0.1


def looped(x, y, wx, wy, value, *, unbiased):
    """Mean over x-y, x-x' and y-y' pairs by plain loops."""

    def mean(a, b, wa, wb, skip_self):
        total = mass = 0.0
        for i in range(len(a)):
            for j in range(len(b)):
                if not (skip_self and i == j):
                    total += float(wa[i] * wb[j]) * value(a[i], b[j])
                    mass += float(wa[i] * wb[j])
        return total / mass

    return mean(x, y, wx, wy, False), mean(x, x, wx, wx, unbiased), mean(y, y, wy, wy, unbiased)


@pytest.mark.parametrize("weighted", [False, True])
def test_energy_distance_is_the_loop(clouds, weighted):
    x, y, wx, wy = clouds
    weights = (wx, wy) if weighted else (None, None)
    wx, wy = (wx, wy) if weighted else (torch.ones_like(wx), torch.ones_like(wy))
    found = energy_distance(x, y, *weights)
    for index in np.ndindex(2, 3):
        between, within_x, within_y = looped(
            x[index],
            y[index],
            wx[index],
            wy[index],
            lambda a, b: float((a - b).norm()),
            unbiased=True,
        )
        assert float(found[index]) == pytest.approx(2 * between - within_x - within_y, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_dims", [None, 3])
def test_mmd2_is_the_loop(clouds, weighted, num_dims):
    x, y, wx, wy = clouds
    weights = (wx, wy) if weighted else (None, None)
    wx, wy = (wx, wy) if weighted else (torch.ones_like(wx), torch.ones_like(wy))
    found = mmd2(x, y, *weights, sigma=0.8, num_dims=num_dims)

    def kernel(a, b):
        return float(torch.exp(-(a - b).abs().sum().clamp_min(1e-8) / (0.8 * (num_dims or 4))))

    for index in np.ndindex(2, 3):
        between, within_x, within_y = looped(
            x[index], y[index], wx[index], wy[index], kernel, unbiased=False
        )
        assert float(found[index]) == pytest.approx(within_x + within_y - 2 * between, abs=1e-12)


def test_many_dimensions_far_from_the_origin_keep_their_digits():
    """Above 32 dimensions distances come from a matrix product, in float32."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 40, 64, generator=rng) + 50
    y = torch.randn(30, 64, generator=rng) + 50.5
    x.requires_grad_()
    found = energy_distance(x, y)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    exact = x.detach().double().requires_grad_()
    expected = energy_distance(exact, y.double())
    (exact_gradient,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-3, atol=1e-6)
    by_cdist = torch.cdist(exact, exact).sum((-2, -1)) / (40 * 39)
    between = torch.cdist(exact, y.double()).mean((-2, -1))
    within = torch.cdist(y.double(), y.double()).sum() / (30 * 29)
    torch.testing.assert_close(expected, 2 * between - by_cdist - within, rtol=1e-5, atol=1e-5)


def test_energy_distance_between_points_on_a_line():
    x = torch.tensor([[0.0], [2.0]])
    y = torch.tensor([[10.0], [13.0]])
    assert float(energy_distance(x, y)) == pytest.approx(2 * 10.5 - 2 - 3)


def test_energy_distance_is_unbiased_for_equal_distributions():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4000, 16, 2, generator=rng, dtype=torch.float64)
    values = energy_distance(x, y)
    assert abs(float(values.mean())) < 4 * float(values.std()) / 4000**0.5


SLICED = partial(sliced_wasserstein, directions=unit_directions(4, 4))


@pytest.mark.parametrize("weighted", [False, True])
def test_sliced_wasserstein_is_that_of_scipy_in_each_direction(clouds, weighted):
    x, y, wx, wy = clouds
    directions = unit_directions(4, 4, count=5)
    weights = (wx, wy) if weighted else ()
    found = sliced_wasserstein(x, y, *weights, directions=directions)
    for at in np.ndindex(2, 3):
        own = [wx[at], wy[at]] if weighted else []
        distances = [
            wasserstein_distance(x[at] @ one.double(), y[at] @ one.double(), *own)
            for one in directions.T
        ]
        np.testing.assert_allclose(found[at], 2 * np.mean(distances), rtol=1e-6)  # 2 = √4


def test_sliced_wasserstein_of_padded_cells(clouds):
    """Dimensions of padding have no say, nor do copies that weigh nothing."""
    x, y, _, _ = clouds
    padded = [torch.nn.functional.pad(one, (0, 3)) for one in (x, y)]
    padded[0][..., 4:] = 7.0
    found = sliced_wasserstein(*padded, directions=unit_directions(4, 7))
    torch.testing.assert_close(found, SLICED(x, y))
    copies = torch.cat([x, x[..., :2, :]], dim=-2)
    once = torch.cat([torch.ones(7), torch.zeros(2)]).double()
    torch.testing.assert_close(SLICED(copies, y, once), SLICED(x, y))


@pytest.mark.parametrize("distance", [energy_distance, mmd2, SLICED])
def test_distances_ignore_the_order_of_cells(clouds, distance):
    x, y, wx, wy = clouds
    order = torch.randperm(7)
    torch.testing.assert_close(
        distance(x[..., order, :], y, wx[..., order], wy), distance(x, y, wx, wy)
    )


@pytest.mark.parametrize("distance", [energy_distance, mmd2, SLICED])
def test_weights_stand_for_repeated_cells(clouds, distance):
    x, y, _, _ = clouds
    if distance is energy_distance:  # a repeated cell is a pair of its own in a U-statistic
        x_weights = torch.full(x.shape[:-1], 3.0).double()
        torch.testing.assert_close(distance(x, y, x_weights), distance(x, y))
        return
    repeated = torch.cat([x, x[..., :2, :]], dim=-2)
    weights = torch.ones(x.shape[:-1]).double()
    weights[..., :2] = 2.0
    torch.testing.assert_close(distance(repeated, y), distance(x, y, weights))


@pytest.mark.parametrize("distance", [energy_distance, mmd2, SLICED])
def test_gradients_are_finite_where_cells_coincide(distance):
    x = torch.zeros(4, 4, requires_grad=True)
    distance(x, torch.zeros(4, 4)).backward()
    assert torch.isfinite(x.grad).all()


def test_padding_leaves_mmd_and_kinetic_energy_as_they_are(clouds):
    x, y, _, _ = clouds
    padded = [torch.nn.functional.pad(z, (0, 3)) for z in (x, y)]
    torch.testing.assert_close(mmd2(*padded, num_dims=4), mmd2(x, y))
    torch.testing.assert_close(kinetic_energy(padded[0], num_dims=4), kinetic_energy(x))
    torch.testing.assert_close(energy_distance(*padded), energy_distance(x, y))


def test_pair_weights():
    both = pair_weights(3, 0.1)
    torch.testing.assert_close(both, torch.tensor([[0, 1, 0.1], [1, 0, 1], [0.1, 1, 0]]))
    assert torch.equal(pair_weights(3, 0.1, both_directions=False), both.triu())


def test_kinetic_energy_is_a_weighted_mean_of_squares():
    velocity = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(kinetic_energy(velocity)) == pytest.approx((1 + 4 + 9 + 16) / 4)
    weighted = kinetic_energy(velocity, torch.tensor([3.0, 1.0]))
    assert float(weighted) == pytest.approx((0.75 * 5 + 0.25 * 25) / 2)


def test_invertibility_penalty():
    determinant = torch.tensor([1.0, -0.5, 0.0])
    expected = np.mean([1 / 1.0001, 1 / 0.5001, 1e4])
    assert float(invertibility_penalty(determinant)) == pytest.approx(expected, rel=1e-5)
