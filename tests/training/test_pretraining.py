"""Joint training: batches, graphs, resumption, processes, and what a base answers."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from cellmnn_fm import CellMNNConfig, CellMNNModel, InputError, TimeCourse
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.moments import GeneMoments
from cellmnn_fm.data.shared_subspace import Member, SharedSubspace
from cellmnn_fm.data.synthetic import branching_course
from cellmnn_fm.data.tasks import SamplingConfig, TaskSampler
from cellmnn_fm.dynamics.rollout import roll_out
from cellmnn_fm.dynamics.snapshots import Dynamics, draw_cells, interpolate
from cellmnn_fm.model.gaussian_frame import fit_frame
from cellmnn_fm.training.adaptation import adapt, of_dataset
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.pretraining import (
    HeldOutStep,
    collate,
    corpus_config,
    predict_targets,
    pretrain,
    validator,
)

MODEL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "rank": 2,
    "context_cells": 16,
    "vector_channels": 4,
    "num_attention_heads": 2,
    "num_summary_tokens": 2,
}
SHORT = TrainingConfig(steps=6, save_every=2)
SAMPLING = SamplingConfig(tasks=4, cells=16, frame_cells=40)


def make_corpus(folder):
    corpus = Corpus.create(folder, latent_dim=4)
    for seed in range(5):
        course = branching_course(seed, 3 if seed == 1 else 4, cells=60)
        corpus.add_course(f"set{seed}", course, overlaps=["set0"] if seed == 3 else [])
    return corpus


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "corpus")


def batch_of(corpus, slots, sampling=SAMPLING):
    sampler = TaskSampler(corpus, sampling, 0)
    tasks = [sampler.draw(slot) for slot in slots]
    return tasks, collate(tasks, sampling.cells, torch.device("cpu"))


def shaken(model):
    """With weights everywhere, so that nothing is trivially 0."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_a_batch_is_each_of_its_tasks(corpus):
    model = shaken(CellMNNModel(corpus_config(corpus, **MODEL))).double()
    tasks, batch = batch_of(corpus, range(6))
    batch = type(batch)(
        *(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in batch)
    )
    batch = batch._replace(
        observed=[[one.double() for one in its] for its in batch.observed],
        frames=[one.map(lambda values: values.double()) for one in batch.frames],
    )
    together, weights, *_ = predict_targets(model, batch)
    np.testing.assert_allclose(weights.sum(-1).detach(), 1, atol=1e-6)
    for number in range(6):
        alone = type(batch)(*(part[number : number + 1] for part in batch))
        found, *_ = predict_targets(model, alone)
        torch.testing.assert_close(found[0], together[number])
        assert not found[0, :, tasks[number].num_dims :].any()


def test_an_untrained_base_is_the_frame(corpus):
    model = CellMNNModel(corpus_config(corpus, **MODEL))
    tasks, batch = batch_of(corpus, range(3))
    states, *_ = predict_targets(model, batch)
    for number, task in enumerate(tasks):
        frame = fit_frame(
            [torch.from_numpy(one) for one in task.snapshots],
            torch.from_numpy(task.times).float(),
        )
        at = torch.tensor(task.target_time)
        source = torch.from_numpy(task.sources[0]).float()
        y = frame.to_frame(source, frame.times[task.left])
        expected = frame.from_frame(y, at)[:, : task.num_dims]
        if task.num_dims == 4:
            torch.testing.assert_close(
                states[number, : len(source)], expected, rtol=1e-3, atol=1e-3
            )


@pytest.mark.parametrize("table_share", [0.0, 1.0])
def test_table_and_cells_stay_in_every_graph(corpus, table_share):
    """Whichever a task uses: processes wait for the gradients of all parameters."""
    model = shaken(CellMNNModel(corpus_config(corpus, **MODEL)))
    _, batch = batch_of(corpus, range(4), replace(SAMPLING, table_share=table_share))
    losses = HeldOutStep(model)(batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    used = model.dataset_embeddings.grad.abs().sum() > 0
    assert bool(used) == bool(table_share)


def test_training_learns_what_the_sets_have_in_common(tmp_path):
    """Means that all run ahead of the straight line: found for a set that was never seen."""
    rng = np.random.default_rng(0)
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=3)
    for seed in range(6):
        direction = np.linalg.qr(rng.normal(size=(3, 3)))[0][0]
        way = np.sqrt(np.linspace(0, 1, 5))[:, None] * 6 * direction
        snapshots = [rng.normal(size=(80, 3)) + at for at in way]
        corpus.add_course(f"set{seed}", TimeCourse(snapshots, np.arange(5.0)))
    training = TrainingConfig(steps=120, learning_rate=1e-2, kinetic_weight=0.0)
    trained = pretrain(
        corpus, corpus_config(corpus, **MODEL), training, SAMPLING, leave_out=["set5"]
    )
    score = validator(corpus, SAMPLING, ["set5"], torch.device("cpu"))
    untrained = CellMNNModel(corpus_config(corpus, **MODEL))
    assert score(trained.model) < score(untrained) - 0.01


