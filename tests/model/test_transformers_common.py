"""What transformers and huggingface_hub ask of every model, asked of ours.

After the common tests of models and configurations in transformers and those of mixins and cards in
huggingface_hub, as far as they apply; docs/truth.md has the list.
"""

import copy
import inspect
import json
import pickle

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from cellmnn_fm import CellMNNConfig, CellMNNModel, InputError
from cellmnn_fm.model.checkpoint import bundled
from cellmnn_fm.model.gaussian_frame import fit_frame

FORMS = {
    "low rank": {"latent_dim": 5, "rank": 2, "hidden_size": 16},
    "dense, growing, spiralling": {
        "latent_dim": 4,
        "rank": None,
        "hidden_size": 16,
        "growth": True,
        "num_complex_pairs": 1,
    },
    "in a frame": {
        "latent_dim": 4,
        "rank": 2,
        "hidden_size": 16,
        "frame": True,
        "num_frame_times": 3,
    },
    "reading snapshots": {
        "latent_dim": 4,
        "rank": 2,
        "frame": True,
        "num_frame_times": 3,
        "context_cells": 20,
        "num_context_cells": 60,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "vector_channels": 8,
        "num_attention_heads": 2,
        "num_summary_tokens": 3,
    },
}


@pytest.fixture(params=FORMS)
def config(request):
    return CellMNNConfig(**FORMS[request.param])


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return filled(CellMNNModel(config).eval())


def filled(model):
    """With weights that do something, and the snapshots that it may want."""
    config = model.config
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    times = torch.arange(3.0)
    snapshots = [torch.randn(20, config.latent_dim) + time for time in times]
    if config.num_frame_times:
        model.set_frame_state(fit_frame(snapshots, times, latent_dim=config.latent_dim))
    if config.context_cells:
        model.set_context([snapshots])
    return model


def inputs_of(config, snapshots=2, cells=7):
    generator = torch.Generator().manual_seed(1)
    return {
        "z": torch.randn(snapshots, cells, config.latent_dim, generator=generator),
        "times": torch.linspace(0.2, 1.2, snapshots),
        "target_times": torch.tensor([0.5, 1.5]),
    }


@torch.no_grad()
def outputs_of(model, **inputs):
    return model(**(inputs or inputs_of(model.config))).states


# --------------------------------------------------------------------------- configurations


def test_config_to_json_string(config):
    content = json.loads(config.to_json_string())
    for name, value in config.to_diff_dict().items():
        assert content[name] == value


def test_config_from_and_to_json_file(config, tmp_path):
    config.to_json_file(tmp_path / "config.json")
    assert CellMNNConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()


@pytest.mark.parametrize("subfolder", ["", "inside"])
def test_config_from_and_save_pretrained(config, tmp_path, subfolder):
    config.save_pretrained(tmp_path / subfolder)
    for known in (CellMNNConfig, AutoConfig):
        again = known.from_pretrained(tmp_path, subfolder=subfolder)
        assert type(again) is CellMNNConfig
        assert again.to_dict() | {"_name_or_path": ""} == config.to_dict()


def test_config_without_arguments():
    assert CellMNNModel(CellMNNConfig()).num_parameters() > 0
    assert type(AutoConfig.for_model("cellmnn")) is CellMNNConfig


def test_config_from_pretrained_custom_kwargs(config, tmp_path):
    config.save_pretrained(tmp_path)
    again, unused = CellMNNConfig.from_pretrained(
        tmp_path, max_rate=3.0, nobody=1, return_unused_kwargs=True
    )
    assert again.max_rate == 3.0
    assert unused == {"nobody": 1}


# --------------------------------------------------------------------------- models


def test_save_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    for known in (CellMNNModel, AutoModel):
        again = known.from_pretrained(tmp_path)
        assert type(again) is CellMNNModel
        assert not again.training
        assert torch.equal(outputs_of(again), outputs_of(model))
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}


def test_torch_save_load(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = CellMNNModel(model.config).eval()
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(outputs_of(again), outputs_of(model))


def test_copy_and_pickle(model):
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs_of(again), outputs_of(model))


