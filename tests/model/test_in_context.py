"""A network that reads snapshots: what may be turned, shuffled and padded without a change."""

import pytest
import torch
from scipy.stats import ortho_group

from cellmnn_fm import CellMNNConfig, CellMNNModel
from cellmnn_fm.model.gaussian_frame import fit_frame
from cellmnn_fm.model.token_layers import Attention, Tokens

TIMES = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
OPTIONS = {
    "frame": True,
    "num_frame_times": 3,
    "context_cells": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "vector_channels": 8,
    "num_attention_heads": 2,
    "num_summary_tokens": 3,
    "rank": 2,
    "growth": True,
}


def make_network(dims=4, **options):
    """With weights that do something, in double precision."""
    torch.manual_seed(0)
    model = CellMNNModel(CellMNNConfig(latent_dim=dims, **{**OPTIONS, **options})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_snapshots(dims=4, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(cells, dims).double() * (1 + i) + i for i, cells in enumerate((30, 20, 25))]


def answers(model, snapshots, points, times=TIMES, targets=(0.3, 1.0, 2.0)):
    """What is said of points at two times, of a data set that consists of the snapshots."""
    frame = fit_frame(snapshots, times, latent_dim=model.config.latent_dim)
    dims = torch.tensor([snapshots[0].shape[-1]])
    padded = [torch.nn.functional.pad(s, (0, model.config.latent_dim - dims)) for s in snapshots]
    memory = model.remember([frame], [padded], dims)
    at = torch.tensor([0.5, 1.0]).double()
    return model(points, at, torch.tensor(targets).double(), memory=memory)


def points_of(dims=4):
    torch.manual_seed(1)
    return torch.randn(2, 7, dims).double() * 2


def test_a_turned_data_set_has_its_dynamics_turned():
    turn = torch.from_numpy(ortho_group.rvs(4, random_state=0))
    model, snapshots, points = make_network(), make_snapshots(), points_of()
    plain = answers(model, snapshots, points)
    turned = answers(model, [snapshot @ turn for snapshot in snapshots], points @ turn)
    for name in ("states", "velocity", "learned_velocity"):
        torch.testing.assert_close(turned[name], plain[name] @ turn, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(turned.log_growth, plain.log_growth)
    assert plain.learned_velocity.abs().mean() > 0.1


def test_neither_unit_nor_origin_matter():
    model, snapshots, points = make_network(), make_snapshots(), points_of()
    plain = answers(model, snapshots, points)
    moved = answers(model, [3 * snapshot + 10 for snapshot in snapshots], 3 * points + 10)
    torch.testing.assert_close(moved.states, 3 * plain.states + 10, rtol=1e-6, atol=1e-6)


def test_cells_may_come_in_any_order():
    model, snapshots, points = make_network(), make_snapshots(), points_of()
    shuffled = [snapshot[torch.randperm(len(snapshot))] for snapshot in snapshots]
    found = answers(model, shuffled, points)
    torch.testing.assert_close(found.states, answers(model, snapshots, points).states)


def test_padded_dimensions_change_nothing():
    model, snapshots, points = make_network(4), make_snapshots(4), points_of(4)
    wide = make_network(6)
    wide.load_state_dict(
        {n: v for n, v in model.state_dict().items() if n.startswith("hypernetwork")}, strict=False
    )
    found = answers(wide, snapshots, torch.nn.functional.pad(points, (0, 2)))
    expected = answers(model, snapshots, points)
    torch.testing.assert_close(found.states[..., :4], expected.states)
    torch.testing.assert_close(found.velocity[..., :4], expected.velocity)
    assert not found.states[..., 4:].any()


def test_data_sets_of_a_batch_do_not_see_each_other():
    """Of other numbers of snapshots and cells, too."""
    model = make_network()
    sets = [make_snapshots(), make_snapshots(seed=5)[:2]]
    frames = [
        fit_frame(snapshots, times)
        for snapshots, times in zip(sets, (TIMES, TIMES[:2]), strict=True)
    ]
    memory = model.remember(frames, sets, torch.tensor([4, 4]))
    points, at = points_of(), torch.tensor([[0.2], [0.9]]).double()
    target = torch.tensor([0.6]).double()
    both = model(points[:, None], at, target, memory=memory)
    for row in range(2):
        alone = model.remember([frames[row]], [sets[row]], torch.tensor([4]))
        found = model(points[row][None], at[row], target, memory=alone)
        torch.testing.assert_close(found.states[0], both.states[row, 0])
        torch.testing.assert_close(found.velocity[0], both.velocity[row, 0])


@pytest.mark.parametrize("snapshots", [2, 3])
@pytest.mark.parametrize("dims", [1, 2, 9])
def test_untrained_is_the_frame_in_any_dimensions(snapshots, dims):
    model = CellMNNModel(CellMNNConfig(latent_dim=dims, **{**OPTIONS, "rank": 1})).double().eval()
    cells, times = make_snapshots(dims)[:snapshots], TIMES[:snapshots]
    output = answers(model, cells, points_of(dims), times)
    frame = fit_frame(cells, times)
    at = torch.tensor([0.5, 1.0]).double()
    y = frame.to_frame(points_of(dims), at)
    for number, target in enumerate((0.3, 1.0, 2.0)):
        expected = frame.from_frame(y, torch.full((2,), target).double())
        torch.testing.assert_close(output.states[:, number], expected)
    assert not output.learned_velocity.any()
    assert not output.log_growth.any()


def test_flows_in_the_frame_are_those_of_the_operator():
    model, snapshots = make_network(), make_snapshots()
    frame = fit_frame(snapshots, TIMES)
    model.set_frame_state(frame)
    model.set_context([snapshots])
    points, at = points_of(), torch.tensor([0.5, 1.2]).double()
    ode, _ = model.linear_ode(points, at)
    y, delta = frame.to_frame(points, at), 0.4
    y_then = (
        torch.linalg.matrix_exp(ode.augmented_operator() * delta)
        @ torch.nn.functional.pad(y, (0, 1), value=1.0)[..., None]
    )[..., :4, 0]
    states = torch.cat(
        [model(points[i : i + 1], at[i : i + 1], at[i : i + 1] + delta).states for i in range(2)]
    )[:, 0]
    torch.testing.assert_close(states, frame.from_frame(y_then, at + delta), rtol=1e-6, atol=1e-7)


def test_what_is_kept_is_what_is_read(tmp_path):
    model, times = make_network(num_datasets=2).float(), TIMES.float()
    snapshots = [snapshot.float() for snapshot in make_snapshots()]
    model.set_frame_state(fit_frame(snapshots, times), 1)
    model.set_context([[], snapshots])
    assert not any(len(cells) for cells in model.context_of(0))
    for kept, snapshot in zip(model.context_of(1), snapshots, strict=True):
        assert torch.equal(kept, snapshot)
    model.save_pretrained(tmp_path)
    loaded = CellMNNModel.from_pretrained(tmp_path)
    points, at = points_of().float(), torch.tensor([0.5, 1.0])
    expected = model(points, at, times, memory=model.memory(1)).states
    assert torch.equal(loaded(points, at, times, memory=loaded.memory(1)).states, expected)


def test_nearness_is_not_rounded_to_half_precision():
    """Of cells far out, distances are small differences of large numbers."""
    torch.manual_seed(0)
    attention, dims = Attention(16, 8, 2), torch.full((1, 1, 1), 4.0)
    here, there = 30 + torch.randn(1, 5, 4), 30 + torch.randn(1, 20, 4)
    tokens, source = (
        Tokens(torch.randn(1, count, 16), torch.randn(1, count, 4, 8), dims) for count in (5, 20)
    )
    lengths = [values.square().sum(-1, keepdim=True) for values in (here, there)]
    places = (
        torch.cat([2 * here, -lengths[0], -torch.ones(1, 5, 1)], -1)[:, None],
        torch.cat([there, torch.ones(1, 20, 1), lengths[1]], -1)[:, None],
    )
    for here_too, there_too in (places, (None, None)):
        full = attention(tokens, attention.source(source, there_too), here_too)
        with torch.autocast("cpu", torch.bfloat16):
            half = attention(tokens, attention.source(source, there_too), here_too)
        torch.testing.assert_close(half.numbers.float(), full.numbers, rtol=0.05, atol=0.05)
