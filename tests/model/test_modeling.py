"""The model: shapes, padding, frame, growth, and what save and load promise."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from cellmnn_fm import CellMNNConfig, CellMNNModel
from cellmnn_fm.model.gaussian_frame import fit_frame
from cellmnn_fm.training.losses import energy_distance, kinetic_energy, mmd2

# tokens of a summary begin without vectors
UNSEEN = {f"hypernetwork.gather.0.attention.vector_{part}.weight" for part in ("query", "key")}
CONTEXT = {
    "frame": True,
    "num_frame_times": 3,
    "context_cells": 12,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "vector_channels": 4,
    "num_attention_heads": 2,
    "num_summary_tokens": 3,
}
VARIANTS = {
    "default": {},
    "dense": {"rank": None},
    "paper": {"rank": None, "offset": False, "hidden_size": 96},
    "complex_static": {"num_complex_pairs": 1, "num_static_eigvals": 1},
    "frame": {"frame": True, "num_frame_times": 3},
    "growth": {"growth": True},
    "table": {"num_datasets": 3, "dataset_dims": [5, 3, 5]},
    "genes": {"num_genes": 11},
    "frame_growth_table": {
        "frame": True,
        "num_frame_times": 4,
        "growth": True,
        "num_datasets": 2,
    },
    "in_context": CONTEXT,
    "in_context_growth": {**CONTEXT, "growth": True},
}


def make_model(seed=0, **options):
    torch.manual_seed(seed)
    model = CellMNNModel(
        CellMNNConfig(**{"latent_dim": 5, "rank": 3, "init_scale": 1.0, **options})
    )
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.01 * torch.rand_like(buffer))
    if model.config.context_cells:
        # an untrained one does nothing
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        model.set_context([[torch.randn(9, 5) + time for time in range(3)]])
    return model.eval()


def push(model, cells):
    """All outputs, in the frame of the first data set where there is one."""
    if model.config.context_cells:
        return model(cells, TIMES, TARGETS, memory=model.memory())
    frame = model.frame_state(0) if model.config.frame else None
    return model(cells, TIMES, TARGETS, frame=frame)


@pytest.fixture
def cells():
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


TIMES, TARGETS = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5, 2.0])


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_round_trip_is_bit_for_bit(options, cells, tmp_path):
    model = make_model(**options)
    model.save_pretrained(tmp_path)
    loaded = CellMNNModel.from_pretrained(tmp_path)
    kept = [{**m.config.to_dict(), "_name_or_path": None} for m in (loaded, model)]
    assert kept[0] == kept[1]
    saved = model.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert set(dict(model.named_buffers())) <= saved.keys()  # every buffer is persistent
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    with torch.no_grad():
        outputs = zip(push(loaded, cells).values(), push(model, cells).values(), strict=True)
        for found, expected in outputs:
            assert torch.equal(found, expected)


def test_auto_classes_know_the_model(tmp_path):
    make_model().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CellMNNConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is CellMNNModel


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_shapes(options, cells):
    output = push(make_model(**options), cells)
    assert output.states.shape == output.velocity.shape == (2, 3, 6, 5)
    assert output.learned_velocity.shape == (2, 3, 6, 5)
    if options.get("context_cells"):
        assert output.determinant is None
    else:
        assert output.determinant.shape == (2, 6)
    if options.get("growth"):
        assert output.log_growth.shape == (2, 3, 6)
    else:
        assert output.log_growth is None


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_parameter_learns(options, cells):
    model = make_model(**options).train()
    output = push(model, cells)
    loss = sum(value.square().mean() for value in output.values())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name not in UNSEEN:
            assert parameter.grad.abs().sum() > 0, name


def test_cells_do_not_interact(cells):
    model = make_model()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = model(cells[:, order], TIMES, TARGETS).states
    torch.testing.assert_close(shuffled, model(cells, TIMES, TARGETS).states[:, :, order])


def test_states_at_their_own_time_are_the_cells(cells):
    for options in ({}, {"frame": True, "num_frame_times": 3}, CONTEXT):
        states = make_model(**options)(cells, TIMES, TIMES).states
        for index in range(2):
            torch.testing.assert_close(states[index, index], cells[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"frame": True, "num_frame_times": 3}, CONTEXT])
def test_velocity_is_the_derivative_of_the_states(cells, options):
    model = make_model(**options).double()
    cells = cells.double()
    at, step = torch.tensor([1.6]).double(), 1e-6
    moved = (
        model(cells, TIMES.double(), at + step).states
        - model(cells, TIMES.double(), at - step).states
    )
    velocity = model(cells, TIMES.double(), at).velocity
    torch.testing.assert_close(velocity, moved / (2 * step), rtol=1e-5, atol=1e-6)


def test_untrained_in_the_frame_is_the_frame_itself():
    snapshots = [torch.randn(200, 5) * (i + 1) + i for i in range(3)]
    times = torch.arange(3.0)
    frame = fit_frame(snapshots, times)
    model = CellMNNModel(CellMNNConfig(latent_dim=5, frame=True, num_frame_times=3))
    model.set_frame_state(frame)
    found = model(snapshots[0][None], times[:1], torch.tensor([0.5])).states[0, 0]
    y = frame.to_frame(snapshots[0], times[0])
    torch.testing.assert_close(found, frame.from_frame(y, torch.tensor(0.5)))
    output = model(snapshots[0][None], times[:1], torch.tensor([0.5]))
    assert not output.learned_velocity.any()
    assert output.velocity.abs().min() > 0


def test_data_sets_differ_by_their_embedding(cells):
    model = make_model(**{**CONTEXT, "num_datasets": 2})
    model.set_context([model.context_of(0)] * 2)
    first, second = (model(cells, TIMES, TARGETS, memory=model.memory(row)) for row in range(2))
    assert not torch.allclose(first.states, second.states)
    with pytest.raises(ValueError, match="memory: expected that of one of 2 data sets, found none"):
        model(cells, TIMES, TARGETS)


def test_memory_is_read_again_when_anything_changes(cells):
    model = make_model(**CONTEXT)
    first = model.memory()
    assert model.memory() is first
    with torch.no_grad():
        model.hypernetwork.summary.add_(0.1)
    assert model.memory() is not first
    second = model.memory()
    model.set_context([[one + 0.1 for one in model.context_of()]])
    assert not torch.equal(model.memory().sources[0].value, second.sources[0].value)
    assert model.train().memory().sources[0].value.requires_grad


def test_shapes_that_do_not_fit_are_refused(cells):
    model = make_model()
    for z, times in ((cells[..., :4], TIMES), (cells, TIMES[:1]), (cells[0], TIMES)):
        with pytest.raises(
            ValueError, match=r"z: expected \(..., cells, 5\) with one of the times"
        ):
            model(z, times, TARGETS)


def test_a_table_of_frames_has_no_default(cells):
    model = make_model(frame=True, num_frame_times=3, num_datasets=2)
    with pytest.raises(ValueError, match="frame: expected that of one of 2 data sets, found none"):
        model(cells, TIMES, TARGETS)
    model.set_frame_state(fit_frame(list(torch.randn(3, 50, 5)), torch.arange(3.0)), 1)
    first, second = (
        model(cells, TIMES, TARGETS, frame=model.frame_state(i)).states for i in range(2)
    )
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("rank", [None, 3])
def test_padded_dimensions_stand_still_and_change_no_loss(rank):
    """A model of 5 dimensions, 3 of them real, against the same operator in 3 dimensions."""
    padded = make_model(rank=rank, dataset_dims=[3], hidden_size=16).double()
    cells = torch.nn.functional.pad(torch.randn(2, 6, 3).double(), (0, 2))
    times, targets = TIMES.double(), TARGETS.double()
    ode, _ = padded.linear_ode(cells, times)
    operator = ode.operator()
    assert not operator[..., 3:, :].any()
    assert not operator[..., :, 3:].any()
    output = padded(cells, times, targets)
    assert not output.states[..., 3:].any()
    small = (
        torch.linalg.matrix_exp(
            torch.nn.functional.pad(
                torch.cat([operator[..., :3, :3], ode.offset[..., :3, None]], -1), (0, 0, 0, 1)
            )[:, None]
            * (targets - times[:, None])[:, :, None, None, None]
        )
        @ torch.cat([cells[..., :3], torch.ones(2, 6, 1).double()], -1)[:, None, ..., None]
    )
    torch.testing.assert_close(output.states[..., :3], small[..., :3, 0], rtol=1e-6, atol=1e-6)
    eigvecs = ode.eigvecs.dense()
    torch.testing.assert_close(output.determinant, torch.linalg.det(eigvecs[..., :3, :3]))
    target = torch.randn(2, 3, 6, 3).double()
    wide = torch.nn.functional.pad(target, (0, 2))
    real = output.states[..., :3]
    torch.testing.assert_close(mmd2(output.states, wide, num_dims=3), mmd2(real, target))
    torch.testing.assert_close(energy_distance(output.states, wide), energy_distance(real, target))
    torch.testing.assert_close(
        kinetic_energy(output.velocity, num_dims=3), kinetic_energy(output.velocity[..., :3])
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latentdim": 3}, "expected fields of CellMNNConfig, found latentdim"),
        ({"latent_dim": 0}, "latent_dim: expected a positive number, found 0"),
        ({"rank": 9}, "rank: expected None .dense. or 1 to latent_dim=5, found 9"),
        ({"num_complex_pairs": 2, "num_static_eigvals": 2}, "of at most latent_dim=5, found 6"),
        ({"frame": True}, "num_frame_times: expected at least 2, or 0 without frame, found 0"),
        ({"num_frame_times": 1}, "num_frame_times: expected at least 2, or 0 without frame"),
        ({"dataset_dims": [5, 5]}, "dataset_dims: expected 1 numbers"),
        ({"hidden_act": "nonsense"}, "hidden_act: expected an activation of transformers"),
        ({"latent_dim": "five"}, "expected int, got str"),
        ({"max_rate": "fast"}, "expected float, got str"),
    ],
)
def test_contradictory_configurations_are_refused(options, message):
    with pytest.raises(Exception, match=message):
        CellMNNConfig(**{"latent_dim": 5, **options})


def test_whole_numbers_become_floats():
    assert CellMNNConfig(max_rate=3).max_rate == 3.0
    assert isinstance(CellMNNConfig(max_rate=3).max_rate, float)


def test_unknown_fields_in_a_saved_configuration_are_refused(tmp_path):
    make_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_heads": 3}))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="found num_heads"):
        CellMNNModel.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    make_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["stranger"] = torch.zeros(2)
    weights["hypernetwork.head.bias"] = torch.zeros(7)
    del weights["hypernetwork.layers.0.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors: expected \d+ bytes, found"):
        CellMNNModel.from_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="expected the tensors") as caught:
        CellMNNModel.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "missing hypernetwork.layers.0.weight" in message
    assert "unexpected stranger" in message
    assert "hypernetwork.head.bias of shape (7,) in place of" in message


def test_the_table_grows_and_shrinks(tmp_path):
    """Rows that stay are bit for bit; new ones are the mean, unpadded, with a frame of identity."""
    model = make_model(**CONTEXT, num_genes=7, num_datasets=3, dataset_dims=[5, 3, 5])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.resize_dataset_embeddings(5, new_num_frame_times=6)
    config = model.config
    assert (config.num_datasets, config.num_frame_times) == (5, 6)
    assert config.dataset_dims == model.dataset_dims.tolist() == [5, 3, 5, 5, 5]
    assert model.dataset_embeddings.requires_grad
    for name, value in before.items():
        found = model.state_dict()[name][tuple(slice(size) for size in value.shape)]
        assert torch.equal(found, value), name
    table = before["dataset_embeddings"]
    torch.testing.assert_close(model.dataset_embeddings[3:], table.mean(0).expand(2, -1, -1))
    z = torch.randn(9, 5)
    frame = model.frame_state(4)
    torch.testing.assert_close(frame.to_frame(z, torch.tensor(1.5)), z)
    model.save_pretrained(tmp_path)
    again = CellMNNModel.from_pretrained(tmp_path)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in model.state_dict().items())
    model.resize_dataset_embeddings(3, new_num_frame_times=3)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_a_table_with_cells_grows_and_shrinks():
    model = make_model(**CONTEXT, num_datasets=3, dataset_dims=[5, 3, 5])
    model.set_context([[torch.randn(4 + row + time, 5) for time in range(3)] for row in range(3)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.resize_dataset_embeddings(5, new_num_frame_times=6)
    assert model.dataset_embeddings.requires_grad
    table = before["dataset_embeddings"]
    torch.testing.assert_close(model.dataset_embeddings[3:], table.mean(0).expand(2, -1, -1))
    assert [len(cells) for cells in model.context_of(2)[:3]] == [6, 7, 8]
    model.resize_dataset_embeddings(3, new_num_frame_times=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_table_without_embeddings_grows_too():
    model = make_model()
    model.resize_dataset_embeddings(2)
    assert model.config.num_datasets == 2
    assert model.dataset_dims.tolist() == [5, 5]
