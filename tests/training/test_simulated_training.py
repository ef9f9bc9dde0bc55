"""Training on simulated systems, and on from there: on a corpus, and on single courses."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from cellmnn_fm import CellMNNConfig, CellMNNModel, Corpus, SamplingConfig, TrainingConfig
from cellmnn_fm.data.simulated_tasks import SimulatedTasks, SimulationConfig
from cellmnn_fm.data.synthetic import branching_course
from cellmnn_fm.dynamics.rollout import roll_out
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from cellmnn_fm.model.errors import InputError
from cellmnn_fm.training.adaptation import adapt, extended, of_dataset
from cellmnn_fm.training.finetuning import finetune, finetuning_config
from cellmnn_fm.training.pretraining import corpus_config, pretrain
from cellmnn_fm.training.simulated import (
    SimulatedErrors,
    SimulatedStep,
    pretrain_simulated,
    velocity_errors,
)

SIZES = {
    "context_cells": 16,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "vector_channels": 4,
    "num_attention_heads": 2,
    "num_summary_tokens": 2,
    "rank": 2,
}
CONFIG = CellMNNConfig(latent_dim=4, frame=True, num_frame_times=2, num_datasets=0, **SIZES)
SIMULATION = SimulationConfig(tasks=2, dims=(2, 3))
TRAINING = TrainingConfig(steps=6, save_every=3, learning_rate=1e-2, gradient_clip=1.0)


def shaken(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def base():
    return shaken(CellMNNModel(CONFIG))


@pytest.fixture
def corpus(tmp_path):
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=4)
    for seed in range(3):
        corpus.add_course(f"set{seed}", branching_course(seed, 4 - seed % 2, cells=40))
    return corpus


def test_what_is_trained_is_what_is_used(base):
    """Velocities and flows of a batch are those of the adapted model."""
    batch = SimulatedTasks(SimulationConfig(tasks=1, dims=(4, 4)), 0, 9)[8]
    errors = SimulatedErrors(base, batch)
    network = base.hypernetwork
    memory = network.remember(batch.frame, batch.context, batch.shown, torch.tensor([4]))
    for side in (0, 1):
        time = batch.query_times[:, side]
        forward = bool(batch.forward[0, side])
        near = time + (1e-4 if forward else -1e-4)
        output = base(batch.query[:, side], time, near[:, None], memory=memory)
        velocity = errors.velocity()[0, side]
        torch.testing.assert_close(output.velocity[0, 0], velocity, rtol=0.01, atol=0.01)
    assert (errors.of_flow() > -0.5).all()
    assert errors.squared().shape == (1, 4 * batch.query.shape[2])
    assert (errors.elsewhere() >= 0).all()
    assert (errors.of_growth() >= 0).all()


def test_an_untrained_network_has_the_errors_of_the_frame():
    batch = SimulatedTasks(SIMULATION, 0, 1)[0]
    y = batch.frame.to_frame(batch.query, batch.query_times)
    frame = batch.frame.motion(y, batch.query_times, forward=batch.forward)
    error = (frame - batch.velocity).square().sum(-1).mean((1, 2))
    expected = (error / batch.velocity.square().sum(-1).mean((1, 2))).sqrt()
    np.testing.assert_allclose(
        velocity_errors(CellMNNModel(CONFIG), batch), expected.numpy(), rtol=1e-5
    )


@pytest.mark.slow
def test_training_lowers_the_error_of_systems_it_never_saw():
    training = replace(TRAINING, steps=200, check_every=100, learning_rate=3e-3)
    trained = pretrain_simulated(CONFIG, training, replace(SIMULATION, tasks=6))
    tasks = SimulatedTasks(replace(SIMULATION, tasks=16), 2**31 + 5, 1000)
    batches = [tasks[64 * number] for number in range(6)]
    before, after = (
        np.median(np.concatenate([velocity_errors(model, batch) for batch in batches]))
        for model in (CellMNNModel(CONFIG), trained.model)
    )
    assert after < 0.95 * before
    assert [step for step, _ in trained.checks] == [100, 200]


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    whole = pretrain_simulated(CONFIG, TRAINING, SIMULATION)
    forward, calls = SimulatedStep.forward, []

    def killed(step, batch):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return forward(step, batch)

    monkeypatch.setattr(SimulatedStep, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain_simulated(CONFIG, TRAINING, SIMULATION, folder=tmp_path)
    monkeypatch.undo()
    resumed = pretrain_simulated(CONFIG, TRAINING, SIMULATION, folder=tmp_path)
    for name, value in state(whole.model).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_losses_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch):
    def broken(step, batch):
        return {"velocity": sum(p.sum() for p in step.model.parameters()) * torch.nan}

    monkeypatch.setattr(SimulatedStep, "forward", broken)
    with pytest.raises(InputError, match="losses of step 3: expected numbers"):
        pretrain_simulated(CONFIG, TRAINING, SIMULATION, folder=tmp_path)
    assert not list(tmp_path.rglob("state.json"))


def test_a_corpus_is_learned_from_there(base, corpus):
    config = corpus_config(corpus, **SIZES)
    sampling = SamplingConfig(tasks=2, cells=8, frame_cells=20)
    trained = pretrain(
        corpus, config, TRAINING, sampling, start=base, simulation=SIMULATION, leave_out=["set2"]
    )
    assert set(trained.losses[0]) == {"distance", "velocity", "flow", "operator", "growth"}
    model = trained.model
    assert [len(cells) for cells in model.context_of(0)] == [
        min(16, cells) for cells in corpus.entries["set0"].cells
    ]
    assert not any(len(cells) for cells in model.context_of(2))
    untouched = pretrain(corpus, config, replace(TRAINING, steps=0), sampling, start=base).model
    gates = "hypernetwork.gates.weight"
    assert torch.equal(untouched.get_parameter(gates), base.get_parameter(gates))
    assert not torch.equal(model.get_parameter(gates), base.get_parameter(gates))
    single, course = of_dataset(model, 1), corpus["set1"].course()
    found = interpolate(Dynamics(single, course.time_scale), course, float(course.times[:2].mean()))
    assert np.isfinite(found.states).all()
    with pytest.raises(InputError, match="network to start from: expected the same sizes"):
        pretrain(
            corpus, corpus_config(corpus, **{**SIZES, "rank": 3}), TRAINING, sampling, start=base
        )


@pytest.mark.parametrize("mode", ["embedding", "full", "lora"])
def test_what_fine_tuning_changes(base, mode):
    course, before = branching_course(4, 3), state(base)
    start = state(adapt(base, course))
    tuned = finetune(base, {"new": course}, mode=mode, training=finetuning_config(4)).model
    changed = {name for name, value in start.items() if not torch.equal(value, state(tuned)[name])}
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert "dataset_embeddings" in changed
    assert not {name for name in changed if name.startswith(("frame", "context"))}
    network = {name for name in changed if name.startswith("hypernetwork")}
    assert bool(network) == (mode != "embedding")
    grown = extended(base, tuned)
    again = of_dataset(grown, 0)
    assert all(torch.equal(value, state(tuned)[name]) for name, value in again.state_dict().items())


def test_any_dimensions_are_adapted_to_and_followed(base):
    course = branching_course(4, 6)
    model = adapt(base, course)
    assert model.config.latent_dim == 6
    dynamics = Dynamics(model, course.time_scale)
    cells = course.snapshots[0][:5]
    loose, tight = (
        roll_out(dynamics, cells, course.times[0], course.times[:2], rtol=tolerance, atol=tolerance)
        for tolerance in (0.1, 0.01)
    )
    distance = np.linalg.norm(loose.states - tight.states, axis=-1)
    assert (distance <= loose.error + tight.error + 1e-5).mean() > 0.8


def test_a_network_that_reads_nothing_is_refused():
    with pytest.raises(InputError, match="context_cells: expected a number of cells to read"):
        pretrain_simulated(CellMNNConfig(latent_dim=4), TRAINING, SIMULATION)


def test_tasks_can_be_sent_to_workers():
    """That are spawned, as they are on most systems: the same batches there."""
    tasks = SimulatedTasks(SIMULATION, 3, 4)
    expected = tasks[1]
    sent = pickle.loads(pickle.dumps(tasks))
    for found, known in zip(sent[1][:2], expected[:2], strict=True):
        torch.testing.assert_close(found, known, rtol=0, atol=0)
