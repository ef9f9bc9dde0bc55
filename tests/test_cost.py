"""Guard against regressions of speed: what a call computes, moves and starts, not how long it is.

Counts are the same on every machine and in every run. A budget that is exceeded on purpose is
raised here, in the commit that exceeds it, with the reason; one that is far undercut is lowered.
"""

import importlib

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cellmnn_fm import CellMNNConfig, CellMNNModel

pytestmark = pytest.mark.slow

# operations started, millions of floating-point operations in products, megabytes moved
BUDGETS = {
    "training step, 5 dimensions": (394, 87.6, 25.2),
    "training step, 50 dimensions": (428, 215.8, 101.4),
    "joint training step, 12 tasks": (6817, 18440.2, 5351.6),
    "interpolation of 20,000 cells, 5 dimensions": (194, 2265.6, 258.6),
    "interpolation of 20,000 cells, 50 dimensions": (194, 4915.2, 1001.6),
}
SLACK = 1.05  # versions of torch differ in details


@pytest.fixture(scope="module")
def profiles():
    return importlib.import_module("benchmarks.profiles")


def cost(profiles, call):
    call()  # the first update makes the state of the optimiser
    with profiles.Traffic() as traffic:
        call()
    with FlopCounterMode(display=False) as flops:
        call()
    return traffic.calls, flops.get_total_flops() / 1e6, traffic.bytes / 1e6


@pytest.mark.parametrize("name", BUDGETS)
def test_no_call_costs_more_than_it_did(profiles, name):
    found = cost(profiles, profiles.workloads()[name])
    for what, spent, budget in zip(
        ("operations", "MFLOP", "MB"), found, BUDGETS[name], strict=True
    ):
        assert spent <= SLACK * budget, f"{what}: {spent:g} where {budget:g} sufficed"
        assert spent >= 0.8 * budget, f"{what}: {spent:g}; lower the budget of {budget:g}"


def step_flops(dims, rank):
    """Of forward and backward."""
    model = CellMNNModel(CellMNNConfig(latent_dim=dims, rank=rank))
    z, times = torch.randn(4, 64, dims), torch.arange(4.0)
    with FlopCounterMode(display=False) as flops:
        output = model(z, times, times)
        (output.states.sum() + output.determinant.sum()).backward()
    return flops.get_total_flops()


def test_low_rank_is_linear_in_the_dimensions():
    dims = (64, 128, 256, 512)
    slope = np.polyfit(np.log(dims), np.log([step_flops(d, 4) for d in dims]), 1)[0]
    assert slope <= 1.02


def test_low_rank_saves_most_of_the_dense_work():
    """At d = 100, ignoring the factorisation, which the counter does not know."""
    assert step_flops(100, 4) < step_flops(100, None) / 10