def test_left_out_groups_are_not_looked_at(corpus):
    config = corpus_config(corpus, **MODEL)
    trained = pretrain(corpus, config, SHORT, SAMPLING, leave_out=["set0"])
    frames = trained.model.frame_mean
    assert not frames[[0, 3]].any()
    assert frames[[1, 2, 4]].any()
    with pytest.raises(InputError, match="groups: expected some of set0, set1"):
        pretrain(corpus, config, SHORT, SAMPLING, leave_out=["set3"])
    with pytest.raises(InputError, match="tasks: expected a multiple of 1 processes times accumul"):
        pretrain(corpus, config, replace(SHORT, accumulation=3), SAMPLING)


def test_the_best_by_validation_is_kept(corpus):
    training = replace(SHORT, steps=9, check_every=3)
    config = corpus_config(corpus, **MODEL)
    trained = pretrain(corpus, config, training, SAMPLING, validation=["set1"])
    assert [step for step, _ in trained.checks] == [3, 6, 9]
    score = validator(corpus, SAMPLING, ["set1"], torch.device("cpu"))
    found = [figures["zero_shot"] for _, figures in trained.checks]
    assert score(trained.model) == pytest.approx(min(found))


def test_reserved_times_are_for_validation_alone(corpus):
    config = corpus_config(corpus, **MODEL)
    training = replace(SHORT, check_every=3)
    trained = pretrain(
        corpus, config, training, SAMPLING, validation=["set1"], reserve=["set2", "set4"]
    )
    assert all(set(found) == {"zero_shot", "in_corpus"} for _, found in trained.checks)
    assert trained.model.frame_counts[2] == len(corpus.entries["set2"].times) - 1
    with pytest.raises(InputError, match="reserve: expected data sets with a time that can be"):
        pretrain(corpus, config, training, SAMPLING, reserve=["nothing"])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_is_bit_for_bit_uninterrupted(corpus, tmp_path, accumulation):
    config = corpus_config(corpus, **MODEL)
    training = replace(SHORT, accumulation=accumulation)
    whole = pretrain(corpus, config, training, SAMPLING)
    folder = tmp_path / "run"

    import cellmnn_fm.training.loop as optimisation

    saved = optimisation._StateSaver.save

    def save_and_stop(self, step):
        saved(self, step)
        if step == 4:
            raise KeyboardInterrupt

    optimisation._StateSaver.save = save_and_stop
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain(corpus, config, training, SAMPLING, folder=folder)
    finally:
        optimisation._StateSaver.save = saved
    resumed = pretrain(corpus, config, training, SAMPLING, folder=folder)
    for (name, one), other in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert resumed.losses == whole.losses


