"""Following cells: against scipy's solver, its own error estimate, and backward in time."""

from itertools import pairwise

import anndata
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from cellmnn_fm import CellMNNConfig, CellMNNModel, CellMNNPipeline, InputError
from cellmnn_fm.data.synthetic import KNOWN_SYSTEMS, branching_course
from cellmnn_fm.data.time_course import TimeScale
from cellmnn_fm.dynamics.rollout import path, roll_out
from cellmnn_fm.dynamics.snapshots import Dynamics, padded, push
from cellmnn_fm.model.gaussian_frame import fit_frame
from cellmnn_fm.training.adaptation import adapt

SCALE = TimeScale(10.0, 2.0)


@pytest.fixture(params=["plain", "frame", "complex"])
def model(request):
    torch.manual_seed(1)
    options = {
        "plain": {"init_scale": 0.1},
        "complex": {"init_scale": 0.1, "num_complex_pairs": 1},
        "frame": {"init_scale": 0.1, "frame": True, "num_frame_times": 3},
    }[request.param]
    model = CellMNNModel(CellMNNConfig(latent_dim=2, rank=2, hidden_size=32, **options)).eval()
    if request.param == "frame":
        clouds = [torch.randn(50, 2) * (1 + at) + at for at in range(3)]
        model.set_frame_state(fit_frame(clouds, torch.arange(3.0)))
        torch.nn.init.normal_(model.hypernetwork.head.weight, std=0.02)
    return model


@pytest.fixture
def cells():
    return np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)


def solved(model, cells, time, times, scale=SCALE):
    """The model's own ODE dz/dt = velocity(z, t), by scipy in double precision."""
    model = model.double()

    def velocity(at, flat):
        z = torch.tensor(flat.reshape(1, -1, cells.shape[1]))
        when = torch.tensor([at], dtype=torch.float64)
        with torch.no_grad():
            return model(z, when, when).velocity[0, 0].numpy().ravel()

    start, stop = scale.to_model(time), scale.to_model(np.asarray(times))
    states = []
    for end in stop:
        ends = [start, *(at for at in (0.0, 1.0, 2.0) if min(start, end) < at < max(start, end))]
        ends = sorted([*ends, end], reverse=bool(end < start))
        flat = cells.astype(np.float64).ravel()
        for before, after in pairwise(ends):
            # rates of the frame jump at its times: from the inside of the interval
            shift = 1e-9 * np.sign(after - before)
            span = (before + shift, after - shift)
            flat = solve_ivp(velocity, span, flat, rtol=1e-5, atol=1e-6).y[:, -1]
        states.append(flat.reshape(cells.shape))
    model.float()
    return np.stack(states)


