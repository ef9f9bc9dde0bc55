"""Several processes and machines: two rendezvous on loopback, a killed worker, a slow one."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from cellmnn_fm import SharedSubspace
from cellmnn_fm.data.moments import GeneMoments
from cellmnn_fm.data.shared_subspace import Member
from tests.training.test_pretraining import MODEL, SAMPLING, make_corpus

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)
# a step of rank 1 takes 30 ms longer, and its process says which it is
SLOW = """
import os, runpy, sys, time
from pathlib import Path
from cellmnn_fm.training import collation
rank = os.environ["RANK"]
Path(os.environ["PIDS"], rank).write_text(str(os.getpid()))
if rank == "1":
    from cellmnn_fm.data.tasks import TaskSampler
    draw = TaskSampler.draw
    def slowly(*arguments, **options):
        time.sleep(0.01)
        return draw(*arguments, **options)
    TaskSampler.draw = slowly
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def prepared(tmp_path):
    """A corpus, and a config of 40 steps that saves its state every 5."""
    corpus = make_corpus(tmp_path / "corpus")
    moments = GeneMoments.gather([np.random.default_rng(0).normal(size=(9, 4))])
    shared = SharedSubspace.fit({"any": Member(("A", "B", "C", "D"), moments)}, n_dims=4)
    shared.save(corpus.folder / "shared_subspace")
    training = {"steps": 40, "save_every": 5}
    settings = {"model": MODEL, "training": training, "sampling": asdict(SAMPLING)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


def launched(folder, name, *options, script=()):
    """torchrun with the pretraining script, started."""
    launch = ["-m", "torch.distributed.run", *options, *map(str, script)]
    pretrain = [ROOT / "pretraining" / "pretrain.py", folder / "corpus", "-o", folder / name]
    command = [sys.executable, *launch, *map(str, pretrain), "--config", folder / "config.yaml"]
    pids = folder / f"{name}_pids"
    pids.mkdir(exist_ok=True)
    return subprocess.Popen(command, env={**ENVIRONMENT, "PIDS": str(pids)}, cwd=folder)


def weights(folder, name):
    return (folder / name / "model.safetensors").read_bytes()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.multiprocess
def test_two_machines_are_one(prepared):
    """Two rendezvous that find each other by address; the same global tasks as on one process."""
    port = free_port()
    nodes = [
        launched(
            *(prepared, "nodes", "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"),
            *("--master-addr=127.0.0.1", f"--master-port={port}"),
        )
        for rank in (0, 1)
    ]
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    assert launched(prepared, "one", "--standalone", "--nproc-per-node=1").wait(timeout=120) == 0
    found, expected = (
        load_file(prepared / name / "model.safetensors") for name in ("nodes", "one")
    )
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=2e-5)


@pytest.mark.multiprocess
def test_a_job_whose_worker_is_killed_goes_on(prepared):
    """The launcher ends the others, and the same command goes on: the same bytes.

    Nor does it matter that one of them is slower.
    """
    two = ("--standalone", "--nproc-per-node=2")
    assert launched(prepared, "whole", *two).wait(timeout=120) == 0
    slow = [prepared / "slow.py"]
    process = launched(prepared, "killed", *two, script=slow)
    while not list((prepared / "killed").glob("training_state/step_*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(int((prepared / "killed_pids" / "1").read_text()), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not (prepared / "killed" / "model.safetensors").exists()
    assert launched(prepared, "killed", *two, script=slow).wait(timeout=120) == 0
    assert weights(prepared, "killed") == weights(prepared, "whole")