def test_accumulated_parts_are_the_whole_step(corpus):
    config = corpus_config(corpus, **MODEL)
    runs = [
        pretrain(corpus, config, replace(SHORT, accumulation=parts), SAMPLING) for parts in (1, 2)
    ]
    for one, other in zip(runs[0].losses, runs[1].losses, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_half_precision_is_for_the_network_alone(corpus):
    config = corpus_config(corpus, **MODEL)
    full = pretrain(corpus, config, SHORT, SAMPLING)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        half = pretrain(corpus, config, SHORT, SAMPLING, accelerator=accelerator)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert half.losses != full.losses
    for one, other in zip(half.losses, full.losses, strict=True):
        assert one["distance"] == pytest.approx(other["distance"], rel=0.05)


def test_adapted_models_are_their_base(corpus):
    base = shaken(CellMNNModel(corpus_config(corpus, **MODEL))).eval()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    course = branching_course(9, 3)
    for start in ("inferred", "mean", 2):
        model = adapt(base, course, start)
        assert model.config.num_datasets == 1
        assert torch.equal(model.hypernetwork.gates.weight, base.hypernetwork.gates.weight)
        found = interpolate(
            Dynamics(model, course.time_scale), course, float(course.times[:2].mean())
        )
        assert found.states.shape[1] == 3
        assert np.isfinite(found.states).all()
    assert torch.equal(model.dataset_embeddings[0], base.dataset_embeddings[2])
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    wider = adapt(base, branching_course(9, 6))  # a network that reads snapshots has no dimensions
    assert wider.config.latent_dim == 6
    plain = CellMNNModel(CellMNNConfig(latent_dim=4, rank=2))
    with pytest.raises(InputError, match="base: expected a model of many data sets"):
        adapt(plain, course)


def test_cells_of_a_stored_set_are_followed_through_its_snapshots(corpus):
    """Untrained, they are the Gaussian of every observed snapshot."""
    config = corpus_config(corpus, **MODEL)
    model = pretrain(corpus, config, replace(SHORT, steps=0), SAMPLING).model
    course, row = corpus["set1"].course(), 1
    single = of_dataset(model, row)
    cells = draw_cells(single, 4000)[:4000]
    np.testing.assert_array_equal(draw_cells(model, 4000, row)[:4000], cells)
    dynamics = Dynamics(single, course.time_scale)
    states = roll_out(dynamics, cells, course.times[0], course.times, n_steps=1).states
    for found, snapshot in zip(states, course.snapshots, strict=True):
        assert not found[:, 3:].any()
        np.testing.assert_allclose(found[:, :3].mean(0), snapshot.mean(0), atol=0.15)
    again = roll_out(dynamics, cells, course.times[0], course.times[[2]], n_steps=1)
    np.testing.assert_allclose(again.states[0], states[2], atol=1e-5)


RUN = """
import sys
import numpy as np
from pathlib import Path
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.training.pretraining import corpus_config, pretrain, validator
from dataclasses import replace
from tests.training.test_pretraining import MODEL, SAMPLING, SHORT
from accelerate import Accelerator
corpus = Corpus(sys.argv[1])
share = float(sys.argv[3])
accelerator = Accelerator()
trained = pretrain(corpus, corpus_config(corpus, **MODEL), replace(SHORT, steps=20, save_every=100),
    replace(SAMPLING, table_share=share), accelerator=accelerator)
if accelerator.is_main_process:
    values = np.concatenate([p.detach().numpy().ravel() for p in trained.model.parameters()])
    loss = validator(corpus, SAMPLING, list(corpus.entries), accelerator.device)(trained.model)
    np.save(sys.argv[2], np.append(values, loss))
"""


@pytest.mark.multiprocess
def test_two_processes_are_one(tmp_path):
    """The same global tasks, with the table for some and cells alone for others: the same weights.

    Fine-tuning has a test of its own, with the table alone.
    """
    share = 0.5
    make_corpus(tmp_path / "corpus")
    script = tmp_path / "run.py"
    script.write_text(RUN)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": root}
    environment["OMP_NUM_THREADS"] = "1"
    found = []
    for processes in (1, 2):
        file = tmp_path / f"{processes}.npy"
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, str(script), str(tmp_path / "corpus"), str(file)]
        subprocess.run([*command, str(share)], env=environment, check=True, cwd=root)
        found.append(np.load(file))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-5)
    assert found[1][-1] == pytest.approx(found[0][-1], abs=1e-5)


@pytest.mark.multiprocess
def test_killed_and_started_again(tmp_path):
    """SIGKILL at some moment after the first saved state: the same weights, to the bit."""
    make_corpus(tmp_path / "corpus")
    config = tmp_path / "config.yaml"
    settings = {
        "model": MODEL,
        "training": {"steps": 60, "save_every": 5},
        "sampling": asdict(SAMPLING),
    }
    config.write_text(yaml.safe_dump(settings))
    corpus = Corpus(tmp_path / "corpus")
    moments = GeneMoments.gather([np.random.default_rng(0).normal(size=(9, 4))])
    shared = SharedSubspace.fit({"any": Member(("A", "B", "C", "D"), moments)}, n_dims=4)
    shared.save(corpus.folder / "shared_subspace")
    script = Path(__file__).parents[2] / "pretraining" / "pretrain.py"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def command(name):
        output = ["-o", str(tmp_path / name), "--config", str(config)]
        return [sys.executable, str(script), str(corpus.folder), *output]

    subprocess.run(command("whole"), env=environment, check=True)
    process = subprocess.Popen(command("killed"), env=environment)
    while not list((tmp_path / "killed").glob("training_state/step_*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    subprocess.run(command("killed"), env=environment, check=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed" / "training_state").exists()
