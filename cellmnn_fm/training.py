"""Training on one time course by matching distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .configuration_cellmnn import CellMNNConfig
from .errors import InputError
from .gaussian_frame import fit_frame
from .losses import energy_distance, invertibility_penalty, kinetic_energy, mmd2, pair_weights
from .modeling_cellmnn import CellMNNModel, CellMNNOutput
from .optimisation import Optimised, optimise
from .recipes import TrainingConfig
from .rollout import log_descendants
from .time_course import TimeCourse, TimeScale
from .trajectories import as_shares


@dataclass(frozen=True)
class TrainedModel(Optimised):
    """What training on one time course returns.

    Attributes
    ----------
    time_scale : TimeScale
        Between the user's time and the model's.
    """

    time_scale: TimeScale


def train(
    course: TimeCourse,
    config: CellMNNConfig,
    training: TrainingConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    validate: Callable[[CellMNNModel, TimeScale], float] | None = None,
    progress: bool = False,
) -> TrainedModel:
    """Fit a model to one time course.

    Runs on whatever accelerate finds, and under `accelerate launch` on several processes, each of
    which draws cells of its own.

    Parameters
    ----------
    course : TimeCourse
    config, training : CellMNNConfig, TrainingConfig
        With more dimensions than the time course has, `config.dataset_dims` says how many are
        real; the others are padding.
    seed : int
        Of the weights and of the cells drawn. The global random state is left alone.
    folder : Path, optional
        Where the state is saved every `training.save_every` steps. After an interruption the same
        call goes on from the last one, bit for bit.
    validate : callable, optional
        Looked at in place of the training loss to stop early; lower is better.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        If `folder` holds the state of a run with other settings or data.
    """
    accelerator = Accelerator()
    device = accelerator.device
    time_scale = TimeScale(0.0, 1.0) if training.raw_times else course.time_scale
    times = torch.as_tensor(time_scale.to_model(course.times), dtype=torch.float32, device=device)
    snapshots = [torch.as_tensor(snapshot, device=device) for snapshot in course.snapshots]
    model = _new_model(course, config, seed).to(device)
    if config.frame:
        weights = _descendants(course, config, training, seed) if config.growth else None
        frame = fit_frame(snapshots, times, weights, latent_dim=config.latent_dim)
        model.set_frame_state(frame)
    padding = config.latent_dim - course.latent_dim
    snapshots = [torch.nn.functional.pad(snapshot, (0, padding)) for snapshot in snapshots]
    if config.growth:
        # what is known of its growth goes with each cell, in a last column
        known = _known_log_growth(course, time_scale)
        snapshots = [
            torch.cat([snapshot, rate.to(snapshot)], dim=-1)
            for snapshot, rate in zip(snapshots, known, strict=True)
        ]

    # forward in time only, nothing starts from the last snapshot
    num_sources = len(times) if training.both_directions else len(times) - 1
    pairs = pair_weights(len(times), training.gamma, both_directions=training.both_directions)
    pairs = pairs[:num_sources].to(device)
    drawn = (
        _drawn(snapshots[:num_sources], training.source_cells),
        _drawn(snapshots, training.target_cells),
    )
    decoded_times = _decoded_times(times, training)

    def losses_of(wrapped: nn.Module, counter: int) -> dict[str, Tensor]:
        # cells are a function of (seed, slot) alone, so that a resumed run draws the same
        slot = counter * accelerator.num_processes + accelerator.process_index
        rng = np.random.default_rng((seed, slot))
        source = _draw(snapshots, training.source_cells, rng)[:num_sources]
        target = _draw(snapshots, training.target_cells, rng)
        if config.growth:
            known_rates = source[..., -1]
            source, target = source[..., :-1], target[..., :-1]
        with accelerator.autocast():
            output = wrapped(source, times[:num_sources], decoded_times)
        losses = _losses(output, target, pairs, drawn, training, course.latent_dim)
        if config.growth:
            gap = times - times[:num_sources, None]
            expected = known_rates[:, None] * gap[..., None]  # log growth (sources, times, cells)
            losses["growth"] = _growth_penalty(output, expected, training)
        return losses

    digest = sha256(course.times.tobytes())
    for snapshot in [*course.snapshots, *(course.growth or ())]:
        digest.update(snapshot.tobytes())
    run = [config.to_dict(), asdict(training), seed, accelerator.num_processes, digest.hexdigest()]
    found = optimise(
        accelerator,
        model,
        training,
        losses_of,
        run,
        folder=folder,
        validate=validate and (lambda model: {"held_out": validate(model, time_scale)}),
        progress=progress,
    )
    return TrainedModel(**vars(found), time_scale=time_scale)


def _new_model(course: TimeCourse, config: CellMNNConfig, seed: int) -> CellMNNModel:
    dims = [config.latent_dim] if config.dataset_dims is None else config.dataset_dims
    if dims != [course.latent_dim]:
        raise InputError(
            "dataset_dims",
            f"[{course.latent_dim}], the dimensions of the time course",
            dims,
            "set them in the configuration; those up to latent_dim are padding",
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CellMNNModel(config)
    if config.num_genes and course.subspace is not None:
        model.set_subspace(**vars(course.subspace.padded(config.latent_dim)))
    return model.train()


def _draw(snapshots: list[Tensor], wanted: int, rng: np.random.Generator) -> Tensor:
    """`wanted` cells of every snapshot, none of them twice; a small one is filled up (`_drawn`)."""
    cells = []
    for snapshot in snapshots:
        drawn = rng.choice(len(snapshot), min(wanted, len(snapshot)), replace=False, shuffle=False)
        index = torch.from_numpy(np.resize(drawn, wanted))
        cells.append(snapshot[index.to(snapshot.device)])
    return torch.stack(cells)


def _drawn(snapshots: list[Tensor], wanted: int) -> Tensor:
    """Weight 1 for cells that were drawn, 0 for copies that fill up a snapshot of fewer cells.

    Copies that counted would be pairs at distance 0, and shrink the spread that is matched.
    """
    sizes = torch.tensor([[len(snapshot)] for snapshot in snapshots])
    return (torch.arange(wanted) < sizes).to(snapshots[0])


def _decoded_times(times: Tensor, training: TrainingConfig) -> Tensor:
    """The observed times, followed by the grid for the kinetic energy where there is one."""
    if training.kinetic_grid is None:
        return times
    return torch.cat(
        [times, torch.arange(float(times[0]), float(times[-1]), training.kinetic_grid).to(times)]
    )


def _losses(
    output: CellMNNOutput,
    target: Tensor,
    pairs: Tensor,
    drawn: tuple[Tensor, Tensor],
    training: TrainingConfig,
    num_dims: int,
) -> dict[str, Tensor]:
    """Parts of the loss, each with its weight, for source snapshots pushed to all times.

    Of the dimensions `num_dims` are real, the others padding.
    """
    num_times = len(target)
    assert output.states is not None
    assert output.learned_velocity is not None
    assert output.determinant is not None
    distance = (
        energy_distance if training.distance == "energy" else partial(mmd2, num_dims=num_dims)
    )
    source_drawn, target_drawn = drawn[0][:, None], drawn[1]
    growth = None if output.log_growth is None else output.log_growth[:, :num_times]
    source_weights = source_drawn if growth is None else source_drawn * growth.exp()
    distances = distance(output.states[:, :num_times], target, source_weights, target_drawn)
    # in a frame only what is learned is penalised: else training works against the frame
    velocity = output.learned_velocity
    if training.kinetic_grid is not None:
        velocity = velocity[:, num_times:]
    kinetic = kinetic_energy(velocity, source_drawn, num_dims=num_dims)
    return {
        "distance": (pairs * distances).sum(),
        "kinetic": training.kinetic_weight * kinetic,
        "invertibility": training.invertibility_weight * invertibility_penalty(output.determinant),
    }


def _growth_penalty(output: CellMNNOutput, expected: Tensor, training: TrainingConfig) -> Tensor:
    """On log growth, as far as it is not what is known of it."""
    assert output.log_growth is not None
    found = output.log_growth[:, : expected.shape[1]]
    if training.growth_prior == "scores":
        # scores say in which direction; how steep it is, their regression does
        slope = (found * expected).sum() / expected.square().sum().clamp_min(1e-12)
        expected = slope.detach().clamp_min(0) * expected
    return training.growth_weight * (found - expected).square().mean()


def _known_log_growth(course: TimeCourse, time_scale: TimeScale) -> list[Tensor]:
    """What is known of how fast cells multiply, per unit of model time, (cells, 1) each."""
    if course.growth is None:
        return [torch.zeros(len(snapshot), 1) for snapshot in course.snapshots]
    return [torch.from_numpy(known)[:, None] * time_scale.unit for known in course.growth]


def _descendants(
    course: TimeCourse, config: CellMNNConfig, training: TrainingConfig, seed: int
) -> list[Tensor]:
    """How many descendants each cell has at the last time, (cells,) for each snapshot.

    Weighted by them, snapshots are those of a process that neither makes nor loses cells, which is
    what a frame describes. From a first fit without a frame.
    """
    frameless = config.replaced(frame=False, num_frame_times=0, mean_head=False)
    found = train(course, frameless, training, seed=seed)
    log_growth = log_descendants(found.model, course, found.time_scale)
    device = found.model.device
    return [torch.as_tensor(as_shares(one), dtype=torch.float32).to(device) for one in log_growth]