def test_it_follows_the_models_own_ode(model, cells):
    """Within the estimate, in 95 % of the cells, forward and backward."""
    times = np.array([11.0, 13.0, 9.5])
    found = roll_out(Dynamics(model, SCALE), cells, 10.5, times, rtol=3e-3, atol=3e-3)
    truth = solved(model, cells, 10.5, times)
    error = np.linalg.norm(found.states - truth, axis=-1)
    assert (error <= found.error + 1e-5).mean() >= 0.95
    assert (found.error <= 3e-3 * (1 + np.linalg.norm(found.states, axis=-1))).all()
    assert error.max() < 0.02 * (1 + np.abs(truth).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bistable", "oscillator"])
def test_the_estimate_bounds_the_error_on_fitted_nonlinear_systems(recovered, name):
    fitted = recovered(name).trained
    course = KNOWN_SYSTEMS[name].course(cells=16, seed=5)
    scale = fitted.time_scale
    times = course.times[[3, 6, 8]]
    found = roll_out(Dynamics(fitted.model, scale), course.snapshots[0], course.times[0], times)
    truth = solved(fitted.model, course.snapshots[0], course.times[0], times, scale)
    error = np.linalg.norm(found.states - truth, axis=-1)
    assert (error <= found.error + 1e-5).mean() >= 0.95


def test_a_fixed_number_of_steps_is_push(model, cells):
    found = roll_out(Dynamics(model, SCALE), cells, 10.0, np.array([12.0]), n_steps=4)
    expected = push(Dynamics(model, SCALE), cells, 10.0, 12.0, n_steps=4)
    np.testing.assert_allclose(found.states[0], expected, rtol=1e-4, atol=1e-5)
    assert found.error is None
    assert set(found.steps) == {4}
    with torch.no_grad():
        at = torch.tensor([1.0])
        velocity = model(torch.from_numpy(expected)[None], at, at).velocity[0, 0] / SCALE.unit
    np.testing.assert_allclose(found.velocity[0], velocity, rtol=1e-3, atol=1e-4)


def test_there_and_back(model, cells):
    there = roll_out(Dynamics(model, SCALE), cells, 10.0, [13.0], n_steps=64)
    back = roll_out(Dynamics(model, SCALE), there.states[0], 13.0, [10.0], n_steps=64)
    np.testing.assert_allclose(back.states[0], cells, atol=0.05)


def test_times_in_any_order_and_the_start_itself(model, cells):
    found = roll_out(Dynamics(model, SCALE), cells, 11.0, [13.0, 11.0, 10.0, 12.0], n_steps=2)
    np.testing.assert_array_equal(found.states[1], cells)
    for at, time in ((0, 13.0), (2, 10.0), (3, 12.0)):
        alone = roll_out(Dynamics(model, SCALE), cells, 11.0, [time], n_steps=2)
        if time != 13.0:  # on the way there, the step begins anew at the other times
            np.testing.assert_allclose(found.states[at], alone.states[0], rtol=1e-5, atol=1e-6)


def test_chunks_and_cells_do_not_matter(model, cells, monkeypatch):
    whole = roll_out(Dynamics(model, SCALE), cells, 10.0, [13.0])
    monkeypatch.setattr("cellmnn_fm.dynamics.rollout._CHUNK", 7)
    parts = roll_out(Dynamics(model, SCALE), cells, 10.0, [13.0])
    np.testing.assert_allclose(parts.states, whole.states, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(parts.steps, whole.steps)


def test_what_cannot_be_followed(model, cells):
    for options, message in (
        ({"n_steps": 0}, "n_steps: expected a whole number, 1 or more, found 0"),
        ({"rtol": 0.0, "atol": 0.0}, "rtol and atol: expected one above 0, found 0 and 0"),
    ):
        with pytest.raises(InputError, match=message):
            roll_out(Dynamics(model, SCALE), cells, 10.0, [12.0], **options)
    with pytest.raises(InputError, match="times: expected finite ones"):
        roll_out(Dynamics(model, SCALE), cells, 10.0, [np.nan])
    with pytest.warns(UserWarning, match="cells are not followed to the tolerance within 256"):
        roll_out(Dynamics(model, SCALE), cells * 3, 10.0, [12.0], rtol=0.0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*not followed to the tolerance")
def test_trajectories_as_anndata(adata, tmp_path):
    options = {"time_key": "day", "n_dims": 3, "steps": 20, "verdict": False}
    fitted = CellMNNPipeline().fit(adata, **options)
    found = fitted.trajectory(adata, [1.0, 2.0, 3.0], start=1.0)
    assert found.shape == (90, 8)
    assert found.obs["time"].tolist() == [1.0] * 30 + [2.0] * 30 + [3.0] * 30
    assert found.obs["source_cell"].tolist() == adata.obs_names[30:60].tolist() * 3
    assert (found.obs["error"] >= 0).all()
    observed = fitted.annotate(adata)[30:60]
    np.testing.assert_allclose(found.obsm["X_cellmnn"][:30], observed.obsm["X_cellmnn"], atol=1e-5)
    np.testing.assert_allclose(
        found.obsm["cellmnn_velocity"][:30], observed.obsm["cellmnn_velocity"], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        found.X, fitted.subspace.reconstruct(found.obsm["X_cellmnn"]), rtol=1e-5
    )
    found.write_h5ad(tmp_path / "found.h5ad")
    again = anndata.read_h5ad(tmp_path / "found.h5ad")
    assert again.uns["cellmnn"]["source_time"] == 1.0
    assert len(fitted.trajectory(adata, cells=5, n_steps=1)) == 15  # at the observed times
    with pytest.warns(UserWarning, match="time 5 is 2 beyond the observed times 0 to 3"):
        fitted.trajectory(adata, [5.0])
    with pytest.raises(InputError, match="start: expected one of 0, 1, 3, found 2"):
        fitted.trajectory(adata, start=2.0)
    with pytest.raises(InputError, match="adata: expected the data, since the model has no frame"):
        fitted.trajectory()


def test_errors_of_a_network_that_reads():
    """The estimate bounds the distance from many more steps, and little of it is wasted."""
    base = CellMNNModel.from_pretrained("cellmnn-simulated")
    course = branching_course(0, 3, cells=60)
    model = adapt(base, course)
    dynamics = Dynamics(model, course.time_scale)
    cells = course.snapshots[0][:20]
    followed = roll_out(dynamics, cells, course.times[0], course.times[1:3])
    assert set(followed.steps) <= {8, 16}
    z, wanted = padded(model, cells), course.time_scale.to_model(course.times[1:3])
    with torch.no_grad():
        exact = path(model, z, 0.0, wanted, 48, halfway=True)
    distance = np.linalg.norm(followed.states - exact.states.numpy()[..., :3], axis=-1)
    inside = ~followed.stopped
    assert (distance <= followed.error + 1e-3)[inside].mean() > 0.95
    allowed = 1e-2 + 1e-2 * np.linalg.norm(followed.states, axis=-1)
    assert (distance <= allowed)[inside].mean() > 0.95
