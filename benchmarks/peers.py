"""Methods of others, each with its authors' own package and settings: fit a course, push cells.

    pip install --constraint constraints.txt '.[peers]'    # torchcfm, MIOFlow, scDiffEq

Every method sees the same states, z-scored components of the cells that are not held out, and times
as indices of the snapshots, as all three do in their examples; a held-out time is a fraction of the
way between two of them, linear in real time. Settings:

- OT-CFM, I-CFM, SB-CFM (Tong et al. 2024, TMLR): network, optimiser, batch and noise of the
  authors' runner for principal components (three hidden layers of 64, SELU, AdamW 1e-3, 128 cells
  of each snapshot, σ 0.1, for SB-CFM σ 1 and a Sinkhorn plan); steps of their single-cell example,
  10,000 over all pairs of snapshots at once; dopri5. The example's own 256 cells and rate 1e-4 are
  "notebook".
- MIOFlow (Huguet et al. 2022, NeurIPS): defaults of package 0.1, without an autoencoder, since
  states are components already.
- scDiffEq (Vinyard et al. 2025, Nat Mach Intell): defaults of package 1.1, 1,500 epochs as in its
  README.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmnn_fm import InputError, TimeCourse

# (states, index of the time they are of, index of the time to go to) → states
Push = Callable[[NDArray, float, float], NDArray]
# called after so many steps with what the method would predict now
Observer = Callable[[int, Push], None]

CFM_STEPS = 10_000
SCDIFFEQ_EPOCHS = 1500
PACKAGES = {
    "ot_cfm": "torchcfm",
    "i_cfm": "torchcfm",
    "sb_cfm": "torchcfm",
    "ot_cfm_notebook": "torchcfm",
    "mioflow": "mioflow",
    "scdiffeq": "scdiffeq",
}


def installed() -> list[str]:
    """The methods whose packages are there."""
    return [name for name, package in PACKAGES.items() if find_spec(package) is not None]


def fit_peer(name: str, course: TimeCourse, seed: int, observe: Observer | None = None) -> Push:
    """Fit a method to a time course.

    Parameters
    ----------
    name : str
        A key of `PACKAGES`.
    course : TimeCourse
    seed : int
    observe : callable, optional
        Called at steps that double, where the method is trained step by step here.

    Raises
    ------
    InputError
        On an unknown method, or one whose package is not installed.
    """
    if name not in PACKAGES:
        raise InputError("method", ", ".join(PACKAGES), name, "choose one of them")
    if name not in installed():
        raise InputError(
            name, f"the package {PACKAGES[name]}", "none", "pip install 'cellmnn-fm[peers]'"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        if name == "mioflow":
            return fit_mioflow(course)
        if name == "scdiffeq":
            return fit_scdiffeq(course, seed)
        return fit_cfm(name, course, rng, observe)


def index_of(course: TimeCourse, time: float) -> float:
    """A time in indices of the snapshots, linear in between, and beyond the last as before it."""
    last, gap = course.times[-1], course.times[-1] - course.times[-2]
    beyond = max(time - last, 0.0) / gap
    return float(np.interp(time, course.times, np.arange(len(course.times))) + beyond)


def fit_cfm(
    name: str,
    course: TimeCourse,
    rng: np.random.Generator,
    observe: Observer | None = None,
    *,
    steps: int = CFM_STEPS,
    batch: int | None = 128,
) -> Push:
    """Conditional flow matching over all pairs of consecutive snapshots; no batch takes all."""
    from torchcfm import conditional_flow_matching as cfm
    from torchcfm.models import MLP
    from torchcfm.utils import torch_wrapper
    from torchdiffeq import odeint

    rate = 1e-3
    if name == "i_cfm":
        matcher = cfm.ConditionalFlowMatcher(sigma=0.1)
    elif name == "sb_cfm":
        matcher = cfm.SchrodingerBridgeConditionalFlowMatcher(sigma=1.0, ot_method="sinkhorn")
    else:
        matcher = cfm.ExactOptimalTransportConditionalFlowMatcher(sigma=0.1)
    if name == "ot_cfm_notebook":
        batch, rate = 256, 1e-4
    network = MLP(dim=course.latent_dim, time_varying=True, w=64)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-5)
    field = torch_wrapper(network)
    snapshots = [torch.from_numpy(snapshot) for snapshot in course.snapshots]

    @torch.no_grad()
    def push(states: NDArray, start: float, target: float) -> NDArray:
        span = torch.tensor([start, target], dtype=torch.float32)
        x = torch.from_numpy(np.ascontiguousarray(states, dtype=np.float32))
        return odeint(field, x, span, method="dopri5", rtol=1e-4, atol=1e-4)[-1].numpy()

    def some(cells: Tensor) -> Tensor:
        return cells if batch is None else cells[rng.integers(len(cells), size=batch)]

    # plans are drawn from numpy's global state
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(rng.integers(2**31)))  # noqa: NPY002
    for step in range(1, steps + 1):
        drawn = [
            (index + moved[0], *moved[1:])
            for index, pair in enumerate(pairwise(snapshots))
            for moved in [matcher.sample_location_and_conditional_flow(*map(some, pair))]
        ]
        t, x, velocity = (torch.cat(part) for part in zip(*drawn, strict=True))
        loss = (network(torch.cat([x, t[:, None]], dim=-1)) - velocity).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if observe is not None and (step & (step - 1) == 0 or step == steps):
            observe(step, push)
    np.random.set_state(state)  # noqa: NPY002
    return push


def fit_mioflow(course: TimeCourse) -> Push:
    """A neural ODE that matches exact OT plans of whole snapshots."""
    from mioflow.mioflow import MIOFlow
    from torchdiffeq import odeint

    with tempfile.TemporaryDirectory() as folder, quiet():
        fitted = MIOFlow(
            as_anndata(course), obs_time_key="index", debug_level="error", exp_dir=folder
        ).fit()
    mean, spread = fitted.mean_vals, fitted.std_vals

    @torch.no_grad()
    def push(states: NDArray, start: float, target: float) -> NDArray:
        x = torch.from_numpy((states - mean) / spread).float()
        return (
            odeint(fitted.ode_model, x, torch.tensor([start, target]))[-1].numpy() * spread + mean
        )

    return push


def fit_scdiffeq(course: TimeCourse, seed: int, epochs: int = SCDIFFEQ_EPOCHS) -> Push:
    """A neural SDE with drift and diffusion, trained by Sinkhorn divergence; it has no way back."""
    import scdiffeq

    adata = as_anndata(course)
    with tempfile.TemporaryDirectory() as folder, quiet():
        model = scdiffeq.scDiffEq(
            adata,
            latent_dim=course.latent_dim,
            time_key="index",
            seed=seed,
            working_dir=folder,
            silent=True,
        )
        model.fit(train_epochs=epochs, accelerator="cpu", devices=1)
    dynamics: Any = model.DiffEq.cpu().eval()

    def push(states: NDArray, start: float, target: float) -> NDArray:
        if target < start:
            raise InputError("scDiffEq", "a later time", f"{start} to {target}", "push forward")
        x = torch.from_numpy(np.asarray(states, dtype=np.float32))
        times = torch.linspace(start, target, max(2, round((target - start) / 0.1) + 1))
        # the drift is the gradient of a potential, which takes autograd
        return dynamics.forward(x, times)[-1].detach().numpy()

    return push


def as_anndata(course: TimeCourse) -> anndata.AnnData:
    """States as `obsm["X_pca"]`, times as `obs["index"]`."""
    states = np.concatenate(course.snapshots)
    index = np.repeat(
        np.arange(len(course.times)), [len(snapshot) for snapshot in course.snapshots]
    )
    names = np.arange(len(states)).astype(str)
    obs = pd.DataFrame({"index": index.astype(float)}, index=names)
    return anndata.AnnData(states, obs=obs, obsm={"X_pca": states})


@contextlib.contextmanager
def quiet():
    """Without the progress bars and logs of others."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
