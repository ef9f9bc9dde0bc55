"""A training step never waits for a GPU: nothing is read back, no shape depends on values.

On the meta device tensors have shapes and no values: reading one (`.item()`, `.tolist()`, a branch)
and a shape that depends on values (`nonzero`, a mask as an index) both raise. Copies of host memory
inside of a step, which make the host wait as well, are seen by their device.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cellmnn_fm import CellMNNConfig, CellMNNModel, TimeCourse
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.synthetic import branching_course
from cellmnn_fm.data.tasks import SamplingConfig, TaskSampler
from cellmnn_fm.model.gaussian_frame import fit_frame
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.loop import _warmed_up_average, to_device
from cellmnn_fm.training.one_course import CourseStep, draw
from cellmnn_fm.training.pretraining import HeldOutStep, collate, corpus_config

META = torch.device("meta")
SIZES = (40, 20, 30)


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """It knows no meta device; it only says in which precision to compute."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


class FromTheHost(TorchDispatchMode):
    """Notes operations on tensors of the host, and what would be read from the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [one for one in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(one)]
        on_host = any(one.device.type == "cpu" for one in tensors)
        if on_host or "_local_scalar_dense" in str(func):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def trained_without_waiting(step, model, *inputs):
    """One step of training; what it takes from the host."""
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    with FromTheHost() as noted:
        losses = torch.stack(list(step(*inputs).values()))
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()  # counts its steps on the host
    assert all(parameter.device == META for parameter in model.parameters())
    return noted.found


def course():
    rng = np.random.default_rng(0)
    snapshots = [rng.normal(size=(size, 5)).astype(np.float32) for size in SIZES]
    return TimeCourse(snapshots, np.array([0.0, 1.0, 3.0]))


@pytest.mark.parametrize("preset", ["default", "paper", "sliced"])
@pytest.mark.parametrize("options", [{}, {"frame": True}, {"growth": True}])
def test_a_step_on_a_time_course(preset, options):
    if preset == "paper" and "frame" in options:
        options = {}
    one = course()
    config, training = preset_configs(preset, one, **options)
    model, times = CellMNNModel(config).to(META), torch.tensor(one.model_times).float()
    frame = None
    if config.frame:
        frame = fit_frame([torch.from_numpy(snapshot) for snapshot in one.snapshots], times)
    step = CourseStep(model, training, one.snapshots, times, frame=frame)
    rng = np.random.default_rng(0)
    rows = [
        torch.from_numpy(draw(SIZES, cells, rng)).to(META)
        for cells in (training.source_cells, training.target_cells)
    ]
    assert trained_without_waiting(step, model, *rows) == []


@pytest.mark.parametrize("table_share", [0.0, 0.5])
def test_a_step_on_a_corpus(tmp_path, table_share):
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=4)
    for seed in range(3):
        corpus.add_course(f"set{seed}", branching_course(seed, 3, cells=60))
    sampling = SamplingConfig(tasks=4, cells=16, frame_cells=40, table_share=table_share)
    sampler = TaskSampler(corpus, sampling, 0)
    config = corpus_config(
        corpus,
        hidden_size=16,
        rank=2,
        context_cells=16,
        vector_channels=4,
        num_attention_heads=2,
        num_summary_tokens=2,
    )
    model = CellMNNModel(config).to(META)
    batch = collate([sampler.draw(slot) for slot in range(4)], sampling.cells, META)
    step = HeldOutStep(model)
    assert trained_without_waiting(step, model, batch) == []


def test_an_interpolation():
    frame = fit_frame([torch.from_numpy(one) for one in course().snapshots], torch.arange(3.0))
    config = CellMNNConfig(latent_dim=5, frame=True, num_frame_times=3)
    model = CellMNNModel(config).to(META)
    frame = frame.to(META)
    z, times, targets = (torch.empty(shape, device=META) for shape in ((1, 40, 5), (1,), (2,)))
    with FromTheHost() as noted:
        output = model(z, times, targets, frame=frame)
    assert output.states.shape == (1, 2, 40, 5)
    assert noted.found == []


def test_the_moving_average_counts_on_the_host():
    model = torch.nn.Linear(3, 2, device=META)
    average = _warmed_up_average(model, 0.9)
    for _ in range(3):  # reading the count from the device would raise
        average.update_parameters(model)
    assert int(average.n_averaged) == 3
    assert average.n_averaged.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("frame", [False, True])
def test_a_gpu_is_never_waited_for(frame):
    one = course()
    config, training = preset_configs("default", one, frame=frame)
    model, times = CellMNNModel(config).cuda(), torch.tensor(one.model_times).float()
    state = None
    if frame:
        state = fit_frame([torch.from_numpy(snapshot) for snapshot in one.snapshots], times)
    step = CourseStep(model, training, one.snapshots, times, frame=state)
    optimizer = torch.optim.AdamW(model.parameters())
    rng = np.random.default_rng(0)
    try:
        for mode in ("default", "error"):  # the first step makes the state of the optimiser
            torch.cuda.set_sync_debug_mode(mode)
            rows = [to_device(draw(SIZES, 64, rng), model.device) for _ in range(2)]
            optimizer.zero_grad()
            losses = torch.stack(list(step(*rows).values()))
            losses.sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()  # waiting raises by now
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses.isfinite().all()
    assert all(one.isfinite().all() for one in model.parameters())


def test_what_is_read_or_copied_in_a_step_is_noticed():
    """The tests above can fail."""
    x = torch.ones(3, device=META)
    with pytest.raises(RuntimeError, match="meta"):
        x.sum().item()
    with pytest.raises(RuntimeError, match="meta"):
        x.tolist()
    with pytest.raises((RuntimeError, NotImplementedError), match="nonzero"):
        x[x > 0]
    with FromTheHost() as noted:
        torch.as_tensor(1.0, device=META)
        x * torch.tensor([1.0, 2.0, 3.0]).to(META)
    assert len(noted.found) >= 2