def test_can_use_safetensors(model, tmp_path):
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert set(tensors) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)


def test_from_pretrained_no_checkpoint(model):
    again = CellMNNModel.from_pretrained(
        None, config=model.config, state_dict=model.state_dict()
    ).eval()
    assert torch.equal(outputs_of(again), outputs_of(model))


def test_load_with_mismatched_shapes(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"mismatch|shape|fit"):
        CellMNNModel.from_pretrained(tmp_path, latent_dim=model.config.latent_dim + 1)


def test_double_precision(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = CellMNNModel.from_pretrained(tmp_path, dtype=torch.float64)
    assert {value.dtype for value in again.parameters()} == {again.dtype} == {torch.float64}
    inputs = {name: value.double() for name, value in inputs_of(model.config).items()}
    found = outputs_of(again, **inputs)
    torch.testing.assert_close(found.float(), outputs_of(model), rtol=1e-4, atol=1e-4)


def test_half_precision_is_refused(model, tmp_path):
    """Flows in closed form are not for it; autocast leaves them in single precision."""
    model.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"expected weights of 32 or 64 bits, found torch\.bfloat16"
    ):
        CellMNNModel.from_pretrained(tmp_path, dtype=torch.bfloat16)


def test_determinism(model):
    assert torch.equal(outputs_of(model), outputs_of(model))


def test_forward_signature(model):
    parameters = list(inspect.signature(model.forward).parameters)
    assert parameters[0] == model.main_input_name == "z"


def test_initialization(config):
    """Same seed, same weights; all of them numbers, none of them large."""
    one, again = (seeded_model(config, 3) for _ in range(2))
    for (name, value), other in zip(one.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other), name
        assert value.isfinite().all()
        assert value.abs().mean() < 1.5


def seeded_model(config, seed):
    torch.manual_seed(seed)
    return CellMNNModel(config)


def test_model_outputs_equivalence(model):
    output = model(**inputs_of(model.config))
    named = [value for value in output.values() if value is not None]
    assert len(named) == len(output.to_tuple())
    for value, other in zip(named, output.to_tuple(), strict=True):
        assert value is other
    assert output["states"] is output.states is output[0]


def test_batching_equivalence(model):
    """Snapshots one by one and all at once."""
    inputs = inputs_of(model.config, snapshots=3)
    together = outputs_of(model, **inputs)
    for number in range(3):
        alone = {
            **inputs,
            "z": inputs["z"][number : number + 1],
            "times": inputs["times"][number : number + 1],
        }
        torch.testing.assert_close(outputs_of(model, **alone)[0], together[number])


def test_training(model):
    """Every weight gets a gradient, a step of Adam changes what is said, and evaluation is back."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    before = outputs_of(model)
    output = model(**inputs_of(model.config))
    parts = [output.states, *(part for part in (output.log_growth,) if part is not None)]
    sum(part.square().mean() for part in parts).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert all("growth" in name for name in without), without
    optimiser.step()
    assert not torch.equal(outputs_of(model), before)


def test_gradient_checkpointing_is_refused(model):
    assert not model.supports_gradient_checkpointing
    with pytest.raises(ValueError, match="does not support activation checkpointing"):
        model.gradient_checkpointing_enable()


def test_device_map(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = CellMNNModel.from_pretrained(tmp_path, device_map="cpu")
    assert torch.equal(outputs_of(again), outputs_of(model))


def test_weights_are_not_shared(model):
    """No tied weights: all tensors have a memory of their own."""
    addresses = [tensor.data_ptr() for tensor in model.state_dict().values() if tensor.numel()]
    assert len(set(addresses)) == len(addresses)


# --------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", ["cellmnn-base", "cellmnn-simulated", "cellmnn-conditions"])
def test_cards(name, tmp_path):
    """Read, saved and read again by huggingface_hub; the metadata are those of a model."""
    card = huggingface_hub.ModelCard.load(bundled(name) / "README.md")
    assert card.data.library_name == "cellmnn_fm"
    assert card.text.strip()
    card.save(tmp_path / "README.md")
    again = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert again.data.to_dict() == card.data.to_dict()
    assert again.text == card.text
